//! The PACKET feature set (ACS-3, 4.3 and 7.18; MMC-6): a command packet is a command descriptor
//! block for the SCSI target.

use std::sync::Arc;

use spindle_block::{IoBuf, Op, Range};

use super::spec::{error, reason, status};
use crate::scsi::{
    Answer, Arrival, Failure, Job, JobEnd, LogicalUnit, LunSelect, Nexus, Sense, Step, UnitHandle,
    cmd::{self, Transfer},
    sense_of,
    spec::{CDB_MAX, Status, op},
};

/// A command packet of 12 bytes, padded with zeros.
pub type Cdb = [u8; CDB_MAX];

/// Bytes of a packet on the wire (word 0 of IDENTIFY PACKET DEVICE data).
pub const PACKET_LEN: usize = 12;

/// What is to be done about a packet.
pub enum PacketStep {
    /// One request for the block layer, over as much of the memory as the range is long.
    Io {
        /// What to do.
        op: Op,
        /// Where.
        range: Range,
    },
    /// It is done: move these bytes to the host, then end as this says.
    Answer(Answer),
    /// Run this, with the command's memory.
    Job(Box<Job>),
}

/// The drive behind a packet interface.
pub(super) struct PacketDrive {
    handle: UnitHandle,
    nexus: Nexus,
    /// Of the last command that failed: REQUEST SENSE takes it (SPC-5, 6.39). There is no autosense.
    sense: Option<Sense>,
}

impl PacketDrive {
    pub fn new(unit: &Arc<LogicalUnit>, nexus: Nexus) -> Self {
        Self { handle: unit.handle(), nexus, sense: None }
    }

    pub fn handle(&mut self) -> &mut UnitHandle {
        &mut self.handle
    }

    pub fn block_size(&self) -> u32 {
        self.handle.unit().config().block_size()
    }

    /// What a packet moves, at most.
    pub fn transfer(&self, cdb: &Cdb) -> Transfer {
        let config = self.handle.unit().config();
        cmd::parse(cdb, config.kind)
            .map_or(Transfer::None, |command| command.transfer(config.block_size()))
    }

    /// Begins a packet, or begins it again in a later phase.
    pub fn begin(&mut self, cdb: &Cdb, data: &IoBuf, phase: Option<u8>) -> PacketStep {
        let sense = self.sense.take();
        if cdb[0] == op::REQUEST_SENSE
            && let Some(sense) = sense
        {
            let bytes = sense.encode(cdb[1] & 1 != 0);
            return PacketStep::Answer(Answer::reply(bytes.as_slice().to_vec(), cdb[4].into()));
        }
        let (in_len, out_len) = match self.transfer(cdb) {
            Transfer::None => (0, 0),
            Transfer::In(len) => (len, 0),
            Transfer::Out(len) => (0, len),
        };
        let one = |_: LunSelect| vec![[0; 8]];
        let arrival = Arrival { nexus: self.nexus, cdb, out_len, in_len, data, luns: &one };
        let step = match phase {
            None => self.handle.begin(&arrival),
            Some(phase) => self.handle.resume(&arrival, phase),
        };
        match step {
            Step::Io { op, range } => PacketStep::Io { op, range },
            Step::Job(job) => PacketStep::Job(job),
            Step::Answer(answer) => PacketStep::Answer(answer),
            Step::Overrun => PacketStep::Answer(Sense::cdb_field(0, None).into()),
        }
    }

    /// The answer to what ended below.
    pub fn answer(&self, result: Result<JobEnd, Failure>) -> Answer {
        match result {
            Ok(JobEnd::Answer(answer)) => answer,
            Ok(JobEnd::Overwriting) => Answer::good(),
            Err(failure) => sense_of(failure.error, failure.read, failure.lba).into(),
        }
    }

    /// Status, error and interrupt reason of an answer; its sense data wait to be asked for.
    pub fn registers(&mut self, answer: &Answer) -> (u8, u8, u8) {
        let reason = reason::CD | reason::IO;
        if answer.status == Status::Good {
            return (status::DRDY, error::NONE, reason);
        }
        self.sense = answer.sense;
        let key = answer.sense.map_or(0, |sense| sense.key);
        (status::DRDY | status::ERR, key << 4 | error::ABRT, reason)
    }

    /// A reset forgets what nobody asked for.
    pub fn reset(&mut self) {
        self.sense = None;
    }
}
