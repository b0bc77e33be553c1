//! Discards and write-zeroes, with what file systems refuse remembered per file.

use std::sync::atomic::Ordering::Relaxed;

use super::FileNode;
use crate::{BlockError, Cx, Io, IoBuf, Range, ring::FileOp};

/// Bits of `FileNode::refused`.
pub(super) const NO_PUNCH: u8 = 1;
const NO_ZERO_RANGE: u8 = 2;

/// The longest piece of zeros that is written by hand (bytes).
const PIECE: u64 = 1 << 20;

impl FileNode {
    /// Gives space back where the file system can; success elsewhere, for a discard is advice.
    pub(super) async fn discard(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        self.attempt(cx, FileOp::PunchHole, NO_PUNCH, range).await.map(|_| ())
    }

    /// Makes `range` read as zeros in the cheapest way there is.
    pub(super) async fn write_zeroes(
        &self,
        cx: &Cx,
        range: Range,
        unmap: bool,
        fua: bool,
    ) -> Result<(), BlockError> {
        let quick = (unmap && self.attempt(cx, FileOp::PunchHole, NO_PUNCH, range).await?)
            || self.attempt(cx, FileOp::ZeroRange, NO_ZERO_RANGE, range).await?;
        if !quick {
            self.write_zeroes_by_hand(cx, range).await?;
        }
        if fua {
            self.op(cx, FileOp::Sync, Range::default()).await?;
        }
        Ok(())
    }

    /// Tries `op` unless it was refused before. Returns whether it was done.
    async fn attempt(
        &self,
        cx: &Cx,
        op: FileOp,
        bit: u8,
        range: Range,
    ) -> Result<bool, BlockError> {
        // Where blocks are whole, parts of them are not for the file system to zero.
        if self.refused.load(Relaxed) & bit != 0 || self.is_ragged(range) {
            return Ok(false);
        }
        match self.op(cx, op, range).await {
            Ok(()) => Ok(true),
            Err(BlockError::Unsupported) => {
                self.refused.fetch_or(bit, Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn write_zeroes_by_hand(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let end = range.checked_end().ok_or(BlockError::OutOfRange)?;
        let mut at = range.offset;
        let mut buf = IoBuf::empty();
        while at < end {
            // Pieces end at multiples, so that only the first and the last are ragged.
            let len = ((at / PIECE + 1) * PIECE).min(end) - at;
            if buf.len() != len {
                buf = IoBuf::zeroed(len as usize);
            }
            let mut io = Io::write(at, buf);
            let result = self.data(cx, &mut io).await;
            buf = io.buf;
            result?;
            at += len;
        }
        Ok(())
    }

    /// Whether the file system has refused to punch holes, and to zero ranges.
    #[must_use]
    pub fn refusals(&self) -> (bool, bool) {
        let refused = self.refused.load(Relaxed);
        (refused & NO_PUNCH != 0, refused & NO_ZERO_RANGE != 0)
    }
}
