//! Resets of device, queue and function, pauses, and what may not outlive them.

use std::{cell::Cell, rc::Rc};

use spindle_devices::{
    Device,
    testkit::{Machine, driver::BlkDriver},
};

use super::{ALL, RING_RESET, driver, machine, pattern};

/// All of guest memory that a device could have changed.
fn snapshot(machine: &Machine) -> Vec<u8> {
    machine.memory.read(0, 4 << 20)
}

fn loaded(driver: &mut BlkDriver, requests: u64) {
    for i in 0..requests {
        driver.offer(
            0,
            (i % 2) as u32,
            i * 8,
            if i % 2 == 0 { &[] } else { &[7; 4096] },
            if i % 2 == 0 { 4096 } else { 0 },
        );
    }
    driver.rings[0].notify();
    driver.function.machine.turn();
}

#[test]
fn a_reset_under_load_ends_only_when_nothing_can_touch_memory_any_more() {
    for seed in 0..30 {
        let machine = Machine::new(seed);
        let disk = machine.add_disk("disk0", 1 << 20, |_| ());
        machine.assign();
        let machine = Rc::new(machine);
        let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
        loaded(&mut driver, 5);
        for _ in 0..seed % 5 {
            machine.world.step();
        }
        let in_flight = machine.world.in_flight();
        driver.function.set(20, 1, 0);
        machine.turn();
        if in_flight > 0 {
            assert_ne!(driver.function.status(), 0, "seed {seed}: done with requests in flight");
        }
        let mut steps = 0;
        while driver.function.status() != 0 {
            assert!(machine.world.step(), "seed {seed}: the reset hangs");
            machine.turn();
            steps += 1;
        }
        assert_eq!(steps, in_flight, "seed {seed}");
        let before = snapshot(&machine);
        machine.run();
        assert!(snapshot(&machine) == before, "seed {seed}: DMA after the reset");
        let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
        assert_eq!(driver.read(0, 512).status, 0);
    }
}

#[test]
fn a_reset_puts_every_register_back() {
    let (driver, _) = driver(1 << 20, |_| ());
    let function = driver.function;
    function.use_vectors(0, 0, 1);
    function.set(0, 4, 1);
    function.set(8, 4, 1);
    function.reset();
    function.set(22, 2, 0);
    let expected = [
        (0, 4, 0),
        (8, 4, 0),
        (12, 4, 0),
        (16, 2, 0xffff),
        (20, 1, 0),
        (24, 2, 256),
        (26, 2, 0xffff),
        (28, 2, 0),
        (32, 8, 0),
        (40, 8, 0),
        (48, 8, 0),
        (58, 2, 0),
    ];
    for (offset, width, value) in expected {
        assert_eq!(function.get(offset, width), value, "register {offset}");
    }
}

#[test]
fn writes_during_a_reset_are_ignored() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    loaded(&mut driver, 3);
    let function = &driver.function;
    function.set(20, 1, 0);
    function.set(20, 1, 1);
    function.set(20, 1, 15);
    function.set(28, 2, 1);
    function.machine.run();
    assert_eq!(function.status(), 0);
    assert_eq!(function.get(28, 2), 0);
}

#[test]
fn one_queue_is_reset_while_the_other_works() {
    let machine = Machine::new(11);
    let handles = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let disk = machine.add_disk("mq", 1 << 20, |config| config.iothreads = handles);
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 2, 16);
    let late = driver.offer(1, 1, 8, &pattern(1, 4096), 0);
    driver.rings[1].notify();
    machine.turn();
    let function = &driver.function;
    function.set(22, 2, 1);
    function.set(58, 2, 1);
    machine.turn();
    assert_eq!(function.get(58, 2), 1, "a request is still in flight");
    assert_eq!(function.get(28, 2), 1);
    assert_eq!(driver.write(0, &pattern(2, 512)).status, 0, "queue 0 goes on");
    let function = &driver.function;
    function.set(22, 2, 1);
    assert_eq!((function.get(58, 2), function.get(28, 2)), (0, 0));
    assert_eq!((function.get(24, 2), function.get(32, 8)), (256, 0));
    assert_eq!(function.status(), 15);
    assert_eq!(driver.look(&late, 0).status, 0, "what was in flight was answered before");
    // The driver puts a new ring there.
    driver.rings[1] = driver.function.queue(1, 8, driver.features);
    machine.turn();
    let ticket = driver.offer(1, 0, 8, &[], 4096);
    driver.rings[1].notify();
    machine.run();
    assert_eq!(driver.reply(1, &ticket).unwrap().data, pattern(1, 4096));
}

#[test]
fn a_queue_reset_needs_its_feature() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let mut driver = BlkDriver::new(&machine, disk.at, ALL & !RING_RESET, 1, 16);
    driver.function.set(22, 2, 0);
    driver.function.set(58, 2, 1);
    machine.run();
    assert_eq!(driver.function.get(28, 2), 1);
    assert_eq!(driver.write(0, &pattern(1, 512)).status, 0);
}

#[test]
fn a_device_reset_during_a_queue_reset_waits_for_the_queue_too() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    loaded(&mut driver, 4);
    let function = &driver.function;
    function.set(22, 2, 0);
    function.set(58, 2, 1);
    function.machine.turn();
    function.set(20, 1, 0);
    function.machine.turn();
    assert_ne!(function.status(), 0);
    function.machine.run();
    assert_eq!(function.status(), 0);
    let machine = function.machine.clone();
    let mut driver = BlkDriver::new(&machine, function.address, ALL, 1, 16);
    assert_eq!(driver.read(0, 512).status, 0);
}

#[test]
fn a_function_level_reset_clears_configuration_space_too() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    loaded(&mut driver, 3);
    let function = &driver.function;
    let machine = function.machine.clone();
    let mut express = function.pci(0x34, 1);
    while function.pci(express, 1) != 0x10 {
        express = function.pci(express + 1, 1);
    }
    assert_eq!(function.pci(express + 4, 4) >> 28 & 1, 1, "function-level reset");
    function.set_pci(0x3c, 1, 9);
    function.set_pci(express + 8, 2, 1 << 15);
    assert_eq!(function.pci(express + 8, 2) >> 15, 0, "it reads as zero");
    assert_eq!((function.pci(4, 2), function.pci(0x3c, 1)), (0, 0));
    assert_eq!(function.pci(0x10, 4) & !0xf, 0);
    assert!(machine.bus.windows(1).ranges.is_empty());
    machine.run();
    machine.assign();
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
    assert_eq!(driver.read(0, 512).status, 0);
}

#[test]
fn a_machine_reset_tells_when_it_is_done() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    let machine = driver.function.machine.clone();
    loaded(&mut driver, 3);
    let function = disk.device.function();
    let over = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    for _ in 0..2 {
        let over = std::sync::Arc::clone(&over);
        let done = move || {
            over.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        };
        function.reset(Box::new(done));
    }
    machine.turn();
    let count = || over.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(count(), 0, "requests are in flight");
    machine.run();
    assert_eq!(count(), 2, "everybody who asked is told, once");
    assert_eq!(machine.pci_read(disk.at, 4, 2), 0);
}

#[test]
fn a_paused_device_takes_nothing_and_goes_on_where_it_was() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    let machine = driver.function.machine.clone();
    let function = disk.device.function();
    loaded(&mut driver, 2);
    machine.finish(|done| function.pause(done));
    machine.finish(|done| function.pause(done));
    while driver.rings[0].take().is_some() {}
    let ticket = driver.offer(0, 1, 0, &pattern(1, 512), 0);
    driver.rings[0].notify();
    machine.run();
    assert!(driver.reply(0, &ticket).is_none());
    function.resume();
    machine.run();
    assert!(driver.reply(0, &ticket).is_none(), "pauses nest");
    function.resume();
    machine.run();
    assert_eq!(driver.reply(0, &ticket).unwrap().status, 0);
}

#[test]
fn notifications_are_not_asked_for_while_serving() {
    for features in [ALL, ALL & !super::EVENT_IDX] {
        let (machine, disk) = machine(1 << 20, |_| ());
        let mut driver = BlkDriver::new(&machine, disk.at, features, 1, 16);
        let asked = Cell::new(0);
        for round in 0..20u64 {
            let old = driver.rings[0].avail_idx;
            let ticket = driver.offer(0, 1, round, &pattern(1, 512), 0);
            asked.set(asked.get() + u32::from(driver.rings[0].wants_notification(old)));
            machine.run();
            assert!(driver.reply(0, &ticket).is_some());
        }
        assert!(asked.get() <= 20);
    }
}

#[test]
fn nothing_outlives_the_machine() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    assert_eq!(driver.write(0, &pattern(1, 512)).status, 0);
    let file = std::sync::Arc::downgrade(disk.file.as_ref().unwrap());
    drop((driver, disk));
    assert!(file.upgrade().is_none(), "somebody still has the disk's file");
}
