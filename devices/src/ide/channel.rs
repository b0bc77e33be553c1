//! What a channel's ports show, and how it changes: by a host's accesses, and by the queue half.

mod drive;
mod queue_side;
mod registers;

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use super::{
    line::Line,
    queue::Lane,
    spec::{bm_status, control},
    work::{Reset, Work},
};
use crate::{
    LineIrq,
    ata::{Ending, Taskfile},
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

    /// Starts a reset: the drives that it reaches are busy from now on.
    pub fn begin_reset(&mut self, reset: Reset) {
        for (index, drive) in self.drives.iter_mut().enumerate() {
            if reset.reaches(index) {
                drive.abort();
            }
        }
        self.reset = Some(reset);
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
