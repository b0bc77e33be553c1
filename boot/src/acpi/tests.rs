use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::memory_map::{GIB, MIB};

fn map() -> MemoryMap {
    MemoryMap::new(6 * GIB, 40).unwrap()
}

/// A machine with everything.
fn full(cpus: u32) -> AcpiConfig {
    AcpiConfig { i8042: true, rtc: true, pvpanic: Some(0x505), ..AcpiConfig::new(cpus) }
}

fn tables(config: &AcpiConfig) -> BTreeMap<&'static str, Table> {
    let tables = AcpiTables::new(config, &map()).unwrap();
    tables.tables().iter().map(|t| (t.name, t.clone())).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// Bytes as lines of sixteen in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| {
        chunk.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ") + "\n"
    };
    bytes.chunks(16).map(line).collect()
}

/// The tables of a two-CPU machine, byte for byte. `SPINDLE_BLESS=1` writes the files anew.
#[test]
fn tables_are_the_recorded_ones() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/acpi/golden");
    for (name, table) in tables(&full(2)) {
        let path = dir.join(format!("{}.hex", name.to_lowercase()));
        let found = format!("{:#x}\n{}", table.address, hex(&table.bytes));
        if std::env::var_os("SPINDLE_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let recorded = std::fs::read_to_string(&path).unwrap();
        assert_eq!(found, recorded, "{name} differs from {}", path.display());
    }
}

#[test]
fn checksums_and_lengths_are_right_for_any_number_of_cpus() {
    for cpus in [1, 2, 4, 254, 255, 256, 1024] {
        for (name, table) in tables(&full(cpus)) {
            match name {
                "FACS" => assert_eq!(u32_at(&table.bytes, 4), 64),
                "RSDP" => {
                    assert_eq!((sum(&table.bytes[..20]), sum(&table.bytes)), (0, 0));
                }
                _ => {
                    assert_eq!(table.bytes[..4], *name.as_bytes());
                    assert_eq!(u32_at(&table.bytes, 4) as usize, table.bytes.len(), "{name}");
                    assert_eq!(sum(&table.bytes), 0, "{name} for {cpus} CPUs");
                }
            }
        }
    }
}

#[test]
fn tables_lie_apart_in_their_area_with_the_facs_in_its_page() {
    let all = AcpiTables::new(&full(1024), &map()).unwrap();
    let range = |t: &Table| crate::AddressRange::new(t.address, t.address + t.bytes.len() as u64);
    for (i, a) in all.tables().iter().enumerate() {
        assert!(ACPI_AREA.covers(&range(a)), "{}", a.name);
        assert_eq!(a.address % ALIGNMENT, 0, "{}", a.name);
        assert!(all.tables().iter().skip(i + 1).all(|b| !range(a).overlaps(&range(b))));
        let in_facs_page = a.address < ACPI_AREA.start + FACS_PAGE_SIZE;
        assert_eq!(in_facs_page, a.name == "FACS");
    }
}

#[test]
fn every_table_is_found_from_the_root_pointer() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    let rsdp = AcpiTables::new(&full(2), &map()).unwrap().place(&memory).unwrap();
    let read = |address: u64, len: usize| {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    };
    // As a kernel finds it that was told nothing: on a 16-byte boundary below 1 MiB.
    let scanned = (0xE_0000u64..0x10_0000).step_by(16).find(|&a| read(a, 8) == b"RSD PTR ");
    assert_eq!(scanned, Some(rsdp));
    let xsdt = u64_at(&read(rsdp, 36), 24);
    let len = u32_at(&read(xsdt, 8), 4) as usize;
    let named: BTreeMap<Vec<u8>, u64> = read(xsdt, len)[36..]
        .chunks(8)
        .map(|entry| u64_at(entry, 0))
        .map(|address| (read(address, 4), address))
        .collect();
    let names: Vec<&[u8]> = named.keys().map(Vec::as_slice).collect();
    assert_eq!(names, [&b"APIC"[..], b"FACP", b"MCFG"]);
    let fadt = read(named[&b"FACP"[..]], 276);
    assert_eq!(read(u32_at(&fadt, 36).into(), 4), b"FACS");
    assert_eq!(read(u64_at(&fadt, 140), 4), b"DSDT");
    assert_eq!(u64_at(&fadt, 140), u64::from(u32_at(&fadt, 40)));
}

/// Offsets from ACPI 6.5, table 5.9.
#[test]
fn the_fadt_names_the_fixed_hardware() {
    let fadt = &tables(&full(1))["FACP"].bytes;
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5), "length and revision");
    assert_eq!(u16_at(fadt, 46), 9, "SCI");
    assert_eq!(u32_at(fadt, 48), 0, "SMI command port");
    assert_eq!((u32_at(fadt, 56), fadt[88]), (0x600, 4), "PM1a events");
    assert_eq!((u32_at(fadt, 64), fadt[89]), (0x604, 2), "PM1a control");
    assert_eq!((u32_at(fadt, 76), fadt[91]), (0x608, 4), "PM timer");
    assert_eq!((u32_at(fadt, 80), fadt[92]), (0x620, 16), "GPE 0");
    assert_eq!(u16_at(fadt, 109), 0b111, "legacy devices, 8042, no VGA");
    let flags = u32_at(fadt, 112);
    assert_eq!(flags & 1 << 20, 0, "not hardware-reduced");
    assert_eq!(flags & 1 << 4, 0, "a fixed power button");
    assert_eq!(flags & 1 << 8, 0, "a PM timer of 24 bits");
    assert_eq!(flags & 1 << 10, 1 << 10, "a reset register");
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0], "CF9, one byte");
    assert_eq!(fadt[128], 0x06);
    assert_eq!((u64_at(fadt, 152), u64_at(fadt, 176)), (0x600, 0x604));
    assert_eq!((u64_at(fadt, 212), u64_at(fadt, 224)), (0x608, 0x620));
    let without = &tables(&AcpiConfig::new(1))["FACP"].bytes;
    assert_eq!(u16_at(without, 109), 0b10_0101, "neither 8042 nor clock");
    let moved = AcpiConfig { pm_base: 0xB000, sci_gsi: 11, ..full(1) };
    let moved = &tables(&moved)["FACP"].bytes;
    assert_eq!((u32_at(moved, 64), u16_at(moved, 46)), (0xB004, 11));
}

/// The entries of a MADT: type and body.
fn madt_entries(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut rest = &bytes[44..];
    while let [kind, len, ..] = *rest {
        let (entry, after) = rest.split_at(len.into());
        entries.push((kind, entry[2..].to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    entries
}

#[test]
fn the_madt_lists_cpus_ioapic_and_overrides() {
    let madt = &tables(&full(2))["APIC"].bytes;
    assert_eq!(u32_at(madt, 36), 0xFEE0_0000);
    assert_eq!(u32_at(madt, 40), 1, "8259s");
    assert_eq!(
        madt_entries(madt),
        [
            (0, vec![0, 0, 1, 0, 0, 0]),
            (0, vec![1, 1, 1, 0, 0, 0]),
            (1, vec![0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]),
            (2, vec![0, 0, 2, 0, 0, 0, 0, 0]),
            (2, vec![0, 9, 9, 0, 0, 0, 0xD, 0]),
            (4, vec![0xFF, 0, 0, 1]),
        ]
    );
}

#[test]
fn cpus_beyond_254_are_x2apics_and_sparse_ids_are_kept() {
    let entries = madt_entries(&tables(&full(300))["APIC"].bytes);
    let of = |kind| entries.iter().filter(|e| e.0 == kind).map(|e| &e.1).collect::<Vec<_>>();
    assert_eq!((of(0).len(), of(9).len(), of(10).len()), (255, 45, 1));
    assert_eq!(of(9)[0][2..], [255u32, 1, 255].map(u32::to_le_bytes).concat());
    assert_eq!(of(9)[44][2..], [299u32, 1, 299].map(u32::to_le_bytes).concat());

    let sparse = AcpiConfig { apic_ids: vec![0, 2, 0x1_0000], ..full(0) };
    let entries = madt_entries(&tables(&sparse)["APIC"].bytes);
    assert_eq!(entries[1], (0, vec![1, 2, 1, 0, 0, 0]));
    assert_eq!(entries[2].0, 9);
    assert_eq!(entries[2].1[2..], [0x1_0000u32, 1, 2].map(u32::to_le_bytes).concat());
}

#[test]
fn the_mcfg_covers_the_one_bus() {
    let mcfg = &tables(&full(1))["MCFG"].bytes;
    assert_eq!(mcfg.len(), 60);
    assert_eq!(u64_at(mcfg, 44), 0xB000_0000);
    assert_eq!(mcfg[52..], [0; 8]);
}

/// What `_PRT` says, read from its AML: an entry is a package of four, address first.
#[test]
fn the_interrupt_routing_is_gsi_for() {
    let dsdt = &tables(&full(1))["DSDT"].bytes;
    let at = dsdt.windows(4).position(|w| w == b"_PRT").unwrap();
    // PackageOp, a PkgLength of two bytes, the number of elements.
    assert_eq!((dsdt[at + 4], dsdt[at + 5] >> 6, dsdt[at + 7]), (0x12, 1, 128));
    let mut rest = &dsdt[at + 8..];
    let mut integer = || {
        let (value, len) = match rest[0] {
            0 => (0, 1),
            1 => (1, 1),
            0x0A => (u32::from(rest[1]), 2),
            0x0B => (u16_at(rest, 1).into(), 3),
            0x0C => (u32_at(rest, 1), 5),
            0x12 => (u32::from(rest[2]), 3),
            other => panic!("unexpected {other:#x}"),
        };
        rest = &rest[len..];
        value
    };
    for device in 0..32u8 {
        for pin in 0..4u8 {
            assert_eq!(integer(), 4, "package of four");
            assert_eq!(integer(), u32::from(device) << 16 | 0xFFFF);
            assert_eq!(integer(), u32::from(pin));
            assert_eq!(integer(), 0, "no link device");
            assert_eq!(integer(), crate::gsi_for(device, pin));
        }
    }
}

#[test]
fn the_dsdt_has_what_the_machine_has() {
    let has = |config: &AcpiConfig, needle: &[u8]| {
        let dsdt = &tables(config)["DSDT"].bytes;
        dsdt.windows(needle.len()).filter(|w| *w == needle).count()
    };
    let bare = AcpiConfig { com1: false, ..AcpiConfig::new(3) };
    for (name, in_full, in_bare) in
        [(b"COM1", 1, 0), (b"KBD_", 1, 0), (b"RTC_", 1, 0), (b"PCI0", 2, 2), (b"_OSC", 1, 1)]
    {
        assert_eq!((has(&full(1), name), has(&bare, name)), (in_full, in_bare), "{name:?}");
    }
    assert_eq!((has(&full(1), b"QEMU0001"), has(&bare, b"QEMU0001")), (1, 0));
    // An I/O descriptor for one port at 505h.
    assert_eq!(has(&full(1), &[0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1]), 1);
    assert_eq!(has(&bare, b"ACPI0007"), 3);
    // \_S5_: PackageOp, length, four elements, the sleep type twice.
    assert_eq!(has(&bare, b"\x08_S5_\x12\x06\x04\0\0\0\0"), 1);
}

/// Every slot but those of the two bridges has a device that can be ejected, and the event's handler
/// leads to the method that tells of them.
#[test]
fn slots_can_be_plugged() {
    let dsdt = &tables(&full(1))["DSDT"].bytes;
    let count = |needle: &[u8]| dsdt.windows(needle.len()).filter(|w| *w == needle).count();
    for slot in 0..32u8 {
        let name = format!("S{slot:02X}_");
        // Its declaration, and a notification that something came and one that it shall go.
        let wanted = if (1..31).contains(&slot) { 1 } else { 0 };
        assert_eq!(count(&[name.as_bytes(), b"\x08_ADR"].concat()), wanted, "{name}");
        let came = [&[0x86], name.as_bytes(), &[1]].concat();
        let going = [&[0x86], name.as_bytes(), &[0x0A, 3]].concat();
        assert_eq!((count(&came), count(&going)), (wanted, wanted), "{name}");
    }
    assert_eq!(count(b"_EJ0"), 30);
    // OperationRegion (SystemIO, CC0h, 18h).
    assert_eq!(count(b"\x5B\x80PCIH\x01\x0B\xC0\x0C\x0A\x18"), 1);
    assert_eq!(count(b"_E01"), 1);
    assert_eq!(count(b"PCNT"), 2);
}

#[test]
fn the_64_bit_window_is_in_the_dsdt_if_there_is_one() {
    let window = |bits| {
        let map = MemoryMap::new(60 * GIB + 2816 * MIB, bits).unwrap();
        let tables = AcpiTables::new(&full(1), &map).unwrap();
        let dsdt = tables.tables().iter().find(|t| t.name == "DSDT").unwrap().bytes.clone();
        // QWORD address space descriptor: tag, length 43, memory.
        let at = dsdt.windows(4).position(|w| w == [0x8A, 43, 0, 0])?;
        Some((u64_at(&dsdt, at + 14), u64_at(&dsdt, at + 22), u64_at(&dsdt, at + 38)))
    };
    assert_eq!(window(37), Some((64 * GIB, 128 * GIB - 1, 64 * GIB)));
    assert_eq!(window(36), None);
}

#[test]
fn too_many_cpus_are_refused() {
    let error = |cpus| AcpiTables::new(&AcpiConfig::new(cpus), &map()).unwrap_err().to_string();
    assert_eq!(error(4097), "a machine has at most 4096 CPUs, not 4097");
    let message = error(4096);
    assert!(message.starts_with("the ACPI tables for 4096 CPUs take "), "{message}");
    assert!(message.ends_with("the 128 KiB kept for them: give the machine fewer CPUs"));
    assert!(AcpiTables::new(&AcpiConfig::new(2048), &map()).is_ok());
}

/// Runs one of ACPICA's tools on a file; its output.
fn iasl(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("iasl").args(args).current_dir(dir).output().expect(
        "this test checks the tables with 'iasl': install it (Debian's package acpica-tools)",
    );
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// ACPICA, which is also Linux's interpreter, takes every table apart and compiles it again without
/// a warning.
#[test]
fn acpica_has_nothing_to_say_against_the_tables() {
    let machines = [full(2), AcpiConfig::new(1), full(300)];
    for config in machines {
        let dir = tempfile::tempdir().unwrap();
        for (name, table) in tables(&config).iter().filter(|(name, _)| **name != "RSDP") {
            let (binary, source) = (format!("{name}.dat"), format!("{name}.dsl"));
            std::fs::write(dir.path().join(&binary), &table.bytes).unwrap();
            let taken_apart = iasl(dir.path(), &["-d", &binary]);
            let lower = taken_apart.to_lowercase();
            assert!(!lower.contains("warning") && !lower.contains("error"), "{taken_apart}");
            let compiled = iasl(dir.path(), &["-p", "again", &source]);
            assert!(compiled.contains("0 Errors, 0 Warnings, 0 Remarks"), "{name}: {compiled}");
            let again = std::fs::read(dir.path().join("again.aml")).unwrap();
            if *name != "DSDT" {
                // All but the creator's name and the checksum.
                assert_eq!(again.len(), table.bytes.len(), "{name}");
                assert_eq!(again[36..], table.bytes[36..], "{name}");
            }
        }
    }
}
