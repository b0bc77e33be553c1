//! Pause, go on, reset, end: one after the other, without waiting on the main thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use spindle_block::{Cx, graph::Drain};
use spindle_boot::RamState;
use spindle_devices::{Device, device::Countdown};

use super::{BuildError, EXIT_FAILURE, Letter, Machine, disks};
use crate::monitor::{
    Event, Reply,
    schema::{IoStatus, RunState, ShutdownCause},
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

/// How far a goal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests in flight are ending.
    Drain,
    /// Devices are resetting themselves.
    ResetDevices,
    /// Nodes are being closed.
    Close,
}

/// A goal that waits for something.
#[derive(Debug)]
pub(super) struct Step {
    number: u64,
    phase: Phase,
    goal: Goal,
    since: Instant,
    told: bool,
}

/// Keeps devices paused.
pub(super) struct Hold {
    /// All there were; disks are paused by their drain too, which tells their nodes.
    devices: Vec<Arc<dyn Device>>,
    /// That of the disks; there when their last request has ended.
    drain: Option<Drain>,
}

impl Machine {
    /// Asks for something; it is done after what was asked for before. An end comes first.
    pub(super) fn ask(&mut self, goal: Goal) {
        if matches!(goal, Goal::End { .. }) {
            self.goals.clear();
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

    /// Whether something is being done that accesses to devices have to wait for.
    pub(super) fn is_busy(&self) -> bool {
        self.step.is_some() || self.outcome.is_some()
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
            Goal::Pause { .. } | Goal::Reset { .. } => {
                self.stop_cpus();
                self.drain(goal);
            }
            Goal::End { guest, cause, .. } => {
                self.stop_cpus();
                self.accelerator.stop();
                self.tell(Event::Shutdown { guest, reason: cause });
                self.drain(goal);
            }
        }
    }

    fn stop_cpus(&mut self) {
        if self.is_running() {
            self.accelerator.pause();
        }
        self.accelerator.deliver();
    }

    /// Starts a phase. It is over when the returned countdown and all its clones are gone.
    fn enter(&mut self, phase: Phase, goal: Goal) -> Countdown {
        self.steps += 1;
        let number = self.steps;
        self.step = Some(Step { number, phase, goal, since: Instant::now(), told: false });
        let mailbox = Arc::clone(&self.mailbox);
        Countdown::new(Box::new(move || mailbox.post(Letter::Quiet(number))))
    }

    /// Lets every request in flight end, and takes no new ones until the hold is released.
    fn drain(&mut self, goal: Goal) {
        let waits = self.enter(Phase::Drain, goal);
        self.holds.push(Hold { devices: self.devices(), drain: None });
        for device in self.devices() {
            let waits = waits.clone();
            device.pause(Box::new(move || drop(waits)));
        }
        let (mailbox, roots) = (Arc::clone(&self.mailbox), self.disks.graph.roots());
        let result = self.disks.graph.drain(&roots, move |drain| {
            mailbox.call(Box::new(move |machine| {
                if let Some(hold) = machine.holds.last_mut() {
                    hold.drain = Some(drain);
                }
            }));
            drop(waits);
        });
        if let Err(e) = result {
            log::error!("cannot drain the disks: {e}");
        }
    }

    /// Undoes the last [`Machine::drain`].
    fn release(&mut self) {
        if let Some(hold) = self.holds.pop() {
            drop(hold.drain);
            hold.devices.iter().for_each(|device| device.resume());
        }
    }

    /// The phase of step `number` is over.
    pub(super) fn quiet(&mut self, number: u64) {
        let Some(step) = self.step.take_if(|step| step.number == number) else { return };
        match (step.phase, step.goal) {
            (_, Goal::Pause { state, reply }) => {
                self.state = state;
                self.tell(Event::Stop);
                answer(reply);
            }
            (Phase::Drain, goal @ Goal::Reset { .. }) => {
                let waits = self.enter(Phase::ResetDevices, goal);
                for device in self.devices() {
                    let waits = waits.clone();
                    device.reset(Box::new(move || drop(waits)));
                }
            }
            (_, Goal::Reset { guest, cause, reply }) => self.restart(guest, cause, reply),
            (Phase::Drain, goal @ Goal::End { .. }) => self.close_nodes(goal),
            (_, Goal::End { status, .. }) => self.outcome = Some(status),
            (_, Goal::Resume { .. }) => {}
        }
        self.advance();
    }

    fn restart(&mut self, guest: bool, reason: ShutdownCause, reply: Option<Reply>) {
        if let Err(e) = self.start_afresh() {
            log::error!("cannot reset the machine: {}", spindle_block::error::with_causes(&e));
            let cause = ShutdownCause::HostError;
            return self.ask(Goal::End { status: EXIT_FAILURE, guest: false, cause });
        }
        self.release();
        self.tell(Event::Reset { guest, reason });
        if self.is_running() {
            self.accelerator.resume();
        } else {
            // Whatever ended the guest is over; it goes on when somebody says so.
            self.state = RunState::Paused;
        }
        answer(reply);
    }

    /// Everything as at power-on; CPUs are parked, devices are reset.
    fn start_afresh(&mut self) -> Result<(), BuildError> {
        self.board.reset();
        self.accelerator.reset()?;
        self.start.assign_addresses(&self.board)?;
        let entry = self.start.fill(&self.memory, &self.map, RamState::Used)?;
        self.accelerator.restart(&entry)
    }

    /// Metadata written, data durable, locks given up.
    fn close_nodes(&mut self, goal: Goal) {
        let waits = self.enter(Phase::Close, goal);
        let graph = Arc::clone(&self.disks.graph);
        match self.disks.iothreads.control() {
            Ok(handle) => handle.post(move |cx| {
                let task_cx = Cx::clone(cx);
                cx.spawn(async move {
                    disks::close(&graph, &task_cx).await;
                    drop(waits);
                });
            }),
            Err(e) => {
                log::error!("cannot close the disks: {}", spindle_block::error::with_causes(&e));
            }
        }
    }

    /// Ends all threads of the machine; what they use is still there.
    pub(super) fn end_threads(&mut self) {
        self.accelerator.stop();
        self.disks.iothreads.stop();
    }

    fn resume(&mut self, reply: Option<Reply>) {
        if !self.is_running() {
            self.state = RunState::Running;
            for disk in &mut self.disks.disks {
                disk.io_status = IoStatus::Ok;
            }
            self.release();
            self.accelerator.resume();
            self.tell(Event::Resume);
        }
        answer(reply);
    }

    /// What is done now and then: a guest that sends characters and then sleeps leaves them where
    /// they are collected, and devices that take long are reported.
    pub(super) fn tick(&mut self) {
        self.accelerator.deliver();
        self.complain();
    }

    /// Says what is waited for, if it takes long.
    fn complain(&mut self) {
        let Some(step) = &mut self.step else { return };
        if step.told || step.since.elapsed() < PATIENCE {
            return;
        }
        step.told = true;
        let what = match step.phase {
            Phase::Drain => "for requests of the disks to end",
            Phase::ResetDevices => "for devices to reset themselves",
            Phase::Close => "for images to be closed",
        };
        log::warn!("still waiting {what}");
    }
}

fn answer(reply: Option<Reply>) {
    if let Some(reply) = reply {
        reply.done();
    }
}
