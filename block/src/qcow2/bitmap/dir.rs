//! The bitmap directory: parsed from hostile bytes, and made. Pure.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Bitmap directory".

use super::super::be;

/// Bitmaps that an image can have, bytes of their directory, and entries of a table; the limits
/// that QEMU has.
pub(in super::super) const BITMAPS_MAX: u32 = 65535;
pub(in super::super) const DIRECTORY_MAX: u64 = 64 << 20;
pub(super) const TABLE_MAX: u32 = 1 << 23;
/// The longest name, in bytes.
pub(super) const NAME_MAX: usize = 1023;
/// log2 of the finest and the coarsest granularity.
pub(super) const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;

/// The fixed part of an entry.
const FIXED: usize = 24;
/// The one type that there is: a dirty bitmap.
const DIRTY: u8 = 1;
/// It was being changed when the image was left.
const IN_USE: u32 = 1;
/// Writes are recorded in it.
const AUTO: u32 = 2;

/// A bitmap as the directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub table: u64,
    pub entries: u32,
    pub in_use: bool,
    pub auto: bool,
    pub granularity_bits: u8,
    pub name: String,
}

/// The bitmaps of a directory; `None` where one is of a kind that we do not know.
pub(super) fn parse(bytes: &[u8], count: u32) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut at = 0usize;
    for _ in 0..count {
        let fixed = bytes.get(at..at.checked_add(FIXED)?)?;
        let flags = be::u32_at(fixed, 12);
        let (kind, granularity_bits) = (fixed[16], fixed[17]);
        let name_len = usize::from(be::u16_at(fixed, 18));
        let extra = be::u32_at(fixed, 20);
        let known = flags & !(IN_USE | AUTO) == 0
            && kind == DIRTY
            && extra == 0
            && GRANULARITY_BITS.contains(&granularity_bits)
            && (1..=NAME_MAX).contains(&name_len);
        let name = bytes.get(at + FIXED..at + FIXED + name_len)?;
        if !known {
            return None;
        }
        entries.push(Entry {
            table: be::u64_at(fixed, 0),
            entries: be::u32_at(fixed, 8),
            in_use: flags & IN_USE != 0,
            auto: flags & AUTO != 0,
            granularity_bits,
            name: std::str::from_utf8(name).ok()?.to_owned(),
        });
        at = (at + FIXED + name_len).next_multiple_of(8);
    }
    Some(entries)
}

/// The bytes of a directory.
pub(super) fn to_bytes(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for one in entries {
        let flags = if one.in_use { IN_USE } else { 0 } | if one.auto { AUTO } else { 0 };
        bytes.extend(one.table.to_be_bytes());
        bytes.extend(one.entries.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend([DIRTY, one.granularity_bits]);
        bytes.extend((one.name.len() as u16).to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(one.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_they_were_and_strange_ones_are_none() {
        let one = |name: &str, auto: bool| Entry {
            table: 0x50000,
            entries: 3,
            in_use: !auto,
            auto,
            granularity_bits: 16,
            name: name.to_owned(),
        };
        let entries = [one("a", true), one("a longer name", false)];
        let bytes = to_bytes(&entries);
        assert_eq!(parse(&bytes, 2), Some(entries.to_vec()));
        assert_eq!(parse(&bytes, 3), None);
        for (at, value) in [(15, 4), (16, 2), (17, 8), (17, 32), (23, 1), (24, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(parse(&bytes, 2), None, "byte {at}");
        }
    }
}
