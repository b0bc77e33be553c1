//! Checks against the offsets in the kernel's and Xen's documents, not against the structs in use.

use vm_memory::{Bytes, GuestMemoryMmap};

use super::*;
use crate::memory_map::MemoryMap;

const MEMORY: u64 = 6 << 30;
const INITRD: AddressRange = AddressRange::new(0x0FF0_0000, 0x0FF0_1234);
const RSDP: u64 = 0xE_1000;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn get<T: vm_memory::ByteValued>(memory: &GuestMemoryMmap<()>, address: u64) -> T {
    memory.read_obj(GuestAddress(address)).unwrap()
}

#[test]
fn zero_page_fields_are_at_their_documented_offsets() {
    let memory = memory();
    let map = MemoryMap::new(MEMORY, 40).unwrap().entries();
    let header = setup_header { kernel_alignment: 0x20_0000, ..default_header() };
    let told = Parameters { initrd: Some(INITRD), rsdp: RSDP, memory_map: &map };
    write_linux(&memory, header, &told).unwrap();

    let page = layout::ZERO_PAGE;
    assert_eq!(get::<u64>(&memory, page + 0x070), RSDP);
    assert_eq!(get::<u8>(&memory, page + 0x1E8), map.len() as u8);
    assert_eq!(get::<u8>(&memory, page + 0x1EF), 0, "sentinel");
    assert_eq!(get::<u16>(&memory, page + 0x1FA), 0xFFFF, "vid_mode");
    assert_eq!(get::<u16>(&memory, page + 0x1FE), 0xAA55);
    assert_eq!(get::<[u8; 4]>(&memory, page + 0x202), *b"HdrS");
    assert_eq!(get::<u16>(&memory, page + 0x206), 0x020F);
    assert_eq!(get::<u8>(&memory, page + 0x210), 0xFF, "type_of_loader");
    assert_eq!(get::<u8>(&memory, page + 0x211), 1, "loadflags");
    assert_eq!(get::<u32>(&memory, page + 0x218), INITRD.start as u32);
    assert_eq!(get::<u32>(&memory, page + 0x21C), 0x1234);
    assert_eq!(get::<u32>(&memory, page + 0x228), 0x2_0000, "cmd_line_ptr");
    assert_eq!(get::<u32>(&memory, page + 0x230), 0x20_0000);
    for (i, entry) in (0..).zip(&map) {
        let at = page + 0x2D0 + i * 20;
        assert_eq!(get::<u64>(&memory, at), entry.range.start);
        assert_eq!(get::<u64>(&memory, at + 8), entry.range.len());
        assert_eq!(get::<u32>(&memory, at + 16), entry.kind as u32);
    }
    let last = page + 0x2D0 + (map.len() as u64 - 1) * 20;
    assert_eq!(get::<u64>(&memory, last), 4 << 30, "the RAM above 4 GiB");
}

#[test]
fn a_zero_page_without_initrd_has_none() {
    let memory = memory();
    let told = Parameters { initrd: None, rsdp: RSDP, memory_map: &[] };
    write_linux(&memory, default_header(), &told).unwrap();
    assert_eq!(get::<u64>(&memory, layout::ZERO_PAGE + 0x218), 0);
    assert_eq!(get::<u8>(&memory, layout::ZERO_PAGE + 0x1E8), 0);
}

#[test]
fn pvh_start_info_is_as_xen_documents_it() {
    let memory = memory();
    let map = MemoryMap::new(MEMORY, 40).unwrap().entries();
    let told = Parameters { initrd: Some(INITRD), rsdp: RSDP, memory_map: &map };
    write_pvh(&memory, &told).unwrap();

    let info = layout::PVH_START_INFO;
    assert_eq!(get::<u32>(&memory, info), 0x336E_C578);
    assert_eq!(get::<u32>(&memory, info + 4), 1, "version");
    assert_eq!(get::<u32>(&memory, info + 8), 0, "flags");
    assert_eq!(get::<u32>(&memory, info + 12), 1, "modules");
    let modules = get::<u64>(&memory, info + 16);
    assert_eq!(get::<u64>(&memory, info + 24), 0x2_0000, "command line");
    assert_eq!(get::<u64>(&memory, info + 32), RSDP);
    let entries = get::<u64>(&memory, info + 40);
    assert_eq!(get::<u32>(&memory, info + 48), map.len() as u32);

    assert_eq!(get::<[u64; 4]>(&memory, modules), [INITRD.start, INITRD.len(), 0, 0]);
    for (i, entry) in (0..).zip(&map) {
        assert_eq!(get::<u64>(&memory, entries + i * 24), entry.range.start);
        assert_eq!(get::<u64>(&memory, entries + i * 24 + 8), entry.range.len());
        assert_eq!(get::<u64>(&memory, entries + i * 24 + 16), entry.kind as u64);
    }
    assert!(entries + map.len() as u64 * 24 <= layout::ZERO_PAGE);
}

#[test]
fn pvh_without_initrd_has_no_modules() {
    let memory = memory();
    let told = Parameters { initrd: None, rsdp: RSDP, memory_map: &[] };
    write_pvh(&memory, &told).unwrap();
    assert_eq!(get::<u32>(&memory, layout::PVH_START_INFO + 12), 0);
    assert_eq!(get::<u64>(&memory, layout::PVH_START_INFO + 16), 0);
}
