//! A virtio driver for tests. It shares no code and no constants with the devices: what it knows is
//! written down here a second time, from virtio 1.2.

mod blk;
mod function;
mod ring;
mod scsi;

pub use blk::{BlkDriver, Reply, Ticket};
pub use function::{Function, Place};
pub use ring::{Descriptor, DriverRing, INDIRECT, NEXT, WRITE};
pub use scsi::{ScsiDriver, ScsiEvent, ScsiReply, ScsiTicket};
