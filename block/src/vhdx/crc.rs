//! CRC-32C (RFC 3720, appendix B.4), as VHDX uses it.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

/// The checksum of `bytes`, of which the four from `hole` count as zeros.
pub(super) fn crc32c(bytes: &[u8], hole: usize) -> u32 {
    let mut crc = u32::MAX;
    for (n, byte) in bytes.iter().enumerate() {
        let byte = if (hole..hole + 4).contains(&n) { 0 } else { *byte };
        crc = TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_that_of_the_catalogue() {
        // No hole: it is behind the end.
        assert_eq!(super::crc32c(b"123456789", 100), 0xe306_9283);
        assert_eq!(super::crc32c(b"12\0\0\0\x00789", 2), super::crc32c(b"123456789", 2));
    }
}
