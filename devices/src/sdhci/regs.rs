//! The registers, and what the two halves leave for each other.

mod table;

use super::{
    config::{SdhciConfig, SdhciVersion},
    spec::{clock, command, control, control2, error, gap, mode, normal, present, reset},
    status::Words,
};
use crate::{
    Access,
    register::{Part, Register, parts, width_mask},
};
use table::{COUNT, ERROR_BITS, TABLE};
pub(super) use table::{LEN, Name};

/// The vendor's number in the version register.
const VENDOR_VERSION: u64 = 0x10;
/// Tuning blocks until the sampling clock is found.
const TUNING_BLOCKS: u8 = 4;

/// A command with copies of the registers that it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub index: u8,
    pub flags: u16,
    pub argument: u32,
    pub mode: u16,
    pub block_size: u16,
    pub block_count: u16,
    /// SDMA address, or the argument of Auto CMD23.
    pub sdma: u32,
    pub adma: u64,
    /// DMA select.
    pub select: u8,
    /// Data lines.
    pub width: u8,
    pub tuning: bool,
}

impl Request {
    pub fn has_data(&self) -> bool {
        self.flags & command::DATA != 0
    }

    pub fn uses_dma(&self) -> bool {
        self.has_data() && self.mode & mode::DMA != 0 && !self.tuning
    }
}

/// What the register half leaves for the queue half.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inbox {
    pub command: Option<Request>,
    /// Resets that wait for a transfer to end.
    pub reset: u8,
    /// Power was switched off.
    pub power_cycle: bool,
    /// The lines are at 1.8 V.
    pub voltage: bool,
    /// SDMA has a new address, or the gap is over.
    pub resume: bool,
    /// The buffer of the data port is empty, or full.
    pub buffer: bool,
}

/// What an access asks its caller to do, with the lock released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// The interrupt output may have changed.
    pub interrupt: bool,
    /// The output has come up, or there is more behind it.
    pub message: bool,
    /// There is something in the inbox.
    pub bell: bool,
    /// The windows have changed.
    pub windows: bool,
}

/// The buffer behind the data port: blocks on their way.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    at: usize,
    block: usize,
    write: bool,
    open: bool,
}

/// See the module.
pub(super) struct Regs {
    values: [u64; COUNT],
    capabilities: u64,
    max_current: u64,
    version: SdhciVersion,
    pub inbox: Inbox,
    buffer: Buffer,
    /// The queue half has a transfer that a reset must wait for.
    pub engaged: bool,
    command_busy: bool,
    data_busy: bool,
    /// Direction of the transfer on the data lines, if there is one.
    moving: Option<bool>,
    resetting: u8,
    pub inserted: bool,
    pub write_protected: bool,
    /// The card holds its lines low.
    pub lines_low: bool,
    /// A transfer waits at a boundary, or at a gap.
    pub waiting: bool,
    tuned: u8,
}

impl Regs {
    pub fn new(config: &SdhciConfig) -> Self {
        let mut regs = Self {
            values: [0; COUNT],
            capabilities: config.capabilities_register(),
            max_current: config.max_current,
            version: config.version,
            inbox: Inbox::default(),
            buffer: Buffer::default(),
            engaged: false,
            command_busy: false,
            data_busy: false,
            moving: None,
            resetting: 0,
            inserted: false,
            write_protected: false,
            lines_low: false,
            waiting: false,
            tuned: 0,
        };
        regs.clear();
        regs
    }

    pub fn get(&self, name: Name) -> u64 {
        self.values[name as usize]
    }

    pub fn set(&mut self, name: Name, value: u64) {
        self.values[name as usize] = value;
    }

    fn get16(&self, name: Name) -> u16 {
        self.get(name) as u16
    }

    /// Everything as after power-on.
    fn clear(&mut self) {
        for register in &TABLE {
            self.set(register.name, register.reset);
        }
        self.set(Name::Capabilities, self.capabilities);
        self.set(Name::MaxCurrent, self.max_current);
        let spec = match self.version {
            SdhciVersion::V1 => 0,
            SdhciVersion::V2 => 1,
            SdhciVersion::V3 => 2,
        };
        self.set(Name::Version, VENDOR_VERSION << 8 | spec);
        if self.version >= SdhciVersion::V3 {
            self.set_presets();
        }
        (self.command_busy, self.data_busy, self.moving) = (false, false, None);
        self.buffer = Buffer::default();
        (self.inbox.command, self.inbox.resume, self.inbox.buffer) = (None, false, false);
        (self.waiting, self.lines_low, self.tuned) = (false, false, 0);
    }

    /// The divider that comes closest to the clock of each mode, from below.
    fn set_presets(&mut self) {
        let base = self.capabilities >> 8 & 0xff;
        let divider = |khz: u64| match (base * 1000).div_ceil(khz) {
            0 | 1 => 0,
            ratio => ratio.div_ceil(2).min(0x3ff),
        };
        let presets = [
            (Name::PresetInit, 400),
            (Name::PresetDefault, 25_000),
            (Name::PresetHighSpeed, 50_000),
            (Name::PresetSdr12, 25_000),
            (Name::PresetSdr25, 50_000),
            (Name::PresetSdr50, 100_000),
            (Name::PresetSdr104, 208_000),
            (Name::PresetDdr50, 50_000),
        ];
        for (name, khz) in presets {
            self.set(name, divider(khz));
        }
    }

    /// A reset of everything that is over: the registers too.
    pub fn reset_all(&mut self) {
        self.clear();
        self.resetting = 0;
        self.inbox.power_cycle = true;
        self.inbox.reset = 0;
    }

    /// The resets that the queue half was asked for are over.
    pub fn reset_done(&mut self) {
        let which = std::mem::take(&mut self.resetting);
        if which & reset::ALL != 0 {
            return self.reset_all();
        }
        self.reset_lines(which);
    }

    fn reset_lines(&mut self, which: u8) {
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

    fn clear_normal(&mut self, bits: u16) {
        self.set(Name::NormalStatus, self.get(Name::NormalStatus) & !u64::from(bits));
    }

    /// Sets bits of the normal status that are enabled.
    pub fn raise(&mut self, bits: u16) {
        let enabled = bits & self.get16(Name::NormalEnable);
        self.set(Name::NormalStatus, self.get(Name::NormalStatus) | u64::from(enabled));
    }

    /// Sets bits of the error status that are enabled.
    pub fn raise_error(&mut self, bits: u16) {
        let enabled = bits & self.get16(Name::ErrorEnable);
        self.set(Name::ErrorStatus, self.get(Name::ErrorStatus) | u64::from(enabled));
    }

    fn normal_status(&self) -> u64 {
        let error = if self.get(Name::ErrorStatus) != 0 { u64::from(normal::ERROR) } else { 0 };
        self.get(Name::NormalStatus) | error
    }

    /// The level of the interrupt output.
    pub fn output(&self) -> bool {
        self.get(Name::NormalStatus) & self.get(Name::NormalSignal) != 0
            || self.get(Name::ErrorStatus) & self.get(Name::ErrorSignal) != 0
    }

    /// SDMA is selected: its address register is no coalesced one then, since a transfer that waits at
    /// a boundary goes on when it is written.
    pub fn is_sdma(&self) -> bool {
        self.get(Name::HostControl) & u64::from(control::DMA) == 0
    }

    fn is_high_speed(&self) -> bool {
        self.get(Name::HostControl) & u64::from(control::HIGH_SPEED) != 0
    }

    fn width(&self) -> u8 {
        let control = self.get(Name::HostControl) as u8;
        if control & control::WIDTH_8 != 0 {
            8
        } else if control & control::WIDTH_4 != 0 {
            4
        } else {
            1
        }
    }

    /// The card has power and a clock: only then are commands sent.
    fn is_clocked(&self) -> bool {
        let running = clock::INTERNAL | clock::CARD;
        self.get(Name::PowerControl) & 1 != 0 && self.get16(Name::Clock) & running == running
    }

    /// The mask of bits that a guest can write in this version.
    fn writable(&self, register: &Register<Name>) -> u64 {
        if self.version >= SdhciVersion::V3 {
            return register.writable;
        }
        match register.name {
            // Auto CMD12 alone.
            Name::TransferMode => 0x0037,
            Name::Clock => 0xff05,
            Name::HostControl => 0xdf,
            Name::HostControl2 => 0,
            Name::AdmaAddress if self.version == SdhciVersion::V1 => 0xffff_ffff,
            _ => register.writable,
        }
    }

    fn present_state(&self) -> u32 {
        let mut bits = 0;
        let mut set = |on: bool, bit: u32| bits |= if on { bit } else { 0 };
        set(self.command_busy, present::COMMAND_INHIBIT);
        set(self.data_busy, present::DATA_INHIBIT | present::DATA_ACTIVE);
        set(self.moving == Some(true), present::WRITING);
        set(self.moving == Some(false), present::READING);
        set(self.buffer.open && self.buffer.write, present::BUFFER_WRITE);
        set(self.buffer.open && !self.buffer.write, present::BUFFER_READ);
        let control = self.get(Name::HostControl) as u8;
        let inserted = match control & control::TEST {
            0 => self.inserted,
            _ => control & control::TEST_LEVEL != 0,
        };
        set(inserted, present::INSERTED);
        set(true, present::STABLE);
        set(self.inserted, present::DETECT);
        set(self.inserted && !self.write_protected, present::WRITABLE);
        set(!self.lines_low, present::DATA_LINES | present::COMMAND_LINE);
        // A busy card holds the first line.
        if self.data_busy && self.moving.is_none() {
            bits &= !present::DATA_0;
        }
        bits
    }

    fn clock_register(&self) -> u64 {
        let mut value = self.get(Name::Clock);
        if value & u64::from(clock::INTERNAL) != 0 {
            value |= u64::from(clock::STABLE);
        }
        if self.get16(Name::HostControl2) & control2::PRESET != 0 {
            let divider = self.get(self.preset()) & 0x3ff;
            value &= !u64::from(clock::DIVIDER);
            value |= (divider & 0xff) << 8 | (divider >> 8) << 6;
        }
        value
    }

    /// The preset value that is in force.
    fn preset(&self) -> Name {
        let control = self.get16(Name::HostControl2);
        if control & control2::LOW_VOLTAGE == 0 {
            return if self.is_high_speed() { Name::PresetHighSpeed } else { Name::PresetDefault };
        }
        match control & control2::UHS_MODE {
            0 => Name::PresetSdr12,
            1 => Name::PresetSdr25,
            2 => Name::PresetSdr50,
            3 => Name::PresetSdr104,
            _ => Name::PresetDdr50,
        }
    }

    /// A load.
    pub fn read(&mut self, access: Access) -> (u64, Effects) {
        let mut effects = Effects::default();
        let mut value = 0;
        for part in parts(&TABLE, access) {
            let bits = match part.register.name {
                Name::BufferPort => self.read_port(part.mask, &mut effects),
                Name::PresentState => self.present_state().into(),
                Name::NormalStatus => self.normal_status(),
                Name::SoftwareReset => self.resetting.into(),
                Name::Clock => self.clock_register(),
                Name::SlotInterrupt => self.output().into(),
                name => self.get(name),
            };
            value |= part.extract(bits);
        }
        (value, effects)
    }

    /// A store.
    pub fn write(&mut self, access: Access, value: u64) -> Effects {
        let mut effects = Effects::default();
        let before = self.output();
        for part in parts(&TABLE, access) {
            self.write_part(&part, part.insert(value), &mut effects);
        }
        effects.message |= !before && self.output();
        effects
    }

    fn write_part(&mut self, part: &Part<'_, Name>, value: u64, effects: &mut Effects) {
        let name = part.register.name;
        let old = self.get(name);
        let register = Register { writable: self.writable(part.register), ..*part.register };
        let new = register.merge(old, value, part.mask);
        match name {
            // They are the transfer's as long as there is one.
            Name::BlockSize | Name::BlockCount | Name::TransferMode if self.data_busy => {}
            Name::SdmaAddress => {
                self.set(name, new);
                // Its last byte lets a transfer go on (SDHC 2.2.1).
                if self.waiting && part.mask >> 24 != 0 && self.inbox_resume() {
                    effects.bell = true;
                }
            }
            Name::Command => {
                if self.command_busy {
                    return;
                }
                self.set(name, new);
                if part.mask & 0xff00 != 0 {
                    self.issue(effects);
                }
            }
            Name::BufferPort => self.write_port(value, part.mask, effects),
            Name::HostControl => {
                self.set(name, new);
                effects.windows = (old ^ new) & u64::from(control::DMA) != 0;
            }
            Name::PowerControl => {
                let new = if self.inserted { new } else { new & !1 };
                self.set(name, new);
                if old & !new & 1 != 0 {
                    self.inbox.power_cycle = true;
                    self.lines_low = false;
                    effects.bell = true;
                }
            }
            Name::BlockGap => self.write_gap(new as u8, effects),
            Name::Clock => self.write_clock(old, new, effects),
            Name::SoftwareReset => self.write_reset(value as u8, effects),
            Name::NormalStatus | Name::ErrorStatus => {
                self.set(name, new);
                effects.interrupt = true;
            }
            Name::NormalEnable | Name::ErrorEnable => {
                self.set(name, new);
                let status =
                    if name == Name::NormalEnable { Name::NormalStatus } else { Name::ErrorStatus };
                self.set(status, self.get(status) & new);
                effects.interrupt = true;
            }
            Name::NormalSignal | Name::ErrorSignal => {
                self.set(name, new);
                effects.interrupt = true;
            }
            Name::HostControl2 => {
                // The sampling clock is found by tuning alone; clearing its bit is allowed.
                let found = new & u64::from(control2::TUNED) & old;
                let mut new = new & !u64::from(control2::TUNED) | found;
                if new & !old & u64::from(control2::TUNE) != 0 {
                    self.tuned = 0;
                    new &= !u64::from(control2::TUNED);
                }
                self.set(name, new);
            }
            Name::ForceAutoError => {
                let bits = value & 0x9f;
                self.set(Name::AutoError, self.get(Name::AutoError) | bits);
                if bits != 0 {
                    self.raise_error(error::AUTO);
                }
                effects.interrupt = true;
            }
            Name::ForceError => {
                self.raise_error(value as u16 & ERROR_BITS as u16);
                effects.interrupt = true;
            }
            _ => self.set(name, new),
        }
    }

    fn inbox_resume(&mut self) -> bool {
        self.waiting = false;
        self.inbox.resume = true;
        true
    }

    fn write_gap(&mut self, new: u8, effects: &mut Effects) {
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

    fn write_clock(&mut self, old: u64, new: u64, effects: &mut Effects) {
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

    fn write_reset(&mut self, bits: u8, effects: &mut Effects) {
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
    fn issue(&mut self, effects: &mut Effects) {
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

    /// Takes bytes out of the buffer of the data port.
    fn read_port(&mut self, mask: u64, effects: &mut Effects) -> u64 {
        let mut value = 0;
        if !self.buffer.open || self.buffer.write {
            return 0;
        }
        for i in 0..mask.count_ones() / 8 {
            let Some(byte) = self.buffer.bytes.get(self.buffer.at) else { break };
            value |= u64::from(*byte) << (i * 8);
            self.buffer.at += 1;
            self.after_byte(effects);
            if !self.buffer.open {
                break;
            }
        }
        value << mask.trailing_zeros()
    }

    /// Puts bytes into the buffer of the data port.
    fn write_port(&mut self, value: u64, mask: u64, effects: &mut Effects) {
        let value = value >> mask.trailing_zeros();
        for i in 0..mask.count_ones() / 8 {
            if !self.buffer.open || !self.buffer.write {
                return;
            }
            let Some(byte) = self.buffer.bytes.get_mut(self.buffer.at) else { return };
            *byte = (value >> (i * 8)) as u8;
            self.buffer.at += 1;
            self.after_byte(effects);
        }
    }

    /// At the end of a block the guest is told of the next, at the end of the last the queue half.
    fn after_byte(&mut self, effects: &mut Effects) {
        let buffer = &mut self.buffer;
        if buffer.block == 0 || !buffer.at.is_multiple_of(buffer.block) {
            return;
        }
        if buffer.at < buffer.bytes.len() {
            let ready = if buffer.write { normal::WRITE_READY } else { normal::READ_READY };
            self.raise(ready);
            (effects.interrupt, effects.message) = (true, true);
        } else {
            buffer.open = false;
            self.inbox.buffer = true;
            effects.bell = true;
        }
        self.count_blocks(1);
    }

    /// Opens the buffer of the data port: to be read, or to be written.
    pub fn open_buffer(&mut self, bytes: Vec<u8>, block: usize, write: bool) {
        self.buffer = Buffer { bytes, at: 0, block, write, open: true };
        self.raise(if write { normal::WRITE_READY } else { normal::READ_READY });
    }

    /// The bytes of a buffer that is full, or empty.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer).bytes
    }

    /// Blocks have been moved: the block count goes down, if it counts.
    pub fn count_blocks(&mut self, blocks: u32) {
        if self.get16(Name::TransferMode) & mode::COUNT != 0 {
            let left = self.get(Name::BlockCount).saturating_sub(blocks.into());
            self.set(Name::BlockCount, left);
        }
    }

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
}

/// Whether an access lies in the window.
pub(super) fn is_inside(access: Access) -> bool {
    access.offset < LEN && width_mask(access.width) != 0
}
