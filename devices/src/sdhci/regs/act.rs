//! Registers that do something when they are written.

use super::{
    super::{
        config::SdhciVersion,
        spec::{clock, command, control, control2, gap, reset},
    },
    Effects, Name, Regs, Request,
};

impl Regs {
    pub(super) fn inbox_resume(&mut self) -> bool {
        self.waiting = false;
        self.inbox.resume = true;
        true
    }

    pub(super) fn write_gap(&mut self, new: u8, effects: &mut Effects) {
        // The continue request clears itself.
        self.set(Name::BlockGap, u64::from(new & !gap::CONTINUE));
        if new & gap::CONTINUE != 0 && new & gap::STOP == 0 && self.waiting {
            effects.bell = self.inbox_resume();
        }
    }

    /// Whether the guest wants a transfer to stop after the next block.
    pub fn stops_at_gap(&self) -> bool {
        self.get(Name::BlockGap) & u64::from(gap::STOP) != 0
    }

    pub(super) fn write_clock(&mut self, old: u64, new: u64, effects: &mut Effects) {
        self.set(Name::Clock, new);
        let card = u64::from(clock::CARD);
        let low = self.get16(Name::HostControl2) & control2::LOW_VOLTAGE != 0;
        // The clock comes back at 1.8 V: the card lets go of its lines (SD 4.2.4.2).
        if self.lines_low && low && new & !old & card != 0 {
            self.lines_low = false;
            self.inbox.voltage = true;
            effects.bell = true;
        }
    }

    pub(super) fn write_reset(&mut self, bits: u8, effects: &mut Effects) {
        let bits = bits & (reset::ALL | reset::COMMAND | reset::DATA);
        if bits == 0 {
            return;
        }
        effects.interrupt = true;
        effects.windows = bits & reset::ALL != 0;
        if self.engaged {
            self.resetting |= bits;
            self.inbox.reset |= bits;
            self.inbox.command = None;
            effects.bell = true;
            return;
        }
        if bits & reset::ALL != 0 {
            self.reset_all();
            effects.bell = true;
        } else {
            self.reset_lines(bits);
        }
    }

    /// The command register was written.
    pub(super) fn issue(&mut self, effects: &mut Effects) {
        let flags = self.get16(Name::Command);
        let abort = flags & command::ABORT == command::ABORT;
        let uses_data = flags & command::DATA != 0 || flags & command::RESPONSE == command::BUSY;
        if !self.is_clocked() || self.resetting != 0 || uses_data && self.data_busy && !abort {
            return;
        }
        let control = self.get(Name::HostControl) as u8;
        let tuning = self.get16(Name::HostControl2) & control2::TUNE != 0;
        let request = Request {
            index: (flags >> 8 & 0x3f) as u8,
            flags,
            argument: self.get(Name::Argument) as u32,
            mode: self.get16(Name::TransferMode),
            block_size: self.get16(Name::BlockSize),
            block_count: self.get16(Name::BlockCount),
            sdma: self.get(Name::SdmaAddress) as u32,
            adma: self.get(Name::AdmaAddress),
            select: if self.version == SdhciVersion::V3 && control & control::DMA == control::ADMA1
            {
                0
            } else {
                control & control::DMA
            },
            width: self.width(),
            tuning: tuning && matches!(flags >> 8 & 0x3f, 19 | 21),
        };
        self.command_busy = true;
        self.data_busy |= uses_data;
        if request.has_data() {
            self.set(Name::AutoError, 0);
            self.set(Name::AdmaError, 0);
            self.engaged = true;
        }
        self.inbox.command = Some(request);
        effects.bell = true;
    }
}
