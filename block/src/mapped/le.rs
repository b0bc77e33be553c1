//! Little-endian fields of on-disk structures, read with bounds checks.

/// The 16 bits at `at`, or 0 where the bytes end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    field(bytes, at).map_or(0, u16::from_le_bytes)
}

/// The 32 bits at `at`, or 0 where the bytes end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    field(bytes, at).map_or(0, u32::from_le_bytes)
}

/// The 64 bits at `at`, or 0 where the bytes end.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    field(bytes, at).map_or(0, u64::from_le_bytes)
}

/// Overwrites what lies at `at`. Bytes that do not fit are left out.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    crate::qcow2::be::put(bytes, at, value);
}

/// A table of 32-bit entries.
pub(crate) fn table32(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b))
}

/// A table of 64-bit entries.
pub(crate) fn table64(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))
}

/// `N` bytes at `at`, or zeros where the bytes end.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    field(bytes, at).unwrap_or([0; N])
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
