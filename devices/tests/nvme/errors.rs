//! Requests that fail below, under each error policy.

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    BlockError, Root,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    Device,
    policy::{ErrorAction, ErrorPolicy, IoOperation},
    testkit::{
        Machine, NvmeDisk,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::pattern;

struct Setup {
    machine: Rc<Machine>,
    driver: NvmeDriver,
    disk: NvmeDisk,
    faults: Arc<FaultNode>,
}

fn setup(werror: ErrorPolicy, rerror: ErrorPolicy) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let root = Root::new("disk-node", Arc::clone(&faults) as _, Policy::default());
    let disk = machine.add_nvme("nvme0", &[root], |config| {
        config.werror = werror;
        config.rerror = rerror;
    });
    machine.assign();
    let machine = Rc::new(machine);
    let driver = NvmeDriver::new(&machine, disk.at, 1, 16);
    Setup { machine, driver, disk, faults }
}

fn fail(faults: &FaultNode, op: FaultOp, error: BlockError, count: Option<u64>) {
    faults.add(FaultRule { op, count, ..FaultRule::new(Action::Error(error)) }).unwrap();
}

/// Error, status of a read, status of everything else, Do Not Retry.
const STATUS: [(BlockError, u16, u16, bool); 12] = [
    (BlockError::OutOfRange, 0x80, 0x80, true),
    (BlockError::Misaligned, 0x02, 0x02, true),
    (BlockError::ReadOnly, 0x20, 0x20, true),
    (BlockError::NoSpace, 0x81, 0x81, true),
    (BlockError::Medium, 0x281, 0x280, true),
    (BlockError::Unsupported, 0x01, 0x01, true),
    (BlockError::Corrupt, 0x06, 0x06, false),
    (BlockError::Aborted, 0x07, 0x07, false),
    (BlockError::TimedOut, 0x06, 0x06, false),
    (BlockError::NoMemory, 0x06, 0x06, false),
    (BlockError::Permission, 0x286, 0x286, true),
    (BlockError::Gone, 0x82, 0x82, true),
];

#[test]
fn every_error_has_a_status() {
    for error in BlockError::ALL {
        let (_, read, other, dnr) = STATUS.into_iter().find(|row| row.0 == error).unwrap();
        let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
        fail(&t.faults, FaultOp::Any, error, None);
        let cqe = t.driver.read(1, 1, 0, 1, 512).0;
        assert_eq!((cqe.status, cqe.dnr), (read, dnr), "reading: {error}");
        let cqe = t.driver.write(1, 1, 0, 1, &[1; 512]);
        assert_eq!((cqe.status, cqe.dnr), (other, dnr), "writing: {error}");
        let cqe = t.driver.run(1, Cmd::new(0x00, 1));
        assert_eq!(cqe.status, other, "flushing: {error}");
        let cqe = t.driver.run(1, Cmd::new(0x0c, 1).blocks(0, 1));
        assert_eq!(cqe.status, read, "verifying: {error}");
        let cqe = t.driver.send(1, Cmd::new(0x05, 1).blocks(0, 1), &[0; 512]);
        assert_eq!(cqe.status, read, "comparing: {error}");
        let mut range = vec![0; 16];
        range[4] = 1;
        let cqe = t.driver.send(1, Cmd::new(0x09, 1).dw(11, 4), &range);
        assert_eq!(cqe.status, other, "deallocating: {error}");
    }
}

#[test]
fn report_tells_the_guest_and_the_monitor() {
    let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    assert_eq!(t.driver.read(1, 1, 0, 1, 512).0.status, 0x281);
    assert_eq!(t.driver.run(1, Cmd::new(0x00, 1)).status, 0x280);
    let events = t.machine.errors.take();
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].device.as_str(), events[0].node.as_str()), ("nvme0", "disk-node"));
    assert_eq!((events[0].operation, events[0].action), (IoOperation::Read, ErrorAction::Report));
    assert_eq!(events[1].operation, IoOperation::Write);
}

#[test]
fn ignore_tells_the_guest_that_all_is_well() {
    let mut t = setup(ErrorPolicy::Ignore, ErrorPolicy::Ignore);
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    assert_eq!(t.driver.read(1, 1, 0, 1, 512).0.status, 0);
    assert_eq!(t.driver.write(1, 1, 0, 1, &[1; 512]).status, 0);
    assert!(t.machine.errors.take().iter().all(|e| e.action == ErrorAction::Ignore));
}

#[test]
fn the_drivers_own_mistakes_are_always_reported() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    assert_eq!(t.driver.read(1, 1, 1 << 40, 1, 512).0.status, 0x80);
    assert!(t.machine.errors.take().is_empty());
}

#[test]
fn enospc_stops_for_want_of_space_only() {
    let mut t = setup(ErrorPolicy::Enospc, ErrorPolicy::Report);
    fail(&t.faults, FaultOp::Write, BlockError::Medium, Some(1));
    assert_eq!(t.driver.write(1, 1, 0, 1, &[1; 512]).status, 0x280);
    fail(&t.faults, FaultOp::Write, BlockError::NoSpace, Some(1));
    let data = t.driver.alloc(512);
    t.driver.submit(1, Cmd::new(0x01, 1).data(data.prp1, 0).blocks(0, 1));
    t.driver.ring(1);
    t.machine.run();
    assert!(t.driver.take(1).is_none(), "it waits");
    let events = t.machine.errors.take();
    assert_eq!(events[1].action, ErrorAction::Stop);
    assert!(events[1].nospace);
}

#[test]
fn stopped_commands_are_tried_again_when_the_machine_goes_on() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, None);
    let mut cids = Vec::new();
    for i in 0..5u8 {
        let data = t.driver.alloc(512);
        t.machine.memory.write(data.at, &pattern(i, 512));
        let cmd = Cmd::new(0x01, 1).data(data.prp1, 0).blocks(i.into(), 1);
        cids.push(t.driver.submit(1, cmd));
    }
    // One that is a task.
    cids.push(t.driver.submit(1, Cmd::new(0x0c, 1).blocks(0, 1)));
    t.driver.ring(1);
    t.machine.run();
    let failed = t.machine.errors.take();
    assert!(!failed.is_empty() && failed.iter().all(|e| e.action == ErrorAction::Stop));
    assert!(t.driver.take(1).is_none());
    // The machine stops: nothing is in flight, although commands are parked.
    let function = t.disk.device.function();
    t.machine.finish(|done| function.pause(done));
    function.resume();
    t.machine.run();
    assert!(t.driver.take(1).is_none(), "it fails again");
    t.machine.finish(|done| function.pause(done));
    let rule = t.faults.query()[0].rule.id.clone().unwrap();
    t.faults.delete(&rule).unwrap();
    t.machine.run();
    assert!(t.driver.take(1).is_none(), "not before it goes on");
    function.resume();
    t.machine.run();
    let mut ended = Vec::new();
    while let Some(cqe) = t.driver.take(1) {
        assert_eq!(cqe.status, 0);
        ended.push(cqe.cid);
    }
    ended.sort_unstable();
    assert_eq!(ended, cids);
    for i in 0..5u8 {
        assert_eq!(t.driver.read(1, 1, i.into(), 1, 512).1, pattern(i, 512));
    }
}

#[test]
fn a_reset_forgets_parked_commands() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, Some(1));
    let data = t.driver.alloc(512);
    t.machine.memory.write(data.at, &pattern(1, 512));
    t.driver.submit(1, Cmd::new(0x01, 1).data(data.prp1, 0).blocks(0, 1));
    t.driver.ring(1);
    t.machine.run();
    t.driver.disable();
    let mut again = NvmeDriver::new(&t.machine, t.disk.at, 1, 16);
    t.disk.device.function().resume();
    t.machine.run();
    assert!(again.take(1).is_none());
    assert_eq!(again.read(1, 1, 0, 1, 512).1, vec![0; 512], "done after the reset");
}

#[test]
fn a_parked_command_is_aborted_or_goes_with_its_queue() {
    for delete in [false, true] {
        let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
        fail(&t.faults, FaultOp::Any, BlockError::NoSpace, None);
        let data = t.driver.alloc(512);
        let cmd = Cmd::new(0x01, 1).data(data.prp1, 0).blocks(0, 1);
        let cid = t.driver.submit(1, cmd);
        t.driver.ring(1);
        t.machine.run();
        let (cmd, status) = if delete {
            (Cmd::new(0x00, 0).dw(10, 1), 0x08)
        } else {
            (Cmd::new(0x08, 0).dw(10, 1 | u32::from(cid) << 16), 0x07)
        };
        let cqe = t.driver.admin(cmd);
        assert_eq!((cqe.status, cqe.result), (0, 0));
        assert_eq!(t.driver.take(1).unwrap().status, status);
    }
}

#[test]
fn what_the_storage_has_is_not_aborted() {
    let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
    let data = t.driver.alloc(512);
    let cid = t.driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    t.driver.ring(1);
    t.machine.turn();
    let abort = Cmd::new(0x08, 0).dw(10, 1 | u32::from(cid) << 16);
    t.driver.submit(0, abort);
    t.driver.ring(0);
    t.machine.turn();
    assert_eq!(t.driver.take(0).unwrap().result, 1);
    t.machine.run();
    assert_eq!(t.driver.take(1).unwrap().status, 0);
}
