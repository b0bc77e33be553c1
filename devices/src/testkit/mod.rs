//! A machine without KVM, for tests of controllers and of drivers.
//!
//! Guest memory is on the heap, interrupts are counted, the clock steps, and everything happens on
//! one thread: the test is the guest's CPU, and lets the iothreads run when it wants. Windows and
//! doorbells are honoured as a machine would: a doorbell write signals its eventfd and never reaches
//! the register half.
//!
//! ```
//! use spindle_devices::testkit::Machine;
//!
//! let machine = Machine::new(7);
//! let disk = machine.add_disk("disk0", 1 << 20, |config| config.serial = "abc".into());
//! machine.assign();
//! assert_eq!(machine.pci_read(disk.at, 0, 4), 0x1042_1af4);
//! ```
//!
//! [`driver`] has virtio and NVMe drivers that share neither code nor constants with the devices.

mod bus;
pub mod driver;
mod irq;
pub mod load;
mod log;
mod machine;
mod memory;

pub use bus::Bus;
pub use irq::{Irqs, Wire};
pub use log::{Event, Log};
pub use machine::{Disk, Errors, Machine, NvmeDisk, ScsiAdapter};
pub use memory::Memory;
