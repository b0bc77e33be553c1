//! Virtio devices on PCI: Virtual I/O Device (VIRTIO) Version 1.2, the modern interface.
//!
//! [`pci`] is the register half of every device: negotiation, queues, notifications, resets. A
//! device adds its features, its configuration and the making of its queue halves
//! ([`VirtioDevice`]); [`ring`] is the split ring those halves serve.

pub mod blk;
pub mod link;
pub mod pci;
mod regs;
pub mod ring;
pub mod rng;
pub mod scsi;
pub mod spec;

use spindle_block::iothread::{Handle, Queue};

use crate::Access;
pub use blk::{Geometry, VirtioBlk, VirtioBlkConfig};
pub use link::QueueEnv;
pub use ring::RingError;
pub use rng::{VirtioRng, VirtioRngConfig};
pub use scsi::{VirtioScsi, VirtioScsiConfig};

/// A queue that a device has.
#[derive(Clone)]
pub struct QueuePlan {
    /// Most entries: a power of two.
    pub size_max: u16,
    /// Who serves it.
    pub iothread: Handle,
}

/// What is a device's own about a virtio device. Called on vCPU threads.
pub trait VirtioDevice: Send + Sync {
    /// Its type (virtio 1.2, 5).
    fn device_type(&self) -> u16;

    /// Its PCI class code.
    fn class(&self) -> u32;

    /// The features it offers, beside those of the transport.
    fn features(&self) -> u64;

    /// Features of the transport that it offers ([`spec::feature`]).
    fn ring_features(&self) -> u64;

    /// Whether this choice of features makes sense.
    fn accepts(&self, features: u64) -> bool;

    /// The driver is ready, with these features.
    fn started(&self, features: u64);

    /// A load from its configuration.
    fn config_read(&self, access: Access) -> u64;

    /// A store to its configuration.
    fn config_write(&self, access: Access, value: u64, features: u64);

    /// Bytes of its configuration.
    fn config_len(&self) -> u32;

    /// The queue half of a queue that the driver enabled.
    ///
    /// # Errors
    /// When the ring is unusable.
    fn queue(&self, env: QueueEnv) -> Result<Box<dyn Queue>, RingError>;

    /// As after power-on; all queue halves are gone.
    fn reset(&self);
}
