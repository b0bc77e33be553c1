//! AHCI 1.3.1: an ICH9 host bus adapter with 1 to 32 ports, each with 32 slots and native command
//! queuing.
//!
//! The register half is `port` (one small lock per port; PxCI and PxSACT outside it) and `hba`;
//! the queue half is one per port (`queue`), on an iothread of its own choice. A write to PxCI
//! traps, sets bits in a word, and wakes the iothread only if it sleeps. Reads and writes go from the
//! PRD table (`sg`) straight to the block layer. The command set is in `crate::ata`.
//!
//! What the driver may see first: data, then the received FIS, then PxTFD, PxSACT and PxCI, then
//! PxIS, then IS, then the interrupt.

mod ccc;
mod config;
mod device;
mod fis;
mod hba;
mod multiplier;
mod pci;
mod port;
mod queue;
mod regs;
mod sg;
mod slot;
pub mod spec;

pub use config::{AhciConfig, AhciError, Plug};
pub use device::Ahci;
pub use regs::{GLOBAL, Global, PORT, PortName};
