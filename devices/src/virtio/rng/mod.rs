//! virtio-rng: a source of random numbers (virtio 1.2, 5.4).

mod queue;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use spindle_block::iothread::{Handle, Queue};

use super::{
    QueueEnv, QueuePlan, RingError, VirtioDevice,
    pci::VirtioPci,
    spec::feature::{RING_EVENT_IDX, RING_INDIRECT_DESC, RING_RESET},
};
use crate::{
    Access, Dma,
    pci::{Endpoint, EndpointError, Slot},
};
use queue::{Quota, RngQueue};

/// Device type (5.4.1).
const DEVICE_TYPE: u16 = 4;
/// PCI class code: others.
const CLASS: u32 = 0x00_ff_00;
/// Entries of the one queue.
const QUEUE_SIZE: u16 = 64;

/// A virtio source of random numbers.
#[derive(Clone)]
pub struct VirtioRngConfig {
    /// The device's id.
    pub id: String,
    /// Who serves it.
    pub iothread: Handle,
    /// Bytes the guest may have in each period.
    pub max_bytes: u64,
    /// The period.
    pub period: Duration,
    /// Offer VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// Offer VIRTIO_F_INDIRECT_DESC.
    pub indirect_desc: bool,
    /// Offer VIRTIO_F_RING_RESET.
    pub queue_reset: bool,
    /// MSI-X vectors; `None`: two.
    pub vectors: Option<u16>,
}

struct Rng {
    /// Survives resets, so that a guest gains nothing by them.
    quota: Arc<Mutex<Quota>>,
    ring_features: u64,
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        0
    }

    fn ring_features(&self) -> u64 {
        self.ring_features
    }

    fn accepts(&self, _features: u64) -> bool {
        true
    }

    fn started(&self, _features: u64) {}

    fn config_read(&self, _access: Access) -> u64 {
        0
    }

    fn config_write(&self, _access: Access, _value: u64, _features: u64) {}

    fn config_len(&self) -> u32 {
        0
    }

    fn queue(&self, env: QueueEnv) -> Result<Box<dyn Queue>, RingError> {
        Ok(Box::new(RngQueue::new(env, Arc::clone(&self.quota))?))
    }

    fn reset(&self) {}
}

/// A virtio source of random numbers on PCI.
pub struct VirtioRng {
    function: Arc<Endpoint>,
}

impl VirtioRng {
    /// Builds the device.
    ///
    /// # Errors
    /// When the machine has no interrupt vectors or descriptors left.
    pub fn new(config: VirtioRngConfig, dma: Dma, slot: Slot) -> Result<Self, EndpointError> {
        let quota = Arc::new(Mutex::new(Quota::new(config.max_bytes, config.period)));
        let plan = QueuePlan { size_max: QUEUE_SIZE, iothread: config.iothread };
        let if_set = |on: bool, bits| if on { bits } else { 0 };
        let ring_features = if_set(config.event_idx, RING_EVENT_IDX)
            | if_set(config.indirect_desc, RING_INDIRECT_DESC)
            | if_set(config.queue_reset, RING_RESET);
        let device = Arc::new(Rng { quota, ring_features });
        let (_, function) =
            VirtioPci::build(&config.id, device, &[plan], config.vectors, dma, slot)?;
        Ok(Self { function })
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }
}
