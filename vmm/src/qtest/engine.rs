//! What the commands do.

use std::{fmt::Write, sync::Arc};

use spindle_devices::Space;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use super::{
    base64,
    bells::Bells,
    clock::VirtualClock,
    command::{self, Command, Form},
    lines::Lines,
};
use crate::bus::BusView;

/// The one device whose interrupts can be watched.
const IOAPIC: &str = "ioapic";
/// What unnamed inputs are called in `set_irq_in`.
const UNNAMED: &str = "unnamed-gpio-in";
/// Registers are accessed in pieces of at most this many bytes by commands that move many.
const PIECE: u64 = 4;
/// `memset` fills RAM in pieces of this many bytes.
const FILL: usize = 64 << 10;

/// The machine as a test sees it.
pub(super) struct Engine {
    pub memory: GuestMemoryMmap,
    pub bus: BusView,
    pub bells: Arc<Bells>,
    pub clock: Arc<VirtualClock>,
    pub lines: Arc<Lines>,
}

/// How registers are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    /// In the width that was asked for.
    Whole,
    /// Aligned, and of [`PIECE`] bytes at most.
    Aligned,
}

/// A stretch of addresses.
enum Stretch {
    /// So many bytes of RAM.
    Ram(u64),
    /// So many bytes that devices may answer for.
    Devices(u64),
}

impl Engine {
    /// Does what `line` asks for; returns the answer, without its end.
    pub(super) fn execute(&mut self, line: &str) -> String {
        match command::parse(line) {
            Ok(command) => self.perform(command),
            Err(refusal) => refusal.0,
        }
    }

    fn perform(&mut self, command: Command) -> String {
        match command {
            Command::Out { port, width, value } => {
                self.store(Space::Port, port.into(), &value.to_le_bytes()[..width.into()]);
                ok()
            }
            Command::In { port, width } => {
                let mut bytes = [0; 8];
                self.bus.read(Space::Port, port.into(), &mut bytes[..width.into()]);
                format!("OK 0x{:04x}", u64::from_le_bytes(bytes))
            }
            Command::Store { address, width, value } => {
                self.write(address, &value.to_le_bytes()[..width.into()], Pieces::Whole);
                ok()
            }
            Command::Load { address, width } => {
                let mut bytes = [0; 8];
                self.read(address, &mut bytes[..width.into()], Pieces::Whole);
                format!("OK 0x{:016x}", u64::from_le_bytes(bytes))
            }
            Command::Read { address, len, form } => {
                let mut bytes = vec![0; len];
                self.read(address, &mut bytes, Pieces::Aligned);
                match form {
                    Form::Hex => hex(&bytes),
                    Form::Base64 => format!("OK {}", base64::encode(&bytes)),
                }
            }
            Command::Write { address, data } => {
                self.write(address, &data, Pieces::Aligned);
                ok()
            }
            Command::Fill { address, len, byte } => {
                self.fill(address, len, byte);
                ok()
            }
            Command::Endianness => "OK little".to_owned(),
            Command::ClockStep(step) => self.clock_step(step),
            Command::ClockSet(ns) => {
                let wanted = u64::try_from(ns).unwrap_or_default();
                let now = self.clock.advance_to(wanted);
                let verdict = if u64::try_from(ns) == Ok(now) { "OK" } else { "FAIL" };
                format!("{verdict} {now}")
            }
            Command::InterceptIn { device, named } => self.intercept_in(&device, named),
            Command::InterceptOut { device } => match is_ioapic(&device) {
                true => "FAIL No intercepts installed".to_owned(),
                false => unknown_device(),
            },
            Command::SetIrqIn { device, name, number, level } => {
                self.set_irq_in(&device, &name, number, level != 0)
            }
            // There are no modules: what they would bring is there.
            Command::ModuleLoad => ok(),
        }
    }

    fn clock_step(&self, step: Option<i64>) -> String {
        let before = self.clock.now();
        let Some(step) = step else {
            return "FAIL cannot advance clock to the next deadline because there is no pending \
                    deadline"
                .to_owned();
        };
        match self.clock.advance_to(before.saturating_add_signed(step)) {
            now if now > before => format!("OK {now}"),
            _ => "FAIL could not advance time".to_owned(),
        }
    }

    fn intercept_in(&self, device: &str, named: bool) -> String {
        if !is_ioapic(device) {
            return unknown_device();
        }
        if named {
            return "FAIL Interception of named in-GPIOs not yet supported".to_owned();
        }
        self.lines.watch();
        ok()
    }

    fn set_irq_in(&self, device: &str, name: &str, number: i64, level: bool) -> String {
        if !is_ioapic(device) {
            return unknown_device();
        }
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if name == UNNAMED && self.lines.force(index, level) {
            ok()
        } else {
            format!("ERR there is no input {name} {number}")
        }
    }

    /// What the first of `len` bytes at `address` lie in.
    fn stretch(&self, address: u64, len: u64) -> Stretch {
        let mut until = u64::MAX;
        for region in self.memory.iter() {
            let (start, size) = (region.start_addr().raw_value(), region.len());
            if let Some(at) = address.checked_sub(start)
                && at < size
            {
                return Stretch::Ram(len.min(size - at));
            }
            if start > address {
                until = until.min(start - address);
            }
        }
        Stretch::Devices(len.min(until))
    }

    /// Reads, from registers in `pieces`.
    fn read(&mut self, address: u64, bytes: &mut [u8], pieces: Pieces) {
        let (mut at, mut rest) = (address, bytes);
        while !rest.is_empty() {
            let n = match self.stretch(at, rest.len() as u64) {
                Stretch::Ram(n) => {
                    let ram = &mut rest[..n as usize];
                    if let Err(e) = self.memory.read_slice(ram, GuestAddress(at)) {
                        ::log::error!("guest memory at {at:#x}: {e}");
                    }
                    n
                }
                Stretch::Devices(n) => {
                    let n = pieces.first(at, n);
                    self.bus.read(Space::Memory, at, &mut rest[..n as usize]);
                    n
                }
            };
            at = at.wrapping_add(n);
            rest = &mut rest[n as usize..];
        }
    }

    /// Writes, as [`Engine::read`] reads.
    fn write(&mut self, address: u64, bytes: &[u8], pieces: Pieces) {
        let (mut at, mut rest) = (address, bytes);
        while !rest.is_empty() {
            let n = match self.stretch(at, rest.len() as u64) {
                Stretch::Ram(n) => {
                    if let Err(e) = self.memory.write_slice(&rest[..n as usize], GuestAddress(at)) {
                        ::log::error!("guest memory at {at:#x}: {e}");
                    }
                    n
                }
                Stretch::Devices(n) => {
                    let n = pieces.first(at, n);
                    self.store(Space::Memory, at, &rest[..n as usize]);
                    n
                }
            };
            at = at.wrapping_add(n);
            rest = &rest[n as usize..];
        }
    }

    fn fill(&mut self, address: u64, len: u64, byte: u8) {
        let block = vec![byte; FILL.min(len as usize)];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(block.len() as u64);
            self.write(address.wrapping_add(done), &block[..n as usize], Pieces::Aligned);
            done += n;
        }
    }

    /// One access to a register, or to a doorbell.
    fn store(&mut self, space: Space, address: u64, bytes: &[u8]) {
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        let width = bytes.len() as u8;
        if !self.bells.ring(space, address, width, u64::from_le_bytes(value)) {
            self.bus.write(space, address, bytes);
        }
    }
}

impl Pieces {
    /// How many of `len` bytes at `at` make one access.
    fn first(self, at: u64, len: u64) -> u64 {
        match self {
            Self::Whole => len,
            Self::Aligned => {
                let aligned = if at == 0 { PIECE } else { 1 << at.trailing_zeros().min(3) };
                let fits = 1 << (63 - len.leading_zeros()).min(3);
                PIECE.min(aligned).min(fits)
            }
        }
    }
}

fn is_ioapic(device: &str) -> bool {
    device.rsplit('/').next() == Some(IOAPIC)
}

fn ok() -> String {
    "OK".to_owned()
}

fn unknown_device() -> String {
    "FAIL Unknown device".to_owned()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(5 + bytes.len() * 2);
    text.push_str("OK 0x");
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
