//! `file` and `host_device`: the leaves of the graph.
//!
//! A file has no metadata to look up: every aligned read, write and flush maps to a leaf without a
//! pin, so that it costs no task and no allocation. What remains goes through [`Node::run`]:
//! discards, write-zeroes, and requests smaller than what O_DIRECT takes.
//!
//! **Beyond the end.** `info().size` is the length when the file was opened (or last resized),
//! rounded up to a sector: what a guest may see of it. A guest never reaches beyond that, because
//! the graph root checks. A *format* that owns the file may: this node does not check ranges.
//! Writes there make the file longer, reads there give zeros, and `info().size` stays as it is; the
//! present length is [`FileNode::length`].
//!
//! **Smaller than a block.** With O_DIRECT a request that is not made of whole blocks is done by
//! reading and writing whole ones under a lock of the file's. Formats use this for their metadata;
//! a disk whose length is not a multiple of the block for its last piece (the file then grows to
//! the next multiple when that piece is written, as under QEMU).

pub mod error;
mod open;
pub mod probe;
mod zeroes;

use std::{
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, IoBuf, Lane, LocalBoxFuture, Map, Node, Op,
    OpKind, Pin, Range,
    bounce::Serial,
    file::{File, FileId},
    iothread::forget_everywhere,
    lock,
    ring::FileOp,
};
pub use error::{FileError, Reason};
use open::Opened;
pub use open::{Driver, FileOptions, Locking};
use probe::Kind;

/// Guests address sectors: a file's size is rounded up to this (bytes).
const SECTOR: u64 = 512;
/// The longest single transfer (bytes).
const TRANSFER_MAX: u64 = 1 << 30;
/// Most segments that one `readv` takes.
const SEGMENTS_MAX: u32 = libc::UIO_MAXIOV as u32;

/// An image file or a block device of the host, or a file of the simulator.
pub struct FileNode {
    file: Arc<File>,
    kind: Kind,
    /// Everything but the size, which is in `size`.
    limits: Info,
    size: AtomicU64,
    /// O_DIRECT is on.
    direct: bool,
    no_flush: bool,
    locked: bool,
    /// What the file system has refused: bits of [`zeroes`].
    refused: AtomicU8,
    closed: AtomicBool,
    identity: Option<(u64, u64)>,
    /// Serialises writes that are smaller than a block.
    ragged: Serial,
}

impl FileNode {
    fn new(file: Arc<File>, opened: Opened) -> Arc<Self> {
        let Opened { facts, direct, options, locked } = opened;
        let (align, memory) = match direct {
            Some(alignment) => alignment,
            None => (facts.logical_block, 1),
        };
        let limits = Info {
            size: 0,
            request_alignment: align,
            memory_alignment: memory,
            preferred_write: facts.block.max(align),
            max_transfer: TRANSFER_MAX,
            max_segments: SEGMENTS_MAX,
            discard_granularity: if options.read_only || options.ignore_discard {
                0
            } else {
                facts.discard_granularity
            },
            read_only: options.read_only,
        };
        Arc::new(Self {
            file,
            kind: facts.kind,
            limits,
            size: AtomicU64::new(sectors(facts.size)),
            direct: direct.is_some(),
            no_flush: options.no_flush,
            locked,
            refused: AtomicU8::new(if options.ignore_discard { zeroes::NO_PUNCH } else { 0 }),
            closed: AtomicBool::new(false),
            identity: Some(facts.identity),
            ragged: Serial::default(),
        })
    }

    /// A node over an open file of any backend, `size` bytes long, whose requests are made of
    /// blocks of `align` bytes (a power of two; 1: anything goes). For the simulator: the same node
    /// that the host's files have.
    #[must_use]
    pub fn over(file: Arc<File>, size: u64, align: u32, read_only: bool) -> Arc<Self> {
        let limits = Info {
            size: 0,
            request_alignment: align,
            memory_alignment: align,
            preferred_write: align.max(4096),
            max_transfer: TRANSFER_MAX,
            max_segments: SEGMENTS_MAX,
            discard_granularity: if read_only { 0 } else { 4096 },
            read_only,
        };
        Arc::new(Self {
            file,
            kind: Kind::Regular,
            limits,
            size: AtomicU64::new(sectors(size)),
            direct: align > 1,
            no_flush: false,
            locked: false,
            refused: AtomicU8::new(0),
            closed: AtomicBool::new(false),
            identity: None,
            ragged: Serial::default(),
        })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether the host's page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Device and inode number of a host file: two names with the same identity are one file.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.identity
    }

    /// The file's present length in bytes, not rounded; `None` for simulated files.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn length(&self) -> Option<Result<u64, BlockError>> {
        let fd = self.host_fd()?;
        Some(probe::facts(fd).map(|facts| facts.size).map_err(BlockError::from))
    }

    /// Bytes of storage that the file uses; `None` where nobody knows.
    #[must_use]
    pub fn allocated(&self) -> Option<u64> {
        probe::facts(self.host_fd()?).ok().map(|facts| facts.allocated)
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        let fd: RawFd = self.file.fd()?;
        // SAFETY: `self.file` keeps the descriptor open for as long as the borrow lasts.
        Some(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    fn id(&self) -> FileId {
        self.file.id()
    }

    fn is_ragged(&self, range: Range) -> bool {
        (range.offset | range.len) & (u64::from(self.limits.request_alignment) - 1) != 0
    }

    async fn op(&self, cx: &Cx, op: FileOp, range: Range) -> Result<(), BlockError> {
        let range = (range.offset, range.len);
        cx.file_op(op, self.id(), range, IoBuf::empty(), Pin::NONE).await.1
    }

    /// A read or write of any range, on a file that takes any or by whole blocks.
    async fn data(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        let op = match io.op {
            Op::Write { fua } => FileOp::Write { fua },
            _ => FileOp::Read,
        };
        if !self.is_ragged(io.range) {
            let (buf, range) = (std::mem::take(&mut io.buf), (io.range.offset, io.range.len));
            let (buf, result) = cx.file_op(op, self.id(), range, buf, Pin::NONE).await;
            io.buf = buf;
            return result;
        }
        let align = u64::from(self.limits.request_alignment);
        let start = io.range.offset / align * align;
        let end = io.range.checked_end().and_then(|end| end.checked_next_multiple_of(align));
        let len = end.ok_or(BlockError::OutOfRange)? - start;
        let at = io.range.offset - start;
        let guard = if op == FileOp::Read { None } else { Some(self.ragged.lock().await) };
        let blocks = IoBuf::zeroed(usize::try_from(len).map_err(|_| BlockError::NoMemory)?);
        let read = cx.file_op(FileOp::Read, self.id(), (start, len), blocks, Pin::NONE).await;
        let (mut blocks, result) = read;
        result?;
        if op == FileOp::Read {
            io.buf.copy_from(0, &blocks, at, io.range.len);
            return Ok(());
        }
        blocks.copy_from(at, &io.buf, 0, io.range.len);
        let result = cx.file_op(op, self.id(), (start, len), blocks, Pin::NONE).await.1;
        drop(guard);
        result
    }

    async fn set_size(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        if self.limits.read_only {
            return Err(BlockError::ReadOnly);
        }
        if self.kind == Kind::Block {
            // A device has the size it has: this takes notice of a new one.
            let fd = self.host_fd().ok_or(BlockError::Unsupported)?;
            if probe::device_size(fd)? != size {
                return Err(BlockError::Unsupported);
            }
        } else {
            self.op(cx, FileOp::SetLen, Range::new(size, 0)).await?;
        }
        self.size.store(sectors(size), Relaxed);
        Ok(())
    }

    fn find_extent(&self, range: Range) -> Extent {
        let (kind, len) = match self.host_fd() {
            Some(fd) if self.kind == Kind::Regular => seek_extent(fd, range),
            _ => (ExtentKind::Data, range.len),
        };
        Extent { len: len.clamp(1, range.len), kind, host_offset: Some(range.offset) }
    }
}

/// Data or hole at the start of `range`, and how far it goes. A file system that does not tell
/// counts as all data.
fn seek_extent(fd: BorrowedFd<'_>, range: Range) -> (ExtentKind, u64) {
    use std::os::fd::AsRawFd;
    const HOLE: ExtentKind = ExtentKind::Zero { allocated: false };
    let Ok(start) = i64::try_from(range.offset) else { return (HOLE, range.len) };
    // SAFETY: plain system calls; nothing here uses the descriptor's own position.
    let seek = |whence| unsafe { libc::lseek64(fd.as_raw_fd(), start, whence) };
    let up_to = |end: i64| u64::try_from(end).unwrap_or(0).saturating_sub(range.offset);
    match seek(libc::SEEK_DATA) {
        data if data > start => (HOLE, up_to(data)),
        data if data == start => match seek(libc::SEEK_HOLE) {
            hole if hole > start => (ExtentKind::Data, up_to(hole)),
            _ => (ExtentKind::Data, range.len),
        },
        _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => {
            (HOLE, range.len)
        }
        _ => (ExtentKind::Data, range.len),
    }
}

/// `size` rounded up to a sector; sizes that near the end of 64 bits are rounded down.
fn sectors(size: u64) -> u64 {
    size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX / SECTOR * SECTOR)
}

impl Node for FileNode {
    fn driver(&self) -> &'static str {
        if self.kind == Kind::Block { "host_device" } else { "file" }
    }

    fn info(&self) -> Info {
        Info { size: self.size.load(Relaxed), ..self.limits }
    }

    fn map(&self, _lane: Lane, op: OpKind, range: Range) -> Map {
        match op {
            OpKind::Discard | OpKind::WriteZeroes => Map::Slow,
            OpKind::Flush if self.no_flush => Map::Done { len: range.len },
            _ if self.is_ragged(range) => Map::Slow,
            OpKind::Read | OpKind::Write | OpKind::WriteFua | OpKind::Flush => {
                Map::Leaf { file: self.id(), offset: range.offset, len: range.len, pin: Pin::NONE }
            }
        }
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let result = match io.op {
                _ if io.op.writes() && self.limits.read_only => Err(BlockError::ReadOnly),
                Op::Read | Op::Write { .. } => self.data(&cx, &mut io).await,
                Op::Flush if self.no_flush => Ok(()),
                Op::Flush => self.op(&cx, FileOp::Sync, Range::default()).await,
                Op::Discard => self.discard(&cx, io.range).await,
                Op::WriteZeroes { unmap, fua } => {
                    self.write_zeroes(&cx, io.range, unmap, fua).await
                }
            };
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(async move { Ok(self.find_extent(range)) })
    }

    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.set_size(&cx, size).await })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move {
            if self.closed.swap(true, Relaxed) {
                return Ok(());
            }
            let mut result = Ok(());
            if !self.limits.read_only && !self.no_flush {
                result = self.op(&cx, FileOp::Sync, Range::default()).await;
            }
            // Rings may hold the descriptor for a moment longer: the locks end now.
            if let Some(fd) = self.host_fd().filter(|_| self.locked) {
                lock::release(fd);
            }
            forget_everywhere(&self.file);
            result
        })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        Vec::new()
    }
}

impl Drop for FileNode {
    /// A node that never came to its [`Node::close`] (an opening that failed further up) leaves no
    /// lock behind.
    fn drop(&mut self) {
        if !self.closed.load(Relaxed) {
            if let Some(fd) = self.host_fd().filter(|_| self.locked) {
                lock::release(fd);
            }
            forget_everywhere(&self.file);
        }
    }
}

#[cfg(test)]
mod tests;
