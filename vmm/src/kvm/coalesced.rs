//! The ring in which KVM collects writes that have no effect of their own. There is one per machine;
//! whoever takes an exit, pauses or resets empties it first.

use std::{
    io,
    os::fd::AsRawFd,
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use spindle_devices::Space;

const PAGE: usize = 4096;
const SLOTS: u32 =
    ((PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// A write taken from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectedWrite {
    /// Address space.
    pub space: Space,
    /// Address.
    pub address: u64,
    /// Width in bytes, at most 8.
    pub width: u8,
    /// The bytes, little-endian.
    pub data: [u8; 8],
}

/// The mapped ring.
#[derive(Debug)]
pub struct CoalescedRing {
    ring: NonNull<kvm_coalesced_mmio_ring>,
    /// Held by whoever empties the ring, so that writes are delivered in order.
    draining: Mutex<()>,
}

// SAFETY: the page is shared memory; the producer is the kernel, the one consumer is whoever holds
// `draining`, and the two indices are only touched as atomics.
unsafe impl Send for CoalescedRing {}
// SAFETY: as above.
unsafe impl Sync for CoalescedRing {}

impl CoalescedRing {
    /// Maps the ring through any vCPU's file descriptor.
    ///
    /// # Errors
    /// When the host's KVM has none.
    pub fn map(vcpu: &impl AsRawFd) -> io::Result<Self> {
        // SAFETY: a new mapping of a page that KVM keeps at this offset; the result is checked.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                i64::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE as i64,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { ring, draining: Mutex::new(()) })
    }

    fn first(&self) -> &AtomicU32 {
        // SAFETY: inside the mapped page, aligned, and only ever used as an atomic.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.ring.as_ptr()).first) }
    }

    fn last(&self) -> &AtomicU32 {
        // SAFETY: as in `first`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.ring.as_ptr()).last) }
    }

    /// Delivers all collected writes, in order; returns how many. When it returns, every write
    /// collected before the call has been delivered, by this call or by another thread's.
    pub fn drain(&self, mut deliver: impl FnMut(CollectedWrite)) -> u32 {
        if self.first().load(Ordering::Acquire) == self.last().load(Ordering::Acquire) {
            return 0;
        }
        let _draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        let mut first = self.first().load(Ordering::Acquire);
        // The kernel writes while this runs: one round of the ring is enough, later writes belong to
        // a later exit.
        while count < SLOTS && first != self.last().load(Ordering::Acquire) {
            let Some(write) = self.entry(first) else { break };
            deliver(write);
            first = (first + 1) % SLOTS;
            self.first().store(first, Ordering::Release);
            count += 1;
        }
        count
    }

    fn entry(&self, index: u32) -> Option<CollectedWrite> {
        if index >= SLOTS {
            return None;
        }
        // SAFETY: the index is below the number of entries that follow the header in the page; the
        // kernel does not touch an entry between `last` passing it and `first` passing it.
        let entry = unsafe {
            let entries: *const kvm_coalesced_mmio = self.ring.as_ptr().add(1).cast();
            entries.add(index as usize).read()
        };
        // SAFETY: both arms of the union are a plain number.
        let pio = unsafe { entry.__bindgen_anon_1.pio } != 0;
        Some(CollectedWrite {
            space: if pio { Space::Port } else { Space::Memory },
            address: entry.phys_addr,
            width: entry.len.min(8) as u8,
            data: entry.data,
        })
    }
}

impl Drop for CoalescedRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody else holds it.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), PAGE) };
    }
}
