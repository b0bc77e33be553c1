//! Unit attentions, in the order and to those that SPC and SAM say.

use std::{rc::Rc, sync::Arc};

use spindle_devices::{
    scsi::LogicalUnit,
    testkit::{Machine, driver::ScsiDriver},
};

use super::setup::{ALL, assert_sense, settle, setup};

const READY: [u8; 6] = [0; 6];

fn two() -> (Rc<Machine>, ScsiDriver, ScsiDriver, Arc<LogicalUnit>) {
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
    (machine, a, b, unit)
}

#[test]
fn the_first_command_learns_of_the_power_on() {
    let t = setup(1 << 20, |_| ());
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
    let inquiry = driver.command(&[0x12, 0, 0, 0, 36, 0], &[], 36);
    assert!(inquiry.is_good(), "INQUIRY is not kept from anybody");
    let luns = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    assert!(driver.command(&luns, &[], 16).is_good(), "nor is REPORT LUNS");
    assert_sense(&driver.command(&READY, &[], 0), (6, 0x29, 1), "the first command");
    assert!(driver.command(&READY, &[], 0).is_good(), "it is told once");
}

#[test]
fn an_invalid_command_learns_of_it_too_and_request_sense_takes_it() {
    let t = setup(1 << 20, |_| ());
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
    assert_sense(&driver.command(&[0xff], &[], 0), (6, 0x29, 1), "an invalid command");
    assert_sense(&driver.command(&[0xff], &[], 0), (5, 0x20, 0), "the same again");
    t.unit.resized();
    let sense = driver.command(&[3, 0, 0, 0, 18, 0], &[], 18);
    assert!(sense.is_good());
    assert_eq!((sense.data[2], sense.data[12], sense.data[13]), (6, 0x2a, 9));
    assert!(driver.command(&READY, &[], 0).is_good(), "it was taken");
}

#[test]
fn a_reset_comes_before_everything_else() {
    let mut t = setup(1 << 20, |_| ());
    t.unit.resized();
    assert_eq!(t.driver.tmf(5, ScsiDriver::lun(0, 0), 0), 0);
    assert_sense(&t.driver.command(&READY, &[], 0), (6, 0x29, 3), "the reset");
    assert_sense(&t.driver.command(&READY, &[], 0), (6, 0x2a, 9), "what was before");
    assert!(t.driver.command(&READY, &[], 0).is_good());
    assert_eq!(t.driver.tmf(4, ScsiDriver::lun(0, 0), 0), 0);
    assert_sense(&t.driver.command(&READY, &[], 0), (6, 0x29, 7), "the nexus was lost");
    assert!(t.driver.command(&READY, &[], 0).is_good());
}

#[test]
fn a_resize_is_told_once() {
    let (_machine, mut a, mut b, unit) = two();
    unit.resized();
    unit.resized();
    for driver in [&mut a, &mut b] {
        assert_sense(&driver.command(&READY, &[], 0), (6, 0x2a, 9), "the capacity changed");
        assert!(driver.command(&READY, &[], 0).is_good());
        let event = driver.event().unwrap();
        assert_eq!((event.event, event.lun, event.reason), (3, ScsiDriver::lun(0, 0), 0x092a));
    }
}

#[test]
fn others_learn_of_changed_modes() {
    let (_machine, mut a, mut b, _) = two();
    let mut list = vec![0, 0, 0, 0, 0x0a, 0x0a, 0x02 | 0x04, 0x10];
    list.resize(16, 0);
    let reply = a.command(&[0x15, 0x10, 0, 0, 16, 0], &list, 0);
    assert!(reply.is_good(), "{reply:?}");
    assert!(a.command(&READY, &[], 0).is_good(), "who changed them knows");
    let reply = b.command(&READY, &[], 0);
    assert_sense(&reply, (6, 0x2a, 1), "the other one");
    assert_eq!(reply.sense[0], 0x72, "D_SENSE is for all");
}
