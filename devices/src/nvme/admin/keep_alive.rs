//! Keep Alive (Base 3.9, 5.18): a host that is not heard of in time is taken for dead.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use spindle_block::Cx;

use crate::nvme::controller::Ctl;

/// A timer that a Keep Alive command restarts. It ends with its queue.
pub struct KeepAlive {
    timeout: Duration,
    deadline: Mutex<Instant>,
}

impl KeepAlive {
    /// A timer of `timeout_ms` milliseconds; none where that is 0. When it is over the controller
    /// stops.
    #[must_use]
    pub fn start(ctl: &Arc<Ctl>, cx: &Cx, timeout_ms: u32) -> Option<Arc<Self>> {
        let timeout = Duration::from_millis(timeout_ms.into());
        if timeout.is_zero() {
            return None;
        }
        let timer = Arc::new(Self { timeout, deadline: Mutex::new(cx.now() + timeout) });
        let (weak, ctl, task_cx) = (Arc::downgrade(&timer), Arc::downgrade(ctl), Cx::clone(cx));
        let mut until = cx.now() + timeout;
        cx.spawn(async move {
            loop {
                task_cx.sleep_until(until).await;
                let (Some(timer), Some(ctl)) = (weak.upgrade(), ctl.upgrade()) else { return };
                // A machine that stands still has no host that could be heard of.
                if ctl.is_paused() {
                    timer.restart(task_cx.now());
                }
                until = *timer.lock();
                if task_cx.now() >= until {
                    return ctl.fatal("its host has not kept alive");
                }
            }
        });
        Some(timer)
    }

    /// The host was heard of.
    pub fn restart(&self, now: Instant) {
        *self.lock() = now + self.timeout;
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
