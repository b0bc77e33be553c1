//! The adapter as a device: configuration above, queue halves below.

use std::sync::Arc;

use spindle_block::iothread::Queue;

use super::{
    VirtioScsiConfig,
    control::ControlQueue,
    events::EventQueue,
    hba::{Hba, LunError},
    regs::{self, ConfigSpace},
    request::RequestQueue,
    spec::{self, CONTROL_QUEUE, EVENT_QUEUE, REQUEST_QUEUE, feature},
};
use crate::{
    Access, Dma,
    device::{Countdown, Done},
    pci::{Endpoint, EndpointError, Slot},
    policy::BlockEvents,
    scsi::LogicalUnit,
    virtio::{
        QueueEnv, QueuePlan, RingError, VirtioDevice,
        pci::VirtioPci,
        spec::feature::{RING_EVENT_IDX, RING_INDIRECT_DESC, RING_RESET},
    },
};

/// PCI class code: mass storage, SCSI.
const CLASS: u32 = 0x01_00_00;

struct Scsi {
    hba: Arc<Hba>,
    config: VirtioScsiConfig,
}

impl VirtioDevice for Scsi {
    fn device_type(&self) -> u16 {
        spec::DEVICE_TYPE
    }

    fn class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        let if_set = |on: bool, bits| if on { bits } else { 0 };
        if_set(self.config.hotplug, feature::HOTPLUG)
            | if_set(self.config.param_change, feature::CHANGE)
    }

    fn ring_features(&self) -> u64 {
        let if_set = |on: bool, bits| if on { bits } else { 0 };
        if_set(self.config.event_idx, RING_EVENT_IDX)
            | if_set(self.config.indirect_desc, RING_INDIRECT_DESC)
            | if_set(self.config.queue_reset, RING_RESET)
    }

    fn accepts(&self, _features: u64) -> bool {
        true
    }

    fn started(&self, features: u64) {
        self.hba.started(features);
    }

    fn config_read(&self, access: Access) -> u64 {
        self.hba.space.read(access)
    }

    fn config_write(&self, access: Access, value: u64, _features: u64) {
        self.hba.space.write(access, value);
    }

    fn config_len(&self) -> u32 {
        regs::LEN
    }

    fn queue(&self, env: QueueEnv) -> Result<Box<dyn Queue>, RingError> {
        match usize::from(env.index()) {
            CONTROL_QUEUE => Ok(Box::new(ControlQueue::new(env, &self.hba)?)),
            EVENT_QUEUE => Ok(Box::new(EventQueue::new(env, &self.hba)?)),
            queue => Ok(Box::new(RequestQueue::new(env, &self.hba, queue - REQUEST_QUEUE)?)),
        }
    }

    fn reset(&self) {
        self.hba.reset();
    }
}

/// A virtio host bus adapter on PCI.
#[derive(Clone)]
pub struct VirtioScsi {
    device: Arc<Scsi>,
    function: Arc<Endpoint>,
}

impl VirtioScsi {
    /// Builds an adapter without units. `events` hears of failed requests.
    ///
    /// # Errors
    /// When the machine has no interrupt vectors or descriptors left.
    pub fn new(
        config: VirtioScsiConfig,
        dma: Dma,
        slot: Slot,
        events: Arc<dyn BlockEvents>,
    ) -> Result<Self, EndpointError> {
        let plan = |iothread: &_| QueuePlan {
            size_max: config.queue_size,
            iothread: Clone::clone(iothread),
        };
        // Control and events share the iothread of the first request queue.
        let first = config.iothreads.iter().take(1);
        let queues: Vec<_> =
            first.clone().chain(first).chain(&config.iothreads).map(plan).collect();
        let (id, vectors) = (config.id.clone(), config.vectors);
        let space = ConfigSpace::new(&config);
        let hba = Hba::new(&id, space, config.iothreads.len(), events);
        let device = Arc::new(Scsi { hba, config });
        let shared = Arc::clone(&device) as Arc<dyn VirtioDevice>;
        let (_, function) = VirtioPci::build(&id, shared, &queues, vectors, dma, slot)?;
        Ok(Self { device, function })
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }

    /// Puts a unit behind the adapter: at once if the machine is not running, as a hot-plug
    /// otherwise. A unit may be behind several adapters.
    ///
    /// # Errors
    /// When the address is in use or too large.
    pub fn add_lun(&self, target: u8, lun: u16, unit: Arc<LogicalUnit>) -> Result<(), LunError> {
        self.device.hba.add(target, lun, unit)
    }

    /// Takes a unit away. `done` is called, from any thread, once none of its requests is in flight
    /// and no queue holds it.
    ///
    /// # Errors
    /// When there is none; `done` is called all the same.
    pub fn remove_lun(&self, target: u8, lun: u16, done: Done) -> Result<(), LunError> {
        self.device.hba.remove(target, lun, &Countdown::new(done))
    }

    /// The units behind the adapter: target, number, unit.
    #[must_use]
    pub fn luns(&self) -> Vec<(u8, u16, Arc<LogicalUnit>)> {
        let seats = self.device.hba.seats();
        seats.values().map(|seat| (seat.target, seat.lun, Arc::clone(&seat.unit))).collect()
    }
}
