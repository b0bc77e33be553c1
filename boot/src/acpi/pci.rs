//! The PCI Express host bridge: its windows, its interrupt routing, and what is behind its LPC bridge.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Local, Method, Name, NotEqual, Or, Package, PackageBuilder, Path, ResourceTemplate,
    Return, Scope, Store, Uuid,
};

use super::{AcpiConfig, hotplug, isa};
use crate::irq::gsi_for;
use crate::memory_map::{MemoryMap, PCI_BUSES, PCI_WINDOW_32};
use crate::ports;

const DEVICES: u8 = 32;
const PINS: u8 = 4;
const CONFIG_PORTS: u8 = 8;

/// `_OSC` for PCI host bridges (PCI Firmware Specification 3.3, 4.5.1).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// What the operating system may take over: native hot-plug, power management events, advanced error
/// reporting, the PCI Express capability. Not SHPC: there are no such bridges.
const OSC_GRANTED: u8 = 0x1D;
/// `_OSC` status: unrecognised UUID.
const OSC_BAD_UUID: u8 = 1 << 2;
/// `_OSC` status: unrecognised revision.
const OSC_BAD_REVISION: u8 = 1 << 3;
/// `_OSC` status: some control was not granted.
const OSC_MASKED: u8 = 1 << 4;

/// `\_SB.PCI0` with all that is under it.
pub(super) fn host_bridge(config: &AcpiConfig, map: &MemoryMap, body: &mut Vec<u8>) {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &0u8);
    let segment = Name::new("_SEG".into(), &0u8);
    let bus = Name::new("_BBN".into(), &0u8);
    let windows = Windows(map);
    let routing = Name::new("_PRT".into(), &routing());
    let control = OperatingSystemControl;
    let isa = isa::bridge(config);
    let children: Vec<&dyn Aml> =
        vec![&hid, &cid, &uid, &segment, &bus, &windows, &routing, &control, &isa, &hotplug::Slots];
    let device = Device::new("PCI0".into(), children);
    Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(body);
}

/// `_CRS`: the bridge's own configuration ports and what it passes on to the bus.
struct Windows<'a>(&'a MemoryMap);

impl Aml for Windows<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let buses = AddressSpace::new_bus_number(0u16, u16::from(PCI_BUSES) - 1);
        let config = IO::new(ports::PCI_CONFIG, ports::PCI_CONFIG, 1, CONFIG_PORTS);
        let io_low = AddressSpace::new_io(0u16, ports::PCI_CONFIG - 1, None);
        let io_high =
            AddressSpace::new_io(ports::PCI_CONFIG + u16::from(CONFIG_PORTS), u16::MAX, None);
        let memory = AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            PCI_WINDOW_32.start as u32,
            (PCI_WINDOW_32.end - 1) as u32,
            None,
        );
        let memory_64 = self.0.pci_window_64().map(|w| {
            let cacheable = AddressSpaceCacheable::NotCacheable;
            AddressSpace::new_memory(cacheable, true, w.start, w.end - 1, None)
        });
        let mut resources: Vec<&dyn Aml> = vec![&buses, &config, &io_low, &io_high, &memory];
        resources.extend(memory_64.as_ref().map(|m| m as &dyn Aml));
        Name::new("_CRS".into(), &ResourceTemplate::new(resources)).to_aml_bytes(sink);
    }
}

/// `_PRT`: each pin of each device to its GSI (6.2.13), level and active low as PCI has it.
fn routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for device in 0..DEVICES {
        for pin in 0..PINS {
            let address = u32::from(device) << 16 | 0xFFFF;
            let (source, gsi) = (0u8, gsi_for(device, pin));
            table.add_element(&Package::new(vec![&address, &pin, &source, &gsi]));
        }
    }
    table
}

/// `_OSC(uuid, revision, count, buffer)`: grants [`OSC_GRANTED`] of what is asked for.
struct OperatingSystemControl;

impl Aml for OperatingSystemControl {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let (uuid, revision, buffer) = (Arg(0), Arg(1), Arg(3));
        let status = Path::new("CDW1");
        let wanted = Path::new("CDW3");
        let status_field = CreateDWordField::new(&status, &buffer, &0u8);
        let wanted_field = CreateDWordField::new(&wanted, &buffer, &8u8);
        let granted = Local(0);
        let known_uuid = Uuid::new(OSC_UUID);
        let is_known = Equal::new(&uuid, &known_uuid);

        let grant = And::new(&granted, &wanted, &OSC_GRANTED);
        let bad_revision = Or::new(&status, &status, &OSC_BAD_REVISION);
        let is_other_revision = NotEqual::new(&revision, &1u8);
        let check_revision = If::new(&is_other_revision, vec![&bad_revision]);
        let masked = Or::new(&status, &status, &OSC_MASKED);
        let is_masked = NotEqual::new(&granted, &wanted);
        let check_masked = If::new(&is_masked, vec![&masked]);
        let store = Store::new(&wanted, &granted);
        let known =
            If::new(&is_known, vec![&wanted_field, &grant, &check_revision, &check_masked, &store]);
        let bad_uuid = Or::new(&status, &status, &OSC_BAD_UUID);
        let unknown = Else::new(vec![&bad_uuid]);
        let answer = Return::new(&buffer);
        Method::new("_OSC".into(), 4, true, vec![&status_field, &known, &unknown, &answer])
            .to_aml_bytes(sink);
    }
}
