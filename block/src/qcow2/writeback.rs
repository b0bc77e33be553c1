//! Write-back: metadata reaches the file here, and only here, in this order.
//!
//! 1. Copies are taken: first of the L2 slices, then of the L1 entries, then of the refcounts. A
//!    refcount rises before the entry that needs it is published, so the later copy has seen it.
//! 2. Refcount blocks are written. **Sync**, of a data file too: the data that the copied entries
//!    point to, and the refcounts, are durable. (With lazy refcounts the dirty bit is made durable instead.)
//! 3. If there are new refcount blocks, the refcount table; if the table has outgrown its place, a
//!    new table, sync, and the header's pointer to it. **Sync.**
//! 4. L2 slices, and the L1 entries of new L2 tables, in any order: a table was whole, and the file
//!    long enough for it, before its L1 entry was copied, so the sync of step 2 covers them.
//! 5. **Sync.** Now the changes are durable, and what they freed may leave the limbo.
//!
//! A crash between any two of these leaves clusters with refcounts that nobody points to: leaks.
//! Refcounts are lowered in memory only after step 5 of the write-back that removed the reference,
//! so no copy of step 1 can hold a refcount that is lower than what the file's tables need.
//!
//! Write-backs of one image do not overlap. Flushes that arrive while one runs share the next.

use std::{
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use super::{
    Qcow2, be,
    cache::DirtySlice,
    header::{field, incompatible},
    join::{self, Work},
    l1::{self, L1Write},
    mutation::{Rule, holds, interrupted},
    refcount::{Piece, RefWrites},
    sync::{lock, remember},
};
use crate::{BlockError, Cx, Range};

/// Writes of metadata in flight at once, and the longest of them in bytes.
const WIDTH: usize = 32;
const JOINED_MAX: usize = 256 << 10;

type Outcome = Arc<Mutex<Option<Result<(), BlockError>>>>;

/// Flushes that share write-backs.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    state: Mutex<FlushState>,
}

#[derive(Debug, Default)]
struct FlushState {
    running: bool,
    /// The outcome of the write-back that has not begun.
    next: Outcome,
    waiting: Vec<Waker>,
}

/// Whoever runs a write-back for all that wait for it.
struct Leader<'a> {
    flushes: &'a Flushes,
    outcome: Outcome,
    result: Result<(), BlockError>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        *lock(&self.outcome) = Some(self.result);
        let waiting = {
            let mut state = lock(&self.flushes.state);
            state.running = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

enum Turn<'a> {
    Lead(Leader<'a>),
    Shared(Result<(), BlockError>),
}

impl Flushes {
    /// Waits for the outcome of a write-back that begins after this call, or for the turn to run it.
    async fn turn(&self) -> Turn<'_> {
        let mine = Arc::clone(&lock(&self.state).next);
        std::future::poll_fn(|task| {
            if let Some(result) = *lock(&mine) {
                return Poll::Ready(Turn::Shared(result));
            }
            let mut state = lock(&self.state);
            if state.running {
                remember(&mut state.waiting, task.waker());
                return Poll::Pending;
            }
            state.running = true;
            let outcome = std::mem::take(&mut state.next);
            // Given up halfway: those who wait must hear of it.
            let result = Err(BlockError::Aborted);
            Poll::Ready(Turn::Lead(Leader { flushes: self, outcome, result }))
        })
        .await
    }
}

/// Everything that one write-back writes. Dropped before it is durable, it is all dirty again.
struct Snapshot<'a> {
    image: &'a Qcow2,
    slices: Vec<DirtySlice>,
    l1: l1::Dirty,
    l1_writes: Vec<L1Write>,
    refs: RefWrites,
    durable: bool,
}

impl<'a> Snapshot<'a> {
    /// Step 1. With `refcounts`, they too. `None` when the refcount table has outgrown its place.
    fn take(image: &'a Qcow2, refcounts: bool) -> Result<Option<Self>, BlockError> {
        let chunk = image.host.align().clamp(512, image.layout.cluster());
        let refs = || {
            if refcounts { image.alloc.begin_write(chunk) } else { Ok(Some(RefWrites::default())) }
        };
        let early = if holds(Rule::SnapshotOrder) { None } else { refs()? };
        interrupted();
        let slices = image.cache.begin_write();
        let (l1, l1_writes) = image.l1.begin_write(chunk);
        interrupted();
        let mut snapshot =
            Self { image, slices, l1, l1_writes, refs: RefWrites::default(), durable: false };
        let late = if early.is_some() { early } else { refs()? };
        let Some(refs) = late else { return Ok(None) };
        snapshot.refs = refs;
        Ok(Some(snapshot))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let slots: Vec<u32> = self.slices.iter().map(|s| s.slot).collect();
        self.image.cache.end_write(&slots, self.durable);
        self.image.alloc.end_write(&self.refs, self.durable);
        if !self.durable {
            self.image.l1.write_failed(std::mem::take(&mut self.l1));
        }
    }
}

impl Qcow2 {
    /// Makes every write that has completed durable, with its mapping.
    pub(super) async fn flush(&self, cx: &Cx) -> Result<(), BlockError> {
        match self.flushes.turn().await {
            Turn::Shared(result) => result,
            Turn::Lead(mut leader) => {
                let _order = self.order.take(1).await;
                leader.result = self.write_back(cx).await;
                leader.result
            }
        }
    }

    /// The whole of a write-back. The caller holds `order`.
    pub(super) async fn write_back(&self, cx: &Cx) -> Result<(), BlockError> {
        self.limbo.settle(self.cache.settled(), &self.pins);
        self.reap(cx).await;
        if self.cache.is_settled() {
            self.data.sync(cx).await?;
            return self.sync_at(cx, Rule::FlushSyncs).await;
        }
        let refcounts = !self.lazy_refcounts && holds(Rule::RefcountsBeforeL2);
        let (target, mut snapshot) = loop {
            let target = self.cache.changes();
            if let Some(snapshot) = Snapshot::take(self, refcounts)? {
                break (target, snapshot);
            }
            self.move_table(cx).await?;
        };
        self.write_snapshot(cx, &snapshot).await?;
        snapshot.durable = true;
        drop(snapshot);
        self.cache.settle(target);
        self.limbo.settle(target, &self.pins);
        self.reap(cx).await;
        Ok(())
    }

    async fn write_snapshot(&self, cx: &Cx, snapshot: &Snapshot<'_>) -> Result<(), BlockError> {
        if self.lazy_refcounts && !self.is_marked_dirty() && holds(Rule::DirtyBitFirst) {
            self.set_incompatible(cx, incompatible::DIRTY, 0).await?;
        }
        self.sync_data(cx).await?;
        self.write_refcounts(cx, &snapshot.refs).await?;
        let mut pieces = self.located(&snapshot.slices)?;
        pieces.extend(snapshot.l1_writes.iter().cloned());
        self.write_pieces(cx, &pieces).await?;
        self.sync_at(cx, Rule::FlushSyncs).await
    }

    /// Steps 2 and 3, with the sync that step 4 needs.
    pub(super) async fn write_refcounts(
        &self,
        cx: &Cx,
        refs: &RefWrites,
    ) -> Result<(), BlockError> {
        self.write_pieces(cx, &refs.blocks).await?;
        if !refs.table_pieces.is_empty() {
            self.sync_at(cx, Rule::SyncBeforeReftable).await?;
            self.write_pieces(cx, &refs.table_pieces).await?;
        }
        self.sync_at(cx, Rule::SyncBeforeL2).await
    }

    /// Where dirty slices belong in the file.
    fn located(&self, slices: &[DirtySlice]) -> Result<Vec<Piece>, BlockError> {
        let place = |dirty: &DirtySlice| {
            let table = self.l1.table(self.layout.l1_of_slice(dirty.slice))?;
            debug_assert!(table.owned, "a dirty slice of a table that is not ours");
            if !table.owned {
                return Err(BlockError::Corrupt);
            }
            let at = table.host + self.layout.slice_in_table(dirty.slice);
            Ok((at, dirty.bytes.clone()))
        };
        slices.iter().map(place).collect()
    }

    async fn sync_at(&self, cx: &Cx, rule: Rule) -> Result<(), BlockError> {
        if holds(rule) { self.host.sync(cx).await } else { Ok(()) }
    }

    /// Writes pieces, neighbours joined, several at once.
    async fn write_pieces(&self, cx: &Cx, pieces: &[Piece]) -> Result<(), BlockError> {
        let mut sorted: Vec<&Piece> = pieces.iter().collect();
        sorted.sort_unstable_by_key(|(offset, _)| *offset);
        let mut joined: Vec<Piece> = Vec::new();
        for (offset, bytes) in sorted {
            match joined.last_mut() {
                Some((start, run))
                    if *start + run.len() as u64 == *offset && run.len() < JOINED_MAX =>
                {
                    run.extend_from_slice(bytes);
                }
                _ => joined.push((*offset, bytes.clone())),
            }
        }
        let work = joined.iter().map(|(offset, bytes)| -> Work<'_> {
            Box::pin(self.host.write_bytes(cx, *offset, bytes))
        });
        join::all(work, WIDTH).await
    }

    /// Gives the refcount table a larger place when it has outgrown its own. Nothing is pending
    /// on the old place: table entries are only written by write-backs.
    pub(super) async fn move_table(&self, cx: &Cx) -> Result<(), BlockError> {
        while let Some(clusters) = self.alloc.with_refs(|refs| refs.outgrown()) {
            let run = self.alloc.take_exact(cx, &self.host, clusters).await?;
            let offset = run.start << self.layout.cluster_bits;
            // Taking it may have made the table longer still; there is slack for that.
            let Some(refs) = self.alloc.with_refs(|r| r.begin_move(offset, clusters))? else {
                self.alloc.give_back(cx, &self.host, run).await;
                continue;
            };
            let written = self.write_moved_table(cx, &refs, offset, clusters).await;
            if let Err(error) = written {
                // The header may name the new place or the old one: both stay allocated, and
                // nothing is written before another move succeeds.
                self.alloc.end_write(&refs, false);
                return Err(error);
            }
            self.alloc.mark_metadata(run);
            self.alloc.end_write(&refs, true);
            let (old, old_clusters) = self.alloc.with_refs(|r| r.moved(offset, clusters));
            self.free(cx, &[(old >> self.layout.cluster_bits, old_clusters)]).await;
        }
        Ok(())
    }

    /// All blocks, the new ones too, are durable before the table that names them, and the table
    /// before the header that names it.
    async fn write_moved_table(
        &self,
        cx: &Cx,
        refs: &RefWrites,
        offset: u64,
        clusters: u64,
    ) -> Result<(), BlockError> {
        self.write_refcounts(cx, refs).await?;
        let count = u32::try_from(clusters).map_err(|_| BlockError::NoSpace)?;
        self.change_header(cx, |bytes| {
            be::put(bytes, field::REFTABLE_OFFSET, &offset.to_be_bytes());
            be::put(bytes, field::REFTABLE_CLUSTERS, &count.to_be_bytes());
        })
        .await?;
        self.host.sync(cx).await
    }

    /// Frees what the limbo lets go.
    pub(super) async fn reap(&self, cx: &Cx) {
        let ready = self.limbo.take_ready(&self.pins);
        if !ready.is_empty() {
            self.free(cx, &ready).await;
        }
    }

    /// Lowers refcounts, gives space back to the file system, and then makes clusters free.
    pub(super) async fn free(&self, cx: &Cx, runs: &[(u64, u64)]) {
        let mut freed = match self.alloc.lower(cx, &self.host, runs).await {
            Ok(freed) => freed,
            Err(error) => {
                log::warn!("freed clusters leak: {error}");
                return;
            }
        };
        freed.sort_unstable();
        let bits = self.layout.cluster_bits;
        for run in freed.chunk_by(|a, b| a + 1 == *b) {
            let (start, len) = (run[0], run.len() as u64);
            let bytes = Range::new(start << bits, len << bits);
            let zeroed = self.host.punch(cx, bytes).await;
            self.alloc.reuse(start, len, zeroed);
        }
    }
}
