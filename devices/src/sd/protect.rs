//! Write protection of groups (SD 4.3.6, eMMC 6.6.26).

use std::collections::BTreeMap;

use spindle_block::Range;

use crate::state_file::{Fields, Truncated};

/// How long a group stays protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Until the host clears it.
    Temporary = 1,
    /// Until power is off.
    PowerOn = 2,
    /// For ever.
    Permanent = 3,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Temporary, Self::PowerOn, Self::Permanent].into_iter().find(|k| *k as u8 == byte)
    }
}

/// The protected groups of the data area, of which there are few.
#[derive(Clone, Debug, Default)]
pub(super) struct Protect {
    /// Bytes of a group; 0: this card has no groups.
    pub group: u64,
    groups: BTreeMap<u32, Kind>,
}

impl Protect {
    pub fn new(group: u64) -> Self {
        Self { group, groups: BTreeMap::new() }
    }

    fn index(&self, offset: u64) -> u32 {
        offset.checked_div(self.group).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    /// Protects the group at this offset of the data area; what is stronger stays.
    pub fn set(&mut self, offset: u64, kind: Kind) {
        let index = self.index(offset);
        let there = self.groups.get(&index).copied();
        if there.is_none_or(|there| (there as u8) < kind as u8) {
            self.groups.insert(index, kind);
        }
    }

    /// Takes a temporary protection away. Returns whether nothing else protects the group.
    pub fn clear(&mut self, offset: u64) -> bool {
        let index = self.index(offset);
        if self.groups.get(&index) == Some(&Kind::Temporary) {
            self.groups.remove(&index);
        }
        !self.groups.contains_key(&index)
    }

    /// The kinds of `count` groups from the one at this offset on, 0 for none.
    pub fn kinds(&self, offset: u64, count: u32) -> impl Iterator<Item = u8> {
        let first = self.index(offset);
        (0..count).map(move |i| {
            let index = first.saturating_add(i);
            self.groups.get(&index).map_or(0, |kind| *kind as u8)
        })
    }

    /// How many bytes from the start of `range` are not protected.
    pub fn open(&self, range: Range) -> u64 {
        if self.groups.is_empty() || range.len == 0 {
            return range.len;
        }
        let first = self.index(range.offset);
        let last = self.index(range.offset.saturating_add(range.len - 1));
        match self.groups.range(first..=last).next() {
            None => range.len,
            Some((group, _)) => {
                (u64::from(*group) * self.group).saturating_sub(range.offset).min(range.len)
            }
        }
    }

    /// The next group after `offset` that is not protected begins here.
    pub fn skip(&self, offset: u64) -> u64 {
        let mut index = self.index(offset);
        while self.groups.contains_key(&index) {
            index = index.saturating_add(1);
        }
        (u64::from(index) * self.group).max(offset)
    }

    /// Power was off.
    pub fn power_on(&mut self) {
        self.groups.retain(|_, kind| *kind != Kind::PowerOn);
    }

    /// Nothing temporary is protected any more: forced erase.
    pub fn clear_temporary(&mut self) {
        self.groups.retain(|_, kind| *kind == Kind::Permanent);
    }

    /// Whether any group is protected for ever.
    pub fn has_permanent(&self) -> bool {
        self.groups.values().any(|kind| *kind == Kind::Permanent)
    }

    /// What survives power loss.
    pub fn save(&self, out: &mut Vec<u8>) {
        let lasting: Vec<_> = self.groups.iter().filter(|(_, k)| **k != Kind::PowerOn).collect();
        out.extend((lasting.len() as u32).to_le_bytes());
        for (index, kind) in lasting {
            out.extend(index.to_le_bytes());
            out.push(*kind as u8);
        }
    }

    pub fn load(&mut self, fields: &mut Fields<'_>) -> Result<(), Truncated> {
        self.groups.clear();
        for _ in 0..fields.u32()? {
            let (index, kind) = (fields.u32()?, fields.u8()?);
            if let Some(kind) = Kind::of(kind).filter(|_| self.group > 0) {
                self.groups.insert(index, kind);
            }
        }
        Ok(())
    }
}
