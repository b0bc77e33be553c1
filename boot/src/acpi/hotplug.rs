//! Hot-plug of PCI functions: the slots of bus 0 as devices that can be ejected, and the event by which
//! the machine tells that one came or shall go.

use acpi_tables::aml::{
    And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local,
    Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path, Scope, Store,
};
use acpi_tables::{Aml, AmlSink};

use crate::ports;

/// Slots with a device object: all but those of the host bridge and of the LPC bridge.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=30;
/// Notification values of any device (ACPI 6.5, 5.6.6): look whether something came; let go of it.
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

const REGION: &str = "PCIH";
/// Bits of slots: functions that came, functions that shall go, and those that the guest lets go of.
const INSERTED: [u8; 4] = *b"PCIU";
const REMOVING: [u8; 4] = *b"PCID";
const EJECT: [u8; 4] = *b"PCEJ";
const REGISTER_BITS: usize = 32;
const SCAN: &str = "PCNT";

fn field(name: [u8; 4]) -> Path {
    Path::new(std::str::from_utf8(&name).unwrap_or_default())
}

/// The device object's name: `S02_` and so on.
fn name(slot: u8) -> Path {
    Path::new(&format!("S{slot:02X}_"))
}

/// What is in one slot: where it is, and how to let go of it.
struct PluggableSlot(u8);

impl Aml for PluggableSlot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let address = Name::new("_ADR".into(), &(u32::from(self.0) << 16));
        let number = Name::new("_SUN".into(), &self.0);
        let (eject, bit) = (field(EJECT), 1u32 << self.0);
        let write = Store::new(&eject, &bit);
        let eject = Method::new("_EJ0".into(), 1, true, vec![&write]);
        Device::new(name(self.0), vec![&address, &number, &eject]).to_aml_bytes(sink);
    }
}

/// Tells the guest's driver of the slots whose bit is set in `bits`.
struct Tell {
    bits: Local,
    value: u8,
}

impl Aml for Tell {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        for slot in SLOTS {
            let (bit, no_target) = (1u32 << slot, 0u8);
            let is_set = And::new(&no_target, &self.bits, &bit);
            let device = name(slot);
            let notify = Notify::new(&device, &self.value);
            If::new(&is_set, vec![&notify]).to_aml_bytes(sink);
        }
    }
}

/// The objects below the host bridge: the registers, the slots, and the method that looks through them.
pub(super) struct Slots;

impl Aml for Slots {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (base, len) = (ports::PCI_HOTPLUG, ports::PCI_HOTPLUG_SIZE);
        OpRegion::new(REGION.into(), OpRegionSpace::SystemIO, &base, &len).to_aml_bytes(sink);
        Field::new(
            REGION.into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            [INSERTED, REMOVING, EJECT].map(|name| FieldEntry::Named(name, REGISTER_BITS)).to_vec(),
        )
        .to_aml_bytes(sink);
        SLOTS.for_each(|slot| PluggableSlot(slot).to_aml_bytes(sink));

        // The first register is cleared by being read, so both are read once.
        let (came, going) = (Local(0), Local(1));
        let (inserted, removing) = (field(INSERTED), field(REMOVING));
        let read_came = Store::new(&came, &inserted);
        let read_going = Store::new(&going, &removing);
        let tell_came = Tell { bits: Local(0), value: DEVICE_CHECK };
        let tell_going = Tell { bits: Local(1), value: EJECT_REQUEST };
        let steps: Vec<&dyn Aml> = vec![&read_came, &read_going, &tell_came, &tell_going];
        Method::new(SCAN.into(), 0, true, steps).to_aml_bytes(sink);
    }
}

/// `\_GPE._Exx`: the handler of the event, which is an edge (5.6.4.1).
pub(super) fn event(body: &mut Vec<u8>) {
    let scan = MethodCall::new(Path::new(&format!("\\_SB_.PCI0.{SCAN}")), vec![]);
    let handler = format!("_E{:02X}", ports::PCI_HOTPLUG_EVENT);
    let handler = Method::new(Path::new(&handler), 0, true, vec![&scan]);
    Scope::new(Path::new("\\_GPE"), vec![&handler]).to_aml_bytes(body);
}
