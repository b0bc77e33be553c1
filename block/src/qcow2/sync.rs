//! Locks that tasks wait for. All state sits behind mutexes held for nanoseconds; tasks of several
//! iothreads may wait for one another.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
use std::{
    sync::PoisonError,
    task::{Poll, Waker},
};

/// Locks a mutex whose data is whole between any two statements of ours.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake_all(waiting: Vec<Waker>) {
    waiting.into_iter().for_each(Waker::wake);
}

/// Adds the task's waker unless it is there.
pub(crate) fn remember(waiting: &mut Vec<Waker>, waker: &Waker) {
    if !waiting.iter().any(|w| w.will_wake(waker)) {
        waiting.push(waker.clone());
    }
}

/// Ranges of numbers, each held by one task. Used for guest clusters and for L1 entries.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    state: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ranges: Vec<(u64, u64)>,
    waiting: Vec<Waker>,
}

impl RangeLocks {
    /// Waits until no number of `first..=last` is held, and holds them.
    pub async fn lock(&self, first: u64, last: u64) -> RangeGuard<'_> {
        std::future::poll_fn(|task| {
            let mut held = lock(&self.state);
            if held.ranges.iter().any(|&(a, b)| first <= b && a <= last) {
                remember(&mut held.waiting, task.waker());
                return Poll::Pending;
            }
            held.ranges.push((first, last));
            Poll::Ready(())
        })
        .await;
        RangeGuard { locks: self, range: (first, last) }
    }
}

/// Releases the range when dropped.
#[derive(Debug)]
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    range: (u64, u64),
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut held = lock(&self.locks.state);
            if let Some(at) = held.ranges.iter().position(|r| *r == self.range) {
                held.ranges.swap_remove(at);
            }
            std::mem::take(&mut held.waiting)
        };
        wake_all(waiting);
    }
}

/// So many units, taken and given back: a bound on memory in flight. One unit of one is a mutex.
#[derive(Debug)]
pub(crate) struct Semaphore {
    state: Mutex<(u64, Vec<Waker>)>,
    total: u64,
}

impl Semaphore {
    pub fn new(total: u64) -> Self {
        Self { state: Mutex::new((total, Vec::new())), total }
    }

    /// Waits for `units`, or for all there are where that is less.
    pub async fn take(&self, units: u64) -> Permit<'_> {
        let units = units.min(self.total);
        std::future::poll_fn(|task| {
            let mut state = lock(&self.state);
            if state.0 < units {
                remember(&mut state.1, task.waker());
                return Poll::Pending;
            }
            state.0 -= units;
            Poll::Ready(())
        })
        .await;
        Permit { from: self, units }
    }
}

/// Gives the units back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    from: &'a Semaphore,
    units: u64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = lock(&self.from.state);
            state.0 += self.units;
            std::mem::take(&mut state.1)
        };
        wake_all(waiting);
    }
}
