//! Data through the bus master.

use std::sync::atomic::Ordering::SeqCst;

use spindle_block::{IoBuf, Op, iothread::Port};

use super::{
    super::{
        prd::{self, Shape},
        spec::{bm_command, bm_status},
    },
    ChannelQueue,
    lane::{Await, Doing},
};
use crate::{
    ata::{Ending, Failure, Protocol, Step, spec::error},
    dma::NotRam,
    scsi::cmd::Transfer as PacketTransfer,
};

impl ChannelQueue {
    /// Serves a drive that waits, if the bus master is started.
    pub(super) fn start_dma(&mut self, port: &mut Port<'_>) {
        if self.dma_of.is_some() || !self.channel.bus_master.load(SeqCst) {
            return;
        }
        let waits = |index: usize| {
            let awaits = self.lanes[index].as_ref().and_then(|lane| lane.awaits);
            matches!(awaits, Some(Await::Command | Await::Packet))
        };
        let (index, command, table) = {
            let mut state = self.channel.lock();
            let selected = state.selected;
            let waiting = [selected, 1 - selected].into_iter().find(|index| waits(*index));
            let Some(index) = waiting else { return };
            if state.bm.command & bm_command::START == 0 {
                return;
            }
            state.bm.serving = true;
            (index, state.bm.command, state.bm.table)
        };
        self.dma_of = Some(index);
        let to_memory = command & bm_command::TO_MEMORY != 0;
        let Some(lane) = &mut self.lanes[index] else { return };
        match lane.awaits.replace(Await::Dma) {
            Some(Await::Packet) => self.start_packet(port, index, table, to_memory),
            _ => self.start_command(port, index, table, to_memory),
        }
    }

    fn start_command(&mut self, port: &mut Port<'_>, index: usize, table: u32, to_memory: bool) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Some(command) = lane.command else { return };
        let is_in = command.transfer(lane.drive.sector()).protocol == Protocol::DmaIn;
        if is_in != to_memory {
            return self.bus_error(index);
        }
        let len = lane.moved.len;
        if self.gather(index, table, len).is_err() {
            return self.bus_error(index);
        }
        let Some(lane) = &mut self.lanes[index] else { return };
        if !command.is_medium() {
            if let Shape::Shorter(_) = lane.shape {
                return self.stall(index);
            }
            let data = if is_in { IoBuf::empty() } else { IoBuf::from_slice(&lane.guest.to_vec()) };
            lane.keep_for_replay(&data);
            return self.begin(port, index, &data);
        }
        let mut piece = command;
        if let Shape::Shorter(len) = lane.shape {
            // Whole sectors go through.
            let sector = u64::from(lane.drive.sector());
            let sectors = len / sector;
            if sectors == 0 {
                return self.stall(index);
            }
            prd::cut(&mut lane.guest, sectors * sector);
            piece = command.piece(0, sectors as u32);
        }
        match lane.drive.begin(&lane.tf, &piece, &IoBuf::empty()) {
            Step::Io { op, range } => {
                let buf = std::mem::take(&mut lane.guest);
                self.submit(port, index, Doing::Dma, (op, range), buf);
            }
            Step::Done(ending) => self.end(index, &ending),
            Step::Reply(_) | Step::Job(_) => {}
        }
    }

    fn start_packet(&mut self, port: &mut Port<'_>, index: usize, table: u32, to_memory: bool) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let cdb = lane.cdb;
        match lane.drive.packet(&cdb) {
            PacketTransfer::In(_) if !to_memory => self.bus_error(index),
            PacketTransfer::Out(_) if to_memory => self.bus_error(index),
            PacketTransfer::Out(len) if len > 0 => {
                if self.gather(index, table, len).is_err() {
                    return self.bus_error(index);
                }
                let Some(lane) = &mut self.lanes[index] else { return };
                if let Shape::Shorter(_) = lane.shape {
                    return self.stall(index);
                }
                let data = IoBuf::from_slice(&lane.guest.to_vec());
                self.begin_packet(port, index, data, None);
            }
            _ => self.begin_packet(port, index, IoBuf::empty(), None),
        }
    }

    /// Fills the lane's guest memory from the table.
    pub(super) fn gather(&mut self, index: usize, table: u32, len: u64) -> Result<(), NotRam> {
        let Some(lane) = &mut self.lanes[index] else { return Ok(()) };
        if !lane.guest.has_keep() {
            lane.guest.set_keep(self.dma.keep());
        }
        lane.guest.clear();
        lane.shape = prd::gather(&self.dma, table, len, &mut lane.guest)?;
        Ok(())
    }

    /// A reply goes to memory.
    pub(super) fn dma_reply(&mut self, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let len = lane.guest.len().min(lane.bytes.len() as u64) as usize;
        lane.guest.write_at(0, &lane.bytes[..len]);
        prd::cut(&mut lane.guest, len as u64);
        self.dma.wrote(&lane.guest);
        lane.awaits = Some(Await::Dma);
        self.finish(index, Ok(()));
    }

    /// A transfer has ended in the block layer.
    pub(super) fn dma_ended(&mut self, index: usize, buf: IoBuf, result: Result<(), Failure>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        if lane.op == Op::Read && result.is_ok() {
            self.dma.wrote(&buf);
        }
        lane.guest = buf;
        lane.guest.clear();
        if let Shape::Shorter(_) = lane.shape
            && result.is_ok()
        {
            return self.stall(index);
        }
        if lane.is_packet_command() {
            self.packet_io_ended(index, result);
        } else {
            self.finish(index, result);
        }
    }

    /// The table ended before the data did: the bus master goes idle, without a word, and the drive
    /// waits for the rest (BMIDE, 2.2).
    pub(super) fn stall(&mut self, index: usize) {
        if let Some(lane) = &mut self.lanes[index] {
            lane.awaits = Some(Await::Reset);
            lane.guest.clear();
        }
        self.dma_of = None;
        self.channel.stall(index);
    }

    /// Memory could not be reached, or the transfer goes the other way than the drive's.
    pub(super) fn bus_error(&mut self, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        lane.guest.clear();
        lane.shape = Shape::Exact;
        let ending = Ending::failed(&lane.tf, error::ABRT);
        self.channel.lock().bm.status |= bm_status::ERROR;
        self.end(index, &ending);
    }

    /// The bus master has served the drive, if it did.
    pub(super) fn end_dma(&mut self, index: usize) {
        if self.dma_of != Some(index) {
            return;
        }
        self.dma_of = None;
        let longer = self.lanes[index].as_ref().is_some_and(|lane| lane.shape == Shape::Longer);
        let bm = &mut self.channel.lock().bm;
        // With memory left over it stays active (BMIDE, 2.2).
        if !longer || bm.stopped || bm.status & bm_status::ERROR != 0 {
            bm.status &= !bm_status::ACTIVE;
        }
        (bm.serving, bm.stopped) = (false, false);
    }
}
