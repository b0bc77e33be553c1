//! Pause, go on, reset, end: one after the other, without waiting on the main thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use spindle_boot::RamState;
use spindle_devices::device::{Countdown, Done};

use super::{BuildError, EXIT_FAILURE, Letter, Machine};
use crate::monitor::{
    Event, Reply,
    schema::{RunState, ShutdownCause},
};

/// How long devices may take before somebody is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something the machine is to do, and who waits for it.
#[derive(Debug)]
pub(super) enum Goal {
    /// Stop the CPUs and let the devices come to rest.
    Pause { state: RunState, reply: Option<Reply> },
    /// Go on.
    Resume { reply: Option<Reply> },
    /// Start afresh.
    Reset { guest: bool, cause: ShutdownCause, reply: Option<Reply> },
    /// End the process with this status.
    End { status: u8, guest: bool, cause: ShutdownCause },
}

/// A goal whose devices are not done yet.
#[derive(Debug)]
pub(super) struct Step {
    number: u64,
    goal: Goal,
    since: Instant,
    told: bool,
}

impl Machine {
    /// Asks for something; it is done after what was asked for before. An end comes first.
    pub(super) fn ask(&mut self, goal: Goal) {
        if matches!(goal, Goal::End { .. }) {
            self.goals.retain(|g| matches!(g, Goal::End { .. }));
        }
        self.goals.push_back(goal);
        self.advance();
    }

    /// Whether the machine is on its way out.
    pub(super) fn is_ending(&self) -> bool {
        let ends = |goal: &Goal| matches!(goal, Goal::End { .. });
        self.outcome.is_some()
            || self.goals.iter().any(ends)
            || self.step.as_ref().is_some_and(|step| ends(&step.goal))
    }

    /// Whether a reset is on its way: a guest tries one way after the other.
    pub(super) fn is_resetting(&self) -> bool {
        let resets = |goal: &Goal| matches!(goal, Goal::Reset { .. });
        self.goals.iter().any(resets) || self.step.as_ref().is_some_and(|step| resets(&step.goal))
    }

    fn advance(&mut self) {
        while self.step.is_none() && self.outcome.is_none() {
            let Some(goal) = self.goals.pop_front() else { return };
            self.begin(goal);
        }
    }

    fn begin(&mut self, goal: Goal) {
        match goal {
            Goal::Pause { reply, .. } if !self.is_running() => answer(reply),
            Goal::Resume { reply } => self.resume(reply),
            Goal::Pause { .. } => {
                self.stop_cpus();
                self.wait_for_devices(goal, |device, done| device.pause(done));
            }
            Goal::Reset { .. } => {
                self.stop_cpus();
                self.wait_for_devices(goal, |device, done| device.reset(done));
            }
            Goal::End { guest, cause, .. } => {
                self.stop_cpus();
                self.cpus.stop();
                self.tell(Event::Shutdown { guest, reason: cause });
                self.wait_for_devices(goal, |device, done| device.pause(done));
            }
        }
    }

    fn stop_cpus(&mut self) {
        if self.is_running() {
            self.cpus.pause();
            self.clock = self.vm.clock().ok();
        }
        self.drain_collected();
    }

    fn wait_for_devices(&mut self, goal: Goal, ask: impl Fn(&dyn spindle_devices::Device, Done)) {
        self.steps += 1;
        let number = self.steps;
        self.step = Some(Step { number, goal, since: Instant::now(), told: false });
        let mailbox = Arc::clone(&self.mailbox);
        let countdown = Countdown::new(Box::new(move || mailbox.post(Letter::Quiet(number))));
        for device in self.devices() {
            let waits = countdown.clone();
            ask(&*device, Box::new(move || drop(waits)));
        }
    }

    /// The devices have done what step `number` asked of them.
    pub(super) fn quiet(&mut self, number: u64) {
        let Some(step) = self.step.take_if(|step| step.number == number) else { return };
        match step.goal {
            Goal::Pause { state, reply } => {
                self.state = state;
                self.tell(Event::Stop);
                answer(reply);
            }
            Goal::Reset { guest, cause, reply } => {
                if let Err(e) = self.start_afresh() {
                    log::error!("cannot reset the machine: {}", crate::error_chain(&e));
                    self.goals.clear();
                    self.ask(Goal::End {
                        status: EXIT_FAILURE,
                        guest: false,
                        cause: ShutdownCause::HostError,
                    });
                    return;
                }
                self.tell(Event::Reset { guest, reason: cause });
                if self.is_running() {
                    self.cpus.resume();
                }
                answer(reply);
            }
            Goal::End { status, .. } => self.outcome = Some(status),
            Goal::Resume { .. } => {}
        }
        self.advance();
    }

    fn resume(&mut self, reply: Option<Reply>) {
        if !self.is_running() {
            self.state = RunState::Running;
            if let Some(clock) = self.clock.take()
                && let Err(e) = self.vm.set_clock(clock)
            {
                log::warn!("the guest's clock jumps over the pause: {e}");
            }
            for device in self.devices() {
                device.resume();
            }
            self.cpus.resume();
            self.tell(Event::Resume);
        }
        answer(reply);
    }

    /// Everything as at power-on; CPUs are parked, devices are reset.
    fn start_afresh(&mut self) -> Result<(), BuildError> {
        self.board.reset();
        self.board.assign_addresses()?;
        self.vm.reset_board()?;
        let entry = self.image.place(&self.memory, &self.map, RamState::Used)?;
        self.cpus.restart(&entry)?;
        self.clock = None;
        Ok(())
    }

    /// What is done now and then: a guest that sends characters and then sleeps leaves them where KVM
    /// collects them, and devices that take long are reported.
    pub(super) fn tick(&mut self) {
        self.drain_collected();
        self.complain();
    }

    /// Says what is waited for, if it takes long.
    fn complain(&mut self) {
        let Some(step) = &mut self.step else { return };
        if step.told || step.since.elapsed() < PATIENCE {
            return;
        }
        step.told = true;
        let what = match step.goal {
            Goal::Pause { .. } | Goal::Resume { .. } => "pause",
            Goal::Reset { .. } => "reset",
            Goal::End { .. } => "end",
        };
        log::warn!("still waiting for the disks' requests to end before the {what}");
    }
}

fn answer(reply: Option<Reply>) {
    if let Some(reply) = reply {
        reply.done();
    }
}
