//! Disks behind a port multiplier, one at a time and all at once (AHCI 9; SATA 16).

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    BlockError, Root,
    file::File,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    ahci::Plug,
    ata::{DriveConfig, Transport},
    testkit::{AhciController, Machine},
};

use super::driver::{
    CR, Driver, Fis, P_CI, P_CMD, P_FB, P_IE, P_IS, P_SACT, P_SERR, P_SIG, P_SSTS, P_TFD, ST, TFES,
    ata, pattern, queued,
};

const P_SNTF: u64 = 0x3c;
const P_FBS: u64 = 0x40;
const PORTS: u8 = 4;
const CONTROL: u8 = 15;
const SIZE: u64 = 1 << 20;

struct Behind {
    machine: Rc<Machine>,
    controller: AhciController,
    driver: Driver,
    /// 4 KiB of received FISes.
    area: u64,
    disks: Vec<(Arc<File>, Arc<FaultNode>)>,
}

fn disk(machine: &Machine, name: &str) -> (Plug, Arc<File>, Arc<FaultNode>) {
    let file = machine.world.create_file(name, &[], SIZE);
    let faults = FaultNode::new(FileNode::over(Arc::clone(&file), SIZE, 1, false));
    let root = Root::new(name, Arc::clone(&faults) as _, Policy::default());
    (Plug::Disk(DriveConfig::new(name, Transport::Serial), root), file, faults)
}

/// A multiplier with four ports and disks behind 0, 1 and 3.
fn behind() -> Behind {
    let machine = Machine::new(fastrand::u64(..));
    let controller = machine.add_ahci("ahci0", 1, |config| config.multiplier = PORTS);
    let mut disks = Vec::new();
    for unit in [0, 1, 3] {
        let (plug, file, faults) = disk(&machine, &format!("disk{unit}"));
        controller.device.plug_unit(0, unit, plug).unwrap();
        disks.push((file, faults));
    }
    machine.assign();
    machine.run();
    let machine = Rc::new(machine);
    let driver = Driver::new(&machine, controller.at, 0);
    let area = machine.memory.alloc(4096, 4096);
    let b = Behind { machine, controller, driver, area, disks };
    b.driver.stop();
    b.driver.set(P_FB, area);
    b.driver.set(P_CMD, 0);
    b.machine.run();
    b.driver.set(P_CMD, 0x10 | 1 << 17);
    b.machine.run();
    assert_ne!(b.driver.get(P_CMD) & 1 << 17, 0, "PMA");
    b
}

impl Behind {
    fn switching(self) -> Self {
        self.driver.set(P_FBS, 1);
        assert_eq!(self.driver.get(P_FBS) & 1, 1);
        self.driver.start();
        self
    }

    fn to(fis: &Fis, target: u8) -> Fis {
        let mut fis = *fis;
        fis.0[1] |= target;
        fis
    }

    fn place(&self, slot: u8, target: u8, fis: &Fis, at: u64, len: u32) {
        let prds = [(at, len, false)];
        let prds = if len > 0 { &prds[..] } else { &[] };
        self.driver.place(slot, &Self::to(fis, target), prds, u32::from(target) << 12);
    }

    /// Runs a command in slot 0; the FIS that ends it.
    fn run(&self, target: u8, fis: &Fis, at: u64, len: u32) -> Vec<u8> {
        self.place(0, target, fis, at, len);
        self.driver.set(P_FBS, self.driver.get(P_FBS) & 1 | u64::from(target) << 8);
        self.driver.set(P_CI, 1);
        self.machine.run();
        assert_eq!(self.driver.get(P_CI), 0, "target {target}: {:#x}", self.driver.get(P_TFD));
        self.register_fis(target)
    }

    /// The Device to Host Register FIS that came from a device last.
    fn register_fis(&self, target: u8) -> Vec<u8> {
        let switching = self.driver.get(P_FBS) & 1;
        self.machine.memory.read(self.area + switching * u64::from(target) * 256 + 0x40, 20)
    }

    fn register(&self, port: u8, register: u16) -> u32 {
        let mut fis = ata(0xe4, register, 0, 0);
        fis.0[7] = port;
        let end = self.run(CONTROL, &fis, 0, 0);
        assert_eq!((end[0], end[1] & 0xf, end[2] & 1), (0x34, CONTROL, 0));
        u32::from_le_bytes([end[12], end[4], end[5], end[6]])
    }

    fn set_register(&self, port: u8, register: u16, value: u32) {
        let mut fis = ata(0xe8, register, u64::from(value >> 8), (value & 0xff) as u16);
        fis.0[7] = port;
        self.run(CONTROL, &fis, 0, 0);
    }

    /// COMRESET of a link, as a driver does it.
    fn comreset(&self, port: u8) {
        self.set_register(port, 2, 0x301);
        self.set_register(port, 2, 0x300);
        self.machine.run();
        self.set_register(port, 1, 0xffff_ffff);
    }

    /// A software reset of a device. Returns PxSIG.
    fn soft_reset(&self, target: u8) -> u64 {
        for control in [4, 0] {
            let mut fis = Fis([0; 20]);
            (fis.0[0], fis.0[1], fis.0[15]) = (0x27, target, control);
            let clear = if control == 4 { 1 << 8 | 1 << 10 } else { 0 };
            self.driver.place(0, &fis, &[], u32::from(target) << 12 | clear);
            self.driver.set(P_CI, 1);
            self.machine.run();
            assert_eq!(self.driver.get(P_CI), 0);
        }
        self.driver.get(P_SIG)
    }

    fn all_up(&self) {
        for port in 0..PORTS {
            self.comreset(port);
        }
    }
}

#[test]
fn it_says_what_it_is_and_what_is_behind_it() {
    let b = behind();
    assert_eq!(b.driver.global(0) >> 16 & 3, 3, "SPM, FBSS");
    assert_eq!(b.driver.global(0) >> 29 & 1, 1, "SSNTF");
    assert_ne!(b.driver.get(P_CMD) & 1 << 22, 0, "FBSCP");
    assert_eq!(b.driver.get(P_SSTS) & 0xf, 3);
    assert_eq!(b.driver.get(P_SIG), 0x0101, "the first disk's, for drivers that know no other");
    b.driver.start();
    assert_eq!(b.soft_reset(CONTROL), 0x9669_0101);
    assert_eq!(b.register(CONTROL, 2), u32::from(PORTS));
    assert_eq!(b.register(CONTROL, 1) & 0xe, 0xe, "1.0 to 1.2");
    for (port, up) in [(0, true), (1, false), (2, false), (3, false)] {
        assert_eq!(b.register(port, 0) & 0xf == 3, up, "{port}");
    }
    b.all_up();
    for (port, up) in [(0, true), (1, true), (2, false), (3, true)] {
        assert_eq!(b.register(port, 0) & 0xf == 3, up, "{port}");
    }
    for target in [0, 1, 3] {
        assert_eq!(b.soft_reset(target), 0x0101, "{target}");
    }
    // Registers that are not there.
    for (port, register) in [(PORTS, 0), (0, 9), (CONTROL, 5)] {
        let mut fis = ata(0xe4, register, 0, 0);
        fis.0[7] = port;
        b.place(0, CONTROL, &fis, 0, 0);
        b.driver.set(P_CI, 1);
        b.machine.run();
        assert_eq!(b.driver.get(P_TFD) & 0xff81, 0x0401, "{port}: {register}");
        b.driver.recover();
    }
}

#[test]
fn commands_reach_the_disk_that_they_are_for() {
    let b = behind();
    b.driver.start();
    b.all_up();
    let at = b.machine.memory.alloc(4096, 512);
    for (disk, target) in [0, 1, 3].into_iter().enumerate() {
        let data = pattern(target, 4096);
        b.machine.memory.write(at, &data);
        let end = b.run(target, &ata(0x35, 0, 8, 8), at, 4096);
        assert_eq!((end[1] & 0xf, end[2]), (target, 0x50));
        let mut there = vec![0; 4096];
        b.machine.world.contents(&b.disks[disk].0).read(4096, &mut there);
        assert_eq!(there, data, "{target}");
    }
    for target in [0, 1, 3] {
        b.place(0, target, &queued(0x60, 8, 8, 0), at, 4096);
        b.driver.set(P_SACT, 1);
        b.driver.set(P_CI, 1);
        b.machine.run();
        assert_eq!(b.driver.get(P_SACT), 0);
        assert_eq!(b.machine.memory.read(at, 4096), pattern(target, 4096));
    }
}

#[test]
fn with_fis_based_switching_all_are_busy_at_once() {
    let b = behind().switching();
    b.all_up();
    let at = b.machine.memory.alloc(32 * 512, 512);
    let targets = [0u8, 1, 3];
    for slot in 0..30u8 {
        let target = targets[usize::from(slot) % 3];
        let lba = u64::from(slot);
        let (at, fis) = (at + lba * 512, queued(0x61, lba, 1, slot));
        b.machine.memory.write(at, &[slot + 1; 512]);
        b.place(slot, target, &fis, at, 512);
    }
    let slots = (1 << 30) - 1;
    b.driver.set(P_SACT, slots);
    b.driver.set(P_CI, slots);
    b.machine.turn();
    assert_eq!((b.driver.get(P_CI), b.driver.get(P_SACT)), (0, slots), "all are taken");
    b.machine.run();
    assert_eq!(b.driver.get(P_SACT), 0);
    for slot in 0..30u8 {
        let disk = usize::from(slot) % 3;
        let mut there = [0; 512];
        b.machine.world.contents(&b.disks[disk].0).read(u64::from(slot) * 512, &mut there);
        assert_eq!(there, [slot + 1; 512], "{slot}");
    }
    // Commands that are not queued, to all three: each keeps only its own disk busy.
    for (slot, target) in (0..).zip(targets) {
        b.place(slot, target, &ata(0x25, 0, 0, 1), at + u64::from(slot) * 512, 512);
    }
    b.place(3, 0, &ata(0x25, 0, 1, 1), at + 3 * 512, 512);
    b.driver.set(P_CI, 0xf);
    b.machine.run();
    assert_eq!(b.driver.get(P_CI), 0);
    for target in targets {
        b.driver.set(P_FBS, 1 | u64::from(target) << 8);
        assert_eq!(b.driver.get(P_TFD), 0x50, "{target}");
        assert_eq!(b.register_fis(target)[..3], [0x34, 0x40 | target, 0x50]);
    }
}

#[test]
fn an_error_of_one_disk_leaves_the_others_alone() {
    let b = behind().switching();
    b.all_up();
    b.driver.set(P_IE, 0xffff_ffff);
    let at = b.machine.memory.alloc(8 * 512, 512);
    let bad = FaultRule { op: FaultOp::Read, ..FaultRule::new(Action::Error(BlockError::Medium)) };
    let rule = b.disks[1].1.add(bad).unwrap();
    for (slot, target) in [(0, 0), (1, 1), (2, 3), (3, 1), (4, 0)] {
        b.place(slot, target, &queued(0x60, 0, 1, slot), at + u64::from(slot) * 512, 512);
    }
    b.driver.set(P_SACT, 0x1f);
    b.driver.set(P_CI, 0x1f);
    b.machine.run();
    assert_ne!(b.driver.get(P_IS) & TFES, 0);
    let fbs = b.driver.get(P_FBS);
    assert_eq!((fbs & 4, fbs >> 16 & 0xf), (4, 1), "the device with the error");
    assert_eq!(b.driver.get(P_SACT), 0b01010, "those of the others are done");
    b.driver.set(P_FBS, 1 | 1 << 8);
    assert_eq!(b.driver.get(P_TFD) & 1, 1);
    b.driver.set(P_FBS, 1 | 3 << 8);
    assert_eq!(b.driver.get(P_TFD) & 1, 0);
    // Others go on; the one with the error waits.
    b.run(3, &ata(0x25, 0, 0, 1), at, 512);
    b.place(5, 1, &ata(0x2f, 0, 0x10, 1), at, 512);
    b.driver.set(P_CI, 1 << 5);
    b.machine.run();
    assert_eq!(b.driver.get(P_CI), 1 << 5);
    // It is forgotten, with what the disk had.
    b.driver.set(P_FBS, 1 | 2 | 1 << 8);
    b.machine.run();
    assert_eq!(b.driver.get(P_FBS) & 6, 0);
    assert_eq!((b.driver.get(P_SACT), b.driver.get(P_CI)), (0, 0));
    b.disks[1].1.delete(&rule).unwrap();
    // The log says which it was.
    b.run(1, &ata(0x2f, 0, 0x10, 1), at, 512);
    assert!(matches!(b.machine.memory.read(at, 1)[0], 1 | 3));
    b.run(1, &ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn disks_come_and_go_behind_it() {
    let b = behind().switching();
    b.all_up();
    b.driver.set(P_IE, 0xffff_ffff);
    // The driver wants to be told.
    b.set_register(CONTROL, 96, 8);
    b.driver.set(P_SNTF, 0xffff);
    b.driver.set(P_IS, 0xffff_ffff);
    let (plug, ..) = disk(&b.machine, "new");
    b.controller.device.plug_unit(0, 2, plug).unwrap();
    b.machine.run();
    assert_eq!(b.driver.get(P_SNTF), 1 << 15);
    assert_ne!(b.driver.get(P_IS) & 8, 0);
    b.driver.set(P_SNTF, 1 << 15);
    assert_eq!(b.driver.get(P_SNTF), 0);
    assert_eq!(b.register(CONTROL, 32), 1 << 2, "the port with news");
    b.comreset(2);
    let at = b.machine.memory.alloc(512, 512);
    b.run(2, &ata(0xec, 0, 0, 0), at, 512);
    let gone = b.controller.device.unplug_unit(0, 1, Box::new(|| ()));
    gone.unwrap();
    b.machine.run();
    assert_eq!(b.register(1, 0) & 0xf, 0);
    assert_ne!(b.register(1, 1) & 1 << 16, 0, "PhyRdy change");
    assert!(b.controller.device.unplug_unit(0, 1, Box::new(|| ())).is_err());
    b.run(3, &ata(0xec, 0, 0, 0), at, 512);
}

#[test]
fn places_that_are_not_there_are_refused() {
    let b = behind();
    let plug = || disk(&b.machine, &format!("other{}", fastrand::u64(..))).0;
    assert!(b.controller.device.plug_unit(0, 0, plug()).is_err(), "it is taken");
    let error = b.controller.device.plug_unit(0, PORTS, plug()).unwrap_err();
    assert_eq!(error.to_string(), "port 0 of AHCI controller 'ahci0' has no unit 4");
    assert!(b.controller.device.plug_unit(1, 0, plug()).is_err());
}

#[test]
fn a_reset_of_the_controller_brings_only_the_first_one_back() {
    let b = behind().switching();
    b.all_up();
    b.driver.set_global(4, 0x8000_0001);
    b.machine.run();
    assert_eq!(b.driver.get(P_FBS) & 1, 0);
    b.driver.set_global(4, 0x8000_0002);
    b.driver.set(P_FB, b.area);
    b.driver.set(P_CMD, 0x10);
    b.machine.run();
    b.driver.set(P_SERR, 0xffff_ffff);
    b.driver.set(P_CMD, 0x10 | ST);
    assert_ne!(b.driver.get(P_CMD) & CR, 0);
    assert_eq!(b.register(0, 0) & 0xf, 3);
    assert_eq!(b.register(3, 0) & 0xf, 0);
}
