//! The bits of one bitmap, in memory: set by many threads at once, never cleared.
//!
//! Bit `i` stands for the bytes `i * granularity ..` of the disk and is bit `i % 8` of byte `i / 8`
//! of the stored form.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::Range;

/// See the module.
#[derive(Debug)]
pub struct DirtyBits {
    granularity_bits: u8,
    /// Size of the disk in bytes.
    size: u64,
    words: Vec<AtomicU64>,
}

impl DirtyBits {
    /// No bit is set.
    pub(super) fn new(granularity_bits: u8, size: u64) -> Self {
        let bits = size.div_ceil(1 << granularity_bits);
        let words = (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { granularity_bits, size, words }
    }

    /// Bytes of the disk that a bit stands for.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Size of the disk, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of bits.
    pub(super) fn len(&self) -> u64 {
        self.size.div_ceil(self.granularity())
    }

    /// The bits of a range of the disk: first, and one beyond the last.
    pub(super) fn bits_of(&self, range: Range) -> std::ops::Range<u64> {
        let end = range.end().min(self.size);
        let first = range.offset >> self.granularity_bits;
        first..end.div_ceil(self.granularity()).max(first)
    }

    fn get(&self, bit: u64) -> bool {
        let word = self.words.get((bit / 64) as usize);
        word.is_some_and(|word| word.load(SeqCst) >> (bit % 64) & 1 == 1)
    }

    /// Sets a bit.
    pub(super) fn set(&self, bit: u64) {
        if let Some(word) = self.words.get((bit / 64) as usize) {
            word.fetch_or(1 << (bit % 64), SeqCst);
        }
    }

    /// Whether the byte at `offset` of the disk is in a dirty granule.
    #[must_use]
    pub fn is_dirty(&self, offset: u64) -> bool {
        offset < self.size && self.get(offset >> self.granularity_bits)
    }

    /// Whether every granule that `range` touches is dirty.
    pub(super) fn covers(&self, range: Range) -> bool {
        self.bits_of(range).all(|bit| self.get(bit))
    }

    /// The granules of `range` that are clean.
    pub(super) fn clean_bits(&self, range: Range) -> impl Iterator<Item = u64> + '_ {
        self.bits_of(range).filter(|bit| !self.get(*bit))
    }

    /// The dirty ranges of the disk, in order.
    #[must_use]
    pub fn dirty_ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for bit in (0..self.len()).filter(|bit| self.get(*bit)) {
            let at = bit << self.granularity_bits;
            let len = self.granularity().min(self.size - at);
            match ranges.last_mut() {
                Some(last) if last.end() == at => last.len += len,
                _ => ranges.push(Range::new(at, len)),
            }
        }
        ranges
    }

    /// Takes every range that is dirty in `other` as dirty.
    pub(super) fn merge(&self, other: &Self) {
        for range in other.dirty_ranges() {
            self.bits_of(range).for_each(|bit| self.set(bit));
        }
    }

    /// The same for a disk of another size: what it gains is clean.
    pub(super) fn resized(&self, size: u64) -> Self {
        let new = Self::new(self.granularity_bits, size);
        (0..self.len().min(new.len())).filter(|bit| self.get(*bit)).for_each(|bit| new.set(bit));
        new
    }

    /// Bytes of the stored form.
    pub(super) fn stored_len(&self) -> u64 {
        self.len().div_ceil(8)
    }

    /// The stored form from byte `at` on; zeros beyond its end.
    pub(super) fn stored(&self, at: u64, len: usize) -> Vec<u8> {
        let byte = |at: u64| {
            let word = self.words.get((at / 8) as usize).map_or(0, |word| word.load(SeqCst));
            (word >> (at % 8 * 8)) as u8
        };
        (at..at + len as u64).map(byte).collect()
    }

    /// Sets the bits of a piece of the stored form, which begins at byte `at`.
    pub(super) fn load(&self, at: u64, bytes: &[u8]) {
        for (n, byte) in (at..).zip(bytes).filter(|(_, byte)| **byte != 0) {
            let first = n * 8;
            for bit in (first..first + 8).filter(|bit| byte >> (bit - first) & 1 == 1) {
                if bit < self.len() {
                    self.set(bit);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_stored_and_merged() {
        let fine = DirtyBits::new(9, 100_000);
        assert_eq!((fine.len(), fine.stored_len()), (196, 25));
        fine.bits_of(Range::new(1000, 2000)).for_each(|bit| fine.set(bit));
        fine.set(195);
        let wanted = [Range::new(512, 2560), Range::new(99_840, 160)];
        assert_eq!(fine.dirty_ranges(), wanted);
        assert!(fine.covers(Range::new(512, 2560)) && !fine.covers(Range::new(511, 2)));
        assert!(fine.is_dirty(99_999) && !fine.is_dirty(100_000));
        let copy = DirtyBits::new(9, 100_000);
        copy.load(0, &fine.stored(0, 25));
        assert_eq!(copy.dirty_ranges(), wanted);
        assert_eq!(fine.stored(0, 2), [0b0011_1110, 0]);
        let coarse = DirtyBits::new(12, 100_000);
        coarse.merge(&fine);
        assert_eq!(coarse.dirty_ranges(), [Range::new(0, 4096), Range::new(98_304, 1696)]);
        let shorter = fine.resized(2000).resized(100_000);
        assert_eq!(shorter.dirty_ranges(), [Range::new(512, 1536)]);
    }
}
