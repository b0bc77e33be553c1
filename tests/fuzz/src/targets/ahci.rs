//! An AHCI controller with a disk, a CD/DVD drive and an empty port, under a driver that goes wrong:
//! registers in any order, and command lists that are right but for a bit now and then. The same with
//! a port multiplier at each port.

use std::rc::Rc;

use arbitrary::{Result, Unstructured};
use spindle_block::{
    Root,
    nodes::null::{NullNode, NullOptions},
    root::Policy,
};
use spindle_devices::{
    ahci::Plug,
    ata::{DriveConfig, Transport},
    pci::Address,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    testkit::Machine,
};

use super::virtio::{is_bar, number};

/// Bytes of the disk.
const DISK: u64 = 1 << 20;
/// Bytes of memory for data.
const DATA: u64 = 64 << 10;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

/// Ports 0 to 2 of the controller, and memory for each.
struct Host {
    machine: Rc<Machine>,
    at: Address,
    abar: u64,
    data: u64,
    /// Ports of the multipliers, if there are any.
    multiplier: u8,
    /// Command list, received FISes and a command table for each slot of each port.
    ports: Vec<(u64, u64, u64)>,
}

/// Bytes of a command table with four PRDs.
const TABLE: u64 = 0x100;

impl Host {
    fn new(multiplier: u8) -> Self {
        let machine = Machine::new(1);
        let controller = machine.add_ahci("ahci0", 3, |config| config.multiplier = multiplier);
        let options = NullOptions { size: DISK, read_zeroes: true, ..NullOptions::default() };
        let root = |name: &str| Root::new(name, NullNode::new(options), Policy::default());
        let disk = Plug::Disk(DriveConfig::new("disk", Transport::Serial), root("disk"));
        let unit = LogicalUnit::new(UnitConfig::new("cd", UnitKind::Cd), Some(root("cd")));
        let drive = Plug::Packet(DriveConfig::new("cd", Transport::Serial), unit);
        controller.device.plug(0, disk).expect("an empty port");
        controller.device.plug(1, drive).expect("an empty port");
        if multiplier > 1 {
            let disk = Plug::Disk(DriveConfig::new("behind", Transport::Serial), root("behind"));
            controller.device.plug_unit(0, 1, disk).expect("an empty place");
        }
        machine.assign();
        let memory = &machine.memory;
        let mut port = |_| {
            let list = memory.alloc(1024, 1024);
            (list, memory.alloc(4096, 4096), memory.alloc(32 * TABLE, 128))
        };
        let ports = (0..3).map(&mut port).collect();
        let data = memory.alloc(DATA, 4096);
        let at = controller.at;
        let mut host = Self { machine: Rc::new(machine), at, abar: 0, data, multiplier, ports };
        host.start();
        host
    }

    fn set(&self, port: usize, offset: u64, value: u64) {
        self.machine.write(self.abar + 0x100 + port as u64 * 0x80 + offset, 4, value);
    }

    fn get(&self, port: usize, offset: u64) -> u64 {
        self.machine.read(self.abar + 0x100 + port as u64 * 0x80 + offset, 4)
    }

    /// Brings all ports up.
    fn start(&mut self) {
        self.machine.pci_write(self.at, 4, 2, 7);
        self.abar = self.machine.pci_read(self.at, 0x24, 4) & !0xf;
        self.machine.write(self.abar + 4, 4, 0x8000_0002);
        for (port, (list, area, _)) in self.ports.iter().enumerate() {
            self.set(port, 0x00, *list);
            self.set(port, 0x04, 0);
            self.set(port, 0x08, *area);
            self.set(port, 0x0c, 0);
            self.set(port, 0x18, 0x10);
        }
        self.machine.run();
        for port in 0..self.ports.len() {
            self.set(port, 0x30, u64::MAX);
            self.set(port, 0x10, u64::MAX);
            self.set(port, 0x14, u64::MAX);
            self.set(port, 0x18, 0x11);
        }
    }

    /// A command in a slot, sound or nearly so.
    fn place(&self, port: usize, slot: u64, u: &mut Unstructured<'_>) -> Result<u8> {
        let (list, _, tables) = self.ports[port];
        let table = tables + slot * TABLE;
        let common = [
            0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x34, 0x35, 0x42, 0x47, 0x60, 0x61, 0x64, 0x06,
            0x90, 0xa0, 0xa1, 0xc6, 0xe4, 0xe8, 0xea, 0xec, 0xef,
        ];
        let mut command = if u.ratio(1, 8u8)? { u.arbitrary()? } else { *u.choose(&common)? };
        let target = match self.multiplier {
            0 => 0,
            ports if u.ratio(3, 4u8)? => u.int_in_range(0..=ports)?,
            _ => 15,
        };
        if target == 15 && u.ratio(7, 8u8)? {
            command = *u.choose(&[0xe4, 0xe8])?;
        }
        let mut fis = [0u8; 20];
        let lba = u.int_in_range(0..=DISK / 512)?.to_le_bytes();
        fis[..3].copy_from_slice(&[0x27, 0x80 | target, command]);
        fis[3] = u.int_in_range(0..=16u8)?;
        fis[4..7].copy_from_slice(&lba[..3]);
        fis[7] = if target == 15 { u.int_in_range(0..=15u8)? } else { 0x40 };
        let queued = matches!(command, 0x60 | 0x61 | 0x64);
        fis[12] = if queued { (slot as u8) << 3 } else { u.int_in_range(0..=16u8)? };
        fis[16] = u8::from(command == 0x64);
        if u.ratio(1, 8u8)? {
            fis[u.int_in_range(0..=19usize)?] = u.arbitrary()?;
        }
        let memory = &self.machine.memory;
        memory.write(table, &fis);
        let packet: [u8; 12] = u.arbitrary()?;
        memory.write(table + 0x40, &packet);
        let prds = u.int_in_range(0..=4u64)?;
        for prd in 0..prds {
            let wild = u.ratio(1, 16u8)?;
            let at = if wild { number(u)? } else { self.data + u.int_in_range(0..=DATA / 2)? };
            let control = if u.ratio(1, 16u8)? {
                number(u)? & 0xffff_ffff
            } else {
                u.int_in_range(0..=DATA / 2 - 1)?
            };
            memory.set_number(table + 0x80 + prd * 16, 8, at);
            memory.set_number(table + 0x8c + prd * 16, 4, control);
        }
        let flags = if u.ratio(1, 8u8)? { u.arbitrary::<u16>()?.into() } else { 5 };
        let packet = if command == 0xa0 { 1 << 5 } else { 0 };
        let target = u64::from(target) << 12;
        memory.set_number(list + slot * 32, 4, flags | packet | target | prds << 16);
        let at = if u.ratio(1, 32u8)? { number(u)? } else { table };
        memory.set_number(list + slot * 32 + 8, 8, at);
        Ok(command)
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let port = u.int_in_range(0..=2usize)?;
        match u.int_in_range(0..=15u8)? {
            0..=6 => {
                let slot = u.int_in_range(0..=31u64)?;
                let command = self.place(port, slot, u)?;
                if matches!(command, 0x60 | 0x61 | 0x64) {
                    self.set(port, 0x34, 1 << slot);
                }
                self.set(port, 0x38, 1 << slot);
            }
            7..=9 => {
                let (offset, width) = (u.int_in_range(0..=0x27fu64)?, *u.choose(&[1u8, 2, 4, 8])?);
                self.machine.write(self.abar + offset, width, number(u)?);
            }
            10 => {
                let offset = u.int_in_range(0..=0x27fu64)?;
                let width = *u.choose(&[1u8, 2, 4, 8])?;
                let _ = self.machine.read(self.abar + offset, width);
            }
            11 => {
                let (offset, width) = (u.int_in_range(0..=0xffu64)?, *u.choose(&[1u8, 2, 4])?);
                let value = number(u)?;
                if !is_bar(offset, width) {
                    self.machine.pci_write(self.at, offset, width, value);
                }
            }
            12 => self.machine.turn(),
            13 => self.machine.run(),
            14 => {
                self.set(port, 0x18, 0x10);
                self.machine.run();
                // FIS-based switching, or none.
                self.set(port, 0x40, u.int_in_range(0..=1)?);
                self.set(port, 0x2c, 1);
                self.set(port, 0x2c, 0);
                self.machine.run();
                self.set(port, 0x18, 0x11);
            }
            _ => self.start(),
        }
        Ok(())
    }

    /// Whatever happened, after a reset there is a disk.
    fn works(&mut self) {
        self.machine.run();
        self.machine.reset(self.at);
        self.machine.assign();
        self.start();
        let (list, _, tables) = self.ports[0];
        let memory = &self.machine.memory;
        memory.write(tables, &[0x27, 0x80, 0xec, 0, 0, 0, 0, 0x40]);
        memory.write(tables + 8, &[0; 12]);
        memory.set_number(tables + 0x80, 8, self.data);
        memory.set_number(tables + 0x8c, 4, 511);
        memory.set_number(list, 4, 5 | 1 << 16);
        memory.set_number(list + 8, 8, tables);
        self.set(0, 0x38, 1);
        self.machine.run();
        assert_eq!((self.get(0, 0x38), self.get(0, 0x20)), (0, 0x50), "it is no disk any more");
        let sum = memory.read(self.data, 512).iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "the checksum");
        assert_eq!(self.machine.irqs.stray(), 0, "an interrupt without a message");
    }
}

pub(super) fn run(data: &[u8]) {
    go(data, 0);
}

pub(super) fn multiplier(data: &[u8]) {
    go(data, 4);
}

fn go(data: &[u8], ports: u8) {
    let mut host = Host::new(ports);
    let mut u = Unstructured::new(data);
    // The bytes end where they end.
    while !u.is_empty() && host.step(&mut u).is_ok() {}
    host.works();
}
