//! Faults of simulated files: errors and delays, by operation, file, place and count.

use std::{ops::Range, time::Duration};

use crate::{
    BlockError,
    file::FileId,
    ring::{FileOp, Request},
};

/// Which operations a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOp {
    /// All of them.
    Any,
    /// Reads.
    Read,
    /// Writes, with or without FUA.
    Write,
    /// Syncs; their range is empty and matches any.
    Sync,
    /// Hole punching and zeroing.
    Zero,
    /// Allocation and changes of the length.
    Length,
}

impl FaultOp {
    fn matches(self, op: FileOp) -> bool {
        match self {
            Self::Any => true,
            Self::Read => op == FileOp::Read,
            Self::Write => matches!(op, FileOp::Write { .. }),
            Self::Sync => op == FileOp::Sync,
            Self::Zero => matches!(op, FileOp::PunchHole | FileOp::ZeroRange),
            Self::Length => matches!(op, FileOp::Allocate | FileOp::SetLen),
        }
    }
}

/// What happens to a request that a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// It fails, without effect.
    Fail(BlockError),
    /// It fails after some of its sectors were written, from the start.
    FailAfterPart(BlockError),
    /// It takes that much longer.
    Delay(Duration),
}

/// A rule of a [`World`](super::World).
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operations.
    pub op: FaultOp,
    /// Which file; `None` for all.
    pub file: Option<FileId>,
    /// Which bytes of the file: a request matches when it touches one of them.
    pub range: Range<u64>,
    /// Matching requests let through first.
    pub skip: u32,
    /// Requests it applies to after that, then it is spent.
    pub count: u32,
    /// What happens to them.
    pub action: FaultAction,
}

impl Fault {
    /// A fault for every request of that kind on any file, for ever.
    #[must_use]
    pub fn new(op: FaultOp, action: FaultAction) -> Self {
        Self { op, file: None, range: 0..u64::MAX, skip: 0, count: u32::MAX, action }
    }

    fn touches(&self, request: &Request) -> bool {
        let end = request.offset.saturating_add(request.len.max(1));
        let place = request.op == FileOp::Sync
            || (request.offset < self.range.end && self.range.start < end);
        place && self.op.matches(request.op) && self.file.is_none_or(|file| file == request.file)
    }

    /// What the fault does to `request`, if it applies; counts it.
    pub(super) fn take(&mut self, request: &Request) -> Option<FaultAction> {
        if self.count == 0 || !self.touches(request) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if self.count < u32::MAX {
            self.count -= 1;
        }
        Some(self.action)
    }
}
