//! FORMAT UNIT and SANITIZE: what they write, what others are told meanwhile.

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
    scsi::UnitKind,
    testkit::{Machine, driver::ScsiDriver},
};

use super::setup::{ALL, Setup, assert_sense, pattern, read, settle, setup, ten, write};

/// Flags or action, parameter list, sense data, why.
type Refused = (u8, &'static [u8], (u8, u8, u8), &'static str);
/// Flags, parameter list, pattern.
type Format = (u8, &'static [u8], Option<&'static [u8]>);

fn sanitize(action: u8, len: u8) -> [u8; 10] {
    [0x48, action, 0, 0, 0, 0, 0, 0, len, 0]
}

fn image(t: &Setup) -> Vec<u8> {
    t.machine.world.contents(&t.file).to_vec()
}

#[test]
fn a_format_writes_what_it_was_told() {
    let mut t = setup(1 << 20, |_| ());
    let cases: &[Format] = &[
        (0x00, &[], None),
        (0x10, &[0, 0, 0, 0], None),
        (0x10, &[0, 0x80, 0, 0], None),
        (0x30, &[0, 0, 0, 0, 0, 0, 0, 0], None),
        (0x18, &[0, 0x88, 0, 0, 0, 0, 0, 0], None),
        (0x10, &[0, 0x88, 0, 0, 0, 1, 0, 3, 1, 2, 3], Some(&[1, 2, 3])),
    ];
    for (flags, list, fill) in cases {
        write(&mut t.driver, 5, &pattern(1, 4096));
        let reply = t.driver.command(&[4, *flags, 0, 0, 0, 0], list, 0);
        assert!(reply.is_good(), "{list:x?}: {reply:?}");
        let block: Vec<u8> = match fill {
            Some(fill) => fill.iter().copied().cycle().take(512).collect(),
            None => vec![0; 512],
        };
        assert!(image(&t).chunks(512).all(|chunk| chunk == block), "{list:x?}");
    }
}

#[test]
fn formats_that_make_no_sense_are_refused() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 5, &pattern(1, 4096));
    let cases: &[Refused] = &[
        (0x80, &[], (5, 0x24, 0), "protection information"),
        (0x01, &[], (5, 0x24, 0), "a defect list format"),
        (0x10, &[1, 0, 0, 0], (5, 0x26, 0), "protection usage"),
        (0x10, &[0, 0x08, 0, 0], (5, 0x26, 0), "a pattern without FOV"),
        (0x10, &[0, 0, 0, 4], (5, 0x26, 0), "defects"),
        (0x30, &[0, 0, 0, 0, 0, 0, 0, 4], (5, 0x26, 0), "defects"),
        (0x30, &[0, 0, 0, 1, 0, 0, 0, 0], (5, 0x26, 0), "protection intervals"),
        (0x10, &[0, 0x88, 0, 0, 0, 2, 0, 1, 1], (5, 0x26, 0), "a kind of pattern"),
        (0x10, &[0, 0x88, 0, 0, 0, 0, 0, 1, 1], (5, 0x26, 0), "a default pattern with bytes"),
        (0x10, &[0, 0x88, 0, 0, 0, 1, 2, 1, 1], (5, 0x26, 0), "a pattern larger than a block"),
        (0x10, &[0, 0x88, 0, 0, 0, 1, 0, 4, 1], (5, 0x1a, 0), "a pattern cut short"),
        (0x10, &[0, 0x88, 0, 0, 0], (5, 0x1a, 0), "half a descriptor"),
    ];
    for (flags, list, key, what) in cases {
        assert_sense(&t.driver.command(&[4, *flags, 0, 0, 0, 0], list, 0), *key, what);
    }
    assert_eq!(t.driver.command(&[4, 0x10, 0, 0, 0, 0], &[0; 3], 0).response, 1, "no header");
    assert_eq!(read(&mut t.driver, 5, 8), pattern(1, 4096), "nothing was written");
}

#[test]
fn a_sanitize_overwrites_durably() {
    let mut t = setup(6 << 20, |_| ());
    let durable = |t: &Setup| t.machine.world.durable(&t.file).to_vec();
    write(&mut t.driver, 5, &pattern(1, 4096));
    assert!(t.driver.command(&sanitize(2, 0), &[], 0).is_good());
    assert!(durable(&t).iter().all(|byte| *byte == 0));
    // Count, invert, pattern; what is there in the end.
    for (first, pattern, expected) in [
        (1, vec![0xa5], 0xa5u8),
        (0x81, vec![0xa5], 0xa5),
        (0x82, vec![0xa5], 0x5a),
        (3, vec![7], 7),
    ] {
        let list = [&[first, 0, 0, pattern.len() as u8], &pattern[..]].concat();
        let reply = t.driver.command(&sanitize(1, list.len() as u8), &list, 0);
        assert!(reply.is_good() && reply.residual == 0, "{reply:?}");
        assert!(durable(&t).iter().all(|byte| *byte == expected), "{list:x?}");
    }
    let list = [1, 0, 0, 3, 1, 2, 3];
    assert!(t.driver.command(&sanitize(1, 7), &list, 0).is_good());
    let block: Vec<u8> = [1, 2, 3].into_iter().cycle().take(512).collect();
    assert!(durable(&t).chunks(512).all(|chunk| chunk == block));
    assert!(t.driver.command(&sanitize(0x1f, 0), &[], 0).is_good(), "nothing has failed");
}

#[test]
fn sanitizes_that_make_no_sense_are_refused() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 5, &pattern(1, 4096));
    let cases: &[Refused] = &[
        (0x00, &[], (5, 0x24, 0), "no action"),
        (0x03, &[], (5, 0x24, 0), "nothing is encrypted"),
        (0x02, &[0; 4], (5, 0x24, 0), "a list for an erase"),
        (0x42, &[], (5, 0x24, 0), "zones"),
        (0x01, &[], (5, 0x24, 0), "no list"),
        (0x01, &[1, 0, 0, 1], (5, 0x24, 0), "no pattern"),
        (0x01, &[1, 1, 0, 1, 1], (5, 0x26, 0), "a reserved byte"),
        (0x01, &[0, 0, 0, 1, 1], (5, 0x26, 0), "no pass"),
        (0x01, &[0x21, 0, 0, 1, 1], (5, 0x26, 0), "a test"),
        (0x01, &[1, 0, 0, 0, 1], (5, 0x26, 0), "an empty pattern"),
        (0x01, &[1, 0, 2, 1, 1], (5, 0x26, 0), "a pattern larger than a block"),
        (0x01, &[1, 0, 0, 2, 1], (5, 0x26, 0), "a pattern cut short"),
    ];
    for (action, list, key, what) in cases {
        let reply = t.driver.command(&sanitize(*action, list.len() as u8), list, 0);
        assert_sense(&reply, *key, what);
    }
    for byte in 2..7 {
        let mut cdb = sanitize(2, 0);
        cdb[byte] = 1;
        assert_sense(&t.driver.command(&cdb, &[], 0), (5, 0x24, 0), "a reserved byte");
    }
    let long = [&[1, 0, 2, 0], &[1; 513][..]].concat();
    let mut cdb = sanitize(1, 0);
    cdb[7..9].copy_from_slice(&517u16.to_be_bytes());
    assert_sense(&t.driver.command(&cdb, &long, 0), (5, 0x24, 0), "more than a block");
    assert_eq!(read(&mut t.driver, 5, 8), pattern(1, 4096), "nothing was written");
}

#[test]
fn others_are_told_how_far_a_sanitize_is() {
    let mut t = setup(64 << 20, |_| ());
    write(&mut t.driver, 5, &pattern(1, 4096));
    let list = [2, 0, 0, 1, 9];
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &sanitize(0x81, 5), &list, 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    assert!(t.driver.reply(0, &ticket).unwrap().is_good(), "it answers at once");
    let ask = |t: &mut Setup, cdb: &[u8], len: u32| {
        let ticket = t.driver.offer(0, lun, cdb, &[], len);
        t.driver.rings[0].notify();
        t.machine.turn();
        t.driver.reply(0, &ticket).unwrap()
    };
    let mut last = 0;
    let mut polls = 0;
    loop {
        let ready = ask(&mut t, &[0; 6], 0);
        if ready.is_good() {
            break;
        }
        assert_sense(&ready, (2, 4, 0x1b), "TEST UNIT READY");
        assert_eq!(ready.sense[15], 0x80, "progress is valid");
        let progress = u16::from_be_bytes([ready.sense[16], ready.sense[17]]);
        assert!(progress >= last, "{progress} after {last}");
        last = progress;
        polls += 1;
        if polls == 1 {
            let sense = ask(&mut t, &[3, 0, 0, 0, 18, 0], 18);
            assert_eq!((sense.data[2], sense.data[12], sense.data[13]), (2, 4, 0x1b));
            assert!(ask(&mut t, &[0x12, 0, 0, 0, 36, 0], 36).is_good());
            assert!(ask(&mut t, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).is_good());
            for cdb in [ten(0x28, 0, 0, 1), sanitize(2, 0), ten(0x35, 0, 0, 0)] {
                let len = if cdb[0] == 0x28 { 512 } else { 0 };
                assert_sense(&ask(&mut t, &cdb, len), (2, 4, 0x1b), &format!("{cdb:x?}"));
            }
        }
        if !t.machine.world.step() {
            // The last command was there before the end of the last write.
            assert!(ask(&mut t, &[0; 6], 0).is_good(), "it hangs");
            break;
        }
    }
    assert!(polls > 10 && last > 0x8000, "{polls} polls, {last:#x}");
    assert!(image(&t).iter().all(|byte| *byte == 9));
}

#[test]
fn a_format_goes_on_in_the_background() {
    let mut t = setup(32 << 20, |_| ());
    write(&mut t.driver, 5, &pattern(1, 4096));
    let list = [0, 0x8a, 0, 0, 0, 1, 0, 1, 6];
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &[4, 0x10, 0, 0, 0, 0], &list, 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    assert!(t.driver.reply(0, &ticket).unwrap().is_good());
    let ticket = t.driver.offer(0, lun, &[0; 6], &[], 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    assert_sense(&t.driver.reply(0, &ticket).unwrap(), (2, 4, 4), "a format is in progress");
    // A pause stops it between two steps, and a reset does not end it.
    let function = t.adapter.device.function();
    t.machine.finish(|done| function.pause(done));
    let before = image(&t);
    t.machine.run();
    assert!(image(&t) == before && before.contains(&0), "it went on in a paused machine");
    function.resume();
    t.machine.turn();
    t.driver.function.reset();
    t.machine.run();
    assert!(image(&t).contains(&0), "nobody is there to go on");
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 64);
    t.machine.run();
    assert!(image(&t).iter().all(|byte| *byte == 6));
    settle(&mut driver, 0, 0);
}

#[test]
fn a_format_that_somebody_waits_for_keeps_nobody_from_a_pause() {
    let mut t = setup(32 << 20, |_| ());
    let list = [0, 0x88, 0, 0, 0, 1, 0, 1, 6];
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &[4, 0x10, 0, 0, 0, 0], &list, 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    let function = t.adapter.device.function();
    t.machine.finish(|done| function.pause(done));
    assert!(image(&t).contains(&0), "it is not over");
    assert!(t.driver.reply(0, &ticket).is_none());
    function.resume();
    t.machine.turn();
    assert_eq!(t.driver.tmf(7, lun, 0), 10, "it is under way");
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).unwrap().is_good());
    assert!(image(&t).iter().all(|byte| *byte == 6));
    // Whoever is aborted is answered; what was begun goes on.
    let list = [0, 0x88, 0, 0, 0, 1, 0, 1, 7];
    let ticket = t.driver.offer(0, lun, &[4, 0x10, 0, 0, 0, 0], &list, 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    let (_, response) = t.driver.offer_tmf(0, lun, ticket.tag);
    t.machine.turn();
    assert_eq!(t.machine.memory.read(response, 1), [0]);
    assert_eq!(t.driver.reply(0, &ticket).unwrap().response, 2);
    t.machine.run();
    assert!(image(&t).iter().all(|byte| *byte == 7));
}

#[test]
fn a_sanitize_that_failed_is_left_or_repeated() {
    for (flags, may_exit) in [(0x02, false), (0x22, true)] {
        let machine = Machine::new(fastrand::u64(..));
        let file = machine.world.create_file("disk", &[], 1 << 20);
        let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
        let adapter = machine.add_scsi("hba0", |_| ());
        let unit = machine.scsi_unit("disk0", UnitKind::Disk, Arc::clone(&faults) as _, |_| ());
        adapter.device.add_lun(0, 0, unit).unwrap();
        machine.assign();
        let machine = Rc::new(machine);
        let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 64);
        settle(&mut driver, 0, 0);
        let rule = FaultRule {
            op: FaultOp::Any,
            count: Some(1),
            ..FaultRule::new(Action::Error(BlockError::Medium))
        };
        faults.add(rule).unwrap();
        assert_sense(&driver.command(&sanitize(flags, 0), &[], 0), (3, 0x31, 3), "it failed");
        let reply = driver.command(&ten(0x28, 0, 0, 1), &[], 512);
        assert_sense(&reply, (3, 0x31, 3), "nothing is to be read");
        let exit = driver.command(&sanitize(0x1f, 0), &[], 0);
        if may_exit {
            assert!(exit.is_good(), "{exit:?}");
        } else {
            assert_sense(&exit, (5, 0x24, 0), "it must be sanitized");
            assert!(driver.command(&sanitize(2, 0), &[], 0).is_good());
        }
        assert!(driver.command(&ten(0x28, 0, 0, 1), &[], 512).is_good());
    }
}

#[test]
fn a_format_that_failed_says_so() {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let adapter = machine.add_scsi("hba0", |_| ());
    let unit = machine.scsi_unit("disk0", UnitKind::Disk, Arc::clone(&faults) as _, |_| ());
    adapter.device.add_lun(0, 0, unit).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 64);
    settle(&mut driver, 0, 0);
    let rule = FaultRule {
        op: FaultOp::Any,
        count: Some(1),
        ..FaultRule::new(Action::Error(BlockError::Medium))
    };
    faults.add(rule).unwrap();
    assert_sense(&driver.command(&[4, 0, 0, 0, 0, 0], &[], 0), (3, 0x31, 1), "it failed");
    assert!(driver.command(&[4, 0, 0, 0, 0, 0], &[], 0).is_good());
}
