//! The immutable map: who has which addresses.

use std::sync::Arc;

use spindle_devices::{Registers, Space};

/// Addresses without overlap that one target answers for.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) base: u64,
    /// The last address.
    pub(super) last: u64,
    pub(super) target: Arc<dyn Registers>,
    /// What the target calls `base`.
    pub(super) offset: u64,
}

/// Who has which addresses at one moment.
#[derive(Clone, Default)]
pub struct Map {
    memory: Vec<Entry>,
    ports: Vec<Entry>,
}

impl Map {
    /// A map of entries, which must be in rising order and not overlap.
    pub(super) fn new(memory: Vec<Entry>, ports: Vec<Entry>) -> Self {
        for entries in [&memory, &ports] {
            debug_assert!(
                entries.windows(2).all(|pair| pair[0].last < pair[1].base),
                "bus ranges overlap"
            );
        }
        Self { memory, ports }
    }

    fn entries(&self, space: Space) -> &[Entry] {
        match space {
            Space::Memory => &self.memory,
            Space::Port => &self.ports,
        }
    }

    /// Where in the map an address is.
    pub(super) fn find(&self, space: Space, address: u64) -> Option<usize> {
        let entries = self.entries(space);
        let after = entries.partition_point(|e| e.base <= address);
        let index = after.checked_sub(1)?;
        (address <= entries.get(index)?.last).then_some(index)
    }

    pub(super) fn entry(&self, space: Space, index: usize) -> Option<&Entry> {
        self.entries(space).get(index)
    }

    /// Number of ranges in an address space.
    #[must_use]
    pub fn len(&self, space: Space) -> usize {
        self.entries(space).len()
    }

    /// Whether nobody answers anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.ports.is_empty()
    }
}
