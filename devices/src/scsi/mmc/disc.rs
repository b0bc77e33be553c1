//! READ DISC INFORMATION, READ TRACK INFORMATION, READ DISC STRUCTURE (MMC-6, 6.21, 6.26, 6.22).

use super::{
    super::{sense::Sense, spec::asc},
    Disc,
};

/// What a DVD's first sector is called inside.
const DVD_FIRST_SECTOR: u32 = 0x03_0000;
/// Length of most disc structures, in bytes.
const STRUCTURE_LEN: usize = 2048;

/// Formats of READ DISC STRUCTURE (MMC-6, table 382).
mod format {
    pub const PHYSICAL: u8 = 0x00;
    pub const COPYRIGHT: u8 = 0x01;
    pub const MANUFACTURING: u8 = 0x04;
    pub const LIST: u8 = 0xff;
}

/// Disc information: a finalized disc of one session with one track.
pub(super) fn information(kind: u8) -> Result<Vec<u8>, Sense> {
    if kind != 0 {
        return Err(Sense::cdb_field(1, Some(2)));
    }
    let mut data = vec![0; 34];
    data[1] = 32;
    // The last session is complete, the disc is finalized.
    data[2] = 0x0e;
    data[3..7].copy_from_slice(&[1, 1, 1, 1]);
    // URU: nothing restricts its use.
    data[7] = 0x20;
    Ok(data)
}

/// Information about the track at an LBA, of a number, or first in a session.
pub(super) fn track(address_kind: u8, address: u32, blocks: u64) -> Result<Vec<u8>, Sense> {
    let there = match address_kind {
        0 if u64::from(address) >= blocks => return Err(Sense::out_of_range(address.into())),
        0 => true,
        1 | 2 => address == 1,
        _ => return Err(Sense::cdb_field(1, Some(1))),
    };
    if !there {
        return Err(Sense::cdb_field(2, None));
    }
    let mut data = vec![0; 36];
    data[1] = 34;
    // Track 1 of session 1; a data track, mode 1.
    data[2..4].copy_from_slice(&[1, 1]);
    data[5] = 0x04;
    data[6] = 0x01;
    let size = u32::try_from(blocks).unwrap_or(u32::MAX);
    data[24..28].copy_from_slice(&size.to_be_bytes());
    Ok(data)
}

/// A structure of a DVD.
pub(super) fn structure(disc: Disc, media: u8, layer: u8, kind: u8) -> Result<Vec<u8>, Sense> {
    if media != 0 {
        return Err(Sense::cdb_field(1, Some(3)));
    }
    let body = match kind {
        format::LIST => {
            let entry = |kind, len: usize| {
                let [high, low] = (len as u16 + 4).to_be_bytes();
                // RDS: it can be read.
                [kind, 0x40, high, low]
            };
            [
                entry(format::PHYSICAL, STRUCTURE_LEN),
                entry(format::COPYRIGHT, 4),
                entry(format::MANUFACTURING, STRUCTURE_LEN),
            ]
            .concat()
        }
        format::PHYSICAL | format::COPYRIGHT | format::MANUFACTURING => {
            let Disc::Dvd { blocks } = disc else {
                return Err(Sense::illegal(asc::INCOMPATIBLE_MEDIUM));
            };
            if layer != 0 {
                return Err(Sense::cdb_field(6, None));
            }
            match kind {
                format::PHYSICAL => physical(blocks),
                // No protection, every region.
                format::COPYRIGHT => vec![0; 4],
                _ => vec![0; STRUCTURE_LEN],
            }
        }
        _ => return Err(Sense::cdb_field(7, None)),
    };
    let mut data = (body.len() as u16 + 2).to_be_bytes().to_vec();
    data.extend([0, 0]);
    data.extend(body);
    Ok(data)
}

/// Physical format information of a single-layer DVD-ROM (MMC-6, table 384).
fn physical(blocks: u64) -> Vec<u8> {
    let mut body = vec![0; STRUCTURE_LEN];
    // DVD-ROM, version 1; 120 mm, no maximum rate; one embossed layer.
    body[..4].copy_from_slice(&[0x01, 0x0f, 0x01, 0x00]);
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let end = DVD_FIRST_SECTOR.saturating_add(last).min(0x00ff_ffff);
    body[4..8].copy_from_slice(&DVD_FIRST_SECTOR.to_be_bytes());
    body[8..12].copy_from_slice(&end.to_be_bytes());
    body
}
