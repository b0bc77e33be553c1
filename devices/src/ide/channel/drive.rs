//! One drive as its ports show it: registers, and the block of data that the data port moves.

use super::{super::work::Work, After, DATA_MAX, Data, Direction, Drive, Kind, Pair};
use crate::ata::{
    Cdb, Ending, PACKET_LEN, Taskfile,
    spec::{device, op, reason, status},
};

impl Drive {
    pub(super) fn new(kind: Option<Kind>) -> Self {
        // Nobody reads or writes data where nothing is.
        let len = if kind.is_some() { DATA_MAX } else { 0 };
        Self {
            kind,
            features: Pair::default(),
            count: Pair::default(),
            lba: [Pair::default(); 3],
            device: 0,
            status: 0,
            error: 0,
            interrupting: false,
            work: None,
            packet: None,
            data: Data {
                bytes: vec![0; len].into(),
                open: false,
                direction: Direction::In,
                at: 0,
                end: 0,
                filled: 0,
                block: 0,
                packet: false,
                after: After::More,
            },
            sectors: 0,
        }
    }

    /// What the registers hold, as a command.
    pub fn taskfile(&self, command: u8) -> Taskfile {
        let byte = |pair: u8, shift: u32| u64::from(pair) << shift;
        let mut lba = 0;
        for (i, pair) in (0..).zip(self.lba) {
            lba |= byte(pair.now, i * 8) | byte(pair.before, 24 + i * 8);
        }
        Taskfile {
            command,
            features: self.features.wide(),
            count: self.count.wide(),
            lba,
            device: self.device,
            ..Taskfile::default()
        }
    }

    pub fn is_busy(&self) -> bool {
        self.status & (status::BSY | status::DRQ) != 0
    }

    pub(super) fn set_lba(&mut self, lba: u64) {
        for (i, pair) in (0..).zip(&mut self.lba) {
            *pair = Pair { now: (lba >> (i * 8)) as u8, before: (lba >> (24 + i * 8)) as u8 };
        }
    }

    /// The host sees how a command ended.
    pub(super) fn show(&mut self, ending: &Ending) {
        self.status = ending.status;
        self.error = ending.error;
        self.count.set(ending.count);
        self.set_lba(ending.lba);
        // The bit that selects belongs to the host.
        self.device = ending.device & !device::DEV | self.device & device::DEV;
    }

    /// Whatever it does, it does no more.
    pub(super) fn abort(&mut self) {
        self.work = None;
        self.packet = None;
        self.interrupting = false;
        self.data.open = false;
        if self.kind.is_some() {
            self.status = status::BSY;
        }
    }

    /// A DRQ data block begins.
    pub(super) fn begin_block(&mut self) {
        let data = &mut self.data;
        data.open = true;
        data.end = data.filled.min(data.at + data.block);
        if data.packet {
            let len = (data.end - data.at) as u16;
            self.count.set(match data.direction {
                Direction::In => reason::IO.into(),
                Direction::Out => 0,
            });
            let [low, high] = len.to_le_bytes();
            self.lba[1].now = low;
            self.lba[2].now = high;
        }
        self.status = self.status & !(status::BSY | status::ERR) | status::DRQ | status::DRDY;
    }

    /// The block is over: what comes next, in the same breath. Returns whether the queue half is
    /// wanted.
    pub(super) fn end_block(&mut self) -> bool {
        let data = &mut self.data;
        data.open = false;
        self.status &= !status::DRQ;
        if let Some(taskfile) = self.packet.take() {
            let mut cdb: Cdb = [0; _];
            cdb[..PACKET_LEN].copy_from_slice(&data.bytes[..PACKET_LEN]);
            self.work = Some(Work::Packet(taskfile, cdb));
        } else if data.direction == Direction::Out {
            self.work = Some(Work::Block);
        } else if data.at < data.filled {
            self.begin_block();
            self.interrupting = true;
            return false;
        } else {
            match data.after {
                After::Over(ending) => {
                    self.show(&ending);
                    return false;
                }
                After::Interrupt(ending) => {
                    self.show(&ending);
                    self.interrupting = true;
                    return false;
                }
                After::More => self.work = Some(Work::More),
            }
        }
        self.status |= status::BSY;
        true
    }

    pub(super) fn data_read(&mut self, width: usize) -> u64 {
        if !self.data.open || self.data.direction == Direction::Out {
            return 0;
        }
        let data = &mut self.data;
        let n = width.min(data.end - data.at);
        let mut value = [0; 8];
        value[..n].copy_from_slice(&data.bytes[data.at..data.at + n]);
        data.at += n;
        u64::from_le_bytes(value)
    }

    pub(super) fn data_write(&mut self, width: usize, value: u64) {
        if !self.data.open || self.data.direction == Direction::In {
            return;
        }
        let data = &mut self.data;
        let n = width.min(data.end - data.at);
        data.bytes[data.at..data.at + n].copy_from_slice(&value.to_le_bytes()[..n]);
        data.at += n;
    }

    pub(super) fn block_is_over(&self) -> bool {
        self.data.open && self.data.at >= self.data.end
    }

    /// PACKET: the packet is taken at once, without an interrupt (ATA-7, 6.20).
    pub(super) fn await_packet(&mut self, taskfile: Taskfile) {
        self.packet = Some(taskfile);
        let data = &mut self.data;
        data.direction = Direction::Out;
        (data.packet, data.open) = (false, true);
        (data.at, data.end, data.filled, data.block) = (0, PACKET_LEN, PACKET_LEN, PACKET_LEN);
        self.count.set(reason::CD.into());
        self.status = self.status & !(status::BSY | status::ERR | status::DF) | status::DRQ;
    }

    /// Whether nothing can be done about a command before the bus master is started.
    pub(super) fn waits_for_bus_master(&self, taskfile: &Taskfile) -> bool {
        let (lba, count) = match taskfile.command {
            op::READ_DMA | op::WRITE_DMA if taskfile.device & device::LBA != 0 => {
                let lba = taskfile.lba & 0xff_ffff | u64::from(taskfile.device & 0xf) << 24;
                (lba, u64::from((taskfile.count as u8).wrapping_sub(1)) + 1)
            }
            op::READ_DMA_EXT | op::WRITE_DMA_EXT => {
                (taskfile.lba, u64::from(taskfile.count.wrapping_sub(1)) + 1)
            }
            _ => return false,
        };
        lba + count <= self.sectors
    }
}
