//! The registers, and what the two halves leave for each other.

mod act;
mod buffer;
mod outcome;
mod table;

use table::{COUNT, ERROR_BITS, TABLE};

use super::{
    config::{SdhciConfig, SdhciVersion},
    spec::{clock, command, control, control2, error, mode, normal, present},
};
use crate::{
    Access,
    register::{Part, Register, parts, width_mask},
};

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
}

/// Whether an access lies in the window.
pub(super) fn is_inside(access: Access) -> bool {
    access.offset < LEN && width_mask(access.width) != 0
}
