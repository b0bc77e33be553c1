//! What a drive keeps beside its data: some of it over a power loss, in the disk's state.
//!
//! Sections of the state are read once, when the drive is built, and written whenever they change;
//! what is hostile in them is forgotten.

pub(super) mod address;
pub(super) mod sanitize;
pub(super) mod security;
pub(super) mod smart;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use address::MaxAddress;
use sanitize::Sanitize;
use security::Security;
use smart::Smart;

use super::{
    Command, ResetKind,
    cmd::{ABORTED, Refused},
    identify::Words,
    rare::Rare,
};
use crate::{
    nvme::marks::{self, Marks},
    state_file::{DiskState, Section},
};

/// The section of [`Kept::flagged`].
const FLAGGED: &str = "ata/flagged";

/// What a drive does while nobody wants anything (ACS-3, 4.15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Power {
    #[default]
    Active,
    Idle,
    Standby,
    /// Only a reset wakes it.
    Sleep,
}

/// See the module.
pub(super) struct Kept {
    state: Option<Arc<DiskState>>,
    pub security: Security,
    pub smart: Smart,
    pub max: MaxAddress,
    pub sanitize: Sanitize,
    /// What cannot be read until it is written; errors are logged.
    pub marks: Marks,
    /// The same, without.
    pub flagged: Marks,
    pub power: Power,
}

/// A section that can be written.
pub(super) fn put(
    state: Option<&Arc<DiskState>>,
    name: &str,
    section: Section,
) -> Result<(), Refused> {
    let Some(state) = state else { return Ok(()) };
    let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
    let slot = Arc::clone(&failed);
    state.put(
        name,
        section,
        Box::new(move |result| {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
        }),
    );
    let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    match error {
        None => Ok(()),
        Some(error) => {
            log::warn!("cannot keep {name}: {error}");
            Err(ABORTED)
        }
    }
}

impl Kept {
    pub fn new(state: Option<Arc<DiskState>>) -> Self {
        let get = |name| state.as_ref().and_then(|state| state.get(name));
        let mut smart = Smart::load(get(smart::SECTION).as_ref());
        smart.power_on();
        let kept = Self {
            security: Security::load(get(security::SECTION).as_ref()),
            max: MaxAddress::load(get(address::SECTION).as_ref()),
            sanitize: Sanitize::load(get(sanitize::SECTION).as_ref()),
            marks: Marks::load(get(marks::SECTION).as_ref()),
            flagged: Marks::load(get(FLAGGED).as_ref()),
            power: Power::default(),
            smart,
            state,
        };
        // A disk that nothing was ever kept of has nothing to keep yet.
        if kept.state.as_ref().is_some_and(|state| state.get(smart::SECTION).is_some()) {
            kept.save_smart().ok();
        }
        kept
    }

    pub fn save_security(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), security::SECTION, self.security.section())
    }

    pub fn save_smart(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), smart::SECTION, self.smart.section())
    }

    pub fn save_max(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), address::SECTION, self.max.section())
    }

    pub fn save_sanitize(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), sanitize::SECTION, self.sanitize.section())
    }

    pub fn save_marks(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), marks::SECTION, self.marks.section())?;
        put(self.state.as_ref(), FLAGGED, self.flagged.section())
    }

    /// A reset; `keep`: the host has asked that settings survive it.
    pub fn reset(&mut self, kind: ResetKind, keep: bool) {
        self.power = Power::Active;
        self.smart.aborted_by_reset();
        self.max.forget_command();
        if matches!(kind, ResetKind::PowerOn) || (kind == ResetKind::Hardware && !keep) {
            self.security.power_on();
            self.max.power_on();
            self.sanitize.power_on();
        }
    }

    /// Whether a command may be done as the drive is.
    pub fn admit(&mut self, command: &Command) -> Result<(), Refused> {
        let rare = if let Command::Rare(rare) = command { Some(*rare) } else { None };
        if self.power == Power::Sleep {
            return Err(ABORTED);
        }
        let moves = matches!(
            command,
            Command::Read { .. } | Command::Write { .. } | Command::Verify { .. } | Command::Flush
        ) || matches!(command, Command::Trim { .. } | Command::WriteBuffer { .. });
        if moves {
            self.power = Power::Active;
        }
        let changes = matches!(
            rare,
            Some(
                Rare::SetMax { .. }
                    | Rare::MaxAddress { .. }
                    | Rare::Sanitize { .. }
                    | Rare::WriteUncorrectable { .. }
            )
        );
        if self.security.locked() && (moves || changes) {
            return Err(ABORTED);
        }
        let harmless = matches!(
            command,
            Command::Identify | Command::ReadLog { .. } | Command::SetFeatures { .. }
        ) || matches!(
            rare,
            Some(Rare::Sanitize { .. } | Rare::Smart { .. } | Rare::CheckPower | Rare::Idle)
        );
        if self.sanitize.has_failed() && !harmless {
            return Err(ABORTED);
        }
        self.security.note(rare);
        self.max.note(rare);
        Ok(())
    }

    /// What IDENTIFY DEVICE data say of it (ACS-3, 7.12.7).
    pub fn describe(&self, w: &mut Words) {
        let on = |set: bool, bit: u32| u16::from(set) << bit;
        // SMART, security, power management, host protected area.
        w[82] |= 1 | 1 << 1 | 1 << 3 | 1 << 10;
        w[85] |= on(self.smart.enabled(), 0) | on(self.security.enabled(), 1) | 1 << 3 | 1 << 10;
        // SMART error log and self-test.
        w[84] |= 0b11;
        w[87] |= 0b11;
        // WRITE UNCORRECTABLE EXT, accessible max address.
        w[119] |= 1 << 2 | 1 << 8;
        w[120] |= 1 << 2 | 1 << 8;
        // Sanitize, by block erase.
        w[59] |= 1 << 12 | 1 << 15;
        self.security.describe(w);
    }
}
