//! The header (QEMU, `docs/interop/qed_spec.txt`). Little-endian.

use crate::{
    Range,
    formats::{BLOCKS_MAX, CreateOptions, FormatError, refuse},
    mapped::le,
};

/// Bytes of the header's fields.
pub(super) const HEADER: usize = 64;
/// Where the feature bits are.
pub(super) const FEATURES_AT: u64 = 16;
/// Where the autoclear bits are.
pub(super) const AUTOCLEAR_AT: u64 = 32;
/// Where the disk's size is.
pub(super) const SIZE_AT: u64 = 48;
/// Bytes of a table that are held in memory at most.
const TABLE_MAX: u64 = 64 << 20;
const NAME_MAX: u32 = 1023;

/// Feature bits.
pub(super) mod features {
    /// There is a backing file.
    pub const BACKING: u64 = 1;
    /// It was not closed properly.
    pub const NEED_CHECK: u64 = 2;
    /// The backing file is raw.
    pub const BACKING_RAW: u64 = 4;
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Clusters of a table.
    pub table_clusters: u64,
    /// Clusters of the header.
    pub header_clusters: u64,
    pub features: u64,
    pub autoclear: u64,
    /// Where the first table is, in bytes.
    pub l1_at: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the backing file's name is.
    pub backing_at: Option<Range>,
    pub backing_file: String,
}

impl Header {
    /// Bytes of a table.
    pub fn table(&self) -> u64 {
        self.table_clusters * self.cluster
    }

    /// Entries of a table.
    pub fn entries(&self) -> u64 {
        self.table() / 8
    }

    /// The header of a new image.
    pub fn new(options: &CreateOptions) -> Result<Self, FormatError> {
        let cluster = options.cluster_size.unwrap_or(64 << 10);
        let table_clusters = options.table_size.unwrap_or(4);
        let bad = |what: String| Err(FormatError::Option(what));
        if !cluster.is_power_of_two() || !(4096..=64 << 20).contains(&cluster) {
            return bad(
                "QED cluster size must be within range [4096, 67108864] and power of 2".to_owned()
            );
        }
        if !table_clusters.is_power_of_two() || table_clusters > 16 {
            return bad("QED table size must be within range [1, 16] and power of 2".to_owned());
        }
        if table_clusters * cluster > TABLE_MAX {
            return bad(format!("tables of {} bytes are too large", table_clusters * cluster));
        }
        let mut header = Self {
            cluster,
            table_clusters,
            header_clusters: 1,
            features: 0,
            autoclear: 0,
            l1_at: cluster,
            size: options.size,
            backing_at: None,
            backing_file: String::new(),
        };
        if options.size > header.size_max() {
            return bad(format!(
                "QED image size must be a non-zero multiple of cluster size and less than {} bytes",
                header.size_max()
            ));
        }
        if let Some((name, format)) = &options.backing {
            if name.len() > NAME_MAX as usize {
                return bad("the backing file's name is longer than 1023 bytes".to_owned());
            }
            header.features = features::BACKING;
            header.features |= if format == "raw" { features::BACKING_RAW } else { 0 };
            header.backing_at = Some(Range::new(HEADER as u64, name.len() as u64));
            header.backing_file.clone_from(name);
        }
        Ok(header)
    }

    /// The largest disk that the tables can hold, and that we hold the tables of.
    pub fn size_max(&self) -> u64 {
        let entries = self.entries();
        let most = entries.saturating_mul(entries).min(BLOCKS_MAX);
        most.saturating_mul(self.cluster).min(i64::MAX as u64)
    }

    /// Takes a header apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(b"QED\0") {
            return Err(FormatError::Magic("qed"));
        }
        let field = |at| u64::from(le::u32_at(bytes, at));
        let (cluster, table_clusters, header_clusters) = (field(4), field(8), field(12));
        let features = le::u64_at(bytes, FEATURES_AT as usize);
        let unknown = features & !7;
        if unknown != 0 {
            return Err(FormatError::Unsupported(format!(
                "QED features {unknown:#x} are not supported"
            )));
        }
        if !cluster.is_power_of_two() || !(4096..=64 << 20).contains(&cluster) {
            return Err(refuse(
                "cluster_size",
                format!("is {cluster}: no power of two from 4K to 64M"),
            ));
        }
        if !table_clusters.is_power_of_two() || table_clusters > 16 {
            return Err(refuse(
                "table_size",
                format!("is {table_clusters}: no power of two up to 16"),
            ));
        }
        if table_clusters * cluster > TABLE_MAX {
            return Err(FormatError::Unsupported(format!(
                "QED tables of {} bytes are not supported, at most {TABLE_MAX}",
                table_clusters * cluster
            )));
        }
        if header_clusters == 0 || header_clusters > 1 << 20 {
            return Err(refuse("header_size", format!("is {header_clusters} clusters")));
        }
        let l1_at = le::u64_at(bytes, 40);
        if !l1_at.is_multiple_of(cluster) || l1_at < header_clusters * cluster || l1_at > 1 << 56 {
            return Err(refuse("l1_table_offset", format!("is {l1_at:#x}, where no table can be")));
        }
        let mut header = Self {
            cluster,
            table_clusters,
            header_clusters,
            features,
            autoclear: le::u64_at(bytes, AUTOCLEAR_AT as usize),
            l1_at,
            size: le::u64_at(bytes, SIZE_AT as usize),
            backing_at: None,
            backing_file: String::new(),
        };
        if !header.size.is_multiple_of(512) || header.size > header.size_max() {
            return Err(refuse(
                "image_size",
                format!("is {}: no sectors, or more than the tables hold", header.size),
            ));
        }
        if features & features::BACKING != 0 {
            let (at, len) = (field(56), le::u32_at(bytes, 60));
            if len == 0 || len > NAME_MAX || at + u64::from(len) > header_clusters * cluster {
                return Err(refuse(
                    "backing_filename_size",
                    format!("is {len} at {at}: empty, longer than 1023, or outside the header"),
                ));
            }
            header.backing_at = Some(Range::new(at, u64::from(len)));
        }
        Ok(header)
    }

    /// The first cluster of a new image.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.cluster as usize];
        let mut put = |at, value: &[u8]| le::put(&mut bytes, at, value);
        let word = |n: u64| (n as u32).to_le_bytes();
        put(0, b"QED\0");
        put(4, &word(self.cluster));
        put(8, &word(self.table_clusters));
        put(12, &word(self.header_clusters));
        put(16, &self.features.to_le_bytes());
        put(40, &self.l1_at.to_le_bytes());
        put(48, &self.size.to_le_bytes());
        if let Some(name) = self.backing_at {
            put(56, &word(name.offset));
            put(60, &word(name.len));
            put(HEADER, self.backing_file.as_bytes());
        }
        bytes
    }
}
