//! What the drive does beside commands, a step at a time.

use std::sync::{Arc, Mutex, PoisonError};

use spindle_block::{Cx, IoBuf, iothread::Port as RingPort};

use super::PortQueue;
use crate::{
    ahci::spec::SLOTS,
    ata::{BackgroundStep, JobEnd},
};

/// The token of a step: that of no slot.
pub(super) const TOKEN: u32 = SLOTS as u32;

/// A step in flight, and what it comes to.
pub(super) struct Running {
    step: BackgroundStep,
    end: Arc<Mutex<Option<JobEnd>>>,
}

impl PortQueue {
    /// Whether a step can begin.
    #[inline]
    pub(super) fn can_step_aside(&self) -> bool {
        self.background.is_none()
            && !self.stopping
            && self.soft_reset.is_none()
            && self.plugged.as_ref().is_some_and(|plugged| plugged.drive.has_background())
    }

    /// Begins the next step, if there is one.
    #[inline]
    pub(super) fn step_aside(&mut self, ring: &mut RingPort<'_>) {
        if self.can_step_aside() {
            self.begin_step(ring);
        }
    }

    #[cold]
    fn begin_step(&mut self, ring: &mut RingPort<'_>) {
        let Some((step, job)) = self.drive().and_then(|drive| drive.begin_background()) else {
            return;
        };
        let end = Arc::new(Mutex::new(None));
        self.background = Some(Running { step, end: Arc::clone(&end) });
        self.in_flight += 1;
        let cx = Cx::clone(ring.cx());
        ring.spawn(TOKEN, async move {
            let result = job.run(cx).await;
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            (IoBuf::empty(), Ok(()))
        });
    }

    /// A step has ended.
    pub(super) fn end_step(&mut self, ring: &mut RingPort<'_>) {
        let Some(running) = self.background.take() else { return };
        self.in_flight -= 1;
        let end = running.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(end), Some(drive)) = (end, self.drive()) {
            drive.end_background(running.step, end);
        }
        self.look_for_quiet();
        self.step_aside(ring);
        self.check();
    }
}
