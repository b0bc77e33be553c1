//! What guest, host and signals ask of the machine, and what the command line says is done about it.

use spindle_devices::PowerRequest;

use super::{EXIT_FAILURE, Letter, Machine, goals::Goal};
use crate::{
    console::PromptCommand,
    monitor::{
        Event,
        schema::{RunState, ShutdownCause},
    },
    spec::{PanicAction, RebootAction, ShutdownAction},
};

impl Machine {
    /// Reads the mailbox.
    pub(super) fn read_mail(&mut self) {
        self.mailbox.acknowledge();
        loop {
            let letter = self.mailbox.take();
            // Calls that were made before the letter was posted come first.
            self.make_calls();
            match letter {
                Some(letter) => self.read_letter(letter),
                None => return,
            }
        }
    }

    /// Makes the calls that wait.
    pub(super) fn make_calls(&mut self) {
        for call in self.mailbox.take_calls() {
            call(self);
        }
    }

    fn read_letter(&mut self, letter: Letter) {
        match letter {
            Letter::Quiet(number) => return self.quiet(number),
            Letter::IothreadDied(name) => {
                // Its requests never end: nothing can be waited for.
                log::error!("iothread '{name}' ended; the machine cannot go on");
                self.outcome = Some(EXIT_FAILURE);
                return;
            }
            _ if self.is_ending() => return,
            _ => {}
        }
        match letter {
            Letter::Power(PowerRequest::PowerOff) => self.guest_shutdown(),
            Letter::Power(PowerRequest::Reset) | Letter::TripleFault => self.guest_reset(),
            Letter::Power(PowerRequest::DebugExit(value)) => {
                self.end(value as u8, true, ShutdownCause::GuestShutdown);
            }
            Letter::Power(PowerRequest::Panic) => self.guest_panic(),
            Letter::CpuFailed { cpu, reason } => self.cpu_failed(cpu, &reason),
            Letter::StopForError { device, reason, nospace } => {
                self.note_failure(&device, nospace);
                log::warn!("paused: disk '{device}': {reason}; 'cont' tries again");
                self.ask(Goal::Pause { state: RunState::IoError, reply: None });
            }
            Letter::Quiet(_) | Letter::IothreadDied(_) => {}
        }
    }

    /// Ends the process with `status` once everything is at rest.
    pub(super) fn end(&mut self, status: u8, guest: bool, cause: ShutdownCause) {
        if !self.is_ending() {
            self.ask(Goal::End { status, guest, cause });
        }
    }

    fn guest_shutdown(&mut self) {
        let cause = ShutdownCause::GuestShutdown;
        match self.actions.shutdown {
            ShutdownAction::Poweroff => self.end(0, true, cause),
            ShutdownAction::Pause => {
                self.tell(Event::Shutdown { guest: true, reason: cause });
                self.ask(Goal::Pause { state: RunState::Shutdown, reply: None });
            }
        }
    }

    fn guest_reset(&mut self) {
        let cause = ShutdownCause::GuestReset;
        if self.is_resetting() {
            return;
        }
        match (self.actions.reboot, self.actions.shutdown) {
            (RebootAction::Reset, _) => {
                self.ask(Goal::Reset { guest: true, cause, reply: None });
            }
            (RebootAction::Shutdown, ShutdownAction::Poweroff) => self.end(0, true, cause),
            (RebootAction::Shutdown, ShutdownAction::Pause) => {
                self.tell(Event::Shutdown { guest: true, reason: cause });
                self.ask(Goal::Pause { state: RunState::Shutdown, reply: None });
            }
        }
    }

    fn guest_panic(&mut self) {
        let state = RunState::GuestPanicked;
        let cause = ShutdownCause::GuestPanic;
        match self.actions.panic {
            PanicAction::None => {}
            PanicAction::Pause => {
                self.tell(Event::GuestPanicked { action: "pause" });
                self.ask(Goal::Pause { state, reply: None });
            }
            PanicAction::Shutdown => {
                self.tell(Event::GuestPanicked { action: "poweroff" });
                self.end(0, true, cause);
            }
            PanicAction::ExitFailure => {
                self.tell(Event::GuestPanicked { action: "poweroff" });
                self.end(EXIT_FAILURE, true, cause);
            }
        }
    }

    fn cpu_failed(&mut self, cpu: u32, reason: &str) {
        log::error!("virtual CPU {cpu}: {reason}");
        match self.actions.panic {
            PanicAction::Pause | PanicAction::None => {
                self.ask(Goal::Pause { state: RunState::InternalError, reply: None });
            }
            PanicAction::Shutdown | PanicAction::ExitFailure => {
                self.end(EXIT_FAILURE, false, ShutdownCause::HostError);
            }
        }
    }

    /// A command of the console's prompt, or its leave key; the answer is for the user.
    pub(super) fn console_command(&mut self, command: PromptCommand) -> String {
        match command {
            PromptCommand::Cont => {
                self.ask(Goal::Resume { reply: None });
                String::new()
            }
            PromptCommand::Stop => {
                self.ask(Goal::Pause { state: RunState::Paused, reply: None });
                String::new()
            }
            PromptCommand::Info => self.info(),
            PromptCommand::Quit => {
                self.end(0, false, ShutdownCause::HostUi);
                String::new()
            }
        }
    }

    fn info(&self) -> String {
        let state = serde_json::to_value(self.state).unwrap_or_default();
        let exits = self.accelerator.exits();
        let mut text = format!("state: {}\n", state.as_str().unwrap_or_default());
        text.push_str(&format!("exits to user space: {}\n", exits.total()));
        for device in self.devices() {
            text.push_str(&format!("device: {}\n", device.id()));
        }
        text
    }
}
