//! Growing and shrinking the disk.

use std::sync::atomic::Ordering::SeqCst;

use super::{BitmapError, Qcow2, be, header::field, header::incompatible};
use crate::{BlockError, Cx, Range};

/// Disks are a multiple of this many bytes.
const SECTOR: u64 = 512;

impl Qcow2 {
    /// See [`crate::Node::resize`]. Shrinking is refused: it would have to throw data away.
    ///
    /// Order: a larger L1 table is durable before the header names it, and what the disk gains
    /// reads as zeros before the header's size admits it.
    pub(super) async fn set_size(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        self.check_writable()?;
        let _only_one = self.tables.lock(u64::MAX, u64::MAX).await;
        let old = self.size.load(SeqCst);
        if size == old {
            return Ok(());
        }
        // Snapshots of version 2 do not say how large the disk was.
        if size < old || (self.layout.version < 3 && self.has_snapshots()) {
            return Err(BlockError::Unsupported);
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(BlockError::Misaligned);
        }
        let entries = self.layout.l1_entries(size).ok_or(BlockError::OutOfRange)?;
        if entries * self.layout.slices_per_table() > self.cache.slices_max() {
            return Err(BlockError::OutOfRange);
        }
        if entries > self.l1.len() {
            self.grow_l1(cx, entries).await?;
        }
        self.grow_data(cx, old, size).await?;
        self.forget_beyond(cx, old, size).await?;
        self.clear_gain(cx, old, size).await?;
        self.map_raw_data(cx, Range::new(old, size - old)).await?;
        self.flush(cx).await?;
        self.admit(cx, size).await
    }

    /// Shrinks the disk to `size` bytes; what lies beyond is lost. Only ever on somebody's word, and
    /// so no part of [`crate::Node::resize`]. Every request is drained.
    ///
    /// Order: what is cut off gives its space back first, and the size follows. After a crash in
    /// between the disk has its old size, and reads there as if it had been discarded. The L1 table
    /// stays as long as it is.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] for a size beyond the present one, [`BlockError::Misaligned`] for
    /// one that is not made of sectors, and whatever writing says.
    pub async fn shrink(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        self.check_writable()?;
        let _only_one = self.tables.lock(u64::MAX, u64::MAX).await;
        let old = self.size.load(SeqCst);
        if size > old {
            return Err(BlockError::OutOfRange);
        }
        if self.layout.version < 3 && self.has_snapshots() {
            return Err(BlockError::Unsupported);
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(BlockError::Misaligned);
        }
        let cut = size.next_multiple_of(self.layout.cluster());
        if cut < old {
            self.record(cx, Range::new(cut, old - cut)).await?;
            self.discard(cx, Range::new(cut, old - cut)).await?;
        }
        self.flush(cx).await?;
        self.admit(cx, size).await?;
        if self.has_data_file() {
            self.data.host.set_len(cx, size).await?;
        }
        Ok(())
    }

    /// The header has the new size, durably, and its bitmaps are those of such a disk.
    async fn admit(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        if self.has_bitmaps(cx).await? {
            return self.resize_bitmaps(cx, size).await.map_err(|error| match error {
                BitmapError::Io(error) => error,
                _ => BlockError::Corrupt,
            });
        }
        self.change_header(cx, |bytes| be::put(bytes, field::SIZE, &size.to_be_bytes())).await?;
        self.host.sync(cx).await?;
        self.size.store(size, SeqCst);
        Ok(())
    }

    /// Whatever is mapped beyond the end of the disk, such as machine state that a snapshot brought back,
    /// is not what the disk gains.
    async fn forget_beyond(&self, cx: &Cx, old: u64, size: u64) -> Result<(), BlockError> {
        let per_table = self.layout.slices_per_table() << self.layout.slice_bits();
        let cluster = self.layout.cluster();
        let mut first = old.div_ceil(cluster);
        let end = size.div_ceil(cluster);
        while first < end {
            let index = first / per_table;
            let last = ((index + 1) * per_table).min(end);
            if index >= self.l1.len() {
                break;
            }
            if self.l1.table(index)?.host != 0 {
                self.forget(cx, Range::new(first * cluster, (last - first) * cluster)).await?;
            }
            first = last;
        }
        Ok(())
    }

    /// What lies beyond the old end may be garbage in the last cluster, or data of a longer backing
    /// file.
    async fn clear_gain(&self, cx: &Cx, old: u64, size: u64) -> Result<(), BlockError> {
        let cluster_end = old.next_multiple_of(self.layout.cluster());
        let backing_end = self.backing.as_ref().map_or(0, |b| b.info().size);
        let end = cluster_end.max(backing_end).min(size);
        if end <= old {
            return Ok(());
        }
        self.write_zeroes(cx, Range::new(old, end - old), true).await
    }

    pub(super) async fn grow_l1(&self, cx: &Cx, entries: u64) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        let count = u32::try_from(entries).map_err(|_| BlockError::OutOfRange)?;
        let clusters = (entries * 8).div_ceil(cluster);
        let run = self.alloc.take_exact(cx, &self.host, clusters).await?;
        let _order = self.order.take(1).await;
        let offset = run.start << self.layout.cluster_bits;
        // The refcounts of the new place, before anything names it.
        self.cache.note_change();
        self.write_back(cx).await?;
        if self.lazy_refcounts && !self.is_marked_dirty() {
            self.set_incompatible(cx, incompatible::DIRTY, 0).await?;
        }
        let mut bytes = self.l1.durable_bytes();
        bytes.resize((clusters * cluster) as usize, 0);
        self.host.write_bytes(cx, offset, &bytes).await?;
        self.host.sync(cx).await?;
        self.change_header(cx, |header| {
            be::put(header, field::L1_OFFSET, &offset.to_be_bytes());
            be::put(header, field::L1_SIZE, &count.to_be_bytes());
        })
        .await?;
        self.host.sync(cx).await?;
        self.alloc.mark_metadata(run);
        let (old, old_entries) = self.l1.moved(offset, entries);
        let old_clusters = (old_entries * 8).div_ceil(cluster);
        self.free(cx, &[(old >> self.layout.cluster_bits, old_clusters)]).await;
        Ok(())
    }
}
