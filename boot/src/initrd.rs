//! The initial RAM disk: as high as possible in low memory, out of the kernel's way.

use vm_memory::GuestMemoryBackend;

use crate::error::BootError;
use crate::memory_map::AddressRange;
use crate::source::Source;

const PAGE_SIZE: u64 = 0x1000;

/// What bounds the initrd's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Where the kernel's image and work space end.
    pub(crate) kernel_end: u64,
    /// Where RAM below 4 GiB ends.
    pub(crate) low_ram_end: u64,
    /// The kernel's own limit, if it has one.
    pub(crate) kernel_limit: Option<u64>,
}

impl Bounds {
    fn ceiling(&self) -> (u64, &'static str) {
        match self.kernel_limit {
            Some(limit) if limit < self.low_ram_end => (limit, "kernel's limit for it"),
            _ => (self.low_ram_end, "end of low memory"),
        }
    }

    /// The highest page-aligned range for `size` bytes, if there is one.
    pub(crate) fn place(&self, size: u64) -> Option<AddressRange> {
        let start = self.ceiling().0.checked_sub(size)? & !(PAGE_SIZE - 1);
        (start >= self.kernel_end).then(|| AddressRange::new(start, start + size))
    }
}

/// Finds a place for the initrd and reads it there.
pub(crate) fn load<M: GuestMemoryBackend>(
    source: &Source,
    memory: &M,
    bounds: Bounds,
) -> Result<AddressRange, BootError> {
    let size = source.len()?;
    let range = bounds.place(size).ok_or_else(|| {
        let (ceiling, limit) = bounds.ceiling();
        BootError::InitrdDoesNotFit {
            path: source.path(),
            size,
            floor: bounds.kernel_end,
            limit,
            ceiling,
        }
    })?;
    source
        .read_into(memory, range.start, size)
        .map_err(|e| BootError::LoadInitrd { path: source.path(), source: e })?;
    Ok(range)
}

#[cfg(test)]
mod tests;
