//! Reservations: register, acquire, release, report; who is kept from what; power loss (base 7.2
//! to 7.5, 8.19).

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    Root,
    nodes::{
        fault::{Action, FaultNode, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    nvme::{NvmeNamespaceConfig, Subsystem},
    state_file::{DiskState, MemoryStore},
    testkit::{
        Machine,
        driver::nvme::{Cmd, Cqe, NvmeDriver},
    },
};

use super::number;

const CONFLICT: u16 = 0x83;
const FIELD: u16 = 0x02;
const SEQUENCE: u16 = 0x0c;
const INCONSISTENT: u16 = 0x18;

/// A host: a controller with a pair of queues.
struct Host(NvmeDriver);

impl Host {
    fn set_id(&mut self, id: u64) -> u16 {
        self.0.admin_write(Cmd::new(0x09, 0).dw(10, 0x81), &id.to_le_bytes()).status
    }

    fn keys(&mut self, opcode: u8, dw10: u32, first: u64, second: u64) -> Cqe {
        let mut bytes = first.to_le_bytes().to_vec();
        bytes.extend(second.to_le_bytes());
        self.0.send(1, Cmd::new(opcode, 1).dw(10, dw10), &bytes)
    }

    fn register(&mut self, key: u64) -> u16 {
        self.keys(0x0d, 0, 0, key).status
    }

    fn unregister(&mut self, key: u64) -> u16 {
        self.keys(0x0d, 1, key, 0).status
    }

    fn acquire(&mut self, key: u64, kind: u32) -> u16 {
        self.keys(0x11, kind << 8, key, 0).status
    }

    fn preempt(&mut self, key: u64, other: u64, kind: u32) -> u16 {
        self.keys(0x11, kind << 8 | 1, key, other).status
    }

    fn release(&mut self, key: u64, kind: u32) -> u16 {
        self.keys(0x15, kind << 8, key, 0).status
    }

    fn clear(&mut self, key: u64) -> u16 {
        self.keys(0x15, 1, key, 0).status
    }

    fn report(&mut self) -> Vec<u8> {
        let data = self.0.alloc(4096);
        let cmd = Cmd::new(0x0e, 1).data(data.prp1, 0).dw(10, 1023);
        assert_eq!(self.0.run(1, cmd).status, 0);
        self.0.machine.memory.read(data.at, 4096)
    }

    /// Whether it may read and write.
    fn may(&mut self) -> (bool, bool) {
        let read = self.0.read(1, 1, 0, 1, 512).0.status;
        let write = self.0.write(1, 1, 0, 1, &[1; 512]).status;
        assert!([0, CONFLICT].contains(&read) && [0, CONFLICT].contains(&write));
        (read == 0, write == 0)
    }

    /// The notice that an event announces, and the namespace.
    fn notice(&mut self) -> Option<(u8, u64)> {
        let (cqe, page) = self.0.log(0x80, 0, 64);
        assert_eq!(cqe.status, 0);
        (page[8] != 0).then(|| (page[8], number(&page, 12, 4)))
    }
}

fn hosts(state: Arc<DiskState>, count: usize) -> Vec<Host> {
    let machine = Machine::new(fastrand::u64(..));
    let (root, _) = machine.add_root("disk", 1 << 20);
    hosts_on(machine, root, state, count)
}

fn hosts_on(machine: Machine, root: Arc<Root>, state: Arc<DiskState>, count: usize) -> Vec<Host> {
    let subsystem = Subsystem::new("shared");
    let handles: Vec<_> = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let disks: Vec<_> = (0..count)
        .map(|i| {
            machine.add_nvme(&format!("n{i}"), &[], |config| {
                config.subsystem = Some(Arc::clone(&subsystem));
                config.iothreads = vec![handles[i % 2].clone()];
            })
        })
        .collect();
    let mut config = NvmeNamespaceConfig::new(root);
    config.state = state;
    disks[0].device.add_namespace(&config).unwrap();
    disks[1..].iter().for_each(|disk| disk.device.attach(1).unwrap());
    machine.assign();
    let machine = Rc::new(machine);
    disks.iter().map(|disk| Host(NvmeDriver::new(&machine, disk.at, 1, 16))).collect()
}

fn three() -> [Host; 3] {
    let mut hosts = hosts(DiskState::volatile(), 3).into_iter();
    let mut next = || hosts.next().unwrap();
    let mut all = [next(), next(), next()];
    for (i, host) in all.iter_mut().enumerate() {
        assert_eq!(host.set_id(0x100 + i as u64), 0);
    }
    all
}

/// For each type: what its holder, a registrant and a stranger may do: read, write.
const ACCESS: [(u32, [(bool, bool); 3]); 6] = [
    (1, [(true, true), (true, false), (true, false)]),
    (2, [(true, true), (false, false), (false, false)]),
    (3, [(true, true), (true, true), (true, false)]),
    (4, [(true, true), (true, true), (false, false)]),
    (5, [(true, true), (true, true), (true, false)]),
    (6, [(true, true), (true, true), (false, false)]),
];

#[test]
fn each_type_keeps_others_from_what_it_says() {
    for (kind, expected) in ACCESS {
        let [mut a, mut b, mut c] = three();
        assert_eq!((a.register(1), b.register(2)), (0, 0));
        assert_eq!((a.may(), b.may(), c.may()), ((true, true), (true, true), (true, true)));
        assert_eq!(a.acquire(1, kind), 0);
        assert_eq!([a.may(), b.may(), c.may()], expected, "type {kind}");
        // Every command that writes is a write.
        let (_, write) = expected[2];
        for cmd in
            [Cmd::new(0x00, 1), Cmd::new(0x04, 1).blocks(9, 1), Cmd::new(0x08, 1).blocks(0, 1)]
        {
            assert_eq!(c.0.run(1, cmd).status == 0, write, "type {kind}, {cmd:x?}");
        }
        assert_eq!(c.0.admin(Cmd::new(0x80, 1)).status, CONFLICT, "format");
        let (read, _) = expected[2];
        assert_eq!(c.0.run(1, Cmd::new(0x0c, 1).blocks(0, 1)).status == 0, read);
        assert_eq!(a.release(1, kind), 0);
        assert_eq!(c.may(), (true, true));
    }
}

#[test]
fn keys_are_checked() {
    let [mut a, mut b, _] = three();
    assert_eq!(a.acquire(1, 1), CONFLICT, "not registered");
    assert_eq!(a.unregister(1), CONFLICT, "not registered");
    assert_eq!(a.keys(0x0d, 2, 1, 5).status, CONFLICT, "not registered");
    assert_eq!(a.register(1), 0);
    assert_eq!(a.register(1), 0, "the same again");
    assert_eq!(a.register(2), CONFLICT, "another key");
    assert_eq!(a.acquire(9, 1), CONFLICT, "another key");
    assert_eq!(a.keys(0x0d, 2, 9, 5).status, CONFLICT, "another key");
    assert_eq!(a.keys(0x0d, 2, 1, 5).status, 0, "replaced");
    assert_eq!(a.keys(0x0d, 2 | 8, 99, 6).status, 0, "replaced, key ignored");
    assert_eq!(a.acquire(6, 1), 0);
    assert_eq!(a.acquire(6, 1), 0, "held already");
    assert_eq!(a.acquire(6, 2), CONFLICT, "another type");
    assert_eq!(b.register(7), 0);
    assert_eq!(b.acquire(7, 1), CONFLICT, "held by another");
    assert_eq!(b.release(7, 1), 0, "not the holder: nothing happens");
    assert_eq!(b.may(), (true, false));
    assert_eq!(a.release(9, 1), CONFLICT);
    assert_eq!(a.release(6, 2), FIELD, "another type");
    assert_eq!(a.clear(9), CONFLICT);
    assert_eq!(b.clear(7), 0);
    assert_eq!(a.acquire(6, 1), CONFLICT, "nobody is registered any more");
}

#[test]
fn reserved_values_are_refused() {
    let [mut a, ..] = three();
    assert_eq!(a.register(1), 0);
    for (what, opcode, dw10) in [
        ("register action", 0x0d, 3),
        ("change of persistence", 0x0d, 1 << 30),
        ("acquire action", 0x11, 1 << 8 | 3),
        ("type 0", 0x11, 0),
        ("type 7", 0x11, 7 << 8),
        ("ignored key", 0x11, 1 << 8 | 8),
        ("preempting key 0", 0x11, 1 << 8 | 1),
        ("release action", 0x15, 1 << 8 | 2),
        ("release ignoring the key", 0x15, 1 << 8 | 8),
    ] {
        assert_eq!(a.keys(opcode, dw10, 1, 0).status, FIELD, "{what}");
    }
}

#[test]
fn the_holder_goes_and_the_reservation_with_it() {
    for kind in 1..=6 {
        let [mut a, mut b, mut c] = three();
        assert_eq!((a.register(1), b.register(2)), (0, 0));
        assert_eq!(a.acquire(1, kind), 0);
        assert_eq!(a.unregister(1), 0);
        let for_all = kind >= 5;
        assert_eq!(c.may() == (true, true), !for_all, "type {kind}");
        assert_eq!(b.may(), (true, true));
        let told = if kind == 3 || kind == 4 { Some((2, 1)) } else { None };
        assert_eq!(b.notice(), told, "type {kind}");
        assert_eq!(b.unregister(2), 0);
        assert_eq!(c.may(), (true, true));
    }
}

#[test]
fn a_host_preempts_another() {
    let [mut a, mut b, mut c] = three();
    assert_eq!((a.register(1), b.register(2), c.register(3)), (0, 0, 0));
    assert_eq!(a.acquire(1, 1), 0);
    assert_eq!(b.preempt(2, 9, 1), CONFLICT, "nobody has this key");
    assert_eq!(b.preempt(2, 3, 1), 0, "a registrant only");
    assert_eq!(c.notice(), Some((1, 1)), "registration preempted");
    assert_eq!(c.acquire(3, 1), CONFLICT);
    assert_eq!((a.may(), b.may()), ((true, true), (true, false)));
    assert_eq!(b.preempt(2, 1, 2), 0, "the holder");
    assert_eq!(a.notice(), Some((3, 1)), "reservation preempted");
    assert_eq!((a.may(), b.may()), ((false, false), (true, true)));
    assert_eq!(a.notice(), None, "read and gone");
    // All registrants: key 0 is everybody else.
    assert_eq!(b.release(2, 2), 0);
    assert_eq!((a.register(1), c.register(3)), (0, 0));
    assert_eq!(b.acquire(2, 5), 0);
    assert_eq!(a.preempt(1, 0, 1), 0);
    assert_eq!((b.notice(), c.notice()), (Some((3, 1)), Some((3, 1))));
    assert_eq!((a.may(), b.may(), c.may()), ((true, true), (true, false), (true, false)));
}

#[test]
fn a_preempt_and_abort_ends_commands_first() {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let root = Root::new("disk-node", Arc::clone(&faults) as _, Policy::default());
    let mut hosts = hosts_on(machine, root, DiskState::volatile(), 2);
    let (mut b, mut a) = (hosts.pop().unwrap(), hosts.pop().unwrap());
    assert_eq!((a.set_id(0x100), b.set_id(0x101)), (0, 0));
    let machine = Rc::clone(&a.0.machine);
    let hold = |host: &mut Host, nsid: u32, opcode: u8| {
        let data = host.0.alloc(512);
        let cid = host.0.submit(1, Cmd::new(opcode, nsid).blocks(0, 1).data(data.prp1, 0));
        host.0.ring(1);
        machine.run();
        cid
    };
    for action in [1, 2] {
        assert_eq!((a.register(1), b.register(2), a.acquire(1, 1)), (0, 0, 0));
        let hang = faults.add(FaultRule::new(Action::Hang)).unwrap();
        let write = hold(&mut a, 1, 1);
        // One of the host that preempts, which is left alone.
        let read = hold(&mut b, 1, 2);
        let data = b.0.alloc(16);
        machine.memory.write(data.at, &[2u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        let acquire = Cmd::new(0x11, 1).dw(10, 1 << 8 | action).data(data.prp1, 0);
        let acquire = b.0.submit(1, acquire);
        b.0.ring(1);
        machine.run();
        assert!(a.0.look(1).is_none(), "it hangs");
        if action == 1 {
            let cqe = b.0.take(1).unwrap();
            assert_eq!((cqe.cid, cqe.status), (acquire, 0), "it does not wait");
        } else {
            assert!(b.0.look(1).is_none(), "a write of the other host has not ended");
        }
        faults.delete(&hang).unwrap();
        machine.run();
        let cqe = a.0.take(1).unwrap();
        assert_eq!((cqe.cid, cqe.status), (write, if action == 1 { 0 } else { 0x1b }));
        let mut ends: Vec<_> =
            std::iter::from_fn(|| b.0.take(1)).map(|cqe| (cqe.cid, cqe.status)).collect();
        ends.sort_unstable();
        let mut expected = vec![(read, 0)];
        expected.extend((action == 2).then_some((acquire, 0)));
        expected.sort_unstable();
        assert_eq!(ends, expected);
        assert_eq!((a.may(), b.may()), ((true, false), (true, true)));
        assert_eq!(b.clear(2), 0);
    }
}

#[test]
fn a_notice_is_an_event_unless_it_is_masked() {
    for mask in [0, 1 << 2] {
        let [mut a, mut b, _] = three();
        let set = Cmd::new(0x09, 1).dw(10, 0x82).dw(11, mask);
        assert_eq!(b.0.admin(set).status, 0);
        assert_eq!(b.0.admin(Cmd::new(0x0a, 1).dw(10, 0x82)).result, u64::from(mask));
        assert_eq!((a.register(1), b.register(2), a.acquire(1, 3)), (0, 0, 0));
        b.0.submit(0, Cmd::new(0x0c, 0));
        b.0.ring(0);
        b.0.machine.run();
        assert_eq!(a.release(1, 3), 0);
        let event = b.0.take(0).map(|cqe| cqe.result);
        assert_eq!(event, (mask == 0).then_some(0x0080_0006));
    }
}

#[test]
fn a_report_tells_who_is_registered() {
    let [mut a, mut b, mut c] = three();
    assert_eq!((a.register(0x11), b.register(0x22)), (0, 0));
    assert_eq!(b.acquire(0x22, 3), 0);
    let report = c.report();
    let fields = [
        ("GEN", 0, 4, 2),
        ("RTYPE", 4, 1, 3),
        ("REGCTL", 5, 2, 2),
        ("PTPLS", 9, 1, 0),
        ("CNTLID", 24, 2, 0),
        ("RCSTS", 26, 1, 0),
        ("HOSTID", 32, 8, 0x100),
        ("RKEY", 40, 8, 0x11),
        ("CNTLID", 48, 2, 1),
        ("RCSTS", 50, 1, 1),
        ("HOSTID", 56, 8, 0x101),
        ("RKEY", 64, 8, 0x22),
    ];
    for (name, at, width, value) in fields {
        assert_eq!(number(&report, at, width), value, "{name} at {at}");
    }
    let data = c.0.alloc(4096);
    let extended = Cmd::new(0x0e, 1).data(data.prp1, 0).dw(10, 1023).dw(11, 1);
    assert_eq!(c.0.run(1, extended).status, INCONSISTENT);
}

#[test]
fn long_identifiers_have_long_reports() {
    let mut hosts = hosts(DiskState::volatile(), 1);
    let host = &mut hosts[0];
    let id: Vec<u8> = (1..=16).collect();
    assert_eq!(host.0.admin_write(Cmd::new(0x09, 0).dw(10, 0x81).dw(11, 1), &id).status, 0);
    assert_eq!(host.0.admin_read(Cmd::new(0x0a, 0).dw(10, 0x81).dw(11, 1), 16).1, id);
    assert_eq!(host.0.admin_read(Cmd::new(0x0a, 0).dw(10, 0x81), 8).0.status, INCONSISTENT);
    assert_eq!(host.register(5), 0);
    let data = host.0.alloc(4096);
    let report = |eds| Cmd::new(0x0e, 1).data(data.prp1, 0).dw(10, 1023).dw(11, eds);
    assert_eq!(host.0.run(1, report(0)).status, INCONSISTENT);
    assert_eq!(host.0.run(1, report(1)).status, 0);
    let bytes = host.0.machine.memory.read(data.at, 128);
    assert_eq!((number(&bytes, 72, 8), &bytes[80..96]), (5, &id[..]));
    // Who has registered keeps its name.
    assert_eq!(host.set_id(9), SEQUENCE);
    assert_eq!(host.unregister(5), 0);
    assert_eq!(host.set_id(9), 0);
    assert_eq!(host.set_id(0), FIELD);
}

#[test]
fn hosts_without_an_identifier_are_told_apart_and_forgotten_by_a_reset() {
    let mut hosts = hosts(DiskState::volatile(), 2);
    let (a, b) = hosts.split_at_mut(1);
    assert_eq!((a[0].register(1), a[0].acquire(1, 2)), (0, 0));
    assert_eq!(b[0].may(), (false, false));
    a[0].0.disable();
    assert_eq!(b[0].may(), (true, true));
}

#[test]
fn reservations_persist_through_power_loss_where_they_are_told_to() {
    for persist in [true, false] {
        let store = MemoryStore::new();
        let boot = || {
            let mut all = hosts(DiskState::open(Arc::clone(&store) as _).unwrap(), 2);
            all[0].set_id(0xa);
            all[1].set_id(0xb);
            all
        };
        let mut all = boot();
        let cptpl = if persist { 3 << 30 } else { 2 << 30 };
        assert_eq!(all[0].keys(0x0d, cptpl, 0, 1).status, 0);
        assert_eq!(all[1].register(2), 0);
        assert_eq!(all[0].acquire(1, 2), 0);
        let mut all = boot();
        assert_eq!(all[1].may(), (!persist, !persist));
        assert_eq!(all[0].may(), (true, true));
        let report = all[0].report();
        assert_eq!((report[9], report[5]), if persist { (1, 2) } else { (0, 0) });
        if persist {
            // And goes when it is told to go.
            let off = Cmd::new(0x09, 1).dw(10, 0x83);
            assert_eq!(all[0].0.admin(off).status, 0);
            assert_eq!(all[0].0.admin(Cmd::new(0x0a, 1).dw(10, 0x83)).result, 0);
            assert_eq!(boot()[1].may(), (true, true));
        }
    }
}
