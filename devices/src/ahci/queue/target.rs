//! The devices of a port: one, or those behind a multiplier.

use super::{PortQueue, background::Running};
use crate::{
    ahci::{
        fis,
        multiplier::{Multiplier, Written},
        port::{Plugged, tfd},
        slot::State,
        spec::{header, is, multiplier as spec, serr},
    },
    ata::{
        Drive, Ending, ResetKind, Taskfile,
        spec::{error, status},
    },
    device::Countdown,
    policy::Failures,
};

/// A device, or a place for one.
#[derive(Default)]
pub(super) struct Target {
    pub plugged: Option<Box<Plugged>>,
    pub failures: Option<Failures>,
    /// The step of the drive's own that is in flight.
    pub background: Option<Running>,
    /// What takes its place once nothing of it is in flight.
    exchange: Option<(Option<Box<Plugged>>, Countdown)>,
    /// Its error is forgotten then (PxFBS.DEC).
    clears: bool,
}

impl PortQueue {
    #[inline]
    pub(super) fn drive_of(&mut self, target: u8) -> Option<&mut Drive> {
        self.targets[usize::from(target)].plugged.as_mut().map(|plugged| &mut plugged.drive)
    }

    /// The place of a slot's device.
    #[inline]
    pub(super) fn seat(&self, index: u8) -> usize {
        usize::from(self.slots[usize::from(index)].target)
    }

    /// The device that a command header is for.
    #[inline]
    pub(super) fn target_of(&self, flags: u32) -> u8 {
        if self.multiplier.is_none() {
            return 0;
        }
        (flags >> header::PMP_SHIFT & header::PMP) as u8
    }

    /// The slots that are of a device.
    #[inline]
    pub(super) fn slots_of(&self, target: u8) -> u32 {
        if self.multiplier.is_none() {
            return u32::MAX;
        }
        let mine = |slot: &super::Slot| slot.target == target;
        self.slots.iter().enumerate().fold(0, |all, (i, slot)| all | u32::from(mine(slot)) << i)
    }

    /// FISes are of this device from now on; those of another one are shown.
    #[inline]
    pub(super) fn face(&mut self, target: u8) {
        if self.changes.target != target {
            self.show();
            self.changes.target = target;
        }
    }

    /// Whether a command has to wait for its device, while others go on. If so it is put aside.
    pub(super) fn waits(&mut self, index: u8, target: u8) -> bool {
        if !self.port.is_switching() {
            return false;
        }
        let busy = self.busy & self.slots_of(target) != 0;
        let resets = self.multiplier.as_ref().is_some_and(|pm| pm.is_resetting(target));
        let waits = busy || resets || self.broken >> target & 1 != 0;
        if waits {
            self.deferred |= 1 << index;
            let slot = &mut self.slots[usize::from(index)];
            if slot.state == State::Free {
                slot.target = target;
            }
        }
        waits
    }

    /// A command for the multiplier itself.
    pub(super) fn take_control_command(&mut self, index: u8, tf: &Taskfile) {
        self.face(spec::CONTROL_PORT);
        let slot = &mut self.slots[usize::from(index)];
        if slot.state != State::Free {
            return self.fatal(is::IFS, serr::PROTOCOL);
        }
        // It moves no data.
        (slot.tf, slot.command) = (*tf, crate::ata::Command::Flush);
        (slot.queued, slot.dropped, slot.interrupt) = (false, false, false);
        slot.target = spec::CONTROL_PORT;
        let Some(pm) = &mut self.multiplier else { return };
        let (port, register) = (tf.device & 0x0f, tf.features);
        let given = u32::from(tf.count as u8) | (tf.lba as u32 & 0xff_ffff) << 8;
        let mut good = Ending { status: status::DRDY | status::DSC, ..Ending::good(tf) };
        let done = match tf.command {
            spec::READ => pm.read(port, register).map(|value| {
                good.count = u16::from(value as u8);
                good.lba = u64::from(value >> 8);
                Written::Nothing
            }),
            spec::WRITE => pm.write(port, register, given),
            _ => None,
        };
        match done {
            None => self.end(index, Ending::failed(tf, error::ABRT), 0),
            Some(written) => {
                self.end(index, good, 0);
                if let Written::Reset(target) = written {
                    self.drop_of(Some(target));
                    self.look_for_device(target);
                }
            }
        }
    }

    /// A drive comes to a place behind the multiplier, or goes.
    pub(super) fn exchange_behind(
        &mut self,
        unit: u8,
        new: Option<Box<Plugged>>,
        countdown: Countdown,
    ) {
        self.drop_of(Some(unit));
        let target = &mut self.targets[usize::from(unit)];
        if let Some((Some(mut skipped), _)) = target.exchange.replace((new, countdown))
            && let Some(unplugged) = skipped.unplugged.take()
        {
            drop(skipped);
            unplugged();
        }
        self.look_for_device(unit);
    }

    /// The error of a device is forgotten, with the commands that it had.
    pub(super) fn clear_error(&mut self, target: u8) {
        self.drop_of(Some(target));
        self.targets[usize::from(target)].clears = true;
        self.look_for_device(target);
    }

    /// Goes on with what waits until nothing of a device is in flight.
    pub(super) fn look_for_device(&mut self, number: u8) {
        if self.multiplier.is_none() || self.stopping {
            return;
        }
        let quiet = self.targets[usize::from(number)].background.is_none()
            && !self
                .slots
                .iter()
                .any(|slot| slot.state == State::InFlight && slot.target == number);
        if !quiet {
            return;
        }
        self.settle_device(number);
        if std::mem::take(&mut self.targets[usize::from(number)].clears) {
            self.finish_clearing(number);
        }
    }

    /// Exchanges and resets a device that waits for it. Nothing of it is in flight.
    fn settle_device(&mut self, number: u8) {
        let at = usize::from(number);
        if let Some((new, countdown)) = self.targets[at].exchange.take() {
            self.exchange_drive(at, new);
            let present = self.targets[at].plugged.is_some();
            if let Some(pm) = &mut self.multiplier {
                pm.exchange(number, present);
                if pm.notifies() {
                    self.face(spec::CONTROL_PORT);
                    self.frames.bits = Some(fis::notification());
                    self.changes.sntf |= 1 << spec::CONTROL_PORT;
                    self.changes.is |= is::SDBS;
                    self.dirty = true;
                }
            }
            drop(countdown);
        }
        if self.multiplier.as_ref().is_some_and(|pm| pm.is_resetting(number)) {
            if let Some(drive) = self.drive_of(number) {
                drive.reset(ResetKind::Hardware);
            }
            if let Some(pm) = &mut self.multiplier {
                pm.bring_up(number);
            }
            self.deferred = 0;
        }
    }

    /// The same of all of them, when the port has stopped.
    pub(super) fn settle_devices(&mut self) {
        (self.deferred, self.broken) = (0, 0);
        if self.multiplier.is_none() {
            return;
        }
        for number in 0..self.targets.len() as u8 {
            self.settle_device(number);
            self.targets[usize::from(number)].clears = false;
        }
    }

    /// PxCI and PxSACT lose what the device had (AHCI 9.3.7).
    fn finish_clearing(&mut self, number: u8) {
        let issued = self.port.ci.load(std::sync::atomic::Ordering::SeqCst);
        let active = self.port.sact.load(std::sync::atomic::Ordering::SeqCst);
        let mut slots = 0;
        for index in 0..self.slots.len() as u8 {
            let bit = 1 << index;
            let taken = self.slots[usize::from(index)].target == number;
            // What was issued and not looked at may be another device's by now.
            let of_device = match self.header_target(index) {
                Some(target) if issued & bit != 0 => target == number,
                _ => taken,
            };
            slots |= if (issued | active) & bit != 0 && of_device { bit } else { 0 };
        }
        self.broken &= !(1 << number);
        self.deferred = 0;
        self.show();
        self.port.forget_error(slots);
    }

    /// The device that the command header in a slot is for.
    fn header_target(&self, index: u8) -> Option<u8> {
        let at = self.port.list().wrapping_add(u64::from(index) * header::LEN);
        let mut flags = [0; 4];
        self.hba.dma.read_bytes(at, &mut flags).ok()?;
        Some(self.target_of(u32::from_le_bytes(flags)))
    }

    /// What the registers hold after a reset of a device; `None`: there is none.
    pub(super) fn signature_of(&self, target: u8) -> Option<Ending> {
        if self.multiplier.is_some() && target == spec::CONTROL_PORT {
            return Some(multiplier_signature());
        }
        let up = self.multiplier.as_ref().is_none_or(|pm| pm.is_up(target));
        let plugged = self.targets[usize::from(target)].plugged.as_ref()?;
        up.then(|| plugged.drive.signature())
    }

    /// The first FIS after COMRESET: that of the first device, or of the multiplier.
    pub(super) fn first_signature(&self) -> Option<Ending> {
        let multiplier = self.multiplier.as_ref().map(|_| multiplier_signature());
        self.signature_of(0).or(multiplier)
    }

    /// Ends a software reset of a device.
    pub(super) fn end_soft_reset(&mut self, index: u8) {
        let target = self.slots[usize::from(index)].target;
        let signature = match self.drive_of(target) {
            Some(drive) => Some(drive.reset(ResetKind::Software)),
            None => self.signature_of(target),
        };
        let Some(signature) = signature else { return };
        self.face(target);
        self.frames.register = Some(fis::device_register(&signature, false));
        self.changes.tfd = Some(tfd(&signature) & !u32::from(status::BSY));
        self.changes.ci |= 1 << index;
        self.dirty = true;
        self.show();
        self.port.sign_again(&signature, target);
    }
}

fn multiplier_signature() -> Ending {
    Ending {
        status: status::DRDY | status::DSC,
        error: error::DIAGNOSTIC_PASSED,
        count: 1,
        lba: spec::SIGNATURE,
        device: 0,
    }
}

/// A port's devices: one, or a multiplier's.
pub(super) fn targets(multiplier: Option<&Multiplier>) -> Vec<Target> {
    let count = if multiplier.is_some() { crate::ahci::port::TARGETS } else { 1 };
    (0..count).map(|_| Target::default()).collect()
}
