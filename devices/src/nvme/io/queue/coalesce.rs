//! Interrupt coalescing (Base 5.27.1.6): an interrupt waits for more completions, but never alone and
//! never beyond the time set.

use std::{sync::Arc, time::Instant};

use spindle_block::{Cx, iothread::Port};

use super::IoQueue;
use crate::nvme::io::Mail;

/// An interrupt that is held back (Base 3.5.2.3).
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    /// When the first completion was posted that no interrupt was raised for.
    pub since: Option<Instant>,
    /// A task wakes the queue when the time is over.
    pub timer: bool,
    /// It is over.
    pub due: bool,
}

impl IoQueue {
    /// Sees to it that an interrupt that is held back is raised in time.
    #[inline]
    pub(super) fn watch_time(&mut self, port: &Port<'_>) {
        if self.ctl.coalescing() != 0 && self.rings.posted() > 0 {
            self.start_timer(port);
        }
    }

    #[cold]
    pub(super) fn start_timer(&mut self, port: &Port<'_>) {
        let Some((time, _)) = self.rings.vector().and_then(|vector| self.ctl.hold(vector)) else {
            return;
        };
        let until = *self.coalescer.since.get_or_insert_with(|| port.cx().now()) + time;
        if self.coalescer.timer {
            return;
        }
        self.coalescer.timer = true;
        let (cx, home) = (Cx::clone(port.cx()), Arc::clone(&self.home));
        port.cx().spawn(async move {
            cx.sleep_until(until).await;
            home.post(Mail::Time);
        });
    }

    /// The timer has ended: what it was for may have been announced since.
    pub(super) fn time_is_over(&mut self, port: &Port<'_>) {
        self.coalescer.timer = false;
        let time = self.rings.vector().and_then(|vector| self.ctl.hold(vector));
        let until = self.coalescer.since.zip(time).map(|(since, (time, _))| since + time);
        match until {
            Some(until) if port.cx().now() < until => self.start_timer(port),
            Some(_) => self.coalescer.due = true,
            None => {}
        }
    }

    /// Whether the interrupt of what was posted waits: others are in flight, fewer completions than
    /// the threshold are there, and the time is not over.
    pub(super) fn is_held(&self) -> bool {
        if self.ctl.coalescing() == 0 || self.coalescer.due || self.in_flight == 0 {
            return false;
        }
        let hold = self.rings.vector().and_then(|vector| self.ctl.hold(vector));
        hold.is_some_and(|(_, completions)| self.rings.posted() < completions)
    }
}
