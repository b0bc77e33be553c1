//! The machine on the main thread: what it is made of, and how it is paused, reset and ended.
//!
//! What takes time is a `Goal`. Goals are worked on one after the other; where a goal waits for
//! devices, the main loop goes on and a letter says when they are done.

mod block_commands;
mod board;
mod build;
mod disks;
mod driver;
mod error;
mod firmware;
mod goals;
mod hotplug;
mod iothreads;
mod mailbox;
mod main_loop;
mod monitor;
mod nodes;
mod ram;
mod requests;
mod start;
#[cfg(test)]
mod tests;
mod trays;

use std::{collections::VecDeque, sync::Arc};

use spindle_boot::MemoryMap;
use spindle_devices::Device;
use vm_memory::GuestMemoryMmap;

use crate::{
    accel::Accelerator,
    monitor::{Event, schema::RunState},
    spec::{Actions, MachineSpec},
};
use board::Board;
pub use build::build;
use disks::Disks;
pub use error::BuildError;
use goals::{Goal, Hold, Step};
pub use mailbox::{Letter, Mailbox};
pub use main_loop::run;
use start::Start;

/// Exit status when the machine could not go on.
pub(crate) const EXIT_FAILURE: u8 = 1;

/// A virtual machine.
pub struct Machine {
    accelerator: Box<dyn Accelerator>,
    memory: GuestMemoryMmap,
    map: MemoryMap,
    start: Start,
    board: Board,
    mailbox: Arc<Mailbox>,
    disks: Disks,
    actions: Actions,
    /// What the machine is made of by now.
    spec: MachineSpec,
    state: RunState,
    goals: VecDeque<Goal>,
    step: Option<Step>,
    steps: u64,
    /// What keeps devices paused, newest last.
    holds: Vec<Hold>,
    /// How many media were opened for drives.
    media: u64,
    outcome: Option<u8>,
}

impl Machine {
    /// Whether its CPUs may run.
    fn is_running(&self) -> bool {
        self.state == RunState::Running
    }

    /// The exit status, once the machine has ended.
    #[must_use]
    pub fn outcome(&self) -> Option<u8> {
        self.outcome
    }

    fn devices(&self) -> Vec<Arc<dyn Device>> {
        self.board.devices()
    }

    fn tell(&self, event: Event) {
        self.mailbox.tell(event);
    }
}
