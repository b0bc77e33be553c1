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
    /// MSI-X vectors; `None`: two.
    pub vectors: Option<u16>,
}

struct Rng {
    /// Survives resets, so that a guest gains nothing by them.
    quota: Arc<Mutex<Quota>>,
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
        RING_EVENT_IDX | RING_INDIRECT_DESC | RING_RESET
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
        let device = Arc::new(Rng { quota });
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
