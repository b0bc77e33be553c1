//! What a drive keeps beside its data: some of it over a power loss, in the disk's state.
//!
//! Sections of the state are read once, when the drive is built, and written whenever they change;
//! what is hostile in them is forgotten.

pub(super) mod address;
pub(super) mod host_logs;
pub(super) mod max_lock;
pub(super) mod microcode;
pub(super) mod power;
pub(super) mod sanitize;
pub(super) mod security;
pub(super) mod smart;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use address::MaxAddress;
use host_logs::HostLogs;
use max_lock::MaxLock;
use microcode::Microcode;
use power::{Mode, Power};
use sanitize::Sanitize;
use security::Security;
use smart::Smart;

use super::{
    Command, ResetKind,
    cmd::{ABORTED, Refused},
    identify::{Words, put_text},
    rare::Rare,
    spec::microcode as codes,
};
use crate::{
    nvme::marks::{self, Marks},
    state_file::{DiskState, Section},
};

/// The section of [`Kept::flagged`].
const FLAGGED: &str = "ata/flagged";

/// See the module.
pub(super) struct Kept {
    state: Option<Arc<DiskState>>,
    pub security: Security,
    pub smart: Smart,
    pub max: MaxAddress,
    pub max_lock: MaxLock,
    pub microcode: Microcode,
    pub host_logs: HostLogs,
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
            max_lock: MaxLock::default(),
            microcode: Microcode::load(get(microcode::SECTION).as_ref()),
            host_logs: HostLogs::load(get(host_logs::SECTION).as_ref()),
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

    pub fn save_microcode(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), microcode::SECTION, self.microcode.section())
    }

    pub fn save_host_logs(&self) -> Result<(), Refused> {
        put(self.state.as_ref(), host_logs::SECTION, self.host_logs.section())
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
        let power_on = kind == ResetKind::PowerOn;
        self.power.reset(power_on);
        self.smart.reset(matches!(kind, ResetKind::Hardware));
        self.max.forget_command();
        if power_on {
            self.max_lock = MaxLock::default();
            self.microcode.power_on();
        }
        if power_on || (kind == ResetKind::Hardware && !keep) {
            self.security.power_on();
            self.max.power_on();
            self.sanitize.power_on();
        }
    }

    /// Whether a command may be done as the drive is.
    pub fn admit(&mut self, command: &Command, now: Instant) -> Result<(), Refused> {
        let rare = if let Command::Rare(rare) = command { Some(*rare) } else { None };
        self.power.note(now, rare == Some(Rare::CheckPower));
        if self.power.mode == Mode::Sleep {
            return Err(ABORTED);
        }
        let moves = matches!(
            command,
            Command::Read { .. } | Command::Write { .. } | Command::Verify { .. } | Command::Flush
        ) || matches!(command, Command::Trim { .. } | Command::WriteBuffer { .. });
        if moves {
            self.power.mode = Mode::Active;
        }
        let changes = matches!(
            rare,
            Some(
                Rare::SetMax { .. }
                    | Rare::SetMaxLock { .. }
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
            Some(Rare::Sanitize { .. } | Rare::Smart { .. } | Rare::CheckPower | Rare::Idle { .. })
        );
        if self.sanitize.is_shut() && !harmless {
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
        // SET MAX security; DOWNLOAD MICROCODE, also in pieces.
        w[83] |= 1 << 8 | 1;
        w[86] |= on(self.max_lock.is_active(), 8) | 1;
        w[69] |= 1 << 8;
        (w[234], w[235]) = (1, codes::PIECE_MAX);
        if let Some(revision) = self.microcode.revision() {
            put_text(&mut w[23..27], &revision);
        }
        // SMART error log and self-test.
        w[84] |= 0b11;
        w[87] |= 0b11;
        // WRITE UNCORRECTABLE EXT, DOWNLOAD MICROCODE in pieces, accessible max address.
        w[119] |= 1 << 2 | 1 << 4 | 1 << 8;
        w[120] |= 1 << 2 | 1 << 4 | 1 << 8;
        // Sanitize, by block erase, overwrite and crypto scramble.
        w[59] |= 0b1111 << 12;
        self.security.describe(w);
    }
}
