//! Virtio devices, driven by a driver that shares nothing with them, over simulated files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod abuse;
mod config;
mod errors;
mod independent;
mod interrupts;
mod lifecycle;
mod requests;
mod rng;
mod soak;
mod threads;
mod transport;

use std::rc::Rc;

use spindle_devices::testkit::{Disk, Machine, driver::BlkDriver};

/// VIRTIO_F_INDIRECT_DESC.
pub const INDIRECT: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_RING_RESET.
pub const RING_RESET: u64 = 1 << 40;
/// Whatever is offered.
pub const ALL: u64 = u64::MAX;

/// A machine with one disk of `size` bytes, addresses assigned.
pub fn machine(
    size: u64,
    configure: impl FnOnce(&mut spindle_devices::virtio::VirtioBlkConfig),
) -> (Rc<Machine>, Disk) {
    let machine = Machine::new(fastrand::u64(..));
    let disk = machine.add_disk("disk0", size, configure);
    machine.assign();
    (Rc::new(machine), disk)
}

/// The same, brought up with all features and one queue of 16 entries.
pub fn driver(
    size: u64,
    configure: impl FnOnce(&mut spindle_devices::virtio::VirtioBlkConfig),
) -> (BlkDriver, Disk) {
    let (machine, disk) = machine(size, configure);
    let driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
    (driver, disk)
}

/// `len` bytes that differ from their neighbours.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}
