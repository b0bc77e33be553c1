//! The type 0 configuration header (PCI 6.1, 6.2).

use super::{
    Bar, BarKind, Capability,
    capability::{EXPRESS_DEVICE_CONTROL, INITIATE_FLR, MSI_ALLOCATED, MSI_ENABLE, id},
    interrupts::MsiRegisters,
};
use crate::{
    Access,
    register::{Register, RegisterFile, parts},
};

/// Who a function says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface, from high to low.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Vendor,
    Device,
    Command,
    Status,
    Revision,
    Class,
    CacheLine,
    Latency,
    HeaderType,
    SelfTest,
    Bar,
    SubsystemVendor,
    Subsystem,
    Capabilities,
    InterruptLine,
    InterruptPin,
}

/// Command register bits (PCI 6.2.2).
pub(super) mod command {
    pub const IO: u16 = 1 << 0;
    pub const MEMORY: u16 = 1 << 1;
    pub const BUS_MASTER: u16 = 1 << 2;
    pub const PARITY: u16 = 1 << 6;
    pub const SERR: u16 = 1 << 8;
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Status register bits (PCI 6.2.3).
const STATUS_INTERRUPT: u64 = 1 << 3;
const STATUS_CAPABILITIES: u64 = 1 << 4;
const STATUS_ERRORS: u64 = 0xf900;
const HEADER_MULTIFUNCTION: u64 = 0x80;

const COMMAND_WRITABLE: u64 = (command::IO
    | command::MEMORY
    | command::BUS_MASTER
    | command::PARITY
    | command::SERR
    | command::INTX_DISABLE) as u64;

/// The header. Reset values that differ between functions are filled in when one is built.
const HEADER: &[Register<Name>] = &[
    Register::read_only(Name::Vendor, 0x00, 2, 0),
    Register::read_only(Name::Device, 0x02, 2, 0),
    Register::read_write(Name::Command, 0x04, 2, 0, COMMAND_WRITABLE),
    Register {
        name: Name::Status,
        offset: 0x06,
        width: 2,
        reset: 0,
        writable: 0,
        write_one_clear: STATUS_ERRORS,
    },
    Register::read_only(Name::Revision, 0x08, 1, 0),
    Register::read_only(Name::Class, 0x09, 3, 0),
    Register::read_write(Name::CacheLine, 0x0c, 1, 0, 0xff),
    Register::read_only(Name::Latency, 0x0d, 1, 0),
    Register::read_only(Name::HeaderType, 0x0e, 1, 0),
    Register::read_only(Name::SelfTest, 0x0f, 1, 0),
    Register::read_only(Name::SubsystemVendor, 0x2c, 2, 0),
    Register::read_only(Name::Subsystem, 0x2e, 2, 0),
    Register::read_only(Name::Capabilities, 0x34, 1, 0),
    Register::read_write(Name::InterruptLine, 0x3c, 1, 0, 0xff),
    Register::read_only(Name::InterruptPin, 0x3d, 1, 0),
];

const BAR0: usize = 0x10;
const FIRST_CAPABILITY: usize = 0x40;
/// SD host controllers, as class and sub-class: they have a register of their own at 40h, which says
/// how many slots there are (SD Host Controller 3.00, C.3). For one slot at BAR 0 it is zero.
const SD_HOST: u32 = 0x0805;
const FIRST_CAPABILITY_SD: usize = 0x80;
const LEN: usize = 0x100;
const BAR_IO: u64 = 1;
const BAR_MEMORY_64: u64 = 4;
const BAR_PREFETCHABLE: u64 = 8;

/// Where a live part of a capability lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    /// Index of the capability among those the function was built with.
    pub capability: usize,
    /// First byte that the controller answers for.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// Offset of the capability itself.
    pub base: usize,
}

/// What a write changed that somebody has to act upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Address decoding: a BAR, or one of the decode bits.
    pub decode: bool,
    /// Bus mastering, INTx disable or MSI-X message control.
    pub interrupts: bool,
    /// Initiate Function Level Reset was written.
    pub reset: bool,
}

/// A function's configuration space.
pub(super) struct Config {
    file: RegisterFile,
    bars: Vec<Bar>,
    live: Vec<Live>,
    msix: Option<usize>,
    msi: Option<usize>,
    express: Option<usize>,
    /// Where the registers lie that are the function's own.
    own: std::ops::Range<u64>,
}

/// BARs and decode bits.
type Decoding = ([u64; 3], u16);
/// Command bits, MSI-X message control, MSI.
type Interrupting = (u16, u16, Option<MsiRegisters>);

/// More capabilities than 192 bytes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyCapabilities;

/// Where the list of capabilities begins.
fn first_capability(identity: Identity) -> usize {
    if identity.class >> 8 == SD_HOST { FIRST_CAPABILITY_SD } else { FIRST_CAPABILITY }
}

impl Config {
    pub fn new(
        identity: Identity,
        multifunction: bool,
        interrupt_pin: u8,
        bars: &[Bar],
        capabilities: &[Capability],
    ) -> Result<Self, TooManyCapabilities> {
        let mut file = RegisterFile::new(LEN);
        for register in HEADER {
            let reset = match register.name {
                Name::Vendor => identity.vendor.into(),
                Name::Device => identity.device.into(),
                Name::Revision => identity.revision.into(),
                Name::Class => identity.class.into(),
                Name::HeaderType if multifunction => HEADER_MULTIFUNCTION,
                Name::SubsystemVendor => identity.subsystem_vendor.into(),
                Name::Subsystem => identity.subsystem.into(),
                Name::InterruptPin => interrupt_pin.into(),
                Name::Status if !capabilities.is_empty() => STATUS_CAPABILITIES,
                Name::Capabilities if !capabilities.is_empty() => first_capability(identity) as u64,
                _ => register.reset,
            };
            file.add(&Register { reset, ..*register });
        }
        let mut config = Self {
            file,
            bars: bars.to_vec(),
            live: Vec::new(),
            msix: None,
            msi: None,
            express: None,
            own: 0..0,
        };
        bars.iter().for_each(|bar| config.add_bar(bar));
        config.add_capabilities(first_capability(identity), capabilities)?;
        Ok(config)
    }

    /// Adds registers of the function's own, beyond the header. It has no capabilities there.
    pub fn add_own<N>(&mut self, table: &[Register<N>]) {
        for register in table {
            let end = register.offset + u64::from(register.width);
            self.own = match self.own.is_empty() {
                true => register.offset..end,
                false => self.own.start.min(register.offset)..self.own.end.max(end),
            };
            self.file.add(register);
        }
    }

    /// A load by the device.
    pub fn get(&self, offset: u64, width: u8) -> u64 {
        self.file.get(offset, width)
    }

    fn add_bar(&mut self, bar: &Bar) {
        let mask = !(bar.size - 1);
        let (width, flags) = match bar.kind {
            BarKind::Io => (4, BAR_IO),
            BarKind::Memory32 => (4, 0),
            BarKind::Memory64 { prefetchable: false } => (8, BAR_MEMORY_64),
            BarKind::Memory64 { prefetchable: true } => (8, BAR_MEMORY_64 | BAR_PREFETCHABLE),
        };
        let offset = (BAR0 + usize::from(bar.index) * 4) as u64;
        self.file.add(&Register::read_write(Name::Bar, offset, width, flags, mask));
    }

    fn add_capabilities(
        &mut self,
        first: usize,
        list: &[Capability],
    ) -> Result<(), TooManyCapabilities> {
        let mut at = first;
        for (index, capability) in list.iter().enumerate() {
            let end = at + capability.len();
            if end > LEN {
                return Err(TooManyCapabilities);
            }
            let next = end.next_multiple_of(4);
            let link = if index + 1 < list.len() { next } else { 0 };
            let byte = |offset: usize, reset: u8, writable: u8| {
                Register::read_write("", offset as u64, 1, reset.into(), writable.into())
            };
            self.file.add(&byte(at, capability.id, 0));
            self.file.add(&byte(at + 1, link as u8, 0));
            for (i, reset) in capability.body.iter().enumerate() {
                let writable = capability.writable.get(i).copied().unwrap_or(0);
                self.file.add(&byte(at + 2 + i, *reset, writable));
            }
            if let Some(from) = capability.live_from {
                let start = at + 2 + usize::from(from);
                self.live.push(Live { capability: index, start, end, base: at });
            }
            match capability.id {
                id::MSIX => self.msix = Some(at),
                id::MSI => self.msi = Some(at),
                id::EXPRESS => self.express = Some(at),
                _ => {}
            }
            at = next;
        }
        Ok(())
    }

    pub fn reset(&mut self) {
        self.file.reset();
    }

    /// The live capability that the first byte of an access lies in.
    pub fn live(&self, access: Access) -> Option<Live> {
        let at = access.offset as usize;
        self.live.iter().find(|live| (live.start..live.end).contains(&at)).copied()
    }

    pub fn read(&self, access: Access, intx: bool) -> u32 {
        let mut value = self.file.read(access);
        for part in parts(HEADER, access).filter(|part| part.register.name == Name::Status) {
            value |= part.extract(if intx { STATUS_INTERRUPT } else { 0 });
        }
        value as u32
    }

    pub fn write(&mut self, access: Access, value: u32) -> Effect {
        let before = self.watched();
        self.file.write(access, value.into());
        let reset = self.take_flr();
        let after = self.watched();
        // What the registers of its own are for, only the function knows.
        let own = self.own.contains(&access.offset);
        Effect { decode: own || before.0 != after.0, interrupts: before.1 != after.1, reset }
    }

    /// What decoding depends on, and what interrupts depend on.
    fn watched(&self) -> (Decoding, Interrupting) {
        let bars = [0, 1, 2].map(|i| self.file.get(BAR0 as u64 + i * 8, 8));
        let decode = self.command() & (command::IO | command::MEMORY);
        let interrupts = self.command() & (command::BUS_MASTER | command::INTX_DISABLE);
        ((bars, decode), (interrupts, self.msix_control(), self.msi()))
    }

    fn take_flr(&mut self) -> bool {
        let Some(express) = self.express else { return false };
        let at = express + EXPRESS_DEVICE_CONTROL;
        let control = self.file.get(at as u64, 2);
        self.file.set(at, 2, control & !INITIATE_FLR);
        control & INITIATE_FLR != 0
    }

    pub fn command(&self) -> u16 {
        self.file.get(4, 2) as u16
    }

    /// MSI-X message control, 0 without the capability.
    pub fn msix_control(&self) -> u16 {
        self.msix.map_or(0, |at| self.file.get(at as u64 + 2, 2) as u16)
    }

    /// What MSI is set to, if it is enabled.
    pub fn msi(&self) -> Option<MsiRegisters> {
        let at = self.msi? as u64;
        let control = self.file.get(at + 2, 2) as u16;
        if control & MSI_ENABLE == 0 {
            return None;
        }
        let capable = control >> 1 & 7;
        let allocated = ((control & MSI_ALLOCATED) >> 4).min(capable);
        Some(MsiRegisters {
            address: self.file.get(at + 4, 8),
            data: self.file.get(at + 12, 2) as u32,
            vectors: 1 << allocated,
        })
    }

    /// Where a BAR is, if it is decoded.
    pub fn bar_base(&self, bar: &Bar) -> Option<u64> {
        let needed = if bar.kind == BarKind::Io { command::IO } else { command::MEMORY };
        if self.command() & needed == 0 {
            return None;
        }
        let width = if bar.kind.is_64() { 8 } else { 4 };
        let base = self.file.get((BAR0 + usize::from(bar.index) * 4) as u64, width);
        let base = base & !(bar.size - 1);
        // All ones is what sizing leaves for a moment; zero is no address.
        let top = base.checked_add(bar.size - 1)?;
        let limit = if bar.kind.is_64() { u64::MAX } else { u64::from(u32::MAX) };
        (base != 0 && top < limit).then_some(base)
    }

    pub fn bars(&self) -> &[Bar] {
        &self.bars
    }
}
