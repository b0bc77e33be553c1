//! What a channel's ports show, and how it changes: by a host's accesses, and by the queue half.

mod queue_side;

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use super::{
    line::Line,
    queue::Lane,
    spec::{FLOATING, bm_command, bm_status, control, port},
    work::{Reset, Work},
};
use crate::{
    LineIrq,
    ata::{
        Cdb, Ending, PACKET_LEN, Taskfile,
        spec::{device, op, reason, status},
    },
    device::Countdown,
    doorbell::Bell,
};

pub(super) use queue_side::Offer;

/// Bytes that the data port moves before the queue half is woken, at most.
pub(super) const DATA_MAX: usize = 0x1_0000;

/// What hangs at a position of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Disk,
    Packet,
}

/// A register that holds what was written before, too (ATA-7, 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub now: u8,
    pub before: u8,
}

impl Pair {
    fn push(&mut self, value: u8) {
        *self = Self { now: value, before: self.now };
    }

    fn get(self, hob: bool) -> u8 {
        if hob { self.before } else { self.now }
    }

    fn wide(self) -> u16 {
        u16::from_le_bytes([self.now, self.before])
    }

    fn set(&mut self, value: u16) {
        let [now, before] = value.to_le_bytes();
        *self = Self { now, before };
    }
}

/// Where the data port's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// What follows when the host has read all bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// The command is over, without an interrupt.
    Over(Ending),
    /// The command is over, with one.
    Interrupt(Ending),
    /// The command has more.
    More,
}

/// The data port of one drive.
pub(super) struct Data {
    bytes: Box<[u8]>,
    /// A block is under way.
    open: bool,
    direction: Direction,
    /// The next byte.
    at: usize,
    /// Where the DRQ data block ends.
    end: usize,
    /// Where all there is ends.
    filled: usize,
    /// Bytes of a block.
    block: usize,
    /// The bytes are those of a PACKET command: registers say how many, and which way.
    packet: bool,
    after: After,
}

/// One position of the cable.
pub(super) struct Drive {
    pub kind: Option<Kind>,
    features: Pair,
    count: Pair,
    lba: [Pair; 3],
    device: u8,
    pub status: u8,
    error: u8,
    /// It asserts INTRQ while it is selected.
    interrupting: bool,
    pub work: Option<Work>,
    /// The PACKET command whose packet is awaited.
    packet: Option<Taskfile>,
    data: Data,
    /// Sectors that can be reached: commands beyond need not wait for the bus master.
    pub sectors: u64,
}

/// Bus master registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BusMaster {
    pub command: u8,
    pub status: u8,
    /// Guest address of the PRD table.
    pub table: u32,
    /// A transfer is in flight.
    pub serving: bool,
    /// It was stopped in the middle of one.
    pub stopped: bool,
}

/// What the lock covers.
pub(super) struct State {
    pub drives: [Drive; 2],
    /// The drive that DEVICE selects.
    pub selected: usize,
    pub control: u8,
    pub bm: BusMaster,
    pub reset: Option<Reset>,
}

/// A channel, as both halves see it.
pub(super) struct Channel {
    state: Mutex<State>,
    line: Line,
    pub bell: Bell,
    /// There is something for the queue half to look at.
    pub news: AtomicBool,
    /// The function may reach memory.
    pub bus_master: AtomicBool,
    /// What others have for the queue half.
    pub mail: Mutex<Mail>,
}

/// See [`Channel::mail`].
#[derive(Default)]
pub(super) struct Mail {
    /// Drives that were put on the cable.
    pub arrived: Vec<(usize, Box<Lane>)>,
    /// Drives whose medium has changed, and who waits until nothing holds the old one.
    pub refresh: Vec<(usize, Countdown)>,
    /// Who waits for the end of a reset of the function.
    pub reset: Vec<Countdown>,
}

impl Drive {
    fn new(kind: Option<Kind>) -> Self {
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

    fn set_lba(&mut self, lba: u64) {
        for (i, pair) in (0..).zip(&mut self.lba) {
            *pair = Pair { now: (lba >> (i * 8)) as u8, before: (lba >> (24 + i * 8)) as u8 };
        }
    }

    /// The host sees how a command ended.
    fn show(&mut self, ending: &Ending) {
        self.status = ending.status;
        self.error = ending.error;
        self.count.set(ending.count);
        self.set_lba(ending.lba);
        // The bit that selects belongs to the host.
        self.device = ending.device & !device::DEV | self.device & device::DEV;
    }

    /// Whatever it does, it does no more.
    fn abort(&mut self) {
        self.work = None;
        self.packet = None;
        self.interrupting = false;
        self.data.open = false;
        if self.kind.is_some() {
            self.status = status::BSY;
        }
    }

    /// A DRQ data block begins.
    fn begin_block(&mut self) {
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
    fn end_block(&mut self) -> bool {
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

    fn data_read(&mut self, width: usize) -> u64 {
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

    fn data_write(&mut self, width: usize, value: u64) {
        if !self.data.open || self.data.direction == Direction::In {
            return;
        }
        let data = &mut self.data;
        let n = width.min(data.end - data.at);
        data.bytes[data.at..data.at + n].copy_from_slice(&value.to_le_bytes()[..n]);
        data.at += n;
    }

    fn block_is_over(&self) -> bool {
        self.data.open && self.data.at >= self.data.end
    }
}

/// What a change has to be followed by, outside the lock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub queue: bool,
}

impl State {
    /// Whether a drive is being reset: nothing comes of what it did before.
    fn is_reset(&self, index: usize) -> bool {
        self.reset.is_some_and(|reset| reset.reaches(index))
    }

    fn level(&self) -> bool {
        let drive = &self.drives[self.selected];
        drive.interrupting && self.control & control::NIEN == 0
    }

    /// Nothing is at the selected position, nor at any other that would answer for it.
    fn floats(&self) -> bool {
        self.drives[0].kind.is_none() && (self.selected == 0 || self.drives[1].kind.is_none())
    }

    /// A load from the command block or of ALTERNATE STATUS.
    pub fn read(&mut self, at: u64, width: u8) -> (u64, Wanted) {
        if self.floats() {
            // Every byte lane, of a data port that is wider.
            return (u64::from_le_bytes([FLOATING; 8]), Wanted::default());
        }
        let hob = self.control & control::HOB != 0;
        let there = self.drives[self.selected].kind.is_some();
        // Drive 0 answers for one that is not there: with its own registers, but never ready
        // (ATA-7, 9.16.1).
        let drive = &mut self.drives[if there { self.selected } else { 0 }];
        let value = match at {
            port::DATA if there => {
                let value = drive.data_read(usize::from(width));
                let queue = drive.block_is_over() && drive.end_block();
                return (value, Wanted { queue });
            }
            port::ERROR => drive.error,
            port::COUNT => drive.count.get(hob),
            port::LBA_LOW | port::LBA_MID | port::LBA_HIGH => {
                drive.lba[(at - port::LBA_LOW) as usize].get(hob)
            }
            port::DEVICE if there => drive.device,
            port::DEVICE => drive.device | device::DEV,
            port::COMMAND if there => {
                drive.interrupting = false;
                drive.status
            }
            port::CONTROL if there => drive.status,
            _ => 0,
        };
        (value.into(), Wanted::default())
    }

    /// A store to the command block or to DEVICE CONTROL.
    pub fn write(&mut self, at: u64, width: u8, value: u64) -> Wanted {
        let byte = value as u8;
        let queue = match at {
            port::DATA => {
                let drive = &mut self.drives[self.selected];
                drive.data_write(usize::from(width), value);
                drive.block_is_over() && drive.end_block()
            }
            port::CONTROL => self.control(byte),
            port::COMMAND => {
                self.control &= !control::HOB;
                self.command(byte)
            }
            _ => {
                self.control &= !control::HOB;
                // A drive with a command under way does not listen.
                if !self.drives[self.selected].is_busy() {
                    self.taskfile(at, byte);
                }
                false
            }
        };
        Wanted { queue }
    }

    /// Both drives take what is written (ATA-7, 5.4).
    fn taskfile(&mut self, at: u64, value: u8) {
        if at == port::DEVICE {
            self.selected = usize::from(value & device::DEV != 0);
        }
        for drive in &mut self.drives {
            match at {
                port::ERROR => drive.features.push(value),
                port::COUNT => drive.count.push(value),
                port::LBA_LOW | port::LBA_MID | port::LBA_HIGH => {
                    drive.lba[(at - port::LBA_LOW) as usize].push(value);
                }
                port::DEVICE => drive.device = value,
                _ => {}
            }
        }
    }

    fn control(&mut self, value: u8) -> bool {
        let was = self.control & control::SRST != 0;
        self.control = value & (control::NIEN | control::SRST | control::HOB);
        let now = value & control::SRST != 0;
        if now && !was && self.reset != Some(Reset::Hardware) {
            self.begin_reset(Reset::Software);
        }
        was != now
    }

    /// Starts a reset: the drives that it reaches are busy from now on.
    pub fn begin_reset(&mut self, reset: Reset) {
        for (index, drive) in self.drives.iter_mut().enumerate() {
            if reset.reaches(index) {
                drive.abort();
            }
        }
        self.reset = Some(reset);
    }

    fn command(&mut self, command: u8) -> bool {
        if command == op::EXECUTE_DEVICE_DIAGNOSTIC {
            let busy = self.drives.iter().any(Drive::is_busy);
            if !busy && self.drives.iter().any(|drive| drive.kind.is_some()) {
                self.begin_reset(Reset::Diagnostic);
                return true;
            }
            return false;
        }
        let selected = self.selected;
        let bm_starts = self.bm.command & bm_command::START != 0;
        let drive = &mut self.drives[selected];
        let Some(kind) = drive.kind else { return false };
        if kind == Kind::Packet && command == op::DEVICE_RESET && self.reset.is_none() {
            self.begin_reset(Reset::Device(selected));
            return true;
        }
        if drive.is_busy() || self.reset.is_some() {
            return false;
        }
        drive.interrupting = false;
        drive.error = 0;
        let taskfile = drive.taskfile(command);
        if kind == Kind::Packet && command == op::PACKET {
            drive.await_packet(taskfile);
            return false;
        }
        drive.status = drive.status & !(status::ERR | status::DF) | status::BSY;
        drive.work = Some(Work::Command(taskfile));
        bm_starts || !drive.waits_for_bus_master(&taskfile)
    }

    /// A register of the bus master was written.
    pub fn bm_command(&mut self, value: u8) -> Wanted {
        let before = self.bm.command & bm_command::START != 0;
        self.bm.command = value & (bm_command::START | bm_command::TO_MEMORY);
        let now = value & bm_command::START != 0;
        match (before, now) {
            (false, true) => {
                self.bm.status |= bm_status::ACTIVE;
                self.bm.stopped = false;
            }
            // What is under way cannot be taken back: the bit falls when it is over.
            (true, false) if self.bm.serving => self.bm.stopped = true,
            (true, false) => self.bm.status &= !bm_status::ACTIVE,
            _ => {}
        }
        Wanted { queue: now && !before }
    }
}

impl Drive {
    /// PACKET: the packet is taken at once, without an interrupt (ATA-7, 6.20).
    fn await_packet(&mut self, taskfile: Taskfile) {
        self.packet = Some(taskfile);
        let data = &mut self.data;
        data.direction = Direction::Out;
        (data.packet, data.open) = (false, true);
        (data.at, data.end, data.filled, data.block) = (0, PACKET_LEN, PACKET_LEN, PACKET_LEN);
        self.count.set(reason::CD.into());
        self.status = self.status & !(status::BSY | status::ERR | status::DF) | status::DRQ;
    }

    /// Whether nothing can be done about a command before the bus master is started.
    fn waits_for_bus_master(&self, taskfile: &Taskfile) -> bool {
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

impl Channel {
    pub fn new(wire: Box<dyn LineIrq>) -> std::io::Result<Self> {
        let state = State {
            drives: [Drive::new(None), Drive::new(None)],
            selected: 0,
            control: 0,
            bm: BusMaster::default(),
            reset: None,
        };
        Ok(Self {
            state: Mutex::new(state),
            line: Line::new(wire),
            bell: Bell::new()?,
            news: AtomicBool::new(false),
            bus_master: AtomicBool::new(false),
            mail: Mutex::default(),
        })
    }

    /// A drive is put on the cable. `false`: there is one.
    pub fn insert(&self, index: usize, kind: Kind, mut lane: Box<Lane>) -> bool {
        let signature = lane.drive.signature();
        let sectors = lane.drive.open_sectors();
        let inserted = self.change(|state| {
            let drive = &mut state.drives[index];
            let free = drive.kind.is_none();
            if free {
                *drive = Drive::new(Some(kind));
                drive.show(&signature);
                drive.sectors = sectors;
            }
            free
        });
        if inserted {
            self.mail().arrived.push((index, lane));
            self.ring();
        }
        inserted
    }

    pub fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock. Whoever changes something goes through [`Channel::change`].
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state; the wire follows.
    pub fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let (value, moved) = {
            let mut state = self.lock();
            let value = f(&mut state);
            let level = state.level();
            let moved = self.line.set(level);
            if moved && level {
                state.bm.status |= bm_status::INTERRUPT;
            }
            (value, moved)
        };
        if moved {
            self.line.apply();
        }
        value
    }

    /// Wakes the queue half.
    pub fn ring(&self) {
        self.news.store(true, SeqCst);
        self.bell.ring();
    }
}
