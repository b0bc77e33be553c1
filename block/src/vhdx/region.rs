//! The region table (MS-VHDX 2.2.3).

use super::{
    crc::crc32c,
    guid::guid,
    metadata::Metadata,
    spec::{Header, KIB, MIB},
};
use crate::{
    Cx, Range,
    formats::{FormatError, io, refuse},
    mapped::le,
    qcow2::host::Host,
};

/// Bytes of a table.
pub(super) const TABLE: usize = 64 << 10;
/// Where both tables are.
pub(super) const TABLES_AT: [u64; 2] = [192 * KIB, 256 * KIB];
/// The block allocation table.
pub(super) const BAT: [u8; 16] =
    guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
/// The metadata.
pub(super) const METADATA: [u8; 16] =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);

const ENTRIES_MAX: u32 = 2047;

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    pub bat: Range,
    pub metadata: Range,
    /// All regions, known or not, and what stands before them.
    pub reserved: Vec<Range>,
}

impl Regions {
    /// Reads the first table that is whole.
    pub async fn read(cx: &Cx, host: &Host, header: &Header) -> Result<Self, FormatError> {
        for at in TABLES_AT {
            let bytes = host.read(cx, at, TABLE).await.map_err(io("reading the region table"))?;
            if bytes.starts_with(b"regi") && le::u32_at(&bytes, 4) == crc32c(&bytes, 4) {
                return Self::parse(&bytes, header);
            }
        }
        Err(refuse("region table", "is whole in neither of its two places"))
    }

    fn parse(bytes: &[u8], header: &Header) -> Result<Self, FormatError> {
        let count = le::u32_at(bytes, 8);
        if count > ENTRIES_MAX {
            return Err(refuse("region table", format!("has {count} entries, more than 2047")));
        }
        let log = Range::new(header.log_at, header.log_len);
        let (mut bat, mut metadata) = (None, None);
        let mut reserved = vec![Range::new(0, MIB)];
        for n in 0..count as usize {
            let entry = bytes.get(16 + n * 32..48 + n * 32).unwrap_or_default();
            let id: [u8; 16] = le::bytes_at(entry, 0);
            let range = Range::new(le::u64_at(entry, 16), u64::from(le::u32_at(entry, 24)));
            let aligned =
                range.offset.is_multiple_of(MIB) && range.len.is_multiple_of(MIB) && range.len > 0;
            if !aligned || range.offset < MIB || range.offset > 1 << 60 {
                return Err(refuse(
                    "region table",
                    format!("has a region of {} bytes at {:#x}: no MiBs", range.len, range.offset),
                ));
            }
            if reserved.iter().any(|other| other.overlaps(range)) || log.overlaps(range) {
                return Err(refuse("region table", "has two regions in one place"));
            }
            reserved.push(range);
            match id {
                BAT => bat = Some(range),
                METADATA => metadata = Some(range),
                _ if le::u32_at(entry, 28) & 1 != 0 => {
                    return Err(FormatError::Unsupported(format!(
                        "the VHDX image needs the unknown region {}",
                        super::guid::text(&id)
                    )));
                }
                _ => {}
            }
        }
        let missing = |what| refuse("region table", format!("has no {what} region"));
        Ok(Self {
            bat: bat.ok_or_else(|| missing("BAT"))?,
            metadata: metadata.ok_or_else(|| missing("metadata"))?,
            reserved,
        })
    }

    /// The BAT must have an entry for each block.
    pub fn check_bat(&self, metadata: &Metadata) -> Result<(), FormatError> {
        let needed = metadata.bat_entries() * 8;
        if needed > self.bat.len {
            return Err(refuse(
                "BAT region",
                format!("has {} bytes: too few for a disk of {}", self.bat.len, metadata.size),
            ));
        }
        Ok(())
    }
}

/// The table of a new image.
pub(super) fn table(bat: Range, metadata: Range) -> Vec<u8> {
    let mut bytes = vec![0; TABLE];
    let mut put = |at, value: &[u8]| le::put(&mut bytes, at, value);
    put(0, b"regi");
    put(8, &2_u32.to_le_bytes());
    for (at, id, range) in [(16, BAT, bat), (48, METADATA, metadata)] {
        put(at, &id);
        put(at + 16, &range.offset.to_le_bytes());
        put(at + 24, &(range.len as u32).to_le_bytes());
        put(at + 28, &1_u32.to_le_bytes());
    }
    let sum = crc32c(&bytes, 4);
    le::put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}
