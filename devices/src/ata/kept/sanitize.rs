//! The Sanitize feature set (ACS-3, 4.18): everything is erased, whatever happens in between.
//!
//! The operation goes on beside commands, and over resets and power losses: how far it is, is kept.
//! Until it has succeeded the drive gives out no data.

use spindle_block::Range;

use super::super::{
    cmd::{ABORTED, Refused},
    job::Work,
    spec::sanitize,
};
use crate::state_file::{Fields, Section, Truncated};

pub(in super::super) const SECTION: &str = "ata/sanitize";
const VERSION: u16 = 2;

/// COUNT of a completed command (ACS-3, table 79).
mod count {
    pub const SUCCEEDED: u16 = 1 << 15;
    pub const IN_PROGRESS: u16 = 1 << 14;
    pub const FROZEN: u16 = 1 << 13;
    pub const ANTIFREEZE: u16 = 1 << 12;
}

/// COUNT of a command (ACS-3, 7.36).
mod option {
    /// Of SANITIZE STATUS: an operation that has failed is forgotten.
    pub const CLEAR_FAILED: u16 = 1 << 0;
    /// One that fails may be forgotten.
    pub const FAILURE_MODE: u16 = 1 << 4;
    /// Every other pass writes the complement.
    pub const INVERT: u16 = 1 << 7;
}

/// Bytes that a step erases, or overwrites.
const ERASE_STEP: u64 = 256 << 20;
const WRITE_STEP: u64 = 1 << 20;
/// How often progress is kept, in bytes.
const KEEP_EVERY: u64 = 256 << 20;

/// How the last operation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    None,
    Succeeded,
    Failed,
    InProgress,
}

/// See the module.
#[derive(Debug, Default)]
pub(in super::super) struct Sanitize {
    status: Status,
    /// FEATURE and COUNT of its command.
    feature: u16,
    options: u16,
    pattern: u32,
    /// Passes done, and bytes of the next.
    pass: u32,
    offset: u64,
    /// Bytes since progress was kept.
    unkept: u64,
    frozen: bool,
    antifreeze: bool,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Stepped {
    /// There is more.
    On,
    /// There is more, and progress is to be kept.
    Keep,
    /// It is over, well or not.
    Over,
}

impl Sanitize {
    pub fn load(section: Option<&Section>) -> Self {
        let mut sanitize = Self::default();
        if let Some(section) = section.filter(|section| section.version <= VERSION) {
            // An operation of which the rest is not known has failed.
            if sanitize.read(&section.bytes).is_err() && sanitize.is_active() {
                sanitize.status = Status::Failed;
            }
        }
        sanitize
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let mut fields = Fields::new(bytes);
        self.status = match fields.u8()? {
            0 => Status::None,
            1 => Status::Succeeded,
            3 => Status::InProgress,
            _ => Status::Failed,
        };
        (self.feature, self.options) = (fields.u16()?, fields.u16()?);
        (self.pattern, self.pass) = (fields.u32()?, fields.u32()?);
        self.offset = fields.u64()?;
        Ok(())
    }

    pub fn section(&self) -> Section {
        let mut bytes = vec![self.status as u8];
        bytes.extend(self.feature.to_le_bytes());
        bytes.extend(self.options.to_le_bytes());
        bytes.extend(self.pattern.to_le_bytes());
        bytes.extend(self.pass.to_le_bytes());
        bytes.extend(self.offset.to_le_bytes());
        Section { version: VERSION, bytes }
    }

    pub fn power_on(&mut self) {
        (self.frozen, self.antifreeze) = (false, false);
    }

    /// It has failed, or is under way: the drive gives out no data.
    pub fn is_shut(&self) -> bool {
        matches!(self.status, Status::Failed | Status::InProgress)
    }

    pub fn is_active(&self) -> bool {
        self.status == Status::InProgress
    }

    /// FREEZE LOCK. `false`: it is locked against that.
    pub fn freeze(&mut self) -> bool {
        self.frozen |= !self.antifreeze;
        self.frozen
    }

    /// ANTIFREEZE LOCK. `false`: it is frozen.
    pub fn antifreeze(&mut self) -> bool {
        self.antifreeze |= !self.frozen;
        self.antifreeze
    }

    /// SANITIZE STATUS with its option.
    pub fn ask(&mut self, options: u16) -> bool {
        let clears = options & option::CLEAR_FAILED != 0
            && self.status == Status::Failed
            && self.options & option::FAILURE_MODE != 0;
        if clears {
            self.status = Status::None;
        }
        clears
    }

    /// Begins, with a command that is right.
    pub fn begin(&mut self, feature: u16, options: u16, pattern: u32) -> Result<(), Refused> {
        let modeless = self.status == Status::Failed
            && self.options & option::FAILURE_MODE == 0
            && options & option::FAILURE_MODE != 0;
        // What could not be forgotten cannot be made so by another (ACS-3, 4.18.6).
        if self.frozen || self.is_active() || modeless {
            return Err(ABORTED);
        }
        self.status = Status::InProgress;
        (self.feature, self.options, self.pattern) = (feature, options, pattern);
        (self.pass, self.offset, self.unkept) = (0, 0, 0);
        Ok(())
    }

    fn passes(&self) -> u32 {
        match (self.feature, self.options & 0x0f) {
            (sanitize::OVERWRITE, 0) => 16,
            (sanitize::OVERWRITE, passes) => passes.into(),
            _ => 1,
        }
    }

    /// What comes next, of a medium of `size` bytes.
    pub fn next(&self, size: u64) -> Option<Work> {
        if !self.is_active() {
            return None;
        }
        if self.offset >= size || self.unkept >= KEEP_EVERY {
            return Some(Work::Flush);
        }
        let left = size - self.offset;
        if self.feature != sanitize::OVERWRITE {
            return Some(Work::Erase(Range::new(self.offset, left.min(ERASE_STEP))));
        }
        let odd = self.pass % 2 == 1 && self.options & option::INVERT != 0;
        let pattern = if odd { !self.pattern } else { self.pattern };
        Some(Work::Overwrite(Range::new(self.offset, left.min(WRITE_STEP)), pattern))
    }

    /// A step has ended; `bytes` of them were done, or everything was flushed.
    pub fn stepped(&mut self, bytes: Option<u64>, size: u64) -> Stepped {
        if let Some(bytes) = bytes {
            self.offset = self.offset.saturating_add(bytes);
            self.unkept = self.unkept.saturating_add(bytes);
            return Stepped::On;
        }
        self.unkept = 0;
        if self.offset >= size {
            (self.pass, self.offset) = (self.pass.saturating_add(1), 0);
        }
        if self.pass < self.passes() {
            return Stepped::Keep;
        }
        self.status = Status::Succeeded;
        Stepped::Over
    }

    /// A step has failed.
    pub fn fail(&mut self) {
        self.status = Status::Failed;
    }

    /// COUNT and LBA of a completed command, of a medium of `size` bytes.
    pub fn registers(&self, size: u64) -> (u16, u64) {
        let on = |set: bool, bit: u16| if set { bit } else { 0 };
        let count = on(self.status == Status::Succeeded, count::SUCCEEDED)
            | on(self.is_active(), count::IN_PROGRESS)
            | on(self.frozen, count::FROZEN)
            | on(self.antifreeze, count::ANTIFREEZE);
        if !self.is_active() {
            return (count, 0xffff);
        }
        let done = u128::from(size) * u128::from(self.pass) + u128::from(self.offset);
        let all = u128::from(size) * u128::from(self.passes());
        (count, (done * 0x1_0000 / all.max(1)).min(0xfffe) as u64)
    }
}
