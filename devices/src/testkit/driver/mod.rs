//! Drivers for tests. They share no code and no constants with the devices: what they know is
//! written down here a second time, from virtio 1.2 and NVM Express 2.0.

mod blk;
mod function;
pub mod ide;
pub mod nvme;
mod ring;
mod scsi;

pub use blk::{BlkDriver, Reply, Ticket};
pub use function::{Function, Place};
pub use ring::{Descriptor, DriverRing, INDIRECT, NEXT, WRITE};
pub use scsi::{ScsiDriver, ScsiEvent, ScsiReply, ScsiTicket};
