//! An IDE controller, driven by a driver that shares nothing with it, over simulated files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod dma;
mod errors;
mod interrupts;
mod lifecycle;
mod packet;
mod pio;
mod probing;
mod registers;
mod resets;

use std::{rc::Rc, sync::Arc};

use spindle_block::{Root, file::File};
use spindle_devices::{
    ata::{DriveConfig, Transport},
    ide::Model,
    testkit::{IdeController, Machine, driver::ide::IdeDriver},
};

/// A machine with a controller and drives on its cables.
pub struct Setup {
    /// The machine.
    pub machine: Rc<Machine>,
    /// The controller.
    pub ide: IdeController,
    /// What the disks' data are in, in the order of their places.
    pub disks: Vec<(Arc<Root>, Arc<File>)>,
}

/// A disk's configuration.
pub fn disk_config(id: &str) -> DriveConfig {
    DriveConfig::new(id, Transport::Parallel { udma: None })
}

/// A machine with disks of `size` bytes at these places: channel and unit.
pub fn machine_at(size: u64, places: &[(u8, u8)]) -> Setup {
    machine_with(size, places, |_| ())
}

/// The same, changed by `configure`.
pub fn machine_with(size: u64, places: &[(u8, u8)], configure: impl Fn(&mut DriveConfig)) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let ide = machine.add_ide("ide", Model::Piix3);
    let mut disks = Vec::new();
    for (channel, unit) in places {
        let id = format!("disk{channel}{unit}");
        let (root, file) = machine.add_root(&id, size);
        let mut config = disk_config(&id);
        configure(&mut config);
        ide.device.add_disk(*channel, *unit, config, &root).unwrap();
        disks.push((root, file));
    }
    machine.assign();
    let machine = Rc::new(machine);
    machine.run();
    Setup { machine, ide, disks }
}

/// A machine with one disk, and a driver for its channel.
pub fn one_disk(size: u64) -> (IdeDriver, Setup) {
    let setup = machine_at(size, &[(0, 0)]);
    let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    driver.select();
    (driver, setup)
}

/// `len` bytes that differ from their neighbours.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}
