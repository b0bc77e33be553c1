//! What a PC has beside its buses: serial port, clock, power management, ways to reset.
//!
//! Each of these is a few registers. Where they lie is the machine's choice; offsets count from the
//! start of the device's window.

pub mod acpi_pm;
pub mod debug_console;
pub mod debug_exit;
pub mod fw_cfg;
pub mod i8042;
pub mod pci_hotplug;
pub mod pvpanic;
pub mod reset_control;
pub mod rtc;
pub mod serial;
#[cfg(test)]
pub(crate) mod testing;

pub use acpi_pm::AcpiPm;
pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use fw_cfg::FwCfg;
pub use i8042::I8042;
pub use pci_hotplug::{EjectSink, PciHotplug};
pub use pvpanic::Pvpanic;
pub use reset_control::ResetControl;
pub use rtc::Rtc;
pub use serial::SerialPort;
