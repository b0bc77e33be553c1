//! Machine state: what a snapshot of a running machine keeps beside the disk. It is mapped by the L1
//! entries behind those of the disk, and moves with them into snapshots and back.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Snapshots" (size of the VM state).

use std::sync::atomic::Ordering::SeqCst;

use super::Qcow2;
use crate::{BlockError, Cx, IoBuf, Range};

impl Qcow2 {
    /// Where machine state begins, counted from the beginning of the disk in bytes.
    #[must_use]
    pub fn vm_state_offset(&self) -> u64 {
        let per_entry = 1 << (self.layout.cluster_bits + self.layout.l2_bits());
        self.size.load(SeqCst).next_multiple_of(per_entry)
    }

    fn vm_state(&self, offset: u64, len: u64) -> Result<Range, BlockError> {
        let start = self.vm_state_offset().checked_add(offset);
        let range = Range::new(start.ok_or(BlockError::OutOfRange)?, len);
        range.checked_end().ok_or(BlockError::OutOfRange)?;
        Ok(range)
    }

    /// Reads machine state from `offset` on. What was never written is zeros.
    ///
    /// # Errors
    /// As for any read.
    pub async fn read_vm_state(
        &self,
        cx: &Cx,
        offset: u64,
        buf: &mut IoBuf,
    ) -> Result<(), BlockError> {
        let range = self.vm_state(offset, buf.len())?;
        self.read(cx, range, buf).await
    }

    /// Writes machine state at `offset`. It is durable with the next flush.
    ///
    /// # Errors
    /// As for any write; [`BlockError::Unsupported`] where guest data is in a file of its own, and
    /// [`BlockError::OutOfRange`] beyond what an image can map.
    pub async fn write_vm_state(
        &self,
        cx: &Cx,
        offset: u64,
        buf: &IoBuf,
    ) -> Result<(), BlockError> {
        self.check_writable()?;
        if self.has_data_file() {
            return Err(BlockError::Unsupported);
        }
        let range = self.vm_state(offset, buf.len())?;
        let entries = self.layout.l1_entries(range.end()).ok_or(BlockError::OutOfRange)?;
        if entries * self.layout.slices_per_table() > self.cache.slices_max() {
            return Err(BlockError::OutOfRange);
        }
        {
            let _only_one = self.tables.lock(u64::MAX, u64::MAX).await;
            if entries > self.l1.len() {
                self.grow_l1(cx, entries).await?;
            }
        }
        self.write(cx, range, buf).await
    }
}
