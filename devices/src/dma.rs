//! The only way to guest memory.
//!
//! UNSAFETY: this is the one module of the crate that touches memory by address. A [`Dma`] holds the
//! guest's memory mapped for as long as it lives; the memory may change at any time (the guest runs),
//! so it is copied, by value and once, and never borrowed. Device registers are not in it: a guest
//! address that is not RAM is an error here, so no device can be made to write to a device.

use std::{
    array, fmt,
    marker::PhantomData,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, Ordering::SeqCst},
    },
};

use spindle_block::{IoBuf, iobuf::Keep};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The guest's RAM as the machine maps it.
pub type GuestRam = GuestMemoryMmap<()>;

/// Who hears of what devices, and the kernel on their behalf, write to guest memory.
pub trait DirtySink: Send + Sync {
    /// `len` bytes at `address` have changed.
    fn wrote(&self, address: u64, len: u64);
}

/// A guest address, or some of the bytes that follow it, is not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at guest address {address:#x} are not all RAM")]
pub struct NotRam {
    /// The address.
    pub address: u64,
    /// How many bytes were asked for.
    pub len: u64,
}

#[derive(Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
}

/// Stretches of RAM that devices cannot reach at the moment, for tests: an access that touches one
/// finds no RAM there. They come and go while devices run; a ring that a device has looked up stays
/// reachable until it looks it up again.
#[derive(Debug, Default)]
pub struct FailedRam {
    stretches: Mutex<Vec<(u64, u64)>>,
    /// There are some: looked at first, since every access of every thread asks.
    any: AtomicBool,
}

impl FailedRam {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails `len` bytes at `address`.
    pub fn fail(&self, address: u64, len: u64) {
        if len > 0 {
            let mut stretches = self.lock();
            stretches.push((address, address.saturating_add(len)));
            self.any.store(true, SeqCst);
        }
    }

    /// All of it can be reached again.
    pub fn heal(&self) {
        let mut stretches = self.lock();
        stretches.clear();
        self.any.store(false, SeqCst);
    }

    /// How many of `room` bytes at `address` can be reached; `None`: not even the first.
    #[inline]
    fn reachable(&self, address: u64, room: u64) -> Option<u64> {
        if self.any.load(SeqCst) { self.look_up(address, room) } else { Some(room) }
    }

    #[cold]
    fn look_up(&self, address: u64, room: u64) -> Option<u64> {
        let failed = self.lock();
        if failed.iter().any(|(start, end)| (*start..*end).contains(&address)) {
            return None;
        }
        let next = failed.iter().filter_map(|(start, _)| start.checked_sub(address)).min();
        Some(next.map_or(room, |next| next.min(room)))
    }
}

struct Inner {
    /// Sorted by address.
    regions: Box<[Region]>,
    dirty: Option<Arc<dyn DirtySink>>,
    failed: Option<Arc<FailedRam>>,
    /// Holds the mappings that `regions` points into.
    _ram: GuestRam,
}

// SAFETY: the pointers name memory that `_ram` (Send and Sync) keeps mapped; every access through
// them is a volatile or atomic copy, as for any memory that a guest shares.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// Guest memory as devices see it. Cheap to clone.
#[derive(Clone)]
pub struct Dma(Arc<Inner>);

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.regions.iter().map(|r| format!("{:#x}+{:#x}", r.start, r.len)))
            .finish()
    }
}

impl Dma {
    /// A view of all of `ram`. `dirty` is told of every change made through it, if given.
    #[must_use]
    pub fn new(ram: GuestRam, dirty: Option<Arc<dyn DirtySink>>) -> Self {
        Self::with(ram, dirty, None)
    }

    /// A view of `ram` without what is in `failed` at the time of each access.
    #[must_use]
    pub fn failing(
        ram: GuestRam,
        dirty: Option<Arc<dyn DirtySink>>,
        failed: Arc<FailedRam>,
    ) -> Self {
        Self::with(ram, dirty, Some(failed))
    }

    fn with(
        ram: GuestRam,
        dirty: Option<Arc<dyn DirtySink>>,
        failed: Option<Arc<FailedRam>>,
    ) -> Self {
        let regions = ram
            .iter()
            .filter_map(|region| {
                let host = ram.get_host_address(region.start_addr()).ok()?;
                let host = NonNull::new(host)?;
                Some(Region { start: region.start_addr().raw_value(), len: region.len(), host })
            })
            .collect();
        Self(Arc::new(Inner { regions, dirty, failed, _ram: ram }))
    }

    /// What keeps the memory mapped, for [`IoBuf::set_keep`]; clone it once a queue, not once a
    /// request.
    #[must_use]
    pub fn keep(&self) -> Keep {
        Arc::clone(&self.0) as Keep
    }

    /// The host address of `address`, and how many bytes follow it in the same region.
    #[inline]
    fn find(&self, address: u64) -> Option<(NonNull<u8>, u64)> {
        let (host, room) = self.find_region(address)?;
        match &self.0.failed {
            None => Some((host, room)),
            Some(failed) => Some((host, failed.reachable(address, room)?)),
        }
    }

    #[inline]
    fn find_region(&self, address: u64) -> Option<(NonNull<u8>, u64)> {
        self.0.regions.iter().find_map(|region| {
            let at = address.wrapping_sub(region.start);
            if at >= region.len {
                return None;
            }
            // SAFETY: `at` is inside the region's mapping, which `_ram` keeps.
            Some((unsafe { region.host.add(at as usize) }, region.len - at))
        })
    }

    /// Calls `f` with each piece of host memory, after all of it was found to be RAM.
    #[inline]
    fn each(
        &self,
        address: u64,
        len: u64,
        mut f: impl FnMut(NonNull<u8>, usize),
    ) -> Result<(), NotRam> {
        let not_ram = NotRam { address, len };
        let (host, room) = match self.find(address) {
            Some(found) => found,
            None if len == 0 => return Ok(()),
            None => return Err(not_ram),
        };
        if len <= room {
            f(host, len as usize);
            return Ok(());
        }
        self.check(address, len)?;
        let mut done = 0;
        while done < len {
            let (host, room) = self.find(address + done).ok_or(not_ram)?;
            let n = room.min(len - done);
            f(host, n as usize);
            done += n;
        }
        Ok(())
    }

    /// Whether all of `len` bytes at `address` are RAM.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self, address: u64, len: u64) -> Result<(), NotRam> {
        let not_ram = NotRam { address, len };
        let end = address.checked_add(len).ok_or(not_ram)?;
        let mut at = address;
        while at < end {
            let (_, room) = self.find(at).ok_or(not_ram)?;
            at = at.checked_add(room).ok_or(not_ram)?;
        }
        Ok(())
    }

    /// Copies guest memory out.
    ///
    /// # Errors
    /// When not all of it is RAM; `bytes` is unchanged then.
    #[inline]
    pub fn read_bytes(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        let mut done = 0;
        self.each(address, bytes.len() as u64, |host, n| {
            // SAFETY: `host` is valid for `n` bytes while `self` lives.
            let slice = unsafe { VolatileSlice::new(host.as_ptr(), n) };
            slice.copy_to(&mut bytes[done..done + n]);
            done += n;
        })
    }

    /// Copies `bytes` into guest memory.
    ///
    /// # Errors
    /// When not all of it is RAM; nothing is written then.
    #[inline]
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        let mut done = 0;
        self.each(address, bytes.len() as u64, |host, n| {
            // SAFETY: `host` is valid for `n` bytes while `self` lives.
            let slice = unsafe { VolatileSlice::new(host.as_ptr(), n) };
            slice.copy_from(&bytes[done..done + n]);
            done += n;
        })?;
        if let Some(dirty) = &self.0.dirty {
            dirty.wrote(address, bytes.len() as u64);
        }
        Ok(())
    }

    /// Reads a structure, by value. There is no way to look at guest memory twice through it.
    ///
    /// # Errors
    /// When not all of it is RAM.
    #[inline]
    pub fn read<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, NotRam> {
        let mut value = T::new_zeroed();
        self.read_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a structure.
    ///
    /// # Errors
    /// When not all of it is RAM; nothing is written then.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), NotRam> {
        self.write_bytes(address, value.as_bytes())
    }

    /// Adds `len` bytes at `address` to `buf`, whose `keep` was set from [`Dma::keep`] of this
    /// memory.
    ///
    /// # Errors
    /// When not all of it is RAM; `buf` is unchanged then.
    ///
    /// # Panics
    /// When `buf` keeps nothing mapped.
    #[inline]
    pub fn push(&self, buf: &mut IoBuf, address: u64, len: u64) -> Result<(), NotRam> {
        assert!(buf.has_keep(), "a buffer for guest memory without its keep");
        self.each(address, len, |host, n| {
            // SAFETY: the memory stays mapped while `buf`'s keep lives, and Rust never borrows it.
            unsafe { buf.push(host.as_ptr(), n) };
        })
    }

    /// The kernel has filled `buf`.
    #[inline]
    pub fn wrote(&self, buf: &IoBuf) {
        let Some(dirty) = &self.0.dirty else { return };
        for iov in buf.iovecs() {
            let (mut base, mut left) = (iov.iov_base.addr() as u64, iov.iov_len as u64);
            // Neighbours in the host's memory need not be neighbours in the guest's.
            while left > 0 {
                let offset = |region: &Region| base.wrapping_sub(region.host.addr().get() as u64);
                let found = self.0.regions.iter().find(|region| offset(region) < region.len);
                let Some(region) = found else { break };
                let n = left.min(region.len - offset(region));
                dirty.wrote(region.start + offset(region), n);
                base += n;
                left -= n;
            }
        }
    }

    /// A stretch of RAM that lies in one piece, found once and used often: a ring.
    ///
    /// # Errors
    /// When it is not RAM, or not in one region.
    pub fn span(&self, address: u64, len: u64) -> Result<Span, NotRam> {
        let not_ram = NotRam { address, len };
        let (host, room) = self.find(address).ok_or(not_ram)?;
        if len > room {
            return Err(not_ram);
        }
        Ok(Span { dma: self.clone(), address, host, len })
    }

    /// As [`Dma::span`], for a short time: it costs no count of who uses the memory.
    ///
    /// # Errors
    /// When it is not RAM, or not in one region.
    #[inline]
    pub fn view(&self, address: u64, len: u64) -> Result<View<'_>, NotRam> {
        match self.find(address) {
            Some((host, room)) if len <= room => Ok(View { host, len, _dma: PhantomData }),
            _ => Err(NotRam { address, len }),
        }
    }
}

/// A stretch of RAM that lies in one piece, while `Dma` is borrowed: a descriptor table.
#[derive(Clone, Copy)]
pub struct View<'a> {
    host: NonNull<u8>,
    len: u64,
    _dma: PhantomData<&'a Dma>,
}

impl View<'_> {
    /// Little-endian quadwords, each of them read once.
    ///
    /// # Panics
    /// When they are not inside the view: offsets are the device's own.
    #[inline]
    #[must_use]
    pub fn load_u64s<const N: usize>(&self, offset: u64) -> [u64; N] {
        assert!(offset.saturating_add(8 * N as u64) <= self.len, "table offset {offset}");
        // SAFETY: inside the view, which the borrow of `Dma` keeps mapped.
        let at = unsafe { self.host.as_ptr().add(offset as usize) };
        if at.addr().is_multiple_of(8) {
            let at = at.cast::<u64>();
            // SAFETY: inside the view, aligned; guest memory is only ever accessed atomically or
            // volatile.
            let load = |n| unsafe { AtomicU64::from_ptr(at.add(n)) }.load(Ordering::Relaxed);
            array::from_fn(|n| u64::from_le(load(n)))
        } else {
            let mut bytes = [[0; 8]; N];
            // SAFETY: inside the view.
            unsafe { VolatileSlice::new(at, 8 * N) }.copy_to(bytes.as_flattened_mut());
            bytes.map(u64::from_le_bytes)
        }
    }
}

/// See [`Dma::span`].
pub struct Span {
    dma: Dma,
    address: u64,
    host: NonNull<u8>,
    len: u64,
}

// SAFETY: as for `Inner`: plain memory kept mapped by `dma`, accessed atomically or by copy.
unsafe impl Send for Span {}

impl Span {
    /// All of it.
    #[inline]
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { host: self.host, len: self.len, _dma: PhantomData }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn u16_at(&self, offset: u64) -> &AtomicU16 {
        assert!(
            offset + 2 <= self.len && (self.address + offset).is_multiple_of(2),
            "ring offset {offset}"
        );
        // SAFETY: inside the span, which `dma` keeps mapped; aligned, as the guest address is and
        // regions start on pages; guest memory is only ever accessed atomically or volatile.
        unsafe { AtomicU16::from_ptr(self.host.as_ptr().add(offset as usize).cast()) }
    }

    /// Loads a little-endian word.
    ///
    /// # Panics
    /// When it is not aligned or not inside the span: offsets are the device's own.
    #[inline]
    #[must_use]
    pub fn load_u16(&self, offset: u64, order: Ordering) -> u16 {
        u16::from_le(self.u16_at(offset).load(order))
    }

    /// Stores a little-endian word.
    ///
    /// # Panics
    /// As [`Span::load_u16`].
    #[inline]
    pub fn store_u16(&self, offset: u64, value: u16, order: Ordering) {
        self.u16_at(offset).store(value.to_le(), order);
        if let Some(dirty) = &self.dma.0.dirty {
            dirty.wrote(self.address + offset, 2);
        }
    }

    #[inline]
    fn u32_at(&self, offset: u64) -> &AtomicU32 {
        assert!(
            offset + 4 <= self.len && (self.address + offset).is_multiple_of(4),
            "ring offset {offset}"
        );
        // SAFETY: as in `u16_at`, with four bytes.
        unsafe { AtomicU32::from_ptr(self.host.as_ptr().add(offset as usize).cast()) }
    }

    /// Loads a little-endian doubleword.
    ///
    /// # Panics
    /// As [`Span::load_u16`].
    #[inline]
    #[must_use]
    pub fn load_u32(&self, offset: u64, order: Ordering) -> u32 {
        u32::from_le(self.u32_at(offset).load(order))
    }

    /// Stores a little-endian doubleword.
    ///
    /// # Panics
    /// As [`Span::load_u16`].
    #[inline]
    pub fn store_u32(&self, offset: u64, value: u32, order: Ordering) {
        self.u32_at(offset).store(value.to_le(), order);
        if let Some(dirty) = &self.dma.0.dirty {
            dirty.wrote(self.address + offset, 4);
        }
    }

    /// Stores two little-endian doublewords, in this order.
    ///
    /// # Panics
    /// As [`Span::load_u16`].
    #[inline]
    pub fn store_u32_pair(&self, offset: u64, [first, second]: [u32; 2]) {
        self.u32_at(offset).store(first.to_le(), Ordering::Relaxed);
        self.u32_at(offset + 4).store(second.to_le(), Ordering::Relaxed);
        if let Some(dirty) = &self.dma.0.dirty {
            dirty.wrote(self.address + offset, 8);
        }
    }

    /// Copies `bytes` in.
    ///
    /// # Panics
    /// When they do not fit: offsets are the device's own.
    #[inline]
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len, "ring offset {offset}");
        // SAFETY: inside the span, which `dma` keeps mapped.
        let slice =
            unsafe { VolatileSlice::new(self.host.as_ptr().add(offset as usize), bytes.len()) };
        slice.copy_from(bytes);
        if let Some(dirty) = &self.dma.0.dirty {
            dirty.wrote(self.address + offset, bytes.len() as u64);
        }
    }

    #[inline]
    fn u64_at(&self, offset: u64) -> &AtomicU64 {
        assert!(
            offset + 8 <= self.len && (self.address + offset).is_multiple_of(8),
            "ring offset {offset}"
        );
        // SAFETY: as in `u16_at`, with eight bytes.
        unsafe { AtomicU64::from_ptr(self.host.as_ptr().add(offset as usize).cast()) }
    }

    /// Stores a little-endian quadword.
    ///
    /// # Panics
    /// As [`Span::load_u16`].
    #[inline]
    pub fn store_u64(&self, offset: u64, value: u64, order: Ordering) {
        self.u64_at(offset).store(value.to_le(), order);
        if let Some(dirty) = &self.dma.0.dirty {
            dirty.wrote(self.address + offset, 8);
        }
    }
}

#[cfg(test)]
mod tests;
