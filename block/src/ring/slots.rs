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
            if -res == libc::EINVAL && self.ended_within_a_block() {
                self.zero_rest();
                return Outcome::Complete;
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

    /// An O_DIRECT read that met the end of a file whose length is not a multiple of the block: the
    /// kernel has given what there is, and refuses to go on from an odd place.
    fn ended_within_a_block(&self) -> bool {
        const BLOCK: u64 = 4096;
        self.request.op == super::FileOp::Read
            && self.done > 0
            && !(self.request.offset + self.done).is_multiple_of(BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Pin,
        file::FileId,
        ring::{FileOp, Owner},
    };

    fn slot(op: FileOp) -> Slot {
        let (file, owner) = (FileId(0), Owner::Task(0));
        let buf = IoBuf::from_slice(&[7; 8192]);
        let request = Request { op, file, offset: 4096, len: 8192, buf, pin: Pin::NONE, owner };
        Slot { request, done: 0, rest: IoBuf::empty(), retries: 0 }
    }

    #[test]
    fn a_direct_read_that_ends_within_a_block_is_followed_by_zeros() {
        let mut read = slot(FileOp::Read);
        assert_eq!(read.judge(1000), Outcome::Again);
        assert_eq!(read.judge(-libc::EINVAL), Outcome::Complete);
        let bytes = read.request.buf.to_vec();
        assert!(bytes[..1000].iter().all(|b| *b == 7) && bytes[1000..].iter().all(|b| *b == 0));
        let misaligned = Outcome::Failed(BlockError::Misaligned);
        assert_eq!(slot(FileOp::Read).judge(-libc::EINVAL), misaligned);
        let mut whole = slot(FileOp::Read);
        assert_eq!(whole.judge(4096), Outcome::Again);
        assert_eq!(whole.judge(-libc::EINVAL), misaligned);
        let mut write = slot(FileOp::Write { fua: false });
        assert_eq!(write.judge(1000), Outcome::Again);
        assert_eq!(write.judge(-libc::EINVAL), misaligned);
    }
}
