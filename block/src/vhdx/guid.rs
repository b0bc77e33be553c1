//! GUIDs, as Microsoft stores them: the first three groups little-endian.

/// The stored form of the GUID whose text has these groups.
pub(super) const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Whether `text` is this GUID's, in whatever case.
pub(super) fn is(id: &[u8; 16], text: &str) -> bool {
    self::text(id).eq_ignore_ascii_case(text.trim_end_matches('\0'))
}

/// Its text, in braces.
pub(super) fn text(id: &[u8; 16]) -> String {
    let le = |range: std::ops::Range<usize>| -> String {
        id[range].iter().rev().map(|b| format!("{b:02X}")).collect()
    };
    let be = |range: std::ops::Range<usize>| -> String {
        id[range].iter().map(|b| format!("{b:02X}")).collect()
    };
    format!("{{{}-{}-{}-{}-{}}}", le(0..4), le(4..6), le(6..8), be(8..10), be(10..16))
}
