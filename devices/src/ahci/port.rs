//! A port as both halves see it: its registers, and what one half asks of the other.
//!
//! PxCI and PxSACT are words outside the lock, so that a doorbell takes none. Everything else is
//! behind the port's own lock, which is held for a few loads and stores only. Whatever needs the
//! queue half (a stop, a reset, a received FIS) is *asked* for here and *settled* by it.

mod control;
mod queue_side;
mod state;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Acquire, SeqCst},
    },
};

use super::{
    regs::PortName,
    spec::{cmd, fbs, is},
};
use crate::{
    ata::{Drive, Ending, ResetKind, initiator::PacketPort},
    device::Countdown,
    doorbell::Bell,
    queue_link::QueueLink,
};

/// Bits of PxCMD that a write leaves as written; ST, FRE, CLO and ICC act.
pub const CMD_WRITABLE: u32 = cmd::ATAPI | cmd::DLAE;
/// Bits of PxCMD that act, and keep the value written.
pub const CMD_ACTS: u32 = cmd::ST | cmd::FRE | cmd::SUD | cmd::PMA;

/// Devices behind a multiplier, and itself.
pub const TARGETS: usize = 16;
/// PxFBS: as many devices can be active as there can be (AHCI 3.3.16).
const ADO: u32 = 15 << fbs::ADO_SHIFT;

/// A drive for the queue half, and how it is reached.
pub(super) struct Plugged {
    pub drive: Drive,
    /// Of a drive with PACKET: what other threads ask.
    pub packet: Option<Arc<PacketPort>>,
    /// Is told when the drive is out again.
    pub unplugged: Option<Box<dyn FnOnce() + Send>>,
}

/// What the queue half is asked for, beside commands.
#[derive(Default)]
pub(super) struct Asks {
    /// The drive is replaced: what is plugged in, if anything is.
    pub exchange: Option<Option<Box<Plugged>>>,
    /// The same, of those behind a multiplier: which, and what.
    pub behind: Vec<(u8, Option<Box<Plugged>>, Countdown)>,
    /// The error of the device is forgotten (PxFBS.DEC).
    pub clear_error: Option<u8>,
    /// The drive is reset.
    pub reset: Option<ResetKind>,
    /// Who waits until what was in flight is over.
    pub waiting: Vec<Countdown>,
    /// PxCMD.FRE was changed.
    pub receive: bool,
}

/// What is behind the lock.
pub(super) struct PortState {
    clb: u64,
    fb: u64,
    is: u32,
    ie: u32,
    cmd: u32,
    /// Of each device behind a multiplier, with FIS-based switching; else the first.
    tfd: [u32; TARGETS],
    sntf: u32,
    fbs: u32,
    sig: u32,
    ssts: u32,
    sctl: u32,
    serr: u32,
    /// Something is plugged in.
    present: bool,
    /// It is a multiplier.
    multiplier: bool,
    /// Behind which there are drives, a bit for each.
    units: u16,
    /// Drives spin up only when PxCMD.SUD says so.
    staggered: bool,
    /// PxCMD.ST was cleared, or the port is reset, and something is in flight.
    stopping: bool,
    /// The drive is being reset, or exchanged.
    resetting: bool,
    asks: Asks,
}

/// See the module.
pub(super) struct Port {
    pub number: u8,
    pub bell: Bell,
    pub place: Arc<QueueLink>,
    pub ci: AtomicU32,
    pub sact: AtomicU32,
    /// PxCMD.CR, and commands are taken.
    running: AtomicBool,
    /// Where the command list is, as it was when it was started.
    list: AtomicU64,
    /// There is something beside commands for the queue half.
    news: AtomicBool,
    /// PxFBS.EN; it changes only while the list is stopped.
    switching: AtomicBool,
    /// The iothread sleeps: the bell has to be rung.
    asleep: AtomicBool,
    /// The drive's first FIS after a reset has not been received. Changed under the lock.
    unsigned: AtomicBool,
    state: Mutex<PortState>,
}

/// What a change of registers makes of the port's interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interrupt {
    /// It is pending: PxIS & PxIE.
    pub pending: bool,
    /// It was not before.
    pub rose: bool,
}

/// What the queue half has done since it published last.
#[derive(Default)]
pub(super) struct Changes {
    /// PxIS bits.
    pub is: u32,
    /// PxSERR bits.
    pub serr: u32,
    /// PxTFD of the device that FISes came from.
    pub tfd: Option<u32>,
    /// Which that is.
    pub target: u8,
    /// It has reported an error, and the others go on.
    pub device_error: bool,
    /// PxSNTF bits.
    pub sntf: u32,
    /// PxCI bits that are done.
    pub ci: u32,
    /// PxSACT bits that are done.
    pub sact: u32,
    /// The slot that was taken last.
    pub slot: Option<u8>,
}

impl Port {
    pub fn new(
        number: u8,
        bell: Bell,
        place: Arc<QueueLink>,
        (staggered, multiplier): (bool, bool),
    ) -> Self {
        let mut state = PortState {
            clb: 0,
            fb: 0,
            is: 0,
            ie: 0,
            cmd: 0,
            tfd: [0; TARGETS],
            sntf: 0,
            fbs: 0,
            sig: 0,
            ssts: 0,
            sctl: 0,
            serr: 0,
            present: multiplier,
            multiplier,
            units: 0,
            staggered,
            stopping: false,
            resetting: false,
            asks: Asks::default(),
        };
        state.clear(false);
        Self {
            number,
            bell,
            place,
            ci: AtomicU32::new(0),
            sact: AtomicU32::new(0),
            running: AtomicBool::new(false),
            list: AtomicU64::new(0),
            news: AtomicBool::new(false),
            switching: AtomicBool::new(false),
            asleep: AtomicBool::new(true),
            unsigned: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, PortState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the queue half, if it sleeps.
    fn wake(&self) {
        if self.asleep.load(SeqCst) {
            self.bell.ring();
        }
    }

    /// Asks the queue half for something, which is in the locked state already.
    fn tell(&self) {
        self.news.store(true, SeqCst);
        // It may be paused, where `asleep` does not say: it looks at its news even so.
        self.bell.ring();
    }

    /// PxCI is written: the doorbell.
    #[inline]
    pub fn issue(&self, slots: u32) {
        if self.running.load(Acquire) {
            self.ci.fetch_or(slots, SeqCst);
            // A stop in between has cleared it: it must not come back.
            if !self.running.load(SeqCst) {
                let state = self.lock();
                if state.cmd & cmd::ST == 0 {
                    self.ci.store(0, SeqCst);
                }
                drop(state);
            }
            self.wake();
        } else if self.lock().cmd & cmd::ST != 0 {
            // It is started, and waits for the device to be ready.
            self.ci.fetch_or(slots, SeqCst);
        }
    }

    /// PxSACT is written.
    #[inline]
    pub fn activate(&self, tags: u32) {
        if self.running.load(Acquire) || self.lock().cmd & cmd::ST != 0 {
            self.sact.fetch_or(tags, SeqCst);
        }
    }

    /// A register's value.
    pub fn read(&self, name: PortName) -> u32 {
        match name {
            PortName::Sact => return self.sact.load(SeqCst),
            PortName::Ci => return self.ci.load(SeqCst),
            _ => {}
        }
        let state = self.lock();
        match name {
            PortName::Clb => state.clb as u32,
            PortName::Clbu => (state.clb >> 32) as u32,
            PortName::Fb => state.fb as u32,
            PortName::Fbu => (state.fb >> 32) as u32,
            PortName::Is => state.is(),
            PortName::Ie => state.ie,
            PortName::Cmd => state.cmd,
            PortName::Tfd => state.tfd[state.shown()],
            PortName::Sntf => state.sntf,
            PortName::Fbs if state.multiplier => state.fbs | ADO,
            PortName::Fbs => 0,
            PortName::Sig => state.sig,
            PortName::Ssts => state.ssts,
            PortName::Sctl => state.sctl,
            PortName::Serr => state.serr,
            PortName::Sact | PortName::Ci | PortName::Devslp => 0,
        }
    }

    /// A register is written: `new` is its value by the rules of the table, `raw` what was written
    /// to the bits in `mask`.
    pub fn write(&self, name: PortName, new: u32, raw: u32) -> Interrupt {
        match name {
            PortName::Ci => {
                self.issue(raw);
                return Interrupt::default();
            }
            PortName::Sact => {
                self.activate(raw);
                return Interrupt::default();
            }
            _ => {}
        }
        let mut state = self.lock();
        let before = state.is() & state.ie != 0;
        let mut rose_again = false;
        match name {
            PortName::Clb => state.clb = state.clb & !0xffff_ffff | u64::from(new),
            PortName::Clbu => state.clb = state.clb & 0xffff_ffff | u64::from(new) << 32,
            PortName::Fb => state.fb = state.fb & !0xffff_ffff | u64::from(new),
            PortName::Fbu => state.fb = state.fb & 0xffff_ffff | u64::from(new) << 32,
            PortName::Is => {
                state.is &= !(raw & is::CLEAR);
                // What is left is told of again: a message may have been about the rest.
                rose_again = raw != 0;
            }
            PortName::Ie => state.ie = new,
            PortName::Cmd => self.write_cmd(&mut state, new, raw),
            PortName::Sctl => self.write_sctl(&mut state, new),
            PortName::Serr => {
                state.serr &= !raw;
                rose_again = raw != 0;
            }
            PortName::Sntf => state.sntf &= !raw,
            PortName::Fbs if state.multiplier => self.write_fbs(&mut state, new, raw),
            _ => {}
        }
        let pending = state.is() & state.ie != 0;
        Interrupt { pending, rose: pending && (!before || rose_again) }
    }
}

/// PxTFD from registers (AHCI 3.3.8).
#[inline]
pub(super) fn tfd(ending: &Ending) -> u32 {
    u32::from(ending.status) | u32::from(ending.error) << 8
}
