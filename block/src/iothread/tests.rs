//! What the loop promises to queues.

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
};

use super::{Port, Progress, Queue};
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
