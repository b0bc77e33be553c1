//! The processor devices, `\_SB.CPUS.Cxxx` (ACPI 6.5, 8.4).

use acpi_tables::aml::{Device, EISAName, Name, Path, Scope};
use acpi_tables::{Aml, AmlSink};

use super::AcpiConfig;

/// One processor; its `_UID` is the processor id of its MADT entry.
struct Processor(u32);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &"ACPI0007");
        let uid = Name::new("_UID".into(), &self.0);
        let name = format!("C{:03X}", self.0 & 0xFFF);
        Device::new(Path::new(&name), vec![&hid, &uid]).to_aml_bytes(sink);
    }
}

/// The container with a device for every CPU.
pub(super) fn container(config: &AcpiConfig, body: &mut Vec<u8>) {
    let hid = Name::new("_HID".into(), &"ACPI0010");
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A05"));
    let processors: Vec<Processor> =
        (0u32..).zip(&config.apic_ids).map(|(uid, _)| Processor(uid)).collect();
    let mut children: Vec<&dyn Aml> = vec![&hid, &cid];
    children.extend(processors.iter().map(|p| p as &dyn Aml));
    let device = Device::new("CPUS".into(), children);
    Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(body);
}
