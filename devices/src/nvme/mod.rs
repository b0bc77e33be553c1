//! An NVM Express controller on PCI: NVM Express Base Specification 2.0, NVM Command Set
//! Specification 1.0, PCIe Transport Specification 1.0.
//!
//! The register half ([`Nvme`], [`regs`]) runs on vCPU threads. Each completion queue, with all
//! submission queues that post to it, is a queue half of its own on an iothread (`io`); so is the
//! admin queue (`admin`). Between them are doorbell words outside any lock (`doors`), an eventfd
//! for each completion queue, and mail for the rare rest. Namespaces belong to a [`Subsystem`] that
//! several controllers may share.

mod admin;
mod attachment;
mod background;
pub mod cmd;
pub mod config;
mod controller;
mod device;
mod doors;
mod events;
mod exclusive;
mod health;
mod io;
pub(crate) mod marks;
mod namespace;
mod oneshot;
mod pci;
pub mod pool;
pub mod regs;
pub mod reservation;
mod rings;
pub mod sg;
pub mod spec;
pub mod status;
mod subsystem;

#[cfg(test)]
mod tests;

pub use config::{NvmeConfig, NvmeError, NvmeNamespaceConfig, SizeHints};
pub use device::Nvme;
pub use namespace::{Identifiers, Namespace};
pub use pool::{Capacity, NamespacePool, PoolDisk, PoolError};
pub use subsystem::{AttachError, Subsystem};
