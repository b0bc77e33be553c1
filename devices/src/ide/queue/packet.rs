//! PACKET commands.

use std::sync::PoisonError;

use spindle_block::{Cx, IoBuf, Op, Range, iothread::Port};

use super::{
    super::{
        channel::DATA_MAX,
        prd::{self, Shape},
    },
    ChannelQueue,
    lane::{Await, Doing, Outcome, Transfer},
};
use crate::{
    ata::{
        Command, Ending, Failure, PacketStep,
        spec::{error, reason},
    },
    scsi::{self, Answer, cmd::Transfer as PacketTransfer},
};

impl ChannelQueue {
    /// A packet has arrived.
    pub(super) fn packet(&mut self, port: &mut Port<'_>, index: usize) {
        let now = self.now(port.cx());
        let Some(lane) = &mut self.lanes[index] else { return };
        let command = match lane.drive.accept(&lane.tf, now) {
            Ok(command) => command,
            Err(ending) => return self.end(index, &ending),
        };
        lane.command = Some(command);
        let Command::Packet { dma, limit } = command else {
            let ending = Ending::failed(&lane.tf, error::ABRT);
            return self.end(index, &ending);
        };
        let transfer = lane.drive.packet(&lane.cdb);
        let moves = matches!(transfer, PacketTransfer::In(1..) | PacketTransfer::Out(1..));
        if moves && dma {
            lane.awaits = Some(Await::Packet);
            return;
        }
        // Blocks of whole words, as many as the host allows (ATA-7, 6.20).
        let block = u32::from(if limit == u16::MAX { limit - 1 } else { limit } & !1);
        if moves && block == 0 {
            let count = u16::from(reason::CD | reason::IO);
            let ending = Ending { count, ..Ending::failed(&lane.tf, error::ABRT) };
            return self.end(index, &ending);
        }
        lane.moved = Transfer { len: 0, block, done: 0 };
        match transfer {
            PacketTransfer::Out(len @ 1..) => {
                lane.moved.len = len;
                self.ask(index, true);
            }
            _ => self.begin_packet(port, index, IoBuf::empty(), None),
        }
    }

    /// Begins a packet whose data, if the host sends any, are in `data`.
    pub(super) fn begin_packet(
        &mut self,
        port: &mut Port<'_>,
        index: usize,
        data: IoBuf,
        phase: Option<u8>,
    ) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let cdb = lane.cdb;
        match lane.drive.begin_packet(&cdb, &data, phase) {
            PacketStep::Answer(answer) => self.packet_answer(index, answer),
            PacketStep::Io { op: Op::Read, range } => self.read_packet(port, index, range),
            PacketStep::Io { op, range } if op.has_data() => {
                self.submit(port, index, Doing::Dma, (op, range), data.view(0, range.len));
            }
            PacketStep::Io { op, range } => {
                self.submit(port, index, Doing::Plain, (op, range), IoBuf::empty());
            }
            PacketStep::Job(job) => {
                let Some((token, result)) = self.start_job(port, index, Op::Read) else { return };
                let abort = job.abort_flag();
                if let Some(lane) = &mut self.lanes[index] {
                    lane.abort = Some(Box::new(move || abort.set()));
                }
                let cx = Cx::clone(port.cx());
                port.spawn(token, async move {
                    let (data, end) = job.run(cx, data).await;
                    *result.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Outcome::Packet(end));
                    (data, Ok(()))
                });
            }
        }
    }

    /// Reads from the medium: by DMA at once, by PIO in pieces.
    fn read_packet(&mut self, port: &mut Port<'_>, index: usize, range: Range) {
        let Some(lane) = &mut self.lanes[index] else { return };
        if range.len == 0 {
            return self.packet_answer(index, Answer::good());
        }
        if lane.awaits != Some(Await::Dma) {
            lane.packet_range = range;
            lane.moved.len = range.len;
            return self.read_packet_piece(port, index);
        }
        let table = self.channel.lock().bm.table;
        if self.gather(index, table, range.len).is_err() {
            return self.bus_error(index);
        }
        let Some(lane) = &mut self.lanes[index] else { return };
        let mut range = range;
        if let Shape::Shorter(len) = lane.shape {
            // Whole blocks go through.
            range.len = len - len % 2048;
            if range.len == 0 {
                return self.stall(index);
            }
            prd::cut(&mut lane.guest, range.len);
        }
        let buf = std::mem::take(&mut lane.guest);
        self.submit(port, index, Doing::Dma, (Op::Read, range), buf);
    }

    /// Reads as much as the data port takes at once.
    pub(super) fn read_packet_piece(&mut self, port: &mut Port<'_>, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Transfer { len, done, .. } = lane.moved;
        let n = (len - done).min(DATA_MAX as u64);
        let range = Range::new(lane.packet_range.offset + done, n);
        let buf = lane.own_memory(n);
        self.submit(port, index, Doing::PioRead, (Op::Read, range), buf);
    }

    /// The answer is known: its data go to the host first.
    fn packet_answer(&mut self, index: usize, mut answer: Answer) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let data = std::mem::take(&mut answer.data);
        if data.is_empty() {
            let ending = lane.drive.finish_packet(&lane.tf, &answer);
            return self.end(index, &ending);
        }
        if lane.awaits != Some(Await::Dma) {
            lane.bytes = data;
            lane.answer = Some(answer);
            return self.offer_bytes(index);
        }
        let table = self.channel.lock().bm.table;
        if self.gather(index, table, data.len() as u64).is_err() {
            return self.bus_error(index);
        }
        let Some(lane) = &mut self.lanes[index] else { return };
        let len = lane.guest.len() as usize;
        lane.guest.write_at(0, &data[..len]);
        self.dma.wrote(&lane.guest);
        if let Shape::Shorter(_) = lane.shape {
            return self.stall(index);
        }
        let ending = lane.drive.finish_packet(&lane.tf, &answer);
        self.end(index, &ending);
    }

    /// A request of a packet has ended in the block layer.
    pub(super) fn packet_io_ended(&mut self, index: usize, result: Result<(), Failure>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let answer = match result {
            Ok(()) => Answer::good(),
            Err(Failure { error, op, offset }) => {
                let lba = op.has_data().then_some(offset / 2048);
                let failure = scsi::Failure { error, read: op == Op::Read, lba, phase: 0 };
                lane.drive.packet_answer(Err(failure))
            }
        };
        let ending = lane.drive.finish_packet(&lane.tf, &answer);
        self.end(index, &ending);
    }

    /// A packet's job has ended; `None`: as well as it could.
    pub(super) fn packet_ended(&mut self, index: usize, result: Option<scsi::JobResult>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let answer = match result {
            Some(result) => lane.drive.packet_answer(result),
            None => Answer::good(),
        };
        self.packet_answer(index, answer);
    }
}
