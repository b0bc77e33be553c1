//! Hosted sparse extents (Virtual Disk Format 5.0, "Hosted Sparse Extents"). Little-endian.

use crate::{
    Range,
    formats::{BLOCKS_MAX, FormatError, refuse},
    mapped::{PIECE, le},
};

/// Bytes of the header.
pub(super) const HEADER: usize = 512;
pub(super) const MAGIC: &[u8; 4] = b"KDMV";
pub(super) const SECTOR: u64 = 512;
/// Entries of a grain table: one piece of the engine's.
pub(super) const TABLE: u64 = PIECE;
/// Bytes of a grain table.
pub(super) const TABLE_BYTES: u64 = TABLE * 4;
/// `gdOffset`: the directory is at the end of the file.
const AT_END: u64 = u64::MAX;

/// `flags`.
pub(super) mod flags {
    pub const NEWLINES: u32 = 1;
    pub const REDUNDANT: u32 = 2;
    pub const ZERO_GRAINS: u32 = 4;
    pub const COMPRESSED: u32 = 1 << 16;
    pub const MARKERS: u32 = 1 << 17;
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub version: u32,
    pub flags: u32,
    /// Bytes of the extent's part of the disk.
    pub size: u64,
    /// Bytes of a grain.
    pub grain: u64,
    /// Where the descriptor's text is, in bytes.
    pub descriptor: Range,
    /// Where the directories are, in bytes; `None`: at the end.
    pub redundant_at: u64,
    pub directory_at: Option<u64>,
    /// Bytes of metadata in front of the grains.
    pub overhead: u64,
}

impl Header {
    /// Takes a header apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(MAGIC) {
            return Err(FormatError::Magic("vmdk"));
        }
        let version = le::u32_at(bytes, 4);
        if version == 0 || version > 3 {
            return Err(FormatError::Unsupported(format!(
                "VMDK version {version} is not supported, only 1 to 3"
            )));
        }
        let flags = le::u32_at(bytes, 8);
        let sectors = |field: &'static str, at: usize| {
            let value = le::u64_at(bytes, at);
            let bytes = value.checked_mul(SECTOR).filter(|n| i64::try_from(*n).is_ok());
            bytes.ok_or_else(|| refuse(field, format!("is {value} sectors, more than 8 EiB")))
        };
        let (size, grain) = (sectors("capacity", 12)?, sectors("grainSize", 20)?);
        if !grain.is_power_of_two() || !(4096..=16 << 20).contains(&grain) {
            return Err(refuse("grainSize", format!("is {grain}: no power of two from 4K to 16M")));
        }
        let entries = le::u32_at(bytes, 44);
        if u64::from(entries) != TABLE {
            return Err(FormatError::Unsupported(format!(
                "VMDK grain tables of {entries} entries are not supported, only 512"
            )));
        }
        if size.div_ceil(grain) > BLOCKS_MAX {
            return Err(refuse("capacity", format!("is {size}: more grains than can be held")));
        }
        let descriptor =
            Range::new(sectors("descriptorOffset", 28)?, sectors("descriptorSize", 36)?);
        if descriptor.checked_end().is_none() {
            return Err(refuse("descriptorOffset", "is beyond 8 EiB"));
        }
        let at_end = le::u64_at(bytes, 56) == AT_END;
        let directory_at = if at_end { None } else { Some(sectors("gdOffset", 56)?) };
        let redundant = flags & flags::REDUNDANT != 0;
        let redundant_at = if redundant && !at_end { sectors("rgdOffset", 48)? } else { 0 };
        let compression = le::u16_at(bytes, 77);
        if flags & flags::COMPRESSED != 0 && compression != 1 {
            return Err(FormatError::Unsupported(format!(
                "VMDK compression {compression} is not supported, only deflate (1)"
            )));
        }
        let newlines = bytes.get(73..77) == Some(b"\n \r\n");
        if flags & flags::NEWLINES != 0 && !newlines {
            return Err(refuse("header", "was copied as text: its line ends were changed"));
        }
        let overhead = sectors("overHead", 64)?;
        Ok(Self { version, flags, size, grain, descriptor, redundant_at, directory_at, overhead })
    }

    /// Whether grains are compressed.
    pub fn is_compressed(&self) -> bool {
        self.flags & flags::COMPRESSED != 0
    }

    /// Grains of the extent.
    pub fn grains(&self) -> u64 {
        self.size.div_ceil(self.grain)
    }

    /// Entries of the directory.
    pub fn tables(&self) -> u64 {
        self.grains().div_ceil(TABLE)
    }

    /// The bytes of the header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at, value: &[u8]| le::put(&mut bytes, at, value);
        let sectors = |n: u64| (n / SECTOR).to_le_bytes();
        put(0, MAGIC);
        put(4, &self.version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &sectors(self.size));
        put(20, &sectors(self.grain));
        put(28, &sectors(self.descriptor.offset));
        put(36, &sectors(self.descriptor.len));
        put(44, &(TABLE as u32).to_le_bytes());
        put(48, &sectors(self.redundant_at));
        put(56, &self.directory_at.map_or(AT_END, |at| at / SECTOR).to_le_bytes());
        put(64, &sectors(self.overhead));
        put(73, b"\n \r\n");
        put(77, &u16::from(self.is_compressed()).to_le_bytes());
        bytes
    }
}
