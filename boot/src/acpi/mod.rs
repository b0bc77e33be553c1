//! The ACPI tables of a machine (ACPI 6.5), made from plain data.
//!
//! The fixed hardware is ICH9's: power management block, reset control register; not the
//! hardware-reduced model. There is no HPET. In a directly booted machine the tables lie in [`ACPI_AREA`]: the FACS in a page of
//! its own, then the RSDP, where a kernel that was not told its address finds it by scanning, then the
//! rest.

mod dsdt;
mod fadt;
mod hotplug;
mod isa;
mod loader;
mod madt;
mod pci;
mod processors;
mod resources;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::GuestMemoryBackend;

use crate::cpu_state::write;
use crate::error::BootError;
use crate::memory_map::{ACPI_AREA, ECAM, MemoryMap, PCI_BUSES};
use crate::{irq, ports};

/// The first page of [`ACPI_AREA`] holds the FACS alone.
pub(crate) const FACS_PAGE_SIZE: u64 = 0x1000;
/// Where the RSDP is.
pub const RSDP_ADDRESS: u64 = ACPI_AREA.start + FACS_PAGE_SIZE;
/// The most CPUs that tables are made for.
pub const CPUS_MAX: usize = 4096;

const OEM_ID: [u8; 6] = *b"SPNDLE";
const OEM_TABLE_ID: [u8; 8] = *b"SPINDLE ";
const OEM_REVISION: u32 = 1;
/// Tables begin at multiples of this; the FACS must, the others are easier to read so.
const ALIGNMENT: u64 = 64;

/// What the tables describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// The local APIC id of every CPU, the boot CPU's first.
    pub apic_ids: Vec<u32>,
    /// The GSI of the system control interrupt (level, active high).
    pub sci_gsi: u8,
    /// The first port of the power management block; see [`crate::ports`] for what is in it.
    pub pm_base: u16,
    /// COM1 is there.
    pub com1: bool,
    /// A keyboard controller is there that answers its self-test and configuration commands. One that
    /// only resets needs no mention: Linux writes to it anyway, but would wait for answers here.
    pub i8042: bool,
    /// The real-time clock is there (index and data port, IRQ 8). Where it is not, Linux takes the time from
    /// the hypervisor's clock alone; where it is promised and missing, Linux waits a second for it.
    pub rtc: bool,
    /// The port of the pvpanic device, by which a guest kernel tells of its panic, if it is there.
    pub pvpanic: Option<u16>,
}

impl AcpiConfig {
    /// A machine with `cpus` CPUs, whose local APIC ids count from 0, and of the legacy devices COM1 alone.
    pub fn new(cpus: u32) -> Self {
        Self {
            apic_ids: (0..cpus).collect(),
            sci_gsi: irq::SCI_GSI as u8,
            pm_base: ports::PM_BASE,
            com1: true,
            i8042: false,
            rtc: false,
            pvpanic: None,
        }
    }
}

/// The finished tables with their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    tables: Vec<Table>,
}

/// One table in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its signature, as the files that ACPI tools make are named (`RSDP` for the root pointer).
    pub name: &'static str,
    /// Its guest-physical address.
    pub address: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl AcpiTables {
    /// Makes the tables for the machine that `config` and `map` describe.
    ///
    /// # Errors
    /// If there are more than [`CPUS_MAX`] CPUs or the tables do not fit in [`ACPI_AREA`].
    pub fn new(config: &AcpiConfig, map: &MemoryMap) -> Result<Self, BootError> {
        if config.apic_ids.len() > CPUS_MAX {
            return Err(BootError::TooManyCpus { cpus: config.apic_ids.len(), max: CPUS_MAX });
        }
        let mut next = RSDP_ADDRESS + (Rsdp::len() as u64).next_multiple_of(ALIGNMENT);
        let mut tables =
            vec![Table { name: "FACS", address: ACPI_AREA.start, bytes: aml_bytes(&FACS::new()) }];
        let mut add = |name, bytes: Vec<u8>| {
            let address = next;
            next = (next + bytes.len() as u64).next_multiple_of(ALIGNMENT);
            tables.push(Table { name, address, bytes });
            address
        };
        let dsdt = add("DSDT", dsdt::table(config, map));
        let fadt = add("FACP", fadt::table(config, ACPI_AREA.start as u32, dsdt as u32));
        let madt = add("APIC", madt::table(config));
        let mcfg = add("MCFG", mcfg());
        let xsdt = add("XSDT", xsdt(&[fadt, madt, mcfg]));
        if next > ACPI_AREA.end {
            return Err(BootError::AcpiTooLarge {
                cpus: config.apic_ids.len(),
                size: next - ACPI_AREA.start,
                room: ACPI_AREA.len(),
            });
        }
        let bytes = aml_bytes(&Rsdp::new(OEM_ID, xsdt));
        tables.push(Table { name: "RSDP", address: RSDP_ADDRESS, bytes });
        Ok(Self { tables })
    }

    /// The tables, in no order that matters.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The tables as firmware takes them: files of the firmware configuration device, by name, among
    /// them the script that places the others.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        loader::files(self)
    }

    /// Writes the tables into guest memory and returns the address of the RSDP.
    ///
    /// # Errors
    /// If guest memory has no RAM there.
    pub fn place<M: GuestMemoryBackend>(&self, memory: &M) -> Result<u64, BootError> {
        for table in &self.tables {
            write(memory, "the ACPI tables", table.address, &table.bytes)?;
        }
        Ok(RSDP_ADDRESS)
    }
}

fn aml_bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// The enhanced configuration space (PCI Firmware Specification 3.3, 4.1.2).
fn mcfg() -> Vec<u8> {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(ECAM.start, 0, 0, PCI_BUSES - 1);
    aml_bytes(&table)
}

fn xsdt(tables: &[u64]) -> Vec<u8> {
    let mut table = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for address in tables {
        table.add_entry(*address);
    }
    aml_bytes(&table)
}

#[cfg(test)]
mod tests;
