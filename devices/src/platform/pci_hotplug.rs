//! ACPI hot-plug of PCI functions: which slots of bus 0 got a function, which ones shall lose theirs,
//! and the guest's word that it has let go of one.
//!
//! The registers are those that QEMU has (docs/specs/acpi_pci_hotplug.rst), a bit for each slot. The
//! guest's AML reads them when a general purpose event tells it to, and writes the eject register in
//! `_EJ0` (ACPI 6.5, 6.3.3).

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Access, Registers,
    register::{Register, parts},
};

/// How many ports there are.
pub const PORTS: u64 = 0x18;
/// Offset of the slots that got a function; reading clears it.
pub const INSERTED: u64 = 0x00;
/// Offset of the slots that shall lose theirs; they do by being ejected.
pub const REMOVING: u64 = 0x04;
/// Offset of the eject register: what is in these slots may go. It reads as 0.
pub const EJECT: u64 = 0x08;
/// Offset of the slots whose function can be removed.
pub const REMOVABLE: u64 = 0x0C;
/// Offset of the bus that the registers above are about; there is only bus 0.
pub const BUS: u64 = 0x10;
/// Slots that may be plugged: not that of the host bridge and not that of the LPC bridge.
pub const PLUGGABLE: u32 = 0x7FFF_FFFE;

/// Who takes functions off the bus.
pub trait EjectSink: Send + Sync {
    /// The guest has let go of what is in `slot`. When this returns, nothing answers there any more.
    fn eject(&self, slot: u8);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Inserted,
    Removing,
    Eject,
    Removable,
    Bus,
    Index,
}

const REGISTERS: &[Register<Name>] = &[
    Register::read_only(Name::Inserted, INSERTED, 4, 0),
    Register::read_only(Name::Removing, REMOVING, 4, 0),
    Register::read_write(Name::Eject, EJECT, 4, 0, u32::MAX as u64),
    Register::read_only(Name::Removable, REMOVABLE, 4, PLUGGABLE as u64),
    Register::read_write(Name::Bus, BUS, 4, 0, u32::MAX as u64),
    // The index by which QEMU names network interfaces: none has one.
    Register::read_only(Name::Index, BUS + 4, 4, 0),
];

#[derive(Default)]
struct State {
    inserted: u32,
    removing: u32,
    bus: u32,
}

/// The registers.
pub struct PciHotplug {
    state: Mutex<State>,
    sink: Arc<dyn EjectSink>,
}

fn bit(slot: u8) -> u32 {
    1_u32.checked_shl(slot.into()).unwrap_or(0) & PLUGGABLE
}

fn slots(bits: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |slot| bits & bit(*slot) != 0)
}

impl PciHotplug {
    /// The registers; `sink` hears which functions the guest has let go of.
    #[must_use]
    pub fn new(sink: Arc<dyn EjectSink>) -> Self {
        Self { state: Mutex::default(), sink }
    }

    /// Whether what is in `slot` can come and go.
    #[must_use]
    pub fn is_pluggable(slot: u8) -> bool {
        bit(slot) != 0
    }

    /// A function was put into `slot`. The caller raises the event.
    pub fn inserted(&self, slot: u8) {
        self.lock().inserted |= bit(slot);
    }

    /// The function in `slot` shall go. The caller raises the event.
    pub fn removing(&self, slot: u8) {
        self.lock().removing |= bit(slot);
    }

    /// The function of `slot` is off the bus, whoever took it.
    pub fn gone(&self, slot: u8) {
        let mut state = self.lock();
        state.inserted &= !bit(slot);
        state.removing &= !bit(slot);
    }

    /// A reset of the machine: functions that were to go do so, and nothing is new any more.
    pub fn reset(&self) {
        let removing = std::mem::take(&mut *self.lock()).removing;
        slots(removing).for_each(|slot| self.sink.eject(slot));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registers for PciHotplug {
    fn read(&self, access: Access) -> u64 {
        let mut state = self.lock();
        let here = state.bus == 0;
        parts(REGISTERS, access).fold(0, |value, part| {
            let whole = match part.register.name {
                Name::Inserted if here => std::mem::take(&mut state.inserted),
                Name::Removing if here => state.removing,
                Name::Removable if here => PLUGGABLE,
                Name::Bus => state.bus,
                Name::Inserted | Name::Removing | Name::Removable | Name::Eject | Name::Index => 0,
            };
            value | part.extract(whole.into())
        })
    }

    fn write(&self, access: Access, value: u64) {
        let mut ejected = 0;
        {
            let mut state = self.lock();
            for part in parts(REGISTERS, access) {
                match part.register.name {
                    Name::Bus => state.bus = part.insert(value) as u32,
                    Name::Eject if state.bus == 0 => {
                        ejected = part.insert(value) as u32 & PLUGGABLE;
                        state.removing &= !ejected;
                        state.inserted &= !ejected;
                    }
                    _ => {}
                }
            }
        }
        slots(ejected).for_each(|slot| self.sink.eject(slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{read, write};

    #[derive(Default)]
    struct Ejected(Mutex<Vec<u8>>);

    impl EjectSink for Ejected {
        fn eject(&self, slot: u8) {
            self.0.lock().unwrap().push(slot);
        }
    }

    fn device() -> (PciHotplug, Arc<Ejected>) {
        let ejected = Arc::new(Ejected::default());
        (PciHotplug::new(Arc::clone(&ejected) as _), ejected)
    }

    impl Ejected {
        fn take(&self) -> Vec<u8> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    #[test]
    fn what_came_is_told_once_and_what_shall_go_until_it_does() {
        let (hotplug, ejected) = device();
        for slot in [2, 30] {
            hotplug.inserted(slot);
        }
        hotplug.removing(5);
        hotplug.removing(6);
        assert_eq!(read(&hotplug, 0x00, 4), 1 << 30 | 1 << 2);
        assert_eq!(read(&hotplug, 0x00, 4), 0);
        assert_eq!(read(&hotplug, 0x04, 4), 0b110_0000);
        assert_eq!(read(&hotplug, 0x04, 4), 0b110_0000);
        write(&hotplug, 0x08, 4, 1 << 5);
        assert_eq!(ejected.take(), [5]);
        assert_eq!((read(&hotplug, 0x04, 4), read(&hotplug, 0x08, 4)), (1 << 6, 0));
        // Nobody had asked for this one: a guest may let go of what it likes.
        write(&hotplug, 0x08, 4, 1 << 7 | 1 << 8);
        assert_eq!(ejected.take(), [7, 8]);
    }

    #[test]
    fn bridges_stay_and_other_buses_have_nothing() {
        let (hotplug, ejected) = device();
        write(&hotplug, 0x08, 4, 1 << 31 | 1);
        hotplug.removing(0);
        hotplug.inserted(31);
        hotplug.inserted(32);
        assert_eq!((read(&hotplug, 0, 8), ejected.take()), (0, vec![]));
        assert_eq!(read(&hotplug, 0x0C, 4), 0x7FFF_FFFE);
        assert!(PciHotplug::is_pluggable(1) && PciHotplug::is_pluggable(30));
        assert!(!PciHotplug::is_pluggable(31) && !PciHotplug::is_pluggable(255));
        hotplug.inserted(3);
        hotplug.removing(4);
        write(&hotplug, 0x10, 4, 1);
        assert_eq!((read(&hotplug, 0x00, 8), read(&hotplug, 0x0C, 8)), (0, 1 << 32));
        write(&hotplug, 0x08, 4, 1 << 4);
        assert!(ejected.take().is_empty());
        write(&hotplug, 0x10, 4, 0);
        assert_eq!(read(&hotplug, 0x00, 8), 1 << 36 | 1 << 3);
    }

    #[test]
    fn a_reset_takes_away_what_was_to_go() {
        let (hotplug, ejected) = device();
        hotplug.inserted(2);
        hotplug.removing(3);
        hotplug.removing(4);
        hotplug.gone(4);
        hotplug.reset();
        assert_eq!(ejected.take(), [3]);
        assert_eq!(read(&hotplug, 0x00, 8), 0);
    }

    #[test]
    fn every_width_and_offset_reads_and_writes_without_harm() {
        let (hotplug, ejected) = device();
        for offset in 0..0x20 {
            for width in [1, 2, 4, 8] {
                write(&hotplug, offset, width, 0);
                read(&hotplug, offset, width);
            }
        }
        assert!(ejected.take().is_empty());
    }
}
