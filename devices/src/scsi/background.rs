//! FORMAT UNIT and SANITIZE: they write the whole medium, step by step.
//!
//! A step is short. Whoever serves a queue that reaches the unit claims the next one, so that a
//! paused machine pauses the operation too, and an operation outlives the reset of the controller
//! that it came through.

use std::sync::Arc;

use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range};

use super::{
    exec::Answer,
    sense::Sense,
    spec::{asc, key},
    unit::LogicalUnit,
};

/// What is being done to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// FORMAT UNIT (SBC-4, 5.4).
    Format,
    /// SANITIZE (SBC-4, 5.30).
    Sanitize,
}

/// With what the medium is overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// Zeros.
    Zeros,
    /// One block of these bytes, again and again.
    Pattern {
        /// A block.
        block: Vec<u8>,
        /// Passes.
        count: u8,
        /// Every other pass writes the complement.
        invert: bool,
    },
}

impl Fill {
    pub(super) fn passes(&self) -> u8 {
        match self {
            Self::Zeros => 1,
            Self::Pattern { count, .. } => *count,
        }
    }
}

/// An operation under way, or one that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Background {
    pub work: Work,
    pub fill: Fill,
    /// The pass under way, from 0.
    pub pass: u8,
    /// Bytes of the pass that are done.
    pub done: u64,
    /// Bytes of the medium.
    pub size: u64,
    /// Somebody does a step.
    pub claimed: bool,
    /// It has failed for good: only EXIT FAILURE MODE or a successful sanitize ends this.
    pub failed: bool,
    /// A failed sanitize may be left (AUSE, SBC-4, 5.30.1).
    pub may_exit: bool,
}

/// Bytes that a step writes at most.
const STEP: u64 = 4 << 20;
/// Bytes that a step of zeros covers at most: nothing is sent for it.
const ZERO_STEP: u64 = 256 << 20;

impl Background {
    pub fn new(work: Work, fill: Fill, size: u64, may_exit: bool) -> Self {
        Self { work, fill, pass: 0, done: 0, size, claimed: false, failed: false, may_exit }
    }

    /// What commands are told meanwhile.
    pub fn sense(&self) -> Sense {
        if self.failed {
            return Sense::new(key::MEDIUM_ERROR, asc::SANITIZE_FAILED);
        }
        let code = match self.work {
            Work::Format => asc::NOT_READY_FORMAT,
            Work::Sanitize => asc::NOT_READY_SANITIZE,
        };
        let total = u128::from(self.size.max(1)) * u128::from(self.fill.passes().max(1));
        let done = u128::from(self.size) * u128::from(self.pass) + u128::from(self.done);
        let progress = (done << 16) / total;
        Sense::not_ready(code).with_progress(progress.min(0xffff) as u16)
    }

    fn next(&self) -> Io {
        let left = self.size - self.done;
        match &self.fill {
            Fill::Zeros => {
                let range = Range::new(self.done, left.min(ZERO_STEP));
                Io::bare(Op::WriteZeroes { unmap: self.work == Work::Format, fua: true }, range)
            }
            Fill::Pattern { block, invert, .. } => {
                let len = left.min(STEP);
                let flip = if *invert && self.pass % 2 == 1 { 0xff } else { 0 };
                let block: Vec<u8> = block.iter().map(|byte| byte ^ flip).collect();
                let buf = pattern(&block, len);
                Io { op: Op::Write { fua: true }, range: Range::new(self.done, len), buf }
            }
        }
    }
}

/// `len` bytes of `block`, repeated.
pub(super) fn pattern(block: &[u8], len: u64) -> IoBuf {
    let mut buf = IoBuf::zeroed(len as usize);
    let mut at = 0;
    while at < len {
        let n = (len - at).min(block.len() as u64);
        buf.write_at(at, &block[..n as usize]);
        at += n;
    }
    buf
}

impl LogicalUnit {
    /// Starts an operation, unless one is under way.
    pub(super) fn start_background(&self, background: Background) {
        self.change(|state| {
            state.format_failed = false;
            state.background = Some(background);
        });
    }

    /// Whether a step waits for somebody to do it.
    #[must_use]
    pub fn wants_step(&self) -> bool {
        let state = self.lock();
        state.background.as_ref().is_some_and(|work| !work.claimed && !work.failed)
    }

    /// How overwriting the medium went: the answer to the command that asked for it. `None`: it
    /// goes on.
    #[must_use]
    pub fn overwritten(&self) -> Option<Answer> {
        let state = self.lock();
        match &state.background {
            Some(work) if work.failed => Some(work.sense().into()),
            Some(_) => None,
            None if state.format_failed => {
                Some(Sense::new(key::MEDIUM_ERROR, asc::FORMAT_FAILED).into())
            }
            None => Some(Answer::good()),
        }
    }

    /// Takes on the next step; `None` when there is none or somebody else is at it.
    pub(crate) fn claim_step(self: &Arc<Self>) -> Option<BackgroundStep> {
        let io = self.change(|state| {
            let work = state.background.as_mut().filter(|work| !work.claimed && !work.failed)?;
            work.claimed = true;
            Some(work.next())
        })?;
        Some(BackgroundStep { unit: Arc::clone(self), io: Some(io) })
    }

    fn step_done(&self, len: u64, result: Result<(), BlockError>) {
        self.advance(len, result);
        if self.overwritten().is_some() {
            for (nexus, initiator) in self.initiators() {
                initiator.overwritten(nexus);
            }
        }
    }

    fn advance(&self, len: u64, result: Result<(), BlockError>) {
        self.change(|state| {
            let Some(work) = &mut state.background else { return };
            work.claimed = false;
            if result.is_err() {
                // A format that fails leaves the unit as it is: to be formatted again.
                match work.work {
                    Work::Sanitize => work.failed = true,
                    Work::Format => {
                        state.background = None;
                        state.format_failed = true;
                    }
                }
                return;
            }
            work.done += len;
            if work.done >= work.size {
                work.done = 0;
                work.pass += 1;
                if work.pass >= work.fill.passes() {
                    state.background = None;
                }
            }
        });
    }
}

/// A claimed step.
pub(crate) struct BackgroundStep {
    unit: Arc<LogicalUnit>,
    io: Option<Io>,
}

impl BackgroundStep {
    /// Does it.
    pub async fn run(mut self, cx: Cx) {
        let Some(io) = self.io.take() else { return };
        let len = io.range.len;
        let result = match self.unit.root() {
            Some(root) => root.handle().io(&cx, io).await.1,
            None => Err(BlockError::Gone),
        };
        self.unit.step_done(len, result);
    }
}

impl Drop for BackgroundStep {
    /// A step that was never begun is there for somebody else.
    fn drop(&mut self) {
        if self.io.is_some() {
            self.unit.step_done(0, Ok(()));
        }
    }
}
