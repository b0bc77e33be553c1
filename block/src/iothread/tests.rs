//! What the loop promises to queues.

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::{Clock, Port, Progress, Queue};
use crate::{BlockError, IoBuf, ring::sim::World};

#[derive(Default)]
struct Seen {
    wanted: AtomicBool,
    attended: AtomicU32,
    served: AtomicU32,
    dies: AtomicBool,
}

struct Attentive(Arc<Seen>);

impl Queue for Attentive {
    fn service(&mut self, _: &mut Port<'_>, _: u32) -> Progress {
        self.0.served.fetch_add(1, SeqCst);
        if self.0.dies.load(SeqCst) { Progress::Dead } else { Progress::Idle }
    }
    fn complete(&mut self, _: &mut Port<'_>, _: u32, _: IoBuf, _: Result<(), BlockError>) {}
    fn flush_irq(&mut self) {}
    fn pending(&mut self) -> bool {
        true
    }
    fn notify(&mut self, _: bool) {}
    fn doorbell(&self) -> Option<RawFd> {
        None
    }
    fn wants_attention(&self) -> bool {
        self.0.wanted.load(SeqCst)
    }
    fn attend(&mut self) {
        self.0.wanted.store(false, SeqCst);
        self.0.attended.fetch_add(1, SeqCst);
    }
    fn drained(&mut self) {}
}

#[test]
fn a_queue_is_attended_to_while_it_is_not_served() {
    let cx = World::new(1).iothread("io").unwrap();
    let seen = Arc::new(Seen::default());
    let slot = cx.attach(Box::new(Attentive(Arc::clone(&seen))));
    let counts = || (seen.served.load(SeqCst), seen.attended.load(SeqCst));
    seen.wanted.store(true, SeqCst);
    cx.turn();
    assert_eq!(counts(), (1, 0), "a queue that is served looks after itself");
    cx.pause(slot, |_| ());
    assert!(cx.turn());
    assert_eq!(counts(), (1, 1));
    assert!(!cx.turn(), "nobody wants anything");
    seen.wanted.store(true, SeqCst);
    cx.turn();
    assert_eq!(counts(), (1, 2));
    cx.resume(slot);
    seen.dies.store(true, SeqCst);
    cx.turn();
    seen.wanted.store(true, SeqCst);
    cx.turn();
    assert_eq!(counts(), (2, 3), "a dead one too");
}

/// A guest's ring over a disk that answers at once.
#[derive(Default)]
struct Ring {
    wanted: AtomicU32,
    shown: AtomicU32,
    interrupts: AtomicU32,
}

struct Eager {
    ring: Arc<Ring>,
    ended: u32,
    shown: u32,
}

impl Queue for Eager {
    fn service(&mut self, port: &mut Port<'_>, _: u32) -> Progress {
        for token in 0..self.ring.wanted.swap(0, SeqCst) {
            port.complete_later(token, IoBuf::empty(), Ok(()));
        }
        Progress::Idle
    }
    fn complete(&mut self, _: &mut Port<'_>, _: u32, _: IoBuf, _: Result<(), BlockError>) {
        self.ended += 1;
    }
    fn publish(&mut self) -> bool {
        self.ring.shown.store(self.ended, SeqCst);
        self.ended > self.shown
    }
    fn flush_irq(&mut self) {
        if self.publish() {
            self.shown = self.ended;
            self.ring.interrupts.fetch_add(1, SeqCst);
        }
    }
    fn pending(&mut self) -> bool {
        self.ring.wanted.load(SeqCst) > 0
    }
    fn notify(&mut self, _: bool) {}
    fn doorbell(&self) -> Option<RawFd> {
        None
    }
    fn drained(&mut self) {}
}

/// An iothread with moderation, on a clock that the test moves.
fn moderated() -> (super::Cx, Arc<AtomicU64>, super::QueueSlot, Arc<Ring>) {
    let ns = Arc::new(AtomicU64::new(0));
    let clock = Clock::Manual { base: Instant::now(), ns: Arc::clone(&ns) };
    let world = World::new(1);
    let cx = super::Iothread::new("io", Box::new(world.engine()), clock).unwrap();
    cx.set_poll_max(Duration::from_micros(1));
    let ring = Arc::new(Ring::default());
    let slot = cx.attach(Box::new(Eager { ring: Arc::clone(&ring), ended: 0, shown: 0 }));
    (cx, ns, slot, ring)
}

/// A guest that submits `count` requests, `think` apart, without waiting for any.
fn submit(cx: &super::Cx, ns: &AtomicU64, ring: &Ring, count: u32, think: u64) {
    for _ in 0..count {
        ns.fetch_add(think, SeqCst);
        ring.wanted.fetch_add(1, SeqCst);
        while cx.turn() {}
    }
}

#[test]
fn an_interrupt_waits_for_more_while_requests_keep_coming() {
    let (cx, ns, slot, ring) = moderated();
    submit(&cx, &ns, &ring, 1, 2000);
    assert_eq!(ring.interrupts.load(SeqCst), 1, "the first one is not held back");
    submit(&cx, &ns, &ring, 400, 2000);
    let learned = ring.interrupts.swap(0, SeqCst);
    submit(&cx, &ns, &ring, 3200, 2000);
    let interrupts = ring.interrupts.load(SeqCst);
    assert!(learned < 100 && (100..=110).contains(&interrupts), "{learned}, {interrupts}");
    // The guest sees every completion at once, interrupt or not.
    assert_eq!(ring.shown.load(SeqCst), 3601);

    // One that stops gets its interrupt without having to ask for anything.
    ring.interrupts.store(0, SeqCst);
    submit(&cx, &ns, &ring, 3, 2000);
    let held = ring.interrupts.load(SeqCst);
    ns.fetch_add(2_000_000, SeqCst);
    while cx.turn() {}
    assert_eq!(ring.interrupts.load(SeqCst), held + 1);

    // A pause does not wait.
    submit(&cx, &ns, &ring, 1, 2000);
    let held = ring.interrupts.load(SeqCst);
    let drained = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&drained);
    cx.pause(slot, move |_| told.store(true, SeqCst));
    assert!(drained.load(SeqCst));
    assert_eq!(ring.interrupts.load(SeqCst), held + 1);
}

#[test]
fn a_guest_that_waits_for_each_answer_gets_each_interrupt() {
    let (cx, ns, _, ring) = moderated();
    let mut waited = 0;
    for n in 1..=2000 {
        ns.fetch_add(20_000, SeqCst);
        ring.wanted.fetch_add(1, SeqCst);
        while cx.turn() {}
        while ring.interrupts.load(SeqCst) < n {
            waited += 1;
            assert!(waited < 1000, "after {n} requests");
            ns.fetch_add(1000, SeqCst);
            while cx.turn() {}
        }
    }
    assert!(waited > 0, "a probe now and then");
}
