//! Registers that are numbered from the last bit of the last byte.

/// A register of `N` bytes, the most significant first, as it goes over the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits<const N: usize>(pub [u8; N]);

impl<const N: usize> Bits<N> {
    /// All zeros.
    pub const fn new() -> Self {
        Self([0; N])
    }

    /// Sets bits `high` to `low` to `value`; what does not fit is cut off.
    pub const fn put(mut self, high: usize, low: usize, value: u64) -> Self {
        let mut bit = low;
        while bit <= high {
            let (byte, mask) = (N - 1 - bit / 8, 1 << (bit % 8));
            if value >> (bit - low) & 1 != 0 {
                self.0[byte] |= mask;
            } else {
                self.0[byte] &= !mask;
            }
            bit += 1;
        }
        self
    }

    /// Bits `high` to `low`.
    pub const fn get(&self, high: usize, low: usize) -> u64 {
        let mut value = 0;
        let mut bit = high + 1;
        while bit > low {
            bit -= 1;
            value = value << 1 | (self.0[N - 1 - bit / 8] >> (bit % 8) & 1) as u64;
        }
        value
    }

    /// With the CRC7 of all bytes but the last, and the end bit, in the last byte.
    pub fn sealed(mut self) -> Self {
        self.0[N - 1] = crc7(&self.0[..N - 1]) << 1 | 1;
        self
    }
}

/// CRC7 with the polynomial x^7 + x^3 + 1 (SD 4.5).
pub(super) fn crc7(bytes: &[u8]) -> u8 {
    let mut crc = 0_u8;
    for byte in bytes {
        for bit in (0..8).rev() {
            let feedback = (crc >> 6 ^ byte >> bit) & 1;
            crc = (crc << 1 & 0x7f) ^ (feedback * 0x09);
        }
    }
    crc
}
