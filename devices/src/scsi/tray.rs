//! The tray of a drive, and what is on it (MMC-6, 4.2.5 and 6.6).

use std::sync::Arc;

use spindle_block::Root;

use super::{
    sense::Sense,
    spec::asc,
    unit::{LogicalUnit, Nexus, UnitKind},
};
use crate::device::Countdown;

/// What GET EVENT STATUS NOTIFICATION tells of the medium (MMC-6, table 289).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MediaEvent {
    /// Nothing happened.
    #[default]
    None,
    /// Somebody wants the medium out.
    EjectRequest,
    /// A medium came.
    NewMedia,
    /// The medium is gone.
    Removal,
}

/// The tray.
#[derive(Default)]
pub(super) struct Tray {
    pub open: bool,
    /// Somebody is about to change what lies on it: the guest does not move it.
    held: bool,
    /// What lies on the open tray.
    holds: Option<Arc<Root>>,
    pub event: MediaEvent,
}

impl Tray {
    pub fn no_medium_code(&self) -> u16 {
        if self.open { asc::NO_MEDIUM_TRAY_OPEN } else { asc::NO_MEDIUM }
    }
}

/// A drive does not open its tray.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrayError {
    /// It is a disk.
    #[error("the device has no tray")]
    NoTray,
    /// The guest has locked it.
    #[error("the guest has locked the tray")]
    Locked,
    /// A medium can only be changed while the tray is open.
    #[error("the tray is closed")]
    Closed,
}

impl LogicalUnit {
    fn has_tray(&self) -> Result<(), TrayError> {
        if self.config.kind == UnitKind::Cd { Ok(()) } else { Err(TrayError::NoTray) }
    }

    /// Whether the tray is open.
    #[must_use]
    pub fn tray_open(&self) -> bool {
        self.lock().tray.open
    }

    /// Opens the tray, as a finger on the button does. A guest that has locked it is asked instead,
    /// unless `force` is set. `token` is let go of once nothing uses the medium any more.
    ///
    /// # Errors
    /// When it is locked, or there is no tray.
    pub fn open_tray(&self, force: bool, token: &Countdown) -> Result<(), TrayError> {
        self.has_tray()?;
        let asked = self.change(|state| {
            let locked = state.prevented() && !force;
            if locked && !state.tray.open {
                state.tray.event = MediaEvent::EjectRequest;
            }
            locked && !state.tray.open
        });
        if asked {
            self.announce(asc::OPERATOR_REMOVAL_REQUEST);
            return Err(TrayError::Locked);
        }
        self.move_tray(true, false, token);
        Ok(())
    }

    /// Closes the tray: what lies on it is the medium.
    ///
    /// # Errors
    /// When there is no tray.
    pub fn close_tray(&self) -> Result<(), TrayError> {
        self.has_tray()?;
        self.move_tray(false, false, &Countdown::new(Box::new(|| ())));
        Ok(())
    }

    /// While it is held, the guest neither closes nor opens the tray: LOEJ is answered, and nothing moves. A
    /// guest that looks for a medium would close it in the middle of a change.
    pub fn hold_tray(&self, on: bool) {
        self.change(|state| state.tray.held = on);
    }

    /// Puts something else, or nothing, on the open tray. Returns what lay there.
    ///
    /// # Errors
    /// When the tray is closed, or there is none.
    pub fn change_medium(&self, root: Option<Arc<Root>>) -> Result<Option<Arc<Root>>, TrayError> {
        self.has_tray()?;
        self.change(|state| {
            if !state.tray.open {
                return Err(TrayError::Closed);
            }
            Ok(std::mem::replace(&mut state.tray.holds, root))
        })
    }

    /// LOEJ of START STOP UNIT.
    pub(super) fn load_eject(&self, _by: Nexus, load: bool) -> Result<(), Sense> {
        if !load && self.lock().prevented() {
            return Err(Sense::illegal(asc::REMOVAL_PREVENTED));
        }
        self.move_tray(!load, true, &Countdown::new(Box::new(|| ())));
        Ok(())
    }

    fn move_tray(&self, open: bool, by_guest: bool, token: &Countdown) {
        let (moved, medium) = self.change(|state| {
            if state.tray.open == open || (by_guest && state.tray.held) {
                return (false, false);
            }
            state.tray.open = open;
            let medium = if open {
                state.tray.holds = state.root.take();
                state.tray.holds.is_some()
            } else {
                state.root = state.tray.holds.take();
                state.root.is_some()
            };
            state.stopped = false;
            if medium {
                state.tray.event = if open { MediaEvent::Removal } else { MediaEvent::NewMedia };
                if !open {
                    state.attention(asc::MEDIUM_CHANGED, |_, _| true);
                }
            }
            (true, medium)
        });
        if !moved {
            return;
        }
        self.medium_moved();
        for (nexus, initiator) in self.initiators() {
            initiator.refresh(nexus, token.clone());
            if medium {
                initiator.changed(nexus, asc::MEDIUM_CHANGED);
            }
        }
        if let Some(told) = &self.config.on_tray {
            told(open);
        }
    }
}
