//! IDE as PC chipsets have it: Intel's PIIX3 (and PIIX4, with Ultra DMA), two channels at the legacy
//! ports with a bus master, and an ISA bridge beside them.
//!
//! A channel is a register half and a queue half. `channel` holds what the ports show: the
//! registers of both drives, the block of data that the data port moves, the bus master registers. It
//! is changed by CPUs and by the queue half, under one small lock. `queue` owns the drives
//! (`crate::ata`) and does what the ports ask for; they hand each other one piece of `work` a
//! drive at a time.
//!
//! A command is BUSY before the write of the command port returns. The data port moves a whole block
//! without waking anybody; only a complete block does. A DMA command wakes the queue half when the
//! bus master is started, not before.

mod channel;
mod device;
mod line;
mod ports;
mod prd;
mod queue;
pub mod spec;
mod timing;
mod work;

#[cfg(test)]
mod tests;

pub use device::{Ide, IdeConfig, IdeError, IdeSlot, Model, isa_bridge};
