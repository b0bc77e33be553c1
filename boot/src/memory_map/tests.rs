use proptest::prelude::*;

use super::*;

fn map(mib: u64) -> MemoryMap {
    MemoryMap::new(mib * MIB, 46).unwrap()
}

#[test]
fn ram_is_split_at_2816_mib_and_goes_on_at_4_gib() {
    assert_eq!(map(64).ram_regions(), [(GuestAddress(0), 64 << 20)]);
    assert_eq!(map(2816).ram_regions(), [(GuestAddress(0), 0xB000_0000)]);
    assert_eq!(
        map(2817).ram_regions(),
        [(GuestAddress(0), 0xB000_0000), (GuestAddress(0x1_0000_0000), 1 << 20)]
    );
    assert_eq!(
        map(1 << 20).ram_regions(),
        [(GuestAddress(0), 0xB000_0000), (GuestAddress(0x1_0000_0000), (1 << 40) - 0xB000_0000)]
    );
}

#[test]
fn sizes_out_of_bounds_are_refused_in_words() {
    let message = |memory| MemoryMap::new(memory, 46).unwrap_err().to_string();
    assert_eq!(message(63 * MIB), "a machine has 64 MiB to 1024 GiB of memory, not 63 MiB");
    assert_eq!(message(1025 * GIB), "a machine has 64 MiB to 1024 GiB of memory, not 1025 GiB");
    assert_eq!(
        message(64 * MIB + 512),
        "the memory size must be a whole number of MiB, and 67109376 bytes is not"
    );
    assert_eq!(
        MemoryMap::new(64 * GIB, 36).unwrap_err().to_string(),
        "64 GiB of memory end at address 0x1050000000, beyond the 36 bits of physical address \
         that this CPU has: give the machine less memory"
    );
}

#[test]
fn the_64_bit_window_starts_above_ram_and_stays_within_the_cpu() {
    let window = |mib, bits| MemoryMap::new(mib * MIB, bits).unwrap().pci_window_64();
    assert_eq!(window(512, 40), Some(AddressRange::new(4 * GIB, 516 * GIB)));
    assert_eq!(window(512, 36), Some(AddressRange::new(4 * GIB, 64 * GIB)));
    // 4096 MiB end at 5.25 GiB.
    assert_eq!(window(4096, 39), Some(AddressRange::new(6 * GIB, 512 * GIB)));
    assert_eq!(window(60 * 1024 + 2816, 36), None);
}

#[test]
fn the_map_of_one_gib_is_this() {
    use MemoryKind::{Acpi, AcpiNvs, Ram, Reserved};
    let told: Vec<_> =
        map(1024).entries().iter().map(|e| (e.range.start, e.range.end, e.kind)).collect();
    assert_eq!(
        told,
        [
            (0, 0x9_FC00, Ram),
            (0x9_FC00, 0xA_0000, Reserved),
            (0xE_0000, 0xE_1000, AcpiNvs),
            (0xE_1000, 0x10_0000, Acpi),
            (0x10_0000, 0x4000_0000, Ram),
            (0xB000_0000, 0xC000_0000, Reserved),
            (0xFEFF_C000, 0xFF00_0000, Reserved),
        ]
    );
}

#[test]
fn fixed_ranges_do_not_overlap() {
    let fixed = [
        AddressRange::new(0, LOW_RAM_MAX),
        ECAM,
        PCI_WINDOW_32,
        IOAPIC,
        LAPIC,
        HYPERVISOR_PAGES,
        AddressRange::new(HIGH_RAM_START, u64::MAX),
    ];
    for (i, a) in fixed.iter().enumerate() {
        assert!(fixed.iter().skip(i + 1).all(|b| !a.overlaps(b)), "{a:x?}");
    }
    assert!(ECAM.len() >= u64::from(PCI_BUSES) << 20);
}

proptest! {
    #[test]
    fn what_the_guest_is_told_is_what_there_is(mib in 64u64..=(1 << 20), bits in 30u8..=60) {
        let Ok(map) = MemoryMap::new(mib * MIB, bits) else {
            prop_assert!(mib * MIB + HIGH_RAM_START - LOW_RAM_MAX > 1 << bits.clamp(36, 52));
            return Ok(());
        };
        prop_assert_eq!(map.memory(), mib * MIB);
        let regions: Vec<AddressRange> = map
            .ram_regions()
            .iter()
            .map(|(start, len)| AddressRange::new(start.0, start.0 + *len as u64))
            .collect();
        prop_assert_eq!(regions.iter().map(AddressRange::len).sum::<u64>(), mib * MIB);

        let entries = map.entries();
        for pair in entries.windows(2) {
            prop_assert!(pair[0].range.end <= pair[1].range.start, "{:x?}", pair);
        }
        prop_assert!(entries.iter().all(|e| !e.range.is_empty()));
        let usable: u64 = entries
            .iter()
            .filter(|e| e.kind == MemoryKind::Ram)
            .map(|e| {
                assert!(regions.iter().any(|r| r.covers(&e.range)), "{e:x?} is not RAM");
                e.range.len()
            })
            .sum();
        // All of it but the kilobyte of the EBDA and the hole up to 1 MiB.
        prop_assert_eq!(usable, mib * MIB - (HIGH_MEMORY_START - EBDA_START));

        if let Some(window) = map.pci_window_64() {
            prop_assert!(regions.iter().all(|r| !r.overlaps(&window)));
            prop_assert_eq!(window.start % GIB, 0);
            prop_assert!(window.end <= 1 << bits.clamp(36, 52));
        }
    }
}
