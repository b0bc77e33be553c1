//! Where guest data is: in the image's own file, or in a data file beside it.
//!
//! In a data file every cluster is where it is on the disk, is nobody else's and has no refcount. It
//! has nothing to be allocated but its mapping. Where the data file is *raw*, it is the disk even
//! without the image: whatever reads as zeros is zeros in it.
//!
//! A crash: the data file is synced before tables that lead to it are written (`writeback`, step 2),
//! and what is discarded there lost its old contents at some moment before the next flush.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "External data file name extension" and "raw external".

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Qcow2,
    alloc::Run,
    host::Host,
    layout::{Entry, Raw},
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx, Node, Range};

/// The file that the image at `image` means by the name of its data file: as QEMU has it, from the
/// working directory; where there is none, beside the image. Never a protocol's (`nbd:…`, `json:…`): then
/// `None`.
#[must_use]
pub fn data_path(image: Option<&Path>, name: &str) -> Option<PathBuf> {
    // As QEMU's path_has_protocol(): a colon before any slash.
    if name.is_empty() || name.find([':', '/']).is_some_and(|at| name[at..].starts_with(':')) {
        return None;
    }
    let path = PathBuf::from(name);
    if path.is_absolute() || path.exists() {
        return Some(path);
    }
    let beside = image.and_then(Path::parent).map(|directory| directory.join(&path));
    Some(beside.filter(|beside| beside.exists()).unwrap_or(path))
}

/// The file that guest data is in.
pub(super) struct Data {
    /// The image's own file, which is read and written in blocks by one at a time, or another one.
    pub host: Arc<Host>,
    external: bool,
    /// It is the disk, to be read without the image.
    raw: bool,
}

impl Data {
    pub fn new(file: &Arc<Host>, beside: Option<Arc<dyn Node>>, raw: bool) -> Self {
        let external = beside.is_some();
        let host = beside.map_or_else(|| Arc::clone(file), |node| Arc::new(Host::new(node)));
        Self { host, external, raw: raw && external }
    }

    /// Whether it is a file of its own.
    pub fn is_external(&self) -> bool {
        self.external
    }

    /// Whether that file is the disk, to be read without the image.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Makes what is in a file of its own durable; else that is the image file's sync.
    pub async fn sync(&self, cx: &Cx) -> Result<(), BlockError> {
        if self.external { self.host.sync(cx).await } else { Ok(()) }
    }
}

impl Qcow2 {
    /// Whether guest data is in a file beside the image.
    #[must_use]
    pub fn has_data_file(&self) -> bool {
        self.data.is_external()
    }

    /// Whether the file beside the image is the disk, to be read without the image.
    #[must_use]
    pub fn has_raw_data_file(&self) -> bool {
        self.data.is_raw()
    }

    /// A place for at least one and at most `want` guest clusters from `first` on.
    pub(super) async fn take_data(
        &self,
        cx: &Cx,
        first: u64,
        want: u64,
    ) -> Result<Run, BlockError> {
        if self.data.external {
            // What was discarded may still be there, and what was never written may hold anything.
            return Ok(Run { start: first, len: want, zeroed: false });
        }
        self.alloc.take(cx, &self.host, want).await
    }

    /// Gives back a place that nothing points to.
    pub(super) async fn give_back_data(&self, cx: &Cx, run: Run) {
        if !self.data.external {
            self.alloc.give_back(cx, &self.host, run).await;
        }
    }

    /// The part of a whole cluster's `range` in the data file that is within the disk: a data file is
    /// no longer than that.
    pub(super) fn within_data(&self, range: Range) -> Range {
        if !self.data.external {
            return range;
        }
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let end = range.end().min(size.next_multiple_of(self.data.host.align()));
        Range::new(range.offset, end.saturating_sub(range.offset))
    }

    /// A raw data file is zeros in these whole clusters, where they are data; with `unmap` it gives the
    /// space back. The caller holds the clusters.
    pub(super) async fn zero_raw_data(
        &self,
        cx: &Cx,
        first: u64,
        entries: &[Raw],
        unmap: bool,
    ) -> Result<(), BlockError> {
        for range in self.data_runs(first, entries)? {
            self.data.host.zero(cx, range, unmap).await?;
        }
        Ok(())
    }

    /// Gives back the space of clusters that were data until now. The caller holds the clusters: nobody
    /// has written to them again.
    pub(super) async fn punch_data(&self, cx: &Cx, first: u64, old: &[Raw], new: &[Raw]) {
        let gone = |(old, new): (&Raw, &Raw)| match self.layout.entry(new.word) {
            Entry::Unallocated | Entry::Zero { host: None, .. } => *old,
            _ => Raw::default(),
        };
        let gone: Vec<Raw> = old.iter().zip(new).map(gone).collect();
        // Where somebody else mapped clusters in another order, the space is kept.
        for range in self.data_runs(first, &gone).unwrap_or_default() {
            self.data.host.punch(cx, range).await;
        }
    }

    /// The parts of the data file that guest clusters from `first` on have there, as their entries say.
    ///
    /// # Errors
    /// When one of them is not where it is on the disk.
    fn data_runs(&self, first: u64, entries: &[Raw]) -> Result<Vec<Range>, BlockError> {
        let mut runs: Vec<Range> = Vec::new();
        for (cluster, raw) in (first..).zip(entries) {
            let Entry::Data { host, .. } = self.layout.entry(raw.word) else { continue };
            if host >> self.layout.cluster_bits != cluster {
                return Err(BlockError::Corrupt);
            }
            let range = self.within_data(Range::new(host, self.layout.cluster()));
            match runs.last_mut() {
                Some(last) if last.end() == range.offset => last.len += range.len,
                _ => runs.push(range),
            }
        }
        runs.retain(|range| range.len > 0);
        Ok(runs)
    }

    /// The data file, if there is one, is as long as a disk of `size` bytes, which is longer than the
    /// disk is now: what it gains is zeros.
    pub(super) async fn grow_data(&self, cx: &Cx, old: u64, size: u64) -> Result<(), BlockError> {
        if !self.data.external {
            return Ok(());
        }
        let host = &self.data.host;
        // Whatever is behind the disk is not the disk's.
        if host.node().info().size > old.next_multiple_of(512) {
            host.set_len(cx, old).await?;
        }
        host.set_len(cx, size).await
    }

    /// Maps clusters of a raw data file that are not: the image says no more than the file has.
    pub(super) async fn map_raw_data(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        if !self.data.raw {
            return Ok(());
        }
        let mut at = range.offset;
        while at < range.end() {
            let part = self.within_slice(Range::new(at, range.end() - at));
            let first = self.layout.guest_cluster(at);
            let last = self.layout.guest_cluster(part.end() - 1);
            let _held = self.clusters.lock(first, last).await;
            let old = self.entries(cx, first, last).await?;
            let new: Vec<Raw> = (first..)
                .zip(&old)
                .map(|(cluster, raw)| match self.layout.entry(raw.word) {
                    Entry::Unallocated if raw.subs == 0 => {
                        self.layout.data(cluster << self.layout.cluster_bits)
                    }
                    _ => *raw,
                })
                .collect();
            if new != old {
                self.own_table(cx, first).await?;
                self.publish(cx, first, &new).await?;
            }
            at = part.end();
        }
        Ok(())
    }

    /// Data that tables are going to lead to is durable.
    pub(super) async fn sync_data(&self, cx: &Cx) -> Result<(), BlockError> {
        if holds(Rule::DataFileBeforeL2) { self.data.sync(cx).await } else { Ok(()) }
    }
}
