//! What takes several requests: a task on the drive's iothread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range, RootHandle};

/// A request to the block layer has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub error: BlockError,
    /// What was asked for.
    pub op: Op,
    /// Byte offset of what failed.
    pub offset: u64,
}

/// How a job ended.
pub type JobEnd = Result<(), Failure>;

/// Bytes read at once.
const PIECE: u64 = 256 << 10;

/// Bytes erased at once.
const ERASE_PIECE: u64 = 256 << 20;

/// What a job does.
pub(super) enum Work {
    /// Reads, and forgets.
    Verify(Range),
    /// Makes ranges read as zeros, and gives their space back.
    Trim(Vec<Range>),
    /// Reads parts of the medium, and forgets.
    Test(Vec<Range>),
    /// Makes a range read as zeros.
    Erase(Range),
    /// Writes a pattern over a range.
    Overwrite(Range, u32),
    /// Makes everything durable.
    Flush,
    /// Makes everything read as zeros, durably.
    EraseAll(Range),
}

/// See the module.
pub struct Job {
    root: RootHandle,
    work: Work,
    aborted: Arc<AtomicBool>,
}

impl Job {
    pub(super) fn new(root: RootHandle, work: Work) -> Self {
        Self { root, work, aborted: Arc::default() }
    }

    /// Set it, and the job ends with [`BlockError::Aborted`] before its next request.
    #[must_use]
    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.aborted)
    }

    /// What the error policies and the counters take it for.
    #[must_use]
    pub fn op(&self) -> Op {
        match self.work {
            Work::Verify(_) | Work::Test(_) => Op::Read,
            Work::Trim(_) => Op::Discard,
            Work::Erase(_) | Work::EraseAll(_) => Op::WriteZeroes { unmap: true, fua: false },
            Work::Overwrite(..) => Op::Write { fua: false },
            Work::Flush => Op::Flush,
        }
    }

    /// Runs it.
    pub async fn run(mut self, cx: Cx) -> JobEnd {
        match std::mem::replace(&mut self.work, Work::Trim(Vec::new())) {
            Work::Verify(range) => self.verify(&cx, range).await,
            Work::Test(ranges) => {
                for range in ranges {
                    self.verify(&cx, range).await?;
                }
                Ok(())
            }
            Work::Erase(range) => self.erase(&cx, range).await,
            Work::EraseAll(range) => {
                self.erase(&cx, range).await?;
                self.io(&cx, Io::flush(), Op::Flush).await.map(drop)
            }
            Work::Overwrite(range, pattern) => {
                let len = range.len as usize;
                let bytes: Vec<u8> = pattern.to_le_bytes().into_iter().cycle().take(len).collect();
                let io = Io::write(range.offset, IoBuf::from_slice(&bytes));
                self.io(&cx, io, Op::Write { fua: false }).await.map(drop)
            }
            Work::Flush => self.io(&cx, Io::flush(), Op::Flush).await.map(drop),
            Work::Trim(ranges) => {
                for range in ranges {
                    // WriteZeroes, because a discard would not promise what IDENTIFY does.
                    let op = Op::WriteZeroes { unmap: true, fua: false };
                    self.io(&cx, Io::bare(op, range), Op::Discard).await?;
                }
                Ok(())
            }
        }
    }

    async fn verify(&mut self, cx: &Cx, range: Range) -> JobEnd {
        let mut buf = IoBuf::zeroed(range.len.min(PIECE) as usize);
        let mut at = 0;
        while at < range.len {
            let len = (range.len - at).min(PIECE);
            if len < buf.len() {
                buf = IoBuf::zeroed(len as usize);
            }
            buf = self.io(cx, Io::read(range.offset + at, buf), Op::Read).await?;
            at += len;
        }
        Ok(())
    }

    async fn erase(&mut self, cx: &Cx, range: Range) -> JobEnd {
        let op = Op::WriteZeroes { unmap: true, fua: false };
        let mut at = 0;
        while at < range.len {
            let len = (range.len - at).min(ERASE_PIECE);
            let io = Io::bare(op, Range::new(range.offset + at, len));
            self.io(cx, io, op).await?;
            at += len;
        }
        Ok(())
    }

    async fn io(&mut self, cx: &Cx, io: Io, op: Op) -> Result<IoBuf, Failure> {
        let offset = io.range.offset;
        let failure = |error| Failure { error, op, offset };
        if self.aborted.load(SeqCst) {
            return Err(failure(BlockError::Aborted));
        }
        let (buf, result) = self.root.io(cx, io).await;
        result.map(|()| buf).map_err(failure)
    }
}
