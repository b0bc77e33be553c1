//! The metadata region (MS-VHDX 2.6).

use super::{guid::guid, spec::MIB};
use crate::{
    Cx, Range,
    formats::{BLOCKS_MAX, FormatError, io, new_uuid, refuse},
    mapped::le,
    qcow2::host::Host,
};

/// Bytes of the table at the beginning of the region.
const TABLE: usize = 64 << 10;
/// The longest item that is read.
const ITEM_MAX: u32 = 64 << 10;
const ENTRIES_MAX: u16 = 2047;

const FILE_PARAMETERS: [u8; 16] =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
const DISK_SIZE: [u8; 16] =
    guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
const PAGE_83: [u8; 16] =
    guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
const LOGICAL_SECTOR: [u8; 16] =
    guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
const PHYSICAL_SECTOR: [u8; 16] =
    guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
const PARENT_LOCATOR: [u8; 16] =
    guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
/// The parent is a VHDX file.
const VHDX_LOCATOR: [u8; 16] =
    guid(0xb04a_efb7, 0xd19e, 0x4a81, [0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13]);

/// What the metadata says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a block.
    pub block: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// It is a differencing disk.
    pub has_parent: bool,
    /// Its parent, where the metadata names a file.
    pub parent_file: Option<String>,
    /// What the parent's data write GUID may be, as text.
    pub parent_ids: Vec<String>,
}

impl Metadata {
    /// Blocks whose sector bitmaps share a bitmap block (2.5).
    pub fn chunk_ratio(&self) -> u64 {
        (self.sector << 23) / self.block
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Entries of the BAT.
    pub fn bat_entries(&self) -> u64 {
        let (blocks, ratio) = (self.blocks(), self.chunk_ratio());
        if self.has_parent {
            blocks.div_ceil(ratio) * (ratio + 1)
        } else {
            blocks + blocks.saturating_sub(1) / ratio
        }
    }

    /// Reads the region.
    pub async fn read(cx: &Cx, host: &Host, region: Range) -> Result<Self, FormatError> {
        let reading = io("reading the metadata region");
        let table = host.read(cx, region.offset, TABLE).await.map_err(&reading)?;
        if !table.starts_with(b"metadata") {
            return Err(refuse("metadata region", "does not begin with its signature"));
        }
        let count = le::u16_at(&table, 10);
        if count > ENTRIES_MAX {
            return Err(refuse("metadata table", format!("has {count} entries, more than 2047")));
        }
        let mut metadata = Self::default();
        let mut locator = None;
        for n in 0..usize::from(count) {
            let entry = table.get(32 + n * 32..64 + n * 32).unwrap_or_default();
            let id: [u8; 16] = le::bytes_at(entry, 0);
            let (at, len) = (le::u32_at(entry, 16), le::u32_at(entry, 20));
            let end = u64::from(at) + u64::from(len);
            if len > ITEM_MAX || end > region.len || (at as usize) < TABLE && len > 0 {
                return Err(refuse(
                    "metadata table",
                    format!("has an item of {len} bytes at {at}: too long, or outside the region"),
                ));
            }
            let place = region.offset + u64::from(at);
            let known = [FILE_PARAMETERS, DISK_SIZE, LOGICAL_SECTOR, PHYSICAL_SECTOR, PAGE_83];
            if known.contains(&id) {
                let item = host.read(cx, place, len as usize).await.map_err(&reading)?;
                metadata.take(id, &item);
            } else if id == PARENT_LOCATOR {
                locator = Some(host.read(cx, place, len as usize).await.map_err(&reading)?);
            } else if le::u32_at(entry, 24) & 4 != 0 {
                return Err(FormatError::Unsupported(format!(
                    "the VHDX image needs the unknown metadata item {}",
                    super::guid::text(&id)
                )));
            }
        }
        metadata.check()?;
        if metadata.has_parent {
            let locator = locator.ok_or_else(|| refuse("parent locator", "is missing"))?;
            let pairs = pairs(&locator)?;
            metadata.parent_file = parent_file(&pairs);
            let links = pairs.into_iter().filter(|(key, _)| key.starts_with("parent_linkage"));
            metadata.parent_ids = links.map(|(_, id)| id).collect();
        }
        Ok(metadata)
    }

    fn take(&mut self, id: [u8; 16], item: &[u8]) {
        match id {
            FILE_PARAMETERS => {
                self.block = u64::from(le::u32_at(item, 0));
                self.has_parent = le::u32_at(item, 4) & 2 != 0;
            }
            DISK_SIZE => self.size = le::u64_at(item, 0),
            LOGICAL_SECTOR => self.sector = u64::from(le::u32_at(item, 0)),
            _ => {}
        }
    }

    fn check(&self) -> Result<(), FormatError> {
        if !self.block.is_power_of_two() || !(MIB..=256 * MIB).contains(&self.block) {
            return Err(refuse(
                "block size",
                format!("is {}: no power of two from 1M to 256M", self.block),
            ));
        }
        if self.sector != 512 && self.sector != 4096 {
            return Err(refuse(
                "logical sector size",
                format!("is {}, not 512 or 4096", self.sector),
            ));
        }
        if !self.size.is_multiple_of(self.sector) || self.size > 64 << 40 {
            return Err(refuse(
                "virtual disk size",
                format!("is {}: no sectors, or more than 64 TiB", self.size),
            ));
        }
        if self.blocks() > BLOCKS_MAX {
            return Err(refuse("virtual disk size", "has more blocks than can be held"));
        }
        Ok(())
    }
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
    String::from_utf16(&units).ok()
}

/// Keys and values of a parent locator (2.6.2.6).
fn pairs(locator: &[u8]) -> Result<Vec<(String, String)>, FormatError> {
    if le::bytes_at(locator, 0) != VHDX_LOCATOR {
        return Err(FormatError::Unsupported("the parent of the VHDX image is no VHDX".to_owned()));
    }
    let count = usize::from(le::u16_at(locator, 18));
    let mut pairs = Vec::new();
    for n in 0..count {
        let Some(entry) = locator.get(20 + n * 12..32 + n * 12) else {
            return Err(refuse("parent locator", format!("has {count} entries, and is shorter")));
        };
        let part = |at: usize, len: usize| {
            let at = le::u32_at(entry, at) as usize;
            let end = at.checked_add(usize::from(le::u16_at(entry, len)))?;
            utf16(locator.get(at..end)?)
        };
        let (Some(key), Some(value)) = (part(0, 8), part(4, 10)) else {
            return Err(refuse("parent locator", format!("has entry {n} outside itself")));
        };
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// The parent's file name: the relative path, or else what there is.
fn parent_file(pairs: &[(String, String)]) -> Option<String> {
    let named = |key: &str| pairs.iter().find(|(known, _)| known == key);
    let (_, path) = named("relative_path").or_else(|| named("absolute_win32_path"))?;
    let path = path.replace('\\', "/");
    Some(path.strip_prefix("./").unwrap_or(&path).to_owned())
}

/// The parent of a new differencing disk: its path and its data write GUID.
pub(super) struct Parent<'a> {
    pub file: &'a str,
    pub id: [u8; 16],
}

fn locator(parent: &Parent<'_>) -> Vec<u8> {
    let path = parent.file.replace('/', "\\");
    let path = if path.contains(['\\', ':']) { path } else { format!(".\\{path}") };
    let pairs = [
        ("parent_linkage".to_owned(), super::guid::text(&parent.id)),
        ("relative_path".to_owned(), path),
    ];
    let mut bytes = vec![0; 20 + pairs.len() * 12];
    le::put(&mut bytes, 0, &VHDX_LOCATOR);
    le::put(&mut bytes, 18, &(pairs.len() as u16).to_le_bytes());
    for (n, (key, value)) in pairs.iter().enumerate() {
        for (text, at, len) in [(key, 0, 8), (value, 4, 10)] {
            let place = bytes.len() as u32;
            bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
            let length = (bytes.len() as u32 - place) as u16;
            le::put(&mut bytes, 20 + n * 12 + at, &place.to_le_bytes());
            le::put(&mut bytes, 20 + n * 12 + len, &length.to_le_bytes());
        }
    }
    bytes
}

/// The first part of the region of a new image: table and items.
pub(super) fn region(metadata: &Metadata, fixed: bool, parent: Option<&Parent<'_>>) -> Vec<u8> {
    let flags = u32::from(fixed) | u32::from(parent.is_some()) << 1;
    let mut parameters = (metadata.block as u32).to_le_bytes().to_vec();
    parameters.extend(flags.to_le_bytes());
    // Flags: 2 for what belongs to the disk, 4 for what is required.
    let mut items = vec![
        (FILE_PARAMETERS, 4_u32, parameters),
        (DISK_SIZE, 6, metadata.size.to_le_bytes().to_vec()),
        (PAGE_83, 6, new_uuid().to_vec()),
        (LOGICAL_SECTOR, 6, (metadata.sector as u32).to_le_bytes().to_vec()),
        (PHYSICAL_SECTOR, 6, 4096_u32.to_le_bytes().to_vec()),
    ];
    if let Some(parent) = parent {
        items.push((PARENT_LOCATOR, 4, locator(parent)));
    }
    let mut bytes = vec![0; TABLE];
    le::put(&mut bytes, 0, b"metadata");
    le::put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
    for (n, (id, flags, item)) in items.iter().enumerate() {
        let at = 32 + n * 32;
        let place = bytes.len() as u32;
        le::put(&mut bytes, at, id);
        le::put(&mut bytes, at + 16, &place.to_le_bytes());
        le::put(&mut bytes, at + 20, &(item.len() as u32).to_le_bytes());
        le::put(&mut bytes, at + 24, &flags.to_le_bytes());
        bytes.extend(item);
    }
    bytes
}
