//! What the driver may see first: data, response, used element, used index, interrupt; and the end
//! of a command before that of the function that ended it.

use std::{rc::Rc, sync::Arc};

use spindle_devices::testkit::{Event, Log, Machine, Memory, driver::ScsiDriver};

use super::setup::{ALL, settle, ten};

fn logged() -> (Rc<Machine>, ScsiDriver, Arc<Log>) {
    let log = Arc::new(Log::default());
    let mut machine = Machine::new(fastrand::u64(..));
    machine.memory = Memory::logged(Arc::clone(&log));
    machine.irqs.log_to(Arc::clone(&log));
    let adapter = machine.add_scsi("hba0", |_| ());
    let (unit, _) = machine.scsi_disk("disk0", 1 << 20, |_| ());
    adapter.device.add_lun(0, 0, unit).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 16);
    settle(&mut driver, 0, 0);
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    driver.function.use_vectors(0, 2, 3);
    (machine, driver, log)
}

/// Events but for those that ask for notifications.
fn seen(driver: &ScsiDriver, log: &Log) -> Vec<Event> {
    let asks = [&driver.rings[0], &driver.control, &driver.events]
        .map(|ring| ring.used + 4 + u64::from(ring.size) * 8);
    let mut events = log.take();
    events.retain(|e| !matches!(e, Event::Wrote { address, .. } if asks.contains(address)));
    events
}

#[test]
fn data_come_before_the_response_and_the_interrupt_last() {
    let (machine, mut driver, log) = logged();
    let lun = ScsiDriver::lun(0, 0);
    // CDB, data, room for data, bytes that are written.
    type Case<'a> = (&'a [u8], &'a [u8], u32, Option<u64>);
    let commands: &[Case<'_>] = &[
        (&ten(0x28, 0, 0, 1), &[], 512, Some(512)),
        (&ten(0x2a, 0, 0, 1), &[1; 512], 0, None),
        (&[0x12, 0, 0, 0, 36, 0], &[], 36, Some(36)),
        (&ten(0x41, 0, 0, 9), &[1; 512], 0, None),
        (&[0xff], &[], 0, None),
    ];
    for round in 0..20 {
        let (cdb, data, len, written) = commands[round % commands.len()];
        let index = driver.rings[0].used_idx;
        let ticket = driver.offer(0, lun, cdb, data, len);
        driver.rings[0].set_used_event(index);
        log.take();
        driver.rings[0].notify();
        machine.run();
        let used = driver.rings[0].used;
        let mut expected = Vec::new();
        expected.extend(written.map(|len| Event::Wrote { address: ticket.data, len }));
        expected.extend([
            Event::Wrote { address: ticket.response, len: 108 },
            Event::Wrote { address: used + 4 + u64::from(index % 16) * 8, len: 8 },
            Event::Wrote { address: used + 2, len: 2 },
            Event::Interrupt { data: 103 },
        ]);
        assert_eq!(seen(&driver, &log), expected, "{cdb:x?}");
        assert!(driver.reply(0, &ticket).is_some());
    }
}

#[test]
fn a_command_ends_before_the_function_that_ended_it() {
    for function in [0, 1, 5] {
        let (machine, mut driver, log) = logged();
        let lun = ScsiDriver::lun(0, 0);
        log.take();
        let ticket = driver.offer(0, lun, &ten(0x28, 0, 0, 1), &[], 512);
        let index = driver.rings[0].used_idx;
        driver.rings[0].set_used_event(index);
        driver.rings[0].notify();
        machine.turn();
        driver.control.set_used_event(driver.control.used_idx);
        let (_, response) = driver.offer_tmf(function, lun, ticket.tag);
        machine.turn();
        machine.run();
        let events = seen(&driver, &log);
        let at = |event: Event| events.iter().position(|other| *other == event).unwrap();
        let command = at(Event::Wrote { address: driver.rings[0].used + 2, len: 2 });
        assert!(at(Event::Wrote { address: ticket.response, len: 108 }) < command);
        let answer = at(Event::Wrote { address: response, len: 1 });
        assert!(command < answer, "function {function}: {events:?}");
        assert!(at(Event::Interrupt { data: 103 }) < answer);
        assert!(answer < at(Event::Interrupt { data: 101 }));
    }
}
