//! ELF vmlinux: entered by PVH where it has the note for it, else by the 64-bit boot protocol.
//!
//! Layouts: System V ABI, chapters 4 and 5 (ELF-64); the PVH note: Xen's `elfnote.h`,
//! XEN_ELFNOTE_PHYS32_ENTRY.

use linux_loader::loader::{Elf as Loader, KernelLoader, elf::PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Start;
use crate::cpu_state::Protocol;
use crate::error::BootError;
use crate::image::{BootProtocol, RamState};
use crate::memory_map::{AddressRange, HIGH_MEMORY_START};
use crate::source::Source;

const MAGIC: &[u8; 4] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Far more than any kernel has; bounds what a hostile header can make us read.
const PROGRAM_HEADERS_MAX: u16 = 128;
/// The same for its notes, which are some hundred bytes in a kernel.
const NOTES_MAX: u64 = 64 << 10;

/// The file header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) class: u8,
    pub(crate) data: u8,
    pub(crate) ident: [u8; 10],
    pub(crate) kind: U16,
    pub(crate) machine: U16,
    pub(crate) version: U32,
    pub(crate) entry: U64,
    pub(crate) program_headers: U64,
    pub(crate) section_headers: U64,
    pub(crate) flags: U32,
    pub(crate) header_size: U16,
    pub(crate) program_header_size: U16,
    pub(crate) program_header_count: U16,
    pub(crate) section_header_size: U16,
    pub(crate) section_header_count: U16,
    pub(crate) section_names: U16,
}

/// A program header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ProgramHeader {
    pub(crate) kind: U32,
    pub(crate) flags: U32,
    pub(crate) offset: U64,
    pub(crate) virtual_address: U64,
    pub(crate) physical_address: U64,
    pub(crate) file_size: U64,
    pub(crate) memory_size: U64,
    pub(crate) align: U64,
}

/// An ELF kernel whose headers were checked.
#[derive(Debug)]
pub(crate) struct ElfKernel {
    entry: u64,
    segments: Vec<Segment>,
}

/// One loadable segment: where it goes, and from which address on it has no bytes in the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    range: AddressRange,
    file_end: u64,
}

/// Whether `head` is that of an ELF file.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl ElfKernel {
    pub(super) fn inspect(source: &Source, head: &[u8]) -> Result<Self, BootError> {
        let len = source.len()?;
        let (header, _) = FileHeader::read_from_prefix(head).map_err(|_| BootError::Truncated {
            path: source.path(),
            part: "the ELF header",
            needed: size_of::<FileHeader>() as u64,
            have: len,
        })?;
        check_header(source, &header)?;
        let mut segments = Vec::new();
        for program_header in read_program_headers(source, &header, len)? {
            match program_header.kind.get() {
                PT_LOAD if program_header.memory_size.get() > 0 => {
                    segments.push(check_segment(source, &program_header, len)?);
                }
                PT_NOTE => check_notes(source, &program_header, len)?,
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(malformed(source, "it has nothing to load".into()));
        }
        check_overlap(source, &segments)?;
        Ok(Self { entry: header.entry.get(), segments })
    }

    /// From the first byte of the lowest segment to the last of the highest.
    pub(super) fn range(&self) -> AddressRange {
        let start = self.segments.iter().map(|s| s.range.start).min().unwrap_or_default();
        let end = self.segments.iter().map(|s| s.range.end).max().unwrap_or_default();
        AddressRange::new(start, end)
    }

    pub(super) fn load<M: GuestMemoryBackend>(
        &self,
        source: &Source,
        memory: &M,
        wanted: BootProtocol,
        ram: RamState,
    ) -> Result<Start, BootError> {
        let loaded = Loader::load(memory, None, &mut source.file(), None)
            .map_err(|e| BootError::LoadKernel { path: source.path(), source: e })?;
        if ram == RamState::Used {
            self.clear_unbacked(source, memory)?;
        }
        let pvh = match loaded.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) => Some(entry.0),
            PvhBootCapability::PvhEntryNotPresent | PvhBootCapability::PvhEntryIgnored => None,
        };
        let start = self.choose_start(source, wanted, pvh)?;
        if !self.segments.iter().any(|s| s.range.contains(start.entry)) {
            let entry = start.entry;
            return Err(malformed(source, format!("its entry {entry:#x} is outside its segments")));
        }
        Ok(start)
    }

    fn choose_start(
        &self,
        source: &Source,
        wanted: BootProtocol,
        pvh: Option<u64>,
    ) -> Result<Start, BootError> {
        match (wanted, pvh) {
            (BootProtocol::Auto | BootProtocol::Pvh, Some(entry)) => {
                Ok(Start { entry, protocol: Protocol::Pvh })
            }
            (BootProtocol::Auto | BootProtocol::Linux64, _) => {
                Ok(Start { entry: self.entry, protocol: Protocol::Linux64 })
            }
            (BootProtocol::Pvh, None) => Err(BootError::Unsupported {
                path: source.path(),
                why: "it has no PVH entry (CONFIG_PVH); leave the boot protocol to be chosen"
                    .into(),
            }),
        }
    }

    /// Fills with zeros what the segments claim beyond their bytes in the file. Memory that was never
    /// used is zero already, and stays unpopulated.
    fn clear_unbacked<M: GuestMemoryBackend>(
        &self,
        source: &Source,
        memory: &M,
    ) -> Result<(), BootError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        for segment in &self.segments {
            let mut address = segment.file_end;
            while address < segment.range.end {
                let n = (segment.range.end - address).min(ZEROS.len() as u64);
                memory.write_slice(&ZEROS[..n as usize], GuestAddress(address)).map_err(|e| {
                    BootError::ClearKernel { path: source.path(), address, source: e }
                })?;
                address += n;
            }
        }
        Ok(())
    }
}

fn malformed(source: &Source, why: String) -> BootError {
    BootError::Malformed { path: source.path(), why }
}

fn check_header(source: &Source, header: &FileHeader) -> Result<(), BootError> {
    let unsupported =
        |why: &str| Err(BootError::Unsupported { path: source.path(), why: why.into() });
    if header.class != CLASS_64 {
        return unsupported("it is a 32-bit ELF file; give a kernel built for x86-64");
    }
    if header.data != LITTLE_ENDIAN || header.machine.get() != MACHINE_X86_64 {
        return unsupported("it is an ELF file for another architecture than x86-64");
    }
    if !matches!(header.kind.get(), EXECUTABLE | SHARED) {
        return unsupported("it is an ELF object file or core dump, not an executable");
    }
    if usize::from(header.program_header_size.get()) != size_of::<ProgramHeader>() {
        let size = header.program_header_size.get();
        return Err(malformed(source, format!("its program headers are {size} bytes long")));
    }
    let count = header.program_header_count.get();
    if !(1..=PROGRAM_HEADERS_MAX).contains(&count) {
        return Err(malformed(source, format!("it has {count} program headers")));
    }
    Ok(())
}

fn read_program_headers(
    source: &Source,
    header: &FileHeader,
    len: u64,
) -> Result<Vec<ProgramHeader>, BootError> {
    let size = usize::from(header.program_header_count.get()) * size_of::<ProgramHeader>();
    let offset = header.program_headers.get();
    check_extent(source, "the program header table", offset, size as u64, len)?;
    let mut headers =
        vec![ProgramHeader::new_zeroed(); usize::from(header.program_header_count.get())];
    if source.read_at(headers.as_mut_bytes(), offset)? != size {
        return Err(super::changed(source));
    }
    Ok(headers)
}

fn check_extent(
    source: &Source,
    part: &'static str,
    offset: u64,
    size: u64,
    len: u64,
) -> Result<(), BootError> {
    let needed = offset.checked_add(size).ok_or_else(|| {
        malformed(source, format!("{part} is said to be at offset {offset:#x} of the file"))
    })?;
    if needed > len {
        return Err(BootError::Truncated { path: source.path(), part, needed, have: len });
    }
    Ok(())
}

fn check_notes(source: &Source, header: &ProgramHeader, len: u64) -> Result<(), BootError> {
    let size = header.file_size.get();
    if size > NOTES_MAX {
        return Err(malformed(source, format!("its notes are {size} bytes long")));
    }
    check_extent(source, "its note segment", header.offset.get(), size, len)
}

fn check_segment(source: &Source, header: &ProgramHeader, len: u64) -> Result<Segment, BootError> {
    let (start, in_file) = (header.physical_address.get(), header.file_size.get());
    check_extent(source, "a segment", header.offset.get(), in_file, len)?;
    let in_memory = header.memory_size.get();
    if in_file > in_memory {
        return Err(malformed(
            source,
            format!(
                "its segment at {start:#x} has {in_file:#x} bytes for {in_memory:#x} of memory"
            ),
        ));
    }
    if start < HIGH_MEMORY_START {
        return Err(BootError::Unsupported {
            path: source.path(),
            why: format!("its segment at {start:#x} would lie below 1 MiB"),
        });
    }
    let end = start.checked_add(in_memory).ok_or_else(|| {
        malformed(source, format!("its segment at {start:#x} ends beyond any memory"))
    })?;
    Ok(Segment { range: AddressRange::new(start, end), file_end: start + in_file })
}

/// Overlapping segments could make us fill the same memory more than a hundred times.
fn check_overlap(source: &Source, segments: &[Segment]) -> Result<(), BootError> {
    let mut ranges: Vec<AddressRange> = segments.iter().map(|s| s.range).collect();
    ranges.sort_unstable_by_key(|r| r.start);
    for (low, high) in ranges.iter().zip(ranges.iter().skip(1)) {
        if low.overlaps(high) {
            return Err(malformed(
                source,
                format!("its segments at {:#x} and {:#x} overlap", low.start, high.start),
            ));
        }
    }
    Ok(())
}
