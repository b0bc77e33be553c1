//! Guest memory: address space that the host fills with pages as the guest touches it.
//!
//! UNSAFETY: the one place that maps guest memory.

use std::{io, ptr};

use spindle_boot::MemoryMap;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::BuildError;

/// A huge page. KVM maps one at once only where guest and host address are alike modulo its size,
/// and a boot that faults in 4 KiB pages leaves the guest some thirty thousand times more.
const HUGE_PAGE: usize = 2 << 20;
const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// The memory of a guest of `size` bytes, as `map` lays it out.
///
/// It stays mapped until the process ends, because devices, rings and KVM all point into it: a
/// machine lives as long as its process.
///
/// # Errors
/// When the host has no room for it.
pub(super) fn guest_memory(size: u64, map: &MemoryMap) -> Result<GuestMemoryMmap, BuildError> {
    let failed = |reason: String| BuildError::Memory { size, reason };
    let regions = map.ram_regions().into_iter().map(|(start, len)| {
        let host = reserve(start, len).map_err(|e| failed(e.to_string()))?;
        // SAFETY: `reserve` has mapped `len` bytes there, which nobody unmaps.
        let region = unsafe { MmapRegion::build_raw(host, len, PROTECTION, FLAGS) }
            .map_err(|e| failed(e.to_string()))?;
        GuestRegionMmap::new(region, start)
            .ok_or_else(|| failed("its addresses overflow".to_owned()))
    });
    GuestMemoryMmap::from_regions(regions.collect::<Result<_, _>>()?)
        .map_err(|e| failed(e.to_string()))
}

/// Maps `len` bytes at a host address that is like `start` modulo a huge page.
fn reserve(start: GuestAddress, len: usize) -> io::Result<*mut u8> {
    let room = len.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping wherever the kernel has room.
    let all = unsafe { libc::mmap(ptr::null_mut(), room, PROTECTION, FLAGS, -1, 0) };
    if all == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let wanted = start.0 as usize % HUGE_PAGE;
    let before = (wanted + HUGE_PAGE - all.addr() % HUGE_PAGE) % HUGE_PAGE;
    let host = all.wrapping_byte_add(before);
    let trim = |from: *mut libc::c_void, len: usize| {
        if len > 0 {
            // SAFETY: a part of the mapping just made, outside what is handed out. What cannot be
            // unmapped stays reserved address space.
            unsafe { libc::munmap(from, len) };
        }
    };
    trim(all, before);
    trim(host.wrapping_byte_add(len), HUGE_PAGE - before);
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
        // Advice only: a host without huge pages does without.
        // SAFETY: the mapping that is handed out.
        unsafe { libc::madvise(host, len, advice) };
    }
    Ok(host.cast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Address, Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn guest_and_host_address_agree_within_a_huge_page_and_all_of_it_is_there() {
        for size in [64 << 20, 513 << 20, 5 << 30] {
            let map = MemoryMap::new(size, 46).expect("a map");
            let memory = guest_memory(size, &map).expect("address space");
            let mut total = 0;
            for region in memory.iter() {
                let (start, host) = (region.start_addr(), region.as_ptr().addr());
                assert_eq!(host % HUGE_PAGE, start.0 as usize % HUGE_PAGE);
                memory.write_obj(1_u8, start).expect("the first byte");
                memory.write_obj(2_u8, region.last_addr()).expect("the last byte");
                let middle = start.unchecked_add(region.len() / 2);
                assert_eq!(memory.read_obj::<u64>(middle).expect("the middle"), 0);
                total += region.len();
            }
            assert!(total >= size - (1 << 20) && total <= size, "{total} of {size}");
        }
    }
}
