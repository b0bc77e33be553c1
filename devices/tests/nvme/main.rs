//! An NVMe controller, driven by a driver that shares nothing with it, over simulated files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod admin;
mod arbitration;
mod background;
mod coalescing;
mod doorbells;
mod errors;
mod firmware;
mod format;
mod fused;
mod interrupts;
mod io;
mod lifecycle;
mod management;
mod media;
mod namespaces;
mod queues;
mod registers;
mod reservations;
mod soak;
mod threads;
mod transfers;

use std::{rc::Rc, sync::Arc};

use spindle_block::{Root, file::File};
use spindle_devices::{
    nvme::NvmeConfig,
    testkit::{Machine, NvmeDisk, driver::nvme::NvmeDriver},
};

/// A machine with a controller and one namespace.
pub struct Setup {
    /// The machine.
    pub machine: Rc<Machine>,
    /// The controller.
    pub disk: NvmeDisk,
    /// The namespace's data.
    pub root: Arc<Root>,
    /// The file below.
    pub file: Arc<File>,
}

/// A machine with a controller and a namespace of `size` bytes, addresses assigned.
pub fn machine(size: u64, configure: impl FnOnce(&mut NvmeConfig)) -> Setup {
    seeded(fastrand::u64(..), size, configure)
}

/// The same, with this seed.
pub fn seeded(seed: u64, size: u64, configure: impl FnOnce(&mut NvmeConfig)) -> Setup {
    let machine = Machine::new(seed);
    let (root, file) = machine.add_root("disk", size);
    let disk = machine.add_nvme("nvme0", &[Arc::clone(&root)], configure);
    machine.assign();
    Setup { machine: Rc::new(machine), disk, root, file }
}

/// The same, brought up with MSI-X and one pair of I/O queues of 16 entries.
pub fn driver(size: u64, configure: impl FnOnce(&mut NvmeConfig)) -> (NvmeDriver, Setup) {
    let setup = machine(size, configure);
    let driver = NvmeDriver::new(&setup.machine, setup.disk.at, 1, 16);
    (driver, setup)
}

/// `len` bytes that differ from their neighbours.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

/// A little-endian number in a data structure.
pub fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
