//! virtio-rng (virtio 1.2, 5.4).

use std::{rc::Rc, time::Duration};

use spindle_devices::testkit::{
    Machine,
    driver::{DriverRing, Function},
};

#[test]
fn what_the_ring_offers_is_as_configured() {
    const INDIRECT_DESC: u64 = 1 << 28;
    const EVENT_IDX: u64 = 1 << 29;
    const RING_RESET: u64 = 1 << 40;
    for offered in [0, INDIRECT_DESC, EVENT_IDX, RING_RESET, INDIRECT_DESC | EVENT_IDX] {
        let machine = Machine::new(5);
        let (at, _) = machine.add_rng(|config| {
            config.indirect_desc = offered & INDIRECT_DESC != 0;
            config.event_idx = offered & EVENT_IDX != 0;
            config.queue_reset = offered & RING_RESET != 0;
        });
        machine.assign();
        let function = Function::probe(&Rc::new(machine), at);
        let all = INDIRECT_DESC | EVENT_IDX | RING_RESET;
        assert_eq!(function.offered() & all, offered);
    }
}

fn rng(max_bytes: u64, period: Duration) -> (Function, DriverRing) {
    let machine = Machine::new(5);
    let (at, _) = machine.add_rng(|config| {
        config.max_bytes = max_bytes;
        config.period = period;
    });
    machine.assign();
    let machine = Rc::new(machine);
    assert_eq!(machine.pci_read(at, 0, 4), 0x1044_1af4);
    let function = Function::probe(&machine, at);
    let features = function.offered();
    assert!(function.negotiate(features));
    let ring = function.queue(0, 16, features);
    function.ready();
    (function, ring)
}

fn ask(function: &Function, ring: &mut DriverRing, len: u32) -> u64 {
    let at = function.machine.memory.alloc(len.into(), 1);
    let head = ring.chain(&[(at, len, true)]);
    ring.offer(head);
    ring.notify();
    at
}

#[test]
fn there_is_no_configuration_where_there_is_nothing_to_configure() {
    let (function, _) = rng(u64::MAX, Duration::from_secs(1));
    assert_eq!(function.config.capability, 0);
    for place in [function.common, function.notify, function.isr] {
        assert!(place.capability != 0 && place.len > 0);
    }
}

#[test]
fn buffers_are_filled() {
    let (function, mut ring) = rng(u64::MAX, Duration::from_secs(1));
    let at = ask(&function, &mut ring, 1000);
    let again = ask(&function, &mut ring, 1000);
    function.machine.run();
    assert_eq!(ring.take().unwrap().1, 1000);
    assert_eq!(ring.take().unwrap().1, 1000);
    let (one, two) =
        (function.machine.memory.read(at, 1000), function.machine.memory.read(again, 1000));
    assert_ne!(one, two);
    assert!(one.iter().filter(|b| **b == 0).count() < 50, "1000 random bytes");
}

#[test]
fn the_rate_is_limited() {
    let (function, mut ring) = rng(100, Duration::from_secs(10));
    let machine = function.machine.clone();
    ask(&function, &mut ring, 60);
    ask(&function, &mut ring, 60);
    ask(&function, &mut ring, 60);
    machine.turn();
    assert_eq!(ring.take().unwrap().1, 60);
    assert_eq!(ring.take().unwrap().1, 40, "what is left of the period");
    assert!(ring.take().is_none(), "nothing more in this period");
    machine.world.advance(Duration::from_secs(9));
    machine.turn();
    assert!(ring.take().is_none());
    machine.world.advance(Duration::from_secs(2));
    machine.turn();
    assert_eq!(ring.take().unwrap().1, 60);
}

#[test]
fn a_wait_for_the_next_period_does_not_hold_up_a_reset() {
    let (function, mut ring) = rng(1, Duration::from_secs(3600));
    let machine = function.machine.clone();
    ask(&function, &mut ring, 10);
    ask(&function, &mut ring, 10);
    machine.turn();
    function.set(20, 1, 0);
    machine.turn();
    assert_eq!(function.status(), 0);
}

#[test]
fn what_is_no_ram_breaks_the_ring() {
    let (function, mut ring) = rng(u64::MAX, Duration::from_secs(1));
    let head = ring.chain(&[(0xfee0_0000, 16, true)]);
    ring.offer(head);
    ring.notify();
    function.machine.run();
    assert!(function.needs_reset());
}
