//! Refcounts as they lie in a block: 1, 2, 4, 8, 16, 32 or 64 bits each. Pure.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Host cluster management": widths below a byte fill each
//! byte from its lowest bits, wider ones are big-endian.

/// The width of a refcount: 2 to this power bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    order: u32,
}

impl Width {
    /// `order` is 0 to 6, as the header's check sees to.
    pub const fn of(order: u32) -> Self {
        Self { order: if order > 6 { 6 } else { order } }
    }

    /// log2 of the bits of a count.
    pub const fn order(self) -> u32 {
        self.order
    }

    /// Bits of a count.
    pub const fn bits(self) -> u32 {
        1 << self.order
    }

    /// The largest count.
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// Counts in so many bytes.
    pub const fn in_bytes(self, bytes: u64) -> u64 {
        (bytes << 3) >> self.order
    }

    /// The count at `index`, or 0 where the bytes end.
    pub fn get(self, bytes: &[u8], index: u64) -> u64 {
        if self.order < 3 {
            let bit = index << self.order;
            let byte = bytes.get((bit >> 3) as usize).copied().unwrap_or(0);
            return u64::from(byte) >> (bit & 7) & self.max();
        }
        let len = 1usize << (self.order - 3);
        let at = index as usize * len;
        let field = bytes.get(at..at + len).unwrap_or_default();
        field.iter().fold(0, |count, byte| count << 8 | u64::from(*byte))
    }

    /// Sets the count at `index`, which is at most [`Width::max`]. Beyond the bytes nothing happens.
    pub fn put(self, bytes: &mut [u8], index: u64, count: u64) {
        debug_assert!(count <= self.max());
        if self.order < 3 {
            let bit = index << self.order;
            if let Some(byte) = bytes.get_mut((bit >> 3) as usize) {
                let shift = bit & 7;
                let mask = (self.max() as u8) << shift;
                *byte = *byte & !mask | (count as u8) << shift & mask;
            }
            return;
        }
        let len = 1usize << (self.order - 3);
        let at = index as usize * len;
        if let Some(field) = bytes.get_mut(at..at + len) {
            field.copy_from_slice(&count.to_be_bytes()[8 - len..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lie_where_the_specification_says() {
        let mut bytes = [0; 8];
        Width::of(0).put(&mut bytes, 9, 1);
        assert_eq!(bytes[..2], [0, 2]);
        Width::of(2).put(&mut bytes, 1, 0xa);
        assert_eq!(bytes[0], 0xa0);
        Width::of(4).put(&mut bytes, 1, 0x1234);
        assert_eq!(bytes[2..4], [0x12, 0x34]);
        Width::of(5).put(&mut bytes, 1, 0x1234_5678);
        assert_eq!(bytes[4..], [0x12, 0x34, 0x56, 0x78]);
    }

    #[test]
    fn every_width_keeps_every_count_apart() {
        for order in 0..=6 {
            let width = Width::of(order);
            let mut bytes = [0u8; 512];
            let n = width.in_bytes(512);
            assert_eq!(n * u64::from(width.bits()), 4096);
            let wanted = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & width.max();
            for i in 0..n {
                width.put(&mut bytes, i, width.max());
                width.put(&mut bytes, i, wanted(i));
            }
            assert!((0..n).all(|i| width.get(&bytes, i) == wanted(i)), "order {order}");
            assert_eq!(width.get(&bytes, n), 0);
            width.put(&mut bytes, n, width.max());
        }
    }
}
