//! The range list of DATA SET MANAGEMENT (ACS-3, 7.5).

use spindle_block::Range;

use super::cmd::{ABORTED, Refused};

/// Takes a list of LBA range entries apart, for a drive of `sectors` sectors of `sector` bytes.
/// Entries without sectors say nothing. Neighbours are joined.
///
/// # Errors
/// When a range is not on the medium: nothing is trimmed then.
pub(super) fn ranges(list: &[u8], sectors: u64, sector: u64) -> Result<Vec<Range>, Refused> {
    let mut ranges: Vec<Range> = Vec::new();
    for entry in list.chunks_exact(8) {
        let entry = entry.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let (lba, count) = (entry & 0xffff_ffff_ffff, entry >> 48);
        if count == 0 {
            continue;
        }
        // Both are below 2^49: no overflow.
        if lba + count > sectors {
            return Err(ABORTED);
        }
        let range = Range::new(lba * sector, count * sector);
        match ranges.last_mut() {
            Some(last) if last.end() == range.offset => last.len += range.len,
            _ => ranges.push(range),
        }
    }
    Ok(ranges)
}
