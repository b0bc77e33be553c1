//! Internal snapshots: taken, gone back to, deleted, with every request drained.
//!
//! A snapshot is a copy of the L1 table; it shares L2 tables and clusters with the disk, whose
//! refcounts count both. The header names the snapshot table and the L1 table in one sector, which
//! a disk writes whole or not at all: that write is the moment at which a snapshot exists, is gone,
//! or the disk is the snapshot's. The order around it:
//!
//! 1. The metadata in memory is written back. Version 3: the dirty bit is durable, so that a crash
//!    anywhere below has the refcounts and flags put right when the image is opened again.
//! 2. Refcounts rise. **Sync.**
//! 3. What is shared from now on loses the flag that lets it be written in place; the new L1 table
//!    and the new snapshot table are written. **Sync.**
//! 4. The header. **Sync.**
//! 5. What is not named any more loses its references and is free; flags are set where only one
//!    reference is left. **Sync.** The dirty bit is cleared.
//!
//! Without the dirty bit (version 2) a crash leaves leaks, and flags that make a write copy what it
//! need not, or that are set where only a leaked reference contradicts them.

mod refs;
mod table;

use std::{collections::HashSet, sync::atomic::Ordering::SeqCst};

use refs::table_bytes;
pub use table::Snapshot;
pub(super) use table::{TABLE_MAX, read_snapshots};

use super::{
    Qcow2,
    alloc::Run,
    be,
    header::{field, incompatible},
    layout::{COPIED, L1_BYTES_MAX},
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx, Range};

/// What a new snapshot is to say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name: at most 65535 bytes.
    pub name: String,
    /// When it is taken: seconds since 1970.
    pub date_s: u64,
    /// And nanoseconds.
    pub date_ns: u32,
    /// The guest's clock, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Instructions that the guest has executed, where they are counted.
    pub icount: Option<u64>,
}

/// Why nothing was done to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// There is none with that identifier or name.
    #[error("there is no such snapshot")]
    Missing,
    /// The image has as many as it can have, or their table has no room.
    #[error("the image has too many snapshots")]
    TooMany,
    /// Some refcount cannot rise any further.
    #[error("the refcounts of the image are too narrow for another snapshot")]
    RefcountWidth,
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] BlockError),
}

/// A table of snapshots where it is in the file.
struct Stored {
    list: Vec<Snapshot>,
    offset: u64,
    bytes: u64,
}

impl Qcow2 {
    /// The snapshots of the image, in their order.
    ///
    /// # Errors
    /// When their table cannot be read.
    pub async fn snapshots(&self, cx: &Cx) -> Result<Vec<Snapshot>, BlockError> {
        Ok(self.stored_snapshots(cx).await?.list)
    }

    async fn stored_snapshots(&self, cx: &Cx) -> Result<Stored, BlockError> {
        let (count, offset) = self.header_field(|h| {
            (be::u32_at(h, field::SNAPSHOTS), be::u64_at(h, field::SNAPSHOTS_AT))
        });
        let (list, bytes) = table::read(cx, &self.host, count, offset).await?;
        Ok(Stored { list, offset, bytes })
    }

    /// Whether the image has snapshots.
    pub(super) fn has_snapshots(&self) -> bool {
        self.header_field(|h| be::u32_at(h, field::SNAPSHOTS)) > 0
    }

    /// Takes a snapshot of the disk as it is. Every request is drained. Returns its identifier.
    ///
    /// # Errors
    /// See [`SnapshotError`]; there is no new snapshot then.
    pub async fn create_snapshot(
        &self,
        cx: &Cx,
        new: NewSnapshot,
    ) -> Result<String, SnapshotError> {
        // What is in a data file cannot be in two places.
        if self.has_data_file() {
            return Err(BlockError::Unsupported.into());
        }
        let _alone = self.alone(cx).await?;
        let stored = self.stored_snapshots(cx).await?;
        if stored.list.len() >= table::SNAPSHOTS_MAX {
            return Err(SnapshotError::TooMany);
        }
        let l1: Vec<u64> = self.l1.entries().iter().map(|entry| entry & !COPIED).collect();
        let held = self.references_of(cx, &l1).await?;
        let marked = self.mark(cx).await?;
        let mut list = stored.list.clone();
        let l1_at = self.take_for(cx, l1.len() as u64 * 8).await?;
        let id = table::new_id(&list);
        list.push(Snapshot {
            id: id.clone(),
            name: new.name,
            date_s: new.date_s,
            date_ns: new.date_ns,
            vm_clock_ns: new.vm_clock_ns,
            vm_state_size: 0,
            icount: new.icount,
            disk_size: Some(self.size.load(SeqCst)),
            l1_offset: self.offset_of(l1_at),
            l1_size: l1.len() as u32,
            unknown: Vec::new(),
        });
        let (bytes, place) = match self.place_table(cx, &list).await {
            Ok(placed) => placed,
            Err(error) => {
                self.take_back(cx, [l1_at], marked).await?;
                return Err(error);
            }
        };
        if let Err(error) = self.raise_all(cx, &held).await {
            self.take_back(cx, [l1_at, place], marked).await?;
            return Err(error);
        }
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        // From here on an error leaves what was raised: a leak at most.
        if holds(Rule::SharedFlagsFirst) {
            self.clear_flags(cx, &l1).await?;
        }
        self.write_active(cx, &l1).await?;
        if holds(Rule::SnapshotTableFirst) {
            self.write_new(cx, l1_at, &table_bytes(&l1)).await?;
            self.write_new(cx, place, &bytes).await?;
        }
        self.host.sync(cx).await?;
        self.switch(cx, list.len(), place).await?;
        if !holds(Rule::SnapshotTableFirst) {
            self.write_new(cx, l1_at, &table_bytes(&l1)).await?;
            self.write_new(cx, place, &bytes).await?;
        }
        if !holds(Rule::SharedFlagsFirst) {
            self.clear_flags(cx, &l1).await?;
        }
        self.free_bytes(cx, stored.offset, stored.bytes).await;
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        self.unmark(cx, marked).await?;
        Ok(id)
    }

    /// Deletes the snapshot with this identifier, or else the first with this name. Every request is
    /// drained.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn delete_snapshot(&self, cx: &Cx, which: &str) -> Result<(), SnapshotError> {
        let _alone = self.alone(cx).await?;
        let stored = self.stored_snapshots(cx).await?;
        let index = table::find(&stored.list, which).ok_or(SnapshotError::Missing)?;
        let mut list = stored.list.clone();
        let gone = list.remove(index);
        let l1 = self.snapshot_l1(cx, &gone, &stored).await?;
        let held = self.references_of(cx, &l1).await?;
        let marked = self.mark(cx).await?;
        if !holds(Rule::SnapshotGoneFirst) {
            self.free(cx, &held).await;
            self.free_bytes(cx, gone.l1_offset, u64::from(gone.l1_size) * 8).await;
        }
        let (bytes, place) = self.place_table(cx, &list).await?;
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        self.write_new(cx, place, &bytes).await?;
        self.host.sync(cx).await?;
        self.switch(cx, list.len(), place).await?;
        if holds(Rule::SnapshotGoneFirst) {
            self.free(cx, &held).await;
            self.free_bytes(cx, gone.l1_offset, u64::from(gone.l1_size) * 8).await;
        }
        self.free_bytes(cx, stored.offset, stored.bytes).await;
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        let l1 = self.set_flags(cx, &self.l1.entries()).await?;
        self.write_active(cx, &l1).await?;
        self.host.sync(cx).await?;
        self.unmark(cx, marked).await?;
        Ok(())
    }

    /// Writes the snapshot table again, as this version of the format has it. Every request is drained.
    ///
    /// # Errors
    /// As for any write; the old table is there then, or the new one.
    pub(super) async fn rewrite_snapshots(&self, cx: &Cx) -> Result<(), BlockError> {
        let io = |error| match error {
            SnapshotError::Io(error) => error,
            _ => BlockError::NoSpace,
        };
        let _alone = self.alone(cx).await.map_err(io)?;
        let stored = self.stored_snapshots(cx).await?;
        let marked = self.mark(cx).await?;
        let (bytes, place) = self.place_table(cx, &stored.list).await.map_err(io)?;
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        self.write_new(cx, place, &bytes).await?;
        self.host.sync(cx).await?;
        self.switch(cx, stored.list.len(), place).await?;
        self.free_bytes(cx, stored.offset, stored.bytes).await;
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        self.unmark(cx, marked).await
    }

    /// Makes the disk what it was when a snapshot was taken: the one with this identifier, or else
    /// the first with this name. What the disk has now is lost. Every request is drained.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn apply_snapshot(&self, cx: &Cx, which: &str) -> Result<(), SnapshotError> {
        self.check_writable()?;
        if self.has_data_file() {
            return Err(BlockError::Unsupported.into());
        }
        // Anything may be different.
        self.record(cx, Range::new(0, self.size.load(SeqCst))).await?;
        let _alone = self.alone(cx).await?;
        let stored = self.stored_snapshots(cx).await?;
        let index = table::find(&stored.list, which).ok_or(SnapshotError::Missing)?;
        let chosen = &stored.list[index];
        let size = chosen.disk_size.unwrap_or_else(|| self.size.load(SeqCst));
        let mut l1: Vec<u64> = self.snapshot_l1(cx, chosen, &stored).await?;
        // They fit the disk only as it is.
        if size != self.size.load(SeqCst) && self.has_bitmaps(cx).await? {
            return Err(BlockError::Unsupported.into());
        }
        let needed = self.layout.l1_entries(size).ok_or(BlockError::Corrupt)?;
        if needed * self.layout.slices_per_table() > self.cache.slices_max() {
            return Err(BlockError::OutOfRange.into());
        }
        l1.resize(l1.len().max(needed as usize).max(1), 0);
        l1.iter_mut().for_each(|entry| *entry &= !COPIED);
        let held = self.references_of(cx, &l1).await?;
        let (old_at, old) = (self.l1.offset(), self.l1.entries());
        let old_held = self.references_of(cx, &old).await?;
        let marked = self.mark(cx).await?;
        let place = self.take_for(cx, l1.len() as u64 * 8).await?;
        if let Err(error) = self.raise_all(cx, &held).await {
            self.take_back(cx, [place], marked).await?;
            return Err(error);
        }
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        if holds(Rule::SharedFlagsFirst) {
            self.clear_flags(cx, &l1).await?;
        }
        self.write_new(cx, place, &table_bytes(&l1)).await?;
        if holds(Rule::SnapshotTableFirst) {
            self.host.sync(cx).await?;
        }
        let offset = self.offset_of(place);
        self.change_header(cx, |header| {
            be::put(header, field::SIZE, &size.to_be_bytes());
            be::put(header, field::L1_OFFSET, &offset.to_be_bytes());
            be::put(header, field::L1_SIZE, &(l1.len() as u32).to_be_bytes());
        })
        .await?;
        if holds(Rule::SnapshotGoneFirst) {
            self.host.sync(cx).await?;
        }
        let tables = self.tables_of(&l1)?;
        self.l1.replace(offset, l1);
        self.cache.forget();
        self.size.store(size, SeqCst);
        self.alloc.mark_clusters(tables.iter().map(|host| host >> self.layout.cluster_bits));
        self.free(cx, &old_held).await;
        self.free_bytes(cx, old_at, old.len() as u64 * 8).await;
        self.settle_refcounts(cx, Rule::SnapshotRefsFirst).await?;
        self.unmark(cx, marked).await?;
        Ok(())
    }

    /// Everything in memory is in the file, and nobody changes it meanwhile.
    async fn alone(&self, cx: &Cx) -> Result<impl Sized, SnapshotError> {
        self.check_writable()?;
        let resizes = self.tables.lock(u64::MAX, u64::MAX).await;
        self.abandon_tail(cx).await;
        self.flush(cx).await?;
        let order = self.order.take(1).await;
        self.cache.forget();
        // Tables that two entries share, or that lie in other metadata, must not be written.
        (0..self.l1.len()).try_for_each(|index| self.l1.table(index).map(drop))?;
        Ok((resizes, order))
    }

    /// Says in the file that refcounts and flags may be wrong. `true` where it did not say so before.
    pub(super) async fn mark(&self, cx: &Cx) -> Result<bool, BlockError> {
        let marks = self.layout.version >= 3 && !self.is_marked_dirty();
        if marks && holds(Rule::SnapshotDirtyBit) {
            self.set_incompatible(cx, incompatible::DIRTY, 0).await?;
        }
        Ok(marks)
    }

    /// They are right again, durably.
    pub(super) async fn unmark(&self, cx: &Cx, marked: bool) -> Result<(), BlockError> {
        if marked && self.is_marked_dirty() {
            self.write_all_refcounts(cx).await?;
            self.set_incompatible(cx, 0, incompatible::DIRTY).await?;
        }
        Ok(())
    }

    /// The L1 table of a snapshot, which a hostile table may place anywhere.
    async fn snapshot_l1(
        &self,
        cx: &Cx,
        one: &Snapshot,
        stored: &Stored,
    ) -> Result<Vec<u64>, BlockError> {
        let bytes = u64::from(one.l1_size) * 8;
        let end = one.l1_offset.checked_add(bytes).ok_or(BlockError::Corrupt)?;
        let file = self.host.node().info().size.next_multiple_of(512);
        if bytes > L1_BYTES_MAX || !self.layout.is_cluster_offset(one.l1_offset) || end > file {
            return Err(BlockError::Corrupt);
        }
        let l1 = be::table(&self.host.read(cx, one.l1_offset, bytes as usize).await?);
        let structure = self.structure(stored);
        let inside = |host: u64| structure.contains(&(host >> self.layout.cluster_bits));
        let sound = !self.tables_of(&l1)?.into_iter().any(inside);
        if sound { Ok(l1) } else { Err(BlockError::Corrupt) }
    }

    /// The clusters of everything that is neither an L2 table nor data.
    fn structure(&self, stored: &Stored) -> HashSet<u64> {
        let clusters = |at, bytes| self.layout.clusters_of(Range::new(at, bytes));
        let mut structure: HashSet<u64> = HashSet::from([0]);
        structure.extend(self.alloc.with_refs(|refs| refs.clusters()));
        structure.extend(clusters(self.l1.offset(), self.l1.len() * 8));
        structure.extend(clusters(stored.offset, stored.bytes));
        structure
    }

    /// Clusters in a row for so many bytes; none for no bytes.
    pub(super) async fn take_for(&self, cx: &Cx, bytes: u64) -> Result<Option<Run>, BlockError> {
        if bytes == 0 {
            return Ok(None);
        }
        let clusters = bytes.div_ceil(self.layout.cluster());
        let run = self.alloc.take_exact(cx, &self.host, clusters).await?;
        self.alloc.mark_metadata(run);
        Ok(Some(run))
    }

    fn offset_of(&self, place: Option<Run>) -> u64 {
        place.map_or(0, |run| run.start << self.layout.cluster_bits)
    }

    /// Nothing came of it.
    async fn take_back(
        &self,
        cx: &Cx,
        places: impl IntoIterator<Item = Option<Run>>,
        marked: bool,
    ) -> Result<(), BlockError> {
        for place in places.into_iter().flatten() {
            self.alloc.give_back(cx, &self.host, place).await;
        }
        self.unmark(cx, marked).await
    }

    /// The bytes of a snapshot table, and a place for them; none for no snapshots.
    async fn place_table(
        &self,
        cx: &Cx,
        list: &[Snapshot],
    ) -> Result<(Vec<u8>, Option<Run>), SnapshotError> {
        let bytes = table::to_bytes(list, self.size.load(SeqCst));
        if bytes.len() as u64 > TABLE_MAX {
            return Err(SnapshotError::TooMany);
        }
        let place = self.take_for(cx, bytes.len() as u64).await?;
        Ok((bytes, place))
    }

    /// Writes to new clusters, whole.
    async fn write_new(&self, cx: &Cx, place: Option<Run>, bytes: &[u8]) -> Result<(), BlockError> {
        let Some(place) = place else { return Ok(()) };
        let mut whole = bytes.to_vec();
        whole.resize((place.len << self.layout.cluster_bits) as usize, 0);
        self.host.write_bytes(cx, place.start << self.layout.cluster_bits, &whole).await
    }

    /// The header names another snapshot table, durably.
    async fn switch(&self, cx: &Cx, count: usize, place: Option<Run>) -> Result<(), BlockError> {
        let offset = self.offset_of(place);
        self.change_header(cx, |header| {
            be::put(header, field::SNAPSHOTS, &(count as u32).to_be_bytes());
            be::put(header, field::SNAPSHOTS_AT, &offset.to_be_bytes());
        })
        .await?;
        self.host.sync(cx).await
    }

    /// The active L1 table has other flags: in memory and, not yet durable, in the file.
    async fn write_active(&self, cx: &Cx, l1: &[u64]) -> Result<(), BlockError> {
        let offset = self.l1.offset();
        self.l1.replace(offset, l1.to_vec());
        self.cache.forget();
        if l1.is_empty() {
            Ok(())
        } else {
            self.host.write_bytes(cx, offset, &table_bytes(l1)).await
        }
    }

    /// Every refcount is in the file, durably.
    async fn settle_refcounts(&self, cx: &Cx, rule: Rule) -> Result<(), BlockError> {
        if holds(rule) { self.write_all_refcounts(cx).await } else { Ok(()) }
    }

    async fn free_bytes(&self, cx: &Cx, offset: u64, bytes: u64) {
        if bytes > 0 {
            let clusters = bytes.div_ceil(self.layout.cluster());
            self.free(cx, &[(offset >> self.layout.cluster_bits, clusters)]).await;
        }
    }
}
