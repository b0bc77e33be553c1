//! The two ways to configuration space: I/O ports CF8h/CFCh (PCI 3.2.2.3.2) and the memory-mapped
//! window (PCIe 7.2.2).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{Address, PciBus};
use crate::{Access, Registers, register::width_mask};

/// A piece of an access that stays inside one doubleword.
struct Piece {
    access: Access,
    /// Bit of the whole access at which the piece starts.
    shift: u32,
}

/// Cuts an access at doublewords, and a misaligned word in two bytes: configuration space has byte
/// enables, so this is what a bus would do.
fn pieces(access: Access) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = access.width.min(8).checked_sub(done).filter(|left| *left > 0)?;
        let offset = access.offset.checked_add(u64::from(done))?;
        let width = match offset % 4 {
            0 if left >= 4 => 4,
            0 | 2 if left >= 2 => 2,
            _ => 1,
        };
        let shift = u32::from(done) * 8;
        done += width;
        Some(Piece { access: Access { offset, width }, shift })
    })
}

/// The address register at CF8h and the data register at CFCh: eight bytes of I/O space.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: AtomicU32,
    /// Who answers for byte accesses to CF9h, which chipsets put in the middle of the address
    /// register.
    reset_control: Option<Arc<dyn Registers>>,
}

/// I/O port of the first register.
pub const CONFIG_PORTS: u64 = 0xcf8;
const ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function and a doubleword's offset.
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

impl ConfigPorts {
    /// Ports for `bus`. `reset_control` gets the byte accesses to CF9h, at offset 0.
    #[must_use]
    pub fn new(bus: Arc<PciBus>, reset_control: Option<Arc<dyn Registers>>) -> Arc<Self> {
        Arc::new(Self { bus, address: AtomicU32::new(0), reset_control })
    }

    /// The address register as after power-on.
    pub fn reset(&self) {
        self.address.store(0, Ordering::SeqCst);
    }

    /// What the address register selects: a function of bus 0 and an offset.
    fn selected(&self) -> Option<(Address, u64)> {
        let address = self.address.load(Ordering::SeqCst);
        if address & ENABLE == 0 || (address >> 16) & 0xff != 0 {
            return None;
        }
        let slot = (address >> 11 & 0x1f) as u8;
        let function = (address >> 8 & 7) as u8;
        Some((Address { slot, function }, u64::from(address & 0xfc)))
    }

    fn is_reset_control(access: Access) -> bool {
        access == Access { offset: 1, width: 1 }
    }
}

impl Registers for ConfigPorts {
    fn read(&self, access: Access) -> u64 {
        match (access, &self.reset_control) {
            (Access { offset: 0, width: 4 }, _) => u64::from(self.address.load(Ordering::SeqCst)),
            (a, Some(reset)) if Self::is_reset_control(a) => {
                reset.read(Access { offset: 0, width: 1 })
            }
            (Access { offset: 4..8, .. }, _) => {
                let ones = width_mask(access.width);
                let Some((at, base)) = self.selected() else { return ones };
                pieces(access).fold(0, |value, piece| {
                    let inside = piece.access.offset - 4;
                    let bits = if inside < 4 {
                        let access = Access { offset: base + inside, ..piece.access };
                        u64::from(self.bus.config_read(at, access)) & width_mask(access.width)
                    } else {
                        width_mask(piece.access.width)
                    };
                    value | bits << piece.shift
                })
            }
            _ => width_mask(access.width),
        }
    }

    fn write(&self, access: Access, value: u64) {
        match (access, &self.reset_control) {
            (Access { offset: 0, width: 4 }, _) => {
                self.address.store(value as u32 & ADDRESS_WRITABLE, Ordering::SeqCst);
            }
            (a, Some(reset)) if Self::is_reset_control(a) => {
                reset.write(Access { offset: 0, width: 1 }, value);
            }
            (Access { offset: 4..8, .. }, _) => {
                let Some((at, base)) = self.selected() else { return };
                for piece in pieces(access).filter(|piece| piece.access.offset < 8) {
                    let offset = base + piece.access.offset - 4;
                    let access = Access { offset, ..piece.access };
                    self.bus.config_write(at, access, (value >> piece.shift) as u32);
                }
            }
            _ => {}
        }
    }
}

/// Configuration space in memory: 4 KiB a function, 1 MiB a bus. Only bus 0 has functions.
pub struct Ecam(Arc<PciBus>);

/// Bytes of the window that one bus takes.
pub const ECAM_BUS_LEN: u64 = 1 << 20;

impl Ecam {
    /// The window of `bus`.
    #[must_use]
    pub fn new(bus: Arc<PciBus>) -> Arc<Self> {
        Arc::new(Self(bus))
    }

    fn decode(offset: u64) -> Option<(Address, u64)> {
        if offset >= ECAM_BUS_LEN {
            return None;
        }
        let slot = (offset >> 15 & 0x1f) as u8;
        let function = (offset >> 12 & 7) as u8;
        Some((Address { slot, function }, offset & 0xfff))
    }
}

impl Registers for Ecam {
    fn read(&self, access: Access) -> u64 {
        pieces(access).fold(0, |value, piece| {
            let ones = width_mask(piece.access.width);
            let bits = Self::decode(piece.access.offset).map_or(ones, |(at, offset)| {
                u64::from(self.0.config_read(at, Access { offset, ..piece.access })) & ones
            });
            value | bits << piece.shift
        })
    }

    fn write(&self, access: Access, value: u64) {
        for piece in pieces(access) {
            if let Some((at, offset)) = Self::decode(piece.access.offset) {
                let access = Access { offset, ..piece.access };
                self.0.config_write(at, access, (value >> piece.shift) as u32);
            }
        }
    }
}
