//! A driver of one port, written from AHCI 1.3.1 and ACS-3 alone.

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    Node, Root,
    file::File,
    nodes::{fault::FaultNode, file::FileNode},
    root::Policy,
};
use spindle_devices::{
    ahci::{AhciConfig, Plug},
    ata::{DriveConfig, Transport},
    pci::Address,
    testkit::{AhciController, Machine},
};

pub const P_CLB: u64 = 0x00;
pub const P_FB: u64 = 0x08;
pub const P_IS: u64 = 0x10;
pub const P_IE: u64 = 0x14;
pub const P_CMD: u64 = 0x18;
pub const P_TFD: u64 = 0x20;
pub const P_SIG: u64 = 0x24;
pub const P_SSTS: u64 = 0x28;
pub const P_SCTL: u64 = 0x2c;
pub const P_SERR: u64 = 0x30;
pub const P_SACT: u64 = 0x34;
pub const P_CI: u64 = 0x38;

pub const ST: u64 = 1;
pub const FRE: u64 = 1 << 4;
pub const FR: u64 = 1 << 14;
pub const CR: u64 = 1 << 15;

pub const DHRS: u64 = 1;
pub const PSS: u64 = 2;
pub const SDBS: u64 = 8;
pub const DPS: u64 = 0x20;
pub const PCS: u64 = 0x40;
pub const PRCS: u64 = 1 << 22;
pub const OFS: u64 = 1 << 24;
pub const IFS: u64 = 1 << 27;
pub const HBFS: u64 = 1 << 29;
pub const TFES: u64 = 1 << 30;

/// A command FIS, with its fields at their places.
#[derive(Clone, Copy)]
pub struct Fis(pub [u8; 20]);

/// A 48-bit command.
pub fn ata(command: u8, features: u16, lba: u64, count: u16) -> Fis {
    let mut fis = [0; 20];
    let l = lba.to_le_bytes();
    fis[..8].copy_from_slice(&[0x27, 0x80, command, features as u8, l[0], l[1], l[2], 0x40]);
    fis[8..16].copy_from_slice(&[
        l[3],
        l[4],
        l[5],
        (features >> 8) as u8,
        count as u8,
        (count >> 8) as u8,
        0,
        0,
    ]);
    Fis(fis)
}

/// READ or WRITE FPDMA QUEUED of `count` sectors, tag `tag`.
pub fn queued(command: u8, lba: u64, count: u16, tag: u8) -> Fis {
    ata(command, count, lba, u16::from(tag) << 3)
}

/// A piece of memory for a PRD: address, bytes, interrupt on completion.
pub type Prd = (u64, u32, bool);

pub struct Driver {
    pub machine: Rc<Machine>,
    pub abar: u64,
    pub base: u64,
    pub list: u64,
    pub area: u64,
    tables: Vec<u64>,
}

impl Driver {
    /// Enables the function and brings a port up, as far as there is a device.
    pub fn new(machine: &Rc<Machine>, at: Address, port: u64) -> Self {
        let driver = Self::at(machine, at, port);
        driver.bring_up();
        driver
    }

    /// The same, but for waiting: addresses and FIS receive only, and no interrupts.
    pub fn quiet(machine: &Rc<Machine>, at: Address, port: u64) -> Self {
        let driver = Self::at(machine, at, port);
        driver.set(P_CLB, driver.list);
        driver.set(P_FB, driver.area);
        driver.set(P_CMD, FRE);
        driver
    }

    fn at(machine: &Rc<Machine>, at: Address, port: u64) -> Self {
        let command = machine.pci_read(at, 4, 2);
        machine.pci_write(at, 4, 2, command | 0x7);
        let abar = machine.pci_read(at, 0x24, 4) & !0xf;
        let memory = &machine.memory;
        let (list, area) = (memory.alloc(1024, 1024), memory.alloc(256, 256));
        let tables = (0..32).map(|_| memory.alloc(0x80 + 16 * 64, 128)).collect();
        let base = abar + 0x100 + port * 0x80;
        let driver = Self { machine: Rc::clone(machine), abar, base, list, area, tables };
        machine.write(abar + 4, 4, 0x8000_0002);
        driver
    }

    pub fn get(&self, offset: u64) -> u64 {
        self.machine.read(self.base + offset, 4)
    }

    pub fn set(&self, offset: u64, value: u64) {
        self.machine.write(self.base + offset, 4, value);
    }

    pub fn global(&self, offset: u64) -> u64 {
        self.machine.read(self.abar + offset, 4)
    }

    pub fn set_global(&self, offset: u64, value: u64) {
        self.machine.write(self.abar + offset, 4, value);
    }

    /// Addresses, FIS receive, and the list once there is a device.
    pub fn bring_up(&self) {
        self.set(P_CLB, self.list);
        self.set(P_CLB + 4, self.list >> 32);
        self.set(P_FB, self.area);
        self.set(P_FB + 4, self.area >> 32);
        self.set(P_CMD, self.get(P_CMD) | FRE);
        self.machine.run();
        self.set(P_SERR, 0xffff_ffff);
        self.set(P_IS, 0xffff_ffff);
        self.set(P_IE, 0xffff_ffff);
        if self.get(P_SSTS) & 0xf == 3 {
            assert_eq!(self.get(P_TFD) & 0x88, 0, "not ready: {:#x}", self.get(P_TFD));
            self.start();
        }
    }

    pub fn start(&self) {
        self.set(P_CMD, self.get(P_CMD) | ST);
        assert_ne!(self.get(P_CMD) & CR, 0, "the list does not run");
    }

    /// Stops the list, and waits for it.
    pub fn stop(&self) {
        self.set(P_CMD, self.get(P_CMD) & !ST);
        self.machine.run();
        assert_eq!(self.get(P_CMD) & CR, 0, "the list still runs");
    }

    /// Recovers as AHCI 6.2.2 says.
    pub fn recover(&self) {
        self.stop();
        self.set(P_SERR, 0xffff_ffff);
        self.set(P_IS, 0xffff_ffff);
        self.start();
    }

    /// COMRESET, and up again.
    pub fn comreset(&self) {
        self.set(P_SCTL, 1);
        self.set(P_SCTL, 0);
        self.machine.run();
    }

    /// Puts a command in a slot; `flags` go to the header.
    pub fn place(&self, slot: u8, fis: &Fis, prds: &[Prd], flags: u32) {
        let memory = &self.machine.memory;
        let table = self.tables[usize::from(slot)];
        let header = self.list + u64::from(slot) * 32;
        memory.write(table, &[0; 0x80]);
        memory.write(table, &fis.0);
        for (i, (at, len, interrupt)) in prds.iter().enumerate() {
            let prd = table + 0x80 + 16 * i as u64;
            memory.set_number(prd, 8, *at);
            memory.set_number(prd + 8, 4, 0);
            let control = (len - 1) | u32::from(*interrupt) << 31;
            memory.set_number(prd + 12, 4, control.into());
        }
        memory.set_number(header, 4, u64::from(5 | (prds.len() as u32) << 16 | flags));
        memory.set_number(header + 4, 4, 0);
        memory.set_number(header + 8, 8, table);
    }

    pub fn packet(&self, slot: u8, cdb: &[u8]) {
        let mut bytes = [0; 16];
        bytes[..cdb.len()].copy_from_slice(cdb);
        self.machine.memory.write(self.tables[usize::from(slot)] + 0x40, &bytes);
    }

    /// Bytes that the header says were moved.
    pub fn moved(&self, slot: u8) -> u64 {
        self.machine.memory.number(self.list + u64::from(slot) * 32 + 4, 4)
    }

    /// Does one command that is not queued, over one piece of memory. Returns PxTFD.
    pub fn run(&self, fis: &Fis, at: u64, len: u32) -> u64 {
        let prds = [(at, len, false)];
        self.place(0, fis, if len > 0 { &prds } else { &[] }, 0);
        self.set(P_CI, 1);
        self.machine.run();
        self.get(P_TFD)
    }

    /// Does one, and expects it to go well.
    pub fn ok(&self, fis: &Fis, at: u64, len: u32) {
        let tfd = self.run(fis, at, len);
        assert_eq!((tfd, self.get(P_CI)), (0x50, 0), "command {:#x}", fis.0[2]);
    }

    /// Does one, and expects this ERROR field; recovers.
    pub fn fails(&self, fis: &Fis, at: u64, len: u32, error: u64) {
        let tfd = self.run(fis, at, len);
        assert_eq!(tfd, 0x51 | error << 8, "command {:#x}", fis.0[2]);
        assert_eq!(self.get(P_CI), 1, "the slot stays issued");
        assert_ne!(self.get(P_IS) & TFES, 0);
        self.recover();
    }

    /// Does a packet. Returns PxTFD; recovers where it is an error.
    pub fn send(&self, cdb: &[u8], at: u64, len: u32) -> u64 {
        let mut fis = ata(0xa0, 1, 0, 0);
        fis.0[7] = 0;
        let prds = [(at, len, false)];
        self.place(0, &fis, if len > 0 { &prds } else { &[] }, 1 << 5);
        self.packet(0, cdb);
        self.set(P_CI, 1);
        self.machine.run();
        let tfd = self.get(P_TFD);
        if tfd & 1 != 0 {
            self.recover();
        }
        tfd
    }

    /// Reads a log page.
    pub fn log(&self, address: u8, page: u16) -> Vec<u8> {
        let at = self.machine.memory.alloc(512, 16);
        let lba = u64::from(address) | u64::from(page & 0xff) << 8 | u64::from(page >> 8) << 32;
        let tfd = self.run(&ata(0x2f, 0, lba, 1), at, 512);
        assert_eq!(tfd, 0x50, "log {address:#x} page {page}");
        self.machine.memory.read(at, 512)
    }
}

/// A controller with a disk in port 0.
pub struct Setup {
    pub machine: Rc<Machine>,
    pub controller: AhciController,
    pub driver: Driver,
    pub root: Arc<Root>,
    pub file: Arc<File>,
    pub faults: Arc<FaultNode>,
}

pub const SIZE: u64 = 8 << 20;

pub fn setup() -> Setup {
    setup_with(1, |_| (), |_| ())
}

pub fn setup_with(
    ports: usize,
    controller: impl FnOnce(&mut AhciConfig),
    drive: impl FnOnce(&mut DriveConfig),
) -> Setup {
    setup_on(Machine::new(fastrand::u64(..)), ports, controller, drive)
}

pub fn setup_on(
    machine: Machine,
    ports: usize,
    controller: impl FnOnce(&mut AhciConfig),
    drive: impl FnOnce(&mut DriveConfig),
) -> Setup {
    let controller = machine.add_ahci("ahci0", ports, controller);
    let file = machine.world.create_file("disk0", &[], SIZE);
    let faults = FaultNode::new(FileNode::over(Arc::clone(&file), SIZE, 1, false));
    let node = Arc::clone(&faults) as Arc<dyn Node>;
    let root = Root::new("disk0-node", node, Policy::default());
    let mut config = DriveConfig::new("disk0", Transport::Serial);
    drive(&mut config);
    controller.device.plug(0, Plug::Disk(config, Arc::clone(&root))).unwrap();
    machine.assign();
    machine.run();
    let machine = Rc::new(machine);
    let driver = Driver::new(&machine, controller.at, 0);
    Setup { machine, controller, driver, root, file, faults }
}

/// `len` bytes that differ from their neighbours.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

impl Setup {
    /// What the disk's file holds.
    pub fn contents(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine.world.contents(&self.file).read(offset, &mut bytes);
        bytes
    }

    /// What of it would survive a loss of power.
    pub fn durable(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine.world.durable(&self.file).read(offset, &mut bytes);
        bytes
    }
}
