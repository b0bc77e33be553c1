//! DSDT: what is on the board and how it sleeps (ACPI 6.5, 5.2.11.1).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, hotplug, pci, processors};
use crate::memory_map::{ECAM, MemoryMap};
use crate::ports;

/// Revision 2: integers have 64 bits.
const REVISION: u8 = 2;
const HEADER_LEN: u32 = 36;

/// The table.
pub(super) fn table(config: &AcpiConfig, map: &MemoryMap) -> Vec<u8> {
    let mut body = Vec::new();
    soft_off(&mut body);
    board(config, &mut body);
    pci::host_bridge(config, map, &mut body);
    hotplug::event(&mut body);
    processors::container(config, &mut body);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt.as_slice().to_vec()
}

/// `\_S5_`: how the machine is switched off (7.4.2).
fn soft_off(body: &mut Vec<u8>) {
    let (type_, zero) = (ports::S5_SLEEP_TYPE, 0u8);
    let states = Package::new(vec![&type_, &type_, &zero, &zero]);
    Name::new("_S5_".into(), &states).to_aml_bytes(body);
}

/// Board resources that belong to no device: the configuration space, without which Linux does not trust
/// the MCFG, the power management ports, and those of hot-plug.
fn board(config: &AcpiConfig, body: &mut Vec<u8>) {
    let ecam = Memory32Fixed::new(false, ECAM.start as u32, ECAM.len() as u32);
    let pm = IO::new(config.pm_base, config.pm_base, 1, ports::PM_SIZE as u8);
    let hotplug = IO::new(ports::PCI_HOTPLUG, ports::PCI_HOTPLUG, 1, ports::PCI_HOTPLUG_SIZE as u8);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
    let uid = Name::new("_UID".into(), &0u8);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam, &pm, &hotplug]));
    let device = Device::new("BRD0".into(), vec![&hid, &uid, &crs]);
    Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(body);
}
