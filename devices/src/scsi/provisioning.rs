//! What is mapped and what is not: UNMAP's list and GET LBA STATUS (SBC-4, 4.7, 5.5 and 5.35).

use std::sync::Arc;

use spindle_block::{Cx, ExtentKind, Range};

use super::{
    inquiry::UNMAP_DESCRIPTORS_MAX,
    job::{Failure, Job, Stop},
    sense::Sense,
};

/// Most descriptors of one GET LBA STATUS.
const STATUS_MAX: usize = 64;

/// Checks an UNMAP's parameter list as a whole. Returns LBA and number of blocks of each range.
pub(super) fn unmap_list(list: &[u8], blocks: u64, max: u32) -> Result<Vec<(u64, u64)>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    if list.len() < 8 {
        return Err(Sense::parameter_length());
    }
    let len = usize::from(u16::from_be_bytes([list[2], list[3]]));
    let body = list.get(8..8 + len).ok_or(Sense::parameter_length())?;
    let mut ranges = Vec::new();
    let mut total = 0u64;
    // A descriptor that is cut off is ignored (SBC-4, 5.35.2).
    for descriptor in body.chunks_exact(16) {
        let field = |at: usize, len: usize| {
            descriptor[at..at + len].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let (lba, count) = (field(0, 8), field(8, 4));
        match lba.checked_add(count) {
            Some(end) if end <= blocks => {}
            _ => return Err(Sense::out_of_range(lba)),
        }
        total += count;
        ranges.push((lba, count));
    }
    if ranges.len() > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Sense::parameter(2, None));
    }
    if total > u64::from(max) {
        return Err(Sense::parameter(16, None));
    }
    Ok(ranges)
}

/// The answer to GET LBA STATUS from `lba` on, which is on the medium.
pub(super) async fn lba_status(
    job: &mut Job,
    cx: &Cx,
    lba: u64,
    allocation: u32,
) -> Result<Vec<u8>, Stop> {
    let block = job.block;
    let size = job.root.info().size / block * block;
    let node = job.root.root().node();
    let layered = node.children().iter().any(|(role, _)| *role == "backing");
    let room = (allocation as usize / 16).clamp(1, STATUS_MAX + 1);
    let mut found: Vec<(u64, u64, bool)> = Vec::new();
    let mut at = lba * block;
    // Ask at most twice for each descriptor there is room for: neighbours are joined.
    for _ in 0..room * 2 {
        if at >= size || found.len() > room {
            break;
        }
        let range = Range::new(at, size - at);
        let extent = Arc::clone(&node).extent(Cx::clone(cx), range).await.map_err(|error| {
            Stop::Failed(Failure { error, read: true, lba: Some(at / block), phase: 0 })
        })?;
        let unmapped = match extent.kind {
            ExtentKind::Data | ExtentKind::Zero { allocated: true } => false,
            ExtentKind::Zero { allocated: false } => true,
            // What a backing file has is not zeros.
            ExtentKind::Unallocated => !layered,
        };
        // A block is unmapped if all of it is.
        let end = at + extent.len.clamp(1, size - at);
        let whole = end / block * block;
        let (end, unmapped) = if whole > at { (whole, unmapped) } else { (at + block, false) };
        match found.last_mut() {
            Some((_, last_end, kind)) if *kind == unmapped && *last_end == at => *last_end = end,
            _ => found.push((at, end, unmapped)),
        }
        at = end;
    }
    found.truncate(room.min(STATUS_MAX));
    let mut data = ((4 + found.len() * 16) as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    for (start, end, unmapped) in found {
        data.extend((start / block).to_be_bytes());
        let blocks = u32::try_from((end - start) / block).unwrap_or(u32::MAX);
        data.extend(blocks.to_be_bytes());
        data.extend([u8::from(unmapped), 0, 0, 0]);
    }
    Ok(data)
}
