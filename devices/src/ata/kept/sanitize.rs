//! The Sanitize feature set (ACS-3, 4.18): everything is erased, whatever happens in between.
//!
//! A block erase is done before its command completes, so that none is ever seen under way. One that
//! a power loss interrupted has failed: until another one succeeds, the drive gives out no data.

use crate::state_file::{Fields, Section};

pub(in super::super) const SECTION: &str = "ata/sanitize";
const VERSION: u16 = 1;

/// COUNT of a completed command (ACS-3, table 79).
mod count {
    pub const SUCCEEDED: u16 = 1 << 15;
    pub const FROZEN: u16 = 1 << 13;
    pub const ANTIFREEZE: u16 = 1 << 12;
}

/// How the last operation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    None,
    Succeeded,
    Failed,
}

/// See the module.
#[derive(Default)]
pub(in super::super) struct Sanitize {
    last: Last,
    frozen: bool,
    antifreeze: bool,
}

impl Sanitize {
    pub fn load(section: Option<&Section>) -> Self {
        let last = section
            .filter(|section| section.version == VERSION)
            .and_then(|section| Fields::new(&section.bytes).u8().ok());
        let last = match last {
            None | Some(0) => Last::None,
            Some(1) => Last::Succeeded,
            Some(_) => Last::Failed,
        };
        Self { last, ..Self::default() }
    }

    pub fn section(&self) -> Section {
        Section { version: VERSION, bytes: vec![self.last as u8] }
    }

    pub fn power_on(&mut self) {
        (self.frozen, self.antifreeze) = (false, false);
    }

    pub fn has_failed(&self) -> bool {
        self.last == Last::Failed
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
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

    /// Begins: until [`Sanitize::end`] it counts as failed.
    pub fn begin(&mut self) {
        self.last = Last::Failed;
    }

    pub fn end(&mut self) {
        self.last = Last::Succeeded;
    }

    /// COUNT and LBA of a completed command: nothing is under way.
    pub fn registers(&self) -> (u16, u64) {
        let on = |set: bool, bit: u16| if set { bit } else { 0 };
        let count = on(self.last == Last::Succeeded, count::SUCCEEDED)
            | on(self.frozen, count::FROZEN)
            | on(self.antifreeze, count::ANTIFREEZE);
        (count, 0xffff)
    }
}
