//! Which host clusters are free, and taking them.
//!
//! Taking a cluster raises its refcount in memory, under one short lock. Three sources, in this
//! order: clusters freed in this session; free clusters that a scan of the refcounts finds below
//! the end that the file had when it was opened; and the *fresh* zone beyond, which grows in large
//! steps. Fresh clusters read as zeros, recycled ones do if they were punched; the rest must be
//! filled whole by whoever takes them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
};

use super::{
    host::Host,
    layout::Layout,
    refcount::{RefWrites, Refcounts},
    sync::{Semaphore, lock},
};
use crate::{BlockError, Cx, Range};

/// The file grows by at least so many bytes, and by a sixteenth of its length up to the maximum.
const GROW_MIN: u64 = 64 << 20;
const GROW_MAX: u64 = 1 << 30;
/// Refcounts are read in pieces of this many bytes where a scan goes over them.
const SCAN_BYTES: u64 = 64 << 10;

/// Host clusters that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First cluster.
    pub start: u64,
    /// Number of clusters.
    pub len: u64,
    /// They read as zeros.
    pub zeroed: bool,
}

/// How many references a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// None.
    Free,
    /// One.
    Once,
    /// Several.
    Shared,
}

enum Need {
    /// This refcount slice must be loaded.
    Load(u64),
    /// More free clusters must be found.
    More,
    /// A free cluster holds metadata.
    Corrupt,
}

#[derive(Debug)]
struct State {
    refs: Refcounts,
    /// Clusters whose refcount is 0 and that are not free yet: their space is being given back. A
    /// scan must not find them.
    leaving: HashSet<u64>,
    /// Free runs by first cluster: length, and whether they read as zeros.
    free: BTreeMap<u64, (u64, bool)>,
    /// Free clusters in `scan..scan_end` are not known yet (and not in `free`).
    scan: u64,
    scan_end: u64,
    /// Clusters from here to `file_end` have never been used.
    fresh: u64,
    file_end: u64,
    /// False for block devices: then fresh clusters hold anything.
    can_grow: bool,
    /// Clusters that hold metadata.
    metadata: HashSet<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Allocator {
    layout: Layout,
    state: Mutex<State>,
    /// Held while refcounts are loaded, the file grows, or blocks are added.
    slow: Semaphore,
}

impl Allocator {
    /// An allocator over a file of `file_bytes`.
    pub fn new(layout: Layout, refs: Refcounts, metadata: HashSet<u64>, file_bytes: u64) -> Self {
        let file_end = file_bytes.div_ceil(layout.cluster());
        let scan_end = refs.covered_end().min(file_end);
        let state = State {
            refs,
            leaving: HashSet::new(),
            free: BTreeMap::new(),
            scan: 0,
            scan_end,
            fresh: file_end,
            file_end,
            can_grow: true,
            metadata,
        };
        Self { layout, state: Mutex::new(state), slow: Semaphore::new(1) }
    }

    /// Whether a cluster is known to hold metadata.
    pub fn is_metadata(&self, clusters: impl Iterator<Item = u64>) -> bool {
        let state = lock(&self.state);
        clusters.into_iter().any(|c| state.metadata.contains(&c))
    }

    /// A run was taken to hold metadata.
    pub fn mark_metadata(&self, run: Run) {
        lock(&self.state).metadata.extend(run.start..run.start + run.len);
    }

    /// These clusters hold metadata.
    pub fn mark_clusters(&self, clusters: impl Iterator<Item = u64>) {
        lock(&self.state).metadata.extend(clusters);
    }

    /// How many references a cluster has.
    pub async fn held(&self, cx: &Cx, host: &Host, cluster: u64) -> Result<Held, BlockError> {
        loop {
            {
                let state = lock(&self.state);
                match state.refs.get(cluster) {
                    Some(0) => return Ok(Held::Free),
                    Some(1) => return Ok(Held::Once),
                    Some(_) => return Ok(Held::Shared),
                    None if !state.refs.covers(cluster) => return Ok(Held::Free),
                    None => {}
                }
            }
            let _slow = self.slow.take(1).await;
            let slice = lock(&self.state).refs.slice_of(cluster);
            self.load(cx, host, slice).await?;
        }
    }

    /// Where the used part of the file ends, if the file is longer than that for our own reasons.
    pub fn surplus(&self) -> Option<u64> {
        let state = lock(&self.state);
        (state.can_grow && state.fresh < state.file_end)
            .then(|| state.fresh << self.layout.cluster_bits)
    }

    /// The file was cut to its used part.
    pub fn trimmed(&self) {
        let mut state = lock(&self.state);
        state.file_end = state.fresh;
    }

    /// Takes at least one and at most `want` clusters in a row.
    pub async fn take(&self, cx: &Cx, host: &Host, want: u64) -> Result<Run, BlockError> {
        loop {
            // A statement of its own: the guard must not live across an await.
            let taken = lock(&self.state).try_take(self.layout, want);
            if let Ok(run) = taken {
                return Ok(run);
            }
            let _slow = self.slow.take(1).await;
            let taken = lock(&self.state).try_take(self.layout, want);
            match taken {
                Ok(run) => return Ok(run),
                Err(Need::Corrupt) => return Err(BlockError::Corrupt),
                Err(Need::Load(slice)) => self.load(cx, host, slice).await?,
                Err(Need::More) => self.find_more(cx, host, want).await?,
            }
        }
    }

    /// Takes exactly `len` fresh clusters in a row.
    pub async fn take_exact(&self, cx: &Cx, host: &Host, len: u64) -> Result<Run, BlockError> {
        let _slow = self.slow.take(1).await;
        loop {
            self.prepare_fresh(cx, host, len).await?;
            let taken = lock(&self.state).try_take_exact(len);
            match taken {
                Ok(run) => return Ok(run),
                Err(Need::Load(slice)) => self.load(cx, host, slice).await?,
                Err(Need::More) => {}
                Err(Need::Corrupt) => return Err(BlockError::Corrupt),
            }
        }
    }

    async fn find_more(&self, cx: &Cx, host: &Host, want: u64) -> Result<(), BlockError> {
        loop {
            let next = {
                let mut state = lock(&self.state);
                if state.scan >= state.scan_end {
                    break;
                }
                let at = state.scan;
                if state.refs.covers(at) {
                    let slice = state.refs.slice_of(at);
                    if state.refs.is_loaded(slice) {
                        if state.scan_slice(self.layout) {
                            return Ok(());
                        }
                        continue;
                    }
                    slice
                } else {
                    let per_block = self.layout.refs_per_block();
                    state.scan = (at / per_block + 1) * per_block;
                    continue;
                }
            };
            self.load(cx, host, next).await?;
        }
        // Small steps in tiny-cluster images would make many blocks; a request is never large.
        self.prepare_fresh(cx, host, want.min(64)).await
    }

    /// Loads a refcount slice and, cheaply, its neighbours. The caller holds `slow`.
    ///
    /// A neighbour that is in memory already is left alone, even when a write-back lets it go
    /// meanwhile: what was read of it may be older than what was written then. One that is not in
    /// memory cannot change before this is done, for only whoever holds `slow` brings it there.
    async fn load(&self, cx: &Cx, host: &Host, slice: u64) -> Result<(), BlockError> {
        let bytes_each = self.layout.slice_bytes();
        let per_block = self.layout.slices_per_table();
        let count = (SCAN_BYTES / bytes_each).clamp(1, per_block - slice % per_block);
        let (offset, absent) = {
            let refs = &lock(&self.state).refs;
            let absent: Vec<u64> =
                (slice..slice + count).filter(|number| !refs.is_loaded(*number)).collect();
            (refs.slice_offset(slice)?, absent)
        };
        let bytes = if offset == 0 {
            vec![0; bytes_each as usize]
        } else {
            host.read(cx, offset, (count * bytes_each) as usize).await?
        };
        let mut state = lock(&self.state);
        for (number, bytes) in (slice..).zip(bytes.chunks(bytes_each as usize)) {
            if absent.contains(&number) {
                state.refs.insert(number, bytes);
            }
        }
        Ok(())
    }

    /// Makes the next `len` fresh clusters usable: inside the file and counted by blocks. The
    /// caller holds `slow`.
    async fn prepare_fresh(&self, cx: &Cx, host: &Host, len: u64) -> Result<(), BlockError> {
        loop {
            let (fresh, file_end, can_grow) = {
                let state = lock(&self.state);
                (state.fresh, state.file_end, state.can_grow)
            };
            // One more for a block.
            if fresh + len + 1 > file_end {
                if !can_grow {
                    return Err(BlockError::NoSpace);
                }
                self.grow(cx, host, len + 1).await?;
                continue;
            }
            let per_block = self.layout.refs_per_block();
            let uncovered = {
                let state = lock(&self.state);
                let firsts = std::iter::once(fresh)
                    .chain((fresh / per_block + 1..).map(|b| b * per_block))
                    .take_while(|c| *c < fresh + len);
                firsts.into_iter().find(|c| !state.refs.covers(*c))
            };
            let Some(cluster) = uncovered else { return Ok(()) };
            self.add_block(cx, host, cluster).await?;
        }
    }

    /// Puts a refcount block for `cluster` on the next fresh cluster.
    async fn add_block(&self, cx: &Cx, host: &Host, cluster: u64) -> Result<(), BlockError> {
        let load = {
            let state = lock(&self.state);
            let slice = state.refs.slice_of(state.fresh);
            (state.refs.covers(state.fresh) && !state.refs.is_loaded(slice)).then_some(slice)
        };
        if let Some(slice) = load {
            self.load(cx, host, slice).await?;
        }
        let (block, zeroed) = {
            let mut state = lock(&self.state);
            let block = state.fresh;
            if state.refs.covers(block) && !state.refs.is_loaded(state.refs.slice_of(block)) {
                return Ok(());
            }
            state.fresh += 1;
            if state.refs.get(block).unwrap_or(0) != 0 {
                return Ok(());
            }
            (block, state.can_grow)
        };
        if !zeroed {
            let range = Range::new(block << self.layout.cluster_bits, self.layout.cluster());
            host.zero(cx, range, false).await?;
        }
        loop {
            {
                let mut state = lock(&self.state);
                let own = state.refs.slice_of(block);
                // A write-back may have let go of the slice that counts the block.
                if !state.refs.covers(block) || state.refs.is_loaded(own) {
                    state.refs.add_block(cluster, block)?;
                    state.refs.set(block, 1);
                    state.metadata.insert(block);
                    return Ok(());
                }
            }
            let own = lock(&self.state).refs.slice_of(block);
            self.load(cx, host, own).await?;
        }
    }

    async fn grow(&self, cx: &Cx, host: &Host, len: u64) -> Result<(), BlockError> {
        let bits = self.layout.cluster_bits;
        let (fresh, file_end) = {
            let state = lock(&self.state);
            (state.fresh, state.file_end)
        };
        let step = ((file_end << bits) / 16).clamp(GROW_MIN, GROW_MAX) >> bits;
        let wanted = fresh + len + step;
        let mut result = host.set_len(cx, wanted << bits).await;
        let mut end = wanted;
        if matches!(result, Err(BlockError::NoSpace)) {
            end = fresh + len;
            result = host.set_len(cx, end << bits).await;
        }
        let mut state = lock(&self.state);
        match result {
            Ok(()) => state.file_end = end,
            // A block device: use what lies behind the last refcount block.
            Err(BlockError::Unsupported | BlockError::Misaligned) => {
                state.can_grow = false;
                state.fresh = state.scan_end;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Raises the refcount of a cluster that is in use. `false` when it cannot rise any further.
    pub async fn raise(&self, cx: &Cx, host: &Host, cluster: u64) -> Result<bool, BlockError> {
        loop {
            {
                let mut state = lock(&self.state);
                match state.refs.get(cluster) {
                    Some(0) => return Err(BlockError::Corrupt),
                    Some(count) if count >= self.layout.refs.max() => return Ok(false),
                    Some(count) => return Ok(state.refs.set(cluster, count + 1)),
                    None if !state.refs.covers(cluster) => return Err(BlockError::Corrupt),
                    None => {}
                }
            }
            let _slow = self.slow.take(1).await;
            let slice = lock(&self.state).refs.slice_of(cluster);
            self.load(cx, host, slice).await?;
        }
    }

    /// Lowers the refcount of each cluster by one. Returns those that nobody uses any more; they
    /// are not free before [`Allocator::reuse`].
    pub async fn lower(
        &self,
        cx: &Cx,
        host: &Host,
        runs: &[(u64, u64)],
    ) -> Result<Vec<u64>, BlockError> {
        let mut freed = Vec::new();
        let mut result = Ok(());
        for cluster in runs.iter().flat_map(|&(start, len)| start..start + len) {
            match self.lower_one(cx, host, cluster).await {
                Ok(true) => freed.push(cluster),
                Ok(false) => {}
                Err(error) => result = Err(error),
            }
        }
        // What could not be lowered stays a leak; the rest is as good as before.
        if freed.is_empty() { result.map(|()| freed) } else { Ok(freed) }
    }

    async fn lower_one(&self, cx: &Cx, host: &Host, cluster: u64) -> Result<bool, BlockError> {
        loop {
            {
                let mut state = lock(&self.state);
                match state.refs.get(cluster) {
                    Some(0) => return Err(BlockError::Corrupt),
                    Some(count) => {
                        state.refs.set(cluster, count - 1);
                        if count == 1 {
                            state.leaving.insert(cluster);
                        }
                        return Ok(count == 1);
                    }
                    None if !state.refs.covers(cluster) => return Err(BlockError::Corrupt),
                    None => {}
                }
            }
            let _slow = self.slow.take(1).await;
            let slice = lock(&self.state).refs.slice_of(cluster);
            self.load(cx, host, slice).await?;
        }
    }

    /// These clusters, with refcount 0, may be taken again.
    pub fn reuse(&self, start: u64, len: u64, zeroed: bool) {
        let mut state = lock(&self.state);
        for cluster in start..start + len {
            state.metadata.remove(&cluster);
            state.leaving.remove(&cluster);
            // What the scan has not passed, the scan will find.
            if !(state.scan..state.scan_end).contains(&cluster) {
                state.add_free(cluster, 1, zeroed);
            }
        }
    }

    /// Gives back a run that nothing ever pointed to and that no request in flight can touch.
    pub async fn give_back(&self, cx: &Cx, host: &Host, run: Run) {
        match self.lower(cx, host, &[(run.start, run.len)]).await {
            Ok(freed) => freed.into_iter().for_each(|c| self.reuse(c, 1, false)),
            Err(error) => log::warn!("{} clusters leak: {error}", run.len),
        }
    }

    /// Calls `f` with the refcounts.
    pub fn with_refs<T>(&self, f: impl FnOnce(&mut Refcounts) -> T) -> T {
        f(&mut lock(&self.state).refs)
    }

    /// Takes the changed refcounts for writing back; `None` where the table must move first.
    pub fn begin_write(&self, chunk: u64) -> Result<Option<RefWrites>, BlockError> {
        lock(&self.state).refs.begin_write(chunk)
    }

    /// The write-back has ended.
    pub fn end_write(&self, writes: &RefWrites, durable: bool) {
        lock(&self.state).refs.end_write(writes, durable);
    }
}

impl State {
    fn try_take(&mut self, layout: Layout, want: u64) -> Result<Run, Need> {
        while let Some((&start, &(len, zeroed))) = self.free.first_key_value() {
            let slice = self.refs.slice_of(start);
            if !self.refs.is_loaded(slice) {
                return Err(Need::Load(slice));
            }
            let slice_end = (slice + 1) * layout.refs_per_slice();
            let n = want.min(len).min(slice_end - start);
            self.free.remove(&start);
            if n < len {
                self.free.insert(start + n, (len - n, zeroed));
            }
            if let Some(run) = self.claim(start, n, zeroed)? {
                return Ok(run);
            }
        }
        if self.scan < self.scan_end {
            return Err(Need::More);
        }
        loop {
            let start = self.fresh;
            if start >= self.file_end || !self.refs.covers(start) {
                return Err(Need::More);
            }
            let slice = self.refs.slice_of(start);
            if !self.refs.is_loaded(slice) {
                return Err(Need::Load(slice));
            }
            let slice_end = (slice + 1) * layout.refs_per_slice();
            let n = want.min(self.file_end - start).min(slice_end - start);
            self.fresh += n;
            if let Some(run) = self.claim(start, n, self.can_grow)? {
                return Ok(run);
            }
        }
    }

    /// Raises the refcounts of a run that should be free. `None` where it is not: then nobody gets
    /// it.
    fn claim(&mut self, start: u64, len: u64, zeroed: bool) -> Result<Option<Run>, Need> {
        let mut clusters = start..start + len;
        if clusters.clone().any(|c| self.metadata.contains(&c)) {
            return Err(Need::Corrupt);
        }
        if clusters.clone().any(|c| self.refs.get(c) != Some(0)) {
            return Ok(None);
        }
        clusters.all(|c| self.refs.set(c, 1));
        Ok(Some(Run { start, len, zeroed }))
    }

    fn try_take_exact(&mut self, len: u64) -> Result<Run, Need> {
        let start = self.fresh;
        if start + len > self.file_end {
            return Err(Need::More);
        }
        for cluster in start..start + len {
            match self.refs.get(cluster) {
                Some(0) => {}
                Some(_) => {
                    self.fresh = cluster + 1;
                    return Err(Need::More);
                }
                None if self.refs.covers(cluster) => {
                    return Err(Need::Load(self.refs.slice_of(cluster)));
                }
                None => return Err(Need::More),
            }
        }
        self.fresh += len;
        self.claim(start, len, self.can_grow)?.ok_or(Need::Corrupt)
    }

    /// Adds the free clusters of the slice at `scan`. Returns whether there were any.
    fn scan_slice(&mut self, layout: Layout) -> bool {
        let slice_end = (self.refs.slice_of(self.scan) + 1) * layout.refs_per_slice();
        let end = slice_end.min(self.scan_end);
        let mut found = false;
        for cluster in self.scan..end {
            let free = self.refs.get(cluster) == Some(0)
                && !self.metadata.contains(&cluster)
                && !self.leaving.contains(&cluster);
            if free {
                self.add_free(cluster, 1, false);
                found = true;
            }
        }
        self.scan = end;
        found
    }

    fn add_free(&mut self, start: u64, len: u64, zeroed: bool) {
        if let Some((&before, &(n, z))) = self.free.range(..start).next_back()
            && before + n == start
            && z == zeroed
        {
            self.free.insert(before, (n + len, z));
            return;
        }
        self.free.insert(start, (len, zeroed));
    }
}

#[cfg(test)]
mod tests;
