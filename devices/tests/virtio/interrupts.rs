//! MSI-X, INTx, and how often.

use std::{rc::Rc, sync::Arc};

use spindle_devices::testkit::{Event, Log, Machine, Memory, driver::BlkDriver};

use super::{ALL, EVENT_IDX, driver, machine, pattern};

fn data(driver: &BlkDriver) -> Vec<u32> {
    let irqs = &driver.function.machine.irqs;
    assert_eq!(irqs.stray(), 0, "an interrupt without a message");
    irqs.take().iter().map(|message| message.data).collect()
}

fn request(driver: &mut BlkDriver) {
    driver.rings[0].set_used_event(driver.rings[0].used_idx);
    assert_eq!(driver.write(0, &pattern(1, 512)).status, 0);
}

#[test]
fn the_queues_vector_is_raised_once_a_pass() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    request(&mut driver);
    assert_eq!(data(&driver), [101]);
    assert!(!disk.wire.level(), "the wire is not used beside MSI-X");
    // Requests that are answered on the spot end in one pass.
    driver.rings[0].set_used_event(driver.rings[0].used_idx);
    let tickets: Vec<_> = (0..5).map(|_| driver.offer(0, 8, 0, &[], 20)).collect();
    driver.rings[0].notify();
    driver.function.machine.run();
    assert_eq!(data(&driver), [101], "five answers, one interrupt");
    for ticket in tickets {
        assert_eq!(driver.reply(0, &ticket).unwrap().status, 0);
    }
}

#[test]
fn a_masked_vector_waits_in_the_pending_bits() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    driver.function.set_vector(1, 101, true);
    let pending = driver.function.pending.at;
    for _ in 0..3 {
        request(&mut driver);
    }
    let machine = driver.function.machine.clone();
    assert!(data(&driver).is_empty());
    assert_eq!(machine.read(pending, 8), 2);
    machine.write(pending, 8, 0);
    assert_eq!(machine.read(pending, 1), 2, "a guest cannot clear it");
    // The message may change while it waits.
    driver.function.set_vector(1, 777, true);
    assert!(data(&driver).is_empty());
    driver.function.set_vector(1, 777, false);
    assert_eq!(data(&driver), [777], "once, however often it was raised");
    assert_eq!(machine.read(pending, 8), 0);
    request(&mut driver);
    assert_eq!(data(&driver), [777]);
}

#[test]
fn the_function_mask_holds_all_vectors_back() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    let control = driver.function.table.capability + 2;
    driver.function.set_pci(control, 2, 0xc000);
    request(&mut driver);
    assert!(data(&driver).is_empty());
    assert_eq!(driver.function.machine.read(driver.function.pending.at, 8), 2);
    driver.function.set_pci(control, 2, 0x8000);
    assert_eq!(data(&driver), [101]);
}

#[test]
fn bus_mastering_off_holds_messages_back() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    driver.rings[0].set_used_event(0);
    let ticket = driver.offer(0, 1, 0, &pattern(1, 512), 0);
    driver.rings[0].notify();
    driver.function.machine.turn();
    driver.function.set_pci(4, 2, 2);
    driver.function.machine.run();
    assert!(driver.reply(0, &ticket).is_some());
    assert!(data(&driver).is_empty());
    driver.function.set_pci(4, 2, 6);
    assert_eq!(data(&driver), [101]);
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    driver.function.enable_msix();
    for (offset, exists) in [(16, 1), (26, 0)] {
        driver.function.set(22, 2, 0);
        driver.function.set(offset, 2, exists);
        assert_eq!(driver.function.get(offset, 2), exists);
        driver.function.set(offset, 2, 2);
        assert_eq!(driver.function.get(offset, 2), 0xffff);
    }
    request(&mut driver);
    assert!(data(&driver).is_empty(), "no vector, no interrupt");
}

#[test]
fn the_wire_goes_up_with_the_isr_and_down_when_it_is_read() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    let isr = driver.function.isr.at;
    let machine = driver.function.machine.clone();
    assert!(!disk.wire.level());
    request(&mut driver);
    assert!(disk.wire.level());
    assert_eq!(driver.function.pci(6, 2) & 8, 8, "interrupt status");
    assert_eq!(machine.read(isr, 1), 1);
    assert!(!disk.wire.level());
    assert_eq!(machine.read(isr, 1), 0);
    assert_eq!(driver.function.pci(6, 2) & 8, 0);
    // INTx Disable keeps the wire down, not the status.
    driver.function.set_pci(4, 2, 0x406);
    request(&mut driver);
    assert!(!disk.wire.level());
    assert_eq!(driver.function.pci(6, 2) & 8, 8);
    driver.function.set_pci(4, 2, 6);
    assert!(disk.wire.level(), "it is still asserted");
    // MSI-X replaces the wire.
    driver.function.enable_msix();
    assert!(!disk.wire.level());
    driver.function.set_pci(driver.function.table.capability + 2, 2, 0);
    assert!(disk.wire.level());
    driver.function.reset();
    assert!(!disk.wire.level(), "a reset lets go of it");
}

#[test]
fn event_index_and_flags_suppress_interrupts() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    // Only the third answer from now on is of interest.
    driver.rings[0].set_used_event(2);
    for expected in [0, 0, 1, 0, 0] {
        assert_eq!(driver.write(0, &pattern(1, 512)).status, 0);
        assert_eq!(data(&driver).len(), expected);
    }
    let (machine, disk) = machine(1 << 20, |_| ());
    let mut driver = BlkDriver::new(&machine, disk.at, ALL & !EVENT_IDX, 1, 16);
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    let flags = driver.rings[0].avail;
    for (flag, expected) in [(0, 1), (1, 0), (0, 1)] {
        machine.memory.set_number(flags, 2, flag);
        assert_eq!(driver.write(0, &pattern(1, 512)).status, 0);
        assert_eq!(data(&driver).len(), expected, "flags {flag}");
    }
}

#[test]
fn every_table_byte_is_reached_at_every_width() {
    let (driver, _) = driver(1 << 20, |_| ());
    let machine = driver.function.machine.clone();
    let at = driver.function.table.at;
    let written =
        [0xfcu8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
    for width in [1u8, 2, 4, 8] {
        for offset in (0..32).step_by(width.into()) {
            machine.write(at + offset, width, u64::MAX);
        }
        for (i, expected) in written.iter().chain(&written).enumerate() {
            assert_eq!(machine.read(at + i as u64, 1), u64::from(*expected), "byte {i}");
        }
        for offset in (0..32).step_by(width.into()) {
            machine.write(at + offset, width, 0);
        }
        assert_eq!(machine.read(at, 8), 0);
    }
}

#[test]
fn the_guest_sees_data_then_status_then_element_then_index_then_interrupt() {
    let log = Arc::new(Log::default());
    let mut machine = Machine::new(1);
    machine.memory = Memory::logged(Arc::clone(&log));
    machine.irqs.log_to(Arc::clone(&log));
    let disk = machine.add_disk("disk0", 1 << 20, |_| ());
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    for round in 0..20u64 {
        let ticket = driver.offer(0, 0, round, &[], 512);
        driver.rings[0].set_used_event(round as u16);
        log.take();
        driver.rings[0].notify();
        machine.run();
        let used = driver.rings[0].used;
        // Asking for notifications is written to the ring too, at any time.
        let asks = used + 4 + 16 * 8;
        let seen: Vec<Event> = log
            .take()
            .into_iter()
            .filter(|event| !matches!(event, Event::Wrote { address, .. } if *address == asks))
            .collect();
        let at = used + 4 + (round % 16) * 8;
        let expected = [
            Event::Wrote { address: ticket.data(), len: 512 },
            Event::Wrote { address: ticket.status(), len: 1 },
            Event::Wrote { address: at, len: 8 },
            Event::Wrote { address: used + 2, len: 2 },
            Event::Interrupt { data: 101 },
        ];
        assert_eq!(seen, expected, "round {round}");
        assert!(driver.reply(0, &ticket).is_some());
    }
}

#[test]
fn many_completions_of_one_pass_move_the_index_once() {
    let log = Arc::new(Log::default());
    let mut machine = Machine::new(1);
    machine.memory = Memory::logged(Arc::clone(&log));
    let disk = machine.add_disk("disk0", 1 << 20, |_| ());
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 64);
    for _ in 0..10 {
        driver.offer(0, 8, 0, &[], 20);
    }
    log.take();
    driver.rings[0].notify();
    machine.run();
    let index = driver.rings[0].used + 2;
    let moves = log
        .take()
        .into_iter()
        .filter(|e| matches!(e, Event::Wrote { address, .. } if *address == index));
    assert_eq!(moves.count(), 1);
}
