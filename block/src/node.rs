//! A node of the block graph.

use std::{future::Future, pin::Pin as FuturePin, sync::Arc};

use crate::{BlockError, Cx, Io, Lane, OpKind, Pin, Range, file::FileId};

/// A future that stays on the iothread that made it.
pub type LocalBoxFuture<'a, T> = FuturePin<Box<dyn Future<Output = T> + 'a>>;

/// What a node is like. Constant while requests are in flight; `size` changes only while drained
/// or through [`Node::resize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes that can be addressed.
    pub size: u64,
    /// Offsets and lengths are multiples of this (bytes, a power of two, at most 4096 for files).
    pub request_alignment: u32,
    /// Memory addresses and segment lengths are multiples of this (bytes, a power of two).
    pub memory_alignment: u32,
    /// The size of a unit that is written without reading first (bytes; a qcow2 cluster).
    pub preferred_write: u32,
    /// Largest transfer of one request in bytes.
    pub max_transfer: u64,
    /// Most memory segments in one request.
    pub max_segments: u32,
    /// The smallest discard that gives space back (bytes), 0 where discard does nothing.
    pub discard_granularity: u32,
    /// No writes.
    pub read_only: bool,
}

/// What a stretch of a node is made of, as `spindle img map` and the jobs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Holds data of its own.
    Data,
    /// Reads as zeros without asking a backing file; space is allocated for it or not.
    Zero {
        /// Space in the file is set aside.
        allocated: bool,
    },
    /// Nothing of its own: a backing file decides, or zeros.
    Unallocated,
}

/// A stretch of a node with one [`ExtentKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, at least 1.
    pub len: u64,
    /// What it is.
    pub kind: ExtentKind,
    /// Where its bytes are in the file below, if they are there as they are.
    pub host_offset: Option<u64>,
}

/// The answer of [`Node::map`]. `len` may be less than was asked, never 0 for a non-empty range.
#[derive(Debug)]
pub enum Map {
    /// The bytes are in `file` at `offset`, and stay there as long as `pin` is held.
    Leaf {
        /// The file.
        file: FileId,
        /// Byte offset in it.
        offset: u64,
        /// How many of the bytes asked for.
        len: u64,
        /// Keeps the translation true.
        pin: Pin,
    },
    /// The bytes read as zeros (only for [`OpKind::Read`]).
    Zero {
        /// How many of the bytes asked for.
        len: u64,
    },
    /// There is nothing to do: the request succeeds as it is (`null-co`).
    Done {
        /// How many of the bytes asked for.
        len: u64,
    },
    /// Not known without I/O, or the node has to see the request: use [`Node::run`].
    Slow,
}

/// A graph node, shared by all iothreads.
///
/// **Who checks what.** The graph root has checked that a request lies within `info().size`, that
/// nothing overflows, that lengths and alignment are multiples of `request_alignment`, and that a
/// read-only node sees no writes. A node may rely on it. Every method is required: a filter that
/// forgets one does not compile.
pub trait Node: Send + Sync {
    /// The driver's name (`qcow2`, `file`, `null-co`, …).
    fn driver(&self) -> &'static str;

    /// Size, block sizes and limits.
    fn info(&self) -> Info;

    /// Translates as much of the start of `range` as cached metadata allows, without I/O and
    /// without waiting. A leaf for a write promises that the bytes are this node's own (nothing to
    /// copy, nothing to allocate). For [`OpKind::Flush`] the range is empty.
    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map;

    /// Does the request, whatever it takes. Comes back with the same `Io`.
    fn run(
        self: Arc<Self>,
        cx: Cx,
        io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)>;

    /// What the first bytes of `range` (not empty) are made of.
    fn extent(
        self: Arc<Self>,
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>>;

    /// Grows or shrinks to `size` bytes. What is grown reads as zeros.
    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>>;

    /// A drain of a root above begins (`true`) or ends (`false`); drains nest and calls pair up.
    /// While one is on, requests that wait for something other than I/O end: throttles let through,
    /// hanging faults abort. Only for the node itself: the caller goes on to its children.
    fn drain(&self, on: bool);

    /// The last word before the node is dropped: metadata written, marks cleared, all durable.
    /// Called once, drained, children after their parents.
    fn close(self: Arc<Self>, cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>>;

    /// The nodes below, with the role each has (`file`, `backing`, …).
    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)>;
}
