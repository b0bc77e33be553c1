//! Giving blocks a place.

use super::{Mapped, Place};
use crate::{BlockError, Cx, IoBuf, Pin, Range};

/// Bytes of a block that are copied at once.
const COPY: u64 = 1 << 20;

impl Mapped {
    /// Writes `buf`, the data of `range`, to blocks that all have the place `old` (none, zeros or,
    /// for one block, compressed data), which the caller holds.
    pub(super) async fn write_new(
        &self,
        cx: &Cx,
        range: Range,
        old: Place,
        buf: &IoBuf,
    ) -> Result<(), BlockError> {
        let size = self.shape.block;
        let (first, last) = (range.offset / size, (range.end() - 1) / size);
        let count = last - first + 1;
        let start = first * size;
        let bytes = self.shape.lead + count * size;
        let taken = self.space.take(cx, &self.host, bytes).await?;
        let data = taken.at + self.shape.lead;
        let places: Vec<Place> = (0..count).map(|n| Place::Data(data + n * size)).collect();
        #[cfg(test)]
        if !super::mutation::holds(super::mutation::Rule::DataBeforeMapping) {
            self.table.publish(first, &places);
        }
        let filled = async {
            let lead = self.tables.lead();
            if !lead.is_empty() {
                self.host.write_bytes(cx, taken.at, &lead).await?;
            }
            let zeros = old == Place::Zero || (old == Place::Unallocated && self.backing.is_none());
            if !(zeros && taken.zeroed) {
                let head = Range::new(start, range.offset - start);
                let tail = Range::new(range.end(), (last + 1) * size - range.end());
                for edge in [head, tail] {
                    self.copy_old(cx, edge, old, data + (edge.offset - start)).await?;
                }
            }
            self.host
                .write(cx, data + (range.offset - start), buf.view(0, range.len), Pin::NONE)
                .await
        }
        .await;
        if let Err(error) = filled {
            self.space.give_back(taken.at, bytes);
            return Err(error);
        }
        self.table.publish(first, &places);
        Ok(())
    }

    /// Copies what `range` (within one block) had when its place was `old` to `to` in the file.
    /// What lies beyond the end of the disk is zeros.
    async fn copy_old(&self, cx: &Cx, range: Range, old: Place, to: u64) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let len = (range.end() - at).min(COPY);
            let _memory = self.copies.take(len).await;
            let buf = IoBuf::zeroed(len as usize);
            let inside = len.min(self.size().saturating_sub(at));
            if inside > 0 {
                self.read_place(cx, Range::new(at, inside), old, buf.view(0, inside)).await?;
            }
            self.host.write(cx, to + (at - range.offset), buf, Pin::NONE).await?;
            at += len;
        }
        Ok(())
    }

    /// Writes `buf` to a block of which only some sectors are here (at `host`), and copies the others
    /// from the backing file, so that all are.
    pub(super) async fn complete(
        &self,
        cx: &Cx,
        range: Range,
        host: u64,
        buf: &IoBuf,
    ) -> Result<(), BlockError> {
        let size = self.shape.block;
        let block = range.offset / size;
        let start = block * size;
        for edge in [
            Range::new(start, range.offset - start),
            Range::new(range.end(), start + size - range.end()),
        ] {
            self.copy_old(cx, edge, Place::Partial(host), host + (edge.offset - start)).await?;
        }
        let at = host + (range.offset - start);
        // Until the bitmap says so, the new data is not there for whoever reads after a crash: what
        // was present already is overwritten in place, as on any disk.
        self.host.write(cx, at, buf.view(0, range.len), Pin::NONE).await?;
        self.table.publish(block, &[Place::Data(host)]);
        Ok(())
    }
}
