//! Packets (AHCI 5.3.7; ACS-3, 7.18).

use std::sync::PoisonError;

use spindle_block::{BlockError, Cx, Op, iothread::Port as RingPort};

use super::{Abort, Fetched, Gap, JobOutcome, PortQueue};
use crate::{
    ahci::{
        fis,
        port::tfd,
        slot::State,
        spec::{header, is},
    },
    ata::{Command, Ending, PACKET_LEN, PacketStep, spec::error},
    scsi::{Answer, Failure, JobEnd, cmd::Transfer},
};

impl PortQueue {
    /// Takes a PACKET command, which keeps the drive busy.
    pub(super) fn take_packet(&mut self, ring: &mut RingPort<'_>, index: u8, fetched: &Fetched) {
        let slot = &mut self.slots[usize::from(index)];
        slot.cdb = [0; 32];
        slot.cdb[..PACKET_LEN].copy_from_slice(&fetched.packet);
        let (tf, cdb) = (slot.tf, slot.cdb);
        if fetched.flags & header::ATAPI == 0 {
            // There is no packet to send (AHCI 4.2.2).
            return self.end(index, Ending::failed(&tf, error::ABRT), 0);
        }
        let Some(plugged) = &self.targets[self.seat(index)].plugged else { return };
        let (len, out) = match plugged.drive.packet(&cdb) {
            Transfer::None => (0, false),
            Transfer::In(len) => (len, false),
            Transfer::Out(len) => (len, true),
        };
        let slot = &mut self.slots[usize::from(index)];
        match fetched.gather(&self.hba.dma, len, &mut slot.buf) {
            Ok(interrupt) => slot.interrupt = interrupt,
            Err(_) => return self.fatal(is::HBFS, 0),
        }
        if out && slot.buf.len() < len {
            return self.overflow(Gap::TooShort);
        }
        self.begin_packet(ring, index);
    }

    fn overflow(&mut self, gap: Gap) {
        self.fatal(if gap == Gap::TooShort { is::OFS } else { is::HBFS }, 0);
    }

    pub(super) fn begin_packet(&mut self, ring: &mut RingPort<'_>, index: u8) {
        let seat = self.seat(index);
        let Some(plugged) = &mut self.targets[seat].plugged else { return };
        let slot = &mut self.slots[usize::from(index)];
        match plugged.drive.begin_packet(&slot.cdb, &slot.buf, slot.phase) {
            PacketStep::Io { op, range } if op.has_data() && range.len > slot.buf.len() => {
                self.overflow(Gap::TooShort);
            }
            PacketStep::Io { op, range } => self.submit(ring, index, op, range),
            PacketStep::Answer(answer) => self.answer_packet(index, &answer),
            PacketStep::Job(job) => {
                let abort = Abort::Packet(job.abort_flag());
                let data = std::mem::take(&mut slot.buf);
                let outcome = self.start_job(ring, index, Op::Read, abort);
                let cx = Cx::clone(ring.cx());
                ring.spawn(index.into(), async move {
                    let (data, end) = job.run(cx, data).await;
                    *outcome.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(JobOutcome::Packet(end));
                    (data, Ok(()))
                });
            }
        }
    }

    /// What came of a packet's request or job.
    pub(super) fn complete_packet(
        &mut self,
        ring: &RingPort<'_>,
        index: u8,
        result: Result<(), BlockError>,
        job: Option<JobOutcome>,
    ) {
        let slot = &self.slots[usize::from(index)];
        let (op, range) = (slot.op, slot.range);
        let outcome = match job {
            Some(JobOutcome::Packet(end)) => end,
            Some(JobOutcome::Ata(_)) => Ok(JobEnd::Answer(Answer::good())),
            None => result.map(|()| JobEnd::Answer(Answer::good())).map_err(|error| Failure {
                error,
                read: op == Op::Read,
                lba: Some(range.offset / self.packet_block(index)),
                phase: 0,
            }),
        };
        self.account(ring, index, outcome.as_ref().map(|_| ()).map_err(|failure| failure.error));
        let outcome = match outcome {
            Ok(end) => Ok(end),
            Err(failure) => {
                let op = if failure.read { Op::Read } else { Op::Flush };
                match self.failed(index, op, failure.error) {
                    Some(Ok(())) => Ok(JobEnd::Answer(Answer::good())),
                    Some(Err(_)) => Err(failure),
                    None => {
                        self.slots[usize::from(index)].phase = Some(failure.phase);
                        return;
                    }
                }
            }
        };
        let Some(plugged) = &self.targets[self.seat(index)].plugged else { return };
        let answer = plugged.drive.packet_answer(outcome);
        let moved = if answer.sense.is_none() && op.has_data() { range.len } else { 0 };
        if moved > 0 {
            self.finish_packet(index, &answer, moved);
        } else {
            self.answer_packet(index, &answer);
        }
    }

    /// Logical block size of the unit.
    fn packet_block(&self, index: u8) -> u64 {
        self.targets[self.seat(index)]
            .plugged
            .as_ref()
            .map_or(1, |plugged| plugged.drive.packet_block())
            .into()
    }

    /// Moves an answer's data, and ends the packet.
    fn answer_packet(&mut self, index: u8, answer: &Answer) {
        let slot = &mut self.slots[usize::from(index)];
        let moved = slot.buf.len().min(answer.data.len() as u64);
        if moved > 0 {
            slot.buf.write_at(0, &answer.data[..moved as usize]);
            self.hba.dma.wrote(&slot.buf);
        }
        if (moved as usize) < answer.data.len() {
            return self.overflow(Gap::TooShort);
        }
        self.finish_packet(index, answer, moved);
    }

    fn finish_packet(&mut self, index: u8, answer: &Answer, moved: u64) {
        let seat = self.seat(index);
        let Some(plugged) = &mut self.targets[seat].plugged else { return };
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Free;
        slot.buf.clear();
        let ending = plugged.drive.finish_packet(&slot.tf, answer);
        let pio = matches!(slot.command, Command::Packet { dma: false, .. });
        if slot.interrupt && moved > 0 {
            self.changes.is |= is::DPS;
        }
        self.not_busy(index);
        self.dirty = true;
        if ending.is_error() {
            return self.end_in_error(&ending);
        }
        self.count_bytes(index, moved);
        if pio && moved > 0 {
            let last = ((moved - 1) % 0xfffe + 1) as u16;
            self.frames.pio = Some(fis::pio_setup(&ending, true, true, last));
            self.changes.is |= is::PSS;
        }
        self.frames.register = Some(fis::device_register(&ending, true));
        self.changes.is |= is::DHRS;
        self.changes.tfd = Some(tfd(&ending));
        self.changes.ci |= 1 << index;
    }
}
