//! A port as both halves see it: its registers, and what one half asks of the other.
//!
//! PxCI and PxSACT are words outside the lock, so that a doorbell takes none. Everything else is
//! behind the port's own lock, which is held for a few loads and stores only. Whatever needs the
//! queue half (a stop, a reset, a received FIS) is *asked* for here and *settled* by it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Acquire, Release, SeqCst},
    },
};

use super::{
    regs::PortName,
    spec::{NO_SIGNATURE, NO_STATUS, cmd, fbs, is, link, serr},
};
use crate::{
    ata::{Drive, Ending, ResetKind, initiator::PacketPort, spec::status},
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

    /// PxFBS (AHCI 3.3.16, 9.3).
    fn write_fbs(&self, state: &mut PortState, new: u32, raw: u32) {
        state.fbs = state.fbs & !fbs::DEV | new & fbs::DEV;
        if state.cmd & (cmd::ST | cmd::CR) == 0 {
            state.fbs = state.fbs & !fbs::EN | new & fbs::EN;
            self.switching.store(new & fbs::EN != 0, SeqCst);
        }
        let error = state.fbs & fbs::SDE != 0;
        if raw & fbs::DEC != 0 && error && state.fbs & fbs::DEC == 0 {
            state.fbs |= fbs::DEC;
            state.asks.clear_error = Some(((state.fbs & fbs::DWE) >> fbs::DWE_SHIFT) as u8);
            self.tell();
        }
    }

    fn write_cmd(&self, state: &mut PortState, new: u32, raw: u32) {
        state.cmd = state.cmd & !CMD_WRITABLE | new & CMD_WRITABLE;
        if state.multiplier {
            state.cmd = state.cmd & !cmd::PMA | raw & cmd::PMA;
        }
        if state.staggered {
            let spun_up = raw & cmd::SUD != 0 && state.cmd & cmd::SUD == 0;
            state.cmd = state.cmd & !cmd::SUD | raw & cmd::SUD;
            if spun_up {
                self.bring_up(state);
            }
        }
        if raw & cmd::CLO != 0 && state.cmd & cmd::ST == 0 {
            // AHCI 3.3.7: BSY and DRQ go, and the bit reads as zero once they have.
            for tfd in &mut state.tfd {
                *tfd &= !u32::from(status::BSY | status::DRQ);
            }
        }
        let changed = (state.cmd ^ raw) & (cmd::FRE | cmd::ST);
        if changed & cmd::FRE != 0 {
            state.cmd ^= cmd::FRE;
            if state.cmd & cmd::FRE != 0 {
                state.cmd |= cmd::FR;
            }
            // It is the queue half that stops to write there.
            state.asks.receive = true;
            self.tell();
        }
        if changed & cmd::ST != 0 {
            state.cmd ^= cmd::ST;
            if state.cmd & cmd::ST == 0 {
                self.stop(state);
            }
        }
        state.change_power(raw >> cmd::ICC_SHIFT);
        self.try_start(state);
    }

    /// PxCMD.ST is clear, or the port is reset: nothing is taken any more, and CR goes with the last
    /// command in flight.
    fn stop(&self, state: &mut PortState) {
        self.running.store(false, SeqCst);
        self.ci.store(0, SeqCst);
        self.sact.store(0, SeqCst);
        state.cmd &= !cmd::CCS;
        state.fbs &= !(fbs::DEC | fbs::SDE | fbs::DWE);
        if state.cmd & cmd::CR != 0 {
            state.stopping = true;
            self.tell();
        }
    }

    /// AHCI 5.3.2.3, P:NotRunning: the list runs once the device is there and ready.
    fn try_start(&self, state: &mut PortState) {
        let ready = state.tfd[0] & u32::from(status::BSY | status::DRQ) == 0;
        let up = state.ssts & link::DET == link::DET_UP;
        if state.cmd & (cmd::ST | cmd::CR) == cmd::ST
            && ready
            && up
            && !state.stopping
            && !state.resetting
        {
            state.cmd |= cmd::CR;
            self.list.store(state.clb, Release);
            self.running.store(true, SeqCst);
            if self.ci.load(SeqCst) != 0 {
                self.wake();
            }
        }
    }

    fn write_sctl(&self, state: &mut PortState, new: u32) {
        let (old, now) = (state.sctl & link::DET, new & link::DET);
        state.sctl = new;
        match now {
            link::CONTROL_RESET if old != now => {
                state.ssts = 0;
                state.tfd[0] = NO_STATUS | u32::from(status::BSY);
                self.reset_drive(state, ResetKind::Hardware);
            }
            link::CONTROL_OFFLINE => {
                state.ssts = link::DET_OFFLINE;
                self.unsigned.store(false, SeqCst);
                self.stop(state);
            }
            0 if old != 0 => self.bring_up(state),
            _ => {}
        }
    }

    fn reset_drive(&self, state: &mut PortState, kind: ResetKind) {
        state.resetting = true;
        self.unsigned.store(false, SeqCst);
        let more = state.asks.reset != Some(ResetKind::PowerOn);
        if more {
            state.asks.reset = Some(kind);
        }
        self.stop(state);
        self.tell();
    }

    /// The link comes up, if there is a device and nothing is in its way.
    fn bring_up(&self, state: &mut PortState) {
        let allowed = state.sctl & link::DET == 0 && state.cmd & cmd::SUD != 0;
        let up = state.ssts & link::DET == link::DET_UP;
        if !allowed || state.resetting || up {
            return;
        }
        if !state.present {
            state.ssts = 0;
            state.tfd[0] = NO_STATUS;
            return;
        }
        state.ssts =
            link::DET_UP | link::SPD_GEN3 << link::SPD_SHIFT | link::ACTIVE << link::IPM_SHIFT;
        state.serr |= serr::EXCHANGED | serr::PHY;
        state.tfd[0] = NO_STATUS | u32::from(status::BSY);
        self.unsigned.store(true, SeqCst);
        self.tell();
    }

    /// Plugs a drive in, or takes it out. `countdown` is let go once the drive of the time before is
    /// quiet.
    pub fn exchange(&self, plugged: Option<Box<Plugged>>, countdown: Countdown) -> Interrupt {
        let mut state = self.lock();
        let before = state.is() & state.ie != 0;
        let old = state.asks.exchange.take();
        state.present = plugged.is_some();
        state.asks.exchange = Some(plugged);
        state.asks.waiting.push(countdown);
        if state.ssts & link::DET == link::DET_UP {
            state.serr |= serr::PHY;
        }
        state.ssts = 0;
        state.tfd[0] = NO_STATUS;
        self.reset_drive(&mut state, ResetKind::PowerOn);
        let pending = state.is() & state.ie != 0;
        drop(state);
        if let Some(mut old) = old.flatten()
            && let Some(unplugged) = old.unplugged.take()
        {
            drop(old);
            unplugged();
        }
        Interrupt { pending, rose: pending && !before }
    }

    /// Power comes to a port with a multiplier.
    pub fn power_up(&self) {
        self.reset_drive(&mut self.lock(), ResetKind::PowerOn);
    }

    /// Plugs a drive in behind the multiplier, or takes it out. `false`: it is as it was.
    pub fn exchange_behind(
        &self,
        unit: u8,
        plugged: Option<Box<Plugged>>,
        countdown: Countdown,
    ) -> bool {
        let mut state = self.lock();
        let bit = 1 << unit;
        if (state.units & bit != 0) == plugged.is_some() {
            return false;
        }
        state.units ^= bit;
        state.asks.behind.push((unit, plugged, countdown));
        self.tell();
        true
    }

    /// Whether a place behind the multiplier has a drive.
    pub fn has_unit(&self, unit: u8) -> bool {
        self.lock().units >> unit & 1 != 0
    }

    /// Resets the port as a reset of the HBA does (AHCI 10.4.3), or of the function: `all`.
    pub fn reset(&self, all: bool, countdown: Countdown) {
        let mut state = self.lock();
        self.reset_drive(&mut state, if all { ResetKind::PowerOn } else { ResetKind::Hardware });
        let running = state.cmd & cmd::CR;
        state.clear(!all);
        self.switching.store(false, SeqCst);
        state.cmd |= running;
        state.asks.receive = true;
        state.asks.waiting.push(countdown);
    }
}

impl Port {
    /// Whether devices behind a multiplier have commands at the same time (PxFBS.EN).
    #[inline]
    pub fn is_switching(&self) -> bool {
        self.switching.load(Acquire)
    }

    /// The error of a device is forgotten, and what it had not done of these slots.
    pub fn forget_error(&self, slots: u32) {
        let mut state = self.lock();
        if !state.stopping && !state.resetting {
            self.sact.fetch_and(!slots, SeqCst);
            self.ci.fetch_and(!slots, SeqCst);
        }
        state.fbs &= !(fbs::DEC | fbs::SDE | fbs::DWE);
    }

    /// Whether commands are to be taken.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.running.load(Acquire)
    }

    /// Where the command list is.
    #[inline]
    pub fn list(&self) -> u64 {
        self.list.load(Acquire)
    }

    #[inline]
    pub fn has_news(&self) -> bool {
        self.news.load(SeqCst)
    }

    /// The iothread is about to sleep, or has woken.
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, SeqCst);
    }

    /// What was asked for; whether the port stops.
    pub fn take_asks(&self) -> (Asks, bool) {
        let mut state = self.lock();
        self.news.store(false, SeqCst);
        (std::mem::take(&mut state.asks), state.stopping || state.resetting)
    }

    /// Where received FISes go. The queue half follows PxCMD.FRE with this.
    pub fn follow_receive(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.cmd & cmd::FRE == 0 {
            state.cmd &= !cmd::FR;
            return None;
        }
        Some(state.fb)
    }

    /// The queue half is quiet: a stop or a reset is over. Returns whether something was asked for
    /// in between, which comes first.
    pub fn settle(&self) -> (bool, Interrupt) {
        let mut state = self.lock();
        if state.asks.reset.is_some() || state.asks.exchange.is_some() {
            return (true, Interrupt::default());
        }
        let before = state.is() & state.ie != 0;
        state.stopping = false;
        state.cmd &= !cmd::CR;
        if state.resetting {
            state.resetting = false;
            self.ci.store(0, SeqCst);
            self.sact.store(0, SeqCst);
            self.bring_up(&mut state);
        }
        self.try_start(&mut state);
        let pending = state.is() & state.ie != 0;
        (false, Interrupt { pending, rose: pending && !before })
    }

    /// Whether the drive's signature is to be received.
    #[inline]
    pub fn is_unsigned(&self) -> bool {
        self.unsigned.load(SeqCst)
    }

    /// The drive's first FIS after a reset is in memory (AHCI 3.3.9).
    pub fn sign(&self, ending: &Ending) {
        let mut state = self.lock();
        if self.unsigned.swap(false, SeqCst) {
            state.sign(ending, 0);
            self.try_start(&mut state);
        }
    }

    /// The same, after a software reset.
    pub fn sign_again(&self, ending: &Ending, target: u8) {
        let mut state = self.lock();
        if !state.resetting && !state.stopping {
            let target = if state.fbs & fbs::EN != 0 { target & 0x0f } else { 0 };
            state.sign(ending, target);
        }
    }

    /// What the queue half did becomes visible, in this order: PxTFD, PxSACT and PxCI, PxIS. Dropped
    /// when the port has stopped meanwhile.
    pub fn publish(&self, changes: &Changes) -> Interrupt {
        let mut state = self.lock();
        if state.stopping || state.resetting {
            return Interrupt::default();
        }
        let before = state.is() & state.ie != 0;
        if let Some(tfd) = changes.tfd {
            let target = if state.fbs & fbs::EN != 0 { changes.target & 0x0f } else { 0 };
            state.tfd[usize::from(target)] = tfd;
        }
        if changes.device_error && state.fbs & fbs::SDE == 0 {
            state.fbs |= fbs::SDE | u32::from(changes.target) << fbs::DWE_SHIFT;
        }
        state.sntf |= changes.sntf;
        if let Some(slot) = changes.slot {
            state.cmd = state.cmd & !cmd::CCS | u32::from(slot) << cmd::CCS_SHIFT;
            state.wake_link();
        }
        self.sact.fetch_and(!changes.sact, SeqCst);
        self.ci.fetch_and(!changes.ci, SeqCst);
        state.serr |= changes.serr;
        state.is |= changes.is;
        let pending = state.is() & state.ie != 0;
        Interrupt { pending, rose: pending && !before }
    }

    /// A command was sent to the device, which is busy with it.
    pub fn set_busy(&self, target: u8) {
        let mut state = self.lock();
        if !state.stopping && !state.resetting {
            let target = if state.fbs & fbs::EN != 0 { target & 0x0f } else { 0 };
            state.tfd[usize::from(target)] |= u32::from(status::BSY);
            state.wake_link();
        }
    }

    /// The port's interrupt as it is.
    pub fn is_pending(&self) -> bool {
        let state = self.lock();
        state.is() & state.ie != 0
    }

    /// Whether something is plugged in.
    pub fn is_present(&self) -> bool {
        self.lock().present
    }
}

impl PortState {
    /// PxIS, with the bits that only show PxSERR (AHCI 3.3.5).
    fn is(&self) -> u32 {
        let shown = |error: u32, bit| if self.serr & error == 0 { 0 } else { bit };
        self.is | shown(serr::EXCHANGED, is::PCS) | shown(serr::PHY, is::PRCS)
    }

    /// As after a reset; PxCLB and PxFB stay after one of the HBA (AHCI 10.4.3).
    fn clear(&mut self, keep_bases: bool) {
        if !keep_bases {
            (self.clb, self.fb) = (0, 0);
        }
        (self.is, self.ie, self.sctl, self.serr, self.ssts) = (0, 0, 0, 0, 0);
        self.tfd = [NO_STATUS; TARGETS];
        (self.fbs, self.sntf) = (0, 0);
        self.sig = NO_SIGNATURE;
        let switching = if self.multiplier { cmd::FBSCP } else { 0 };
        self.cmd = switching | cmd::HPCP | cmd::POD | if self.staggered { 0 } else { cmd::SUD };
    }

    /// Which PxTFD is shown.
    fn shown(&self) -> usize {
        if self.fbs & fbs::EN == 0 { 0 } else { ((self.fbs & fbs::DEV) >> fbs::DEV_SHIFT) as usize }
    }

    fn sign(&mut self, ending: &Ending, target: u8) {
        self.tfd[usize::from(target)] = tfd(ending);
        self.sig = (ending.lba as u32) << 8 | u32::from(ending.count as u8);
    }

    /// PxCMD.ICC (AHCI 3.3.7): partial and slumber where PxSCTL.IPM allows them; the field reads as
    /// zero once it is done.
    fn change_power(&mut self, wanted: u32) {
        if self.ssts & link::DET != link::DET_UP {
            return;
        }
        let forbidden = self.sctl >> link::IPM_SHIFT & 0x0f;
        let allowed = match wanted & 0x0f {
            link::ACTIVE => true,
            link::PARTIAL => forbidden & 1 == 0,
            link::SLUMBER => forbidden & 2 == 0,
            _ => false,
        };
        if allowed {
            self.set_power(wanted & 0x0f);
        }
    }

    fn set_power(&mut self, power: u32) {
        self.ssts = self.ssts & !(0x0f << link::IPM_SHIFT) | power << link::IPM_SHIFT;
    }

    /// A link that sleeps wakes for what is sent over it (AHCI 8.3.1.2).
    fn wake_link(&mut self) {
        if self.ssts & link::DET == link::DET_UP {
            self.set_power(link::ACTIVE);
        }
    }
}

/// PxTFD from registers (AHCI 3.3.8).
#[inline]
pub(super) fn tfd(ending: &Ending) -> u32 {
    u32::from(ending.status) | u32::from(ending.error) << 8
}
