//! Tasks that wait for a ring, and tasks that wait for time.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::Iothread;
use crate::{BlockError, IoBuf, ring::Done};

#[derive(Debug)]
enum Wait {
    Free,
    Pending(Option<Waker>),
    Ready(Done),
    /// The future was dropped; the request is still in flight and ends unheard.
    Orphan,
}

/// Requests that tasks wait for, by number.
#[derive(Debug, Default)]
pub(super) struct Waits {
    entries: Vec<Wait>,
    free: Vec<u32>,
}

impl Waits {
    pub fn add(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Wait::Pending(None);
            return index;
        }
        self.entries.push(Wait::Pending(None));
        (self.entries.len() - 1) as u32
    }

    /// A request has ended: keeps the result for its task.
    pub fn end(&mut self, index: u32, done: Done) {
        let entry = &mut self.entries[index as usize];
        match std::mem::replace(entry, Wait::Free) {
            Wait::Pending(waker) => {
                *entry = Wait::Ready(done);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Wait::Orphan => self.free.push(index),
            Wait::Free | Wait::Ready(_) => debug_assert!(false, "a request ended twice"),
        }
    }
}

/// A request on the ring that a task waits for. Dropping it does not stop the request: memory and
/// pin stay with the ring until it ends.
pub struct RingWait {
    cx: Rc<Iothread>,
    index: u32,
    finished: bool,
}

impl RingWait {
    pub(super) fn new(cx: &Rc<Iothread>, index: u32) -> Self {
        Self { cx: Rc::clone(cx), index, finished: false }
    }
}

impl Future for RingWait {
    type Output = (IoBuf, Result<(), BlockError>);

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.index;
        let cx = Rc::clone(&self.cx);
        let mut waits = cx.waits.borrow_mut();
        let entry = &mut waits.entries[index as usize];
        match std::mem::replace(entry, Wait::Free) {
            Wait::Ready(done) => {
                waits.free.push(index);
                self.finished = true;
                Poll::Ready((done.buf, done.result))
            }
            _ => {
                *entry = Wait::Pending(Some(task.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for RingWait {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut waits = self.cx.waits.borrow_mut();
        let index = self.index;
        let entry = &mut waits.entries[index as usize];
        if matches!(entry, Wait::Ready(_)) {
            *entry = Wait::Free;
            waits.free.push(index);
        } else {
            *entry = Wait::Orphan;
        }
    }
}

/// Tasks that sleep, by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeMap<(Instant, u64), Waker>,
    next: u64,
}

impl Timers {
    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes what is due. Returns whether anything was.
    pub fn fire(&mut self, now: Instant) -> bool {
        let mut fired = false;
        while let Some(entry) = self.by_time.first_entry() {
            if entry.key().0 > now {
                break;
            }
            entry.remove().wake();
            fired = true;
        }
        fired
    }
}

/// See [`Iothread::sleep_until`].
pub struct Sleep {
    cx: Rc<Iothread>,
    until: Instant,
    key: Option<(Instant, u64)>,
}

impl Sleep {
    pub(super) fn new(cx: &Rc<Iothread>, until: Instant) -> Self {
        Self { cx: Rc::clone(cx), until, key: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        if self.cx.now() >= self.until {
            return Poll::Ready(());
        }
        let cx = Rc::clone(&self.cx);
        let mut timers = cx.timers.borrow_mut();
        let until = self.until;
        let key = *self.key.get_or_insert_with(|| {
            timers.next += 1;
            (until, timers.next)
        });
        timers.by_time.insert(key, task.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.cx.timers.borrow_mut().by_time.remove(&key);
        }
    }
}
