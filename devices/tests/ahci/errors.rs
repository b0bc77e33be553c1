//! Errors: of the medium, of queued commands and their log, and what the policies make of them.

use spindle_block::{
    BlockError,
    nodes::fault::{Action, FaultOp, FaultRule},
};
use spindle_devices::{
    Device,
    policy::{ErrorAction, ErrorPolicy},
};

use super::driver::{
    IFS, P_CI, P_IS, P_SACT, P_SERR, P_TFD, SDBS, Setup, TFES, ata, pattern, queued, setup,
    setup_with,
};

fn clear(s: &Setup) {
    for rule in s.faults.query() {
        s.faults.delete(&rule.rule.id.unwrap()).unwrap();
    }
}

fn fail(s: &Setup, op: FaultOp, error: BlockError) {
    clear(s);
    s.faults.add(FaultRule { op, ..FaultRule::new(Action::Error(error)) }).unwrap();
}

#[test]
fn each_error_has_its_bits() {
    let s = setup_with(1, |_| (), |drive| drive.werror = ErrorPolicy::Report);
    let at = s.machine.memory.alloc(512, 512);
    let table = [
        (BlockError::OutOfRange, 0x10, 0x10),
        (BlockError::Misaligned, 4, 4),
        (BlockError::ReadOnly, 4, 4),
        (BlockError::NoSpace, 4, 4),
        (BlockError::Medium, 0x40, 0x10),
        (BlockError::Unsupported, 4, 4),
        (BlockError::Corrupt, 4, 4),
        (BlockError::Aborted, 4, 4),
        (BlockError::TimedOut, 0x84, 0x84),
        (BlockError::NoMemory, 4, 4),
        (BlockError::Permission, 4, 4),
        (BlockError::Gone, 4, 4),
    ];
    assert_eq!(table.map(|row| row.0), BlockError::ALL);
    for (error, read, write) in table {
        fail(&s, FaultOp::Any, error);
        s.driver.place(0, &ata(0x25, 0, 0x30, 1), &[(at, 512, false)], 0);
        s.driver.set(P_CI, 1);
        s.machine.run();
        // A CRC error is the interface's as well.
        let crc = error == BlockError::TimedOut;
        assert_eq!(s.driver.get(P_IS) & IFS != 0, crc, "{error}");
        assert_eq!(s.driver.get(P_SERR), if crc { 1 << 21 | 1 << 8 } else { 0 });
        s.driver.recover();
        s.driver.fails(&ata(0x25, 0, 0x30, 1), at, 512, read);
        let fis = s.machine.memory.read(s.driver.area + 0x40, 20);
        assert_eq!((fis[2], fis[3], fis[4]), (0x51, read as u8, 0x30), "{error}");
        s.driver.fails(&ata(0x35, 0, 0x30, 1), at, 512, write);
    }
    clear(&s);
    s.driver.ok(&ata(0x25, 0, 0x30, 1), at, 512);
}

#[test]
fn a_queued_command_fails_and_its_log_tells_which() {
    let s = setup();
    let memory = &s.machine.memory;
    let at = memory.alloc(32 * 512, 512);
    let rule = FaultRule::new(Action::Error(BlockError::Medium));
    let (offset, length) = (0x123 * 512, Some(512));
    s.faults.add(FaultRule { op: FaultOp::Read, offset, length, ..rule }).unwrap();
    for slot in 0..8u8 {
        let lba = if slot == 5 { 0x123 } else { u64::from(slot) };
        let fis = queued(0x60, lba, 1, slot);
        s.driver.place(slot, &fis, &[(at + u64::from(slot) * 512, 512, false)], 0);
    }
    s.driver.set(P_SACT, 0xff);
    s.driver.set(P_CI, 0xff);
    s.machine.run();
    assert_eq!(s.driver.get(P_IS) & (TFES | SDBS), TFES | SDBS);
    assert_eq!(s.driver.get(P_TFD), 0x4051);
    assert_ne!(s.driver.get(P_SACT) & 1 << 5, 0, "the one that failed stays");
    assert_eq!(s.driver.get(P_CI), 0);
    s.driver.recover();
    assert_eq!(s.driver.get(P_SACT), 0);
    // Nothing but the log is answered.
    s.driver.fails(&ata(0x25, 0, 0, 1), at, 512, 4);
    s.driver.fails(&ata(0xec, 0, 0, 0), at, 512, 4);
    let log = s.driver.log(0x10, 0);
    assert_eq!((log[0], log[2], log[3]), (5, 0x51, 0x40));
    assert_eq!(log[4..11], [0x23, 1, 0, 0x40, 0, 0, 0]);
    assert_eq!(log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
    assert_eq!(s.driver.log(0x10, 0)[0], 0x80);
}

#[test]
fn disorder_in_the_queue_aborts_it() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    let prds = [(at, 512, false)];
    // A tag that is not the slot's; a command that is not queued; a slot whose tag is not done.
    for kind in 0..3 {
        s.driver.place(0, &queued(0x60, 0, 1, 0), &prds, 0);
        s.driver.set(P_SACT, 1);
        s.driver.set(P_CI, 1);
        s.machine.turn();
        assert_eq!(s.driver.get(P_SACT), 1);
        let slot = match kind {
            0 => {
                s.driver.place(1, &queued(0x60, 0, 1, 2), &prds, 0);
                1
            }
            1 => {
                s.driver.place(1, &ata(0xe7, 0, 0, 0), &[], 0);
                1
            }
            _ => 0,
        };
        s.driver.set(P_CI, 1 << slot);
        s.machine.turn();
        assert_eq!((s.driver.get(P_TFD), s.driver.get(P_SACT)), (0x0451, 1), "{kind}");
        s.machine.run();
        assert_eq!(s.driver.get(P_SACT), 1, "what was queued is dropped");
        s.driver.recover();
        assert_eq!(s.driver.log(0x10, 0)[0], 0x80);
        s.driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
    }
}

#[test]
fn a_queued_command_beyond_the_end_is_refused_with_its_tag() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    s.driver.place(9, &queued(0x60, 0xffff_ffff, 1, 9), &[(at, 512, false)], 0);
    s.driver.set(P_SACT, 1 << 9);
    s.driver.set(P_CI, 1 << 9);
    s.machine.run();
    assert_eq!((s.driver.get(P_TFD), s.driver.get(P_CI)), (0x1051, 1 << 9));
    s.driver.recover();
    let log = s.driver.log(0x10, 0);
    assert_eq!((log[0], log[3]), (9, 0x10));
}

#[test]
fn a_stopped_request_waits_for_the_machine_to_go_on() {
    let s = setup_with(1, |_| (), |drive| drive.werror = ErrorPolicy::Stop);
    let at = s.machine.memory.alloc(512, 512);
    s.machine.memory.write(at, &pattern(4, 512));
    fail(&s, FaultOp::Write, BlockError::Medium);
    s.driver.place(0, &queued(0x61, 2, 1, 0), &[(at, 512, false)], 0);
    s.driver.set(P_SACT, 1);
    s.driver.set(P_CI, 1);
    s.machine.run();
    assert_eq!(s.driver.get(P_SACT), 1);
    let events = s.machine.errors.take();
    assert_eq!((events.len(), events[0].action), (1, ErrorAction::Stop));
    assert_eq!((events[0].device.as_str(), events[0].node.as_str()), ("disk0", "disk0-node"));
    let function = s.controller.device.function();
    s.machine.finish(|done| function.pause(done));
    clear(&s);
    function.resume();
    s.machine.run();
    assert_eq!((s.driver.get(P_SACT), s.driver.get(P_TFD)), (0, 0x50));
    assert_eq!(s.contents(1024, 512), pattern(4, 512));
}

#[test]
fn a_parked_request_is_forgotten_by_a_stop() {
    let s = setup_with(1, |_| (), |drive| drive.rerror = ErrorPolicy::Stop);
    let at = s.machine.memory.alloc(512, 512);
    fail(&s, FaultOp::Read, BlockError::Medium);
    s.driver.run(&ata(0x25, 0, 0, 1), at, 512);
    assert_eq!(s.driver.get(P_CI), 1);
    s.driver.stop();
    s.driver.comreset();
    s.driver.bring_up();
    clear(&s);
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn an_ignored_error_is_success() {
    let s = setup_with(1, |_| (), |drive| drive.rerror = ErrorPolicy::Ignore);
    let at = s.machine.memory.alloc(512, 512);
    fail(&s, FaultOp::Read, BlockError::Medium);
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
    assert_eq!(s.machine.errors.take()[0].action, ErrorAction::Ignore);
}
