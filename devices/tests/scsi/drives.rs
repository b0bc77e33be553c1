//! CD and DVD drives: what they read, what they tell of their disc, and their tray.

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use spindle_block::{
    Root,
    nodes::{
        file::FileNode,
        null::{NullNode, NullOptions},
    },
    root::Policy,
};
use spindle_devices::{
    device::Countdown,
    scsi::{LogicalUnit, TrayError, UnitConfig, UnitKind},
    testkit::{Machine, ScsiAdapter, driver::ScsiDriver},
};

use super::setup::{ALL, assert_sense, pattern, settle, ten, twelve};

const READY: [u8; 6] = [0; 6];
const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];

struct Setup {
    machine: Rc<Machine>,
    driver: ScsiDriver,
    unit: Arc<LogicalUnit>,
    moves: Arc<Mutex<Vec<bool>>>,
    adapter: ScsiAdapter,
}

fn setup(root: impl FnOnce(&Machine) -> Option<Arc<Root>>) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let adapter = machine.add_scsi("hba0", |_| ());
    let moves = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&moves);
    let config = UnitConfig {
        on_tray: Some(Arc::new(move |open| noted.lock().unwrap().push(open))),
        ..UnitConfig::new("cd0", UnitKind::Cd)
    };
    let unit = LogicalUnit::new(config, root(&machine));
    adapter.device.add_lun(0, 0, Arc::clone(&unit)).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 64);
    assert_sense(&driver.command(&READY, &[], 0), (6, 0x29, 1), "power on");
    Setup { machine, driver, unit, moves, adapter }
}

fn image(machine: &Machine, name: &str, seed: u8) -> Arc<Root> {
    let file = machine.world.create_file(name, &pattern(seed, 100 * 2048), 100 * 2048);
    let node = FileNode::over(file, 100 * 2048, 1, false);
    Root::new(name, node, Policy { read_only: true, ..Policy::default() })
}

fn cd() -> Setup {
    setup(|machine| Some(image(machine, "cd", 1)))
}

fn dvd() -> Setup {
    setup(|_| {
        let node = NullNode::new(NullOptions { size: 4 << 30, ..NullOptions::default() });
        Some(Root::new("dvd", node, Policy { read_only: true, ..Policy::default() }))
    })
}

impl Setup {
    fn reply(&mut self, cdb: &[u8]) -> Vec<u8> {
        let reply = self.driver.command(cdb, &[], 4096);
        assert!(reply.is_good(), "{cdb:x?}: {reply:?}");
        reply.data[..4096 - reply.residual as usize].to_vec()
    }

    fn refused(&mut self, cdb: &[u8], key: (u8, u8, u8), what: &str) {
        assert_sense(&self.driver.command(cdb, &[], 4096), key, what);
    }

    /// Class, event and status of the next media event.
    fn media_event(&mut self) -> (u8, u8) {
        let data = self.reply(&[0x4a, 1, 0, 0, 0x10, 0, 0, 16, 0, 0]);
        assert_eq!(data[..4], [0, 6, 4, 0x14]);
        (data[4], data[5])
    }

    fn moves(&self) -> Vec<bool> {
        std::mem::take(&mut self.moves.lock().unwrap())
    }
}

#[test]
fn a_disc_is_read_in_blocks_of_2048_bytes() {
    let mut t = cd();
    let expected = pattern(1, 100 * 2048);
    assert_eq!(t.reply(&ten(0x28, 0, 7, 2)), expected[7 * 2048..9 * 2048]);
    assert_eq!(t.reply(&twelve(0xa8, 0, 98, 2)), expected[98 * 2048..]);
    t.refused(&ten(0x28, 0, 99, 2), (5, 0x21, 0), "beyond the end");
    assert_eq!(t.reply(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0, 99, 0, 0, 8, 0]);
    let inquiry = t.reply(&[0x12, 0, 0, 0, 96, 0]);
    assert_eq!(inquiry[..3], [5, 0x80, 7]);
    assert_eq!(inquiry[16..32], *b"CD-ROM          ");
    assert_eq!(inquiry[58..66], [0, 0xa0, 5, 0xc0, 4, 0x60, 4, 0xe0]);
    assert_eq!(t.reply(&[0x12, 1, 0, 0, 96, 0]), [5, 0, 0, 4, 0, 0x80, 0x83, 0x86]);
    for opcode in [0x0a, 0x2a, 0x8a, 0xaa, 0x41, 0x42, 0x04, 0x5f, 0x88, 0x9e] {
        let reply = t.driver.command(&[opcode], &[], 0);
        assert_sense(&reply, (5, 0x20, 0), &format!("{opcode:#x}"));
    }
    assert!(t.driver.command(&ten(0x35, 0, 0, 0), &[], 0).is_good(), "nothing to flush");
}

#[test]
fn read_cd_reads_user_data() {
    let mut t = cd();
    let read_cd = |kind: u8, blocks: u8, flags: u8, sub: u8| {
        [0xbe, kind << 2, 0, 0, 0, 5, 0, 0, blocks, flags, sub, 0]
    };
    let expected = &pattern(1, 7 * 2048)[5 * 2048..];
    for kind in [0, 2] {
        assert_eq!(t.reply(&read_cd(kind, 2, 0x10, 0)), expected);
    }
    assert!(t.reply(&read_cd(0, 2, 0, 0)).is_empty(), "nothing was asked for");
    t.refused(&read_cd(1, 1, 0x10, 0), (5, 0x64, 0), "audio");
    t.refused(&read_cd(0, 1, 0xf8, 0), (5, 0x24, 0), "raw sectors");
    t.refused(&read_cd(0, 1, 0x10, 1), (5, 0x24, 0), "sub-channels");
    let mut end = read_cd(0, 2, 0x10, 0);
    end[5] = 99;
    t.refused(&end, (5, 0x21, 0), "beyond the end");
}

#[test]
fn tables_of_contents_have_their_golden_bytes() {
    let mut t = cd();
    let toc = |msf: u8, format: u8, track: u8| [0x43, msf, format, 0, 0, 0, track, 16, 0, 0];
    let expected = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0, 100];
    assert_eq!(t.reply(&toc(0, 0, 0)), expected);
    assert_eq!(t.reply(&toc(0, 0, 1)), expected);
    let expected = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 3, 25];
    assert_eq!(t.reply(&toc(2, 0, 0)), expected);
    assert_eq!(t.reply(&toc(0, 0, 0xaa)), [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 0, 100]);
    assert_eq!(t.reply(&toc(0, 1, 0)), [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    let full = t.reply(&toc(0, 2, 0));
    assert_eq!(full[..4], [0, 46, 1, 1]);
    let points: Vec<_> = full[4..].chunks(11).map(|e| (e[3], [e[8], e[9], e[10]])).collect();
    assert_eq!(points, [(0xa0, [1, 0, 0]), (0xa1, [1, 0, 0]), (0xa2, [0, 3, 25]), (1, [0, 2, 0])]);
    // The format as SFF-8020i has it.
    let mut old = toc(0, 0, 0);
    old[9] = 0x40;
    assert_eq!(t.reply(&old)[..2], [0, 10]);
    t.refused(&toc(0, 0, 2), (5, 0x24, 0), "a track that there is not");
    t.refused(&toc(0, 2, 2), (5, 0x24, 0), "a session that there is not");
    t.refused(&toc(0, 4, 0), (5, 0x24, 0), "ATIP");
}

#[test]
fn features_follow_the_disc() {
    let configuration = |rt: u8, first: u16| {
        let [high, low] = first.to_be_bytes();
        [0x46, rt, high, low, 0, 0, 0, 16, 0, 0]
    };
    let codes = |data: &[u8]| {
        let len = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
        assert_eq!(len + 4, data.len());
        let (mut at, mut all) = (8, Vec::new());
        while at < data.len() {
            let code = u16::from_be_bytes([data[at], data[at + 1]]);
            all.push((code, data[at + 2] & 1 != 0));
            at += 4 + usize::from(data[at + 3]);
        }
        all
    };
    for (mut t, profile, is_cd, is_dvd) in
        [(cd(), 8u8, true, false), (dvd(), 0x10, false, true), (setup(|_| None), 0, false, false)]
    {
        let data = t.reply(&configuration(0, 0));
        assert_eq!(data[6..8], [0, profile]);
        let loaded = is_cd || is_dvd;
        assert_eq!(
            codes(&data),
            [
                (0, true),
                (1, true),
                (2, true),
                (3, true),
                (0x10, loaded),
                (0x1e, is_cd),
                (0x1f, is_dvd),
                (0x100, true),
                (0x105, true),
            ]
        );
        let current = codes(&t.reply(&configuration(1, 4)));
        assert_eq!(current.len(), if loaded { 4 } else { 2 });
        let one = t.reply(&configuration(2, 3));
        assert_eq!(one[8..], [0, 3, 3, 4, 0x29, 0, 0, 0]);
        assert_eq!(codes(&t.reply(&configuration(2, 0x21))), []);
        t.refused(&configuration(3, 0), (5, 0x24, 0), "a reserved RT");
    }
}

#[test]
fn a_disc_is_described() {
    let mut t = cd();
    let data = t.reply(&[0x51, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(data[..8], [0, 32, 0x0e, 1, 1, 1, 1, 0x20]);
    t.refused(&[0x51, 1, 0, 0, 0, 0, 0, 1, 0, 0], (5, 0x24, 0), "track resources");
    let track = |kind: u8, address: u8| [0x52, kind, 0, 0, 0, address, 0, 1, 0, 0];
    for (kind, address) in [(0, 50), (1, 1), (2, 1)] {
        let data = t.reply(&track(kind, address));
        assert_eq!(data[..7], [0, 34, 1, 1, 0, 4, 1], "kind {kind}");
        assert_eq!(data[24..28], [0, 0, 0, 100]);
    }
    t.refused(&track(0, 100), (5, 0x21, 0), "beyond the end");
    t.refused(&track(1, 2), (5, 0x24, 0), "a track that there is not");
    t.refused(&track(3, 1), (5, 0x24, 0), "a reserved kind");
}

#[test]
fn a_dvd_has_structures_and_a_cd_has_none() {
    let structure =
        |media: u8, layer: u8, format: u8| [0xad, media, 0, 0, 0, 0, layer, format, 16, 0, 0, 0];
    let mut t = dvd();
    let data = t.reply(&structure(0, 0, 0));
    assert_eq!((data.len(), &data[..8]), (2052, &[8, 2, 0, 0, 1, 0x0f, 1, 0][..]));
    let last = 0x3_0000 + (1u32 << 21) - 1;
    assert_eq!(data[8..16], [[0, 3, 0, 0], last.to_be_bytes()].concat());
    assert_eq!(t.reply(&structure(0, 0, 1)), [0, 6, 0, 0, 0, 0, 0, 0]);
    assert_eq!(t.reply(&structure(0, 0, 4)).len(), 2052);
    let list = t.reply(&structure(0, 0, 0xff));
    assert_eq!(list[..8], [0, 14, 0, 0, 0, 0x40, 8, 4]);
    t.refused(&structure(1, 0, 0), (5, 0x24, 0), "a Blu-ray disc");
    t.refused(&structure(0, 1, 0), (5, 0x24, 0), "a second layer");
    t.refused(&structure(0, 0, 2), (5, 0x24, 0), "a format that there is not");
    cd().refused(&structure(0, 0, 0), (5, 0x30, 0), "a CD");
}

#[test]
fn modes_have_their_golden_bytes() {
    let mut t = cd();
    let data = t.reply(&[0x5a, 8, 0x2a, 0, 0, 0, 0, 0, 64, 0]);
    assert_eq!(data[..16], [0, 28, 0, 0, 0, 0, 0, 0, 0x2a, 20, 0x1b, 0, 0, 0, 0x29, 0]);
    assert!(t.driver.command(&[0x1e, 0, 0, 0, 1, 0], &[], 0).is_good());
    let data = t.reply(&[0x5a, 8, 0x2a, 0, 0, 0, 0, 0, 64, 0]);
    assert_eq!(data[14], 0x2b, "locked");
}

#[test]
fn an_empty_drive_is_not_ready() {
    let mut t = setup(|_| None);
    t.refused(&READY, (2, 0x3a, 0), "TEST UNIT READY");
    t.refused(&ten(0x28, 0, 0, 1), (2, 0x3a, 0), "READ");
    t.refused(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], (2, 0x3a, 0), "READ CAPACITY");
    t.refused(&[0x43, 0, 0, 0, 0, 0, 0, 16, 0, 0], (2, 0x3a, 0), "READ TOC");
    assert_eq!(t.media_event(), (0, 0));
}

#[test]
fn the_tray_opens_and_closes() {
    let mut t = cd();
    assert_eq!(t.media_event(), (0, 2), "nothing happened; there is a medium");
    assert!(t.driver.command(&EJECT, &[], 0).is_good());
    assert!(t.driver.command(&EJECT, &[], 0).is_good(), "it is open already");
    assert!(t.unit.tray_open());
    assert_eq!(t.moves(), [true]);
    t.refused(&READY, (2, 0x3a, 2), "the tray is open");
    assert_eq!(t.media_event(), (3, 1));
    assert_eq!(t.media_event(), (0, 1), "it is told once");
    assert_eq!(t.reply(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0])[1], 0x10, "door open");
    assert!(t.driver.command(&LOAD, &[], 0).is_good());
    assert_eq!(t.moves(), [false]);
    t.refused(&READY, (6, 0x28, 0), "the medium may have changed");
    assert_eq!(t.media_event(), (2, 2));
    assert!(t.driver.command(&READY, &[], 0).is_good());
    assert_eq!(t.reply(&ten(0x28, 0, 0, 1)), pattern(1, 2048));
    // Power management is always active, and media have precedence when something happened.
    assert_eq!(t.reply(&[0x4a, 1, 0, 0, 0x14, 0, 0, 0, 16, 0]), [0, 6, 2, 0x14, 0, 1, 0, 0]);
    assert_eq!(t.reply(&[0x4a, 1, 0, 0, 0x40, 0, 0, 0, 16, 0]), [0, 2, 0x80, 0x14]);
    t.refused(&[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 16, 0], (5, 0x24, 0), "asynchronous");
}

#[test]
fn a_held_tray_is_not_moved_by_the_guest() {
    let mut t = cd();
    t.unit.hold_tray(true);
    t.unit.open_tray(true, &Countdown::new(Box::new(|| ()))).unwrap();
    assert!(t.driver.command(&LOAD, &[], 0).is_good());
    assert!(t.unit.tray_open(), "it would be closed in the middle of a change");
    assert!(t.unit.change_medium(None).is_ok_and(|medium| medium.is_some()));
    t.unit.close_tray().unwrap();
    assert!(t.driver.command(&EJECT, &[], 0).is_good());
    assert!(!t.unit.tray_open());
    t.unit.hold_tray(false);
    assert!(t.driver.command(&EJECT, &[], 0).is_good());
    assert_eq!(t.moves(), [true, false, true]);
}

#[test]
fn a_locked_tray_opens_only_by_force() {
    let mut t = cd();
    let token = || Countdown::new(Box::new(|| ()));
    assert!(t.driver.command(&[0x1e, 0, 0, 0, 1, 0], &[], 0).is_good());
    t.refused(&EJECT, (5, 0x53, 2), "it is locked");
    assert_eq!(t.unit.open_tray(false, &token()), Err(TrayError::Locked));
    assert_eq!(t.media_event(), (1, 2), "the guest is asked");
    t.refused(&READY, (6, 0x5a, 1), "the guest is asked");
    assert!(t.moves().is_empty());
    t.unit.open_tray(true, &token()).unwrap();
    assert_eq!(t.moves(), [true]);
    t.unit.close_tray().unwrap();
    settle(&mut t.driver, 0, 0);
    assert!(t.driver.command(&[0x1e, 0, 0, 0, 0, 0], &[], 0).is_good());
    t.unit.open_tray(false, &token()).unwrap();
    assert!(t.unit.tray_open());
    let (disk, _) = t.machine.scsi_disk("disk", 1 << 20, |_| ());
    assert_eq!(disk.open_tray(true, &token()), Err(TrayError::NoTray));
    assert_eq!(disk.close_tray(), Err(TrayError::NoTray));
    assert_eq!(disk.change_medium(None).err(), Some(TrayError::NoTray));
}

#[test]
fn another_medium_is_another_medium() {
    let mut t = cd();
    let old = t.unit.root().unwrap();
    assert_eq!(t.reply(&ten(0x28, 0, 0, 1)), pattern(1, 2048));
    let new = image(&t.machine, "other", 9);
    assert_eq!(t.unit.change_medium(Some(Arc::clone(&new))).err(), Some(TrayError::Closed));
    // A read is under way while the tray opens: it ends as it would have.
    let ticket = t.driver.offer(0, ScsiDriver::lun(0, 0), &ten(0x28, 0, 1, 1), &[], 2048);
    t.driver.rings[0].notify();
    t.machine.turn();
    let unused = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&unused);
    let token = Countdown::new(Box::new(move || flag.store(true, SeqCst)));
    t.unit.open_tray(false, &token).unwrap();
    drop(token);
    t.machine.turn();
    assert!(!unused.load(SeqCst), "a read is in flight");
    t.machine.run();
    assert!(unused.load(SeqCst));
    let reply = t.driver.reply(0, &ticket).unwrap();
    assert_eq!((reply.is_good(), reply.data), (true, pattern(1, 4096)[2048..].to_vec()));
    let taken = t.unit.change_medium(Some(new)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&taken, &old));
    drop(taken);
    assert_eq!(Arc::strong_count(&old), 1, "nobody holds the old medium");
    t.unit.close_tray().unwrap();
    let event = std::iter::from_fn(|| t.driver.event()).find(|event| event.reason == 0x0028);
    assert!(event.is_some_and(|event| event.event == 3), "the driver is told");
    settle(&mut t.driver, 0, 0);
    assert_eq!(t.reply(&ten(0x28, 0, 0, 1)), pattern(9, 2048));
}

#[test]
fn notifications_are_sent_to_whom_they_were_promised() {
    let mut t = cd();
    let lun = ScsiDriver::lun(0, 0);
    assert_eq!(t.driver.notifications(false, lun, u32::MAX), (16, 0));
    assert_eq!(t.driver.notifications(true, lun, 2 | 16), (16, 0));
    assert_eq!(t.driver.notifications(false, ScsiDriver::lun(0, 1), 16), (0, 12));
    assert_eq!(t.driver.notifications(false, ScsiDriver::lun(1, 0), 16), (0, 3));
    assert!(t.driver.command(&EJECT, &[], 0).is_good());
    let events: Vec<_> = std::iter::from_fn(|| t.driver.event()).collect();
    assert!(events.iter().any(|event| (event.event, event.reason) == (2, 16)), "{events:?}");
    assert_eq!(t.adapter.device.luns().len(), 1);
}
