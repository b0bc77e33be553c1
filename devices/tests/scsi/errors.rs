//! Commands that fail below, under each error policy.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use spindle_block::{
    BlockError,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
};
use spindle_devices::{
    Device,
    policy::{ErrorAction, ErrorPolicy, IoOperation},
    scsi::{UnitConfig, UnitKind},
    testkit::{Machine, ScsiAdapter, driver::ScsiDriver},
};

use super::setup::{ALL, assert_sense, pattern, settle, sixteen, ten};

struct Setup {
    machine: Rc<Machine>,
    driver: ScsiDriver,
    adapter: ScsiAdapter,
    faults: Arc<FaultNode>,
}

fn setup(werror: ErrorPolicy, rerror: ErrorPolicy) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let adapter = machine.add_scsi("hba0", |_| ());
    let configure = |config: &mut UnitConfig| {
        config.werror = werror;
        config.rerror = rerror;
    };
    let unit = machine.scsi_unit("disk0", UnitKind::Disk, Arc::clone(&faults) as _, configure);
    adapter.device.add_lun(0, 0, unit).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 16);
    settle(&mut driver, 0, 0);
    Setup { machine, driver, adapter, faults }
}

fn fail(faults: &FaultNode, op: FaultOp, error: BlockError, count: Option<u64>) {
    faults.add(FaultRule { op, count, ..FaultRule::new(Action::Error(error)) }).unwrap();
}

#[test]
fn every_error_has_its_sense_data() {
    for error in BlockError::ALL {
        let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
        fail(&t.faults, FaultOp::Any, error, None);
        let key = |read: bool| match error {
            BlockError::OutOfRange => (5, 0x21, 0),
            BlockError::Misaligned => (5, 0x24, 0),
            BlockError::ReadOnly => (7, 0x27, 0),
            BlockError::NoSpace => (7, 0x27, 7),
            BlockError::Medium if read => (3, 0x11, 0),
            BlockError::Medium => (3, 0x0c, 0),
            BlockError::Unsupported => (5, 0x20, 0),
            BlockError::Corrupt | BlockError::Permission => (4, 0x44, 0),
            BlockError::Aborted => (0xb, 0, 6),
            BlockError::TimedOut => (0xb, 0x2e, 2),
            BlockError::NoMemory => (4, 0x55, 0),
            BlockError::Gone => (2, 0x08, 0),
        };
        let reply = t.driver.command(&ten(0x28, 0, 5, 1), &[], 512);
        assert_sense(&reply, key(true), &format!("reading: {error}"));
        if error == BlockError::Medium {
            assert_eq!(reply.sense[..7], [0xf0, 0, 3, 0, 0, 0, 5], "where it is");
        }
        assert_eq!(reply.residual, 512);
        for cdb in [ten(0x2a, 0, 5, 1), ten(0x2e, 0, 5, 1), ten(0x41, 0, 5, 1)] {
            let reply = t.driver.command(&cdb, &[1; 512], 0);
            assert_sense(&reply, key(false), &format!("{cdb:x?}: {error}"));
        }
        let reply = t.driver.command(&ten(0x35, 0, 0, 0), &[], 0);
        assert_sense(&reply, key(false), &format!("flushing: {error}"));
        let reply = t.driver.command(&ten(0x2f, 0, 0, 1), &[], 0);
        assert_sense(&reply, key(true), &format!("verifying: {error}"));
    }
}

#[test]
fn report_tells_the_guest_and_the_monitor() {
    let mut t = setup(ErrorPolicy::Report, ErrorPolicy::Report);
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    t.driver.command(&ten(0x28, 0, 0, 1), &[], 512);
    t.driver.command(&ten(0x2e, 0, 0, 1), &[1; 512], 0);
    let events = t.machine.errors.take();
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].device.as_str(), events[0].node.as_str()), ("disk0", "disk0-node"));
    assert_eq!((events[0].operation, events[0].action), (IoOperation::Read, ErrorAction::Report));
    assert_eq!(events[1].operation, IoOperation::Write);
}

#[test]
fn ignore_tells_the_guest_that_all_is_well() {
    let mut t = setup(ErrorPolicy::Ignore, ErrorPolicy::Ignore);
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    let reply = t.driver.command(&ten(0x28, 0, 0, 1), &[], 512);
    assert!(reply.is_good() && reply.residual == 0);
    assert!(t.driver.command(&ten(0x2a, 0, 0, 1), &[1; 512], 0).is_good());
    assert!(t.driver.command(&ten(0x2e, 0, 0, 1), &[1; 512], 0).is_good());
    assert!(t.machine.errors.take().iter().all(|event| event.action == ErrorAction::Ignore));
}

#[test]
fn the_drivers_own_mistakes_are_always_reported() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    assert_sense(&t.driver.command(&ten(0x28, 0, 4096, 1), &[], 512), (5, 0x21, 0), "reading");
    assert_sense(&t.driver.command(&ten(0x2a, 0, 4096, 1), &[1; 512], 0), (5, 0x21, 0), "writing");
    assert!(t.machine.errors.take().is_empty());
}

#[test]
fn stopped_commands_are_tried_again_in_order_when_the_machine_goes_on() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, None);
    let lun = ScsiDriver::lun(0, 0);
    let tickets: Vec<_> = (0..5u32)
        .map(|i| {
            // Plain writes, and jobs among them.
            let opcode = if i % 2 == 0 { 0x2a } else { 0x2e };
            t.driver.offer(0, lun, &ten(opcode, 0, i, 1), &pattern(i as u8, 512), 0)
        })
        .collect();
    t.driver.rings[0].notify();
    t.machine.run();
    let failed = t.machine.errors.take();
    assert!(!failed.is_empty() && failed.iter().all(|event| event.action == ErrorAction::Stop));
    assert!(t.driver.rings[0].take().is_none());
    let function = t.adapter.device.function();
    t.machine.finish(|done| function.pause(done));
    function.resume();
    t.machine.run();
    assert!(t.driver.rings[0].take().is_none(), "it fails again");
    t.machine.finish(|done| function.pause(done));
    let rule = t.faults.query()[0].rule.id.clone().unwrap();
    t.faults.delete(&rule).unwrap();
    t.machine.run();
    assert!(t.driver.rings[0].take().is_none(), "not before it goes on");
    function.resume();
    t.machine.run();
    let mut ended = 0;
    while let Some((head, written)) = t.driver.rings[0].take() {
        let ticket = tickets.iter().find(|ticket| ticket.head == head).unwrap();
        assert!(t.driver.look(ticket, written).is_good());
        ended += 1;
    }
    assert_eq!(ended, 5);
    for i in 0..5u32 {
        let reply = t.driver.command(&ten(0x28, 0, i, 1), &[], 512);
        assert_eq!(reply.data, pattern(i as u8, 512));
    }
}

#[test]
fn a_compare_and_write_that_waited_does_not_compare_again() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Write, BlockError::NoSpace, Some(1));
    let mut cdb = sixteen(0x89, 0, 8, 0);
    cdb[13] = 1;
    let data = [vec![0; 512], vec![5; 512]].concat();
    let ticket = t.driver.offer(0, ScsiDriver::lun(0, 0), &cdb, &data, 0);
    t.driver.rings[0].notify();
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).is_none(), "it waits");
    let function = t.adapter.device.function();
    t.machine.finish(|done| function.pause(done));
    function.resume();
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).unwrap().is_good());
    assert_eq!(t.driver.command(&ten(0x28, 0, 8, 1), &[], 512).data, [5; 512]);
}

#[test]
fn a_reset_forgets_parked_commands() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, Some(1));
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.run();
    let mut again = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
    t.adapter.device.function().resume();
    t.machine.run();
    assert_eq!(t.driver.look(&ticket, 0).response, 0xee, "answered after the reset");
    settle(&mut again, 0, 0);
    assert_eq!(again.command(&ten(0x28, 0, 0, 1), &[], 512).data, [0; 512], "done after it");
}

#[test]
fn a_unit_that_leaves_takes_its_waiting_commands_along() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    fail(&t.faults, FaultOp::Any, BlockError::NoSpace, None);
    let lun = ScsiDriver::lun(0, 0);
    let parked = t.driver.offer(0, lun, &ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.run();
    assert!(t.driver.reply(0, &parked).is_none(), "it waits");
    t.machine.finish(|done| t.adapter.device.remove_lun(0, 0, done).unwrap());
    assert_eq!(t.driver.reply(0, &parked).unwrap().response, 3);
    // One that fails after its unit has left does not wait for a machine that knows nothing of it.
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    let late = t.driver.offer(0, lun, &ten(0x2e, 0, 0, 1), &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    fail(&t.faults, FaultOp::Any, BlockError::Medium, None);
    t.machine.finish(|done| t.adapter.device.remove_lun(0, 0, done).unwrap());
    let reply = t.driver.reply(0, &late).unwrap();
    assert!(reply.is_good() || reply.key().0 == 3, "{reply:?}");
}

/// Whether a removal was reported.
fn remove(t: &Setup) -> Arc<AtomicBool> {
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    t.adapter.device.remove_lun(0, 0, Box::new(move || flag.store(true, SeqCst))).unwrap();
    gone
}

#[test]
fn a_unit_leaves_an_adapter_that_cannot_answer() {
    // With bus mastering off, and in a pause.
    for paused in [false, true] {
        let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
        let lun = ScsiDriver::lun(0, 0);
        fail(&t.faults, FaultOp::Any, BlockError::NoSpace, Some(1));
        let parked = t.driver.offer(0, lun, &ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
        t.driver.rings[0].notify();
        t.machine.run();
        assert!(t.driver.reply(0, &parked).is_none(), "it waits");
        let late = t.driver.offer(0, lun, &ten(0x2a, 0, 0, 1), &pattern(2, 512), 0);
        let function = t.adapter.device.function();
        match paused {
            true => t.machine.finish(|done| function.pause(done)),
            false => t.machine.pci_write(t.adapter.at, 4, 2, 2),
        }
        t.driver.rings[0].notify();
        let gone = remove(&t);
        t.machine.run();
        assert!(gone.load(SeqCst), "paused: {paused}");
        assert!(t.driver.reply(0, &parked).is_none(), "nothing is written to the ring");
        // Another unit takes the place before the driver goes on: nothing of the old one reaches it.
        let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
        t.adapter.device.add_lun(0, 0, other).unwrap();
        match paused {
            true => function.resume(),
            false => t.machine.pci_write(t.adapter.at, 4, 2, 6),
        }
        t.machine.run();
        assert_eq!(t.driver.reply(0, &parked).unwrap().response, 3);
        let reply = t.driver.reply(0, &late).unwrap();
        assert_eq!((reply.response, reply.status), (0, 2), "the new unit's attention");
        settle(&mut t.driver, 0, 0);
        assert_eq!(t.driver.command(&ten(0x28, 0, 0, 1), &[], 512).data, [0; 512]);
    }
}

#[test]
fn a_unit_that_leaves_an_adapter_without_bus_mastering_waits_for_what_is_in_flight() {
    let mut t = setup(ErrorPolicy::Stop, ErrorPolicy::Stop);
    let hang = t.faults.add(FaultRule::new(Action::Hang)).unwrap();
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.run();
    t.machine.pci_write(t.adapter.at, 4, 2, 2);
    let gone = remove(&t);
    t.machine.run();
    assert!(!gone.load(SeqCst), "it hangs");
    t.faults.delete(&hang).unwrap();
    t.machine.run();
    assert!(gone.load(SeqCst));
    t.machine.pci_write(t.adapter.at, 4, 2, 6);
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).unwrap().is_good());
}
