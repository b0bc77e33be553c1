//! The tables for firmware, which places them itself: two files of the firmware configuration device,
//! and the script by which firmware allocates memory for them and fills in addresses and checksums
//! (QEMU's BIOS linker and loader; what a command holds is what SeaBIOS reads).

use super::{AcpiTables, RSDP_ADDRESS, Table};
use crate::memory_map::ACPI_AREA;

/// The file with the root pointer.
const RSDP_FILE: &str = "etc/acpi/rsdp";
/// The file with all other tables.
const TABLES_FILE: &str = "etc/acpi/tables";
/// The file with the script.
const SCRIPT_FILE: &str = "etc/table-loader";

/// A command of the script, in bytes.
const COMMAND_LEN: usize = 128;
/// Room for a file name with its NUL in a command.
const NAME_LEN: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Memory anywhere below 4 GiB.
const ZONE_HIGH: u8 = 1;
/// Memory that is scanned for the root pointer: 0xF0000 to 0xFFFFF.
const ZONE_F_SEGMENT: u8 = 2;
/// The FACS wants 64.
const TABLES_ALIGNMENT: u32 = 64;
/// The root pointer is looked for at multiples of 16 (ACPI 6.5, 5.2.5.1).
const RSDP_ALIGNMENT: u32 = 16;

/// Offset of a table's checksum (ACPI 6.5, table 5.4).
const CHECKSUM: u32 = 9;
/// Length of a table's header, after which the XSDT has its pointers.
const HEADER_LEN: u32 = 36;
/// FADT: FIRMWARE_CTRL and DSDT (32 bits), X_DSDT (64 bits).
const FADT_POINTERS: [(u32, u8); 3] = [(36, 4), (40, 4), (140, 8)];
/// RSDP: XsdtAddress, 64 bits.
const RSDP_POINTER: u32 = 24;
/// RSDP: its two checksums, each with the bytes from the start that it covers.
const RSDP_CHECKSUMS: [(u32, u32); 2] = [(8, 20), (32, 36)];

/// The files, each with its name. Addresses in them count from the start of the file of tables until
/// the script has been carried out.
pub(super) fn files(tables: &AcpiTables) -> Vec<(&'static str, Vec<u8>)> {
    let (mut content, mut rsdp) = (Vec::new(), Vec::new());
    let mut script = Script::default();
    script.allocate(RSDP_FILE, RSDP_ALIGNMENT, ZONE_F_SEGMENT);
    script.allocate(TABLES_FILE, TABLES_ALIGNMENT, ZONE_HIGH);
    for table in tables.tables() {
        let mut bytes = table.bytes.clone();
        let pointers = pointers(table);
        for (at, len) in &pointers {
            rebase(&mut bytes, *at as usize, usize::from(*len));
        }
        if table.address == RSDP_ADDRESS {
            rsdp = bytes;
            script.add_pointers(RSDP_FILE, 0, &pointers);
            for (at, len) in RSDP_CHECKSUMS {
                script.add_checksum(RSDP_FILE, at, 0, len);
            }
            continue;
        }
        let start = (table.address - ACPI_AREA.start) as usize;
        let (end, len) = (start + bytes.len(), bytes.len() as u32);
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(&bytes);
        if !pointers.is_empty() {
            script.add_pointers(TABLES_FILE, start as u32, &pointers);
            script.add_checksum(TABLES_FILE, start as u32 + CHECKSUM, start as u32, len);
        }
    }
    vec![(RSDP_FILE, rsdp), (TABLES_FILE, content), (SCRIPT_FILE, script.0)]
}

/// Where a table has addresses of others, and how many bytes each has.
fn pointers(table: &Table) -> Vec<(u32, u8)> {
    match table.name {
        "FACP" => FADT_POINTERS.to_vec(),
        "XSDT" => (HEADER_LEN..table.bytes.len() as u32).step_by(8).map(|at| (at, 8)).collect(),
        "RSDP" => vec![(RSDP_POINTER, 8)],
        _ => Vec::new(),
    }
}

/// Makes an address count from the start of the area.
fn rebase(bytes: &mut [u8], at: usize, len: usize) {
    let mut address = [0; 8];
    address[..len].copy_from_slice(&bytes[at..at + len]);
    let offset = u64::from_le_bytes(address).saturating_sub(ACPI_AREA.start);
    bytes[at..at + len].copy_from_slice(&offset.to_le_bytes()[..len]);
}

#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn allocate(&mut self, file: &str, alignment: u32, zone: u8) {
        self.command(ALLOCATE, &[file], &[&alignment.to_le_bytes(), &[zone]]);
    }

    fn add_pointers(&mut self, file: &str, start: u32, pointers: &[(u32, u8)]) {
        for (at, len) in pointers {
            let offset = (start + at).to_le_bytes();
            self.command(ADD_POINTER, &[file, TABLES_FILE], &[&offset, &[*len]]);
        }
    }

    fn add_checksum(&mut self, file: &str, at: u32, start: u32, len: u32) {
        let numbers = [at, start, len].map(u32::to_le_bytes);
        self.command(ADD_CHECKSUM, &[file], &[&numbers[0], &numbers[1], &numbers[2]]);
    }

    fn command(&mut self, command: u32, names: &[&str], rest: &[&[u8]]) {
        let end = self.0.len() + COMMAND_LEN;
        self.0.extend(command.to_le_bytes());
        for name in names {
            let after = self.0.len() + NAME_LEN;
            self.0.extend(name.bytes());
            self.0.resize(after, 0);
        }
        self.0.extend(rest.concat());
        self.0.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcpiConfig, MemoryMap};
    use std::collections::HashMap;

    fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
        let mut all = [0; 8];
        all[..len].copy_from_slice(&bytes[at..at + len]);
        u64::from_le_bytes(all)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Carries a script out as firmware does, with files placed at `places`.
    fn carry_out(script: &[u8], files: &mut HashMap<String, Vec<u8>>, places: &[(&str, u64)]) {
        let name = |bytes: &[u8]| {
            let end = bytes.iter().position(|b| *b == 0).unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        };
        for command in script.chunks(128) {
            let (kind, file) = (number(command, 0, 4), name(&command[4..60]));
            match kind {
                1 => assert!(places.iter().any(|(place, _)| *place == file)),
                2 => {
                    let to = name(&command[60..116]);
                    let base = places.iter().find(|(place, _)| *place == to).unwrap().1;
                    let (at, len) = (number(command, 116, 4) as usize, usize::from(command[120]));
                    let bytes = files.get_mut(&file).unwrap();
                    let address = number(bytes, at, len) + base;
                    bytes[at..at + len].copy_from_slice(&address.to_le_bytes()[..len]);
                }
                3 => {
                    let [at, start, len] = [60, 64, 68].map(|at| number(command, at, 4) as usize);
                    let bytes = files.get_mut(&file).unwrap();
                    bytes[at] = bytes[at].wrapping_sub(sum(&bytes[start..start + len]));
                }
                other => panic!("command {other}"),
            }
        }
    }

    #[test]
    fn carried_out_the_script_gives_tables_that_find_each_other() {
        let map = MemoryMap::new(1 << 30, 40).unwrap();
        let tables = AcpiTables::new(&AcpiConfig::new(4), &map).unwrap();
        let mut files: HashMap<String, Vec<u8>> =
            files(&tables).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let script = files.remove("etc/table-loader").unwrap();
        assert!(script.len().is_multiple_of(128));
        let base = 0x3FFE_0000;
        let places = [("etc/acpi/rsdp", 0xF_5000), ("etc/acpi/tables", base)];
        carry_out(&script, &mut files, &places);

        let (rsdp, all) = (&files["etc/acpi/rsdp"], &files["etc/acpi/tables"]);
        assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
        let at = |address: u64| &all[(address - base) as usize..];
        let table = |address: u64| &at(address)[..number(at(address), 4, 4) as usize];
        let xsdt = table(number(rsdp, 24, 8));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let mut names = Vec::new();
        for entry in xsdt[36..].chunks(8) {
            let found = table(number(entry, 0, 8));
            assert_eq!(sum(found), 0);
            names.push(found[..4].to_vec());
            if &found[..4] == b"FACP" {
                let dsdt = number(found, 140, 8);
                assert_eq!(number(found, 40, 4), dsdt);
                assert_eq!((&table(dsdt)[..4], sum(table(dsdt))), (&b"DSDT"[..], 0));
                assert_eq!(&at(number(found, 36, 4))[..4], b"FACS");
            }
        }
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
    }
}
