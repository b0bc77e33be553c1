//! MADT: the interrupt controllers (ACPI 6.5, 5.2.12).

use acpi_tables::Aml;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::irq;
use crate::memory_map::{IOAPIC, LAPIC};

const REVISION: u8 = 5;
/// Header and the two fields after it.
const FIXED_LEN: u32 = 44;
const LAPIC_ADDRESS_OFFSET: usize = 36;
const FLAGS_OFFSET: usize = 40;
/// There is a pair of 8259s too.
const PCAT_COMPAT: u32 = 1;
/// From this id on a CPU is described by an x2APIC entry: 255 means "all" in the older one.
const X2APIC_FIRST: u32 = 255;
const ENABLED: u32 = 1;
/// MPS INTI flags (table 5.26): active high.
const ACTIVE_HIGH: u16 = 0b01;
/// MPS INTI flags: level-triggered.
const LEVEL: u16 = 0b11 << 2;
/// Polarity and trigger mode as the bus has them.
const BUS_DEFAULT: u16 = 0;

/// Interrupt source override (5.2.12.5).
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct SourceOverride {
    kind: u8,
    length: u8,
    bus: u8,
    source: u8,
    gsi: U32,
    flags: U16,
}

/// NMI input of the local APICs (5.2.12.7).
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor_uid: u8,
    flags: U16,
    input: u8,
}

/// Processor local x2APIC (5.2.12.12).
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct LocalX2Apic {
    kind: u8,
    length: u8,
    reserved: U16,
    id: U32,
    flags: U32,
    processor_uid: U32,
}

/// NMI input of the local x2APICs (5.2.12.13).
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct LocalX2ApicNmi {
    kind: u8,
    length: u8,
    flags: U16,
    processor_uid: U32,
    input: u8,
    reserved: [u8; 3],
}

fn processor(uid: u32, apic_id: u32, entries: &mut Vec<u8>) {
    match (u8::try_from(uid), u8::try_from(apic_id)) {
        (Ok(uid), Ok(id)) if u32::from(id) < X2APIC_FIRST && u32::from(uid) < X2APIC_FIRST => {
            ProcessorLocalApic::new(uid, id, EnabledStatus::Enabled).to_aml_bytes(entries);
        }
        _ => entries.extend_from_slice(
            LocalX2Apic {
                kind: 9,
                length: 16,
                reserved: U16::ZERO,
                id: apic_id.into(),
                flags: ENABLED.into(),
                processor_uid: uid.into(),
            }
            .as_bytes(),
        ),
    }
}

fn source_override(source: u8, gsi: u32, flags: u16) -> SourceOverride {
    SourceOverride { kind: 2, length: 10, bus: 0, source, gsi: gsi.into(), flags: flags.into() }
}

/// The table: a CPU's processor id is its place in the configuration.
pub(super) fn table(config: &AcpiConfig) -> Vec<u8> {
    let mut entries = Vec::new();
    for (uid, apic_id) in (0..).zip(&config.apic_ids) {
        processor(uid, *apic_id, &mut entries);
    }
    IoApic::new(0, IOAPIC.start as u32, 0).to_aml_bytes(&mut entries);
    entries.extend_from_slice(source_override(0, irq::PIT_GSI, BUS_DEFAULT).as_bytes());
    let sci = source_override(config.sci_gsi, config.sci_gsi.into(), ACTIVE_HIGH | LEVEL);
    entries.extend_from_slice(sci.as_bytes());
    let nmi = LocalApicNmi { kind: 4, length: 6, processor_uid: 0xFF, flags: U16::ZERO, input: 1 };
    entries.extend_from_slice(nmi.as_bytes());
    if config.apic_ids.iter().any(|&id| id >= X2APIC_FIRST) {
        let nmi = LocalX2ApicNmi {
            kind: 10,
            length: 12,
            flags: U16::ZERO,
            processor_uid: u32::MAX.into(),
            input: 1,
            reserved: [0; 3],
        };
        entries.extend_from_slice(nmi.as_bytes());
    }

    let mut madt = Sdt::new(*b"APIC", FIXED_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(LAPIC_ADDRESS_OFFSET, LAPIC.start as u32);
    madt.write_u32(FLAGS_OFFSET, PCAT_COMPAT);
    madt.append_slice(&entries);
    madt.as_slice().to_vec()
}
