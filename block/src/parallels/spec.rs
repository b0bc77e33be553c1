//! The header (QEMU, `docs/interop/parallels.txt`). Little-endian.

use crate::{
    formats::{BLOCKS_MAX, FormatError, refuse},
    mapped::le,
};

/// Bytes of the header.
pub(super) const HEADER: usize = 64;
/// The image is being written to.
pub(super) const IN_USE: u32 = 0x746f_6e59;
/// Where the header says so.
pub(super) const IN_USE_AT: u64 = 44;
/// Where it says where the extension is.
pub(super) const EXTENSION_AT: u64 = 56;

const OLD: &[u8; 16] = b"WithoutFreeSpace";
const NEW: &[u8; 16] = b"WithouFreSpacExt";
const VERSION: u32 = 2;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Bytes that a table entry counts in.
    pub unit: u64,
    /// Entries of the table.
    pub entries: u64,
    /// Where clusters begin, in bytes; 0: behind the table.
    pub data_at: u64,
    /// It was not closed, or is open.
    pub in_use: bool,
    /// Where the extension is, in sectors; 0: there is none.
    pub extension: u64,
}

impl Header {
    /// The header of a new image.
    pub fn new(size: u64, cluster: u64) -> Result<Self, FormatError> {
        if !cluster.is_multiple_of(512) || !(4096..=256 << 20).contains(&cluster) {
            return Err(FormatError::Option(format!(
                "cluster_size is {cluster}: it is a multiple of 512 from 4K to 256M"
            )));
        }
        let entries = size.div_ceil(cluster);
        if entries > BLOCKS_MAX || size / 512 > 1 << 43 {
            return Err(FormatError::Option(format!(
                "a disk of {size} bytes is too large for clusters of {cluster} bytes"
            )));
        }
        let data_at = (HEADER as u64 + entries * 4).next_multiple_of(cluster);
        Ok(Self { size, cluster, unit: cluster, entries, data_at, in_use: false, extension: 0 })
    }

    /// Takes a header apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let old = bytes.starts_with(OLD);
        if !old && !bytes.starts_with(NEW) {
            return Err(FormatError::Magic("parallels"));
        }
        let field = |at| le::u32_at(bytes, at);
        if field(16) != VERSION {
            return Err(FormatError::Unsupported(format!(
                "Parallels version {} is not supported, only 2",
                field(16)
            )));
        }
        let tracks = u64::from(field(28));
        if tracks == 0 || tracks > (256 << 20) / 512 {
            return Err(refuse("tracks", format!("is {tracks}: no cluster has that many sectors")));
        }
        let cluster = tracks * 512;
        let sectors = le::u64_at(bytes, 36);
        // The old kind has 32 bits for it, whatever stands in the others.
        let sectors = if old { sectors & 0xffff_ffff } else { sectors };
        let size = sectors.checked_mul(512).filter(|size| i64::try_from(*size).is_ok());
        let size =
            size.ok_or_else(|| refuse("nb_sectors", format!("is {sectors}: beyond 8 EiB")))?;
        let entries = u64::from(field(32));
        if entries > BLOCKS_MAX {
            return Err(refuse("nb_bat_entries", format!("is {entries}, more than {BLOCKS_MAX}")));
        }
        if size.div_ceil(cluster) > entries {
            return Err(refuse(
                "nb_bat_entries",
                format!("is {entries}: too few for {size} bytes"),
            ));
        }
        let extension = le::u64_at(bytes, 56);
        Ok(Self {
            size,
            cluster,
            unit: if old { 512 } else { cluster },
            entries,
            data_at: u64::from(field(48)) * 512,
            in_use: field(44) == IN_USE,
            extension,
        })
    }

    /// The bytes of a new header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at, value: &[u8]| le::put(&mut bytes, at, value);
        let word = |n: u64| (n as u32).to_le_bytes();
        put(0, NEW);
        put(16, &VERSION.to_le_bytes());
        put(20, &word(16));
        put(24, &word((self.size / 512 / 16).div_ceil(32)));
        put(28, &word(self.cluster / 512));
        put(32, &word(self.entries));
        put(36, &(self.size / 512).to_le_bytes());
        put(48, &word(self.data_at / 512));
        bytes
    }
}
