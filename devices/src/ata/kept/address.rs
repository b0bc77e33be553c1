//! The largest address that hosts reach: ACCESSIBLE MAX ADDRESS CONFIGURATION (ACS-3, 4.4 and 7.2),
//! and the host protected area of older drives (ATA-6, 6.21), which set the same.

use super::super::{
    cmd::{ABORTED, Refused},
    rare::Rare,
    spec::error,
};
use crate::state_file::{Fields, Section};

pub(in super::super) const SECTION: &str = "ata/max-address";
const VERSION: u16 = 1;

/// See the module.
pub(in super::super) struct MaxAddress {
    /// Sectors that can be reached, over a power loss; `None`: all.
    kept: Option<u64>,
    /// The same until the next one.
    now: Option<u64>,
    /// It was set since the last power-on, to be kept.
    set: bool,
    frozen: bool,
    /// The last command was READ NATIVE MAX ADDRESS.
    asked: bool,
}

impl MaxAddress {
    pub fn load(section: Option<&Section>) -> Self {
        let kept = section
            .filter(|section| section.version == VERSION)
            .and_then(|section| Fields::new(&section.bytes).u64().ok())
            .filter(|sectors| *sectors > 0);
        Self { kept, now: kept, set: false, frozen: false, asked: false }
    }

    pub fn section(&self) -> Section {
        Section { version: VERSION, bytes: self.kept.unwrap_or(0).to_le_bytes().to_vec() }
    }

    pub fn power_on(&mut self) {
        self.now = self.kept;
        (self.set, self.frozen, self.asked) = (false, false, false);
    }

    /// Nothing was asked for.
    pub fn forget_command(&mut self) {
        self.asked = false;
    }

    /// A command comes.
    pub fn note(&mut self, rare: Option<Rare>) {
        self.asked &= matches!(rare, Some(Rare::SetMax { .. }));
    }

    /// Sectors that can be reached, of those that there are.
    #[inline]
    pub fn limit(&self, native: u64) -> u64 {
        self.now.map_or(native, |now| now.min(native))
    }

    /// READ NATIVE MAX ADDRESS was answered.
    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// SET MAX ADDRESS. Returns whether it is to be kept.
    pub fn set_max(&mut self, lba: u64, keep: bool, native: u64) -> Result<bool, Refused> {
        if !std::mem::take(&mut self.asked) {
            return Err(ABORTED);
        }
        if lba >= native {
            return Err(Refused(error::IDNF));
        }
        if keep && self.set {
            // Once between two power-ons (ATA-6, 8.47.1).
            return Err(Refused(error::IDNF));
        }
        self.now = (lba + 1 < native).then_some(lba + 1);
        if keep {
            (self.kept, self.set) = (self.now, true);
        }
        Ok(keep)
    }

    /// SET ACCESSIBLE MAX ADDRESS EXT.
    pub fn set_accessible(&mut self, lba: u64, native: u64) -> Result<(), Refused> {
        if self.frozen || self.set {
            return Err(ABORTED);
        }
        if lba >= native {
            return Err(Refused(error::IDNF));
        }
        self.now = (lba + 1 < native).then_some(lba + 1);
        (self.kept, self.set) = (self.now, true);
        Ok(())
    }

    pub fn freeze(&mut self) {
        self.frozen = true;
    }
}
