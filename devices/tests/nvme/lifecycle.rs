//! Resets, shutdown, pauses, and what may not outlive them.

use std::rc::Rc;

use spindle_devices::{
    Device,
    testkit::{
        Machine,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::{driver, machine, pattern, seeded};

/// All of guest memory that a device could have changed.
fn snapshot(machine: &Machine) -> Vec<u8> {
    machine.memory.read(0, 2 << 20)
}

/// Puts `count` reads and writes in flight.
fn load(driver: &mut NvmeDriver, id: u16, count: u64) {
    for i in 0..count {
        let data = driver.alloc(4096);
        driver.machine.memory.write(data.at, &[7; 4096]);
        let cmd = Cmd::new(1 + (i % 2) as u8, 1).data(data.prp1, data.prp2);
        driver.submit(id, cmd.blocks(i * 8, 8));
    }
    driver.ring(id);
    driver.machine.turn();
}

#[test]
fn a_reset_under_load_is_done_only_when_nothing_can_touch_memory_any_more() {
    for seed in 0..30 {
        let setup = seeded(seed, 1 << 20, |_| ());
        let machine = Rc::clone(&setup.machine);
        let mut driver = NvmeDriver::new(&machine, setup.disk.at, 2, 16);
        if seed % 3 == 0 {
            driver.use_shadows();
        }
        load(&mut driver, 1, 5);
        load(&mut driver, 2, 4);
        for _ in 0..seed % 5 {
            machine.world.step();
        }
        let in_flight = machine.world.in_flight();
        assert!(in_flight > 0);
        driver.set(0x14, 4, 0x0046_0000);
        machine.turn();
        assert_eq!(driver.status() & 1, 1, "seed {seed}: done with commands in flight");
        let mut steps = 0;
        while driver.status() & 1 != 0 {
            assert!(machine.world.step(), "seed {seed}: the reset hangs");
            machine.turn();
            steps += 1;
        }
        assert_eq!(steps, in_flight, "seed {seed}");
        assert_eq!((driver.status(), driver.get(0x14, 4)), (0, 0));
        let before = snapshot(&machine);
        machine.irqs.take();
        machine.run();
        assert!(snapshot(&machine) == before, "seed {seed}: DMA after the reset");
        assert!(machine.irqs.take().is_empty(), "seed {seed}: an interrupt after the reset");
        let mut driver = NvmeDriver::new(&machine, setup.disk.at, 1, 16);
        assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
    }
}

#[test]
fn writes_to_cc_during_a_reset_are_ignored() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    load(&mut driver, 1, 3);
    driver.set(0x14, 4, 0x0046_0000);
    driver.set(0x14, 4, 0x0046_0001);
    driver.ring_with(1, 9);
    setup.machine.run();
    assert_eq!((driver.status(), driver.get(0x14, 4)), (0, 0));
    driver.enable(8);
}

#[test]
fn a_reset_while_queues_are_created_and_deleted() {
    for seed in 0..20 {
        let setup = seeded(seed, 1 << 20, |_| ());
        let machine = Rc::clone(&setup.machine);
        let mut driver = NvmeDriver::new(&machine, setup.disk.at, 2, 16);
        load(&mut driver, 1, 5);
        driver.submit(0, Cmd::new(0x00, 0).dw(10, 1));
        driver.submit(0, Cmd::new(0x00, 0).dw(10, 2));
        let cq = driver.new_cq(3, 8);
        driver.submit(0, NvmeDriver::create_cq_cmd(&cq, 3));
        driver.ring(0);
        if seed % 2 == 0 {
            machine.iothreads[0].turn();
        }
        driver.disable();
        let mut driver = NvmeDriver::new(&machine, setup.disk.at, 3, 16);
        assert_eq!(driver.read(3, 1, 0, 1, 512).0.status, 0, "seed {seed}");
    }
}

#[test]
fn a_function_level_reset_clears_configuration_space_too() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    load(&mut driver, 1, 3);
    let machine = &setup.machine;
    let at = setup.disk.at;
    let mut express = machine.pci_read(at, 0x34, 1);
    while machine.pci_read(at, express, 1) != 0x10 {
        express = machine.pci_read(at, express + 1, 1);
    }
    machine.pci_write(at, express + 8, 2, 1 << 15);
    assert_eq!(machine.pci_read(at, 4, 2), 0);
    machine.run();
    machine.assign();
    let mut driver = NvmeDriver::new(machine, at, 1, 8);
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn a_machine_reset_tells_everybody_who_asked_once_it_is_done() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    load(&mut driver, 1, 3);
    let over = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    driver.set(0x14, 4, 0x0046_0000);
    for _ in 0..2 {
        let over = std::sync::Arc::clone(&over);
        let done = move || {
            over.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        };
        setup.disk.device.function().reset(Box::new(done));
    }
    setup.machine.turn();
    assert_eq!(over.load(std::sync::atomic::Ordering::SeqCst), 0, "commands are in flight");
    setup.machine.run();
    assert_eq!(over.load(std::sync::atomic::Ordering::SeqCst), 2);
    setup.machine.assign();
    let driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    assert_eq!((driver.get(0x28, 8), driver.status()), (0, 0), "as after power-on");
}

#[test]
fn a_shutdown_ends_what_is_in_flight_and_flushes() {
    for shn in [1u64, 2] {
        let (mut driver, setup) = driver(1 << 20, |_| ());
        let machine = &setup.machine;
        assert_eq!(driver.write(1, 1, 40, 1, &[9; 512]).status, 0);
        load(&mut driver, 1, 4);
        driver.set(0x14, 4, 0x0046_0001 | shn << 14);
        machine.turn();
        assert_eq!(driver.status() >> 2 & 3, 1, "in progress");
        let late = driver.alloc(512);
        driver.submit(1, Cmd::new(0x02, 1).data(late.prp1, 0).blocks(0, 1));
        driver.ring(1);
        machine.run();
        assert_eq!(driver.status(), 0b1001, "complete, and ready");
        assert_eq!((0..5).filter(|_| driver.take(1).is_some()).count(), 4, "nothing is taken");
        let mut durable = [0; 512];
        machine.world.durable(&setup.file).read(40 * 512, &mut durable);
        assert_eq!(durable, [9; 512]);
        driver.disable();
        assert_eq!(driver.status(), 0);
        driver.enable(8);
        driver.create_pair(1, 8);
        assert_eq!(driver.read(1, 1, 40, 1, 512).1, [9; 512]);
    }
}

#[test]
fn a_reset_overtakes_a_shutdown() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    load(&mut driver, 1, 4);
    driver.set(0x14, 4, 0x0046_4001);
    setup.machine.turn();
    driver.disable();
    setup.machine.run();
    assert_eq!(driver.status(), 0, "no shutdown status of the life before");
}

#[test]
fn a_paused_controller_takes_nothing_and_goes_on_where_it_was() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let function = setup.disk.device.function();
    let machine = &setup.machine;
    load(&mut driver, 1, 2);
    machine.finish(|done| function.pause(done));
    machine.finish(|done| function.pause(done));
    while driver.take(1).is_some() {}
    let data = driver.alloc(512);
    driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    driver.ring(1);
    driver.submit(0, Cmd::new(0x06, 0).dw(10, 1).data(data.prp1, 0));
    driver.ring(0);
    machine.run();
    assert!(driver.take(1).is_none() && driver.take(0).is_none());
    function.resume();
    machine.run();
    assert!(driver.take(1).is_none() && driver.take(0).is_none(), "pauses nest");
    function.resume();
    machine.run();
    assert_eq!((driver.take(1).unwrap().status, driver.take(0).unwrap().status), (0, 0));
}

#[test]
fn a_pause_waits_for_admin_commands_that_take_time() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let function = setup.disk.device.function();
    load(&mut driver, 1, 4);
    driver.submit(0, Cmd::new(0x00, 0).dw(10, 1));
    driver.ring(0);
    setup.machine.turn();
    setup.machine.finish(|done| function.pause(done));
    assert_eq!(driver.take(0).unwrap().status, 0, "it ended before the pause did");
    function.resume();
    setup.machine.run();
    driver.sqs.retain(|sq| sq.id != 1);
    while driver.take(1).is_some() {}
    driver.create_sq(1, 8, 1);
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn pauses_and_resumes_before_the_first_is_done_pair_up() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let function = setup.disk.device.function();
    load(&mut driver, 1, 4);
    function.pause(Box::new(|| ()));
    function.resume();
    setup.machine.run();
    while driver.take(1).is_some() {}
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
    setup.machine.finish(|done| function.pause(done));
    function.resume();
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn without_bus_mastering_nothing_is_taken() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let machine = &setup.machine;
    machine.pci_write(setup.disk.at, 4, 2, 2);
    let data = driver.alloc(512);
    driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    driver.ring(1);
    machine.run();
    assert!(driver.look(1).is_none());
    machine.pci_write(setup.disk.at, 4, 2, 6);
    machine.run();
    assert_eq!(driver.take(1).unwrap().status, 0);
}

#[test]
fn all_queues_drain_on_both_iothreads() {
    let machine = Machine::new(3);
    let (root, _) = machine.add_root("disk", 1 << 20);
    let handles: Vec<_> = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let disk = machine.add_nvme("nvme0", &[root], |config| config.iothreads = handles);
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = NvmeDriver::new(&machine, disk.at, 4, 16);
    (1..=4).for_each(|id| load(&mut driver, id, 6));
    let function = disk.device.function();
    machine.finish(|done| function.pause(done));
    assert_eq!(machine.world.in_flight(), 0);
    function.resume();
    driver.disable();
}

#[test]
fn data_comes_before_its_completion_and_that_before_its_interrupt() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    assert_eq!(driver.write(1, 1, 0, 8, &pattern(1, 4096)).status, 0);
    setup.machine.irqs.take();
    let data = driver.alloc(4096);
    driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 8));
    driver.ring(1);
    loop {
        let interrupt = !setup.machine.irqs.take().is_empty();
        let completion = driver.look(1).is_some();
        let read = setup.machine.memory.read(data.at, 4096) == pattern(1, 4096);
        assert!(!interrupt || completion, "interrupted before the completion");
        assert!(!completion || read, "completed before the data");
        if completion {
            break;
        }
        setup.machine.turn();
        setup.machine.world.step();
    }
}

#[test]
fn a_machine_with_a_controller_that_was_never_enabled_pauses_and_resets() {
    let setup = machine(1 << 20, |_| ());
    let function = setup.disk.device.function();
    setup.machine.finish(|done| function.pause(done));
    function.resume();
    setup.machine.reset(setup.disk.at);
}
