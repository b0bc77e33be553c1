//! How commands end: what is written to the received FISes, and what the registers show then.

use super::PortQueue;
use crate::{
    ahci::{
        fis::{self, DeviceBits, DeviceRegister, DmaSetup, PioSetup},
        port::tfd,
        slot::State,
        spec::{area, header, is, serr},
    },
    ata::{Ending, Protocol, spec::error},
};

/// FISes that were received since the last time, the last one of each kind.
#[derive(Default)]
pub(super) struct Frames {
    pub setup: Option<DmaSetup>,
    pub pio: Option<PioSetup>,
    pub register: Option<DeviceRegister>,
    pub bits: Option<DeviceBits>,
}

impl Frames {
    /// They come from a device behind a multiplier (SATA 16.3).
    fn mark(&mut self, target: u8) {
        let setup = self.setup.as_mut().map(|frame| &mut frame[1]);
        let pio = self.pio.as_mut().map(|frame| &mut frame[1]);
        let register = self.register.as_mut().map(|frame| &mut frame[1]);
        let bits = self.bits.as_mut().map(|frame| &mut frame[1]);
        for byte in [setup, pio, register, bits].into_iter().flatten() {
            *byte |= target;
        }
    }
}

impl PortQueue {
    /// A command is over; `moved` bytes went over the link.
    #[inline]
    pub(super) fn end(&mut self, index: u8, ending: Ending, moved: u64) {
        self.face(self.slots[usize::from(index)].target);
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Free;
        slot.buf.clear();
        let queued = slot.queued;
        if slot.interrupt {
            self.changes.is |= is::DPS;
        }
        self.dirty = true;
        if !ending.is_error() {
            self.completed += 1;
        }
        if !queued {
            return self.end_alone(index, ending, moved);
        }
        let tag = 1 << index;
        self.queued &= !tag;
        if ending.is_error() {
            return self.end_queue(index, ending);
        }
        self.changes.sact |= tag;
        self.changes.is |= is::SDBS;
    }

    /// A command that is not queued is over.
    fn end_alone(&mut self, index: u8, ending: Ending, moved: u64) {
        let slot = &self.slots[usize::from(index)];
        let plugged = self.targets[usize::from(slot.target)].plugged.as_ref();
        let sector = plugged.map_or(512, |plugged| plugged.drive.sector());
        let transfer = slot.command.transfer(sector);
        self.not_busy(index);
        if ending.is_error() {
            return self.end_in_error(&ending);
        }
        self.count_bytes(index, moved);
        let block = u64::from(transfer.block.max(1));
        // What the last block of a PIO transfer has.
        let last = if moved == 0 { 0 } else { ((moved - 1) % block + 1) as u16 };
        match transfer.protocol {
            Protocol::PioIn => {
                self.frames.pio = Some(fis::pio_setup(&ending, true, true, last));
                self.changes.is |= is::PSS;
            }
            protocol => {
                if protocol == Protocol::PioOut {
                    let more = moved > block;
                    self.frames.pio = Some(fis::pio_setup(&ending, false, more, last));
                    self.changes.is |= if more { is::PSS } else { 0 };
                }
                self.frames.register = Some(fis::device_register(&ending, true));
                self.changes.is |= is::DHRS;
            }
        }
        self.changes.tfd = Some(tfd(&ending));
        self.changes.ci |= 1 << index;
    }

    /// The device is not busy with a command any more.
    #[inline]
    pub(super) fn not_busy(&mut self, index: u8) {
        self.busy &= !(1 << index);
        self.deferred = 0;
    }

    /// PRDBC (AHCI 4.2.2).
    pub(super) fn count_bytes(&mut self, index: u8, moved: u64) {
        let at = u64::from(index) * header::LEN + header::PRDBC;
        let count = u32::try_from(moved).unwrap_or(u32::MAX).to_le_bytes();
        if self.hba.dma.write_bytes(self.port.list().wrapping_add(at), &count).is_err() {
            self.fatal(is::HBFS, 0);
        }
    }

    /// The drive reports an error in its registers: the slot stays issued, and the list stops
    /// (AHCI 6.2.2.1).
    pub(super) fn end_in_error(&mut self, ending: &Ending) {
        self.frames.register = Some(fis::device_register(ending, true));
        self.changes.tfd = Some(tfd(ending));
        self.changes.is |= is::DHRS | is::TFES;
        self.note_interface(ending);
        self.break_off();
    }

    /// An interface CRC error is the port's as well (AHCI 6.1.2).
    fn note_interface(&mut self, ending: &Ending) {
        if ending.error & error::ICRC != 0 {
            self.changes.is |= is::IFS;
            self.changes.serr |= serr::CRC | serr::TRANSIENT;
        }
    }

    /// A queued command has failed: the drive tells of it in Set Device Bits, and aborts the others
    /// (SATA 13.6.4.1).
    fn end_queue(&mut self, index: u8, ending: Ending) {
        let seat = self.seat(index);
        if let Some(plugged) = &mut self.targets[seat].plugged {
            plugged.drive.queue_failed(Some(index), ending);
        }
        // Those that went well before are told of before.
        self.show();
        let bits = fis::device_bits(ending.status, ending.error, 0);
        self.frames.bits = Some(bits);
        self.changes.tfd = Some(u32::from(bits[2]) | u32::from(bits[3]) << 8);
        self.changes.is |= is::SDBS | is::TFES;
        self.note_interface(&ending);
        self.break_off();
    }

    /// A command was refused before it began.
    #[cold]
    pub(super) fn refuse(&mut self, ending: Ending, tag: Option<u8>, others: bool) {
        let seat = usize::from(self.changes.target);
        if (tag.is_some() || others)
            && let Some(plugged) = &mut self.targets[seat].plugged
        {
            plugged.drive.queue_failed(tag, ending);
        }
        self.show();
        self.end_in_error(&ending);
    }

    /// A device has reported an error: nothing of it is taken any more (AHCI 6.2.2.1); with FIS-based
    /// switching the others go on (AHCI 9.3.6).
    fn break_off(&mut self) {
        if !self.port.is_switching() {
            return self.halt();
        }
        let target = self.changes.target;
        self.broken |= 1 << target;
        self.changes.device_error = true;
        self.dirty = true;
        self.drop_of(Some(target));
        self.show();
    }

    /// Nothing is taken any more, and what is in flight is dropped when it ends.
    fn halt(&mut self) {
        self.halted = true;
        self.busy = 0;
        self.dirty = true;
        self.drop_of(None);
    }

    /// Nobody hears how what is in flight ends, of one device or of all.
    pub(super) fn drop_of(&mut self, target: Option<u8>) {
        let slots = target.map_or(u32::MAX, |target| self.slots_of(target));
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slots >> index & 1 == 0 {
                continue;
            }
            match slot.state {
                State::Free => {}
                State::InFlight => {
                    slot.dropped = true;
                    if let Some(job) = &slot.job {
                        job.abort();
                    }
                }
                State::Parked => {
                    slot.state = State::Free;
                    slot.buf.clear();
                }
            }
        }
        self.parked.retain(|index| slots >> index & 1 == 0);
        self.queued &= !slots;
        self.busy &= !slots;
    }

    /// The port cannot go on (AHCI 6.1): the drive is left in the middle of its command.
    #[cold]
    pub(super) fn fatal(&mut self, bits: u32, errors: u32) {
        self.show();
        self.changes.is |= bits;
        self.changes.serr |= errors;
        self.halt();
    }

    /// Makes visible what ended: FISes, then registers. The interrupt is owed.
    #[inline]
    pub(super) fn show(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if self.changes.sact != 0 {
            let ready = crate::ata::spec::status::DRDY | crate::ata::spec::status::DSC;
            self.frames.bits = Some(fis::device_bits(ready, 0, self.changes.sact));
        }
        let mut frames = std::mem::take(&mut self.frames);
        let target = self.changes.target;
        if target != 0 {
            frames.mark(target);
        }
        let at = if self.port.is_switching() { u64::from(target) * area::LEN } else { 0 };
        if let Some(base) = self.area
            && !self.receive(base.wrapping_add(at), &frames)
        {
            self.changes.is |= is::HBFS;
            self.halt();
            self.dirty = false;
        }
        let changes = std::mem::take(&mut self.changes);
        self.changes.target = target;
        let change = self.port.publish(&changes);
        self.owed.pending |= change.pending;
        self.owed.rose |= change.rose;
    }

    /// Whether an interrupt is owed.
    #[inline]
    pub(super) fn owes(&self) -> bool {
        self.owed.pending || self.completed > 0
    }

    /// Interrupts, if that is still owed.
    #[inline]
    pub(super) fn interrupt(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        // The driver may have found it out by itself.
        if owed.pending && self.port.is_pending() {
            self.hba.interrupt(&self.port, owed);
        }
        self.hba.completed(self.port.number, std::mem::take(&mut self.completed));
    }

    /// Writes FISes to the area at `base`; whether it is RAM.
    #[inline]
    fn receive(&self, base: u64, frames: &Frames) -> bool {
        let dma = &self.hba.dma;
        let put = |at: u64, frame: Option<&[u8]>| {
            frame.is_none_or(|frame| dma.write_bytes(base.wrapping_add(at), frame).is_ok())
        };
        put(area::DMA_SETUP, frames.setup.as_ref().map(|frame| &frame[..]))
            && put(area::PIO_SETUP, frames.pio.as_ref().map(|frame| &frame[..]))
            && put(area::REGISTER, frames.register.as_ref().map(|frame| &frame[..]))
            && put(area::DEVICE_BITS, frames.bits.as_ref().map(|frame| &frame[..]))
    }
}
