//! What a disk is made of, over its whole backing chain (QEMU, bdrv_block_status_above).
use super::image::Image;
use crate::spec::format::Format;
use spindle_block::{BlockError, Cx, ExtentKind, Range};
use std::sync::Arc;

/// Extents of files end at whole sectors.
const SECTOR: u64 = 512;

/// A stretch of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Length in bytes; 0 beyond the end.
    pub len: u64,
    /// How many images down it was found.
    pub depth: usize,
    /// It has data of its own.
    pub data: bool,
    /// It reads as zeros.
    pub zero: bool,
    /// An image of the chain says what is there.
    pub present: bool,
    /// Its data is compressed.
    pub compressed: bool,
    /// Where its bytes are in the image's file, as they are.
    pub offset: Option<u64>,
    /// It ends with the disk.
    pub at_end: bool,
}

impl Image {
    /// What the start of `range` is in this image alone.
    pub(crate) async fn own_status(&self, cx: &Cx, range: Range) -> Result<Status, BlockError> {
        let size = self.size();
        let len = range.len.min(size.saturating_sub(range.offset));
        if len == 0 {
            return Ok(Status::default());
        }
        let range = Range::new(range.offset, len);
        let extent = Arc::clone(&self.node).extent(Cx::clone(cx), range).await?;
        let raw = self.format == Format::Raw;
        let mut status = Status { len: extent.len.min(len), ..Status::default() };
        if raw {
            status.len = status.len.next_multiple_of(SECTOR).min(len);
        }
        match extent.kind {
            ExtentKind::Data => {
                status.data = true;
                status.present = true;
                status.offset = extent.host_offset;
                // Nor is encrypted data in the file as it is; what is, is not packed before.
                let packs = self.qcow2.as_ref().is_some_and(|image| !image.is_encrypted());
                status.compressed = packs && extent.host_offset.is_none();
            }
            ExtentKind::Zero { .. } => {
                status.zero = true;
                status.present = true;
                status.offset = extent.host_offset;
            }
            ExtentKind::Unallocated => {
                status.offset = extent.host_offset;
                status.zero =
                    self.backing.as_ref().is_none_or(|below| range.offset >= below.size());
            }
        }
        if let Some(at) = status.offset.filter(|_| self.preallocated && status.data) {
            let below = Range::new(at, status.len);
            let below = Arc::clone(&self.file).extent(Cx::clone(cx), below).await?;
            status.len = below.len.next_multiple_of(SECTOR).min(status.len);
            status.zero = !matches!(below.kind, ExtentKind::Data);
        }
        status.at_end = range.offset + status.len == size;
        Ok(status)
    }

    /// What the start of `range` is, looking at `layers` images of the chain.
    ///
    /// # Errors
    ///
    /// Metadata that cannot be read.
    pub async fn status(&self, cx: &Cx, range: Range, layers: usize) -> Result<Status, BlockError> {
        let mut found = self.own_status(cx, range).await?;
        let at_end = found.at_end;
        let whole = found.len;
        let mut next = self.backing.as_deref();
        let mut depth = 1;
        while let Some(below) = next.filter(|_| depth < layers && found.len > 0 && !found.present) {
            let part = Range::new(range.offset, found.len);
            let here = below.own_status(cx, part).await?;
            if here.len == 0 {
                // What a short image does not reach counts as zeros that it has.
                found = Status { len: part.len, zero: true, present: true, ..Status::default() };
                found.depth = depth;
                break;
            }
            found = Status { depth, ..here };
            next = below.backing.as_deref();
            depth += 1;
        }
        found.at_end = at_end && found.len == whole;
        Ok(found)
    }
}
