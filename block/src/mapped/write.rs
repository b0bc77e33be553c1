//! Writes, zeroes and discards.

use super::{Mapped, Place, map::Found};
use crate::{BlockError, Cx, IoBuf, Pin, Range, qcow2::join};

/// Pieces of one request that are written in place at once.
const WIDTH: usize = 16;
/// Bytes of a request whose blocks are held at once.
const STEP: u64 = 16 << 20;
/// Zeros that are written at once where there is no other way.
const ZEROES: u64 = 1 << 20;

impl Mapped {
    pub(super) async fn write(&self, cx: &Cx, range: Range, buf: &IoBuf) -> Result<(), BlockError> {
        self.begin(cx).await?;
        let step = STEP.max(self.shape.block);
        let mut at = range.offset;
        while at < range.end() {
            let end = (at / step * step).saturating_add(step).min(range.end());
            let part = Range::new(at, end - at);
            self.write_part(cx, part, &buf.view(at - range.offset, part.len)).await?;
            at = end;
        }
        Ok(())
    }

    async fn write_part(&self, cx: &Cx, range: Range, buf: &IoBuf) -> Result<(), BlockError> {
        let size = self.shape.block;
        let _held = self.blocks.lock(range.offset / size, (range.end() - 1) / size).await;
        let mut at = range.offset;
        let mut in_place: Vec<join::Work<'_>> = Vec::new();
        while at < range.end() {
            let rest = Range::new(at, range.end() - at);
            let Found { place, len } = self.find(cx, rest).await?;
            let view = |len| buf.view(at - range.offset, len);
            at += match place {
                Place::Data(host) => {
                    in_place.push(Box::pin(self.host.write(cx, host, view(len), Pin::NONE)));
                    len
                }
                Place::Unallocated | Place::Zero if self.shape.lead == 0 => {
                    self.write_new(cx, Range::new(at, len), place, &view(len)).await?;
                    len
                }
                Place::Unallocated | Place::Zero => {
                    let len = len.min(size - at % size);
                    self.write_new(cx, Range::new(at, len), place, &view(len)).await?;
                    len
                }
                Place::Partial(host) => {
                    let piece = Range::new(at, len);
                    self.complete(cx, piece, host, &view(len)).await?;
                    len
                }
                Place::Packed(_) => {
                    let piece = Range::new(at, len);
                    self.write_new(cx, piece, place, &view(len)).await?;
                    len
                }
                Place::Bad => return Err(BlockError::Corrupt),
            };
        }
        join::all(in_place.into_iter(), WIDTH).await
    }

    /// Makes a range read as zeros.
    pub(super) async fn write_zeroes(
        &self,
        cx: &Cx,
        range: Range,
        unmap: bool,
    ) -> Result<(), BlockError> {
        self.begin(cx).await?;
        let size = self.shape.block;
        let mut at = range.offset;
        while at < range.end() {
            // At most a block where something has to be done for each; runs where nothing has.
            let rest = Range::new(at, range.end() - at);
            let found = self.find(cx, rest).await?;
            let reads_zero = match found.place {
                Place::Zero => true,
                Place::Unallocated => self.backing.is_none(),
                _ => false,
            };
            if reads_zero {
                at += found.len;
                continue;
            }
            if let Place::Data(host) = found.place {
                self.host.zero(cx, Range::new(host, found.len), unmap).await?;
                at += found.len;
                continue;
            }
            let len = found.len.min(size - at % size);
            let whole = len == size || (at.is_multiple_of(size) && at + len == self.size());
            if whole && self.shape.zero_state && found.place == Place::Unallocated {
                let block = at / size;
                let _held = self.blocks.lock(block, block).await;
                if self.table.get(block) == Some(Place::Unallocated) {
                    self.table.publish(block, &[Place::Zero]);
                    at += len;
                }
                continue;
            }
            let len = len.min(ZEROES);
            self.write_part(cx, Range::new(at, len), &IoBuf::zeroed(len as usize)).await?;
            at += len;
        }
        Ok(())
    }

    /// Gives the space of a range back, where the file system can.
    pub(super) async fn discard(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let align = self.host.align().max(512);
        let mut at = range.offset;
        while at < range.end() {
            let found = self.find(cx, Range::new(at, range.end() - at)).await?;
            if let Place::Data(host) = found.place {
                let start = host.next_multiple_of(align);
                let end = (host + found.len) / align * align;
                if start < end {
                    // Advice that is not taken is no error.
                    self.host.punch(cx, Range::new(start, end - start)).await;
                }
            }
            at += found.len;
        }
        Ok(())
    }
}
