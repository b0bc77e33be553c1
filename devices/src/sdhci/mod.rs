//! An SD host controller on PCI.
//!
//! Sources: SD Specifications Part A2, SD Host Controller Simplified Specification 3.00 (SDHC), and
//! 1.00 and 2.00 for what these had.
//!
//! The register half (`regs`) keeps the registers and the buffer of the data port behind one small
//! lock. The queue half (`queue`) owns the card, reads descriptors and moves data: a command is a
//! copy of the registers that it depends on, left in the register half's `regs::Inbox`.

mod config;
mod device;
mod host;
mod pci;
mod queue;
mod regs;
mod sg;
pub mod spec;
mod status;

pub use config::{SdhciConfig, SdhciVersion, SlotKind};
pub use device::{CardError, Sdhci};
