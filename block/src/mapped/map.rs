//! Translation from cached entries.

use super::{Mapped, PIECE, Place};
use crate::{BlockError, Cx, Extent, ExtentKind, Lane, Map, OpKind, Range};

/// What the start of a range is, and how far it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The place of its first byte, not of its block.
    pub place: Place,
    pub len: u64,
}

impl Mapped {
    /// The start of `range` (not empty), over as many blocks as belong together. `None` while the
    /// first is not in memory.
    pub(super) fn look_up(&self, range: Range) -> Option<Found> {
        let size = self.shape.block;
        let in_block = range.offset % size;
        let mut block = range.offset / size;
        let mut len = (size - in_block).min(range.len);
        let place = match self.table.get(block)? {
            Place::Data(at) => Place::Data(at + in_block),
            other => other,
        };
        while len < range.len {
            block += 1;
            let follows = match (place, self.table.get(block)) {
                (Place::Data(at), Some(Place::Data(next))) => at.checked_add(len) == Some(next),
                (Place::Unallocated, Some(Place::Unallocated))
                | (Place::Zero, Some(Place::Zero)) => true,
                _ => false,
            };
            if !follows {
                break;
            }
            len = len.saturating_add(size).min(range.len);
        }
        Some(Found { place, len })
    }

    /// The same, with the table's piece loaded if need be.
    pub(super) async fn find(&self, cx: &Cx, range: Range) -> Result<Found, BlockError> {
        loop {
            if let Some(found) = self.look_up(range) {
                return Ok(found);
            }
            let piece = range.offset / self.shape.block / PIECE;
            let places = self.tables.load(cx, &self.host, piece).await?;
            self.table.fill(piece, &places);
        }
    }

    pub(super) fn translate(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        if op == OpKind::Flush {
            return if self.table.is_settled() {
                self.host.node().map(lane, op, range)
            } else {
                Map::Slow
            };
        }
        if matches!(op, OpKind::Discard | OpKind::WriteZeroes)
            || (op != OpKind::Read && !self.begun())
        {
            return Map::Slow;
        }
        let Some(found) = self.look_up(range) else { return Map::Slow };
        match (found.place, op) {
            (Place::Data(at), _) if found.len == range.len && self.tables.sectors().is_none() => {
                // Loaded after the entry was: what it said is durable, if all is.
                if op == OpKind::WriteFua && !self.table.is_settled() {
                    return Map::Slow;
                }
                self.host.node().map(lane, op, Range::new(at, found.len))
            }
            (Place::Zero, OpKind::Read) => Map::Zero { len: found.len },
            (Place::Unallocated, OpKind::Read) if self.backing.is_none() => {
                Map::Zero { len: found.len }
            }
            _ => Map::Slow,
        }
    }

    pub(super) async fn first_extent(&self, cx: &Cx, range: Range) -> Result<Extent, BlockError> {
        let found = self.find(cx, range).await?;
        let (kind, host_offset) = match found.place {
            // The bytes there may not be those of the disk.
            Place::Data(at) => {
                (ExtentKind::Data, Some(at).filter(|_| self.tables.sectors().is_none()))
            }
            Place::Zero => (ExtentKind::Zero { allocated: false }, None),
            Place::Unallocated => (ExtentKind::Unallocated, None),
            Place::Packed(_) | Place::Partial(_) => (ExtentKind::Data, None),
            Place::Bad => return Err(BlockError::Corrupt),
        };
        Ok(Extent { len: found.len, kind, host_offset })
    }
}
