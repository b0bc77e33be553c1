//! What a guest needs to start: the memory map, the kernel with its initrd and command line, ACPI
//! tables, and the state of the boot CPU. Everything is plain data; nothing here knows KVM or devices.
//!
//! ```no_run
//! use spindle_boot::{AcpiConfig, BootConfig, BootImage, BootProtocol, MemoryMap, RamState};
//! use vm_memory::GuestMemoryMmap;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let map = MemoryMap::new(1 << 30, 40)?;
//! let memory = GuestMemoryMmap::<()>::from_ranges(&map.ram_regions())?;
//! let image = BootImage::open(&BootConfig {
//!     kernel: "vmlinuz".into(),
//!     initrd: None,
//!     command_line: "console=ttyS0".into(),
//!     protocol: BootProtocol::Auto,
//!     acpi: AcpiConfig::new(2),
//! })?;
//! let start = image.place(&memory, &map, RamState::Fresh)?;
//! // … copy `start` into the boot CPU and run; after a reset:
//! let start = image.place(&memory, &map, RamState::Used)?;
//! # Ok(()) }
//! ```

pub mod acpi;
mod command_line;
pub mod cpu_state;
mod error;
mod firmware;
mod image;
mod initrd;
pub mod irq;
mod kernel;
pub mod layout;
pub mod memory_map;
mod parameters;
pub mod ports;
mod source;

pub use acpi::AcpiConfig;
pub use cpu_state::{Entry, EntryPoint, FIRMWARE_MSRS, Protocol};
pub use error::{BootError, FileRole};
pub use firmware::Firmware;
pub use image::{BootConfig, BootImage, BootProtocol, RamState, load};
pub use irq::gsi_for;
pub use memory_map::{AddressRange, MemoryMap, MemoryMapError};

#[cfg(test)]
mod synth;
