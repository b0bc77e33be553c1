//! What ties the register half of a virtio device to its queue halves.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::SeqCst},
};

use spindle_block::iothread::Handle;

use super::{
    ring::{RingError, RingSetup},
    spec::{NO_VECTOR, isr, status},
};
use crate::{Dma, doorbell::Bell, pci::Interrupts, queue_link::QueueLink};

/// What all queues of a device and its register half share: status and interrupts.
pub struct Shared {
    id: String,
    interrupts: Arc<Interrupts>,
    status: AtomicU8,
    isr: AtomicU8,
    config_vector: AtomicU16,
    generation: AtomicU8,
    complaints: AtomicU32,
}

/// How many complaints about its driver a device writes to the log.
const COMPLAINTS_MAX: u32 = 8;

impl Shared {
    pub(super) fn new(id: &str, interrupts: Arc<Interrupts>) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            interrupts,
            status: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            generation: AtomicU8::new(0),
            complaints: AtomicU32::new(0),
        })
    }

    /// The device's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn status(&self) -> u8 {
        self.status.load(SeqCst)
    }

    pub(super) fn add_status(&self, bits: u8) {
        self.status.fetch_or(bits, SeqCst);
    }

    pub(super) fn config_vector(&self) -> &AtomicU16 {
        &self.config_vector
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(SeqCst)
    }

    /// The driver made a mistake from which only a reset helps (2.1.2).
    pub fn needs_reset(&self, queue: u16, why: RingError) {
        if self.complaints.fetch_add(1, SeqCst) < COMPLAINTS_MAX {
            log::warn!("{}: queue {queue}: {why}; the device needs a reset", self.id);
        }
        self.add_status(status::DEVICE_NEEDS_RESET);
        self.interrupt_config();
    }

    /// Counts up the configuration's generation. The caller holds the lock under which the
    /// configuration is read.
    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    /// Sends a configuration change notification, if the driver is ready for one (4.1.5.4).
    pub(super) fn interrupt_config(&self) {
        if self.status() & status::DRIVER_OK == 0 {
            return;
        }
        self.isr.fetch_or(isr::CONFIG, SeqCst);
        if self.interrupts.uses_msix() {
            self.interrupts.msix().raise(self.config_vector.load(SeqCst));
        } else {
            self.update_wire();
        }
    }

    fn interrupt_queue(&self, vector: u16) {
        if self.interrupts.uses_msix() {
            self.interrupts.msix().raise(vector);
        } else {
            self.isr.fetch_or(isr::QUEUE, SeqCst);
            self.update_wire();
        }
    }

    /// The guest reads the ISR: it is cleared, and the wire goes down (4.1.4.5).
    pub(super) fn take_isr(&self) -> u8 {
        let value = self.isr.swap(0, SeqCst);
        self.update_wire();
        value
    }

    fn update_wire(&self) {
        self.interrupts.update_wire(|| self.isr.load(SeqCst) != 0);
    }

    /// Takes all interrupts back.
    pub(super) fn quiet(&self) {
        self.isr.store(0, SeqCst);
        self.update_wire();
    }

    /// The reset is over: the driver may see it.
    pub(super) fn reset(&self) {
        self.config_vector.store(NO_VECTOR, SeqCst);
        self.status.store(0, SeqCst);
    }
}

/// One queue, as both halves see it.
pub struct Link {
    index: u16,
    place: Arc<QueueLink>,
    bell: Bell,
    vector: AtomicU16,
    shared: Arc<Shared>,
}

impl Link {
    pub(super) fn new(index: u16, handle: Handle, shared: &Arc<Shared>) -> std::io::Result<Self> {
        Ok(Self {
            index,
            place: Arc::new(QueueLink::new(handle)),
            bell: Bell::new()?,
            vector: AtomicU16::new(NO_VECTOR),
            shared: Arc::clone(shared),
        })
    }

    pub(super) fn place(&self) -> &Arc<QueueLink> {
        &self.place
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(super) fn vector(&self) -> &AtomicU16 {
        &self.vector
    }
}

/// What a queue half gets when its queue is started.
pub struct QueueEnv {
    /// The ring.
    pub setup: RingSetup,
    /// Features the driver accepted.
    pub features: u64,
    /// Guest memory.
    pub dma: Dma,
    pub(super) link: Arc<Link>,
}

impl QueueEnv {
    /// The queue's number.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.link.index
    }

    /// The device's id.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.link.shared.id
    }

    /// Tells the driver that the queue has used buffers.
    #[inline]
    pub fn interrupt(&self) {
        self.link.shared.interrupt_queue(self.link.vector.load(SeqCst));
    }

    /// The driver broke the ring.
    pub fn needs_reset(&self, why: RingError) {
        self.link.shared.needs_reset(self.link.index, why);
    }

    /// Whether the guest lets the device reach its memory.
    #[inline]
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.link.shared.interrupts.is_bus_master()
    }

    /// Whether the machine went on since the last call.
    #[inline]
    pub fn take_resumed(&self) -> bool {
        self.link.place.take_resumed()
    }

    /// Whether the machine went on since [`QueueEnv::take_resumed`].
    #[inline]
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.link.place.is_resumed()
    }

    /// The doorbell.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.link.bell
    }
}
