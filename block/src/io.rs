//! A request: what to do, where, and with which memory.

use crate::IoBuf;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the buffer from the range.
    Read,
    /// Write the buffer to the range; with `fua` it is durable before it completes.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make everything that completed before this was submitted durable. The range is empty.
    Flush,
    /// The contents of the range are no longer needed; afterwards it may read as zeros or not.
    Discard,
    /// Afterwards the range reads as zeros.
    WriteZeroes {
        /// The space may be given back.
        unmap: bool,
        /// Force unit access.
        fua: bool,
    },
}

/// [`Op`] as far as a translation needs it: see [`Node::map`](crate::Node::map).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Op::Read`]
    Read,
    /// [`Op::Write`] without FUA.
    Write,
    /// [`Op::Write`] with FUA: a leaf answers for durability of data *and* mapping.
    WriteFua,
    /// [`Op::Flush`]: a leaf means "one sync of this file is all there is to do".
    Flush,
    /// [`Op::Discard`]
    Discard,
    /// [`Op::WriteZeroes`]
    WriteZeroes,
}

impl Op {
    /// The kind that [`Node::map`](crate::Node::map) is asked with.
    #[must_use]
    pub fn kind(self) -> OpKind {
        match self {
            Self::Read => OpKind::Read,
            Self::Write { fua: false } => OpKind::Write,
            Self::Write { fua: true } => OpKind::WriteFua,
            Self::Flush => OpKind::Flush,
            Self::Discard => OpKind::Discard,
            Self::WriteZeroes { .. } => OpKind::WriteZeroes,
        }
    }

    /// Whether the operation changes the medium.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard | Self::WriteZeroes { .. })
    }

    /// Whether the operation carries data, so that its buffer is as long as its range.
    #[must_use]
    pub fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. })
    }
}

/// A range of bytes on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Range {
    /// A range of `len` bytes from `offset`.
    #[must_use]
    pub fn new(offset: u64, len: u64) -> Self {
        Self { offset, len }
    }

    /// The first byte after the range, or `None` where that does not fit 64 bits.
    #[must_use]
    pub fn checked_end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// The first byte after the range. Only for ranges that the graph root has checked.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset + self.len
    }

    /// Whether both ranges have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// A request on its way: moved into the operation, and back out with the result.
#[derive(Debug)]
pub struct Io {
    /// What to do.
    pub op: Op,
    /// Where.
    pub range: Range,
    /// The data: `range.len` bytes where [`Op::has_data`], else empty.
    pub buf: IoBuf,
}

impl Io {
    /// A read of `buf.len()` bytes at `offset`.
    #[must_use]
    pub fn read(offset: u64, buf: IoBuf) -> Self {
        Self { op: Op::Read, range: Range::new(offset, buf.len()), buf }
    }

    /// A write of `buf` at `offset`.
    #[must_use]
    pub fn write(offset: u64, buf: IoBuf) -> Self {
        Self { op: Op::Write { fua: false }, range: Range::new(offset, buf.len()), buf }
    }

    /// A flush.
    #[must_use]
    pub fn flush() -> Self {
        Self { op: Op::Flush, range: Range::default(), buf: IoBuf::empty() }
    }

    /// A request without data.
    #[must_use]
    pub fn bare(op: Op, range: Range) -> Self {
        Self { op, range, buf: IoBuf::empty() }
    }
}
