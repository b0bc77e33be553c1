//! Discards and write-zeroes: whole clusters by their entries, parts by writing zeros.

use super::{
    Qcow2,
    layout::{COPIED, Entry, ZERO},
};
use crate::{BlockError, Cx, IoBuf, Range};

/// Zeros for a part of a cluster are written in pieces of this many bytes.
const ZERO_PIECE: u64 = 256 << 10;

/// What becomes of a whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Nobody needs the data.
    Discard,
    /// It reads as zeros, and its space is given back.
    Unmap,
    /// It reads as zeros and keeps its place.
    Keep,
    /// The backing file decides.
    Forget,
}

/// What to do with one cluster to reach an aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It is so already.
    Nothing,
    /// A new entry.
    Entry(u64),
    /// Only writing zeros helps.
    Write,
}

impl Qcow2 {
    pub(super) async fn discard(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        let start = range.offset.next_multiple_of(cluster);
        // The last cluster of the disk may be cut short by its end.
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let end = if range.end() == size {
            size.next_multiple_of(cluster)
        } else {
            range.end() / cluster * cluster
        };
        if start < end {
            self.change_clusters(cx, Range::new(start, end - start), Aim::Discard).await?;
        }
        self.relieve_limbo(cx).await
    }

    pub(super) async fn write_zeroes(
        &self,
        cx: &Cx,
        range: Range,
        unmap: bool,
    ) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let start = range.offset.next_multiple_of(cluster).min(range.end());
        let whole_end = if range.end() >= size {
            range.end().next_multiple_of(cluster)
        } else {
            range.end() / cluster * cluster
        };
        let end = whole_end.max(start);
        for (from, to) in [(range.offset, start), (end, range.end())] {
            if from < to {
                self.write_zeros(cx, Range::new(from, to - from)).await?;
            }
        }
        let start = range.offset.next_multiple_of(cluster);
        if start < end {
            let aim = if unmap { Aim::Unmap } else { Aim::Keep };
            self.change_clusters(cx, Range::new(start, end - start), aim).await?;
        }
        self.relieve_limbo(cx).await
    }

    /// Empties the image: the disk reads as the backing file does, and all space is given back. Every
    /// request is drained.
    ///
    /// # Errors
    /// As for any write; a part may be empty then.
    pub async fn make_empty(&self, cx: &Cx) -> Result<(), BlockError> {
        /// Freed clusters wait for a flush; this bounds how many.
        const STEP: u64 = 1 << 30;
        self.check_writable()?;
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        self.record(cx, Range::new(0, size)).await?;
        let end = size.next_multiple_of(self.layout.cluster());
        let mut at = 0;
        while at < end {
            let len = STEP.min(end - at);
            self.change_clusters(cx, Range::new(at, len), Aim::Forget).await?;
            self.relieve_limbo(cx).await?;
            at += len;
        }
        self.flush(cx).await
    }

    /// Whole clusters have no entry from now on: the backing file decides, or they are zeros.
    pub(super) async fn forget(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        self.change_clusters(cx, range, Aim::Forget).await?;
        self.relieve_limbo(cx).await
    }

    /// Writes zeros where there is anything else.
    async fn write_zeros(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let cluster_end = (at | (self.layout.cluster() - 1)) + 1;
            let end = range.end().min(cluster_end).min(at + ZERO_PIECE);
            let cluster = self.layout.guest_cluster(at);
            let entry = self.entries(cx, cluster, cluster).await?;
            let zero = match entry.first().map(|raw| self.layout.entry(*raw)) {
                Some(Entry::Zero { .. }) => true,
                Some(Entry::Unallocated) => self.backing.is_none(),
                _ => false,
            };
            if !zero {
                let buf = IoBuf::zeroed((end - at) as usize);
                self.write(cx, Range::new(at, end - at), &buf).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// Whole clusters.
    async fn change_clusters(&self, cx: &Cx, range: Range, aim: Aim) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let part = self.within_slice(Range::new(at, range.end() - at));
            let first = self.layout.guest_cluster(at);
            let last = self.layout.guest_cluster(part.end() - 1);
            let to_write = self.change_entries(cx, first, last, aim).await?;
            for cluster in to_write {
                // Whole, even where the disk ends before the cluster does.
                let start = cluster << self.layout.cluster_bits;
                self.write_zeros(cx, Range::new(start, self.layout.cluster())).await?;
            }
            at = part.end();
        }
        Ok(())
    }

    /// Changes the entries of clusters in one slice. Returns those that must be written instead.
    async fn change_entries(
        &self,
        cx: &Cx,
        first: u64,
        last: u64,
        aim: Aim,
    ) -> Result<Vec<u64>, BlockError> {
        let _held = self.clusters.lock(first, last).await;
        let old = self.entries(cx, first, last).await?;
        let mut new = old.clone();
        let mut to_write = Vec::new();
        for ((cluster, raw), new) in (first..).zip(&old).zip(&mut new) {
            match self.change(*raw, aim)? {
                Change::Nothing => {}
                Change::Entry(entry) => *new = entry,
                Change::Write => to_write.push(cluster),
            }
        }
        if new == old {
            return Ok(to_write);
        }
        self.own_table(cx, first).await?;
        let number = self.publish(cx, first, &new).await?;
        for (old, new) in old.iter().zip(&new) {
            if let Some(freed) = self.references(*old)
                && Some(freed) != self.references(*new)
            {
                self.limbo.push(number, freed);
            }
        }
        Ok(to_write)
    }

    fn change(&self, raw: u64, aim: Aim) -> Result<Change, BlockError> {
        let v3 = self.layout.version >= 3;
        let hides_backing = self.backing.is_some();
        let entry = self.layout.entry(raw);
        Ok(match (entry, aim) {
            (Entry::Bad, _) => return Err(BlockError::Corrupt),
            (Entry::Unallocated, Aim::Discard | Aim::Forget) => Change::Nothing,
            (_, Aim::Forget) => Change::Entry(0),
            (Entry::Unallocated, _) if !hides_backing => Change::Nothing,
            (Entry::Unallocated, _) if v3 => Change::Entry(ZERO),
            (Entry::Unallocated, _) => Change::Write,
            (Entry::Zero { .. }, Aim::Keep) => Change::Nothing,
            (Entry::Zero { host: None, .. }, _) => Change::Nothing,
            (Entry::Data { owned: true, .. }, Aim::Keep) if v3 => {
                Change::Entry(raw | ZERO | COPIED)
            }
            (Entry::Data { .. }, Aim::Keep) if !v3 => Change::Write,
            // The rest has a place in the file that it gives up. With a backing file, an empty
            // entry would bring its data back: zeros must be said, or the data kept.
            _ if !hides_backing => Change::Entry(0),
            _ if v3 => Change::Entry(ZERO),
            (_, Aim::Discard) => Change::Nothing,
            _ => Change::Write,
        })
    }
}
