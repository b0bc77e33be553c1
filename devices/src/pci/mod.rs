//! PCI: configuration space, BARs, interrupts, and the bus that functions sit on.
//!
//! Sources: PCI Local Bus Specification 3.0 (PCI), PCI Express Base Specification 5.0 (PCIe).
//!
//! A controller implements [`Controller`] and is wrapped in an [`Endpoint`], which answers for its
//! configuration space, declares its windows and owns its [`Interrupts`]. The machine puts the
//! endpoint on a [`PciBus`] and reaches configuration space through [`ConfigPorts`] and [`Ecam`].

pub mod access;
pub mod assign;
pub mod bus;
pub mod capability;
pub mod config;
pub mod endpoint;
pub mod host;
pub mod interrupts;
pub mod msix;

#[cfg(test)]
mod tests;

pub use access::{ConfigPorts, Ecam};
pub use assign::{AssignError, BarWindows};
pub use bus::{BusError, PciBus, PciFunction};
pub use capability::Capability;
pub use config::Identity;
pub use endpoint::{
    Bar, BarDoorbell, BarKind, BarRegion, Controller, Endpoint, EndpointError, Legacy,
    LegacyWindows, MsixPlace, Parts, Slot,
};
pub use host::HostBridge;
pub use interrupts::{Interrupts, MsiRegisters};

/// A place on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// 0 to 31.
    pub slot: u8,
    /// 0 to 7.
    pub function: u8,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}.{:x}", self.slot, self.function)
    }
}
