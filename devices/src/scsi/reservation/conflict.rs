//! Who may do what beside a reservation (SPC-5, table 71; SBC-4, table 6).

use super::{
    super::{
        cmd::Command,
        exec::writes,
        unit::{Nexus, State},
    },
    Table, kind,
};

/// What a command does, as far as a reservation is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Always allowed, or decided by itself.
    Free,
    /// Conflicts with exclusive access.
    Read,
    /// Conflicts with every reservation.
    Write,
}

fn access(command: &Command) -> Access {
    match command {
        Command::ModeSelect { .. }
        | Command::Synchronize { .. }
        | Command::PreventAllow { prevent: true } => Access::Write,
        // Starting is harmless; stopping and ejecting is not.
        Command::StartStop { start: false, .. } | Command::StartStop { load_eject: true, .. } => {
            Access::Write
        }
        Command::Read { .. }
        | Command::Verify { .. }
        | Command::ModeSense { .. }
        | Command::GetLbaStatus { .. } => Access::Read,
        other if writes(other) => Access::Write,
        _ => Access::Free,
    }
}

impl Table {
    fn conflicts(&self, port: &str, access: Access) -> bool {
        let Some(reservation) = &self.reservation else { return false };
        let let_in = if kind::is_for_registrants(reservation.kind) {
            self.registration(port).is_some()
        } else {
            reservation.port == port
        };
        let exclusive = matches!(
            reservation.kind,
            kind::EXCLUSIVE_ACCESS
                | kind::EXCLUSIVE_ACCESS_REGISTRANTS
                | kind::EXCLUSIVE_ACCESS_ALL
        );
        match access {
            Access::Free => false,
            Access::Read => exclusive && !let_in,
            Access::Write => !let_in,
        }
    }
}

impl State {
    /// Whether the reservation keeps `nexus` from `command`.
    pub fn reservation_conflicts(&self, nexus: Nexus, command: &Command) -> bool {
        self.reservations.table.conflicts(&self.port(nexus), access(command))
    }
}
