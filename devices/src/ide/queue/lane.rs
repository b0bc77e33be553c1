//! One drive, and what it is doing.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use spindle_block::{IoBuf, Op, Range};

use super::super::{channel::DATA_MAX, prd::Shape};
use crate::{
    ata::{Cdb, Command, Drive, JobEnd, Taskfile, spec::op},
    scsi,
};

/// What is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Doing {
    /// Nothing.
    Nothing,
    /// A request without data.
    Plain,
    /// A piece of a read by PIO.
    PioRead,
    /// A block of a write by PIO.
    PioWrite,
    /// A transfer by DMA.
    Dma,
    /// A job.
    Job,
    /// Nothing: it failed and waits for the machine to go on.
    Parked(Again),
}

/// What is done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Again {
    Io(Request),
    Command,
    Packet(u8),
}

/// A request to the block layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Request {
    Plain,
    PioRead,
    PioWrite,
    Dma,
}

impl From<Request> for Doing {
    fn from(request: Request) -> Self {
        match request {
            Request::Plain => Self::Plain,
            Request::PioRead => Self::PioRead,
            Request::PioWrite => Self::PioWrite,
            Request::Dma => Self::Dma,
        }
    }
}

impl From<Doing> for Request {
    fn from(doing: Doing) -> Self {
        match doing {
            Doing::PioRead => Self::PioRead,
            Doing::PioWrite => Self::PioWrite,
            Doing::Dma => Self::Dma,
            Doing::Plain | Doing::Nothing | Doing::Job | Doing::Parked(_) => Self::Plain,
        }
    }
}

/// What a drive waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Await {
    /// The bus master, for a command.
    Command,
    /// The bus master, for a packet.
    Packet,
    /// It is served by the bus master.
    Dma,
    /// The table ended before the data did: only a reset helps.
    Reset,
}

/// How far the data of a command are.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Transfer {
    /// Bytes in all.
    pub len: u64,
    /// Bytes of a DRQ data block.
    pub block: u32,
    /// Bytes that were moved.
    pub done: u64,
}

/// What a job came to.
pub(in super::super) enum Outcome {
    Ata(JobEnd),
    Packet(scsi::JobResult),
}

pub(in super::super) type JobResult = Arc<Mutex<Option<Outcome>>>;

/// See the module.
pub(in super::super) struct Lane {
    pub drive: Drive,
    pub tf: Taskfile,
    pub command: Option<Command>,
    pub cdb: Cdb,
    pub moved: Transfer,
    pub doing: Doing,
    pub awaits: Option<Await>,
    /// What is in flight is of the time before a reset.
    pub abandoned: bool,
    /// A step of the drive's own is in flight.
    pub background: Option<super::background::Running>,
    pub op: Op,
    pub range: Range,
    pub started: Option<Instant>,
    pub job: Option<JobResult>,
    /// Ends the job early.
    pub abort: Option<Box<dyn Fn() + Send>>,
    /// How the table's memory compares with the transfer.
    pub shape: Shape,
    /// Guest memory of a transfer while it is not in the block layer; its capacity is kept.
    pub guest: IoBuf,
    /// Memory of PIO transfers, made at the first.
    pub own: IoBuf,
    /// Memory of what is parked.
    pub parked: IoBuf,
    /// Data that are not the medium's, to or from the host.
    pub bytes: Vec<u8>,
    /// What a packet reads.
    pub packet_range: Range,
    /// A read by PIO failed: it goes on block by block.
    pub fine: bool,
    /// Its next piece is to be read.
    pub again: bool,
    /// How the packet ends once its data are moved.
    pub answer: Option<scsi::Answer>,
}

impl Lane {
    pub fn new(drive: Drive) -> Box<Self> {
        Box::new(Self {
            drive,
            tf: Taskfile::default(),
            command: None,
            cdb: [0; _],
            moved: Transfer::default(),
            doing: Doing::Nothing,
            awaits: None,
            abandoned: false,
            background: None,
            op: Op::Flush,
            range: Range::default(),
            started: None,
            job: None,
            abort: None,
            shape: Shape::Exact,
            guest: IoBuf::with_capacity(32),
            own: IoBuf::empty(),
            parked: IoBuf::empty(),
            bytes: Vec::new(),
            packet_range: Range::default(),
            fine: false,
            again: false,
            answer: None,
        })
    }

    /// Bytes of a read by PIO that are read at once: whole blocks.
    pub fn piece_max(&self) -> u64 {
        let block = u64::from(self.moved.block.max(1));
        let most = DATA_MAX as u64;
        if self.fine || block >= most { block } else { most - most % block }
    }

    /// `len` bytes of memory of our own, [`DATA_MAX`] at most.
    pub fn own_memory(&mut self, len: u64) -> IoBuf {
        if self.own.len() != len {
            self.own = IoBuf::zeroed(len.min(DATA_MAX as u64) as usize);
        }
        std::mem::take(&mut self.own)
    }

    /// What the host sent, should a job fail and be done again.
    pub fn keep_for_replay(&mut self, data: &IoBuf) {
        self.parked = if data.is_empty() { IoBuf::empty() } else { data.view(0, data.len()) };
    }

    pub fn is_in_flight(&self) -> bool {
        !matches!(self.doing, Doing::Nothing | Doing::Parked(_))
    }

    pub fn is_packet_command(&self) -> bool {
        self.tf.command == op::PACKET
    }

    /// The command is over.
    pub fn idle(&mut self) {
        self.command = None;
        self.awaits = None;
        self.answer = None;
        (self.fine, self.again) = (false, false);
        self.bytes = Vec::new();
        self.parked = IoBuf::empty();
        self.guest.clear();
    }

    /// A reset: nothing comes of what it was doing.
    pub fn abandon(&mut self) {
        if self.is_in_flight() {
            self.abandoned = true;
            if let Some(abort) = self.abort.take() {
                abort();
            }
        } else {
            self.doing = Doing::Nothing;
        }
        self.idle();
    }

    /// Memory comes back from the block layer.
    pub fn take_back(&mut self, doing: Doing, buf: IoBuf) {
        match doing {
            Doing::Dma => {
                self.guest = buf;
                self.guest.clear();
            }
            Doing::PioRead | Doing::PioWrite => self.own = buf,
            Doing::Plain | Doing::Nothing | Doing::Job | Doing::Parked(_) => {}
        }
    }
}
