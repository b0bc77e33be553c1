//! Task management functions, while commands are under way.

use spindle_block::{
    BlockError,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
};
use spindle_devices::{
    Device,
    policy::ErrorPolicy,
    scsi::UnitKind,
    testkit::{
        Machine,
        driver::{ScsiDriver, ScsiTicket},
    },
};
use std::{rc::Rc, sync::Arc};

use super::setup::{ALL, Setup, pattern, read, settle, setup, ten};

const ABORT_TASK: u32 = 0;
const ABORT_TASK_SET: u32 = 1;
const CLEAR_ACA: u32 = 2;
const CLEAR_TASK_SET: u32 = 3;
const I_T_NEXUS_RESET: u32 = 4;
const LOGICAL_UNIT_RESET: u32 = 5;
const QUERY_TASK: u32 = 6;
const QUERY_TASK_SET: u32 = 7;

const COMPLETE: u8 = 0;
const ABORTED: u8 = 2;
const BAD_TARGET: u8 = 3;
const RESET: u8 = 4;
const SUCCEEDED: u8 = 10;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

fn lun(n: u16) -> [u8; 8] {
    ScsiDriver::lun(0, n)
}

/// Commands under way on two units, `n` each.
fn loaded(n: u32) -> (Setup, Vec<ScsiTicket>, Vec<ScsiTicket>) {
    let mut t = setup(1 << 20, |_| ());
    let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
    t.adapter.device.add_lun(0, 1, other).unwrap();
    settle(&mut t.driver, 0, 1);
    settle(&mut t.driver, 0, 0);
    let mut offer = |unit| {
        let mut one = |i: u32| {
            let data = pattern(i as u8, 512);
            t.driver.offer(0, lun(unit), &ten(0x2a, 0, i, 1), &data, 0)
        };
        (0..n).map(&mut one).collect::<Vec<_>>()
    };
    let (first, second) = (offer(0), offer(1));
    t.driver.rings[0].notify();
    t.machine.turn();
    assert_eq!(t.machine.world.in_flight(), 2 * n as usize);
    (t, first, second)
}

/// Response of every command that has ended.
fn ended(driver: &mut ScsiDriver, tickets: &[&[ScsiTicket]]) -> Vec<u8> {
    while driver.rings[0].take().is_some() {}
    let all = tickets.iter().flat_map(|tickets| tickets.iter());
    all.map(|ticket| driver.look(ticket, 0).response).collect()
}

#[test]
fn an_aborted_command_is_answered_before_the_function() {
    let (mut t, first, second) = loaded(1);
    let (_, response) = t.driver.offer_tmf(ABORT_TASK, lun(0), first[0].tag);
    t.machine.turn();
    let answered = |t: &Setup| t.machine.memory.read(response, 1)[0];
    assert_eq!(answered(&t), 0xee, "the command can still write to the disk");
    while answered(&t) == 0xee {
        let before = t.driver.look(&first[0], 0).response;
        assert!(t.machine.world.step() || before == ABORTED, "the function hangs");
        t.machine.turn();
        if answered(&t) != 0xee {
            assert_eq!(t.driver.look(&first[0], 0).response, ABORTED);
        }
    }
    assert_eq!(answered(&t), COMPLETE);
    t.machine.run();
    assert_eq!(ended(&mut t.driver, &[&first, &second]), [ABORTED, 0]);
}

#[test]
fn a_function_ends_what_it_names_and_nothing_else() {
    for (function, code) in [
        (ABORT_TASK_SET, ABORTED),
        (CLEAR_TASK_SET, ABORTED),
        (LOGICAL_UNIT_RESET, RESET),
        (I_T_NEXUS_RESET, ABORTED),
    ] {
        let (mut t, first, second) = loaded(3);
        assert_eq!(t.driver.tmf(function, lun(0), 0), COMPLETE);
        let others = if function == I_T_NEXUS_RESET { ABORTED } else { 0 };
        let expected = [[code; 3], [others; 3]].concat();
        assert_eq!(ended(&mut t.driver, &[&first, &second]), expected, "function {function}");
        settle(&mut t.driver, 0, 0);
        settle(&mut t.driver, 0, 1);
        read(&mut t.driver, 0, 1);
    }
}

#[test]
fn a_command_that_the_device_has_not_seen_is_never_begun() {
    let mut t = setup(1 << 20, |_| ());
    let tickets: Vec<_> =
        (0..4).map(|i| t.driver.offer(0, lun(0), &ten(0x2a, 0, i, 1), &[9; 512], 0)).collect();
    // The request queue was not notified: the function finds the commands in the ring.
    assert_eq!(t.driver.tmf(ABORT_TASK, lun(0), tickets[1].tag), COMPLETE);
    assert_eq!(ended(&mut t.driver, &[&tickets]), [0, ABORTED, 0, 0]);
    let image = t.machine.world.contents(&t.file).to_vec();
    assert_eq!([image[0], image[512], image[1024]], [9, 0, 9]);
}

#[test]
fn queries_tell_what_is_under_way() {
    let (mut t, first, _) = loaded(1);
    let asked = [
        (QUERY_TASK, first[0].tag, SUCCEEDED),
        (QUERY_TASK, first[0].tag + 100, COMPLETE),
        (QUERY_TASK_SET, 0, SUCCEEDED),
    ];
    for (function, tag, expected) in asked {
        let (_, response) = t.driver.offer_tmf(function, lun(0), tag);
        t.machine.turn();
        assert_eq!(t.machine.memory.read(response, 1), [expected], "function {function}, {tag}");
    }
    t.machine.run();
    while t.driver.control.take().is_some() {}
    assert_eq!(t.driver.tmf(QUERY_TASK, lun(0), first[0].tag), COMPLETE, "it has ended");
    assert_eq!(t.driver.tmf(QUERY_TASK_SET, lun(0), 0), COMPLETE);
    assert_eq!(t.driver.tmf(ABORT_TASK, lun(0), first[0].tag), COMPLETE, "nothing to abort");
}

#[test]
fn functions_for_nobody_are_refused() {
    let mut t = setup(1 << 20, |_| ());
    for function in 0..8 {
        let rejected = function == CLEAR_ACA;
        let of = |code| if rejected { REJECTED } else { code };
        assert_eq!(t.driver.tmf(function, lun(7), 0), of(INCORRECT_LUN), "{function}");
        assert_eq!(t.driver.tmf(function, ScsiDriver::lun(9, 0), 0), of(BAD_TARGET), "{function}");
        assert_eq!(t.driver.tmf(function, [0xff; 8], 0), of(BAD_TARGET), "{function}");
    }
    assert_eq!(t.driver.tmf(8, lun(0), 0), REJECTED);
    assert_eq!(t.driver.tmf(u32::MAX, lun(0), 0), REJECTED);
}

#[test]
fn a_unit_reset_ends_the_commands_of_other_adapters_too() {
    let machine = Machine::new(fastrand::u64(..));
    let adapters = [machine.add_scsi("hba0", |_| ()), machine.add_scsi("hba1", |_| ())];
    let (unit, _) = machine.scsi_disk("disk0", 1 << 20, |_| ());
    for adapter in &adapters {
        adapter.device.add_lun(0, 0, unit.clone()).unwrap();
    }
    machine.assign();
    let machine = Rc::new(machine);
    let [mut a, mut b] = adapters.map(|adapter| ScsiDriver::new(&machine, adapter.at, ALL, 1, 16));
    settle(&mut a, 0, 0);
    settle(&mut b, 0, 0);
    for (function, code, attention) in
        [(LOGICAL_UNIT_RESET, RESET, (6, 0x29, 3)), (CLEAR_TASK_SET, ABORTED, (6, 0x2f, 0))]
    {
        let ticket = b.offer(0, lun(0), &ten(0x28, 0, 0, 1), &[], 512);
        b.rings[0].notify();
        machine.turn();
        assert_eq!(a.tmf(function, lun(0), 0), COMPLETE);
        assert_eq!(b.reply(0, &ticket).unwrap().response, code);
        super::setup::assert_sense(&b.command(&[0; 6], &[], 0), attention, "the other one");
        settle(&mut a, 0, 0);
        settle(&mut b, 0, 0);
    }
}

#[test]
fn functions_end_jobs_and_parked_commands() {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let adapter = machine.add_scsi("hba0", |_| ());
    let unit = machine.scsi_unit("disk0", UnitKind::Disk, Arc::clone(&faults) as _, |config| {
        config.werror = ErrorPolicy::Stop;
    });
    adapter.device.add_lun(0, 0, unit).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 16);
    settle(&mut driver, 0, 0);
    // A job that is waiting for its first piece.
    let job = driver.offer(0, lun(0), &ten(0x2f, 0, 0, 2000), &[], 0);
    driver.rings[0].notify();
    machine.turn();
    assert_eq!(driver.tmf(ABORT_TASK_SET, lun(0), 0), COMPLETE);
    assert_eq!(driver.reply(0, &job).unwrap().response, ABORTED);
    // A command that failed and waits, one behind it that was not begun, and one in the ring.
    let rule =
        FaultRule { op: FaultOp::Write, ..FaultRule::new(Action::Error(BlockError::NoSpace)) };
    faults.add(rule).unwrap();
    let parked: Vec<_> = (0..3)
        .map(|i| {
            let ticket = driver.offer(0, lun(0), &ten(0x2a, 0, i, 1), &[9; 512], 0);
            driver.rings[0].notify();
            machine.run();
            ticket
        })
        .collect();
    assert!(driver.rings[0].take().is_none());
    assert_eq!(driver.tmf(ABORT_TASK, lun(0), parked[1].tag), COMPLETE);
    assert_eq!(driver.reply(0, &parked[1]).unwrap().response, ABORTED);
    assert_eq!(driver.tmf(ABORT_TASK_SET, lun(0), 0), COMPLETE);
    assert_eq!(ended(&mut driver, &[&parked]), [ABORTED; 3]);
    adapter.device.function().resume();
    machine.run();
    assert!(driver.rings[0].take().is_none(), "nothing is tried again");
}

#[test]
fn a_function_on_a_paused_machine_waits() {
    let mut t = setup(1 << 20, |_| ());
    let function = t.adapter.device.function();
    t.machine.finish(|done| function.pause(done));
    let ticket = t.driver.offer(0, lun(0), &ten(0x28, 0, 0, 1), &[], 512);
    let (_, response) = t.driver.offer_tmf(ABORT_TASK, lun(0), ticket.tag);
    t.machine.run();
    assert_eq!(t.machine.memory.read(response, 1), [0xee]);
    function.resume();
    t.machine.run();
    assert_eq!(t.machine.memory.read(response, 1), [COMPLETE]);
    let got = t.driver.reply(0, &ticket).unwrap();
    assert!(got.response == ABORTED || got.is_good(), "{got:?}");
}
