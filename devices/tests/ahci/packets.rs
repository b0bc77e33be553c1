//! CD/DVD drives behind AHCI.

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    BlockError, Node, Root,
    nodes::{
        fault::{Action, FaultNode, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    ahci::Plug,
    ata::{DriveConfig, Transport},
    device::Countdown,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    testkit::{AhciController, Machine},
};

use super::driver::{DHRS, Driver, OFS, P_CI, P_IS, P_SIG, P_TFD, PSS, ata, pattern};

const BLOCKS: u64 = 64;

struct Setup {
    machine: Rc<Machine>,
    driver: Driver,
    unit: Arc<LogicalUnit>,
    faults: Arc<FaultNode>,
    _controller: AhciController,
}

fn image(machine: &Machine, name: &str, seed: u8) -> (Arc<Root>, Arc<FaultNode>) {
    let len = BLOCKS * 2048;
    let file = machine.world.create_file(name, &pattern(seed, len as usize), len);
    let faults = FaultNode::new(FileNode::over(file, len, 1, false));
    let node = Arc::clone(&faults) as Arc<dyn Node>;
    (Root::new(name, node, Policy { read_only: true, ..Policy::default() }), faults)
}

fn setup() -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let controller = machine.add_ahci("ahci0", 2, |_| ());
    let (root, faults) = image(&machine, "disc", 1);
    let unit = LogicalUnit::new(UnitConfig::new("cd0", UnitKind::Cd), Some(root));
    let config = DriveConfig::new("cd0", Transport::Serial);
    controller.device.plug(1, Plug::Packet(config, Arc::clone(&unit))).unwrap();
    machine.assign();
    machine.run();
    let machine = Rc::new(machine);
    let driver = Driver::new(&machine, controller.at, 1);
    Setup { machine, driver, unit, faults, _controller: controller }
}

/// Key and code of the sense data that REQUEST SENSE returns.
fn sense(s: &Setup) -> (u8, u8, u8) {
    let at = s.machine.memory.alloc(18, 16);
    assert_eq!(s.driver.send(&[3, 0, 0, 0, 18, 0], at, 18), 0x40);
    let data = s.machine.memory.read(at, 18);
    (data[2] & 0xf, data[12], data[13])
}

fn settle(s: &Setup) {
    for _ in 0..4 {
        if s.driver.send(&[0; 6], 0, 0) == 0x40 {
            return;
        }
        sense(s);
    }
    panic!("it never gets ready");
}

fn read(lba: u32, blocks: u16) -> [u8; 12] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    [0x28, 0, a, b, c, d, 0, e, f, 0, 0, 0]
}

#[test]
fn its_signature_and_identity() {
    let s = setup();
    assert_eq!((s.driver.get(P_SIG), s.driver.get(P_TFD)), (0xeb14_0101, 0x0100));
    let at = s.machine.memory.alloc(512, 512);
    s.driver.ok(&ata(0xa1, 0, 0, 0), at, 512);
    let word = |n: u64| s.machine.memory.number(at + 2 * n, 2);
    assert_eq!((word(0), word(49), word(82), word(88)), (0x85c0, 0x0f00, 0x0218, 0x407f));
    // IDENTIFY DEVICE is refused, with the signature.
    let tfd = s.driver.run(&ata(0xec, 0, 0, 0), at, 512);
    assert_eq!(tfd, 0x0451);
    let fis = s.machine.memory.read(s.driver.area + 0x40, 20);
    assert_eq!((fis[4], fis[5], fis[6], fis[12]), (1, 0x14, 0xeb, 1));
}

#[test]
fn sense_data_wait_until_they_are_asked_for() {
    let s = setup();
    assert_eq!(s.driver.send(&[0; 6], 0, 0), 0x6441, "power on");
    assert_eq!(sense(&s), (6, 0x29, 1));
    assert_eq!(sense(&s), (0, 0, 0), "once");
    settle(&s);
    assert_eq!(s.driver.send(&read(BLOCKS as u32, 1), 0x1000, 2048), 0x5441);
    assert_eq!(sense(&s), (5, 0x21, 0));
    assert_eq!(s.driver.send(&[0xf7, 0, 0, 0, 0, 0], 0, 0), 0x5441);
    assert_eq!(sense(&s), (5, 0x20, 0));
}

#[test]
fn blocks_by_dma_and_by_pio() {
    let s = setup();
    settle(&s);
    let at = s.machine.memory.alloc(8 * 2048, 2048);
    let all = pattern(1, BLOCKS as usize * 2048);
    for (features, bits) in [(1, DHRS), (0, DHRS | PSS)] {
        s.machine.memory.write(at, &[0; 8 * 2048]);
        s.driver.set(P_IS, 0xffff_ffff);
        let fis = ata(0xa0, features, 2048 << 8, 0);
        s.driver.place(0, &fis, &[(at, 3 * 2048, false)], 1 << 5);
        s.driver.packet(0, &read(7, 3));
        s.driver.set(P_CI, 1);
        s.machine.run();
        assert_eq!((s.driver.get(P_TFD), s.driver.get(P_CI)), (0x40, 0));
        assert_eq!(s.driver.get(P_IS), bits);
        assert_eq!(s.machine.memory.read(at, 3 * 2048), all[7 * 2048..10 * 2048]);
        assert_eq!(s.driver.moved(0), 3 * 2048);
        // Interrupt reason: command complete.
        assert_eq!(s.machine.memory.read(s.driver.area + 0x40 + 12, 1), [3]);
    }
}

#[test]
fn an_answer_is_as_long_as_it_is() {
    let s = setup();
    settle(&s);
    let at = s.machine.memory.alloc(512, 16);
    assert_eq!(s.driver.send(&[0x12, 0, 0, 0, 96, 0], at, 512), 0x40);
    let inquiry = s.machine.memory.read(at, 36);
    assert_eq!((inquiry[0], &inquiry[8..16]), (5, &b"SPINDLE "[..]));
    assert!(s.driver.moved(0) >= 36 && s.driver.moved(0) <= 96);
    assert_eq!(s.driver.send(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], at, 8), 0x40);
    assert_eq!(s.machine.memory.read(at, 8), [0, 0, 0, BLOCKS as u8 - 1, 0, 0, 8, 0]);
    // Less memory than blocks is an overflow.
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.send(&read(0, 2), at, 512);
    assert_eq!(s.driver.get(P_IS), OFS);
}

#[test]
fn a_packet_without_its_bit_is_aborted() {
    let s = setup();
    s.driver.fails(&ata(0xa0, 1, 0, 0), 0, 0, 4);
}

#[test]
fn errors_of_the_medium() {
    let s = setup();
    settle(&s);
    s.faults.add(FaultRule::new(Action::Error(BlockError::Medium))).unwrap();
    let at = s.machine.memory.alloc(2048, 2048);
    assert_eq!(s.driver.send(&read(9, 1), at, 2048), 0x3441);
    assert_eq!(sense(&s), (3, 0x11, 0));
}

#[test]
fn eject_load_and_change() {
    let s = setup();
    settle(&s);
    let at = s.machine.memory.alloc(2048, 2048);
    // Prevented: refused.
    assert_eq!(s.driver.send(&[0x1e, 0, 0, 0, 1, 0], 0, 0), 0x40);
    assert_eq!(s.driver.send(&[0x1b, 0, 0, 0, 2, 0], 0, 0), 0x5441);
    assert_eq!(sense(&s), (5, 0x53, 2));
    assert_eq!(s.driver.send(&[0x1e, 0, 0, 0, 0, 0], 0, 0), 0x40);
    assert_eq!(s.driver.send(&[0x1b, 0, 0, 0, 2, 0], 0, 0), 0x40);
    assert!(s.unit.tray_open());
    assert_eq!(s.driver.send(&[0; 6], 0, 0), 0x2441);
    assert_eq!(sense(&s).0, 2);
    let (root, _) = image(&s.machine, "other", 2);
    s.unit.change_medium(Some(root)).unwrap();
    s.unit.close_tray().unwrap();
    s.machine.run();
    assert_eq!(s.driver.send(&[0; 6], 0, 0), 0x6441);
    assert_eq!(sense(&s), (6, 0x28, 0));
    settle(&s);
    assert_eq!(s.driver.send(&read(0, 1), at, 2048), 0x40);
    assert_eq!(s.machine.memory.read(at, 2048), pattern(2, 2048));
}

#[test]
fn a_forced_eject_waits_for_what_is_in_flight() {
    let s = setup();
    settle(&s);
    let at = s.machine.memory.alloc(2048, 2048);
    let fis = ata(0xa0, 1, 0, 0);
    s.driver.place(0, &fis, &[(at, 2048, false)], 1 << 5);
    s.driver.packet(0, &read(0, 1));
    s.driver.set(P_CI, 1);
    s.machine.turn();
    s.machine.finish(|done| {
        let token = Countdown::new(done);
        s.unit.open_tray(true, &token).unwrap();
    });
    assert_eq!(s.driver.get(P_CI), 0);
}

#[test]
fn device_reset() {
    let s = setup();
    let tfd = s.driver.run(&ata(0x08, 0, 0, 0), 0, 0);
    assert_eq!(tfd, 0x0100);
    let fis = s.machine.memory.read(s.driver.area + 0x40, 20);
    assert_eq!((fis[4], fis[5], fis[6], fis[12]), (1, 0x14, 0xeb, 1));
}
