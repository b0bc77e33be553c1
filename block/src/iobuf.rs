//! The memory of a request.
//!
//! UNSAFETY: this is the one module where the block layer touches memory by address. A segment is
//! valid for reads and writes as long as the `keep` that came with it lives; the memory may change
//! under us at any time (a guest owns it), so it is only ever copied, never borrowed as a slice.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    any::Any,
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU8},
};

/// What keeps the memory of an [`IoBuf`] mapped.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// Alignment of owned buffers: enough for `O_DIRECT` on any device.
pub const OWNED_ALIGN: usize = 4096;

/// Segments of memory, kept alive by it, in the form the kernel takes.
///
/// One word, because it is moved through every stage of a request. Cloning is deliberately not
/// offered: whoever holds the buffer holds the request.
#[derive(Default)]
pub struct IoBuf(Option<Box<Segments>>);

#[derive(Default)]
struct Segments {
    iov: Vec<libc::iovec>,
    len: u64,
    keep: Option<Keep>,
}

// SAFETY: the segments are plain memory that stays mapped while `keep`, which is Send, lives; no
// thread-bound state is attached to it.
unsafe impl Send for IoBuf {}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf({} bytes in {} segments)", self.len(), self.iovecs().len())
    }
}

/// Page-aligned memory of our own.
struct Aligned {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: exclusive plain memory; access goes through `IoBuf`, which only copies.
unsafe impl Send for Aligned {}
// SAFETY: as above; there is no shared access through `&Aligned`.
unsafe impl Sync for Aligned {}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `IoBuf::zeroed` with this very layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Memory that is written and never looked at. Nobody borrows it, and it is there for ever.
#[repr(align(4096))]
struct Discarded([AtomicU8; DISCARDED_LEN]);

const DISCARDED_LEN: usize = 64 << 10;
static DISCARDED: Discarded = Discarded([const { AtomicU8::new(0) }; DISCARDED_LEN]);

impl IoBuf {
    /// No memory at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self(None)
    }

    /// An empty buffer with room for `segments`, so that filling it does not allocate.
    #[must_use]
    pub fn with_capacity(segments: usize) -> Self {
        let iov = Vec::with_capacity(segments);
        Self(Some(Box::new(Segments { iov, len: 0, keep: None })))
    }

    /// `len` zero bytes, page-aligned, owned.
    ///
    /// # Panics
    /// When the allocator has no memory left or `len` is beyond the address space: callers bound it.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self::empty();
        }
        let layout = Layout::from_size_align(len, OWNED_ALIGN).expect("callers bound the length");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { std::alloc::handle_alloc_error(layout) };
        let iov = vec![libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len }];
        let keep: Keep = Arc::new(Aligned { base, layout });
        Self(Some(Box::new(Segments { iov, len: len as u64, keep: Some(keep) })))
    }

    /// An owned copy of `bytes`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.write_at(0, bytes);
        buf
    }

    /// Forgets the segments, keeps their capacity and the `keep`.
    pub fn clear(&mut self) {
        if let Some(segments) = &mut self.0 {
            segments.iov.clear();
            segments.len = 0;
        }
    }

    /// Sets what keeps the segments mapped.
    pub fn set_keep(&mut self, keep: Keep) {
        self.segments().keep = Some(keep);
    }

    /// Whether a `keep` was set.
    #[must_use]
    pub fn has_keep(&self) -> bool {
        self.0.as_ref().is_some_and(|s| s.keep.is_some())
    }

    /// Adds a segment; one that continues the last is joined with it.
    ///
    /// # Safety
    /// `base..base + len` must be valid for reads and writes as long as the buffer's `keep` lives,
    /// and may not be memory that Rust code borrows.
    pub unsafe fn push(&mut self, base: *mut u8, len: usize) {
        if len == 0 {
            return;
        }
        let segments = self.segments();
        segments.len += len as u64;
        if let Some(last) = segments.iov.last_mut()
            && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == base
        {
            last.iov_len += len;
            return;
        }
        segments.iov.push(libc::iovec { iov_base: base.cast(), iov_len: len });
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |s| s.len)
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segments, for the kernel. They stay where they are until the buffer is changed.
    #[must_use]
    pub fn iovecs(&self) -> &[libc::iovec] {
        self.0.as_ref().map_or(&[], |s| &s.iov)
    }

    /// Whether every segment's address and length is a multiple of `align` (a power of two).
    #[must_use]
    pub fn is_aligned(&self, align: u32) -> bool {
        let mask = (align as usize).wrapping_sub(1);
        self.iovecs().iter().all(|v| (v.iov_base.addr() | v.iov_len) & mask == 0)
    }

    /// Adds `len` bytes that are thrown away when something is read into them. What they hold is
    /// undefined, and all such bytes may be the same: for buffers that are only filled.
    pub fn push_discarded(&mut self, len: u64) {
        let base = DISCARDED.0[0].as_ptr();
        let mut left = len;
        while left > 0 {
            let n = left.min(DISCARDED_LEN as u64);
            // SAFETY: a static of that many bytes with interior mutability, which Rust never borrows
            // for a value, and which outlives every `keep`.
            unsafe { self.push(base, n as usize) };
            left -= n;
        }
    }

    /// A view of `len` bytes from `at`, sharing the memory. Allocates: for slow paths.
    ///
    /// # Panics
    /// When the view does not lie within the buffer.
    #[must_use]
    pub fn view(&self, at: u64, len: u64) -> Self {
        let keep = self.0.as_ref().and_then(|s| s.keep.clone());
        let mut view = Self(Some(Box::new(Segments { keep, ..Segments::default() })));
        self.each(at, len, |base, n| {
            // SAFETY: part of our own segments, and `keep` is shared.
            unsafe { view.push(base, n) };
        });
        view
    }

    /// Shortens the buffer to what follows the first `n` bytes. For short transfers.
    ///
    /// # Panics
    /// When there are fewer than `n` bytes.
    pub fn advance(&mut self, n: u64) {
        assert!(n <= self.len(), "advance by {n} of {}", self.len());
        let segments = self.segments();
        segments.len -= n;
        let mut left = n as usize;
        let mut whole = 0;
        for v in &mut segments.iov {
            if left < v.iov_len {
                v.iov_base = v.iov_base.cast::<u8>().wrapping_add(left).cast();
                v.iov_len -= left;
                break;
            }
            left -= v.iov_len;
            whole += 1;
        }
        segments.iov.drain(..whole);
    }

    /// Copies `bytes` into the buffer at `at`.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        self.each(at, bytes.len() as u64, |base, n| {
            // SAFETY: the segment is valid (module header); `bytes` has `n` bytes left from `done`;
            // Rust memory and segments do not overlap (contract of `push`).
            unsafe { std::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), base, n) };
            done += n;
        });
    }

    /// Copies from the buffer at `at` into `bytes`.
    ///
    /// # Panics
    /// When there are not that many bytes.
    pub fn read_at(&self, at: u64, bytes: &mut [u8]) {
        let mut done = 0;
        self.each(at, bytes.len() as u64, |base, n| {
            // SAFETY: as in `write_at`, the other way.
            unsafe { std::ptr::copy_nonoverlapping(base, bytes[done..].as_mut_ptr(), n) };
            done += n;
        });
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len() as usize];
        self.read_at(0, &mut bytes);
        bytes
    }

    /// Sets `len` bytes from `at` to zero.
    ///
    /// # Panics
    /// When the range does not lie within the buffer.
    pub fn zero(&mut self, at: u64, len: u64) {
        self.each(at, len, |base, n| {
            // SAFETY: the segment is valid (module header).
            unsafe { std::ptr::write_bytes(base, 0, n) };
        });
    }

    /// Copies `len` bytes from `src` at `src_at` to `self` at `at`; the buffers are different ones.
    ///
    /// # Panics
    /// When either range does not lie within its buffer.
    pub fn copy_from(&mut self, at: u64, src: &Self, src_at: u64, len: u64) {
        let mut done = 0;
        src.each(src_at, len, |from, n| {
            let mut inner = 0;
            self.each(at + done, n as u64, |to, m| {
                // SAFETY: both segments are valid; guest memory may name the same bytes twice, so
                // this is a copy that allows overlap.
                unsafe { std::ptr::copy(from.wrapping_add(inner), to, m) };
                inner += m;
            });
            done += n as u64;
        });
    }

    /// Whether `len` bytes from `at` are all zero at this moment.
    ///
    /// # Panics
    /// When the range does not lie within the buffer.
    #[must_use]
    pub fn is_zero(&self, at: u64, len: u64) -> bool {
        let mut zero = true;
        self.each(at, len, |base, n| {
            // Stops at the first block that is not, and looks at whole words where it can.
            const BLOCK: usize = 256;
            let mut done = 0;
            while zero && done < n {
                let mut seen = 0_u64;
                if n - done >= BLOCK {
                    for word in 0..BLOCK / 8 {
                        let place = base.wrapping_add(done + word * 8).cast::<u64>();
                        // SAFETY: the segment is valid (module header) and has `BLOCK` bytes left.
                        seen |= unsafe { place.read_unaligned() };
                    }
                    done += BLOCK;
                } else {
                    // SAFETY: as above, one byte.
                    seen = u64::from(unsafe { base.wrapping_add(done).read() });
                    done += 1;
                }
                zero = seen == 0;
            }
        });
        zero
    }

    fn segments(&mut self) -> &mut Segments {
        self.0.get_or_insert_default()
    }

    /// Calls `f` with each piece of memory of `at..at + len`.
    fn each(&self, at: u64, len: u64, mut f: impl FnMut(*mut u8, usize)) {
        let end = at.checked_add(len).expect("buffer ranges are checked");
        assert!(end <= self.len(), "bytes {at}+{len} of a buffer of {}", self.len());
        let (mut skip, mut left) = (at as usize, len as usize);
        for v in self.iovecs() {
            if left == 0 {
                break;
            }
            if skip >= v.iov_len {
                skip -= v.iov_len;
                continue;
            }
            let n = (v.iov_len - skip).min(left);
            f(v.iov_base.cast::<u8>().wrapping_add(skip), n);
            skip = 0;
            left -= n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered(parts: &[usize]) -> IoBuf {
        // Segments with gaps between them, so that none are joined.
        let backing = IoBuf::zeroed(parts.iter().sum::<usize>() + parts.len());
        let mut buf = IoBuf::with_capacity(parts.len());
        let mut at = 0;
        for &n in parts {
            let v = backing.view(at, n as u64);
            // SAFETY: `backing` is kept alive below.
            unsafe { buf.push(v.iovecs()[0].iov_base.cast(), n) };
            at += n as u64 + 1;
        }
        buf.set_keep(Arc::new(backing.0.and_then(|s| s.keep)));
        buf
    }

    #[test]
    fn copies_cross_segments_both_ways() {
        let mut buf = scattered(&[3, 1, 8, 20]);
        let bytes: Vec<u8> = (1..=32).collect();
        buf.write_at(0, &bytes);
        assert_eq!(buf.to_vec(), bytes);
        let mut mid = [0; 9];
        buf.read_at(2, &mut mid);
        assert_eq!(mid, [3, 4, 5, 6, 7, 8, 9, 10, 11]);
        buf.zero(3, 9);
        assert!(buf.is_zero(3, 9) && !buf.is_zero(2, 2) && !buf.is_zero(11, 2));
        let view = buf.view(2, 12);
        assert_eq!(view.to_vec(), [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 14]);
        let mut other = IoBuf::zeroed(40);
        other.copy_from(4, &buf, 1, 30);
        assert_eq!(other.view(4, 30).to_vec(), buf.view(1, 30).to_vec());
    }

    #[test]
    fn advance_drops_exactly_the_bytes_done() {
        for n in 0..=32u64 {
            let mut buf = scattered(&[3, 1, 8, 20]);
            let bytes: Vec<u8> = (1..=32).collect();
            buf.write_at(0, &bytes);
            buf.advance(n);
            assert_eq!(buf.len(), 32 - n);
            assert_eq!(buf.to_vec(), bytes[n as usize..]);
        }
    }

    #[test]
    fn neighbouring_segments_are_joined() {
        let whole = IoBuf::zeroed(100);
        let mut buf = IoBuf::with_capacity(2);
        for at in [0, 40] {
            let v = whole.view(at, if at == 0 { 40 } else { 60 });
            // SAFETY: `whole` outlives `buf`.
            unsafe { buf.push(v.iovecs()[0].iov_base.cast(), v.len() as usize) };
        }
        assert_eq!((buf.iovecs().len(), buf.len()), (1, 100));
    }

    #[test]
    #[should_panic(expected = "of a buffer of")]
    fn reading_past_the_end_is_refused() {
        IoBuf::zeroed(10).read_at(8, &mut [0; 3]);
    }
}
