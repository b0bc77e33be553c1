//! The only place that talks to `/dev/kvm`: the virtual machine's file descriptors and what is set
//! through them.

pub mod coalesced;
pub mod cpuid;
mod error;
pub mod host;
pub mod irq;
pub mod line;
pub mod msi;
pub mod state;
pub mod vm;
mod windows;

pub use error::KvmError;
pub use host::{CAPABILITIES, Capability, Host};
pub use vm::Vm;
