//! The disk as a device: configuration above, queue halves below.

use std::sync::Arc;

use spindle_block::{Root, iothread::Queue};

use super::{
    VirtioBlkConfig,
    cmd::Limits,
    queue::BlkQueue,
    regs::{self, ConfigSpace},
    spec,
};
use crate::{
    Access, Dma,
    pci::{Endpoint, EndpointError, Slot},
    policy::BlockEvents,
    virtio::{
        QueueEnv, QueuePlan, RingError, VirtioDevice,
        pci::VirtioPci,
        spec::feature::{RING_EVENT_IDX, RING_INDIRECT_DESC, RING_RESET},
    },
};

/// PCI class code: mass storage, SCSI.
const CLASS: u32 = 0x01_00_00;

struct Blk {
    space: ConfigSpace,
    events: Arc<dyn BlockEvents>,
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u16 {
        spec::DEVICE_TYPE
    }

    fn class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        self.space.features()
    }

    fn ring_features(&self) -> u64 {
        let config = self.space.config();
        let if_set = |on: bool, bits| if on { bits } else { 0 };
        if_set(config.event_idx, RING_EVENT_IDX)
            | if_set(config.indirect_desc, RING_INDIRECT_DESC)
            | if_set(config.queue_reset, RING_RESET)
    }

    fn accepts(&self, _features: u64) -> bool {
        true
    }

    fn started(&self, features: u64) {
        self.space.started(features);
    }

    fn config_read(&self, access: Access) -> u64 {
        self.space.read(access)
    }

    fn config_write(&self, access: Access, value: u64, features: u64) {
        self.space.write(access, value, features);
    }

    fn config_len(&self) -> u32 {
        regs::LEN
    }

    fn queue(&self, env: QueueEnv) -> Result<Box<dyn Queue>, RingError> {
        let config = self.space.config();
        let limits = Limits {
            features: env.features,
            block_size: self.space.block_size().into(),
            max_discard_sectors: config.max_discard_sectors,
            max_write_zeroes_sectors: config.max_write_zeroes_sectors,
        };
        let root = self.space.root().handle();
        Ok(Box::new(BlkQueue::new(env, root, limits, config, Arc::clone(&self.events))?))
    }

    fn reset(&self) {
        self.space.reset();
    }
}

/// A virtio disk on PCI.
#[derive(Clone)]
pub struct VirtioBlk {
    device: Arc<Blk>,
    transport: Arc<VirtioPci>,
    function: Arc<Endpoint>,
}

impl VirtioBlk {
    /// Builds a disk over `root`. `events` hears of failed requests.
    ///
    /// # Errors
    /// When the machine has no interrupt vectors or descriptors left.
    pub fn new(
        config: VirtioBlkConfig,
        root: Arc<Root>,
        dma: Dma,
        slot: Slot,
        events: Arc<dyn BlockEvents>,
    ) -> Result<Self, EndpointError> {
        let plan = |iothread: &_| QueuePlan {
            size_max: config.queue_size,
            iothread: Clone::clone(iothread),
        };
        let queues: Vec<_> = config.iothreads.iter().map(plan).collect();
        let (id, vectors) = (config.id.clone(), config.vectors);
        let device = Arc::new(Blk { space: ConfigSpace::new(config, root), events });
        let shared = Arc::clone(&device) as Arc<dyn VirtioDevice>;
        let (transport, function) = VirtioPci::build(&id, shared, &queues, vectors, dma, slot)?;
        Ok(Self { device, transport, function })
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }

    /// The disk's size has changed: tells the driver, with a configuration change interrupt. Call it
    /// after [`Root::changed`].
    pub fn resized(&self) {
        self.transport.change_config(|| self.device.space.resized());
    }
}
