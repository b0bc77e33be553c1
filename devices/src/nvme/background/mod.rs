//! What a subsystem does beside the commands of its hosts: self-tests and sanitize operations.
//!
//! Both work in steps. A pause of the machine lets the step under way end and no other begin, so
//! that nothing touches the disks meanwhile.

mod sanitize;
mod self_test;

use std::{
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

pub use sanitize::{Record, SECTION as SANITIZE_SECTION, resume, sanitize};
pub use self_test::{ABORTED_BY_FORMAT, self_test};

use crate::device::Countdown;
use sanitize::Sanitize;
use self_test::SelfTests;

/// See the module.
#[derive(Default)]
pub struct Background {
    steps: Mutex<Steps>,
    tests: Mutex<SelfTests>,
    sanitize: Mutex<Sanitize>,
}

#[derive(Default)]
struct Steps {
    /// Pauses that are on.
    pauses: u32,
    /// Steps under way.
    running: u32,
    /// Who waits for those to end.
    waiting: Vec<Countdown>,
    /// Who waits for the pauses to end.
    paused: Vec<Waker>,
}

impl Background {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tests(&self) -> MutexGuard<'_, SelfTests> {
        self.tests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sanitizing(&self) -> MutexGuard<'_, Sanitize> {
        self.sanitize.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No step begins any more; lets go of `done` when none is under way. Pauses nest.
    pub fn pause(&self, done: Countdown) {
        let mut steps = self.steps();
        steps.pauses += 1;
        if steps.running > 0 {
            steps.waiting.push(done);
        }
    }

    /// Undoes one [`Background::pause`].
    pub fn resume(&self) {
        let wakers = {
            let mut steps = self.steps();
            steps.pauses = steps.pauses.saturating_sub(1);
            if steps.pauses > 0 { Vec::new() } else { std::mem::take(&mut steps.paused) }
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Does a step when no pause is on.
    async fn step<T>(&self, work: impl Future<Output = T>) -> T {
        poll_fn(|task| {
            let mut steps = self.steps();
            if steps.pauses > 0 {
                steps.paused.push(task.waker().clone());
                return Poll::Pending;
            }
            steps.running += 1;
            Poll::Ready(())
        })
        .await;
        let value = work.await;
        let waiting = {
            let mut steps = self.steps();
            steps.running -= 1;
            if steps.running > 0 { Vec::new() } else { std::mem::take(&mut steps.waiting) }
        };
        drop(waiting);
        value
    }
}
