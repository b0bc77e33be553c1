//! What the kernel is told at its entry: the zero page or PVH's start-of-day structure.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::error::BootError;
use crate::layout;
use crate::memory_map::{AddressRange, MemoryMapEntry};

/// "A boot loader without a number of its own".
const LOADER_UNDEFINED: u8 = 0xFF;
const BOOT_FLAG: u16 = 0xAA55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Boot protocol 2.15, for a kernel that has no header of its own.
const VERSION: u16 = 0x020F;
const LOADED_HIGH: u8 = 1 << 0;
/// The screen is as the (absent) firmware left it.
const VIDEO_NORMAL: u16 = 0xFFFF;
const START_INFO_VERSION: u32 = 1;

/// What both forms are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters<'a> {
    pub(crate) initrd: Option<AddressRange>,
    pub(crate) rsdp: u64,
    pub(crate) memory_map: &'a [MemoryMapEntry],
}

/// A setup header for a kernel that comes without one (ELF by the 64-bit boot protocol).
pub(crate) fn default_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: VERSION,
        loadflags: LOADED_HIGH,
        ..setup_header::default()
    }
}

/// The zero page (Documentation/arch/x86/zero-page.rst).
fn zero_page(header: setup_header, parameters: &Parameters<'_>) -> boot_params {
    let mut page = boot_params { hdr: header, ..boot_params::default() };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.vid_mode = VIDEO_NORMAL;
    page.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    if let Some(initrd) = parameters.initrd {
        // Both below 4 GiB: the initrd lies in low memory.
        page.hdr.ramdisk_image = initrd.start as u32;
        page.hdr.ramdisk_size = initrd.len() as u32;
    }
    page.acpi_rsdp_addr = parameters.rsdp;
    for (slot, entry) in page.e820_table.iter_mut().zip(parameters.memory_map) {
        *slot = boot_e820_entry {
            addr: entry.range.start,
            size: entry.range.len(),
            r#type: entry.kind as u32,
        };
        page.e820_entries += 1;
    }
    page
}

/// Writes the zero page.
pub(crate) fn write_linux<M: GuestMemoryBackend>(
    memory: &M,
    header: setup_header,
    parameters: &Parameters<'_>,
) -> Result<(), BootError> {
    let page = BootParams::new(&zero_page(header, parameters), GuestAddress(layout::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&page, memory).map_err(BootError::Parameters)
}

/// Writes PVH's start-of-day structure, module list and memory map (Xen's `start_info.h`).
pub(crate) fn write_pvh<M: GuestMemoryBackend>(
    memory: &M,
    parameters: &Parameters<'_>,
) -> Result<(), BootError> {
    let modules: Vec<hvm_modlist_entry> = parameters
        .initrd
        .iter()
        .map(|r| hvm_modlist_entry { paddr: r.start, size: r.len(), ..Default::default() })
        .collect();
    let memory_map: Vec<hvm_memmap_table_entry> = parameters
        .memory_map
        .iter()
        .map(|e| hvm_memmap_table_entry {
            addr: e.range.start,
            size: e.range.len(),
            type_: e.kind as u32,
            reserved: 0,
        })
        .collect();
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { layout::PVH_MODULES },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: parameters.rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: memory_map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(layout::PVH_START_INFO));
    params.set_sections(&memory_map, GuestAddress(layout::PVH_MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(layout::PVH_MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(BootError::Parameters)
}

#[cfg(test)]
mod tests;
