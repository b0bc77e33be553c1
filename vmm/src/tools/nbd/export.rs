//! The image that is exported.
use super::spec::*;
use crate::tools::img::image::Image;
use crate::tools::img::status::Status;
use spindle_block::qcow2::DirtyBits;
use spindle_block::{BlockError, Cx, Io, IoBuf, Range, Root};
use std::sync::Arc;

/// The context of the protocol itself.
pub(super) const ALLOCATION: &str = "base:allocation";
/// The context that says in which image of a chain something is.
pub(super) const DEPTH: &str = "qemu:allocation-depth";

/// What the contexts of dirty bitmaps begin with.
const DIRTY: &str = "qemu:dirty-bitmap:";

/// Something that block status is told in.
pub(super) enum Context {
    /// What is allocated, and what reads as zeros.
    Allocation,
    /// In which image of a chain something is.
    Depth,
    /// A dirty bitmap: its name; and its bits, where nothing changes them.
    Dirty(String, Option<DirtyBits>),
}

impl Context {
    pub fn name(&self) -> String {
        match self {
            Self::Allocation => ALLOCATION.to_owned(),
            Self::Depth => DEPTH.to_owned(),
            Self::Dirty(name, _) => format!("{DIRTY}{name}"),
        }
    }
}

/// An export.
pub(super) struct Export {
    pub image: Image,
    pub root: Arc<Root>,
    /// Bytes.
    pub size: u64,
    /// Where it begins in the image.
    pub offset: u64,
    pub read_only: bool,
    /// Their places are their numbers.
    pub contexts: Vec<Context>,
}

impl Export {
    /// Whether the beginning of `range` is dirty, and how far it is the same.
    pub async fn dirty(
        &self,
        cx: &Cx,
        context: &Context,
        range: Range,
    ) -> Result<(bool, u64), BlockError> {
        let Context::Dirty(name, known) = context else { return Ok((false, range.len)) };
        let fresh;
        let bits = match (known, &self.image.qcow2) {
            (Some(bits), _) => bits,
            (None, Some(qcow2)) => {
                // Writes record themselves before they are done.
                let read = qcow2.bitmap_bits(cx, name).await;
                fresh = read.map_err(|_| BlockError::Medium)?;
                &fresh
            }
            (None, None) => return Err(BlockError::Medium),
        };
        let start = range.offset + self.offset;
        let dirty = bits.is_dirty(start);
        let mut at = (start / bits.granularity() + 1) * bits.granularity();
        while at < start + range.len && bits.is_dirty(at) == dirty {
            at += bits.granularity();
        }
        Ok((dirty, (at - start).min(range.len)))
    }

    /// The transmission flags.
    pub fn flags(&self, shared: bool) -> u16 {
        let writing = SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;
        HAS_FLAGS
            | SEND_FLUSH
            | SEND_FUA
            | SEND_CACHE
            | if self.read_only { READ_ONLY } else { writing }
            | if shared { CAN_MULTI_CONN } else { 0 }
    }

    /// Does a request; its range is within the export.
    pub async fn io(&self, cx: &Cx, mut io: Io) -> (IoBuf, Result<(), BlockError>) {
        io.range.offset += self.offset;
        self.root.handle().io(cx, io).await
    }

    pub async fn status(&self, cx: &Cx, range: Range) -> Result<Status, BlockError> {
        let range = Range::new(range.offset + self.offset, range.len);
        self.image.status(cx, range, usize::MAX).await
    }

    /// Whether zeros take no writing: whole clusters, or holes in a file.
    pub fn zeroes_fast(&self, range: Range, unmap: bool) -> bool {
        let start = range.offset + self.offset;
        match &self.image.qcow2 {
            Some(qcow2) => {
                let whole = |at: u64| at.is_multiple_of(qcow2.cluster_size());
                whole(start) && (whole(start + range.len) || start + range.len == self.image.size())
            }
            None => unmap && !self.root.policy().ignore_discard,
        }
    }
}
