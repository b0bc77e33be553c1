//! What the drives do beside commands, a step at a time.

use std::sync::{Arc, Mutex, PoisonError};

use spindle_block::{Cx, IoBuf, iothread::Port};

use super::ChannelQueue;
use crate::ata::{BackgroundStep, JobEnd};

/// The token of drive 0's step; that of drive 1 is the next.
pub(super) const TOKENS: u32 = 2;

/// A step in flight, and what it comes to.
pub(in super::super) struct Running {
    step: BackgroundStep,
    end: Arc<Mutex<Option<JobEnd>>>,
}

impl ChannelQueue {
    /// Begins the next step of each drive that has one, unless it is being reset.
    pub(super) fn step_aside(&mut self, port: &mut Port<'_>) {
        let reset = self.channel.lock().reset;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            let waits = reset.is_some_and(|reset| reset.reaches(index));
            if waits || lane.background.is_some() || !lane.drive.has_background() {
                continue;
            }
            let Some((step, job)) = lane.drive.begin_background() else { continue };
            let end = Arc::new(Mutex::new(None));
            lane.background = Some(Running { step, end: Arc::clone(&end) });
            let cx = Cx::clone(port.cx());
            port.spawn(TOKENS + index as u32, async move {
                let result = job.run(cx).await;
                *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                (IoBuf::empty(), Ok(()))
            });
        }
    }

    /// A step has ended.
    pub(super) fn end_step(&mut self, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Some(running) = lane.background.take() else { return };
        let end = running.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            lane.drive.end_background(running.step, end);
        }
        let sectors = lane.drive.open_sectors();
        self.channel.lock().drives[index].sectors = sectors;
    }
}
