//! What a drive with PACKET does with its unit.

use spindle_block::IoBuf;

use super::{
    super::{Cdb, PacketStep, Taskfile, spec::error},
    Drive, Ending, Kind,
};
use crate::scsi::{self, cmd::Transfer as PacketTransfer};

impl Drive {
    /// Bytes of a logical block, behind a packet interface; else of a sector.
    #[must_use]
    pub fn packet_block(&self) -> u32 {
        match &self.kind {
            Kind::Packet(packet) => packet.block_size(),
            Kind::Disk(_) => self.sector,
        }
    }

    /// What a packet moves, at most; nothing, where it is not understood.
    #[must_use]
    pub fn packet(&self, cdb: &Cdb) -> PacketTransfer {
        match &self.kind {
            Kind::Packet(packet) => packet.transfer(cdb),
            Kind::Disk(_) => PacketTransfer::None,
        }
    }

    /// Begins a packet. `data` is its memory, filled where the host sends data; `phase` is that of a
    /// command that failed and is tried again.
    pub fn begin_packet(&mut self, cdb: &Cdb, data: &IoBuf, phase: Option<u8>) -> PacketStep {
        match &mut self.kind {
            Kind::Packet(packet) => packet.begin(cdb, data, phase),
            Kind::Disk(_) => PacketStep::Answer(scsi::Sense::invalid_opcode().into()),
        }
    }

    /// The answer to a packet that went to the block layer or was a job.
    #[must_use]
    pub fn packet_answer(&self, result: scsi::JobResult) -> scsi::Answer {
        match (&self.kind, result) {
            (Kind::Packet(packet), result) => packet.answer(result),
            (Kind::Disk(_), _) => scsi::Sense::invalid_opcode().into(),
        }
    }

    /// Ends a packet, its data having been moved: the registers as the host sees them.
    pub fn finish_packet(&mut self, tf: &Taskfile, answer: &scsi::Answer) -> Ending {
        let Kind::Packet(packet) = &mut self.kind else {
            return Ending::failed(tf, error::ABRT);
        };
        let (status, error, reason) = packet.registers(answer);
        Ending { status, error, count: reason.into(), ..Ending::good(tf) }
    }
}
