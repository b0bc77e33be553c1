//! Small kernels made for tests: well-formed by default, each field open to be spoilt.

use std::io::Write;
use std::path::PathBuf;

use linux_loader::loader::bootparam::setup_header;
use tempfile::NamedTempFile;
use vm_memory::ByteValued;
use zerocopy::IntoBytes;

use crate::AcpiConfig;
use crate::image::{BootConfig, BootProtocol};
use crate::kernel::{ElfHeader, ElfProgramHeader};

/// A file with `bytes` in it, deleted when dropped.
pub(crate) fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub(crate) fn config(kernel: &NamedTempFile) -> BootConfig {
    BootConfig {
        kernel: PathBuf::from(kernel.path()),
        initrd: None,
        command_line: "console=ttyS0 root=/dev/vda".into(),
        protocol: BootProtocol::Auto,
        acpi: AcpiConfig::new(2),
    }
}

/// Recognisable contents of `len` bytes.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// A bzImage with `code` as its protected-mode part.
pub(crate) struct SynthBzImage {
    pub(crate) header: setup_header,
    pub(crate) header_end: u8,
    pub(crate) code: Vec<u8>,
}

impl Default for SynthBzImage {
    fn default() -> Self {
        let code = pattern(0x3000, 7);
        Self {
            header: setup_header {
                setup_sects: 3,
                syssize: (code.len() / 16) as u32,
                boot_flag: 0xAA55,
                header: u32::from_le_bytes(*b"HdrS"),
                version: 0x020F,
                loadflags: 1,
                code32_start: 0x10_0000,
                initrd_addr_max: 0x7FFF_FFFF,
                kernel_alignment: 0x20_0000,
                relocatable_kernel: 1,
                xloadflags: 0x7F,
                cmdline_size: 2047,
                pref_address: 0x100_0000,
                init_size: 0x10_0000,
                ..setup_header::default()
            },
            header_end: 0x6A,
            code,
        }
    }
}

impl SynthBzImage {
    pub(crate) fn build(&self) -> Vec<u8> {
        let sectors = match self.header.setup_sects {
            0 => 4,
            n => usize::from(n),
        };
        let mut bytes = vec![0; (sectors + 1) * 512];
        bytes[0x1F1..0x1F1 + 123].copy_from_slice(self.header.as_slice());
        bytes[0x200] = 0xEB;
        bytes[0x201] = self.header_end;
        bytes.extend_from_slice(&self.code);
        bytes
    }
}

/// An ELF kernel with two segments, the second larger in memory than in the file, and a PVH note.
pub(crate) struct SynthElf {
    pub(crate) header: ElfHeader,
    pub(crate) segments: Vec<ElfProgramHeader>,
    pub(crate) notes: Vec<u8>,
    pub(crate) code: Vec<u8>,
}

pub(crate) const ELF_ENTRY: u64 = 0x100_0040;
pub(crate) const ELF_PVH_ENTRY: u64 = 0x100_0080;
pub(crate) const ELF_CODE_OFFSET: u64 = 0x1000;
pub(crate) const ELF_NOTE_OFFSET: u64 = 0x800;

pub(crate) fn segment(address: u64, offset: u64, in_file: u64, in_memory: u64) -> ElfProgramHeader {
    ElfProgramHeader {
        kind: 1.into(),
        flags: 7.into(),
        offset: offset.into(),
        virtual_address: address.into(),
        physical_address: address.into(),
        file_size: in_file.into(),
        memory_size: in_memory.into(),
        align: 0x1000.into(),
    }
}

fn note(kind: u32, name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u32, data.len() as u32, kind] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for part in [name, data] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

impl Default for SynthElf {
    fn default() -> Self {
        let mut notes = note(6, b"Xen\0", b"linux\0");
        notes.extend(note(18, b"Xen\0", &(ELF_PVH_ENTRY as u32).to_le_bytes()));
        Self {
            header: ElfHeader {
                magic: *b"\x7fELF",
                class: 2,
                data: 1,
                ident: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                kind: 2.into(),
                machine: 62.into(),
                version: 1.into(),
                entry: ELF_ENTRY.into(),
                program_headers: 64.into(),
                section_headers: 0.into(),
                flags: 0.into(),
                header_size: 64.into(),
                program_header_size: 56.into(),
                program_header_count: 3.into(),
                section_header_size: 0.into(),
                section_header_count: 0.into(),
                section_names: 0.into(),
            },
            segments: vec![
                segment(0x100_0000, ELF_CODE_OFFSET, 0x2000, 0x2000),
                segment(0x120_0000, ELF_CODE_OFFSET + 0x2000, 0x800, 0x5_0000),
            ],
            notes,
            code: pattern(0x2800, 3),
        }
    }
}

impl SynthElf {
    pub(crate) fn without_pvh() -> Self {
        Self { notes: note(6, b"Xen\0", b"linux\0"), ..Self::default() }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = self.header.as_bytes().to_vec();
        for segment in &self.segments {
            bytes.extend_from_slice(segment.as_bytes());
        }
        let len = self.notes.len() as u64;
        let mut notes = segment(0, ELF_NOTE_OFFSET, len, len);
        notes.kind = 4.into();
        bytes.extend_from_slice(notes.as_bytes());
        bytes.resize(ELF_NOTE_OFFSET as usize, 0);
        bytes.extend_from_slice(&self.notes);
        bytes.resize(ELF_CODE_OFFSET as usize, 0);
        bytes.extend_from_slice(&self.code);
        bytes
    }
}
