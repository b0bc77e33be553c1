//! The image that is exported.
use super::spec::*;
use crate::tools::img::image::Image;
use crate::tools::img::status::Status;
use spindle_block::{BlockError, Cx, Io, IoBuf, Range, Root};
use std::sync::Arc;

/// The context of the protocol itself.
pub(super) const ALLOCATION: &str = "base:allocation";
/// The context that says in which image of a chain something is.
pub(super) const DEPTH: &str = "qemu:allocation-depth";

/// An export.
pub(super) struct Export {
    pub image: Image,
    pub root: Arc<Root>,
    /// Bytes.
    pub size: u64,
    /// Where it begins in the image.
    pub offset: u64,
    pub read_only: bool,
    pub depth_context: bool,
}

impl Export {
    pub fn contexts(&self) -> &'static [&'static str] {
        if self.depth_context { &[ALLOCATION, DEPTH] } else { &[ALLOCATION] }
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
