//! A data structure as bytes at offsets.

use crate::nvme::spec::PAGE;

/// Most data structures: 4096 bytes, zero where nothing is put.
pub struct Page(Vec<u8>);

impl Page {
    /// All zeros.
    #[must_use]
    pub fn new() -> Self {
        Self::with_len(PAGE)
    }

    /// All zeros, of another length.
    #[must_use]
    pub fn with_len(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Puts bytes; those that lie outside are left out.
    pub fn bytes(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        self
    }

    /// Puts a byte.
    pub fn u8(&mut self, at: usize, value: u8) -> &mut Self {
        self.bytes(at, &[value])
    }

    /// Puts a little-endian number.
    pub fn u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts a little-endian number.
    pub fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts a little-endian number.
    pub fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts a little-endian number.
    pub fn u128(&mut self, at: usize, value: u128) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts text, padded with spaces to `len` bytes and cut off there.
    pub fn text(&mut self, at: usize, len: usize, text: &str) -> &mut Self {
        let ascii = text.bytes().map(|b| if b.is_ascii_graphic() || b == b' ' { b } else { b'?' });
        let padded: Vec<u8> = ascii.chain(std::iter::repeat(b' ')).take(len).collect();
        self.bytes(at, &padded)
    }

    /// The bytes.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}
