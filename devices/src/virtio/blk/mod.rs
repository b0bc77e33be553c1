//! virtio-blk: a disk (virtio 1.2, 5.2).

pub mod cmd;
pub mod config;
mod device;
mod queue;
mod regs;
mod sg;
pub mod spec;
pub mod status;

#[cfg(test)]
mod tests;

pub use crate::policy::{BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation};
pub use config::{Geometry, VirtioBlkConfig};
pub use device::VirtioBlk;
