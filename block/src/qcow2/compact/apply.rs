//! Moving: copies, refcounts and pointers, in the order that a crash cannot harm.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        be,
        check::Walk,
        header::Header,
        host::Host,
        layout::{Entry, ZERO},
    },
    CompactError, Progress, Rule, Unit, holds, io,
    units::Pointer,
};
use crate::{BlockError, Cx};

/// Bytes that are copied at once.
const PIECE: u64 = 1 << 20;
/// Words are changed by the sector: a disk writes it whole.
const SECTOR: u64 = 512;
/// Entries that lose their place together.
const BATCH: usize = 4096;

/// Changes an image whose refcounts are known.
pub(super) struct Editor<'a> {
    cx: &'a Cx,
    host: &'a Host,
    walk: Walk,
    /// No free cluster is below this.
    next: u64,
    /// Refcount blocks that have changed in memory, by number.
    dirty: BTreeSet<usize>,
}

impl<'a> Editor<'a> {
    pub fn new(cx: &'a Cx, host: &'a Host, walk: Walk) -> Self {
        Self { cx, host, walk, next: 0, dirty: BTreeSet::new() }
    }

    fn covered(&self, cluster: u64) -> bool {
        let block = cluster / self.walk.layout.refs_per_block();
        self.walk.reftable.get(block as usize).is_some_and(|entry| *entry != 0)
    }

    fn is_free(&self, cluster: u64) -> bool {
        let count = self.walk.stored.get(cluster as usize);
        count == Some(&0) && self.walk.references(cluster as usize) == 0 && self.covered(cluster)
    }

    /// Takes the first `len` free clusters in a row that lie before `before`.
    pub fn hole(&mut self, len: u64, before: u64) -> Option<u64> {
        while self.next < before && !self.is_free(self.next) {
            self.next += 1;
        }
        let mut start = self.next;
        let mut at = start;
        while at < before {
            if !self.is_free(at) {
                start = at + 1;
            } else if at + 1 - start == len {
                // Nobody else takes them: they are counted when the batch is applied.
                for cluster in start..=at {
                    self.walk.counted[cluster as usize] = 1;
                }
                return Some(start);
            }
            at += 1;
        }
        None
    }

    fn set_count(&mut self, cluster: u64, count: u32) {
        self.walk.stored[cluster as usize] = count;
        self.dirty.insert((cluster / self.walk.layout.refs_per_block()) as usize);
    }

    /// Writes the refcount blocks that have changed.
    async fn write_counts(&mut self) -> Result<(), CompactError> {
        let layout = self.walk.layout;
        let per_block = layout.refs_per_block();
        for index in std::mem::take(&mut self.dirty) {
            let Some(at) = self.walk.reftable.get(index).copied().filter(|at| *at != 0) else {
                continue;
            };
            let reading = io("reading a refcount block");
            let len = layout.cluster() as usize;
            let mut bytes = self.host.read(self.cx, at, len).await.map_err(reading)?;
            let first = index as u64 * per_block;
            let stored = self.walk.stored.iter().skip(first as usize).take(per_block as usize);
            for (n, count) in (0..).zip(stored) {
                // A count beyond 32 bits was never read whole, and is never changed.
                if *count != u32::MAX {
                    layout.refs.put(&mut bytes, n, u64::from(*count).min(layout.refs.max()));
                }
            }
            let written = self.host.write_bytes(self.cx, at, &bytes).await;
            written.map_err(io("writing a refcount block"))?;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), CompactError> {
        self.host.sync(self.cx).await.map_err(io("making a step durable"))
    }

    async fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), BlockError> {
        let end = self.host.node().info().size;
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(PIECE);
            // The last cluster may be cut short by the file's end; the rest reads as zeros.
            let have = end.saturating_sub(from + at).min(len);
            let mut piece = self.host.read(self.cx, from + at, have as usize).await?;
            piece.resize(len as usize, 0);
            self.host.write_bytes(self.cx, to + at, &piece).await?;
            at += len;
        }
        Ok(())
    }

    /// Moves units to the places that [`Editor::hole`] gave.
    pub async fn apply(&mut self, batch: &[(Unit, u64)]) -> Result<(), CompactError> {
        if batch.is_empty() {
            return Ok(());
        }
        let layout = self.walk.layout;
        let bits = layout.cluster_bits;
        for (unit, to) in batch {
            for n in 0..unit.len {
                let count = self.walk.stored[(unit.start + n) as usize];
                self.set_count(to + n, count);
            }
        }
        // Before the copies: one of them may be a refcount block that has just changed.
        self.write_counts().await?;
        for (unit, to) in batch {
            let copied = self.copy(unit.start << bits, to << bits, unit.len << bits).await;
            copied.map_err(io("copying a cluster"))?;
        }
        if holds(Rule::CopyFirst) {
            self.sync().await?;
        }
        let mut words = BTreeMap::new();
        for (unit, to) in batch {
            for Pointer { at, mask } in &unit.pointers {
                words.insert(*at, (*mask, *to << bits));
            }
            self.follow(unit, *to);
        }
        self.write_words(&words).await?;
        if holds(Rule::PointersFirst) {
            self.sync().await?;
        }
        for (unit, _) in batch {
            for cluster in unit.start..unit.start + unit.len {
                self.set_count(cluster, 0);
                self.walk.counted[cluster as usize] = 0;
                self.walk.structure[cluster as usize] = 0;
            }
        }
        self.write_counts().await
    }

    /// A refcount block is elsewhere from now on.
    fn follow(&mut self, unit: &Unit, to: u64) {
        let bits = self.walk.layout.cluster_bits;
        for entry in self.walk.reftable.iter_mut().filter(|e| **e == unit.start << bits) {
            *entry = to << bits;
        }
    }

    /// Changes words of the file: by offset, the bits that change and what they become.
    async fn write_words(&self, words: &BTreeMap<u64, (u64, u64)>) -> Result<(), CompactError> {
        let mut rest = words.iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let start = **first / SECTOR * SECTOR;
            let read = self.host.read(self.cx, start, SECTOR as usize).await;
            let mut sector = read.map_err(io("reading a table"))?;
            while let Some((at, (mask, value))) = rest.next_if(|(at, _)| **at < start + SECTOR) {
                let within = (at - start) as usize;
                let word = be::u64_at(&sector, within) & !mask | value & mask;
                be::put(&mut sector, within, &word.to_be_bytes());
            }
            let written = self.host.write_bytes(self.cx, start, &sector).await;
            written.map_err(io("writing a table"))?;
        }
        Ok(())
    }

    /// Frees refcount blocks that count nothing, of the end of the file. Returns the number of
    /// clusters that the file needs then.
    pub async fn drop_empty_blocks(mut self, header: &Header) -> Result<u64, CompactError> {
        let per_block = self.walk.layout.refs_per_block();
        let clusters = self.walk.stored.len() as u64;
        let mut words = BTreeMap::new();
        let mut freed = Vec::new();
        for (index, entry) in self.walk.reftable.iter().enumerate().skip(1) {
            let first = index as u64 * per_block;
            let own = entry >> self.walk.layout.cluster_bits;
            let counts = first.min(clusters)..(first + per_block).min(clusters);
            // A block may count itself: then it counts nothing else.
            let empty = counts.clone().all(|c| c == own || self.walk.stored[c as usize] == 0);
            if *entry != 0 && empty && own < clusters {
                words.insert(header.reftable_offset + index as u64 * 8, (u64::MAX, 0));
                freed.push((index, own));
            }
        }
        if !freed.is_empty() {
            self.write_words(&words).await?;
            self.sync().await?;
            for (index, own) in freed {
                self.walk.reftable[index] = 0;
                self.walk.counted[own as usize] = 0;
                self.walk.structure[own as usize] = 0;
                self.set_count(own, 0);
            }
            self.write_counts().await?;
            self.sync().await?;
        }
        let used = |c: &u64| self.walk.references(*c as usize) > 0;
        Ok((0..clusters).rev().find(used).map_or(0, |c| c + 1))
    }

    /// Entries lose their place: where each word is, what it becomes, and the cluster.
    async fn forget(&mut self, entries: &[(u64, u64, u64)]) -> Result<(), CompactError> {
        let words = entries.iter().map(|(at, new, _)| (*at, (u64::MAX, *new))).collect();
        self.write_words(&words).await?;
        if holds(Rule::PointersFirst) {
            self.sync().await?;
        }
        for (_, _, cluster) in entries {
            self.set_count(*cluster, 0);
            self.walk.counted[*cluster as usize] = 0;
        }
        self.write_counts().await
    }
}

/// Takes their place from clusters that read as zeros, or hold nothing else, and that nobody shares.
/// Returns how many.
pub(super) async fn drop_zeros(
    cx: &Cx,
    host: &Host,
    header: &Header,
    dry_run: bool,
    progress: Progress<'_>,
) -> Result<u64, CompactError> {
    let walk = Walk::new(cx, host, header).await?;
    let layout = walk.layout;
    let hides_backing = header.backing_file.is_some();
    let empty = match (hides_backing, layout.version >= 3) {
        (false, _) => Some(0),
        (true, true) => Some(ZERO),
        (true, false) => None,
    };
    let mut editor = Editor::new(cx, host, walk);
    let tables: Vec<u64> = editor.walk.l1.iter().filter_map(|e| layout.table_of(*e).ok()).collect();
    let once = |editor: &Editor<'_>, offset: u64| {
        let cluster = (offset >> layout.cluster_bits) as usize;
        cluster < editor.walk.counted.len()
            && editor.walk.references(cluster) == 1
            && editor.walk.stored[cluster] == 1
    };
    let total = tables.len() as u64;
    let mut found = Vec::new();
    let mut count = 0;
    for (n, table) in (1..).zip(tables) {
        if table == 0 || !once(&editor, table) {
            continue;
        }
        let bytes = host.read(cx, table, layout.cluster() as usize).await;
        let entries = be::table(&bytes.map_err(io("reading an L2 table"))?);
        for (at, raw) in (table..).step_by(8).zip(entries) {
            let (place, new) = match layout.entry(raw) {
                Entry::Zero { host: Some(place), .. } => (place, Some(ZERO)),
                Entry::Data { host: place, .. } => (place, empty),
                _ => continue,
            };
            let Some(new) = new.filter(|_| once(&editor, place)) else { continue };
            let data = matches!(layout.entry(raw), Entry::Data { .. });
            if data && !is_zero(cx, host, place, layout.cluster()).await? {
                continue;
            }
            count += 1;
            if !dry_run {
                found.push((at, new, place >> layout.cluster_bits));
            }
            if found.len() >= BATCH {
                editor.forget(&std::mem::take(&mut found)).await?;
            }
        }
        progress(n * layout.cluster(), total * layout.cluster());
    }
    if !found.is_empty() {
        editor.forget(&found).await?;
    }
    if count > 0 && !dry_run {
        host.sync(cx).await.map_err(io("making it durable"))?;
    }
    Ok(count)
}

async fn is_zero(cx: &Cx, host: &Host, at: u64, len: u64) -> Result<bool, CompactError> {
    let end = host.node().info().size;
    let len = len.min(end.saturating_sub(at));
    // Most data show it at once.
    let first = len.min(4096);
    for (from, to) in [(0, first), (first, len)] {
        if to > from {
            let bytes = host.read(cx, at + from, (to - from) as usize).await;
            let bytes = bytes.map_err(io("reading the disk's data"))?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
