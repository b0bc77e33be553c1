//! READ TOC/PMA/ATIP (MMC-6, 6.25).

use super::super::sense::Sense;

/// ADR 1, CONTROL 4: the Q sub-channel tells the position; a data track.
const DATA_TRACK: u8 = 0x14;
/// Track number of the lead-out.
const LEAD_OUT: u8 = 0xaa;
/// Frames before block 0: two seconds.
const PREGAP: u64 = 150;
const FRAMES_A_SECOND: u64 = 75;

/// Minute, second, frame of a block.
fn msf(lba: u64) -> [u8; 3] {
    let frames = lba + PREGAP;
    let (minute, rest) = (frames / (60 * FRAMES_A_SECOND), frames % (60 * FRAMES_A_SECOND));
    // A DVD is longer than minutes can tell.
    [minute.min(99) as u8, (rest / FRAMES_A_SECOND) as u8, (rest % FRAMES_A_SECOND) as u8]
}

fn address(lba: u64, as_msf: bool) -> [u8; 4] {
    if as_msf {
        let [minute, second, frame] = msf(lba);
        [0, minute, second, frame]
    } else {
        u32::try_from(lba).unwrap_or(u32::MAX).to_be_bytes()
    }
}

/// The answer, for a disc of `blocks` with one track.
pub(super) fn read(as_msf: bool, format: u8, track: u8, blocks: u64) -> Result<Vec<u8>, Sense> {
    let mut body = vec![1, 1];
    match format {
        // Tracks.
        0 => {
            if track > 1 && track != LEAD_OUT {
                return Err(Sense::cdb_field(6, None));
            }
            let first = (1, 0);
            let all = [first, (LEAD_OUT, blocks)];
            for (number, lba) in &all[usize::from(track == LEAD_OUT)..] {
                body.extend([0, DATA_TRACK, *number, 0]);
                body.extend(address(*lba, as_msf));
            }
        }
        // Sessions: the first track of the last one.
        1 => {
            body.extend([0, DATA_TRACK, 1, 0]);
            body.extend(address(0, as_msf));
        }
        // The whole table, as in the lead-in; the field is a session number.
        2 => {
            if track > 1 {
                return Err(Sense::cdb_field(6, None));
            }
            let [minute, second, frame] = msf(0);
            let [end_minute, end_second, end_frame] = msf(blocks);
            for (point, place) in [
                (0xa0, [1, 0, 0]),
                (0xa1, [1, 0, 0]),
                (0xa2, [end_minute, end_second, end_frame]),
                (1, [minute, second, frame]),
            ] {
                body.extend([1, DATA_TRACK, 0, point, 0, 0, 0, 0]);
                body.extend(place);
            }
        }
        // PMA, ATIP and CD-TEXT are for discs that were written.
        _ => return Err(Sense::cdb_field(2, Some(3))),
    }
    let mut data = (body.len() as u16).to_be_bytes().to_vec();
    data.extend(body);
    Ok(data)
}
