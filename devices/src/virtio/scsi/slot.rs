//! A place for one request.

use std::sync::{Arc, Mutex, PoisonError};

use spindle_block::{IoBuf, Op, Range, iobuf::Keep, iothread::Stamp};

use crate::{
    device::Countdown,
    scsi::{AbortFlag, JobResult, Turn, cmd::Cdb},
};

/// What a slot's request is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// In the block layer, or a job.
    InFlight,
    /// It waits for the machine to go on: it failed, or it came while others waited.
    Parked,
    /// It is done once the medium is overwritten.
    Overwriting,
    /// Its unit left while the queue could not answer: it is told once the queue can.
    Orphan,
}

/// A job under way: how it ends, and how it is ended.
pub(super) struct Running {
    pub result: Arc<Mutex<Option<JobResult>>>,
    pub abort: AbortFlag,
    /// See [`Job::is_free_writer`](crate::scsi::Job::is_free_writer).
    pub free_writer: bool,
}

impl Running {
    pub fn take(&self) -> Option<JobResult> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A command that waits for its turn: what it gets, and how it is ended before.
pub(super) struct Gate {
    pub turn: Arc<Mutex<Option<Turn>>>,
    pub abort: AbortFlag,
}

/// A place for one request, named by the head of its chain.
pub(super) struct Slot {
    pub state: State,
    /// Index of the unit.
    pub unit: u16,
    /// Where the unit is, for messages.
    pub target: u8,
    pub lun: u16,
    pub tag: u64,
    pub attribute: u8,
    pub cdb: Cdb,
    /// Bytes of memory, in both directions.
    pub out_len: u64,
    pub in_len: u64,
    /// What was submitted.
    pub op: Op,
    pub range: Range,
    /// Where a second try begins; `None`: it was not begun.
    pub phase: Option<u8>,
    pub started: Stamp,
    pub job: Option<Running>,
    /// It waits for its turn.
    pub gate: Option<Gate>,
    /// It has the turn.
    pub turn: Option<Turn>,
    /// The response that it gets, whatever comes of it.
    pub ended: Option<u8>,
    /// Its unit is gone: it does not wait for the machine to go on.
    pub leaving: bool,
    /// Those who wait for its end.
    pub waiting: Vec<Countdown>,
    /// The response's memory.
    pub response: IoBuf,
    /// The request's memory while it is not in the block layer; its capacity is kept.
    pub data: IoBuf,
}

impl Slot {
    pub fn new(keep: &Keep) -> Self {
        let buffer = || {
            let mut buf = IoBuf::with_capacity(2);
            buf.set_keep(Arc::clone(keep));
            buf
        };
        Self {
            state: State::Free,
            unit: 0,
            target: 0,
            lun: 0,
            tag: 0,
            attribute: 0,
            cdb: [0; 32],
            out_len: 0,
            in_len: 0,
            op: Op::Flush,
            range: Range::default(),
            phase: None,
            started: Stamp::default(),
            job: None,
            gate: None,
            turn: None,
            ended: None,
            leaving: false,
            waiting: Vec::new(),
            response: buffer(),
            data: buffer(),
        }
    }

    /// It gets this response, whatever comes of it.
    pub fn end(&mut self, code: u8) {
        self.ended.get_or_insert(code);
        if let Some(job) = &self.job {
            job.abort.set();
        }
        if let Some(gate) = &self.gate {
            gate.abort.set();
        }
    }

    /// Whether it is changing the medium, and nothing keeps it from it.
    pub fn is_free_writer(&self) -> bool {
        self.state == State::InFlight
            && self.gate.is_none()
            && self.job.as_ref().map_or(self.op.writes(), |job| job.free_writer)
    }

    pub fn total(&self) -> u64 {
        self.out_len + self.in_len
    }
}
