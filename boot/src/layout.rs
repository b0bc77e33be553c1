//! Where the boot structures of a directly booted machine lie, all below the EBDA.
//!
//! A kernel reads them once and then takes the memory as ordinary RAM.

/// The global descriptor table ([`crate::cpu_state`]).
pub const GDT: u64 = 0x1000;
/// PVH: `hvm_start_info`, 56 bytes.
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH: the module list, one entry of 32 bytes.
pub const PVH_MODULES: u64 = 0x6040;
/// PVH: the memory map, 24 bytes an entry.
pub const PVH_MEMORY_MAP: u64 = 0x6080;
/// Linux boot protocol: the zero page (`boot_params`), 4 KiB.
pub const ZERO_PAGE: u64 = 0x7000;
/// The top of a small stack, for a kernel that wants one before it has its own.
pub const STACK_TOP: u64 = 0x9000;
/// The page tables for 64-bit entry: PML4, page directory pointers and four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// Number of 4 KiB pages at [`PAGE_TABLES`].
pub const PAGE_TABLE_PAGES: u64 = 6;
/// The kernel command line with its final NUL.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Room at [`COMMAND_LINE`], in bytes with the final NUL.
pub const COMMAND_LINE_ROOM: u64 = 0x1_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{AddressRange, EBDA_START};

    #[test]
    fn boot_structures_do_not_overlap_and_lie_in_conventional_memory() {
        let ranges = [
            AddressRange::new(GDT, GDT + 0x1000),
            AddressRange::new(PVH_START_INFO, PVH_START_INFO + 56),
            AddressRange::new(PVH_MODULES, PVH_MODULES + 32),
            AddressRange::new(PVH_MEMORY_MAP, ZERO_PAGE),
            AddressRange::new(ZERO_PAGE, ZERO_PAGE + 0x1000),
            AddressRange::new(STACK_TOP - 0x1000, STACK_TOP),
            AddressRange::new(PAGE_TABLES, PAGE_TABLES + PAGE_TABLE_PAGES * 0x1000),
            AddressRange::new(COMMAND_LINE, COMMAND_LINE + COMMAND_LINE_ROOM),
        ];
        for (i, a) in ranges.iter().enumerate() {
            assert!(a.end <= EBDA_START, "{a:x?}");
            assert!(ranges.iter().skip(i + 1).all(|b| !a.overlaps(b)), "{a:x?}");
        }
    }
}
