//! What the queue half asks of a port, and does to it.

use std::sync::atomic::Ordering::{Acquire, SeqCst};

use super::{
    super::spec::{cmd, fbs},
    Asks, Changes, Interrupt, Port,
};
use crate::ata::{Ending, spec::status};

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
