//! The state of the boot CPU when the guest takes over, as plain data, and the descriptor and page
//! tables that it points at.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::error::BootError;
use crate::layout;
use crate::memory_map::AddressRange;

/// By which rules a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// PVH: 32-bit protected mode without paging, `rbx` points at `hvm_start_info`.
    Pvh,
    /// The Linux 64-bit boot protocol: long mode, `rsi` points at the zero page.
    Linux64,
}

/// A segment register with its hidden part (Intel SDM vol. 3, 3.4.3; AMD APM vol. 2, 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, the last valid offset (granularity already applied).
    pub limit: u32,
    /// Type field, 4 bits.
    pub type_: u8,
    /// S: set for code and data, clear for system segments.
    pub s: bool,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// P: present.
    pub present: bool,
    /// AVL: available to software.
    pub avl: bool,
    /// L: 64-bit code.
    pub l: bool,
    /// D/B: 32-bit default operand or stack size.
    pub db: bool,
    /// G: the descriptor's limit counts 4 KiB units.
    pub g: bool,
}

impl Segment {
    /// The segment that an 8-byte descriptor describes, loaded with `selector`.
    const fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let base = (descriptor >> 16 & 0xFF_FFFF) | (descriptor >> 56 << 24);
        let raw_limit = (descriptor & 0xFFFF) as u32 | ((descriptor >> 48 & 0xF) as u32) << 16;
        let g = descriptor >> 55 & 1 == 1;
        Self {
            selector,
            base,
            limit: if g { raw_limit << 12 | 0xFFF } else { raw_limit },
            type_: (descriptor >> 40 & 0xF) as u8,
            s: descriptor >> 44 & 1 == 1,
            dpl: (descriptor >> 45 & 3) as u8,
            present: descriptor >> 47 & 1 == 1,
            avl: descriptor >> 52 & 1 == 1,
            l: descriptor >> 53 & 1 == 1,
            db: descriptor >> 54 & 1 == 1,
            g,
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Address of the first descriptor.
    pub base: u64,
    /// The table's length in bytes less one.
    pub limit: u16,
}

/// The general registers; those not named are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Flags: interrupts off, only the always-set bit 1.
    pub rflags: u64,
    /// PVH: address of `hvm_start_info`.
    pub rbx: u64,
    /// 64-bit boot protocol: address of the zero page.
    pub rsi: u64,
}

/// The control and segment registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemRegisters {
    /// Code segment.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS: all the same flat data segment.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register: not present.
    pub ldt: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table: empty.
    pub idt: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR3: address of the page tables, 0 without paging.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// A model-specific register to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// The value to write.
    pub value: u64,
}

/// MSRs that firmware would have set, to be written on **every** CPU, not on the boot CPU alone.
///
/// The memory type is write-back where no variable range says otherwise (IA32_MTRR_DEF_TYPE: enabled,
/// type 6), or Linux takes all of memory for uncached; fast string operations are on
/// (IA32_MISC_ENABLE bit 0), or Linux's copies fall back to slower ones.
pub const FIRMWARE_MSRS: [Msr; 2] =
    [Msr { index: 0x2FF, value: 0x806 }, Msr { index: 0x1A0, value: 0x1 }];

/// Where the boot CPU starts; the others wait for their start-up interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Where a CPU starts after a reset: in the firmware, 16 bytes below 4 GiB.
    ResetVector,
    /// In a kernel.
    Kernel(Box<EntryPoint>),
}

/// All that starting a kernel takes once memory is filled: the caller only copies it into the boot CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// By which rules the kernel is entered.
    pub protocol: Protocol,
    /// The boot CPU's general registers.
    pub registers: Registers,
    /// The boot CPU's control and segment registers.
    pub system: SystemRegisters,
    /// Where the kernel was loaded, with the work space it claims.
    pub kernel: AddressRange,
    /// Where the initrd was put.
    pub initrd: Option<AddressRange>,
    /// Where the ACPI root pointer (RSDP) is.
    pub rsdp: u64,
}

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
const CODE_32: u64 = 0x00CF_9B00_0000_FFFF;
const DATA: u64 = 0x00CF_9300_0000_FFFF;
/// A busy 32-bit (in long mode: 64-bit) task state segment at 0 with the least limit, 0x67.
const TASK: u64 = 0x0000_8B00_0000_0067;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;

const PAGE_SIZE: usize = 0x1000;
const PRESENT_WRITABLE: u64 = 0x3;
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_SIZE: u64 = 2 << 20;
const PAGE_DIRECTORIES: u64 = 4;

/// Writes the GDT (and for 64-bit entry the page tables) and says what the registers must hold.
pub(crate) fn prepare<M: GuestMemoryBackend>(
    memory: &M,
    protocol: Protocol,
    entry: u64,
) -> Result<(Registers, SystemRegisters), BootError> {
    let code = match protocol {
        Protocol::Pvh => CODE_32,
        Protocol::Linux64 => CODE_64,
    };
    let gdt = gdt(code);
    write(memory, "the descriptor table", layout::GDT, gdt.as_flattened())?;
    let mut registers = Registers {
        rip: entry,
        rflags: RFLAGS_FIXED,
        rsp: layout::STACK_TOP,
        ..Default::default()
    };
    let mut system = SystemRegisters {
        cs: Segment::from_descriptor(CODE_SELECTOR, code),
        data: Segment::from_descriptor(DATA_SELECTOR, DATA),
        tr: Segment::from_descriptor(TASK_SELECTOR, TASK),
        ldt: Segment::default(),
        gdt: DescriptorTable { base: layout::GDT, limit: gdt.as_flattened().len() as u16 - 1 },
        idt: DescriptorTable::default(),
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
    };
    match protocol {
        Protocol::Pvh => registers.rbx = layout::PVH_START_INFO,
        Protocol::Linux64 => {
            registers.rsi = layout::ZERO_PAGE;
            write(memory, "the page tables", layout::PAGE_TABLES, &page_tables())?;
            system.cr0 |= CR0_PG;
            system.cr3 = layout::PAGE_TABLES;
            system.cr4 = CR4_PAE;
            system.efer = EFER_LME | EFER_LMA;
        }
    }
    Ok((registers, system))
}

/// The descriptors: two empty ones, code at 0x10 and data at 0x18 as the boot protocol wants them, a
/// task state segment (two slots in long mode).
fn gdt(code: u64) -> [[u8; 8]; 6] {
    [0, 0, code, DATA, TASK, 0].map(u64::to_le_bytes)
}

/// Page tables that map the first 4 GiB to themselves in 2 MiB pages.
fn page_tables() -> Vec<u8> {
    let table = |index: u64| layout::PAGE_TABLES + index * PAGE_SIZE as u64;
    let mut bytes = Vec::with_capacity(layout::PAGE_TABLE_PAGES as usize * PAGE_SIZE);
    let mut page = |entries: &mut dyn Iterator<Item = u64>| {
        let end = bytes.len() + PAGE_SIZE;
        bytes.extend(entries.flat_map(u64::to_le_bytes));
        bytes.resize(end, 0);
    };
    page(&mut std::iter::once(table(1) | PRESENT_WRITABLE));
    page(&mut (0..PAGE_DIRECTORIES).map(|d| table(2 + d) | PRESENT_WRITABLE));
    for directory in 0..PAGE_DIRECTORIES {
        page(
            &mut (0..512)
                .map(|i| ((directory * 512 + i) * LARGE_PAGE_SIZE) | PRESENT_WRITABLE | LARGE_PAGE),
        );
    }
    bytes
}

/// Writes one boot structure.
pub(crate) fn write<M: GuestMemoryBackend>(
    memory: &M,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|source| BootError::Write {
        what,
        address,
        source,
    })
}

#[cfg(test)]
mod tests;
