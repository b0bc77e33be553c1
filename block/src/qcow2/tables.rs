//! L2 tables: loading their slices, making tables of our own, publishing entries.

use std::task::Poll;

use super::{
    Qcow2, be,
    cache::{NotPublished, Step},
    layout::{Entry, Raw},
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx, Range};

impl Qcow2 {
    /// Loads the slice that maps a guest offset.
    pub(super) async fn load_for(&self, cx: &Cx, offset: u64) -> Result<(), BlockError> {
        let cluster = self.layout.guest_cluster(offset);
        self.load_slice(cx, self.layout.slice_of(cluster)).await
    }

    /// Sees to it that a slice is in memory at the moment this returns. Whoever finds that it is
    /// already being loaded waits; if that load fails or is given up, the next one tries.
    pub(super) async fn load_slice(&self, cx: &Cx, slice: u64) -> Result<(), BlockError> {
        if slice >= self.cache.slices_max() {
            return Err(BlockError::OutOfRange);
        }
        loop {
            let step = std::future::poll_fn(|task| match self.cache.step(slice, task) {
                Step::Wait => Poll::Pending,
                step => Poll::Ready(step),
            })
            .await;
            match step {
                Step::Present | Step::Wait => return Ok(()),
                Step::Pressure => self.flush(cx).await?,
                Step::Load(place) => {
                    let entries = self.read_slice(cx, slice).await?;
                    let tainted = !self.info.read_only && self.points_at_metadata(&entries);
                    place.finish(&entries, tainted);
                    return Ok(());
                }
            }
        }
    }

    async fn read_slice(&self, cx: &Cx, slice: u64) -> Result<Vec<u64>, BlockError> {
        // A shared table may be replaced by a copy meanwhile: it is not freed under this pin.
        let _pin = self.pins.pin(cx.lane());
        let table = self.l1.table(self.layout.l1_of_slice(slice))?;
        if table.host == 0 {
            return Ok(Vec::new());
        }
        let at = table.host + self.layout.slice_in_table(slice);
        let bytes = self.host.read(cx, at, self.layout.slice_bytes() as usize).await?;
        Ok(be::table(&bytes))
    }

    /// Whether a write through one of these entries would hit the image's own tables.
    fn points_at_metadata(&self, words: &[u64]) -> bool {
        if self.data.is_external() {
            return false;
        }
        let hosts = self.layout.entries(words).filter_map(|raw| self.layout.host_of(raw.word));
        self.alloc.is_metadata(hosts.map(|host| host >> self.layout.cluster_bits))
    }

    /// The entries of guest clusters `first..=last`, which lie in one slice.
    pub(super) async fn entries(
        &self,
        cx: &Cx,
        first: u64,
        last: u64,
    ) -> Result<Vec<Raw>, BlockError> {
        let slice = self.layout.slice_of(first);
        loop {
            self.load_slice(cx, slice).await?;
            let Some(view) = self.cache.find(slice) else { continue };
            let at = |cluster| view.load(self.layout.index_in_slice(cluster));
            let entries = (first..=last).map(at).collect();
            if view.tainted() {
                return Err(BlockError::Corrupt);
            }
            if view.holds() {
                return Ok(entries);
            }
        }
    }

    /// Publishes the entries of guest clusters from `first` on, all in one slice. The table is our
    /// own ([`Qcow2::own_table`]). Returns the number of the change.
    pub(super) async fn publish(
        &self,
        cx: &Cx,
        first: u64,
        entries: &[Raw],
    ) -> Result<u64, BlockError> {
        let slice = self.layout.slice_of(first);
        let start = self.layout.index_in_slice(first);
        let changes: Vec<(usize, Raw)> = (start..).zip(entries.iter().copied()).collect();
        loop {
            match self.cache.publish(slice, &changes) {
                Ok(number) => return Ok(number),
                Err(NotPublished::Tainted) => return Err(BlockError::Corrupt),
                Err(NotPublished::Absent) => self.load_slice(cx, slice).await?,
            }
        }
    }

    /// Makes the L2 table of a guest cluster our own: a new one where there is none, a copy where
    /// a snapshot uses it too.
    ///
    /// Order: the table's contents are complete before the L1 entry changes in memory, and so durable
    /// before it is written ([`super::writeback`], steps 2 and 4).
    pub(super) async fn own_table(&self, cx: &Cx, cluster: u64) -> Result<(), BlockError> {
        let index = self.layout.l1_of_slice(self.layout.slice_of(cluster));
        if self.l1.table(index)?.owned {
            return Ok(());
        }
        let _guard = self.tables.lock(index, index).await;
        let old = self.l1.table(index)?;
        if old.owned {
            return Ok(());
        }
        if index >= self.l1.len() {
            return Err(BlockError::OutOfRange);
        }
        let run = self.alloc.take(cx, &self.host, 1).await?;
        let host = run.start << self.layout.cluster_bits;
        let filled = self.fill_table(cx, old.host, host, run.zeroed).await;
        if let Err(error) = filled {
            self.alloc.give_back(cx, &self.host, run).await;
            return Err(error);
        }
        self.alloc.mark_metadata(run);
        self.l1.set(index, host);
        let number = self.cache.note_change();
        if old.host != 0 {
            self.limbo.push(number, (old.host >> self.layout.cluster_bits, 1));
        }
        Ok(())
    }

    async fn fill_table(
        &self,
        cx: &Cx,
        old: u64,
        new: u64,
        zeroed: bool,
    ) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        if old != 0 {
            let bytes = self.host.read(cx, old, cluster as usize).await?;
            return self.host.write_bytes(cx, new, &bytes).await;
        }
        if zeroed || !holds(Rule::FillTables) {
            return Ok(());
        }
        self.host.zero(cx, Range::new(new, cluster), false).await
    }

    /// The references that an entry with this descriptor holds, by host cluster. A data file's
    /// clusters have no counts.
    pub(super) fn references(&self, word: u64) -> Option<(u64, u64)> {
        if self.data.is_external() {
            return None;
        }
        match self.layout.entry(word) {
            Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => {
                Some((host >> self.layout.cluster_bits, 1))
            }
            Entry::Compressed(range) => {
                let clusters = self.layout.clusters_of(range);
                Some((clusters.start, clusters.end - clusters.start))
            }
            _ => None,
        }
    }
}
