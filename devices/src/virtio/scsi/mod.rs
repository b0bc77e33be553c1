//! virtio-scsi: a host bus adapter (virtio 1.2, 5.6).
//!
//! The adapter carries commands between rings and the units of [`crate::scsi`]. A request queue
//! looks its units up without a lock shared with other queues; what the control queue asks of them
//! (task management) goes to every request queue as a message.

mod config;
mod control;
mod device;
mod events;
mod hba;
mod inbox;
mod locals;
mod lun;
mod regs;
mod request;
mod sg;
mod slot;
pub mod spec;

pub use config::VirtioScsiConfig;
pub use device::VirtioScsi;
pub use hba::LunError;
