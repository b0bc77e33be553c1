//! Task attributes: SIMPLE, ORDERED, HEAD OF QUEUE (SAM-5, 8.9).

use std::{rc::Rc, sync::Arc};

use spindle_block::nodes::{
    fault::{Action, FaultNode, FaultRule},
    file::FileNode,
};
use spindle_devices::{
    scsi::{LogicalUnit, UnitKind},
    testkit::{
        Machine, ScsiAdapter,
        driver::{ScsiDriver, ScsiTicket},
    },
};

use super::setup::{ALL, pattern, settle, ten};

const SIMPLE: u8 = 0;
const ORDERED: u8 = 1;
const HEAD: u8 = 2;

struct Setup {
    machine: Rc<Machine>,
    faults: Arc<FaultNode>,
    unit: Arc<LogicalUnit>,
    adapters: [ScsiAdapter; 2],
    drivers: [ScsiDriver; 2],
}

/// Two adapters with the same disk; the first has two queues.
fn setup() -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let handles: Vec<_> = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let adapters = ["hba0", "hba1"].map(|name| {
        machine.add_scsi(name, |config| {
            config.iothreads = vec![handles[0].clone(), handles[1].clone()];
        })
    });
    let unit = machine.scsi_unit("disk0", UnitKind::Disk, Arc::clone(&faults) as _, |_| ());
    for adapter in &adapters {
        adapter.device.add_lun(0, 0, Arc::clone(&unit)).unwrap();
    }
    machine.assign();
    let machine = Rc::new(machine);
    let drivers = adapters.each_ref().map(|adapter| {
        let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 2, 64);
        settle(&mut driver, 0, 0);
        driver
    });
    Setup { machine, faults, unit, adapters, drivers }
}

impl Setup {
    fn send(&mut self, who: usize, queue: usize, attribute: u8, cdb: &[u8]) -> ScsiTicket {
        let driver = &mut self.drivers[who];
        driver.attribute = attribute;
        let (data, len) = if cdb[0] == 0x2a { (pattern(1, 512), 0) } else { (vec![], 512) };
        let len = if cdb[0] == 0 { 0 } else { len };
        let ticket = driver.offer(queue, ScsiDriver::lun(0, 0), cdb, &data, len);
        driver.rings[queue].notify();
        self.machine.run();
        ticket
    }

    /// Heads of the commands that have ended, in this order.
    fn ended(&mut self, who: usize, queue: usize) -> Vec<u16> {
        let ring = &mut self.drivers[who].rings[queue];
        std::iter::from_fn(|| ring.take()).map(|(head, _)| head).collect()
    }
}

#[test]
fn an_ordered_command_waits_for_the_older_and_the_younger_for_it() {
    let mut t = setup();
    let hang = t.faults.add(FaultRule { count: Some(1), ..FaultRule::new(Action::Hang) }).unwrap();
    let first = t.send(0, 0, SIMPLE, &ten(0x2a, 0, 0, 1));
    let ordered = t.send(0, 0, ORDERED, &ten(0x2a, 0, 8, 1));
    let younger = t.send(0, 0, SIMPLE, &ten(0x28, 0, 16, 1));
    let again = t.send(0, 0, ORDERED, &ten(0x28, 0, 24, 1));
    let last = t.send(0, 0, SIMPLE, &[0; 6]);
    let urgent = t.send(0, 0, HEAD, &ten(0x28, 0, 32, 1));
    // Other queues and other adapters have to do with the same unit.
    let beside = t.send(0, 1, SIMPLE, &ten(0x28, 0, 40, 1));
    let elsewhere = t.send(1, 0, SIMPLE, &ten(0x2a, 0, 48, 1));
    assert_eq!(t.ended(0, 0), [urgent.head], "HEAD OF QUEUE waits for nobody");
    assert!(t.ended(0, 1).is_empty() && t.ended(1, 0).is_empty());
    assert!(t.unit.is_ordered());
    t.faults.delete(&hang).unwrap();
    t.machine.run();
    let order = [&first, &ordered, &younger, &again, &last].map(|ticket| ticket.head);
    assert_eq!(t.ended(0, 0), order);
    assert_eq!(t.ended(0, 1), [beside.head]);
    assert_eq!(t.ended(1, 0), [elsewhere.head]);
    for (who, ticket) in [(0, &ordered), (0, &last), (0, &beside), (1, &elsewhere)] {
        assert!(t.drivers[who].look(ticket, 0).is_good());
    }
    assert!(!t.unit.is_ordered());
}

#[test]
fn commands_that_wait_for_their_turn_are_ended_by_functions_and_resets() {
    const ABORT_TASK: u32 = 0;
    const LOGICAL_UNIT_RESET: u32 = 5;
    for function in [ABORT_TASK, LOGICAL_UNIT_RESET] {
        let mut t = setup();
        let hang =
            t.faults.add(FaultRule { count: Some(1), ..FaultRule::new(Action::Hang) }).unwrap();
        let first = t.send(0, 0, SIMPLE, &ten(0x2a, 0, 0, 1));
        let ordered = t.send(0, 0, ORDERED, &ten(0x2a, 0, 8, 1));
        let younger = t.send(0, 0, SIMPLE, &ten(0x28, 0, 16, 1));
        let lun = ScsiDriver::lun(0, 0);
        t.drivers[0].offer_tmf(function, lun, ordered.tag);
        t.drivers[0].control.notify();
        t.machine.run();
        let (code, ends) = match function {
            ABORT_TASK => (2, vec![ordered.head]),
            _ => (4, vec![ordered.head, younger.head]),
        };
        let mut ended = t.ended(0, 0);
        ended.sort_unstable();
        let mut expected = ends;
        // Nobody is in the way of the younger one any more.
        if function == ABORT_TASK {
            expected.push(younger.head);
        }
        expected.sort_unstable();
        assert_eq!(ended, expected, "function {function}");
        assert_eq!(t.drivers[0].look(&ordered, 0).response, code);
        t.faults.delete(&hang).unwrap();
        t.machine.run();
        assert_eq!(t.ended(0, 0), [first.head]);
        assert!(!t.unit.is_ordered());
        let function = t.adapters[0].device.function();
        t.machine.finish(|done| spindle_devices::Device::reset(&*function, done));
    }
}

#[test]
fn a_reset_with_commands_in_line_leaves_no_line() {
    let mut t = setup();
    let hang = t.faults.add(FaultRule { count: Some(1), ..FaultRule::new(Action::Hang) }).unwrap();
    t.send(0, 0, SIMPLE, &ten(0x2a, 0, 0, 1));
    t.send(0, 0, ORDERED, &ten(0x2a, 0, 8, 1));
    t.send(0, 1, SIMPLE, &ten(0x28, 0, 16, 1));
    let waits = t.send(1, 0, SIMPLE, &ten(0x28, 0, 16, 1));
    assert!(t.ended(1, 0).is_empty());
    t.faults.delete(&hang).unwrap();
    let function = t.adapters[0].device.function();
    t.machine.finish(|done| spindle_devices::Device::reset(&*function, done));
    t.machine.run();
    assert_eq!(t.ended(1, 0), [waits.head], "the other adapter goes on");
    assert!(!t.unit.is_ordered());
}

#[test]
fn random_attributes_on_all_queues_end_all_and_keep_the_order() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let mut t = setup();
        // Of the one queue on which all is in order: heads and attributes as they were sent.
        let (mut sent, mut ended, mut others) = (Vec::new(), Vec::new(), 0);
        for i in 0..60 {
            let attribute = *random.choice(&[SIMPLE, SIMPLE, SIMPLE, ORDERED, HEAD]).unwrap();
            let (who, queue) = *random.choice(&[(0, 0), (0, 0), (0, 1), (1, 0)]).unwrap();
            let opcode = *random.choice(&[0x28, 0x2a]).unwrap();
            let driver = &mut t.drivers[who];
            driver.attribute = attribute;
            let data = if opcode == 0x2a { pattern(2, 512) } else { vec![] };
            let len = if opcode == 0x2a { 0 } else { 512 };
            let cdb = ten(opcode, 0, random.u32(..100), 1);
            let ticket = driver.offer(queue, ScsiDriver::lun(0, 0), &cdb, &data, len);
            driver.rings[queue].notify();
            match (who, queue) {
                (0, 0) => sent.push((ticket.head, attribute, ended.len())),
                _ => others += 1,
            }
            (0..random.u32(..3)).for_each(|_| t.machine.turn());
            if i % 5 == 4 {
                t.machine.run();
            }
            ended.extend(t.ended(0, 0));
            others -= t.ended(0, 1).len() + t.ended(1, 0).len();
        }
        t.machine.run();
        ended.extend(t.ended(0, 0));
        others -= t.ended(0, 1).len() + t.ended(1, 0).len();
        assert_eq!((ended.len(), others), (sent.len(), 0));
        // When the n-th of those sent ended: heads are used again, each time for one that ended after it
        // was sent.
        let when: Vec<usize> = sent
            .iter()
            .map(|(head, _, from)| {
                from + ended[*from..].iter().position(|other| other == head).unwrap()
            })
            .collect();
        for (i, (_, attribute, _)) in sent.iter().enumerate().filter(|(_, s)| s.1 == ORDERED) {
            assert_eq!(*attribute, ORDERED);
            assert!(when[..i].iter().all(|older| *older < when[i]), "{sent:?} {ended:?}");
            let younger = sent[i + 1..].iter().zip(&when[i + 1..]);
            let mut waits = younger.filter(|(sent, _)| sent.1 != HEAD);
            assert!(waits.all(|(_, younger)| *younger > when[i]), "{sent:?} {ended:?}");
        }
        assert!(!t.unit.is_ordered());
    }
}
