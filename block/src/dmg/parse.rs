//! Trailer, property list and chunk tables. Big-endian.

use crate::{
    Range,
    formats::{FormatError, base64, refuse},
    qcow2::be,
};

const SECTOR: u64 = 512;
/// A chunk that is unpacked as a whole is no longer than this, packed or not.
const CHUNK_MAX: u64 = 64 << 20;
/// Chunks of an image at most.
const CHUNKS_MAX: usize = 1 << 20;
/// Bytes of a table's header, and of each chunk behind it.
const TABLE_HEADER: usize = 204;
const CHUNK: usize = 40;

/// What the trailer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    /// What offsets of chunks count from.
    pub data_at: u64,
    /// The property list.
    pub list: Range,
}

impl Trailer {
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let field = |at| be::u64_at(bytes, at);
        let (data_at, list) = (field(0x18), Range::new(field(0xd8), field(0xe0)));
        if data_at > 1 << 56 {
            return Err(refuse("data fork offset", format!("is {data_at:#x}: no place in a file")));
        }
        Ok(Self { data_at, list })
    }
}

/// What a chunk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    Raw,
    Zlib,
    Bzip2,
}

/// A chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub kind: Kind,
    /// Its bytes of the disk.
    pub range: Range,
    /// Its bytes in the file.
    pub at: Range,
}

/// The chunks of all tables in a property list, in the order of the disk. The file has `end` bytes.
pub(super) fn chunks(list: &[u8], data_at: u64, end: u64) -> Result<Vec<Chunk>, FormatError> {
    let text = std::str::from_utf8(list).map_err(|_| refuse("property list", "is not UTF-8"))?;
    let mut chunks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<data>") {
        let Some((data, after)) = after.split_once("</data>") else {
            return Err(refuse("property list", "ends within its data"));
        };
        rest = after;
        let table =
            base64(data).ok_or_else(|| refuse("property list", "has data that is no base64"))?;
        // Others are the checksum's and the partition map's.
        if table.starts_with(b"mish") {
            add(&table, data_at, end, &mut chunks)?;
        }
    }
    chunks.sort_by_key(|chunk| chunk.range.offset);
    if chunks.windows(2).any(|pair| pair[0].range.end() > pair[1].range.offset) {
        return Err(refuse("chunk table", "has chunks that overlap"));
    }
    if chunks.is_empty() {
        return Err(refuse("property list", "lists no chunks"));
    }
    Ok(chunks)
}

fn add(table: &[u8], data_at: u64, end: u64, chunks: &mut Vec<Chunk>) -> Result<(), FormatError> {
    let bad = |what: String| refuse("chunk table", what);
    let (first, offset) = (be::u64_at(table, 8), be::u64_at(table, 24));
    let count = be::u32_at(table, 200) as usize;
    if count > CHUNKS_MAX || table.len() < TABLE_HEADER + count * CHUNK {
        return Err(bad(format!("has {count} chunks: too many, or fewer than that")));
    }
    for n in 0..count {
        let entry = table.get(TABLE_HEADER + n * CHUNK..).unwrap_or_default();
        let kind = match be::u32_at(entry, 0) {
            0 | 2 => Kind::Zero,
            1 => Kind::Raw,
            0x8000_0005 => Kind::Zlib,
            0x8000_0006 => Kind::Bzip2,
            // A remark, and the end.
            0x7fff_fffe | 0xffff_ffff => continue,
            other => {
                let name = match other {
                    0x8000_0004 => "ADC",
                    0x8000_0007 => "LZFSE",
                    0x8000_0008 => "LZMA",
                    _ => "an unknown kind",
                };
                return Err(FormatError::Unsupported(format!(
                    "DMG chunks of {name} ({other:#x}) are not supported"
                )));
            }
        };
        let bytes = |at| be::u64_at(entry, at).checked_mul(SECTOR);
        let start = first.checked_mul(SECTOR).zip(bytes(8)).and_then(|(a, b)| a.checked_add(b));
        let (Some(start), Some(len)) = (start, bytes(16)) else {
            return Err(bad(format!("has chunk {n} beyond 2^64 bytes")));
        };
        let range = Range::new(start, len);
        if range.checked_end().is_none_or(|end| end > i64::MAX as u64) {
            return Err(bad(format!("has chunk {n} beyond 8 EiB")));
        }
        if len == 0 {
            continue;
        }
        let at = data_at.checked_add(offset).and_then(|at| at.checked_add(be::u64_at(entry, 24)));
        let at = Range::new(at.unwrap_or(u64::MAX), be::u64_at(entry, 32));
        if kind != Kind::Zero && at.checked_end().is_none_or(|chunk| chunk > end) {
            return Err(bad(format!("has chunk {n} outside the file")));
        }
        let packed = matches!(kind, Kind::Zlib | Kind::Bzip2);
        if packed && (len > CHUNK_MAX || at.len > CHUNK_MAX) || kind == Kind::Raw && at.len < len {
            return Err(bad(format!("has chunk {n} of {} bytes for {len}", at.len)));
        }
        chunks.push(Chunk { kind, range, at });
        if chunks.len() > CHUNKS_MAX {
            return Err(bad("has more than a million chunks".to_owned()));
        }
    }
    Ok(())
}
