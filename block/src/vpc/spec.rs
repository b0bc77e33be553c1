//! Footer and dynamic disk header (VHD 1.0, "Hard Disk Footer Format" and "Dynamic Disk Header
//! Format"). Big-endian.

use crate::{
    formats::{BLOCKS_MAX, FormatError, refuse},
    qcow2::be,
};

/// Bytes of the footer.
pub(super) const FOOTER: usize = 512;
/// Bytes of the dynamic disk header.
pub(super) const DYNAMIC: usize = 1024;
/// A table entry of a block that is not there.
pub(super) const UNUSED: u32 = 0xffff_ffff;
/// The largest disk that has a geometry, in sectors.
pub(super) const GEOMETRY_MAX: u64 = 65535 * 16 * 255;
/// The largest disk, in sectors: 2040 GiB.
pub(super) const SECTORS_MAX: u64 = 2040 << 21;

const COOKIE: &[u8; 8] = b"conectix";
const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;
/// Parent locators: how many there are, and how long one may be.
const LOCATORS: usize = 8;
const LOCATOR_MAX: u32 = 64 << 10;

/// What kind of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// A footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub kind: Kind,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the dynamic disk header is.
    pub data_offset: u64,
    pub uuid: [u8; 16],
}

/// The ones' complement of the sum of all bytes but those of the checksum itself.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let others = bytes.iter().enumerate().filter(|(n, _)| !(at..at + 4).contains(n));
    !others.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

impl Footer {
    /// Whether there is a footer.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(COOKIE)
    }

    /// Takes a footer apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !Self::is_one(bytes) {
            return Err(FormatError::Magic("vpc"));
        }
        let stored = be::u32_at(bytes, 64);
        let sum = checksum(bytes, 64);
        if stored != sum {
            return Err(refuse(
                "footer's checksum",
                format!("is {stored:#010x}, and that of its bytes is {sum:#010x}"),
            ));
        }
        if be::u32_at(bytes, 12) >> 16 != VERSION >> 16 {
            let version = be::u32_at(bytes, 12);
            return Err(FormatError::Unsupported(format!(
                "VHD version {version:#x} is not supported, only 1.0"
            )));
        }
        let kind = match be::u32_at(bytes, 60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => return Err(refuse("disk type", format!("is {other}, not 2, 3 or 4"))),
        };
        let current = be::u64_at(bytes, 48);
        let geometry = u64::from(be::u16_at(bytes, 56))
            * u64::from(bytes.get(58).copied().unwrap_or(0))
            * u64::from(bytes.get(59).copied().unwrap_or(0));
        // Some programs mean the geometry, others the size (QEMU, vpc_open).
        let app: &[u8] = bytes.get(28..32).unwrap_or_default();
        let by_size = [b"win ", b"qem2", b"d2v ", b"tap\0"].iter().any(|name| app == *name)
            || app.starts_with(b"wa");
        let by_geometry = !by_size && geometry != GEOMETRY_MAX && geometry != 0;
        let sectors = if by_geometry { geometry } else { current / 512 };
        if sectors > SECTORS_MAX {
            return Err(refuse("current size", format!("is {current}, more than 2040 GiB")));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(bytes.get(68..84).unwrap_or(&[0; 16]));
        Ok(Self { kind, size: sectors * 512, data_offset: be::u64_at(bytes, 16), uuid })
    }
}

/// Where a differencing disk says its parent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locator {
    code: [u8; 4],
    /// Where the path is, in bytes, and how long.
    pub at: u64,
    pub len: usize,
}

impl Locator {
    /// The path, where this is a kind that names a file of a file system.
    pub fn path(&self, bytes: &[u8]) -> Option<String> {
        let name = match &self.code {
            b"W2ru" | b"W2ku" => utf16(bytes, u16::from_le_bytes)?,
            b"MacX" => std::str::from_utf8(bytes).ok()?.strip_prefix("file://")?.to_owned(),
            _ => return None,
        };
        let name = name.trim_end_matches('\0').replace('\\', "/");
        let relative = name.strip_prefix("./").unwrap_or(&name);
        Some(relative.to_owned()).filter(|name| !name.is_empty())
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|b| unit(*b)).collect();
    let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    String::from_utf16(&units[..end]).ok()
}

/// A dynamic disk header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dynamic {
    pub table_at: u64,
    /// Entries of the table.
    pub entries: u64,
    /// Bytes of a block.
    pub block: u64,
    /// The parent's name, without a directory.
    pub parent_name: String,
    /// Its unique id; zeros: nobody knew it.
    pub parent_id: [u8; 16],
    pub locators: Vec<Locator>,
}

impl Dynamic {
    /// Takes a header apart.
    pub fn parse(bytes: &[u8], footer: &Footer) -> Result<Self, FormatError> {
        if !bytes.starts_with(DYNAMIC_COOKIE) {
            return Err(refuse("dynamic disk header", "does not begin with its cookie"));
        }
        let (stored, sum) = (be::u32_at(bytes, 36), checksum(bytes, 36));
        if stored != sum {
            return Err(refuse(
                "dynamic disk header's checksum",
                format!("is {stored:#010x}, and that of its bytes is {sum:#010x}"),
            ));
        }
        let block = u64::from(be::u32_at(bytes, 32));
        if !block.is_power_of_two() || !(512..=256 << 20).contains(&block) {
            return Err(refuse(
                "block size",
                format!("is {block}: no power of two from 512 to 256M"),
            ));
        }
        let entries = u64::from(be::u32_at(bytes, 28));
        if entries > BLOCKS_MAX {
            return Err(refuse(
                "max table entries",
                format!("is {entries}, more than {BLOCKS_MAX}"),
            ));
        }
        if footer.size > entries * block {
            return Err(refuse(
                "max table entries",
                format!("is {entries}: too few for {} bytes", footer.size),
            ));
        }
        let table_at = be::u64_at(bytes, 16);
        if !table_at.is_multiple_of(512) || table_at > 1 << 50 {
            return Err(refuse("table offset", format!("is {table_at}: no sector of a file")));
        }
        let mut locators = Vec::new();
        if footer.kind == Kind::Differencing {
            for n in 0..LOCATORS {
                let entry = bytes.get(576 + n * 24..600 + n * 24).unwrap_or_default();
                let mut code = [0; 4];
                code.copy_from_slice(entry.get(..4).unwrap_or(&[0; 4]));
                if code == [0; 4] {
                    continue;
                }
                let (len, at) = (be::u32_at(entry, 8), be::u64_at(entry, 16));
                if len > LOCATOR_MAX || at > 1 << 50 {
                    return Err(refuse(
                        "parent locator",
                        format!("has {len} bytes at {at}: more than 64 KiB, or no place in a file"),
                    ));
                }
                locators.push(Locator { code, at, len: len as usize });
            }
            // A relative path serves more often than an absolute one of another machine.
            locators.sort_by_key(|l| match &l.code {
                b"W2ru" => 0,
                b"MacX" => 1,
                _ => 2,
            });
        }
        let name = bytes.get(64..576).unwrap_or_default();
        let parent_name = utf16(name, u16::from_be_bytes).unwrap_or_default();
        let mut parent_id = [0; 16];
        parent_id.copy_from_slice(bytes.get(40..56).unwrap_or(&[0; 16]));
        Ok(Self { table_at, entries, block, parent_name, parent_id, locators })
    }

    /// Bytes of the bitmap in front of a block.
    pub fn bitmap(&self) -> u64 {
        (self.block / 512).div_ceil(8).next_multiple_of(512)
    }
}

/// Cylinders, heads and sectors of a disk (VHD 1.0, appendix "CHS Calculation").
pub(super) fn geometry(sectors: u64) -> (u64, u64, u64) {
    let total = sectors.min(GEOMETRY_MAX);
    let (per_track, heads, tracks);
    if total >= 65535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, total / 255);
    } else {
        let few = (total / 17).div_ceil(1024).max(4);
        if total / 17 < few * 1024 && few <= 16 {
            (per_track, heads, tracks) = (17, few, total / 17);
        } else if total / 31 < 16 * 1024 {
            (per_track, heads, tracks) = (31, 16, total / 31);
        } else {
            (per_track, heads, tracks) = (63, 16, total / 63);
        }
    }
    (tracks / heads, heads, per_track)
}
