//! What a disk should hold, and which requests are under way.

use crate::{IoBuf, Range};

/// The bytes of a disk, with the ranges that requests under way have claimed: concurrent requests
/// of a suite never overlap, unless both read.
pub struct Model {
    bytes: Vec<u8>,
    claims: Vec<(Range, bool)>,
}

impl Model {
    /// A disk that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, claims: Vec::new() }
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether the disk has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Claims `range`; `false` when a request under way is in the way.
    pub fn claim(&mut self, range: Range, writes: bool) -> bool {
        if self
            .claims
            .iter()
            .any(|(other, other_writes)| (writes || *other_writes) && other.overlaps(range))
        {
            return false;
        }
        self.claims.push((range, writes));
        true
    }

    /// Gives a claim back.
    pub fn release(&mut self, range: Range) {
        if let Some(index) = self.claims.iter().position(|c| c.0 == range) {
            self.claims.swap_remove(index);
        }
    }

    /// What the range should hold.
    #[must_use]
    pub fn slice(&self, range: Range) -> &[u8] {
        &self.bytes[range.offset as usize..range.end() as usize]
    }

    /// The range holds `bytes` now.
    pub fn set(&mut self, offset: u64, bytes: &[u8]) {
        self.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// The disk has another size now; what was added is zeros.
    pub fn resize(&mut self, len: u64) {
        self.bytes.resize(len as usize, 0);
    }

    /// Compares what was read with what should be there.
    ///
    /// # Errors
    /// A sentence about the first difference.
    pub fn compare(&self, range: Range, buf: &IoBuf) -> Result<(), String> {
        let (got, expected) = (buf.to_vec(), self.slice(range));
        let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) else { return Ok(()) };
        let run = got.iter().zip(expected).skip(at).take_while(|(a, b)| a != b).count();
        Err(format!(
            "{range:?} read {:#04x} instead of {:#04x} at {} ({run} bytes differ there)",
            got[at],
            expected[at],
            range.offset + at as u64
        ))
    }
}
