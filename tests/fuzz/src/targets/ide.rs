//! A PIIX with a disk and a CD/DVD drive on one cable and a disk alone, as drive 1, on the other,
//! under a driver that goes wrong: ports in any order, blocks that end early, descriptor tables that
//! are right but for a bit now and then.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use spindle_block::{
    BlockError, Root,
    nodes::{
        fault::{Action, FaultNode, FaultRule},
        null::{NullNode, NullOptions},
    },
    root::Policy,
};
use spindle_devices::{
    Space,
    ata::{DriveConfig, Transport},
    ide::Model,
    pci::Address,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    testkit::Machine,
};

use super::virtio::{is_bar, number};

/// Bytes of each disk.
const DISK: u64 = 1 << 20;
/// Bytes of memory for data.
const DATA: u64 = 64 << 10;
/// Descriptors of the table, 8 bytes each.
const PRDS: u64 = 8;
/// First port of each channel's command block.
const COMMAND_BLOCK: [u64; 2] = [0x1f0, 0x170];
/// Port of each channel's device control.
const CONTROL: [u64; 2] = [0x3f6, 0x376];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

struct Host {
    machine: Machine,
    at: Address,
    bus_master: u64,
    table: u64,
    data: u64,
    faults: Arc<FaultNode>,
}

impl Host {
    fn new() -> Self {
        let machine = Machine::new(1);
        let controller = machine.add_ide("ide", Model::Piix4);
        let options = NullOptions { size: DISK, read_zeroes: true, ..NullOptions::default() };
        let faults = FaultNode::new(NullNode::new(options));
        let root = |name: &str| Root::new(name, NullNode::new(options), Policy::default());
        let config = |name| DriveConfig::new(name, Transport::Parallel { udma: Some(2) });
        let disk = Root::new("disk", Arc::clone(&faults) as _, Policy::default());
        let unit = LogicalUnit::new(UnitConfig::new("cd", UnitKind::Cd), Some(root("cd")));
        let device = &controller.device;
        device.add_disk(0, 0, config("disk"), &disk).expect("an empty place");
        device.add_drive(0, 1, config("cd"), &unit).expect("an empty place");
        device.add_disk(1, 1, config("slave"), &root("slave")).expect("an empty place");
        machine.assign();
        let (table, data) = (machine.memory.alloc(PRDS * 8, 64), machine.memory.alloc(DATA, 4096));
        let mut host = Self { machine, at: controller.at, bus_master: 0, table, data, faults };
        host.start();
        host
    }

    /// Ports, bus master and interrupts are on.
    fn start(&mut self) {
        self.machine.pci_write(self.at, 4, 2, 5);
        self.machine.pci_write(self.at, 0x40, 4, 0x8000_8000);
        self.bus_master = self.machine.pci_read(self.at, 0x20, 4) & !3;
    }

    fn out(&self, port: u64, width: u8, value: u64) {
        self.machine.bus.write(Space::Port, port, width, value);
    }

    fn get(&self, port: u64, width: u8) -> u64 {
        self.machine.bus.read(Space::Port, port, width)
    }

    fn bm(&self, channel: usize) -> u64 {
        self.bus_master + channel as u64 * 8
    }

    /// The descriptor table, sound or nearly so.
    fn fill_table(&self, channel: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let memory = &self.machine.memory;
        let prds = u.int_in_range(1..=PRDS)?;
        for prd in 0..prds {
            let wild = u.ratio(1, 16u8)?;
            let at = if wild { number(u)? } else { self.data + u.int_in_range(0..=DATA / 2)? };
            let len = if u.ratio(1, 16u8)? { number(u)? } else { u.int_in_range(1..=16)? * 512 };
            let end = if prd + 1 == prds && !u.ratio(1, 16u8)? { 0x8000_0000 } else { 0 };
            memory.set_number(self.table + prd * 8, 4, at & 0xffff_ffff);
            memory.set_number(self.table + prd * 8 + 4, 4, len & 0xffff | end);
        }
        let table = if u.ratio(1, 32u8)? { number(u)? } else { self.table };
        self.out(self.bm(channel) + 4, 4, table);
        Ok(())
    }

    /// A command on a channel, sound or nearly so.
    fn command(&self, channel: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let common = [
            0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x34, 0x35, 0x39, 0x3d, 0x3f, 0x40, 0x42, 0x45,
            0x57, 0x06, 0x08, 0x90, 0x91, 0x92, 0x93, 0xa0, 0xa1, 0xb0, 0xb1, 0xb4, 0xc4, 0xc5,
            0xc6, 0xc8, 0xca, 0xce, 0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xea,
            0xec, 0xef, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf8, 0xf9,
        ];
        let command: u8 = if u.ratio(1, 8u8)? { u.arbitrary()? } else { *u.choose(&common)? };
        let base = COMMAND_BLOCK[channel];
        let drive = u64::from(channel == 1 || u.ratio(1, 3u8)?);
        self.out(base + 6, 1, 0xe0 | drive << 4);
        let lba = u.int_in_range(0..=DISK / 512)?;
        let count =
            if u.ratio(1, 8u8)? { u.arbitrary::<u8>()?.into() } else { u.int_in_range(0..=32)? };
        let features = if u.ratio(1, 2u8)? { u.arbitrary()? } else { 0u8 };
        // The high halves first; commands of 28 bits do not look at them.
        for half in [0, u64::from(features)] {
            self.out(base + 1, 1, half);
        }
        for (register, value) in [(2, count), (3, lba), (4, lba >> 8), (5, lba >> 16)] {
            self.out(base + register, 1, 0);
            self.out(base + register, 1, value & 0xff);
        }
        if u.ratio(1, 16u8)? {
            self.out(base + u.int_in_range(0..=7u64)?, 1, u.arbitrary::<u8>()?.into());
        }
        self.out(base + 7, 1, u64::from(command));
        if command == 0xa0 {
            let mut packet: [u8; 12] = u.arbitrary()?;
            let packets = [0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0x43, 0x4a, 0x46, 0x51, 0x5a];
            if !u.ratio(1, 8u8)? {
                packet[0] = *u.choose(&packets)?;
                packet[2..8].fill(0);
            }
            for pair in packet.chunks(2) {
                self.out(base, 2, u64::from(pair[0]) | u64::from(pair[1]) << 8);
            }
        }
        Ok(())
    }

    /// Moves data through the data port, more or less as much as there is.
    fn through_the_port(&self, channel: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let base = COMMAND_BLOCK[channel];
        let (write, width) = (u.arbitrary::<bool>()?, *u.choose(&[2u8, 2, 4, 1])?);
        let len = if u.ratio(1, 4u8)? { u.int_in_range(1..=1100u64)? } else { 512 };
        for _ in 0..len / u64::from(width) {
            if write {
                self.out(base, width, 0x1234_5678);
            } else {
                let _ = self.get(base, width);
            }
        }
        Ok(())
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let channel = u.int_in_range(0..=1usize)?;
        match u.int_in_range(0..=19u8)? {
            0..=5 => self.command(channel, u)?,
            6..=7 => {
                self.fill_table(channel, u)?;
                let direction = u.int_in_range(0..=1u64)? * 8;
                self.out(self.bm(channel), 1, direction);
                self.command(channel, u)?;
                self.out(self.bm(channel), 1, direction | 1);
            }
            8..=9 => self.through_the_port(channel, u)?,
            10..=11 => {
                let control = u.ratio(1, 8u8)?;
                let offset = u.int_in_range(0..=7u64)?;
                let port = if control { CONTROL[channel] } else { COMMAND_BLOCK[channel] + offset };
                self.out(port, *u.choose(&[1u8, 1, 2, 4])?, number(u)?);
            }
            12 => {
                let (offset, width) = (u.int_in_range(0..=7u64)?, *u.choose(&[1u8, 1, 2, 4])?);
                let _ = self.get(COMMAND_BLOCK[channel] + offset, width);
                let _ = self.get(CONTROL[channel], width);
            }
            13 => {
                let (offset, width) = (u.int_in_range(0..=15u64)?, *u.choose(&[1u8, 2, 4])?);
                if u.arbitrary()? {
                    self.out(self.bus_master + offset, width, number(u)?);
                } else {
                    let _ = self.get(self.bus_master + offset, width);
                }
            }
            14 => {
                let (offset, width) = (u.int_in_range(0..=0xffu64)?, *u.choose(&[1u8, 2, 4])?);
                let value = number(u)?;
                if !is_bar(offset, width) {
                    self.machine.pci_write(self.at, offset, width, value);
                }
            }
            15 => self.machine.turn(),
            16..=17 => self.machine.run(),
            18 => {
                let error = Action::Error(BlockError::Medium);
                // There is an end to the rules that there can be.
                self.faults.add(FaultRule { count: Some(1), ..FaultRule::new(error) }).ok();
            }
            _ => {
                self.out(CONTROL[channel], 1, 4);
                self.machine.run();
                self.out(CONTROL[channel], 1, 0);
                self.machine.run();
                self.start();
            }
        }
        Ok(())
    }

    /// Whatever happened, after a reset each drive says what it is.
    fn works(&mut self) {
        self.machine.run();
        self.machine.reset(self.at);
        self.machine.assign();
        self.start();
        self.machine.run();
        for (channel, drive, command) in [(0, 0, 0xec), (0, 1, 0xa1), (1, 1, 0xec)] {
            let base = COMMAND_BLOCK[channel];
            self.out(base + 6, 1, 0xe0 | drive << 4);
            self.out(base + 7, 1, command);
            self.machine.run();
            let status = self.get(CONTROL[channel], 1);
            // Drives with PACKET do not seek.
            assert_eq!(status | 0x10, 0x58, "channel {channel}, drive {drive}: no IDENTIFY data");
            let words = (0..256).map(|_| self.get(base, 2) as u16);
            let sum = words.flat_map(u16::to_le_bytes).fold(0u8, u8::wrapping_add);
            assert_eq!(sum, 0, "channel {channel}, drive {drive}: the checksum");
            let status = self.get(base + 7, 1);
            assert_eq!(status | 0x10, 0x50, "channel {channel}, drive {drive}: busy");
        }
    }
}

pub(super) fn run(data: &[u8]) {
    let mut host = Host::new();
    let mut u = Unstructured::new(data);
    // The bytes end where they end.
    while !u.is_empty() && host.step(&mut u).is_ok() {}
    host.works();
}
