//! The header (VirtualBox, `VDICore.h`, version 1.1). Little-endian.

use crate::{
    formats::{BLOCKS_MAX, FormatError, refuse},
    mapped::le,
};

/// Bytes of the header.
pub(super) const HEADER: usize = 512;
/// The block is not there.
pub(super) const UNALLOCATED: u32 = 0xffff_ffff;
/// The block reads as zeros.
pub(super) const DISCARDED: u32 = 0xffff_fffe;
/// Where the number of allocated blocks is.
pub(super) const ALLOCATED: usize = 0x184;

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;
const BLOCK: u64 = 1 << 20;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a block.
    pub block: u64,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Blocks that the file says it has.
    pub allocated: u64,
    /// Where the block map is, in bytes.
    pub map_at: u64,
    /// Where the blocks are, in bytes.
    pub data_at: u64,
    fixed: bool,
}

impl Header {
    /// The header of a new image.
    pub fn new(size: u64, fixed: bool) -> Result<Self, FormatError> {
        let blocks = size.div_ceil(BLOCK);
        if blocks > BLOCKS_MAX {
            return Err(FormatError::Option(format!(
                "Unsupported VDI image size (size is 0x{size:x}, max supported is 0x{:x})",
                BLOCKS_MAX * BLOCK
            )));
        }
        let map_at = HEADER as u64;
        let data_at = map_at + (blocks * 4).next_multiple_of(512);
        let allocated = if fixed { blocks } else { 0 };
        Ok(Self { size, block: BLOCK, blocks, allocated, map_at, data_at, fixed })
    }

    /// Takes a header apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let field = |at| le::u32_at(bytes, at);
        if field(0x40) != SIGNATURE {
            return Err(FormatError::Magic("vdi"));
        }
        if field(0x44) != VERSION {
            let (major, minor) = (field(0x44) >> 16, field(0x44) & 0xffff);
            return Err(FormatError::Unsupported(format!(
                "VDI version {major}.{minor} is not supported, only 1.1"
            )));
        }
        let kind = field(0x4c);
        if kind != DYNAMIC && kind != STATIC {
            return Err(FormatError::Unsupported(format!(
                "VDI image type {kind} is not supported: only dynamic (1) and static (2)"
            )));
        }
        let (map_at, data_at) = (u64::from(field(0x154)), u64::from(field(0x158)));
        if field(0x168) != 512 {
            return Err(refuse("cbSector", format!("is {}, not 512", field(0x168))));
        }
        let block = u64::from(field(0x178));
        if !block.is_power_of_two() || !(4096..=256 << 20).contains(&block) {
            return Err(refuse("cbBlock", format!("is {block}: no power of two from 4K to 256M")));
        }
        if field(0x17c) != 0 {
            return Err(FormatError::Unsupported(
                "VDI images with extra data in each block (cbBlockExtra) are not supported"
                    .to_owned(),
            ));
        }
        for (name, at) in [("uuidLinkage", 0x1a8), ("uuidParentModify", 0x1b8)] {
            // Only the link makes it a differencing image; both are zero in whole ones.
            if bytes.get(at..at + 16).is_some_and(|uuid| uuid.iter().any(|b| *b != 0)) {
                return Err(FormatError::Unsupported(format!(
                    "differencing VDI images ({name} is set) are not supported"
                )));
            }
        }
        let size = le::u64_at(bytes, 0x170);
        let blocks = u64::from(field(0x180));
        let size = size.checked_next_multiple_of(512).filter(|s| i64::try_from(*s).is_ok());
        let size = size.ok_or_else(|| refuse("cbDisk", "is beyond 8 EiB"))?;
        if blocks > BLOCKS_MAX {
            return Err(refuse("cBlocks", format!("is {blocks}, more than {BLOCKS_MAX}")));
        }
        if size > blocks * block {
            return Err(refuse("cBlocks", format!("is {blocks}: too few for {size} bytes")));
        }
        if map_at < HEADER as u64 || !map_at.is_multiple_of(512) {
            return Err(refuse("offBlocks", format!("is {map_at}: no sector behind the header")));
        }
        if !data_at.is_multiple_of(512) || data_at < map_at + blocks * 4 {
            return Err(refuse("offData", format!("is {data_at}: no sector behind the block map")));
        }
        let allocated = u64::from(field(ALLOCATED));
        Ok(Self { size, block, blocks, allocated, map_at, data_at, fixed: kind == STATIC })
    }

    /// The bytes of a new header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at, value: &[u8]| le::put(&mut bytes, at, value);
        let word = |n: u64| (n as u32).to_le_bytes();
        put(0, b"<<< spindle VM Virtual Disk Image >>>\n");
        put(0x40, &SIGNATURE.to_le_bytes());
        put(0x44, &VERSION.to_le_bytes());
        put(0x48, &word(0x180));
        put(0x4c, &if self.fixed { STATIC } else { DYNAMIC }.to_le_bytes());
        put(0x154, &word(self.map_at));
        put(0x158, &word(self.data_at));
        put(0x168, &word(512));
        put(0x170, &self.size.to_le_bytes());
        put(0x178, &word(self.block));
        put(0x180, &word(self.blocks));
        put(ALLOCATED, &word(self.allocated));
        put(0x188, &crate::formats::new_uuid());
        put(0x198, &crate::formats::new_uuid());
        bytes
    }
}
