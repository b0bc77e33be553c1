//! Blocks that Write Uncorrectable has made unreadable (NVM 3.2.7), until they are written.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use spindle_block::Range;

use crate::state_file::{Fields, Section};

/// The section of the state that has them.
pub const SECTION: &str = "nvme/uncorrectable";
const VERSION: u16 = 1;
/// Most separate ranges.
const RANGES_MAX: usize = 65_536;

/// See the module. Ranges are in bytes.
#[derive(Debug, Default)]
pub struct Marks {
    any: AtomicBool,
    /// End by start; neighbours are joined.
    ranges: Mutex<BTreeMap<u64, u64>>,
}

impl Marks {
    /// Those of a section, as far as they make sense.
    #[must_use]
    pub fn load(section: Option<&Section>) -> Self {
        let marks = Self::default();
        let Some(section) = section.filter(|section| section.version == VERSION) else {
            return marks;
        };
        let mut fields = Fields::new(&section.bytes);
        while let (Ok(offset), Ok(len)) = (fields.u64(), fields.u64()) {
            let range = Range::new(offset, len);
            if range.checked_end().is_none() || !marks.add(range) {
                break;
            }
        }
        marks
    }

    /// What [`Marks::load`] reads.
    #[must_use]
    pub fn section(&self) -> Section {
        let mut bytes = Vec::new();
        for (start, end) in &*self.lock() {
            bytes.extend(start.to_le_bytes());
            bytes.extend((end - start).to_le_bytes());
        }
        Section { version: VERSION, bytes }
    }

    /// Whether there are any. One load.
    #[inline]
    #[must_use]
    pub fn any(&self) -> bool {
        self.any.load(SeqCst)
    }

    /// Whether a range has a mark.
    #[must_use]
    pub fn overlap(&self, range: Range) -> bool {
        let ranges = self.lock();
        let before = ranges.range(..range.end()).next_back();
        range.len > 0 && before.is_some_and(|(_, end)| *end > range.offset)
    }

    /// Marks a range. Returns whether there was room for it.
    pub fn add(&self, range: Range) -> bool {
        let mut ranges = self.lock();
        if ranges.len() >= RANGES_MAX {
            return false;
        }
        let (mut start, mut end) = (range.offset, range.end());
        while let Some((s, e)) = ranges.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if e < start {
                break;
            }
            (start, end) = (start.min(s), end.max(e));
            ranges.remove(&s);
        }
        if start < end {
            ranges.insert(start, end);
        }
        self.any.store(!ranges.is_empty(), SeqCst);
        true
    }

    /// Takes marks from a range. Returns whether there were any.
    pub fn remove(&self, range: Range) -> bool {
        if range.len == 0 {
            return false;
        }
        let mut ranges = self.lock();
        let mut found = false;
        while let Some((s, e)) = ranges.range(..range.end()).next_back().map(|(s, e)| (*s, *e)) {
            if e <= range.offset {
                break;
            }
            found = true;
            ranges.remove(&s);
            if e > range.end() {
                ranges.insert(range.end(), e);
            }
            if s < range.offset {
                ranges.insert(s, range.offset);
                break;
            }
        }
        self.any.store(!ranges.is_empty(), SeqCst);
        found
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same as a bit for each byte.
        #[test]
        fn ranges_are_sets_of_bytes(
            steps in proptest::collection::vec((any::<bool>(), 0..64u64, 0..16u64), 1..40)
        ) {
            let marks = Marks::default();
            let mut model = [false; 80];
            for (add, offset, len) in steps {
                let range = Range::new(offset, len);
                let part = &mut model[offset as usize..(offset + len) as usize];
                if add {
                    prop_assert!(marks.add(range));
                    part.fill(true);
                } else {
                    prop_assert_eq!(marks.remove(range), part.contains(&true));
                    part.fill(false);
                }
                for at in 0..80u64 {
                    let one = Range::new(at, 1);
                    prop_assert_eq!(marks.overlap(one), model[at as usize], "byte {}", at);
                }
                prop_assert_eq!(marks.any(), model.contains(&true));
                let again = Marks::load(Some(&marks.section()));
                prop_assert_eq!(again.section(), marks.section());
            }
        }
    }
}
