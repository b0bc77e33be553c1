//! Doorbells, their shadows in guest memory, and what is wrong with some (base 5.8, PCIe 3.1.2).

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{driver, machine, pattern};

const FIELD: u16 = 0x02;

#[test]
fn bad_doorbells_are_events_and_change_nothing() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let cases = [
        ("queue that is not there", 0x1000 + 9 * 8, 4, 1, Some(0x0001_0000)),
        ("head of a queue that is not there", 0x1004 + 9 * 8, 4, 1, Some(0x0001_0000)),
        ("tail beyond the queue", 0x1008, 4, 16, Some(0x0001_0100)),
        ("tail far beyond", 0x1008, 4, 0xffff_ffff, Some(0x0001_0100)),
        ("head beyond the queue", 0x100c, 4, 16, Some(0x0001_0100)),
        ("no doorbell", 0x1000 + 65 * 8, 4, 1, None),
        ("half a doorbell", 0x1008, 2, 3, None),
        ("between two", 0x100a, 4, 3, None),
        ("two at once", 0x1008, 8, 3, None),
    ];
    for (what, at, width, value, event) in cases {
        driver.submit(0, Cmd::new(0x0c, 0));
        driver.ring(0);
        driver.set(at, width, value);
        setup.machine.run();
        let got = driver.take(0);
        assert_eq!(got.map(|cqe| cqe.result), event, "{what}");
        assert!(driver.take(1).is_none(), "{what}");
        assert_eq!(driver.log(1, 0, 64).0.status, 0);
    }
    assert_eq!(driver.status(), 1);
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
    assert_eq!(driver.get(0x1008, 4), 0, "doorbells read as anything, here zero");
}

#[test]
fn a_head_that_passes_the_tail_is_an_event() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    let data = driver.alloc(512);
    for _ in 0..15 {
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    }
    driver.ring(1);
    setup.machine.run();
    // Fifteen are there: the queue is full, and a head of 15 consumes all; of 5 more than that.
    (0..15).for_each(|_| assert!(driver.look(1).is_some()));
    driver.ring_head(1, 15);
    for _ in 0..15 {
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    }
    driver.ring(1);
    setup.machine.run();
    assert!(driver.take(0).is_none());
    (0..15).for_each(|_| assert!(driver.look(1).is_some()));
    driver.consumed(1);
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn shadows_save_doorbells_and_lose_no_command() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.use_shadows();
    let data = driver.alloc(512);
    let mut submitted = 0;
    let mut done = 0;
    let mut random = fastrand::Rng::with_seed(setup.machine.world.seed());
    while done < 3000 {
        while submitted - done < 12 && submitted < 3000 && random.u8(..) > 40 {
            driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(random.u64(..2000), 1));
            driver.ring(1);
            submitted += 1;
        }
        match random.u8(..4) {
            0 => drop(setup.machine.world.step()),
            1 => setup.machine.run(),
            _ => drop(setup.machine.iothreads[0].turn()),
        }
        if submitted == 3000 || submitted - done == 12 {
            setup.machine.run();
        }
        while let Some(cqe) = driver.take(1) {
            assert_eq!(cqe.status, 0);
            done += 1;
        }
    }
    assert!(driver.rung < 3000 * 9 / 10, "{} doorbells for 3000 commands", driver.rung);
}

#[test]
fn a_doorbell_with_a_shadow_becomes_an_eventfd() {
    for ioeventfd in [true, false] {
        let (mut driver, setup) = driver(1 << 20, |config| config.ioeventfd = ioeventfd);
        driver.use_shadows();
        let bus = &setup.machine.bus;
        // The first one after the change still traps: windows are declared on a vCPU.
        driver.ring_with(1, 0);
        let (traps, rung) = (bus.traps(), bus.rung());
        let data = driver.alloc(512);
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
        let tail = driver.sqs[1].tail;
        setup.machine.memory.set_number(driver.shadows.unwrap().0 + 8, 4, tail.into());
        driver.ring_with(1, tail);
        setup.machine.run();
        assert!(driver.look(1).is_some());
        let expected = if ioeventfd { (0, 1) } else { (1, 0) };
        assert_eq!((bus.traps() - traps, bus.rung() - rung), expected);
        // The admin queue always traps.
        let rung = bus.rung();
        driver.identify(1, 0, 0, 0);
        assert_eq!(bus.rung(), rung);
    }
}

#[test]
fn queues_created_later_have_shadows_and_what_is_in_the_pages_is_stale() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.use_shadows();
    let (doorbells, events) = driver.shadows.unwrap();
    // A page full of somebody else's numbers.
    for i in 4..12 {
        setup.machine.memory.set_number(doorbells + i * 4, 4, 5);
        setup.machine.memory.set_number(events + i * 4, 4, 9);
    }
    driver.create_pair(2, 8);
    setup.machine.run();
    assert_eq!(setup.machine.memory.number(doorbells + 16, 8), 0);
    assert!(driver.take(2).is_none(), "stale entries were taken");
    for round in 0..30u64 {
        assert_eq!(driver.write(2, 1, round, 1, &pattern(round as u8, 512)).status, 0);
    }
    // Deleted and created again.
    assert_eq!(driver.admin(Cmd::new(0x00, 0).dw(10, 2)).status, 0);
    assert_eq!(driver.admin(Cmd::new(0x04, 0).dw(10, 2)).status, 0);
    driver.sqs.retain(|sq| sq.id != 2);
    driver.cqs.retain(|cq| cq.id != 2);
    driver.create_pair(2, 8);
    setup.machine.run();
    assert!(driver.take(2).is_none());
    assert_eq!(driver.read(2, 1, 3, 1, 512).1, pattern(3, 512));
}

#[test]
fn queues_in_use_get_shadows_where_they_stand() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    for lba in 0..5 {
        assert_eq!(driver.write(1, 1, lba, 1, &pattern(lba as u8, 512)).status, 0);
    }
    driver.use_shadows();
    // The host's copy of the pages begins with zeros, as the specification has it; the controller
    // puts the present values there.
    for lba in 0..40 {
        assert_eq!(driver.read(1, 1, lba % 5, 1, 512).1, pattern((lba % 5) as u8, 512));
    }
}

#[test]
fn a_reset_forgets_the_shadows() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.use_shadows();
    driver.read(1, 1, 0, 1, 512);
    driver.read(1, 1, 0, 1, 512);
    let (doorbells, events) = driver.shadows.unwrap();
    driver.disable();
    let memory = &setup.machine.memory;
    let fill = |at| (0..1024).for_each(|i| memory.set_number(at + i * 4, 4, 3));
    fill(doorbells);
    fill(events);
    driver.enable(8);
    driver.create_pair(1, 8);
    let traps = setup.machine.bus.traps();
    for _ in 0..20 {
        assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
    }
    assert!(setup.machine.bus.traps() >= traps + 20, "doorbells trap again");
    for at in [doorbells, events] {
        assert!((0..1024).all(|i| memory.number(at + i * 4, 4) == 3), "the pages were touched");
    }
}

#[test]
fn a_shadow_beyond_the_queue_closes_it_and_is_an_event() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.use_shadows();
    driver.create_pair(2, 8);
    driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    let (doorbells, _) = driver.shadows.unwrap();
    setup.machine.memory.set_number(doorbells + 8, 4, 16);
    driver.ring_with(1, 1);
    setup.machine.run();
    assert_eq!(driver.take(0).unwrap().result, 0x0001_0100);
    assert!(driver.take(1).is_none());
    assert_eq!(driver.read(2, 1, 0, 1, 512).0.status, 0, "the other queue goes on");
    assert_eq!(driver.admin(Cmd::new(0x00, 0).dw(10, 1)).status, 0, "it can be deleted");
}

#[test]
fn bad_pages_are_refused() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let page = setup.machine.memory.alloc(4096, 4096);
    for (what, doorbells, events) in [
        ("no PRP1", 0x8000_0000, page),
        ("no PRP2", page, 0x8000_0000),
        ("PRP1 with an offset", page + 512, page),
        ("PRP2 with an offset", page, page + 4),
    ] {
        let cqe = driver.admin(Cmd::new(0x7c, 0).data(doorbells, events));
        assert_eq!(cqe.status, FIELD, "{what}");
    }
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn a_host_that_shadows_the_admin_queue_is_heard() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.use_shadows();
    let (doorbells, events) = driver.shadows.unwrap();
    let memory = setup.machine.memory.clone();
    for _ in 0..50 {
        let data = driver.alloc(4096);
        for _ in 0..2 {
            driver.submit(0, Cmd::new(0x06, 0).dw(10, 1).data(data.prp1, 0));
            let old = memory.number(doorbells, 4) as u16;
            let new = driver.sqs[0].tail as u16;
            memory.set_number(doorbells, 4, new.into());
            let event = memory.number(events, 4) as u16;
            if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
                driver.ring_with(0, new.into());
            }
        }
        setup.machine.run();
        for _ in 0..2 {
            assert_eq!(driver.look(0).unwrap().status, 0);
        }
        memory.set_number(doorbells + 4, 4, driver.cqs[0].head.into());
        driver.ring_head(0, driver.cqs[0].head);
    }
}

#[test]
fn without_the_option_there_are_no_shadows() {
    let setup = machine(1 << 20, |config| config.shadow_doorbells = false);
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 1, 8);
    assert_eq!(driver.admin(Cmd::new(0x7c, 0)).status, 0x01);
    assert_eq!(driver.identify(1, 0, 0, 0).1[257] & 1, 0);
}

#[test]
fn the_host_is_told_only_when_every_queue_looks_at_its_shadow() {
    let machine = spindle_devices::testkit::Machine::new(9);
    let (root, _) = machine.add_root("disk", 1 << 20);
    let handles: Vec<_> = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let disk = machine.add_nvme("nvme0", &[root], |config| config.iothreads = handles);
    machine.assign();
    let machine = std::rc::Rc::new(machine);
    let mut driver = NvmeDriver::new(&machine, disk.at, 2, 8);
    let pages = (machine.memory.alloc(4096, 4096), machine.memory.alloc(4096, 4096));
    let sq = driver.new_sq(3, 8);
    // Queue 2 is on the second iothread, which does not run.
    for cmd in [Cmd::new(0x7c, 0).data(pages.0, pages.1), NvmeDriver::create_sq_cmd(&sq, 2)] {
        driver.submit(0, cmd);
        driver.ring(0);
        for _ in 0..8 {
            machine.iothreads[0].turn();
        }
        assert!(driver.look(0).is_none(), "{cmd:x?}");
        machine.run();
        assert_eq!(driver.take(0).unwrap().status, 0);
    }
}
