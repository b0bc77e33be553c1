//! MODE SENSE, MODE SELECT, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL.

use std::sync::Arc;

use spindle_devices::{
    state_file::{DiskState, MemoryStore, Section, StateStore},
    testkit::driver::{ScsiDriver, ScsiReply},
};

use super::setup::{assert_sense, pattern, read, setup, ten, write};

const CACHING: [u8; 20] = [8, 0x12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CONTROL: [u8; 12] = [0x0a, 0x0a, 2, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];

fn sense6(page: u8, subpage: u8) -> [u8; 6] {
    [0x1a, 0, page, subpage, 255, 0]
}

#[test]
fn pages_have_their_golden_bytes() {
    let mut t = setup(1 << 20, |_| ());
    let mut ask = |cdb: &[u8]| {
        let reply = t.driver.command(cdb, &[], 255);
        assert!(reply.is_good(), "{cdb:x?}: {reply:?}");
        reply.data[..255 - reply.residual as usize].to_vec()
    };
    let descriptor = [0, 0, 8, 0, 0, 0, 2, 0];
    let caching = ask(&sense6(8, 0));
    assert_eq!(caching, [&[31, 0, 0x10, 8], &descriptor[..], &CACHING].concat());
    let control = ask(&[0x1a, 8, 0x0a, 0, 255, 0]);
    assert_eq!(control, [&[15, 0, 0x10, 0], &CONTROL[..]].concat(), "without descriptors");
    let long = ask(&[0x5a, 0x10, 8, 0, 0, 0, 0, 0, 255, 0]);
    let long_descriptor = [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    let header = [0, 42, 0, 0x10, 1, 0, 0, 16];
    assert_eq!(long, [&header, &long_descriptor[..], &CACHING].concat());
    let short = ask(&[0x5a, 0, 8, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(short, [&[0, 34, 0, 0x10, 0, 0, 0, 8], &descriptor[..], &CACHING].concat());
    let changeable = ask(&[0x1a, 8, 0x40 | 8, 0, 255, 0]);
    assert_eq!(changeable[4..7], [8, 0x12, 4]);
    let changeable = ask(&[0x1a, 8, 0x40 | 0x0a, 0, 255, 0]);
    assert_eq!(changeable[4..], [0x0a, 0x0a, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    let all = ask(&[0x1a, 8, 0x3f, 0, 255, 0]);
    let codes = |bytes: &[u8]| {
        let (mut at, mut codes) = (4, Vec::new());
        while at < bytes.len() {
            let sub = bytes[at] & 0x40 != 0;
            codes.push((bytes[at] & 0x3f, if sub { bytes[at + 1] } else { 0 }));
            at += if sub { usize::from(bytes[at + 3]) + 4 } else { usize::from(bytes[at + 1]) + 2 };
        }
        codes
    };
    assert_eq!(codes(&all), [(1, 0), (8, 0), (0x0a, 0), (0x1c, 0)]);
    let all = ask(&[0x1a, 8, 0x3f, 0xff, 255, 0]);
    assert_eq!(codes(&all), [(1, 0), (8, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0)]);
}

#[test]
fn mode_sense_refuses_what_there_is_not() {
    let mut t = setup(1 << 20, |_| ());
    for (cdb, key, what) in [
        (sense6(0xc8, 0), (5, 0x39, 0), "saved values"),
        (sense6(0x2a, 0), (5, 0x24, 0), "a page of drives"),
        (sense6(8, 1), (5, 0x24, 0), "a subpage"),
        (sense6(0x3f, 1), (5, 0x24, 0), "all pages with some subpage"),
    ] {
        assert_sense(&t.driver.command(&cdb, &[], 255), key, what);
    }
}

fn select(list: &[u8]) -> [u8; 6] {
    [0x15, 0x10, 0, 0, list.len() as u8, 0]
}

#[test]
fn the_write_cache_can_be_switched() {
    let mut t = setup(1 << 20, |_| ());
    let mut off = CACHING;
    off[2] = 0;
    let list = [&[0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 2, 0], &off[..]].concat();
    let reply = t.driver.command(&select(&list), &list, 0);
    assert!(reply.is_good() && reply.residual == 0, "{reply:?}");
    write(&mut t.driver, 0, &pattern(1, 512));
    assert_eq!(t.machine.world.durable(&t.file).to_vec()[..512], pattern(1, 512));
    assert_eq!(t.driver.command(&sense6(8, 0), &[], 255).data[14], 0);
    let list = [&[0, 0, 0, 0, 0, 0, 0, 0], &CACHING[..]].concat();
    let cdb = [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    assert!(t.driver.command(&cdb, &list, 0).is_good());
    write(&mut t.driver, 1, &pattern(1, 512));
    assert_ne!(t.machine.world.durable(&t.file).to_vec()[512..1024], pattern(1, 512));
    assert!(t.driver.command(&select(&[]), &[], 0).is_good(), "nothing to change");
}

#[test]
fn mode_select_changes_all_or_nothing() {
    let mut t = setup(1 << 20, |_| ());
    let mut off = CACHING;
    off[2] = 0;
    let with = |page: &[u8]| [&[0, 0, 0, 0], &off[..], page].concat();
    let changed = |at: usize, bits: u8| {
        let mut page = CONTROL;
        page[at] ^= bits;
        with(&page)
    };
    for (list, key, what) in [
        (vec![0; 3], (5, 0x1a, 0), "no header"),
        (with(&CONTROL[..7]), (5, 0x1a, 0), "a page cut short"),
        (with(&[0x0a]), (5, 0x1a, 0), "a page without a length"),
        (changed(3, 0x20), (5, 0x26, 0), "a field that cannot be changed"),
        (changed(1, 1), (5, 0x26, 0), "a wrong length"),
        (with(&[0x2a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), (5, 0x26, 0), "no such page"),
        (vec![0, 1, 0, 0], (5, 0x26, 0), "a medium type"),
        (vec![0, 0, 0, 4, 0, 0, 0, 0], (5, 0x26, 0), "a descriptor of another length"),
        (vec![0, 0, 0, 8, 0, 0, 8, 1, 0, 0, 2, 0], (5, 0x26, 0), "another number of blocks"),
        (vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0], (5, 0x26, 0), "another block size"),
        (vec![0, 0, 0, 8, 0, 0, 0, 0], (5, 0x1a, 0), "half a descriptor"),
    ] {
        assert_sense(&t.driver.command(&select(&list), &list, 0), key, what);
        assert_eq!(t.driver.command(&sense6(8, 0), &[], 255).data[14], 4, "{what}: no change");
    }
    for (flags, what) in [(0x00, "PF"), (0x11, "SP"), (0x12, "RTD")] {
        let list = with(&[]);
        let cdb = [0x15, flags, 0, 0, list.len() as u8, 0];
        assert_sense(&t.driver.command(&cdb, &list, 0), (5, 0x24, 0), what);
    }
}

#[test]
fn software_write_protection_protects() {
    let mut t = setup(1 << 20, |_| ());
    let mut protect = CONTROL;
    protect[4] = 8;
    let list = [&[0, 0, 0, 0], &protect[..]].concat();
    assert!(t.driver.command(&select(&list), &list, 0).is_good());
    assert_sense(&t.driver.command(&ten(0x2a, 0, 0, 1), &[1; 512], 0), (7, 0x27, 0), "a write");
    read(&mut t.driver, 0, 1);
    assert_eq!(t.driver.command(&sense6(0x0a, 0), &[], 255).data[2], 0x90, "WP");
    // A reset brings the default back.
    t.driver.tmf(5, [1, 0, 0, 0, 0, 0, 0, 0], 0);
    super::setup::settle(&mut t.driver, 0, 0);
    write(&mut t.driver, 0, &[1; 512]);
}

#[test]
fn a_stopped_unit_is_not_ready() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 0, &pattern(1, 512));
    let start_stop = |flags: u8| [0x1b, 0, 0, 0, flags, 0];
    assert!(t.driver.command(&start_stop(0), &[], 0).is_good());
    let durable = t.machine.world.durable(&t.file).to_vec();
    assert_eq!(durable[..512], pattern(1, 512), "what was cached is written");
    assert_sense(&t.driver.command(&[0; 6], &[], 0), (2, 4, 2), "TEST UNIT READY");
    assert_sense(&t.driver.command(&ten(0x28, 0, 0, 1), &[], 512), (2, 4, 2), "READ");
    assert!(t.driver.command(&[0x12, 0, 0, 0, 36, 0], &[], 36).is_good(), "INQUIRY");
    let sense = t.driver.command(&[3, 0, 0, 0, 18, 0], &[], 18).data;
    assert_eq!((sense[2], sense[12], sense[13]), (2, 4, 2), "REQUEST SENSE");
    assert!(t.driver.command(&start_stop(1), &[], 0).is_good());
    assert_eq!(read(&mut t.driver, 0, 1), pattern(1, 512));
    assert_sense(&t.driver.command(&start_stop(2), &[], 0), (5, 0x24, 0), "there is no tray");
    assert_sense(&t.driver.command(&start_stop(0x30), &[], 0), (5, 0x24, 0), "standby");
}

#[test]
fn removal_may_be_prevented() {
    let mut t = setup(1 << 20, |_| ());
    for prevent in [1, 0] {
        assert!(t.driver.command(&[0x1e, 0, 0, 0, prevent, 0], &[], 0).is_good());
    }
}

#[test]
fn a_reset_of_every_adapter_is_a_power_on() {
    use spindle_devices::testkit::driver::ScsiDriver;
    let mut t = setup(1 << 20, |_| ());
    let second = t.machine.add_scsi("hba1", |_| ());
    second.device.add_lun(0, 0, std::sync::Arc::clone(&t.unit)).unwrap();
    t.machine.assign();
    let start = |at| {
        let mut driver = ScsiDriver::new(&t.machine, at, super::setup::ALL, 1, 64);
        super::setup::settle(&mut driver, 0, 0);
        driver
    };
    let (mut a, mut b) = (start(t.adapter.at), start(second.at));
    let mut off = CACHING;
    off[2] = 0;
    let list = [&[0, 0, 0, 0], &off[..]].concat();
    assert!(a.command(&select(&list), &list, 0).is_good());
    assert!(a.command(&[0x1b, 0, 0, 0, 0, 0], &[], 0).is_good());
    let cache = |driver: &mut ScsiDriver| {
        while driver.command(&[0; 6], &[], 0).key().0 == 6 {}
        driver.command(&sense6(8, 0), &[], 255).data[14]
    };
    assert_eq!(cache(&mut b), 0);
    // One of two: the other still works with the unit.
    let mut a = ScsiDriver::new(&t.machine, t.adapter.at, super::setup::ALL, 1, 64);
    assert_eq!(cache(&mut a), 0);
    assert_sense(&b.command(&[0; 6], &[], 0), (2, 4, 2), "stopped");
    // Both.
    a.function.reset();
    b.function.reset();
    let mut b = start(second.at);
    assert_eq!(cache(&mut b), 4);
    t.driver = b;
}

/// MODE SELECT of a page with SP.
fn save(driver: &mut ScsiDriver, page: &[u8]) -> ScsiReply {
    let list = [&[0, 0, 0, 0], page].concat();
    driver.command(&[0x15, 0x11, 0, 0, list.len() as u8, 0], &list, 0)
}

#[test]
fn saved_pages_outlive_a_reset_and_a_power_loss() {
    let store = MemoryStore::new();
    let on = |store: &Arc<MemoryStore>| {
        let state = DiskState::open(Arc::clone(store) as Arc<dyn StateStore>).unwrap();
        setup(1 << 20, |config| config.state = Some(state))
    };
    let mut t = on(&store);
    // Page control, then whether the page says that it can be saved, and what it says.
    let look = |t: &mut super::setup::Setup, control: u8| {
        let caching = t.driver.command(&[0x1a, 8, control << 6 | 8, 0, 255, 0], &[], 255).data;
        let page = t.driver.command(&[0x1a, 8, control << 6 | 0x0a, 0, 255, 0], &[], 255).data;
        assert_eq!((caching[4], page[4]), (0x88, 0x8a), "PS");
        (caching[6] & 4 != 0, page[6] & 4 != 0, page[8] & 8 != 0)
    };
    for control in [0, 2, 3] {
        assert_eq!(look(&mut t, control), (true, false, false), "{control}");
    }
    let first = t.driver.command(&[0x1a, 8, 1, 0, 255, 0], &[], 255).data;
    assert_eq!(first[4], 1, "nothing of this page can be changed or saved");
    let mut off = CACHING;
    off[2] = 0;
    let mut descriptors = CONTROL;
    descriptors[2] |= 4;
    let list = [&[0, 0, 0, 0], &descriptors[..]].concat();
    assert!(t.driver.command(&select(&list), &list, 0).is_good());
    assert_eq!(store.saves(), 0, "nobody asked for it");
    assert_eq!(look(&mut t, 3), (true, false, false));
    // All pages are saved, the one that was changed before too.
    assert!(save(&mut t.driver, &off).is_good());
    assert_eq!(store.saves(), 1);
    assert_eq!((look(&mut t, 3), look(&mut t, 2)), ((false, true, false), (true, false, false)));
    let list = [&[0, 0, 0, 0], &CACHING[..]].concat();
    assert!(t.driver.command(&select(&list), &list, 0).is_good());
    assert_eq!(look(&mut t, 0), (true, true, false));
    t.driver.tmf(5, [1, 0, 0, 0, 0, 0, 0, 0], 0);
    super::setup::settle(&mut t.driver, 0, 0);
    assert_eq!(look(&mut t, 0), (false, true, false), "after a reset");
    drop(t);
    let mut t = on(&store);
    assert_eq!(look(&mut t, 0), (false, true, false), "after a power loss");
    write(&mut t.driver, 0, &pattern(1, 512));
    assert_eq!(t.machine.world.durable(&t.file).to_vec()[..512], pattern(1, 512), "no cache");
    // What cannot be stored is not said to be.
    store.fail(true);
    assert_sense_descriptor(&save(&mut t.driver, &CACHING), (4, 0x44, 0));
    store.fail(false);
    // A file that holds something else is no reason not to work.
    drop(t);
    let state = DiskState::open(Arc::clone(&store) as Arc<dyn StateStore>).unwrap();
    for bytes in [vec![], vec![0xff], vec![0, 0]] {
        let section = Section { version: 1, bytes };
        state.put("scsi-mode", section, Box::new(|result| result.unwrap()));
        let mut t = on(&store);
        assert_eq!(look(&mut t, 0), (true, false, false));
    }
}

/// Sense data in descriptor format: key, code and qualifier.
fn assert_sense_descriptor(reply: &ScsiReply, (key, code, qualifier): (u8, u8, u8)) {
    assert_eq!(reply.status, 2, "{reply:?}");
    assert_eq!(reply.sense[..4], [0x72, key, code, qualifier]);
}
