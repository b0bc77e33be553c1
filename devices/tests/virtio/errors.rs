//! Requests that fail below, under each error policy.

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    BlockError,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
};
use spindle_devices::{
    Device,
    testkit::{Disk, Machine, driver::BlkDriver},
    virtio::blk::{ErrorAction, ErrorPolicy, IoOperation},
};

use super::{ALL, pattern};

struct Setup {
    machine: Rc<Machine>,
    driver: BlkDriver,
    disk: Disk,
    faults: Arc<FaultNode>,
}

fn setup(werror: ErrorPolicy, rerror: ErrorPolicy) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let disk = machine.add_disk_over("disk0", Arc::clone(&faults) as _, |config| {
        config.werror = werror;
        config.rerror = rerror;
    });
    machine.assign();
    let machine = Rc::new(machine);
    let driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
    Setup { machine, driver, disk, faults }
}

fn fail(faults: &FaultNode, op: FaultOp, error: BlockError, count: Option<u64>) {
    faults.add(FaultRule { op, count, ..FaultRule::new(Action::Error(error)) }).unwrap();
}

#[test]
fn every_error_has_a_status() {
    for error in BlockError::ALL {
        let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
        fail(&t.faults, FaultOp::Any, error, None);
        let expected = if error == BlockError::Unsupported { 2 } else { 1 };
        let data = pattern(1, 512);
        assert_eq!(t.driver.read(0, 512).status, expected, "reading: {error}");
        assert_eq!(t.driver.write(0, &data).status, expected, "writing: {error}");
        assert_eq!(t.driver.flush().status, expected, "flushing: {error}");
        assert_eq!(t.driver.segment(11, 0, 8, 0).status, expected, "discarding: {error}");
    }
}

#[test]
fn report_tells_the_guest_and_the_monitor() {
    let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    let reply = t.driver.read(0, 512);
    assert_eq!((reply.status, reply.written), (1, 0));
    assert_eq!(t.driver.flush().status, 1);
    let events = t.machine.errors.take();
    assert_eq!(events.len(), 2);
    let first = &events[0];
    assert_eq!((first.device.as_str(), first.node.as_str()), ("disk0", "disk0-node"));
    assert_eq!((first.operation, first.action), (IoOperation::Read, ErrorAction::Report));
    assert!(!first.nospace && first.reason == BlockError::Medium);
    assert_eq!(events[1].operation, IoOperation::Write);
}

#[test]
fn ignore_tells_the_guest_that_all_is_well() {
    let mut t = setup(ErrorPolicy::Ignore, ErrorPolicy::Ignore);
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    assert_eq!(t.driver.read(0, 512).status, 0);
    assert_eq!(t.driver.write(0, &[1; 512]).status, 0);
    assert!(t.machine.errors.take().iter().all(|e| e.action == ErrorAction::Ignore));
}

#[test]
fn the_drivers_own_mistakes_are_always_reported() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    assert_eq!(t.driver.read(1 << 40, 512).status, 1);
    assert_eq!(t.driver.write(1 << 40, &[1; 512]).status, 1);
    assert!(t.machine.errors.take().is_empty());
}

#[test]
fn enospc_stops_for_want_of_space_only() {
    let mut t = setup(ErrorPolicy::Enospc, ErrorPolicy::Report);
    fail(&t.faults, FaultOp::Write, BlockError::Medium, Some(1));
    assert_eq!(t.driver.write(0, &[1; 512]).status, 1);
    fail(&t.faults, FaultOp::Write, BlockError::NoSpace, Some(1));
    let ticket = t.driver.offer(0, 1, 0, &pattern(7, 512), 0);
    t.driver.rings[0].notify();
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).is_none(), "it waits");
    let events = t.machine.errors.take();
    assert_eq!(events[1].action, ErrorAction::Stop);
    assert!(events[1].nospace);
}

#[test]
fn stopped_requests_are_tried_again_in_order_when_the_machine_goes_on() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, None);
    let tickets: Vec<_> =
        (0..5u64).map(|i| t.driver.offer(0, 1, i, &pattern(i as u8, 512), 0)).collect();
    t.driver.rings[0].notify();
    t.machine.run();
    let failed = t.machine.errors.take();
    assert!(!failed.is_empty() && failed.iter().all(|e| e.action == ErrorAction::Stop));
    assert!(t.driver.rings[0].take().is_none());
    // The machine stops: nothing is in flight, although requests are parked.
    let function = t.disk.device.function();
    t.machine.finish(|done| function.pause(done));
    // It goes on, and fails again.
    function.resume();
    t.machine.run();
    assert!(t.driver.rings[0].take().is_none());
    assert!(!t.machine.errors.take().is_empty());
    t.machine.finish(|done| function.pause(done));
    let rule = t.faults.query()[0].rule.id.clone().unwrap();
    t.faults.delete(&rule).unwrap();
    t.machine.run();
    assert!(t.driver.rings[0].take().is_none(), "not before it goes on");
    function.resume();
    t.machine.run();
    let mut ended = 0;
    while let Some((head, written)) = t.driver.rings[0].take() {
        let ticket = tickets.iter().find(|ticket| BlkDriver::head(ticket) == head).unwrap();
        assert_eq!(t.driver.look(ticket, written).status, 0);
        ended += 1;
    }
    assert_eq!(ended, 5);
    for i in 0..5u64 {
        assert_eq!(t.driver.read(i, 512).data, pattern(i as u8, 512));
    }
}

#[test]
fn a_reset_forgets_parked_requests() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, Some(1));
    let ticket = t.driver.offer(0, 1, 0, &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.run();
    let mut again = BlkDriver::new(&t.machine, t.disk.at, ALL, 1, 16);
    t.disk.device.function().resume();
    t.machine.run();
    assert_eq!(t.driver.look(&ticket, 0).status, 0xee, "answered after the reset");
    assert_eq!(again.read(0, 512).data, vec![0; 512], "done after the reset");
}
