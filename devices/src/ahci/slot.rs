//! A place for one command.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Instant,
};

use spindle_block::{IoBuf, Op, Range, iobuf::Keep};

use crate::{
    ata::{Cdb, Command, JobEnd, Taskfile},
    scsi::{AbortFlag, JobResult},
};

/// What a slot's command is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// In the block layer, or a job.
    InFlight,
    /// It failed, and waits for the machine to go on.
    Parked,
}

/// What a job ended with.
pub(super) enum JobOutcome {
    Ata(JobEnd),
    Packet(JobResult),
}

/// What ends a job early.
pub(super) enum Abort {
    Ata(Arc<AtomicBool>),
    Packet(AbortFlag),
}

/// A job under way.
pub(super) struct Running {
    pub outcome: Arc<Mutex<Option<JobOutcome>>>,
    pub abort: Abort,
}

impl Running {
    pub fn take(&self) -> Option<JobOutcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn abort(&self) {
        match &self.abort {
            Abort::Ata(flag) => flag.store(true, SeqCst),
            Abort::Packet(flag) => flag.set(),
        }
    }
}

/// See the module.
pub(super) struct Slot {
    pub state: State,
    /// The device behind a multiplier; 0 where there is none.
    pub target: u8,
    pub tf: Taskfile,
    pub command: Command,
    /// Of a packet.
    pub cdb: Cdb,
    /// Where a second try of a packet begins; `None`: it was not begun.
    pub phase: Option<u8>,
    /// It is queued.
    pub queued: bool,
    /// Nobody wants to hear how it ends.
    pub dropped: bool,
    /// A PRD asks for an interrupt.
    pub interrupt: bool,
    /// What was submitted.
    pub op: Op,
    pub range: Range,
    pub started: Option<Instant>,
    pub job: Option<Running>,
    /// The command's memory while it is not in the block layer; its capacity is kept.
    pub buf: IoBuf,
}

impl Slot {
    pub fn new(keep: &Keep) -> Self {
        let mut buf = IoBuf::with_capacity(2);
        buf.set_keep(Arc::clone(keep));
        Self {
            state: State::Free,
            target: 0,
            tf: Taskfile::default(),
            command: Command::Flush,
            cdb: [0; 32],
            phase: None,
            queued: false,
            dropped: false,
            interrupt: false,
            op: Op::Flush,
            range: Range::default(),
            started: None,
            job: None,
            buf,
        }
    }
}
