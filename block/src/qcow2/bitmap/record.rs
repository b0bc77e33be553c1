//! Recording: what is about to change is dirty, durably, before it changes.
//!
//! A bitmap in memory has the bits that are durable, and only those. Whoever writes to the disk asks
//! first whether its range is covered (a few loads, no lock); if not, the missing bits are written
//! to the file and synced, and then set in memory. So the stored bitmap is at any moment a superset
//! of what has changed, after a crash too, and need not be marked as in use.
//!
//! Those that record at the same time share a write and a sync.

use std::sync::Mutex;

use super::{
    super::{
        Qcow2,
        layout::OFFSET,
        mutation::{Rule, holds},
        sync::{Semaphore, lock},
    },
    Active,
};
use crate::{BlockError, Cx, Range};

/// Bits are written in pieces of this many bytes: what a disk writes whole.
const PIECE: u64 = 512;

/// Who records.
#[derive(Debug)]
pub(in super::super) struct Recorder {
    turn: Semaphore,
    /// Ranges of those that wait for their turn.
    waiting: Mutex<Vec<Range>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), waiting: Mutex::default() }
    }
}

impl Qcow2 {
    /// Whether a write to `range` needs no recording. Takes no lock.
    pub(in super::super) fn is_recorded(&self, range: Range) -> bool {
        let active = self.bitmaps.active();
        active.is_empty() || active.iter().all(|one| one.bits.covers(range))
    }

    /// Makes the bits of `range` durable in every bitmap that records.
    pub(in super::super) async fn record(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        if self.is_recorded(range) || !holds(Rule::BitmapBeforeData) {
            return Ok(());
        }
        lock(&self.bitmaps.recorder.waiting).push(range);
        let _turn = self.bitmaps.recorder.turn.take(1).await;
        if self.is_recorded(range) {
            // Whoever had the turn before has done it.
            return Ok(());
        }
        let mut ranges = std::mem::take(&mut *lock(&self.bitmaps.recorder.waiting));
        // A turn that failed took it along.
        ranges.push(range);
        let mut news: Vec<(&Active, Vec<u64>)> = Vec::new();
        for one in self.bitmaps.active() {
            let mut bits: Vec<u64> =
                ranges.iter().flat_map(|range| one.bits.clean_bits(*range)).collect();
            bits.sort_unstable();
            bits.dedup();
            if !bits.is_empty() {
                self.write_bits(cx, one, &bits).await?;
                news.push((one, bits));
            }
        }
        self.host.sync(cx).await?;
        for (one, bits) in news {
            bits.into_iter().for_each(|bit| one.bits.set(bit));
        }
        Ok(())
    }

    async fn write_bits(&self, cx: &Cx, one: &Active, bits: &[u64]) -> Result<(), BlockError> {
        let per_cluster = self.layout.cluster() * 8;
        for group in bits.chunk_by(|a, b| a / per_cluster == b / per_cluster) {
            let index = group[0] / per_cluster;
            let entry = lock(&one.table).get(index as usize).copied().unwrap_or(0);
            match entry & OFFSET {
                0 => self.make_cluster(cx, one, index, group).await?,
                host => self.add_bits(cx, one, (host, index), group).await?,
            }
        }
        Ok(())
    }

    /// Writes the pieces of a cluster that have new bits.
    async fn add_bits(
        &self,
        cx: &Cx,
        one: &Active,
        (host, index): (u64, u64),
        bits: &[u64],
    ) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        for group in bits.chunk_by(|a, b| a / (PIECE * 8) == b / (PIECE * 8)) {
            let at = group[0] / 8 / PIECE * PIECE;
            let mut bytes = one.bits.stored(at, PIECE as usize);
            for bit in group {
                bytes[(bit / 8 - at) as usize] |= 1 << (bit % 8);
            }
            self.host.write_bytes(cx, host + at - index * cluster, &bytes).await?;
        }
        Ok(())
    }

    /// A cluster for bits that were all clean. Order: its refcount and its bits are durable before
    /// the table names it.
    async fn make_cluster(
        &self,
        cx: &Cx,
        one: &Active,
        index: u64,
        bits: &[u64],
    ) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        let Some(place) = self.take_for(cx, cluster).await? else { return Ok(()) };
        let host = place.start << self.layout.cluster_bits;
        let at = index * cluster;
        let mut bytes = vec![0; cluster as usize];
        for bit in bits {
            bytes[(bit / 8 - at) as usize] |= 1 << (bit % 8);
        }
        let written = self.host.write_bytes(cx, host, &bytes).await;
        // The write-back has its refcount, and ends with a sync.
        self.cache.note_change();
        if holds(Rule::BitmapRefsFirst) {
            written.and(self.flush(cx).await)?;
        }
        let entry_at = one.table_at + index * 8;
        self.host.write_bytes(cx, entry_at, &host.to_be_bytes()).await?;
        if let Some(entry) = lock(&one.table).get_mut(index as usize) {
            *entry = host;
        }
        Ok(())
    }
}
