//! What drives keep, as a host sees it through the ports of an IDE channel.
#![expect(clippy::unwrap_used, reason = "tests")]

mod address;
mod logs;
mod marks;
mod microcode;
mod power;
mod sanitize;
mod security;
mod smart;

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    Root,
    nodes::{fault::FaultNode, file::FileNode},
    root::Policy,
};
use spindle_devices::{
    ata::{DriveConfig, Transport},
    ide::Model,
    state_file::{DiskState, MemoryStore},
    testkit::{
        Machine,
        driver::ide::{IdeCommand, IdeDriver, IdeEnd},
    },
};

/// A machine with one disk whose state is in `store`.
pub struct Host {
    /// The driver of its channel.
    pub driver: IdeDriver,
    /// What its data go through.
    pub fault: Arc<FaultNode>,
    /// Where the controller is.
    pub at: spindle_devices::pci::Address,
}

/// Bytes of the disk.
pub const SIZE: u64 = 8 << 20;

/// A machine whose disk has this state: another one with the same is the same disk after a power
/// loss, but for its data.
pub fn host(store: &Arc<MemoryStore>) -> Host {
    let machine = Machine::new(fastrand::u64(..));
    let ide = machine.add_ide("ide", Model::Piix3);
    let file = machine.world.create_file("disk", &[], SIZE);
    let fault = FaultNode::new(FileNode::over(file, SIZE, 512, false));
    let root = Root::new("disk-node", fault.clone(), Policy::default());
    let state = DiskState::open(Arc::clone(store) as _).unwrap();
    let config = DriveConfig {
        state: Some(state),
        ..DriveConfig::new("disk", Transport::Parallel { udma: None })
    };
    ide.device.add_disk(0, 0, config, &root).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    machine.run();
    let driver = IdeDriver::new(&machine, ide.at, 0);
    driver.select();
    Host { driver, fault, at: ide.at }
}

impl Host {
    /// A command without data and address.
    pub fn plain(&self, command: u8) -> IdeEnd {
        self.driver.plain(&IdeCommand { command, ..IdeCommand::default() })
    }

    /// A word of the IDENTIFY DEVICE data.
    pub fn identify(&self, word: usize) -> u16 {
        let identify = IdeCommand { command: 0xec, ..IdeCommand::default() };
        let (end, data) = self.driver.pio_in(&identify, 512, 512);
        assert!(end.is_good());
        u16::from_le_bytes([data[word * 2], data[word * 2 + 1]])
    }

    /// What the address registers hold: 28 bits.
    pub fn lba28(&self) -> u32 {
        let byte = |register| u32::from(self.driver.read(register));
        byte(3) | byte(4) << 8 | byte(5) << 16 | (byte(6) & 0xf) << 24
    }

    /// What the address registers hold: 48 bits.
    pub fn lba48(&self) -> u64 {
        let low = u64::from(self.lba28() & 0xff_ffff);
        self.driver.set_control(0x80);
        let high = u64::from(self.lba28() & 0xff_ffff);
        self.driver.set_control(0);
        high << 24 | low
    }

    /// COUNT, 16 bits.
    pub fn count(&self) -> u16 {
        let low = self.driver.read(2);
        self.driver.set_control(0x80);
        let high = self.driver.read(2);
        self.driver.set_control(0);
        u16::from_le_bytes([low, high])
    }

    /// Turns the machine off and on, as far as the controller sees it.
    pub fn power_cycle(&self) {
        self.driver.machine.reset(self.at);
        self.driver.machine.assign();
        self.driver.machine.pci_write(self.at, 4, 2, 5);
        self.driver.select();
    }
}

/// An end with ABORT.
pub fn is_aborted(end: IdeEnd) -> bool {
    end.status & 0x89 == 1 && end.error == 4
}

/// The sum of all bytes.
pub fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
