//! Write-back: changed entries reach the file here, and only here.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Mapped;
use crate::{BlockError, Cx, qcow2::sync::Semaphore};

/// Flushes that share write-backs.
pub(super) struct Flushes {
    one_at_a_time: Semaphore,
    /// Write-backs begun, and the last of them that went well.
    begun: AtomicU64,
    done: AtomicU64,
}

impl Default for Flushes {
    fn default() -> Self {
        Self { one_at_a_time: Semaphore::new(1), begun: AtomicU64::new(0), done: AtomicU64::new(0) }
    }
}

impl Mapped {
    /// Makes everything durable that completed before this was called.
    pub(super) async fn flush(&self, cx: &Cx) -> Result<(), BlockError> {
        let before = self.flushes.begun.load(SeqCst);
        let _turn = self.flushes.one_at_a_time.take(1).await;
        if self.flushes.done.load(SeqCst) > before {
            // One that began after this was called has done it.
            return Ok(());
        }
        let number = self.flushes.begun.fetch_add(1, SeqCst) + 1;
        self.write_back(cx).await?;
        self.flushes.done.store(number, SeqCst);
        Ok(())
    }

    async fn write_back(&self, cx: &Cx) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        let (number, changes) = self.table.take_changes();
        if changes.is_empty() {
            return self.host.sync(cx).await;
        }
        let mut guard = PutBack { image: self, changes };
        // The data, before anything points to it.
        #[cfg(test)]
        let data_first = super::mutation::holds(super::mutation::Rule::SyncBeforeTable);
        #[cfg(not(test))]
        let data_first = true;
        if data_first {
            self.host.sync(cx).await?;
        }
        self.tables.store(cx, &self.host, &self.space, &guard.changes).await?;
        #[cfg(test)]
        let syncs = super::mutation::holds(super::mutation::Rule::FlushSyncs);
        #[cfg(not(test))]
        let syncs = true;
        if syncs {
            self.host.sync(cx).await?;
        }
        guard.changes.clear();
        self.table.settle(number);
        Ok(())
    }

    /// Marks the image as in use, once, before it is changed.
    pub(super) async fn begin(&self, cx: &Cx) -> Result<(), BlockError> {
        if self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        if self.begun() {
            return Ok(());
        }
        let _turn = self.flushes.one_at_a_time.take(1).await;
        if !self.begun() {
            self.tables.begin(cx, &self.host).await?;
            self.begun.store(true, SeqCst);
        }
        Ok(())
    }

    pub(super) async fn shut(&self, cx: &Cx) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        self.flush(cx).await?;
        if self.begun() {
            let _turn = self.flushes.one_at_a_time.take(1).await;
            self.tables.end(cx, &self.host, &self.space).await?;
            self.host.sync(cx).await?;
            self.begun.store(false, SeqCst);
        }
        Ok(())
    }

    pub(super) async fn set_size(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        self.begin(cx).await?;
        let old = self.size();
        if size == old {
            return Ok(());
        }
        if size < old {
            return Err(BlockError::Unsupported);
        }
        if !size.is_multiple_of(512) {
            return Err(BlockError::Misaligned);
        }
        if self.tables.size_max() == 0 {
            return Err(BlockError::Unsupported);
        }
        if size > self.tables.size_max() {
            return Err(BlockError::OutOfRange);
        }
        self.flush(cx).await?;
        // What the disk gains may be garbage in the last block, or data of a longer backing file.
        let block_end = old.next_multiple_of(self.shape.block);
        let backing_end = self.backing.as_ref().map_or(0, |b| b.info().size);
        let gain = block_end.max(backing_end).min(size);
        self.table.set_blocks(size.div_ceil(self.shape.block));
        self.size.store(size, SeqCst);
        let cleared = async {
            if gain > old {
                self.write_zeroes(cx, crate::Range::new(old, gain - old), true).await?;
            }
            self.flush(cx).await?;
            let _turn = self.flushes.one_at_a_time.take(1).await;
            self.tables.grow(cx, &self.host, size).await
        }
        .await;
        if cleared.is_err() {
            self.size.store(old, SeqCst);
        }
        cleared
    }
}

/// Changes that are not durable are changed again when this is dropped.
struct PutBack<'a> {
    image: &'a Mapped,
    changes: Vec<super::Change>,
}

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        self.image.table.put_back(std::mem::take(&mut self.changes));
    }
}
