//! The LPC bridge, `\_SB.PCI0.ISA_`, and the legacy devices behind it.

use acpi_tables::aml::{Device, EISAName, IO, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};

use super::AcpiConfig;
use super::resources::IsaIrq;
use crate::{irq, ports};

/// Device 1Fh, function 0.
const LPC_ADDRESS: u32 = 0x1F << 16;

/// A legacy device: its identifier, ports and interrupt.
struct Legacy {
    name: &'static str,
    id: &'static str,
    /// First port and number of ports.
    ports: &'static [(u16, u8)],
    irq: u8,
}

const COM1: Legacy =
    Legacy { name: "COM1", id: "PNP0501", ports: &[(ports::COM1, 8)], irq: irq::COM1_IRQ };
const KEYBOARD: Legacy = Legacy {
    name: "KBD_",
    id: "PNP0303",
    ports: &[(ports::I8042_DATA, 1), (ports::I8042_COMMAND, 1)],
    irq: irq::KEYBOARD_IRQ,
};
const CLOCK: Legacy =
    Legacy { name: "RTC_", id: "PNP0B00", ports: &[(ports::RTC, 8)], irq: irq::RTC_IRQ };

impl Aml for Legacy {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &EISAName::new(self.id));
        let uid = Name::new("_UID".into(), &1u8);
        let ports: Vec<IO> =
            self.ports.iter().map(|&(first, count)| IO::new(first, first, 1, count)).collect();
        let irq = IsaIrq(self.irq);
        let mut resources: Vec<&dyn Aml> = ports.iter().map(|p| p as &dyn Aml).collect();
        resources.push(&irq);
        let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
        Device::new(self.name.into(), vec![&hid, &uid, &crs]).to_aml_bytes(sink);
    }
}

/// The pvpanic device with its port (QEMU, docs/specs/pvpanic.rst).
struct Pvpanic(u16);

impl Aml for Pvpanic {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &"QEMU0001");
        let port = IO::new(self.0, self.0, 1, 1);
        let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port]));
        Device::new("PEVT".into(), vec![&hid, &crs]).to_aml_bytes(sink);
    }
}

/// The bridge with those devices that the machine has.
pub(super) fn bridge(config: &AcpiConfig) -> impl Aml {
    Bridge {
        devices: [(config.com1, COM1), (config.i8042, KEYBOARD), (config.rtc, CLOCK)]
            .into_iter()
            .filter_map(|(present, device)| present.then_some(device))
            .collect(),
        pvpanic: config.pvpanic.map(Pvpanic),
    }
}

struct Bridge {
    devices: Vec<Legacy>,
    pvpanic: Option<Pvpanic>,
}

impl Aml for Bridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let address = Name::new("_ADR".into(), &LPC_ADDRESS);
        let mut children: Vec<&dyn Aml> = vec![&address];
        children.extend(self.devices.iter().map(|d| d as &dyn Aml));
        children.extend(self.pvpanic.as_ref().map(|p| p as &dyn Aml));
        Device::new("ISA_".into(), children).to_aml_bytes(sink);
    }
}
