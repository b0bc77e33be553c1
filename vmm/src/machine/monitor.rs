//! What the monitor's commands do.

use super::{Machine, goals::Goal};
use crate::monitor::{
    Command, Event, Handler, QmpError, Reply,
    schema::{RunState, ShutdownCause, StatusInfo},
};

impl Handler for Machine {
    fn handle(&mut self, command: Command, reply: Reply) {
        match command {
            Command::QueryStatus => reply.value(&StatusInfo::new(self.state)),
            Command::QueryExits => reply.value(&self.accelerator.exits()),
            Command::Stop => {
                self.ask(Goal::Pause { state: RunState::Paused, reply: Some(reply) });
            }
            Command::Cont => self.cont(reply),
            Command::SystemReset => {
                let cause = ShutdownCause::HostQmpSystemReset;
                self.ask(Goal::Reset { guest: false, cause, reply: None });
                reply.done();
            }
            Command::SystemPowerdown => {
                self.tell(Event::Powerdown);
                self.board.pm.press_power_button();
                reply.done();
            }
            Command::Quit => {
                reply.done();
                self.end(0, false, ShutdownCause::HostQmpQuit);
            }
            Command::DeviceAdd(options) => {
                // What earlier commands have done may still be on its way here.
                self.make_calls();
                reply.result(self.device_add(options));
            }
            Command::DeviceDel { id } => reply.result(self.device_del(&id)),
            Command::OpenTray { id, force } => self.open_tray(&id, force, reply),
            Command::CloseTray { id } => reply.result(self.close_tray(&id)),
            Command::Eject { id, force } => self.eject(id, force, reply),
            Command::RemoveMedium { id } => reply.result(self.remove_medium(&id)),
            Command::InsertMedium { id, node_name } => {
                reply.result(self.insert_medium(&id, &node_name));
            }
            Command::ChangeMedium(change) => self.change_medium(change, reply),
            other => self.block_command(other, reply),
        }
    }
}

impl Machine {
    fn cont(&mut self, reply: Reply) {
        match self.state {
            RunState::Shutdown | RunState::GuestPanicked | RunState::InternalError => {
                reply.error(QmpError::generic("Resetting the Virtual Machine is required"));
            }
            _ => self.ask(Goal::Resume { reply: Some(reply) }),
        }
    }
}
