//! The L1 table. It is in memory as a whole (at most 32 MiB, as the header's check sees to) and is
//! only looked at when a slice is loaded, a table made, or metadata written back.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Mutex,
};

use super::{
    layout::{COPIED, Layout, OFFSET},
    sync::lock,
};
use crate::BlockError;

#[derive(Debug)]
struct State {
    entries: Vec<u64>,
    /// Where the table is in the file.
    offset: u64,
    /// Entries that changed since they were written, with what the file has.
    dirty: Dirty,
    /// Entries whose table another entry uses as well, or that point into other metadata.
    refused: HashSet<usize>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct L1 {
    layout: Layout,
    state: Mutex<State>,
}

/// Where the L2 table of a slice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Host offset, 0 where there is no table.
    pub host: u64,
    /// It may be written in place.
    pub owned: bool,
}

/// Changed entries by index, with what the file has there.
pub(super) type Dirty = BTreeMap<usize, u64>;

/// The part of the L1 table that a write-back writes: offset in the file and bytes.
pub(super) type L1Write = (u64, Vec<u8>);

impl L1 {
    pub fn new(layout: Layout, offset: u64, entries: Vec<u64>, refused: HashSet<usize>) -> Self {
        let state = State { entries, offset, dirty: Dirty::new(), refused };
        Self { layout, state: Mutex::new(state) }
    }

    /// The table of the L1 entry `index`; none beyond the end.
    pub fn table(&self, index: u64) -> Result<Table, BlockError> {
        let state = lock(&self.state);
        let Some(&entry) = state.entries.get(index as usize) else {
            return Ok(Table { host: 0, owned: false });
        };
        if state.refused.contains(&(index as usize)) {
            return Err(BlockError::Corrupt);
        }
        let host = self.layout.table_of(entry).map_err(|()| BlockError::Corrupt)?;
        Ok(Table { host, owned: host != 0 && entry & COPIED != 0 })
    }

    /// Points an entry to a table of our own.
    pub fn set(&self, index: u64, host: u64) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if let Some(entry) = state.entries.get_mut(index as usize) {
            let old = std::mem::replace(entry, (host & OFFSET) | COPIED);
            state.dirty.entry(index as usize).or_insert(old);
        }
    }

    /// All entries.
    pub fn entries(&self) -> Vec<u64> {
        lock(&self.state).entries.clone()
    }

    /// Where the table is in the file.
    pub fn offset(&self) -> u64 {
        lock(&self.state).offset
    }

    /// The file has these entries, at this place, and no entry waits to be written.
    pub fn replace(&self, offset: u64, entries: Vec<u64>) {
        let mut state = lock(&self.state);
        debug_assert!(state.dirty.is_empty(), "the L1 table is replaced while it is dirty");
        state.entries = entries;
        state.offset = offset;
        state.dirty.clear();
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        lock(&self.state).entries.len() as u64
    }

    /// The table as the file has it: entries that changed since show their old value, because the
    /// tables that they point to may not be durable. They are written at the new place later.
    pub fn durable_bytes(&self) -> Vec<u8> {
        let state = lock(&self.state);
        let durable =
            |(index, entry): (usize, &u64)| state.dirty.get(&index).copied().unwrap_or(*entry);
        state.entries.iter().enumerate().map(durable).flat_map(u64::to_be_bytes).collect()
    }

    /// The table is at `offset` from now on and has `len` entries. Returns where it was and how
    /// many it had.
    pub fn moved(&self, offset: u64, len: u64) -> (u64, u64) {
        let mut state = lock(&self.state);
        let old_len = state.entries.len() as u64;
        state.entries.resize(len.max(old_len) as usize, 0);
        (std::mem::replace(&mut state.offset, offset), old_len)
    }

    /// Takes the changed entries, as writes of whole `chunk`s (a power of two, at most a cluster).
    pub fn begin_write(&self, chunk: u64) -> (Dirty, Vec<L1Write>) {
        let mut state = lock(&self.state);
        let dirty = std::mem::take(&mut state.dirty);
        let chunks: BTreeSet<u64> = dirty.keys().map(|i| *i as u64 * 8 / chunk).collect();
        let mut writes = Vec::with_capacity(chunks.len());
        for number in chunks {
            let first = (number * chunk / 8) as usize;
            let last = (first + (chunk / 8) as usize).min(state.entries.len());
            let entries = &state.entries[first.min(last)..last];
            let mut bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            // What follows the table in its last cluster belongs to nobody.
            bytes.resize(chunk as usize, 0);
            writes.push((state.offset + number * chunk, bytes));
        }
        (dirty, writes)
    }

    /// Entries that could not be written after all.
    pub fn write_failed(&self, dirty: Dirty) {
        let mut state = lock(&self.state);
        for (index, old) in dirty {
            // What changed again meanwhile remembered a value that never reached the file.
            state.dirty.insert(index, old);
        }
    }
}
