//! The in-flight table of a ring: what the kernel may still write to stays here.

use super::Request;
use crate::{BlockError, IoBuf};

/// A request in flight.
#[derive(Debug)]
pub(super) struct Slot {
    pub request: Request,
    /// Bytes done by earlier parts of the same request.
    pub done: u64,
    /// The remainder after a short transfer; empty before.
    pub rest: IoBuf,
    /// Resubmissions after a transient refusal.
    pub retries: u8,
}

impl Slot {
    /// The memory of the next transfer.
    pub fn memory(&self) -> &IoBuf {
        if self.rest.is_empty() { &self.request.buf } else { &self.rest }
    }

    /// Accounts `n` bytes of a transfer that was not complete.
    pub fn advance(&mut self, n: u64) {
        self.done += n;
        let left = self.request.len - self.done;
        self.rest = self.request.buf.view(self.done, left);
    }

    /// A read met the end of the file: the rest of the memory reads as zeros.
    pub fn zero_rest(&mut self) {
        let (at, left) = (self.done, self.request.len - self.done);
        self.request.buf.zero(at, left);
    }
}

/// Slots by number. Grows to the greatest number in flight at once and stays there.
#[derive(Debug, Default)]
pub(super) struct Slots {
    entries: Vec<Option<Slot>>,
    free: Vec<u32>,
}

impl Slots {
    pub fn insert(&mut self, request: Request) -> u32 {
        let slot = Slot { request, done: 0, rest: IoBuf::empty(), retries: 0 };
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some(slot);
            return index;
        }
        self.entries.push(Some(slot));
        // Room to give every slot back without allocating.
        self.free.reserve(self.entries.len());
        (self.entries.len() - 1) as u32
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut Slot> {
        self.entries.get_mut(index as usize)?.as_mut()
    }

    pub fn remove(&mut self, index: u32) -> Option<Slot> {
        let slot = self.entries.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(slot)
    }

    pub fn used(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

/// What a transfer's return value means for its request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is done.
    Complete,
    /// Submit the rest.
    Again,
    /// It failed.
    Failed(BlockError),
}

/// How often a transient refusal (`EAGAIN`, `EINTR`) is tried again before it is an error.
const RETRIES_MAX: u8 = 16;

impl Slot {
    /// Judges a return value: bytes or a negative errno.
    pub fn judge(&mut self, res: i32) -> Outcome {
        use super::FileOp::{Read, Write};
        if res < 0 {
            if matches!(-res, libc::EAGAIN | libc::EINTR) && self.retries < RETRIES_MAX {
                self.retries += 1;
                return Outcome::Again;
            }
            return Outcome::Failed(BlockError::from_errno(-res));
        }
        let n = u64::from(res.unsigned_abs());
        match self.request.op {
            Read if n == 0 => {
                self.zero_rest();
                Outcome::Complete
            }
            // A write that makes no progress and gives no reason: a device at its end.
            Write { .. } if n == 0 && self.request.len > 0 => Outcome::Failed(BlockError::NoSpace),
            Read | Write { .. } if self.done + n < self.request.len => {
                self.advance(n);
                Outcome::Again
            }
            _ => Outcome::Complete,
        }
    }
}
