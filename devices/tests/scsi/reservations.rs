//! PERSISTENT RESERVE IN and OUT, by two initiators, a third that may be a stranger, and one that
//! only looks.

use std::{rc::Rc, sync::Arc};

use spindle_devices::{
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    state_file::{DiskState, MemoryStore, Section, StateStore},
    testkit::{
        Machine,
        driver::{ScsiDriver, ScsiReply},
    },
};

use super::setup::{ALL, assert_sense, pattern, settle, ten};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const IGNORE: u8 = 6;
const MOVE: u8 = 7;

const CONFLICT: u8 = 0x18;

struct Setup {
    machine: Rc<Machine>,
    drivers: Vec<ScsiDriver>,
    unit: Arc<LogicalUnit>,
}

fn setup(state: Option<Arc<DiskState>>) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let names = ["hba0", "hba1", "hba2", "observer"];
    let adapters = names.map(|name| machine.add_scsi(name, |_| ()));
    let (unit, _) = machine.scsi_disk("disk0", 1 << 20, |config| config.state = state);
    for adapter in &adapters {
        adapter.device.add_lun(0, 0, Arc::clone(&unit)).unwrap();
    }
    machine.assign();
    let machine = Rc::new(machine);
    let drivers = adapters
        .iter()
        .map(|adapter| {
            let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 64);
            settle(&mut driver, 0, 0);
            driver
        })
        .collect();
    Setup { machine, drivers, unit }
}

fn list(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend(action_key.to_be_bytes());
    list.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    list
}

fn cdb(action: u8, kind: u8, len: usize) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, len as u8, 0]
}

impl Setup {
    fn out(&mut self, who: usize, action: u8, kind: u8, keys: (u64, u64)) -> ScsiReply {
        let list = list(keys.0, keys.1, 0);
        self.drivers[who].command(&cdb(action, kind, 24), &list, 0)
    }

    fn good(&mut self, who: usize, action: u8, kind: u8, keys: (u64, u64)) {
        let reply = self.out(who, action, kind, keys);
        assert!(reply.is_good() && reply.residual == 0, "{who}: {action} {kind}: {reply:?}");
    }

    fn conflict(&mut self, who: usize, action: u8, kind: u8, keys: (u64, u64)) {
        let reply = self.out(who, action, kind, keys);
        assert_eq!((reply.response, reply.status), (0, CONFLICT), "{who}: {action}: {reply:?}");
    }

    fn read_in(&mut self, who: usize, action: u8) -> Vec<u8> {
        let reply = self.drivers[who].command(&[0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256);
        assert!(reply.is_good(), "{reply:?}");
        reply.data[..256 - reply.residual as usize].to_vec()
    }

    /// PRGENERATION and the keys.
    fn keys(&mut self) -> (u32, Vec<u64>) {
        let data = self.read_in(3, 0);
        let generation = u32::from_be_bytes(data[..4].try_into().unwrap());
        assert_eq!(data[4..8], (data.len() as u32 - 8).to_be_bytes());
        let keys = data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().unwrap()));
        (generation, keys.collect())
    }

    /// The holder's key and the type.
    fn reservation(&mut self) -> Option<(u64, u8)> {
        let data = self.read_in(3, 1);
        if data.len() == 8 {
            return None;
        }
        assert_eq!((data.len(), data[7]), (24, 16));
        Some((u64::from_be_bytes(data[8..16].try_into().unwrap()), data[21]))
    }

    fn attention(&mut self, who: usize, code: (u8, u8)) {
        let reply = self.drivers[who].command(&[0; 6], &[], 0);
        assert_sense(&reply, (6, code.0, code.1), &format!("initiator {who}"));
    }

    fn ready(&mut self, who: usize) {
        let reply = self.drivers[who].command(&[0; 6], &[], 0);
        assert!(reply.is_good(), "initiator {who}: {reply:?}");
    }

    /// Whether reading and writing are allowed.
    fn access(&mut self, who: usize) -> (bool, bool) {
        let driver = &mut self.drivers[who];
        let read = driver.command(&ten(0x28, 0, 0, 1), &[], 512);
        let write = driver.command(&ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
        for reply in [&read, &write] {
            assert!(reply.is_good() || reply.status == CONFLICT, "{reply:?}");
        }
        (read.is_good(), write.is_good())
    }
}

#[test]
fn keys_are_registered_changed_and_taken_back() {
    let mut t = setup(None);
    assert_eq!(t.keys(), (0, vec![]));
    t.conflict(0, REGISTER, 0, (5, 1));
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    assert_eq!(t.keys(), (2, vec![1, 2]));
    t.conflict(0, REGISTER, 0, (0, 3));
    t.conflict(0, REGISTER, 0, (2, 3));
    t.good(0, REGISTER, 0, (1, 3));
    t.good(1, IGNORE, 0, (99, 4));
    t.good(2, IGNORE, 0, (99, 5));
    assert_eq!(t.keys(), (5, vec![3, 4, 5]));
    t.good(1, REGISTER, 0, (4, 0));
    t.good(2, IGNORE, 0, (0, 0));
    assert_eq!(t.keys(), (7, vec![3]));
    t.good(1, IGNORE, 0, (0, 0));
    t.good(1, REGISTER, 0, (0, 0));
    assert_eq!(t.keys(), (7, vec![3]), "nothing to take back");
}

#[test]
fn each_type_lets_in_whom_it_says() {
    // Type; what another registrant may, and what one who is not registered may: read, write.
    let cases = [
        (1, (true, false), (true, false)),
        (3, (false, false), (false, false)),
        (5, (true, true), (true, false)),
        (6, (true, true), (false, false)),
        (7, (true, true), (true, false)),
        (8, (true, true), (false, false)),
    ];
    for (kind, registrant, stranger) in cases {
        let mut t = setup(None);
        t.good(0, REGISTER, 0, (0, 1));
        t.good(1, REGISTER, 0, (0, 2));
        assert_eq!(t.reservation(), None);
        t.good(0, RESERVE, kind, (1, 0));
        let key = if kind >= 7 { 0 } else { 1 };
        assert_eq!(t.reservation(), Some((key, kind)));
        assert_eq!(t.access(0), (true, true), "type {kind}: the holder");
        assert_eq!(t.access(1), registrant, "type {kind}: a registrant");
        assert_eq!(t.access(2), stranger, "type {kind}: a stranger");
        // What is never kept from anybody.
        t.ready(2);
        for (command, len) in [(&[0x12, 0, 0, 0, 36, 0][..], 36), (&[3, 0, 0, 0, 18, 0], 18)] {
            assert!(t.drivers[2].command(command, &[], len).is_good());
        }
        let capacity = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(t.drivers[2].command(&capacity, &[], 8).is_good());
        // Other writers, with every kind of write.
        let others: &[&[u8]] = &[
            &ten(0x35, 0, 0, 0),
            &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x04, 0, 0, 0, 0, 0],
            &[0x1b, 0, 0, 0, 0, 0],
            &[0x1e, 0, 0, 0, 1, 0],
            &[0x15, 0x10, 0, 0, 0, 0],
        ];
        for command in others {
            assert_eq!(t.drivers[2].command(command, &[], 0).status, CONFLICT, "{command:x?}");
        }
        // Again is fine for a holder; another type or another initiator is not.
        t.good(0, RESERVE, kind, (1, 0));
        t.conflict(0, RESERVE, if kind == 1 { 3 } else { 1 }, (1, 0));
        if kind >= 7 {
            t.good(1, RESERVE, kind, (2, 0));
        } else {
            t.conflict(1, RESERVE, kind, (2, 0));
        }
        t.conflict(2, RESERVE, kind, (0, 0));
        t.conflict(0, RESERVE, kind, (9, 0));
    }
}

#[test]
fn only_the_holder_releases() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    t.good(0, RELEASE, 5, (1, 0));
    t.good(0, RESERVE, 5, (1, 0));
    t.good(1, RELEASE, 5, (2, 0));
    t.conflict(1, RELEASE, 5, (7, 0));
    t.conflict(2, RELEASE, 5, (0, 0));
    assert_eq!(t.reservation(), Some((1, 5)), "nobody else releases it");
    let wrong = t.out(0, RELEASE, 1, (1, 0));
    assert_sense(&wrong, (5, 0x26, 4), "another type");
    let before = t.keys().0;
    t.good(0, RELEASE, 5, (1, 0));
    assert_eq!((t.reservation(), t.keys().0), (None, before));
    t.attention(1, (0x2a, 4));
    t.ready(0);
    // A holder that goes takes the reservation along.
    t.good(0, RESERVE, 5, (1, 0));
    t.good(0, REGISTER, 0, (1, 0));
    assert_eq!(t.reservation(), None);
    t.attention(1, (0x2a, 4));
    // All registrants hold such a one: it goes with the last.
    t.good(0, REGISTER, 0, (0, 1));
    t.good(0, RESERVE, 8, (1, 0));
    t.good(0, REGISTER, 0, (1, 0));
    assert_eq!(t.reservation(), Some((0, 8)));
    t.good(1, REGISTER, 0, (2, 0));
    assert_eq!(t.reservation(), None);
}

#[test]
fn a_clear_takes_everything() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    t.good(0, RESERVE, 1, (1, 0));
    t.conflict(2, CLEAR, 0, (0, 0));
    t.conflict(1, CLEAR, 0, (1, 0));
    t.good(1, CLEAR, 0, (2, 0));
    assert_eq!((t.keys(), t.reservation()), ((3, vec![]), None));
    t.attention(0, (0x2a, 3));
    t.ready(1);
    t.ready(2);
}

#[test]
fn a_preempt_takes_registrations_and_the_reservation() {
    let mut t = setup(None);
    for (who, key) in [(0, 1), (1, 2), (2, 2)] {
        t.good(who, REGISTER, 0, (0, key));
    }
    t.conflict(0, PREEMPT, 1, (9, 2));
    t.conflict(0, PREEMPT, 1, (1, 77));
    assert_sense(&t.out(0, PREEMPT, 1, (1, 0)), (5, 0x26, 0), "no key");
    // Registrations only: there is no reservation.
    t.good(0, PREEMPT, 1, (1, 2));
    assert_eq!((t.keys(), t.reservation()), ((4, vec![1]), None));
    t.attention(1, (0x2a, 5));
    t.attention(2, (0x2a, 5));
    t.ready(0);
    // The reservation too, and those who stay learn of the new type.
    t.good(1, REGISTER, 0, (0, 2));
    t.good(2, REGISTER, 0, (0, 3));
    t.good(1, RESERVE, 1, (2, 0));
    t.good(0, PREEMPT, 3, (1, 2));
    assert_eq!((t.keys().1, t.reservation()), (vec![1, 3], Some((1, 3))));
    t.attention(1, (0x2a, 5));
    t.attention(2, (0x2a, 4));
    // Somebody who holds nothing.
    t.good(0, PREEMPT, 3, (1, 3));
    assert_eq!((t.keys().1, t.reservation()), (vec![1], Some((1, 3))));
    t.attention(2, (0x2a, 5));
    // With all registrants, zero means all others.
    t.good(0, RELEASE, 3, (1, 0));
    t.good(1, REGISTER, 0, (0, 2));
    t.good(2, REGISTER, 0, (0, 3));
    t.good(0, RESERVE, 7, (1, 0));
    t.good(1, PREEMPT, 1, (2, 0));
    assert_eq!((t.keys().1, t.reservation()), (vec![2], Some((2, 1))));
    t.attention(0, (0x2a, 5));
    t.attention(2, (0x2a, 5));
    // Its own reservation, for another type.
    t.good(1, PREEMPT, 5, (2, 2));
    assert_eq!((t.keys().1, t.reservation()), (vec![2], Some((2, 5))));
}

#[test]
fn preempt_and_abort_ends_commands_first() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    t.good(1, RESERVE, 5, (2, 0));
    let lun = ScsiDriver::lun(0, 0);
    let writes: Vec<_> =
        (0..3).map(|i| t.drivers[1].offer(0, lun, &ten(0x2a, 0, i, 1), &[7; 512], 0)).collect();
    t.drivers[1].rings[0].notify();
    t.machine.turn();
    let preempt = t.drivers[0].offer(0, lun, &cdb(PREEMPT_AND_ABORT, 1, 24), &list(1, 2, 0), 0);
    t.drivers[0].rings[0].notify();
    t.machine.turn();
    assert_eq!(t.drivers[0].look(&preempt, 0).response, 0xee, "writes are in flight");
    t.machine.run();
    assert!(t.drivers[0].reply(0, &preempt).unwrap().is_good());
    for write in &writes {
        assert_eq!(t.drivers[1].look(write, 0).response, 2, "aborted");
    }
    while t.drivers[1].rings[0].take().is_some() {}
    assert_eq!(t.reservation(), Some((1, 1)));
    t.attention(1, (0x2a, 5));
    assert_eq!(t.access(1), (true, false));
}

#[test]
fn preempt_and_abort_does_not_wait_for_a_paused_adapter() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    let paused = t.machine.pci.get(t.drivers[1].function.address).unwrap();
    t.machine.finish(|done| paused.pause(done));
    let write = t.drivers[1].offer(0, ScsiDriver::lun(0, 0), &ten(0x2a, 0, 0, 1), &[7; 512], 0);
    t.drivers[1].rings[0].notify();
    t.good(0, PREEMPT_AND_ABORT, 1, (1, 2));
    paused.resume();
    t.machine.run();
    assert_eq!(t.drivers[1].look(&write, 0).response, 2, "it was sent before");
}

#[test]
fn a_reservation_can_be_moved() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    let full = t.read_in(0, 3);
    // The second descriptor's TransportID.
    let target = full[8 + 48 + 24..8 + 96].to_vec();
    let body = |key: u64, action_key: u64, unregister: u8, id: &[u8]| {
        let mut list = key.to_be_bytes().to_vec();
        list.extend(action_key.to_be_bytes());
        list.extend([0, unregister, 0, 1]);
        list.extend((id.len() as u32).to_be_bytes());
        list.extend(id);
        list
    };
    let send =
        |t: &mut Setup, list: &[u8]| t.drivers[0].command(&cdb(MOVE, 0, list.len()), list, 0);
    let ok = body(1, 8, 2, &target);
    assert_eq!(send(&mut t, &ok).status, CONFLICT, "there is no reservation");
    t.good(0, RESERVE, 3, (1, 0));
    assert_eq!(send(&mut t, &body(9, 8, 2, &target)).status, CONFLICT, "a wrong key");
    assert_sense(&send(&mut t, &body(1, 0, 2, &target)), (5, 0x26, 0), "no new key");
    assert_sense(&send(&mut t, &body(1, 8, 2, &[6; 24])), (5, 0x26, 0), "nobody");
    let own = full[8 + 24..8 + 48].to_vec();
    assert_sense(&send(&mut t, &body(1, 8, 2, &own)), (5, 0x26, 0), "to itself");
    assert_sense(&send(&mut t, &ok[..40]), (5, 0x1a, 0), "cut short");
    assert!(send(&mut t, &ok).is_good());
    assert_eq!((t.keys().1, t.reservation()), (vec![8], Some((8, 3))));
    assert_eq!(t.access(1), (true, true));
    assert_eq!(t.access(0), (false, false));
}

#[test]
fn a_registration_may_be_for_other_ports_too() {
    const SPEC_I_PT: u8 = 8;
    const ALL_TG_PT: u8 = 4;
    let mut t = setup(None);
    // Learn the TransportIDs of the first three ports.
    (0..3).for_each(|who| t.good(who, IGNORE, 0, (0, 5)));
    let full = t.read_in(3, 3);
    let id = |i: usize| full[8 + 48 * i + 24..8 + 48 * (i + 1)].to_vec();
    let (first, second, third) = (id(0), id(1), id(2));
    t.good(0, CLEAR, 0, (5, 0));
    t.attention(1, (0x2a, 3));
    t.attention(2, (0x2a, 3));
    let body = |action_key: u64, flags: u8, ids: &[u8]| {
        let mut list = list(0, action_key, flags);
        list.extend((ids.len() as u32).to_be_bytes());
        list.extend(ids);
        list
    };
    let send = |t: &mut Setup, action: u8, list: &[u8]| {
        t.drivers[0].command(&cdb(action, 0, list.len()), list, 0)
    };
    let both = [second, third].concat();
    let ok = body(7, SPEC_I_PT, &both);
    for (action, list, key, what) in [
        (IGNORE, ok.clone(), (5, 0x26, 0), "it is for REGISTER alone"),
        (REGISTER, ok[..26].to_vec(), (5, 0x1a, 0), "no length"),
        (REGISTER, ok[..60].to_vec(), (5, 0x1a, 0), "cut short"),
        (REGISTER, body(7, SPEC_I_PT, &both[..30]), (5, 0x26, 0), "half an ID"),
        (REGISTER, body(7, SPEC_I_PT, &[6; 24]), (5, 0x26, 0), "nobody"),
        (REGISTER, body(7, 0, &both), (5, 0x1a, 0), "more than the list has"),
    ] {
        assert_sense(&send(&mut t, action, &list), key, what);
        assert_eq!(t.keys().1, [] as [u64; 0], "{what}: nobody was registered");
    }
    assert!(send(&mut t, REGISTER, &ok).is_good());
    assert_eq!(t.keys().1, [7, 7, 7]);
    let mut again = body(8, SPEC_I_PT, &first);
    again[..8].copy_from_slice(&7u64.to_be_bytes());
    assert_sense(&send(&mut t, REGISTER, &again), (5, 0x26, 0), "it is registered already");
    // They can act on it as on one of their own.
    t.good(1, RESERVE, 5, (7, 0));
    assert_eq!((t.access(2), t.access(3)), ((true, true), (true, false)));
    // All target ports: there is one.
    let all = list(7, 9, ALL_TG_PT);
    assert!(t.drivers[2].command(&cdb(REGISTER, 0, 24), &all, 0).is_good());
    assert_eq!(t.keys().1, [7, 7, 9]);
}

#[test]
fn the_full_status_names_everybody() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    t.good(1, REGISTER, 0, (0, 2));
    t.good(1, RESERVE, 6, (2, 0));
    let data = t.read_in(2, 3);
    assert_eq!(data[..8], [0, 0, 0, 2, 0, 0, 0, 96]);
    let descriptors: Vec<_> = data[8..].chunks(48).collect();
    for (i, descriptor) in descriptors.iter().enumerate() {
        assert_eq!(descriptor[..8], (i as u64 + 1).to_be_bytes());
        assert_eq!(descriptor[12..14], [i as u8, i as u8 * 6], "holder and type");
        assert_eq!(descriptor[18..24], [0, 1, 0, 0, 0, 24]);
        // SAS, a locally assigned address.
        assert_eq!((descriptor[24], descriptor[28] >> 4), (6, 3));
    }
    assert_ne!(descriptors[0][28..36], descriptors[1][28..36]);
}

#[test]
fn capabilities_have_their_golden_bytes() {
    let mut t = setup(None);
    assert_eq!(t.read_in(0, 2), [0, 8, 0x0c, 0x80, 0xea, 1, 0, 0]);
    let mut t = setup(Some(DiskState::volatile()));
    assert_eq!(t.read_in(0, 2), [0, 8, 0x0d, 0x80, 0xea, 1, 0, 0]);
    let list = list(0, 1, 1);
    assert!(t.drivers[0].command(&cdb(REGISTER, 0, 24), &list, 0).is_good());
    assert_eq!(t.read_in(0, 2), [0, 8, 0x0d, 0x81, 0xea, 1, 0, 0]);
}

fn on(store: &Arc<MemoryStore>) -> Option<Arc<DiskState>> {
    Some(DiskState::open(Arc::clone(store) as Arc<dyn StateStore>).unwrap())
}

#[test]
fn what_is_to_survive_a_power_loss_does() {
    let store = MemoryStore::new();
    let mut t = setup(on(&store));
    t.good(0, REGISTER, 0, (0, 1));
    t.good(0, RESERVE, 1, (1, 0));
    assert_eq!(store.saves(), 0, "nobody asked for it");
    let with = |key, action_key, flag| list(key, action_key, flag);
    assert!(t.drivers[0].command(&cdb(REGISTER, 0, 24), &with(1, 1, 1), 0).is_good());
    assert!(t.drivers[1].command(&cdb(REGISTER, 0, 24), &with(0, 2, 1), 0).is_good());
    assert_eq!(store.saves(), 2);
    drop(t);
    let mut t = setup(on(&store));
    assert_eq!((t.keys(), t.reservation()), ((3, vec![1, 2]), Some((1, 1))));
    assert_eq!((t.access(0), t.access(1)), ((true, true), (true, false)));
    // A registration without APTPL ends it for all.
    assert!(t.drivers[0].command(&cdb(REGISTER, 0, 24), &with(1, 1, 0), 0).is_good());
    drop(t);
    let mut t = setup(on(&store));
    assert_eq!((t.keys(), t.reservation()), ((0, vec![]), None));
}

#[test]
fn a_full_table_takes_no_more() {
    let store = MemoryStore::new();
    // As the state file has them: persistent, generation, count; for each the key and the port's name.
    let mut bytes = vec![1, 0, 0, 0, 0];
    bytes.extend(256u16.to_le_bytes());
    for i in 0..256u64 {
        let name = format!("gone{i}");
        bytes.extend((i + 1).to_le_bytes());
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes.push(0);
    let section = Section { version: 1, bytes };
    on(&store).unwrap().put("scsi-reservations", section, Box::new(|result| result.unwrap()));
    let mut t = setup(on(&store));
    let reply = t.out(0, REGISTER, 0, (0, 7));
    assert_sense(&reply, (5, 0x55, 4), "INSUFFICIENT REGISTRATION RESOURCES");
    let data = t.drivers[3].command(&[0x5e, 0, 0, 0, 0, 0, 0, 8, 8, 0], &[], 2056).data;
    assert_eq!(data[4..8], (256u32 * 8).to_be_bytes(), "nothing was lost");
}

#[test]
fn what_cannot_be_stored_is_an_error() {
    let store = MemoryStore::new();
    let mut t = setup(on(&store));
    store.fail(true);
    let reply = t.drivers[0].command(&cdb(REGISTER, 0, 24), &list(0, 1, 1), 0);
    assert_sense(&reply, (4, 0x44, 0), "the state file fails");
    assert_eq!(t.read_in(0, 2)[3], 0x80, "it does not persist");
    store.fail(false);
    assert!(t.drivers[0].command(&cdb(REGISTER, 0, 24), &list(1, 1, 1), 0).is_good());
    assert_eq!(t.read_in(0, 2)[3], 0x81);
}

#[test]
fn stored_bytes_that_make_no_sense_are_not_believed() {
    let store = MemoryStore::new();
    let mut t = setup(on(&store));
    for (who, key) in [(0, 1), (1, 2)] {
        let list = list(0, key, 1);
        assert!(t.drivers[who].command(&cdb(REGISTER, 0, 24), &list, 0).is_good());
    }
    t.good(0, RESERVE, 1, (1, 0));
    drop(t);
    let state = on(&store).unwrap();
    let good = state.get("scsi-reservations").unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let put = |section: Section| {
        state.put("scsi-reservations", section, Box::new(|result| result.unwrap()));
        let config = UnitConfig {
            state: Some(Arc::clone(&state)),
            ..UnitConfig::new("disk0", UnitKind::Disk)
        };
        drop(LogicalUnit::new(config, None));
    };
    for _ in 0..200 {
        let mut section = good.clone();
        match random.u8(..3) {
            0 => section.bytes.truncate(random.usize(..good.bytes.len())),
            1 => section.bytes.push(0),
            _ => {
                let at = random.usize(..good.bytes.len());
                section.bytes[at] ^= 1 << random.u8(..8);
            }
        }
        put(section);
    }
    put(Section { version: 2, ..good });
    let mut t = setup(on(&store));
    assert_eq!(t.keys(), (0, vec![]), "a version that is not known");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut t = setup(None);
    t.good(0, REGISTER, 0, (0, 1));
    let mut send = |cdb: &[u8], list: &[u8]| t.drivers[0].command(cdb, list, 0);
    assert_sense(&send(&cdb(8, 0, 24), &list(1, 0, 0)), (5, 0x24, 0), "no such action");
    assert_sense(&send(&cdb(RESERVE, 0x11, 24), &list(1, 0, 0)), (5, 0x24, 0), "a scope");
    for kind in [0, 2, 4, 9, 15] {
        let reply = send(&cdb(RESERVE, kind, 24), &list(1, 0, 0));
        assert_sense(&reply, (5, 0x24, 0), &format!("type {kind}"));
    }
    assert_sense(&send(&cdb(REGISTER, 0, 23), &list(1, 0, 0)[..23]), (5, 0x1a, 0), "too short");
    assert_sense(&send(&cdb(REGISTER, 0, 25), &[0; 25]), (5, 0x1a, 0), "too long");
    let mut huge = cdb(MOVE, 0, 0);
    huge[6] = 1;
    assert_sense(&send(&huge, &[0; 65536]), (5, 0x1a, 0), "much too long");
    let reply = send(&cdb(REGISTER, 0, 24), &list(1, 2, 1));
    assert_sense(&reply, (5, 0x26, 0), "APTPL without a state file");
    let reply = send(&cdb(RESERVE, 1, 24), &list(1, 2, 8));
    assert_sense(&reply, (5, 0x26, 0), "SPEC_I_PT of a RESERVE");
    let read_in = [0x5e, 4, 0, 0, 0, 0, 0, 1, 0, 0];
    assert_sense(&t.drivers[0].command(&read_in, &[], 256), (5, 0x24, 0), "no such action");
    assert_eq!(t.keys(), (1, vec![1]));
    assert_eq!(t.unit.config().id, "disk0");
}
