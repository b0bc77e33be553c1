use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

/// Walks the page tables as the CPU does (Intel SDM vol. 3, 4.5).
fn translate(memory: &GuestMemoryMmap<()>, cr3: u64, linear: u64) -> Option<u64> {
    let mut table = cr3;
    for shift in [39, 30, 21, 12] {
        let index = linear >> shift & 0x1FF;
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
        if entry & 1 == 0 {
            return None;
        }
        assert_eq!(entry & 2, 2, "not writable: {linear:#x}");
        let address = entry & 0x000F_FFFF_FFFF_F000;
        if shift == 12 || entry & 0x80 != 0 {
            let offset_mask = (1u64 << shift) - 1;
            assert_eq!(address & offset_mask, 0);
            return Some(address | linear & offset_mask);
        }
        table = address;
    }
    None
}

#[test]
fn the_first_four_gib_are_mapped_to_themselves_and_nothing_else_is() {
    let memory = memory();
    let (_, system) = prepare(&memory, Protocol::Linux64, 0x100_0200).unwrap();
    for address in (0..4u64 << 30).step_by((1 << 21) - 4096 + 8) {
        assert_eq!(translate(&memory, system.cr3, address), Some(address));
    }
    assert_eq!(translate(&memory, system.cr3, (4 << 30) - 1), Some((4 << 30) - 1));
    assert_eq!(translate(&memory, system.cr3, 4 << 30), None);
    assert_eq!(translate(&memory, system.cr3, 1 << 39), None);
}

#[test]
fn the_boot_protocol_gets_long_mode_with_its_selectors() {
    let memory = memory();
    let (registers, system) = prepare(&memory, Protocol::Linux64, 0x100_0200).unwrap();
    assert_eq!((registers.rip, registers.rsi, registers.rbx), (0x100_0200, 0x7000, 0));
    assert_eq!(registers.rflags, 2);
    assert_eq!((system.cr0, system.cr4, system.efer), (0x8000_0011, 0x20, 0x500));
    assert_eq!((system.cs.selector, system.data.selector), (0x10, 0x18));
    assert!(system.cs.l && !system.cs.db && system.cs.s && system.cs.present);
    assert_eq!((system.cs.type_, system.data.type_, system.tr.type_), (0xB, 0x3, 0xB));
    assert!(!system.tr.s && system.tr.limit == 0x67);
}

#[test]
fn pvh_gets_flat_protected_mode_without_paging() {
    let memory = memory();
    let (registers, system) = prepare(&memory, Protocol::Pvh, 0x100_0850).unwrap();
    assert_eq!((registers.rip, registers.rbx, registers.rsi), (0x100_0850, 0x6000, 0));
    assert_eq!((system.cr0, system.cr3, system.cr4, system.efer), (0x11, 0, 0, 0));
    for segment in [system.cs, system.data] {
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
        assert!(segment.db && !segment.l && segment.g && segment.dpl == 0);
    }
}

#[test]
fn loaded_segments_agree_with_the_descriptors_in_memory() {
    for protocol in [Protocol::Pvh, Protocol::Linux64] {
        let memory = memory();
        let (_, system) = prepare(&memory, protocol, 0).unwrap();
        assert_eq!(system.gdt, DescriptorTable { base: 0x1000, limit: 47 });
        for segment in [system.cs, system.data, system.tr] {
            let address = system.gdt.base + u64::from(segment.selector);
            let descriptor: u64 = memory.read_obj(GuestAddress(address)).unwrap();
            assert_eq!(Segment::from_descriptor(segment.selector, descriptor), segment);
        }
    }
}

#[test]
fn a_descriptor_is_taken_apart_field_by_field() {
    // Base 0x12345678, limit 0xABCDE bytes, 16-bit data, DPL 3, available.
    let segment = Segment::from_descriptor(0x2B, 0x121A_F234_5678_BCDE);
    assert_eq!(segment.base, 0x1234_5678);
    assert_eq!(segment.limit, 0xA_BCDE);
    assert_eq!((segment.type_, segment.dpl), (2, 3));
    assert!(segment.s && segment.present && segment.avl);
    assert!(!segment.g && !segment.db && !segment.l);
}
