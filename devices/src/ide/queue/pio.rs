//! Data through the data port.

use spindle_block::{IoBuf, Op, iothread::Port};

use super::{
    super::channel::{After, DATA_MAX, Offer},
    ChannelQueue,
    lane::Doing,
};
use crate::ata::{Ending, Failure, Step};

impl ChannelQueue {
    /// Reads as much of the medium as the data port takes at once.
    pub(super) fn read_piece(&mut self, port: &mut Port<'_>, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Some(command) = lane.command else { return };
        let sector = u64::from(lane.drive.sector());
        let left = lane.moved.len - lane.moved.done;
        let len = left.min(lane.piece_max());
        let piece = command.piece((lane.moved.done / sector) as u32, (len / sector) as u32);
        match lane.drive.begin(&lane.tf, &piece, &IoBuf::empty()) {
            Step::Io { op, range } => {
                let buf = lane.own_memory(len);
                self.submit(port, index, Doing::PioRead, (op, range), buf);
            }
            // The blocks before the one that cannot be read are good.
            Step::Done(_) if len > u64::from(lane.moved.block) => {
                (lane.fine, lane.again) = (true, true);
                self.again = true;
            }
            Step::Done(ending) => self.end(index, &ending),
            Step::Reply(_) | Step::Job(_) => {}
        }
    }

    /// A piece was read: the host takes it from here.
    pub(super) fn piece_read(&mut self, index: usize, buf: IoBuf, result: Result<(), Failure>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        if let Err(failure) = result {
            let block = u64::from(lane.moved.block);
            if buf.len() > block && !lane.is_packet_command() {
                // The blocks before the one that cannot be read are good.
                (lane.fine, lane.again) = (true, true);
                self.again = true;
                return;
            }
            return match lane.is_packet_command() {
                true => self.packet_io_ended(index, Err(failure)),
                false => self.finish(index, Err(failure)),
            };
        }
        let len = buf.len() as usize;
        lane.moved.done += buf.len();
        let over = lane.moved.done >= lane.moved.len;
        let packet = lane.is_packet_command();
        let after = match (over, packet) {
            (false, _) => After::More,
            (true, false) => match lane.command {
                Some(command) => After::Over(lane.drive.finish(&lane.tf, &command, Ok(()))),
                None => After::Over(Ending::good(&lane.tf)),
            },
            (true, true) => {
                let good = crate::scsi::Answer::good();
                After::Interrupt(lane.drive.finish_packet(&lane.tf, &good))
            }
        };
        let offer = Offer { len, block: lane.moved.block as usize, packet, after };
        if over {
            lane.idle();
        }
        self.channel.offer(index, &offer, |bytes| buf.read_at(0, bytes));
        lane.own = buf;
    }

    /// Gives the host as much of a reply as the data port takes at once.
    pub(super) fn offer_bytes(&mut self, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let packet = lane.is_packet_command();
        let len = lane.bytes.len().min(DATA_MAX);
        let piece: Vec<u8> = lane.bytes.drain(..len).collect();
        let over = lane.bytes.is_empty();
        let after = match (over, packet) {
            (false, _) => After::More,
            (true, false) => match lane.command {
                Some(command) => After::Over(lane.drive.finish(&lane.tf, &command, Ok(()))),
                None => After::Over(Ending::good(&lane.tf)),
            },
            (true, true) => {
                let answer = lane.answer.take().unwrap_or(crate::scsi::Answer::good());
                After::Interrupt(lane.drive.finish_packet(&lane.tf, &answer))
            }
        };
        let offer = Offer { len, block: lane.moved.block as usize, packet, after };
        if over {
            lane.idle();
        }
        self.channel.offer(index, &offer, |bytes| bytes.copy_from_slice(&piece));
    }

    /// The host has read all there was.
    pub(super) fn more(&mut self, port: &mut Port<'_>, index: usize) {
        let Some(lane) = &self.lanes[index] else { return };
        if lane.bytes.is_empty() {
            self.read_piece_of(port, index);
        } else {
            self.offer_bytes(index);
        }
    }

    fn read_piece_of(&mut self, port: &mut Port<'_>, index: usize) {
        let Some(lane) = &self.lanes[index] else { return };
        if lane.is_packet_command() {
            self.read_packet_piece(port, index);
        } else {
            self.read_piece(port, index);
        }
    }

    /// Reads again, block by block, what could not be read at once.
    pub(super) fn read_finely(&mut self, port: &mut Port<'_>) {
        for index in 0..2 {
            if self.lanes[index].as_mut().is_some_and(|lane| std::mem::take(&mut lane.again)) {
                self.read_piece_of(port, index);
            }
        }
    }

    /// Asks the host for the next block; it is interrupted for all but the first.
    pub(super) fn ask(&mut self, index: usize, interrupt: bool) {
        let Some(lane) = &self.lanes[index] else { return };
        let left = lane.moved.len - lane.moved.done;
        let len = left.min(lane.moved.block.into()).min(DATA_MAX as u64) as usize;
        self.channel.ask(index, len, lane.is_packet_command(), interrupt);
    }

    /// The host has written a block.
    pub(super) fn block(&mut self, port: &mut Port<'_>, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Some(command) = lane.command else { return };
        let left = lane.moved.len - lane.moved.done;
        let len = left.min(lane.moved.block.into()).min(DATA_MAX as u64);
        if command.is_medium() {
            let sector = u64::from(lane.drive.sector());
            let piece = command.piece((lane.moved.done / sector) as u32, (len / sector) as u32);
            match lane.drive.begin(&lane.tf, &piece, &IoBuf::empty()) {
                Step::Io { op, range } => {
                    let mut buf = lane.own_memory(len);
                    self.channel.take_block(index, |bytes| buf.write_at(0, bytes));
                    debug_assert!(matches!(op, Op::Write { .. }), "a host writes to read");
                    self.submit(port, index, Doing::PioWrite, (op, range), buf);
                }
                Step::Done(ending) => self.end(index, &ending),
                Step::Reply(_) | Step::Job(_) => {}
            }
            return;
        }
        self.channel.take_block(index, |bytes| lane.bytes.extend_from_slice(bytes));
        lane.moved.done += len;
        if lane.moved.done < lane.moved.len {
            return self.ask(index, true);
        }
        let data = IoBuf::from_slice(&std::mem::take(&mut lane.bytes));
        if lane.is_packet_command() {
            self.begin_packet(port, index, data, None);
        } else {
            lane.keep_for_replay(&data);
            self.begin(port, index, &data);
        }
    }

    /// A block was written.
    pub(super) fn piece_written(
        &mut self,
        _port: &mut Port<'_>,
        index: usize,
        buf: IoBuf,
        result: Result<(), Failure>,
    ) {
        let Some(lane) = &mut self.lanes[index] else { return };
        lane.moved.done += buf.len();
        lane.own = buf;
        if result.is_err() || lane.moved.done >= lane.moved.len {
            self.finish(index, result);
        } else {
            self.ask(index, true);
        }
    }
}
