//! What the queue half tells the registers.

use super::{
    super::{
        spec::{control2, error, gap, normal, reset},
        status::Words,
    },
    Buffer, Name, Regs, TUNING_BLOCKS,
};

impl Regs {
    /// Data begin to move.
    pub fn begin_data(&mut self, write: bool) {
        self.moving = Some(write);
    }

    /// A response has come, or failed with these error bits.
    pub fn command_done(&mut self, words: Words, errors: u16) {
        match words {
            Words::None => {}
            Words::Short(bits) => self.set(Name::Response0, bits.into()),
            Words::Long(all) => {
                let names = [Name::Response0, Name::Response1, Name::Response2, Name::Response3];
                names.iter().zip(all).for_each(|(name, bits)| self.set(*name, bits.into()));
            }
        }
        self.command_busy = false;
        if errors == 0 {
            self.raise(normal::COMMAND);
        } else {
            self.raise_error(errors);
        }
    }

    /// The response of an automatic command.
    pub fn auto_done(&mut self, bits: Option<u32>, errors: u16) {
        if let Some(bits) = bits {
            self.set(Name::Response3, bits.into());
        }
        if errors != 0 {
            self.set(Name::AutoError, u64::from(errors));
            self.raise_error(error::AUTO);
        }
    }

    /// The data lines are free again; with `complete` the guest is told so.
    pub fn data_done(&mut self, complete: bool, errors: u16) {
        (self.data_busy, self.moving, self.waiting) = (false, None, false);
        self.buffer = Buffer::default();
        if complete {
            self.raise(normal::TRANSFER);
        }
        self.raise_error(errors);
    }

    /// The card is busy after a response.
    pub fn hold_data(&mut self) {
        self.data_busy = true;
        self.engaged = true;
    }

    /// A tuning block has come. Command and data are over without being told (SDHC 2.2.24).
    pub fn tuning_block(&mut self, received: bool) {
        (self.command_busy, self.data_busy) = (false, false);
        if !received {
            return;
        }
        self.raise(normal::READ_READY);
        self.tuned += 1;
        if self.tuned >= TUNING_BLOCKS {
            let control = self.get(Name::HostControl2) & !u64::from(control2::TUNE);
            self.set(Name::HostControl2, control | u64::from(control2::TUNED));
        }
    }

    /// A card has come or gone.
    pub fn set_inserted(&mut self, inserted: bool) {
        if self.inserted == inserted {
            return;
        }
        self.inserted = inserted;
        if inserted {
            self.raise(normal::INSERTION);
        } else {
            // Power is switched off (SDHC 2.2.11).
            self.set(Name::PowerControl, self.get(Name::PowerControl) & !1);
            self.lines_low = false;
            self.raise(normal::REMOVAL);
        }
    }

    /// The resets that the queue half was asked for are over.
    pub fn reset_done(&mut self) {
        let which = std::mem::take(&mut self.resetting);
        if which & reset::ALL != 0 {
            return self.reset_all();
        }
        self.reset_lines(which);
    }

    pub(super) fn reset_lines(&mut self, which: u8) {
        if which & reset::COMMAND != 0 {
            self.command_busy = false;
            self.inbox.command = None;
            self.clear_normal(normal::COMMAND);
        }
        if which & reset::DATA != 0 {
            self.data_busy = false;
            self.moving = None;
            self.buffer = Buffer::default();
            self.waiting = false;
            self.inbox.buffer = false;
            self.inbox.resume = false;
            if self.inbox.command.is_some_and(|request| request.has_data()) {
                self.inbox.command = None;
                self.command_busy = false;
            }
            self.set(
                Name::BlockGap,
                self.get(Name::BlockGap) & !u64::from(gap::STOP | gap::CONTINUE),
            );
            let data = normal::TRANSFER | normal::GAP | normal::DMA;
            self.clear_normal(data | normal::WRITE_READY | normal::READ_READY);
        }
    }
}
