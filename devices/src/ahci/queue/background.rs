//! What the drives do beside commands, a step at a time.

use std::sync::{Arc, Mutex, PoisonError};

use spindle_block::{Cx, IoBuf, iothread::Port as RingPort};

use super::{PortQueue, target::Target};
use crate::{
    ahci::spec::SLOTS,
    ata::{BackgroundStep, JobEnd},
};

/// The token of the first device's step, behind those of slots; the others follow.
pub(super) const TOKENS: u32 = SLOTS as u32;

/// A step in flight, and what it comes to.
pub(super) struct Running {
    step: BackgroundStep,
    end: Arc<Mutex<Option<JobEnd>>>,
}

impl Target {
    #[inline]
    fn can_step(&self) -> bool {
        self.background.is_none()
            && self.plugged.as_ref().is_some_and(|plugged| plugged.drive.has_background())
    }
}

impl PortQueue {
    /// Whether a device can begin a step.
    #[inline]
    pub(super) fn can_step_aside(&self) -> bool {
        !self.stopping && self.soft_reset.is_none() && self.targets.iter().any(Target::can_step)
    }

    /// Begins the next step of each drive that has one.
    #[inline]
    pub(super) fn step_aside(&mut self, ring: &mut RingPort<'_>) {
        if self.can_step_aside() {
            self.begin_steps(ring);
        }
    }

    #[cold]
    fn begin_steps(&mut self, ring: &mut RingPort<'_>) {
        for at in 0..self.targets.len() {
            if self.targets[at].can_step() {
                self.begin_step(ring, at);
            }
        }
    }

    fn begin_step(&mut self, ring: &mut RingPort<'_>, at: usize) {
        let Some(plugged) = &mut self.targets[at].plugged else { return };
        let Some((step, job)) = plugged.drive.begin_background() else { return };
        let end = Arc::new(Mutex::new(None));
        self.targets[at].background = Some(Running { step, end: Arc::clone(&end) });
        self.in_flight += 1;
        let cx = Cx::clone(ring.cx());
        ring.spawn(TOKENS + at as u32, async move {
            let result = job.run(cx).await;
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            (IoBuf::empty(), Ok(()))
        });
    }

    /// A step has ended.
    pub(super) fn end_step(&mut self, ring: &mut RingPort<'_>, target: u8) {
        let Some(running) = self.targets[usize::from(target)].background.take() else { return };
        self.in_flight -= 1;
        let end = running.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(end), Some(drive)) = (end, self.drive_of(target)) {
            drive.end_background(running.step, end);
        }
        self.look_for_quiet();
        self.look_for_device(target);
        self.step_aside(ring);
        self.check();
    }
}
