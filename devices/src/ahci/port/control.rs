//! What starts, stops and resets a port: PxCMD, PxSCTL, PxFBS, and a drive that comes or goes.

use std::sync::atomic::Ordering::{Release, SeqCst};

use super::{
    super::spec::{NO_STATUS, cmd, fbs, link, serr},
    CMD_WRITABLE, Interrupt, Plugged, Port, PortState,
};
use crate::{
    ata::{ResetKind, spec::status},
    device::Countdown,
};

impl Port {
    /// PxFBS (AHCI 3.3.16, 9.3).
    pub(super) fn write_fbs(&self, state: &mut PortState, new: u32, raw: u32) {
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

    pub(super) fn write_cmd(&self, state: &mut PortState, new: u32, raw: u32) {
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
    pub(super) fn stop(&self, state: &mut PortState) {
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
    pub(super) fn try_start(&self, state: &mut PortState) {
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

    pub(super) fn write_sctl(&self, state: &mut PortState, new: u32) {
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

    pub(super) fn reset_drive(&self, state: &mut PortState, kind: ResetKind) {
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
    pub(super) fn bring_up(&self, state: &mut PortState) {
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
