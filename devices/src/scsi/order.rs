//! The ORDERED task attribute (SAM-5, 8.9): such a command begins when all older ones have ended, and
//! younger ones begin when it has.
//!
//! Commands without it cost one load while no ORDERED command is there. As long as one is, whatever
//! comes stands in a line, on whichever queue it comes; its head has the turn. An ORDERED command keeps
//! the turn until it has ended, others only until they have begun.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Poll, Waker},
};

use super::{
    job::{AbortFlag, Over},
    unit::LogicalUnit,
};
use crate::device::Countdown;

/// The line of a unit.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// ORDERED commands that wait, or have not ended.
    ordered: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    /// Number of the command that has the turn.
    turn: Option<u64>,
    waiting: VecDeque<(u64, Option<Waker>)>,
}

impl Line {
    /// The next one can have the turn: what wakes it.
    fn head(&mut self) -> Option<Waker> {
        match self.turn {
            None => self.waiting.front_mut()?.1.take(),
            Some(_) => None,
        }
    }
}

impl Order {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command's place in the line, and then its turn, until this is dropped.
pub struct Turn {
    unit: Arc<LogicalUnit>,
    number: u64,
    ordered: bool,
}

impl LogicalUnit {
    /// Whether there is an ORDERED command: others have to wait for their turn.
    #[inline]
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.order.ordered.load(SeqCst) != 0
    }

    /// A place at the end of the line.
    #[must_use]
    pub fn line_up(self: &Arc<Self>, ordered: bool) -> Turn {
        let mut line = self.order.lock();
        let number = line.next;
        line.next += 1;
        line.waiting.push_back((number, None));
        self.order.ordered.fetch_add(ordered.into(), SeqCst);
        drop(line);
        Turn { unit: Arc::clone(self), number, ordered }
    }
}

impl Turn {
    /// Waits until the command may begin, or until `abort` is set.
    pub async fn wait(&self, abort: &AbortFlag) {
        let mine = poll_fn(|task| {
            if abort.poll(task.waker()) {
                return Poll::Ready(false);
            }
            let mut line = self.unit.order.lock();
            let first = line.waiting.front().is_some_and(|(number, _)| *number == self.number);
            if first && line.turn.is_none() {
                line.waiting.pop_front();
                line.turn = Some(self.number);
                return Poll::Ready(true);
            }
            let place = line.waiting.iter_mut().find(|(number, _)| *number == self.number);
            if let Some(place) = place {
                place.1 = Some(task.waker().clone());
            }
            Poll::Pending
        });
        if !mine.await || !self.ordered {
            return;
        }
        let over = Arc::new(Over::default());
        let told = Arc::clone(&over);
        let token = Countdown::new(Box::new(move || told.set(Ok(()))));
        for (nexus, initiator) in self.unit.initiators() {
            initiator.settle(nexus, token.clone());
        }
        drop(token);
        drop(over.wait(Some(abort)).await);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let order = &self.unit.order;
        let mut line = order.lock();
        order.ordered.fetch_sub(self.ordered.into(), SeqCst);
        if line.turn == Some(self.number) {
            line.turn = None;
        } else {
            line.waiting.retain(|(number, _)| *number != self.number);
        }
        let next = line.head();
        drop(line);
        if let Some(next) = next {
            next.wake();
        }
    }
}
