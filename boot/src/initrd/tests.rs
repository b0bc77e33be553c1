use proptest::prelude::*;

use super::*;

const KERNEL_END: u64 = 0x200_0000;

fn bounds(low_ram_end: u64, kernel_limit: Option<u64>) -> Bounds {
    Bounds { kernel_end: KERNEL_END, low_ram_end, kernel_limit }
}

#[test]
fn it_goes_to_the_end_of_low_memory_or_to_the_kernels_limit() {
    let at = |bounds: Bounds, size| bounds.place(size).map(|r| r.start);
    assert_eq!(at(bounds(0x400_0000, None), 0x1000), Some(0x3FF_F000));
    assert_eq!(at(bounds(0x400_0000, None), 0x1001), Some(0x3FF_E000));
    assert_eq!(at(bounds(0xB000_0000, Some(0x8000_0000)), 0x1000), Some(0x7FFF_F000));
    assert_eq!(at(bounds(0x400_0000, Some(0x8000_0000)), 0x1000), Some(0x3FF_F000));
}

#[test]
fn it_may_touch_the_kernel_but_not_overlap_it() {
    let bounds = bounds(0x400_0000, None);
    assert_eq!(bounds.place(0x200_0000).map(|r| r.start), Some(KERNEL_END));
    assert_eq!(bounds.place(0x200_0001), None);
    assert_eq!(bounds.place(u64::MAX), None);
}

proptest! {
    #[test]
    fn a_place_is_aligned_within_bounds_and_the_highest(
        kernel_end in 0u64..0x1_0000_0000,
        low_ram_end in 0u64..0x1_0000_0000,
        kernel_limit in proptest::option::of(0u64..=0x1_0000_0000),
        size in 1u64..0x1_0000_0000,
    ) {
        let bounds = Bounds { kernel_end, low_ram_end, kernel_limit };
        let ceiling = low_ram_end.min(kernel_limit.unwrap_or(u64::MAX));
        match bounds.place(size) {
            Some(range) => {
                prop_assert_eq!(range.len(), size);
                prop_assert_eq!(range.start % PAGE_SIZE, 0);
                prop_assert!(range.start >= kernel_end && range.end <= ceiling);
                prop_assert!(range.end + PAGE_SIZE > ceiling);
            }
            None => prop_assert!(kernel_end.next_multiple_of(PAGE_SIZE) + size > ceiling),
        }
    }
}
