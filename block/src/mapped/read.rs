//! Reads that are more than one leaf.

use std::sync::Arc;

use super::{Mapped, Place, read_below};
use crate::{
    BlockError, Cx, IoBuf, Pin, Range,
    qcow2::{join, sync::lock},
};

/// Pieces of one request that are read at once.
const WIDTH: usize = 16;
const SECTOR: u64 = 512;

impl Mapped {
    pub(super) async fn read(
        &self,
        cx: &Cx,
        range: Range,
        buf: &mut IoBuf,
    ) -> Result<(), BlockError> {
        let mut at = range.offset;
        let mut work: Vec<join::Work<'_>> = Vec::new();
        while at < range.end() {
            let found = self.find(cx, Range::new(at, range.end() - at)).await?;
            let piece = Range::new(at, found.len);
            let view = buf.view(at - range.offset, found.len);
            work.push(Box::pin(self.read_place(cx, piece, found.place, view)));
            at += found.len;
            if work.len() >= WIDTH {
                join::all(std::mem::take(&mut work).into_iter(), WIDTH).await?;
            }
        }
        join::all(work.into_iter(), WIDTH).await
    }

    /// Reads `range`, which is all of one kind. A [`Place::Data`] is that of its first byte; the
    /// others are those of one block.
    pub(super) async fn read_place(
        &self,
        cx: &Cx,
        range: Range,
        place: Place,
        mut buf: IoBuf,
    ) -> Result<(), BlockError> {
        let in_block = range.offset % self.shape.block;
        match place {
            Place::Unallocated => read_below(cx, self.backing.as_ref(), range, buf).await,
            Place::Zero => {
                buf.zero(0, range.len);
                Ok(())
            }
            Place::Data(at) => match self.tables.sectors() {
                Some(sectors) => {
                    sectors.read(cx, &self.host, (at, range.offset), buf, Pin::NONE).await
                }
                None => self.host.read_into(cx, at, buf, Pin::NONE).await,
            },
            Place::Partial(at) => self.read_partial(cx, range, at, &buf).await,
            Place::Packed(at) => {
                let bytes = self.unpacked(cx, range.offset / self.shape.block, at).await?;
                let from = in_block as usize;
                let wanted = bytes.get(from..from + range.len as usize);
                buf.write_at(0, wanted.ok_or(BlockError::Corrupt)?);
                Ok(())
            }
            Place::Bad => Err(BlockError::Corrupt),
        }
    }

    async fn read_partial(
        &self,
        cx: &Cx,
        range: Range,
        at: u64,
        buf: &IoBuf,
    ) -> Result<(), BlockError> {
        let block = range.offset / self.shape.block;
        let start = block * self.shape.block;
        let bits = self.tables.present(cx, &self.host, block, at).await?;
        let is_here = |sector: u64| {
            bits.get((sector / 8) as usize).is_some_and(|byte| byte >> (sector % 8) & 1 != 0)
        };
        let mut from = range.offset;
        while from < range.end() {
            let sector = (from - start) / SECTOR;
            let here = is_here(sector);
            let mut next = sector + 1;
            while start + next * SECTOR < range.end() && is_here(next) == here {
                next += 1;
            }
            let piece = Range::new(from, (start + next * SECTOR).min(range.end()) - from);
            let view = buf.view(from - range.offset, piece.len);
            if here {
                self.host.read_into(cx, at + (from - start), view, Pin::NONE).await?;
            } else {
                read_below(cx, self.backing.as_ref(), piece, view).await?;
            }
            from = piece.end();
        }
        Ok(())
    }

    async fn unpacked(&self, cx: &Cx, block: u64, at: u64) -> Result<Arc<Vec<u8>>, BlockError> {
        if let Some((have, bytes)) = &*lock(&self.unpacked)
            && *have == at
        {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.tables.unpack(cx, &self.host, block, at).await?);
        *lock(&self.unpacked) = Some((at, Arc::clone(&bytes)));
        Ok(bytes)
    }
}
