//! What only SD cards have.

use super::{
    Card, Reply, Response, SdVersion,
    card::Own,
    registers::{scr, sd_status},
    size::STANDARD_MAX,
    spec::{State, TUNING_4, ocr, status},
    switch::{Functions, switch},
    table::Name,
};

/// An SD card's own state.
pub(super) struct SdCard {
    version: SdVersion,
    functions: Functions,
    /// Signals are at 1.8 V.
    low_voltage: bool,
    /// S18A was answered: CMD11 is legal.
    agreed: bool,
    /// CMD11 was answered; the lines are held low.
    pub switching: bool,
    /// Blocks of the last write that were written without error.
    pub written: u32,
    next_rca: u16,
}

/// The command that a host checks the voltage with: 2.7 V to 3.6 V (SD 4.3.13).
const VHS_MASK: u32 = 0xf00;
const VHS_NORMAL: u32 = 0x100;

impl SdCard {
    pub fn new(version: SdVersion) -> Self {
        Self {
            version,
            functions: [0; 6],
            low_voltage: false,
            agreed: false,
            switching: false,
            written: 0,
            next_rca: 0,
        }
    }

    pub fn power_on(&mut self) {
        *self = Self { next_rca: self.next_rca, ..Self::new(self.version) };
    }

    pub fn go_idle(&mut self) {
        self.functions = [0; 6];
        self.agreed = false;
        self.switching = false;
    }

    pub fn is_fast(&self) -> bool {
        self.functions[0] != 0
    }

    pub fn can_discard(&self) -> bool {
        self.version >= SdVersion::V6
    }

    pub fn has_block_count(&self) -> bool {
        self.version >= SdVersion::V3
    }

    pub fn switched(&mut self) {
        self.low_voltage |= self.switching;
        self.switching = false;
    }

    /// A new address: never 0.
    fn new_rca(&mut self) -> u16 {
        self.next_rca = self.next_rca.wrapping_add(0x4567).max(1);
        self.next_rca
    }
}

impl Card {
    /// A command that only SD cards have.
    pub(super) fn execute_sd(&mut self, name: Name, arg: u32) -> Reply {
        let high = self.config.size > STANDARD_MAX;
        let Own::Sd(card) = &mut self.own else { return self.refuse() };
        match name {
            Name::SendIfCond => {
                if arg & VHS_MASK != VHS_NORMAL {
                    return Reply::SILENCE;
                }
                Reply::new(Response::Normal(arg & 0xfff))
            }
            Name::AppOpCond => {
                let voltages = arg & ocr::VOLTAGES;
                let mut bits = ocr::VOLTAGES;
                // Without voltages it is only asked.
                if voltages != 0 {
                    let waits = high && arg & ocr::CAPACITY == 0;
                    if !waits {
                        bits |= ocr::READY;
                        if high {
                            bits |= ocr::CAPACITY;
                        }
                        let can = card.version >= SdVersion::V3 && !card.low_voltage;
                        card.agreed = can && arg & ocr::S18 != 0;
                        if card.agreed {
                            bits |= ocr::S18;
                        }
                        self.state = State::Ready;
                    }
                }
                Reply::new(Response::Ocr(bits))
            }
            Name::VoltageSwitch => {
                if !card.agreed {
                    return self.refuse();
                }
                card.switching = true;
                self.answer()
            }
            Name::RelativeAddress => {
                let rca = card.new_rca();
                self.rca = rca;
                self.state = State::Standby;
                let bits = self.status();
                // Bits 23, 22, 19 and 12 to 0 (SD 4.9.5).
                let short = bits >> 8 & 0xc000 | bits >> 6 & 0x2000 | bits & 0x1fff;
                Reply::new(Response::Normal(u32::from(rca) << 16 | short))
            }
            Name::Switch => {
                let uhs = card.version >= SdVersion::V3 && card.low_voltage;
                let (bytes, functions) = switch(card.functions, uhs, arg);
                card.functions = functions;
                self.send(bytes.to_vec())
            }
            Name::Tuning => self.send(TUNING_4.to_vec()),
            Name::SpeedClass => self.busy(),
            Name::AppCommand => {
                self.app = true;
                let bits = self.status() | status::APP_CMD;
                Reply::new(Response::Normal(bits))
            }
            name => self.application(name, arg),
        }
    }

    /// An application command.
    fn application(&mut self, name: Name, arg: u32) -> Reply {
        let Own::Sd(card) = &self.own else { return self.refuse() };
        let mut reply = match name {
            Name::AppBusWidth => match arg & 3 {
                width @ (0 | 2) => {
                    self.width = if width == 2 { 4 } else { 1 };
                    self.answer()
                }
                _ => {
                    self.errors |= status::OUT_OF_RANGE;
                    self.answer()
                }
            },
            Name::AppStatus => {
                let bytes = sd_status(card.version, self.width);
                self.send(bytes.to_vec())
            }
            Name::AppWrittenBlocks => {
                let bytes = card.written.to_be_bytes();
                self.send(bytes.to_vec())
            }
            Name::AppScr => {
                let bytes = scr(card.version);
                self.send(bytes.to_vec())
            }
            // How many blocks to erase beforehand, and a resistor: there is nothing to do for either.
            Name::AppEraseCount | Name::AppCardDetect => self.answer(),
            _ => return self.refuse(),
        };
        if let Response::Normal(bits) = &mut reply.response {
            *bits |= status::APP_CMD;
        }
        reply
    }
}
