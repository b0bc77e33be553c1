//! Bits, the first written lowest in its byte (RFC 1951 §3.1.1).

/// Collects bits. Where they do not fit into `out`, they are lost, and [`Bits::fits`] is false.
pub(super) struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0, held: 0, count: 0 }
    }

    /// Adds `count` bits; at most 56 between two calls of [`Bits::settle`].
    #[inline(always)]
    pub fn put(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
    }

    /// Writes out whole bytes.
    #[inline(always)]
    pub fn settle(&mut self) {
        let bytes = (self.count / 8) as usize;
        if let Some(place) = self.out.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = self.held.to_le_bytes();
        } else {
            self.settle_last(bytes);
        }
        self.at += bytes;
        self.held >>= bytes * 8;
        self.count %= 8;
    }

    #[cold]
    fn settle_last(&mut self, bytes: usize) {
        if let Some(place) = self.out.get_mut(self.at..self.at + bytes) {
            place.copy_from_slice(&self.held.to_le_bytes()[..bytes]);
        }
    }

    /// Fills the last byte up with zeros.
    pub fn align(&mut self) {
        self.count = self.count.next_multiple_of(8);
        self.settle();
    }

    /// Adds whole bytes, behind whole bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.at..self.at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }

    /// Bits until the next whole byte.
    pub fn gap(&self, after: u32) -> u32 {
        (self.count + after).next_multiple_of(8) - (self.count + after)
    }

    /// Whether all that was written out found room.
    pub fn fits(&self) -> bool {
        self.at <= self.out.len()
    }

    /// Bytes that were written out.
    pub fn len(&self) -> usize {
        self.at
    }
}
