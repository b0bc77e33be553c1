//! Device Self-test and Sanitize (base 5.9, 5.24, 8.21).

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    BlockError, Root,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
    ring::sim::Image,
    root::Policy,
};
use spindle_devices::{
    Device,
    nvme::NvmeNamespaceConfig,
    state_file::{DiskState, MemoryStore},
    testkit::{
        Machine, NvmeDisk,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::{driver, number, pattern};

const FIELD: u16 = 0x02;
const IN_PROGRESS: u16 = 0x11d;

fn test(nsid: u32, code: u32) -> Cmd {
    Cmd::new(0x14, nsid).dw(10, code)
}

/// An admin command that ends before what it starts does.
fn at_once(driver: &mut NvmeDriver, cmd: Cmd) -> u16 {
    driver.submit(0, cmd);
    driver.ring(0);
    for _ in 0..4 {
        driver.machine.turn();
    }
    driver.take(0).expect("an answer").status
}

fn log_at_once(driver: &mut NvmeDriver, id: u32, len: usize) -> Vec<u8> {
    let data = driver.alloc(len);
    let cmd =
        Cmd::new(0x02, 0).dw(10, id | ((len / 4 - 1) as u32) << 16).data(data.prp1, data.prp2);
    assert_eq!(at_once(driver, cmd), 0);
    driver.machine.memory.read(data.at, len)
}

#[test]
fn self_tests_run_beside_everything_else_and_leave_results() {
    let (mut driver, setup) = driver(8 << 20, |_| ());
    let (_, page) = driver.log(6, 0, 564);
    assert_eq!((page[0], page[4], page[32]), (0, 0x0f, 0x0f), "none so far");
    for code in [1u8, 2] {
        assert_eq!(at_once(&mut driver, test(0xffff_ffff, code.into())), 0);
        let page = log_at_once(&mut driver, 6, 564);
        assert_eq!(page[0], code, "under way");
        assert_eq!(at_once(&mut driver, test(1, 1)), IN_PROGRESS);
        assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
        setup.machine.run();
        let (_, page) = driver.log(6, 0, 564);
        assert_eq!((page[0], page[4]), (0, code << 4), "ended well");
    }
    assert_eq!(at_once(&mut driver, test(1, 2)), 0);
    assert_eq!(at_once(&mut driver, test(1, 0xf)), 0);
    setup.machine.run();
    let (_, page) = driver.log(6, 0, 564);
    assert_eq!((page[4], page[32], page[60]), (0x21, 0x20, 0x10), "aborted; the latest first");
    assert_eq!(number(&page, 16, 4), 1, "namespace");
    for (nsid, code, status) in [(1, 3, FIELD), (2, 1, FIELD), (5000, 1, 0x0b), (0, 1, 0)] {
        assert_eq!(driver.admin(test(nsid, code)).status, status, "{nsid}, {code}");
    }
}

#[test]
fn a_self_test_finds_what_cannot_be_read() {
    let (mut driver, setup) = driver(8 << 20, |_| ());
    assert_eq!(driver.run(1, Cmd::new(0x04, 1).blocks(9000, 1)).status, 0);
    assert_eq!(driver.admin(test(1, 2)).status, 0);
    setup.machine.run();
    let (_, page) = driver.log(6, 0, 564);
    assert_eq!(page[4], 0x27, "a segment failed");
    assert!((8192..=9000).contains(&number(&page, 20, 8)), "failing block");
    assert_eq!((page[28], page[29]), (2, 0x81));
}

#[test]
fn a_reset_ends_a_short_self_test_and_not_an_extended_one() {
    for (code, result) in [(1, 0x12), (2, 0x20)] {
        let (mut driver, setup) = driver(8 << 20, |_| ());
        assert_eq!(at_once(&mut driver, test(1, code)), 0);
        driver.set(0x14, 4, 0x0046_0000);
        setup.machine.turn();
        assert_eq!(driver.status() & 1, 0, "a reset does not wait for it");
        driver.disable();
        driver.enable(8);
        setup.machine.run();
        let (_, page) = driver.log(6, 0, 564);
        assert_eq!(page[4], result);
    }
}

#[test]
fn a_pause_stops_a_self_test_between_two_steps() {
    let (mut driver, setup) = driver(8 << 20, |_| ());
    let function = setup.disk.device.function();
    assert_eq!(at_once(&mut driver, test(1, 2)), 0);
    setup.machine.finish(|done| function.pause(done));
    assert_eq!(setup.machine.world.in_flight(), 0);
    setup.machine.run();
    assert_eq!(setup.machine.world.in_flight(), 0);
    function.resume();
    let page = log_at_once(&mut driver, 6, 564);
    assert_eq!(page[0], 2, "still under way");
    setup.machine.run();
    assert_eq!(driver.log(6, 0, 564).1[4], 0x20);
}

fn sanitize(dw10: u32, pattern: u32) -> Cmd {
    Cmd::new(0x84, 0).dw(10, dw10).dw(11, pattern)
}

fn contents(setup: &super::Setup) -> Vec<u8> {
    let image: Image = setup.machine.world.contents(&setup.file);
    image.to_vec()
}

#[test]
fn an_erase_and_an_overwrite_leave_nothing() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let (_, page) = driver.log(0x81, 0, 512);
    assert_eq!((number(&page, 0, 2), number(&page, 2, 2)), (0xffff, 0), "never");
    assert_eq!(driver.write(1, 1, 0, 256, &pattern(1, 128 << 10)).status, 0);
    assert_eq!(driver.run(1, Cmd::new(0x04, 1).blocks(3, 1)).status, 0);
    driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    setup.machine.run();
    assert_eq!(at_once(&mut driver, sanitize(2, 0)), 0, "block erase");
    let page = log_at_once(&mut driver, 0x81, 512);
    assert_eq!((number(&page, 2, 2) & 7, number(&page, 4, 4)), (2, 2), "in progress");
    let data = driver.alloc(512);
    driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    driver.ring(1);
    setup.machine.turn();
    assert_eq!(driver.take(1).unwrap().status, 0x1d, "reads are kept out");
    for cmd in [sanitize(2, 0), Cmd::new(0x80, 1), test(1, 1), Cmd::new(0x10, 0)] {
        assert_eq!(at_once(&mut driver, cmd), 0x1d, "{cmd:x?}");
    }
    setup.machine.run();
    assert_eq!(driver.take(0).unwrap().result, 0x0081_0106, "the event");
    assert!(contents(&setup).iter().all(|byte| *byte == 0));
    assert_eq!(driver.log(0x81, 0, 512).1[2] & 7, 1, "completed");
    assert_eq!(driver.read(1, 1, 3, 1, 512).0.status, 0, "no block is unreadable any more");
    // Three passes of a pattern, inverted each time, that stays.
    let overwrite = 3 | 3 << 4 | 1 << 8 | 1 << 9;
    assert_eq!(driver.admin(sanitize(overwrite, 0x0102_0304)).status, 0);
    setup.machine.run();
    assert!(contents(&setup).as_chunks::<4>().0.iter().all(|word| *word == [4, 3, 2, 1]));
    assert_eq!(number(&driver.log(0x81, 0, 512).1, 2, 2), 1 | 3 << 3);
    let overwrite = 3 | 2 << 4 | 1 << 8 | 1 << 9;
    assert_eq!(driver.admin(sanitize(overwrite, 0)).status, 0);
    setup.machine.run();
    assert!(contents(&setup).iter().all(|byte| *byte == 0xff), "the last pass is inverted");
    for (what, dw10) in [("cryptographic", 4), ("nothing", 0), ("reserved", 5)] {
        assert_eq!(driver.admin(sanitize(dw10, 0)).status, FIELD, "{what}");
    }
    setup.root.set_policy(|policy| policy.read_only = true);
    assert_eq!(driver.admin(sanitize(2, 0)).status, 0x20);
}

struct Faulty {
    machine: Rc<Machine>,
    faults: Arc<FaultNode>,
    driver: NvmeDriver,
    _disk: NvmeDisk,
    file: Arc<spindle_block::file::File>,
}

fn faulty(store: &Arc<MemoryStore>, fill: u8) -> Faulty {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &vec![fill; 4 << 20], 4 << 20);
    let faults = FaultNode::new(FileNode::over(Arc::clone(&file), 4 << 20, 1, false));
    let root = Root::new("disk-node", Arc::clone(&faults) as _, Policy::default());
    let mut config = NvmeNamespaceConfig::new(root);
    config.state = DiskState::open(Arc::clone(store) as _).unwrap();
    let disk = machine.add_nvme("nvme0", &[], |c| c.namespaces.push(config));
    machine.assign();
    let machine = Rc::new(machine);
    let driver = NvmeDriver::new(&machine, disk.at, 1, 8);
    Faulty { machine, faults, driver, _disk: disk, file }
}

#[test]
fn a_sanitize_operation_goes_on_after_a_power_loss() {
    let store = MemoryStore::new();
    {
        let mut t = faulty(&store, 0xaa);
        assert_eq!(at_once(&mut t.driver, sanitize(3 | 1 << 4 | 1 << 9, 0)), 0);
        t.machine.world.step();
        t.machine.turn();
        // The power goes.
        assert!(t.machine.world.in_flight() > 0);
    }
    let mut t = faulty(&store, 0xaa);
    t.machine.run();
    let (_, page) = t.driver.log(0x81, 0, 512);
    assert_eq!(page[2] & 7, 1, "completed");
    assert!(t.machine.world.contents(&t.file).to_vec().iter().all(|byte| *byte == 0));
    assert_eq!(t.driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn a_controller_reset_does_not_end_a_sanitize_operation() {
    let mut t = faulty(&MemoryStore::new(), 0xaa);
    assert_eq!(at_once(&mut t.driver, sanitize(3 | 1 << 4 | 1 << 9, 0)), 0);
    t.driver.set(0x14, 4, 0x0046_0000);
    t.machine.turn();
    assert_eq!(t.driver.status(), 0);
    t.driver.disable();
    t.driver.enable(8);
    t.machine.run();
    assert!(t.machine.world.contents(&t.file).to_vec().iter().all(|byte| *byte == 0));
    assert_eq!(t.driver.log(0x81, 0, 512).1[2] & 7, 1);
}

#[test]
fn a_failed_sanitize_operation_keeps_everybody_out() {
    for unrestricted in [false, true] {
        let store = MemoryStore::new();
        let mut t = faulty(&store, 0xaa);
        let rule = FaultRule {
            op: FaultOp::Any,
            count: Some(1),
            ..FaultRule::new(Action::Error(BlockError::Medium))
        };
        t.faults.add(rule).unwrap();
        let ause = u32::from(unrestricted) << 3;
        assert_eq!(t.driver.admin(sanitize(2 | ause, 0)).status, 0);
        t.machine.run();
        assert_eq!(t.driver.log(0x81, 0, 512).1[2] & 7, 3, "failed");
        assert_eq!(t.driver.read(1, 1, 0, 1, 512).0.status, 0x1c);
        // A restart does not help.
        drop(t);
        let mut t = faulty(&store, 0xaa);
        t.machine.run();
        assert_eq!(t.driver.read(1, 1, 0, 1, 512).0.status, 0x1c);
        let exit = t.driver.admin(sanitize(1, 0)).status;
        if unrestricted {
            assert_eq!(exit, 0);
        } else {
            assert_eq!(exit, 0x1c, "not without having sanitized");
            assert_eq!(t.driver.admin(sanitize(2 | 1 << 3, 0)).status, 0x1c);
            assert_eq!(t.driver.admin(sanitize(2, 0)).status, 0);
            t.machine.run();
        }
        assert_eq!(t.driver.read(1, 1, 0, 1, 512).0.status, 0);
    }
}
