//! Where new blocks go: behind everything that is in use.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use super::Shape;
use crate::{
    BlockError, Cx,
    qcow2::{
        host::Host,
        sync::{Semaphore, lock},
    },
};

/// A place for new blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Its first byte.
    pub at: u64,
    /// It reads as zeros.
    pub zeroed: bool,
}

/// See the module.
pub(crate) struct Space {
    align: u64,
    origin: u64,
    tail: u64,
    limit: u64,
    /// The file's length when it was opened: what is beyond reads as zeros.
    opened: u64,
    next: AtomicU64,
    /// The file is at least this long.
    length: AtomicU64,
    /// Places that were taken and not used: offset and length in bytes.
    spare: Mutex<Vec<(u64, u64)>>,
    growing: Semaphore,
}

impl Space {
    pub(super) fn new(shape: &Shape, length: u64) -> Self {
        Self {
            align: shape.align.max(1),
            origin: shape.origin,
            tail: shape.tail,
            limit: shape.limit,
            opened: length,
            next: AtomicU64::new(shape.next),
            length: AtomicU64::new(length),
            spare: Mutex::new(Vec::new()),
            growing: Semaphore::new(1),
        }
    }

    /// The first byte behind everything in use.
    pub fn end(&self) -> u64 {
        self.next.load(SeqCst)
    }

    /// Takes `len` bytes. The file is long enough for them, and for what follows the last block.
    pub async fn take(&self, cx: &Cx, host: &Host, len: u64) -> Result<Taken, BlockError> {
        if let Some(at) = self.take_spare(len) {
            return Ok(Taken { at, zeroed: false });
        }
        let _only_one = self.growing.take(1).await;
        let next = self.next.load(SeqCst);
        let from = next.saturating_sub(self.origin).checked_next_multiple_of(self.align);
        let at = from.and_then(|n| n.checked_add(self.origin)).ok_or(BlockError::NoSpace)?;
        let end = at.checked_add(len).filter(|end| *end <= self.limit);
        let end = end.ok_or(BlockError::NoSpace)?;
        let needed = end.checked_add(self.tail).ok_or(BlockError::NoSpace)?;
        if needed > self.length.load(SeqCst) {
            host.set_len(cx, needed).await.map_err(|error| match error {
                // A device has the size it has.
                BlockError::Unsupported => BlockError::NoSpace,
                other => other,
            })?;
            self.length.store(needed, SeqCst);
        }
        self.next.store(end, SeqCst);
        Ok(Taken { at, zeroed: at >= self.opened })
    }

    fn take_spare(&self, len: u64) -> Option<u64> {
        let mut spare = lock(&self.spare);
        let index = spare.iter().position(|(_, have)| *have >= len)?;
        let (at, have) = spare.swap_remove(index);
        if have > len {
            spare.push((at + len, have - len));
        }
        Some(at)
    }

    /// What was taken was not used. Nobody knows what it holds.
    pub fn give_back(&self, at: u64, len: u64) {
        lock(&self.spare).push((at, len));
    }
}
