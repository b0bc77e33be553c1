//! Resets, pauses, hot plug, and what may not outlive them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use spindle_devices::{Device, testkit::driver::ScsiDriver};

use super::setup::{ALL, Setup, pattern, read, settle, setup, sixteen, ten, write};

fn loaded(t: &mut Setup, requests: u32) {
    let lun = ScsiDriver::lun(0, 0);
    for i in 0..requests {
        if i % 3 == 2 {
            t.driver.offer(0, lun, &ten(0x2e, 0, i * 8, 8), &pattern(7, 4096), 0);
        } else if i % 3 == 1 {
            t.driver.offer(0, lun, &ten(0x2a, 0, i * 8, 8), &pattern(7, 4096), 0);
        } else {
            t.driver.offer(0, lun, &ten(0x28, 0, i * 8, 8), &[], 4096);
        }
    }
    t.driver.rings[0].notify();
    t.machine.turn();
}

#[test]
fn a_reset_under_load_ends_only_when_nothing_can_touch_memory_any_more() {
    for round in 0..30 {
        let mut t = setup(1 << 20, |_| ());
        loaded(&mut t, 5);
        for _ in 0..round % 5 {
            t.machine.world.step();
        }
        let in_flight = t.machine.world.in_flight();
        t.driver.function.set(20, 1, 0);
        t.machine.turn();
        if in_flight > 0 {
            assert_ne!(t.driver.function.status(), 0, "done with requests in flight");
        }
        while t.driver.function.status() != 0 {
            assert!(t.machine.world.step(), "the reset hangs");
            t.machine.turn();
        }
        let snapshot = || t.machine.memory.read(0, 4 << 20);
        let before = snapshot();
        t.machine.run();
        assert!(snapshot() == before, "DMA after the reset");
        let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
        settle(&mut driver, 0, 0);
        read(&mut driver, 0, 1);
    }
}

#[test]
fn a_reset_with_functions_under_way_forgets_them() {
    let mut t = setup(1 << 20, |_| ());
    loaded(&mut t, 5);
    let (_, response) = t.driver.offer_tmf(5, ScsiDriver::lun(0, 0), 0);
    t.machine.turn();
    t.driver.function.reset();
    assert_eq!(t.machine.memory.read(response, 1), [0xee], "answered after the reset");
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
    settle(&mut driver, 0, 0);
    assert_eq!(driver.tmf(5, ScsiDriver::lun(0, 0), 0), 0);
}

#[test]
fn one_queue_is_reset_while_a_function_waits_for_it() {
    let mut t = setup(1 << 20, |_| ());
    loaded(&mut t, 5);
    let lun = ScsiDriver::lun(0, 0);
    let (_, response) = t.driver.offer_tmf(1, lun, 0);
    t.machine.turn();
    let function = &t.driver.function;
    function.set(22, 2, 2);
    function.set(58, 2, 1);
    t.machine.turn();
    assert_eq!(function.get(58, 2), 1, "commands are in flight");
    t.machine.run();
    assert_eq!((function.get(58, 2), function.get(28, 2)), (0, 0));
    assert_eq!(t.machine.memory.read(response, 1), [0]);
    while t.driver.control.take().is_some() {}
    // Without the queue there is nothing to end.
    assert_eq!(t.driver.tmf(5, lun, 0), 0);
    t.driver.rings[0] = t.driver.function.queue(2, 16, t.driver.features);
    t.machine.turn();
    settle(&mut t.driver, 0, 0);
    read(&mut t.driver, 0, 1);
}

#[test]
fn a_paused_device_takes_nothing_and_goes_on_where_it_was() {
    let mut t = setup(1 << 20, |_| ());
    let function = t.adapter.device.function();
    loaded(&mut t, 3);
    t.machine.finish(|done| function.pause(done));
    assert_eq!(t.machine.world.in_flight(), 0);
    while t.driver.rings[0].take().is_some() {}
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).is_none());
    function.resume();
    t.machine.run();
    assert!(t.driver.reply(0, &ticket).unwrap().is_good());
}

#[test]
fn units_come_and_go_and_the_driver_is_told() {
    let mut t = setup(1 << 20, |_| ());
    let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
    t.adapter.device.add_lun(3, 300, Arc::clone(&other)).unwrap();
    let event = t.driver.event().unwrap();
    let place = ScsiDriver::lun(3, 300);
    assert_eq!((event.event, event.lun, event.reason), (1, place, 1));
    settle(&mut t.driver, 3, 300);
    let ticket = t.driver.offer(0, place, &ten(0x2a, 0, 0, 1), &pattern(1, 512), 0);
    t.driver.rings[0].notify();
    t.machine.turn();
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    let done = move || flag.store(true, SeqCst);
    t.adapter.device.remove_lun(3, 300, Box::new(done)).unwrap();
    t.machine.turn();
    assert!(!gone.load(SeqCst), "a write is in flight");
    let event = t.driver.event().unwrap();
    assert_eq!((event.event, event.lun, event.reason), (1, place, 2));
    assert!(t.driver.reply(0, &ticket).unwrap().is_good(), "it ends as it would have");
    assert!(gone.load(SeqCst));
    assert_eq!(Arc::strong_count(&other), 1, "nobody holds the unit");
    assert_eq!(t.driver.send(place, &[0; 6], &[], 0).response, 3, "nobody is there");
    assert!(t.adapter.device.remove_lun(3, 300, Box::new(|| ())).is_err());
}

#[test]
fn the_other_units_of_a_target_tell_of_newcomers() {
    let mut t = setup(1 << 20, |_| ());
    let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
    t.adapter.device.add_lun(0, 1, other).unwrap();
    super::setup::assert_sense(&t.driver.command(&[0; 6], &[], 0), (6, 0x3f, 0x0e), "the luns");
    let (third, _) = t.machine.scsi_disk("disk2", 1 << 20, |_| ());
    t.adapter.device.add_lun(0, 2, third).unwrap();
    let luns = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    let reply = t.driver.command(&luns, &[], 32);
    assert_eq!(reply.data[..4], [0, 0, 0, 24]);
    assert!(t.driver.command(&[0; 6], &[], 0).is_good(), "REPORT LUNS has told it");
}

#[test]
fn events_without_buffers_are_kept_and_too_many_are_counted_as_missed() {
    let mut t = setup(1 << 20, |_| ());
    let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
    for _ in 0..40 {
        t.adapter.device.add_lun(1, 0, Arc::clone(&other)).unwrap();
        t.adapter.device.remove_lun(1, 0, Box::new(|| ())).unwrap();
        t.machine.run();
    }
    // Four buffers were filled at once, 64 events were kept: twelve are lost.
    for i in 0..68u32 {
        let event = t.driver.event().unwrap();
        let missed = if i == 4 { 0x8000_0000 } else { 0 };
        assert_eq!((event.event, event.reason), (1 | missed, 1 + i % 2), "event {i}");
        t.driver.offer_event_buffer();
    }
    assert!(t.driver.event().is_none());
}

#[test]
fn without_the_features_no_events_are_sent() {
    let t = setup(1 << 20, |_| ());
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, 0, 1, 16);
    let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
    t.adapter.device.add_lun(1, 0, other).unwrap();
    t.unit.resized();
    assert!(driver.event().is_none());
}

#[test]
fn one_unit_behind_two_adapters_is_one_unit() {
    let t = setup(1 << 20, |_| ());
    let second = t.machine.add_scsi("hba1", |_| ());
    second.device.add_lun(5, 0, Arc::clone(&t.unit)).unwrap();
    t.machine.assign();
    let mut other = ScsiDriver::new(&t.machine, second.at, ALL, 1, 16);
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
    settle(&mut driver, 0, 0);
    settle(&mut other, 5, 0);
    write(&mut driver, 3, &pattern(1, 512));
    let reply = other.send(ScsiDriver::lun(5, 0), &ten(0x28, 0, 3, 1), &[], 512);
    assert_eq!(reply.data, pattern(1, 512));
}

#[test]
fn an_adapter_without_bus_mastering_holds_nobody_up() {
    let t = setup(1 << 20, |_| ());
    let second = t.machine.add_scsi("hba1", |_| ());
    second.device.add_lun(0, 0, Arc::clone(&t.unit)).unwrap();
    t.machine.assign();
    let mut other = ScsiDriver::new(&t.machine, second.at, ALL, 1, 16);
    let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
    settle(&mut driver, 0, 0);
    settle(&mut other, 0, 0);
    // COMPARE AND WRITE waits for the writes of all adapters.
    let mut cdb = sixteen(0x89, 0, 3, 0);
    cdb[13] = 1;
    let data = [[0; 512], [7; 512]].concat();
    let lun = ScsiDriver::lun(0, 0);
    let write = other.offer(0, lun, &ten(0x2a, 0, 9, 1), &pattern(1, 512), 0);
    other.rings[0].notify();
    t.machine.turn();
    t.machine.pci_write(second.at, 4, 2, 2);
    let ticket = driver.offer(0, lun, &cdb, &data, 0);
    driver.rings[0].notify();
    t.machine.turn();
    assert!(driver.reply(0, &ticket).is_none(), "a write is in flight");
    t.machine.run();
    assert!(driver.reply(0, &ticket).unwrap().is_good());
    assert!(driver.send(lun, &ten(0x28, 0, 3, 1), &[], 512).data == [7; 512]);
    let reply = driver.send(lun, &cdb, &[[7; 512], [8; 512]].concat(), 0);
    assert!(reply.is_good(), "with nothing in flight: {reply:?}");
    t.machine.pci_write(second.at, 4, 2, 6);
    t.machine.run();
    assert!(other.reply(0, &write).unwrap().is_good());
}
