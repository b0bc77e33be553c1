//! Refcounts in memory: the table as a whole, the blocks in slices of at most 4 KiB. Pure state,
//! changed under the allocator's lock.

use std::collections::{BTreeSet, HashMap};

use super::layout::{Layout, REFTABLE_BYTES_MAX};
use crate::BlockError;

/// Slices kept after a write-back; more are dropped while they are clean (512 bytes to 4 KiB each).
pub(super) const KEPT_SLICES: usize = 1024;

#[derive(Debug)]
struct RefSlice {
    /// As in the file.
    bytes: Box<[u8]>,
    dirty: bool,
}

/// A piece of metadata to be written: offset in the file and bytes.
pub(super) type Piece = (u64, Vec<u8>);

/// See the module.
#[derive(Debug)]
pub(super) struct Refcounts {
    layout: Layout,
    table: Vec<u64>,
    table_offset: u64,
    table_clusters: u64,
    table_dirty: BTreeSet<usize>,
    slices: HashMap<u64, RefSlice>,
}

/// What a write-back took: to be put back if it fails.
#[derive(Debug, Default)]
pub(super) struct RefWrites {
    slices: Vec<u64>,
    /// Changed parts of blocks.
    pub blocks: Vec<Piece>,
    table: BTreeSet<usize>,
    /// Changed parts of the table, to be written when the blocks are durable.
    pub table_pieces: Vec<Piece>,
}

impl Refcounts {
    pub fn new(layout: Layout, table: Vec<u64>, offset: u64, clusters: u64) -> Self {
        Self {
            layout,
            table,
            table_offset: offset,
            table_clusters: clusters,
            table_dirty: BTreeSet::new(),
            slices: HashMap::new(),
        }
    }

    /// The slice that counts a cluster.
    pub fn slice_of(&self, cluster: u64) -> u64 {
        cluster / self.layout.refs_per_slice()
    }

    /// The host offset of a slice; 0 where there is no block.
    pub fn slice_offset(&self, slice: u64) -> Result<u64, BlockError> {
        let per_block = self.layout.slices_per_table();
        let entry = self.table.get((slice / per_block) as usize).copied().unwrap_or(0);
        let block = self.layout.block_of(entry).map_err(|()| BlockError::Corrupt)?;
        if block == 0 {
            return Ok(0);
        }
        Ok(block + (slice % per_block) * self.layout.slice_bytes())
    }

    /// Whether a block counts this cluster.
    pub fn covers(&self, cluster: u64) -> bool {
        let block = (cluster / self.layout.refs_per_block()) as usize;
        self.table.get(block).is_some_and(|e| *e != 0)
    }

    /// The first cluster beyond all blocks.
    pub fn covered_end(&self) -> u64 {
        let used = self.table.iter().rposition(|e| *e != 0).map_or(0, |last| last as u64 + 1);
        used * self.layout.refs_per_block()
    }

    /// The clusters that hold the table and the blocks.
    pub fn clusters(&self) -> Vec<u64> {
        let bits = self.layout.cluster_bits;
        let table = self.table_offset >> bits;
        let blocks = self.table.iter().filter(|e| **e != 0).map(|e| e >> bits);
        (table..table + self.table_clusters).chain(blocks).collect()
    }

    pub fn is_loaded(&self, slice: u64) -> bool {
        self.slices.contains_key(&slice)
    }

    /// Puts a slice that was read from the file.
    pub fn insert(&mut self, slice: u64, bytes: &[u8]) {
        let mut whole = vec![0; self.layout.slice_bytes() as usize].into_boxed_slice();
        let len = bytes.len().min(whole.len());
        whole[..len].copy_from_slice(&bytes[..len]);
        self.slices.entry(slice).or_insert(RefSlice { bytes: whole, dirty: false });
    }

    /// The count of a cluster, if its slice is loaded.
    pub fn get(&self, cluster: u64) -> Option<u64> {
        let slice = self.slices.get(&self.slice_of(cluster))?;
        Some(self.layout.refs.get(&slice.bytes, cluster % self.layout.refs_per_slice()))
    }

    /// Sets the count of a cluster. Returns `false` when its slice is not loaded.
    pub fn set(&mut self, cluster: u64, count: u64) -> bool {
        let number = self.slice_of(cluster);
        let at = cluster % self.layout.refs_per_slice();
        let Some(slice) = self.slices.get_mut(&number) else { return false };
        self.layout.refs.put(&mut slice.bytes, at, count);
        slice.dirty = true;
        true
    }

    /// Adds a block, all zeros in the file, that counts `cluster`. What counts the block itself is in
    /// memory, unless it is this block.
    pub fn add_block(&mut self, cluster: u64, block: u64) -> Result<(), BlockError> {
        let index = (cluster / self.layout.refs_per_block()) as usize;
        if index as u64 * 8 >= REFTABLE_BYTES_MAX {
            return Err(BlockError::NoSpace);
        }
        if self.table.len() <= index {
            self.table.resize(index + 1, 0);
        }
        self.table[index] = block << self.layout.cluster_bits;
        self.table_dirty.insert(index);
        let own = self.slice_of(block);
        if !self.is_loaded(own) {
            self.insert(own, &[]);
        }
        Ok(())
    }

    /// Clusters that the table needs in the file, when it has outgrown its place there.
    pub fn outgrown(&self) -> Option<u64> {
        let bytes = self.table.len() as u64 * 8;
        let cluster = self.layout.cluster();
        if bytes <= self.table_clusters * cluster {
            return None;
        }
        let limit = REFTABLE_BYTES_MAX.max(bytes) / cluster;
        Some((bytes + bytes / 2).div_ceil(cluster).min(limit.max(bytes.div_ceil(cluster))))
    }

    /// Takes everything for a move of the table to a place of so many clusters: what has changed in
    /// the blocks, and the whole table. `None` where that place is too small by now.
    pub fn begin_move(
        &mut self,
        offset: u64,
        clusters: u64,
    ) -> Result<Option<RefWrites>, BlockError> {
        let place = clusters << self.layout.cluster_bits;
        if self.table.len() as u64 * 8 > place {
            return Ok(None);
        }
        let mut writes = RefWrites::default();
        self.take_blocks(&mut writes)?;
        writes.table = std::mem::take(&mut self.table_dirty);
        let mut bytes: Vec<u8> = self.table.iter().flat_map(|e| e.to_be_bytes()).collect();
        bytes.resize(place as usize, 0);
        writes.table_pieces.push((offset, bytes));
        Ok(Some(writes))
    }

    /// The table has moved. Returns where it was: offset and clusters.
    pub fn moved(&mut self, offset: u64, clusters: u64) -> (u64, u64) {
        let old = (self.table_offset, self.table_clusters);
        self.table_offset = offset;
        self.table_clusters = clusters;
        old
    }

    fn take_blocks(&mut self, writes: &mut RefWrites) -> Result<(), BlockError> {
        let dirty: Vec<u64> =
            self.slices.iter().filter(|(_, s)| s.dirty).map(|(number, _)| *number).collect();
        for number in dirty {
            let offset = self.slice_offset(number)?;
            let Some(slice) = self.slices.get_mut(&number) else { continue };
            slice.dirty = false;
            writes.slices.push(number);
            writes.blocks.push((offset, slice.bytes.to_vec()));
        }
        Ok(())
    }

    /// Takes what has changed. `chunk`: the unit of writes to the table. `None` where the table has
    /// outgrown its place.
    pub fn begin_write(&mut self, chunk: u64) -> Result<Option<RefWrites>, BlockError> {
        if self.outgrown().is_some() {
            return Ok(None);
        }
        let mut writes = RefWrites::default();
        self.take_blocks(&mut writes)?;
        let table = std::mem::take(&mut self.table_dirty);
        let chunks: BTreeSet<u64> = table.iter().map(|i| *i as u64 * 8 / chunk).collect();
        for number in chunks {
            let first = (number * chunk / 8) as usize;
            let last = (first + (chunk / 8) as usize).min(self.table.len());
            let entries = &self.table[first.min(last)..last];
            let mut bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            bytes.resize(chunk as usize, 0);
            writes.table_pieces.push((self.table_offset + number * chunk, bytes));
        }
        writes.table = table;
        Ok(Some(writes))
    }

    /// The write-back has ended.
    pub fn end_write(&mut self, writes: &RefWrites, durable: bool) {
        if !durable {
            for number in &writes.slices {
                if let Some(slice) = self.slices.get_mut(number) {
                    slice.dirty = true;
                }
            }
            self.table_dirty.extend(&writes.table);
            return;
        }
        if self.slices.len() > KEPT_SLICES {
            self.slices.retain(|_, slice| slice.dirty);
        }
    }
}
