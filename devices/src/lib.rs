//! Storage controllers and the buses they sit on.
//!
//! Every controller is split in two. Its **register half** ([`Registers`]) runs on vCPU threads,
//! several at once, and only changes small state. Its **queue half**
//! ([`Queue`](spindle_block::iothread::Queue)) has exactly one owner, an iothread, and touches guest
//! memory. Between them are an atomic doorbell with an eventfd, and messages for the rare rest.
//!
//! This crate knows nothing of KVM, of threads being made, or of a command line. What it needs from
//! its machine are the traits in [`machine`]: interrupts by meaning, and somebody who maps its
//! windows. The same halves run under a guest, under a register-level test protocol and in a plain
//! `#[test]`.

pub mod ahci;
pub mod ata;
pub mod device;
pub mod dma;
pub mod doorbell;
pub mod firmware;
pub mod ide;
pub mod machine;
pub mod nvme;
pub mod pci;
pub mod platform;
pub mod policy;
pub mod queue_link;
pub mod register;
pub mod scsi;
pub mod sd;
pub mod sdhci;
pub mod state_file;
pub mod testkit;
pub mod virtio;

pub use device::Device;
pub use dma::{Dma, GuestRam};
pub use machine::{
    Access, Doorbell, LineIrq, MsiIrq, MsiMessage, MsiSource, PowerRequest, PowerSink, Registers,
    Space, Window, WindowSink, Windows,
};
