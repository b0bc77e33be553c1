//! The header: parsed from hostile bytes, and made for new images. Pure.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Header" and "Header extensions".

use super::{
    be,
    counts::Width,
    layout::{L1_BYTES_MAX, Layout, OFFSET, REFTABLE_BYTES_MAX},
};

/// `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;
/// Length of a version 2 header.
pub const V2_LENGTH: usize = 72;
/// Length of the version 3 header that is written: all fields up to the compression type.
pub const V3_LENGTH: usize = 112;
/// The header and its extensions lie in the first cluster; no cluster is larger.
pub const HEADER_BYTES_MAX: usize = 2 << 20;

/// Byte offsets of the fields that change while an image is in use.
pub(super) mod field {
    pub const SIZE: usize = 24;
    pub const L1_SIZE: usize = 36;
    pub const L1_OFFSET: usize = 40;
    pub const REFTABLE_OFFSET: usize = 48;
    pub const REFTABLE_CLUSTERS: usize = 56;
    pub const SNAPSHOTS: usize = 60;
    pub const SNAPSHOTS_AT: usize = 64;
    pub const INCOMPATIBLE: usize = 72;
    pub const AUTOCLEAR: usize = 88;
    pub const REFCOUNT_ORDER: usize = 96;
}

/// Incompatible feature bits.
pub mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1;
    /// Some structure is known to be damaged.
    pub const CORRUPT: u64 = 2;
    /// Guest data is in another file.
    pub const DATA_FILE: u64 = 4;
    /// The compression type is not zlib.
    pub const COMPRESSION: u64 = 8;
    /// L2 entries have 128 bits.
    pub const EXTENDED_L2: u64 = 16;
}

/// Compatible feature bit: refcount updates are postponed.
pub const LAZY_REFCOUNTS: u64 = 1;
/// Autoclear feature bit: the bitmaps extension is consistent.
pub const AUTOCLEAR_BITMAPS: u64 = 1;
/// Autoclear feature bit: the data file is the disk, to be read without this image.
pub const AUTOCLEAR_RAW_DATA: u64 = 2;

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_BITMAPS: u32 = 0x2385_2875;
const EXT_DATA_FILE: u32 = 0x4441_5441;
/// log2 of the smallest cluster that has subclusters, which are not smaller than a sector.
pub(super) const EXTENDED_CLUSTER_BITS: u32 = 14;
const BACKING_NAME_MAX: u32 = 1023;
const SNAPSHOTS_MAX: u32 = 65536;
/// Disks are not larger than this, so that offsets never come near 64 bits.
const SIZE_MAX: u64 = 1 << 62;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// zstd frames.
    Zstd,
}

/// A header extension, kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its type.
    pub kind: u32,
    /// Its data, without padding.
    pub data: Vec<u8>,
}

/// A header whose fields have been checked, but not against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size, 9 to 21.
    pub cluster_bits: u32,
    /// Size of the disk in bytes.
    pub size: u64,
    /// 0: not encrypted; see [`Header::encryption`].
    pub crypt_method: u32,
    /// Entries of the L1 table.
    pub l1_size: u32,
    /// Byte offset of the L1 table.
    pub l1_offset: u64,
    /// Byte offset of the refcount table.
    pub reftable_offset: u64,
    /// Length of the refcount table in clusters.
    pub reftable_clusters: u32,
    /// Number of snapshots.
    pub snapshots: u32,
    /// Byte offset of the snapshot table.
    pub snapshots_offset: u64,
    /// See [`incompatible`].
    pub incompatible: u64,
    /// See [`LAZY_REFCOUNTS`].
    pub compatible: u64,
    /// See [`AUTOCLEAR_BITMAPS`].
    pub autoclear: u64,
    /// log2 of the width of a refcount in bits.
    pub refcount_order: u32,
    /// Length of the header in bytes, extensions not counted.
    pub header_length: u32,
    /// Compression of compressed clusters.
    pub compression: Compression,
    /// The backing file's name, as it is written.
    pub backing_file: Option<String>,
    /// Extensions in their order.
    pub extensions: Vec<Extension>,
}

/// Why an image cannot be opened. The caller adds the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first four bytes are not a qcow2 image's.
    #[error("not a qcow2 image: it begins with {0:#010x} instead of \"QFI\\xfb\"")]
    Magic(u32),
    /// A version that does not exist yet.
    #[error("qcow2 version {0} is not supported, only 2 and 3 are")]
    Version(u32),
    /// A feature that must be understood to read the image, and is not.
    #[error("the image uses features that are not supported: {0}")]
    Features(String),
    /// It is encrypted in a way that does not exist yet.
    #[error("Unsupported encryption method {0}")]
    Encrypted(u32),
    /// A field with an impossible value.
    #[error("the image header is damaged: {0}")]
    Field(&'static str),
}

fn check(ok: bool, what: &'static str) -> Result<(), HeaderError> {
    if ok { Ok(()) } else { Err(HeaderError::Field(what)) }
}

impl Header {
    /// Parses the beginning of an image. `bytes` holds the whole first cluster as far as the file
    /// has it; what is missing counts as zeros.
    ///
    /// # Errors
    /// See [`HeaderError`]. Features that only this driver lacks are refused by
    /// [`Header::supported`], so that tools can describe such images.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let magic = be::u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        let version = be::u32_at(bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let v3 = version == 3;
        let wide = |at| if v3 { be::u64_at(bytes, at) } else { 0 };
        let header_length = if v3 { be::u32_at(bytes, 100) } else { V2_LENGTH as u32 };
        let mut header = Self {
            version,
            cluster_bits: be::u32_at(bytes, 20),
            size: be::u64_at(bytes, field::SIZE),
            crypt_method: be::u32_at(bytes, 32),
            l1_size: be::u32_at(bytes, field::L1_SIZE),
            l1_offset: be::u64_at(bytes, field::L1_OFFSET),
            reftable_offset: be::u64_at(bytes, field::REFTABLE_OFFSET),
            reftable_clusters: be::u32_at(bytes, field::REFTABLE_CLUSTERS),
            snapshots: be::u32_at(bytes, field::SNAPSHOTS),
            snapshots_offset: be::u64_at(bytes, field::SNAPSHOTS_AT),
            incompatible: wide(field::INCOMPATIBLE),
            compatible: wide(80),
            autoclear: wide(field::AUTOCLEAR),
            refcount_order: if v3 { be::u32_at(bytes, field::REFCOUNT_ORDER) } else { 4 },
            header_length,
            compression: Compression::Zlib,
            backing_file: None,
            extensions: Vec::new(),
        };
        header.check_fields()?;
        if header_length > 104 {
            header.compression = match bytes.get(104) {
                None | Some(0) => Compression::Zlib,
                Some(1) => Compression::Zstd,
                Some(_) => return Err(HeaderError::Field("unknown compression type")),
            };
        }
        let named = header.incompatible & incompatible::COMPRESSION != 0;
        check(
            named == (header.compression != Compression::Zlib),
            "compression type and its feature bit disagree",
        )?;
        header.parse_tail(bytes)?;
        Ok(header)
    }

    pub(super) fn check_fields(&self) -> Result<(), HeaderError> {
        check((9..=21).contains(&self.cluster_bits), "cluster size is not 512 bytes to 2 MiB")?;
        let layout = self.layout();
        let length = self.header_length;
        let least = if self.version == 3 { 104 } else { V2_LENGTH as u32 };
        check(length >= least && length.is_multiple_of(8), "header length")?;
        check(u64::from(length) <= layout.cluster(), "header longer than a cluster")?;
        check(self.size <= SIZE_MAX, "disk size beyond any limit")?;
        check(self.refcount_order <= 6, "refcount width beyond 64 bits")?;
        check(
            !self.has_extended_l2() || self.cluster_bits >= EXTENDED_CLUSTER_BITS,
            "extended L2 entries with clusters below 16 KiB",
        )?;
        check(u64::from(self.l1_size) * 8 <= L1_BYTES_MAX, "L1 table larger than 32 MiB")?;
        let needed = layout.l1_entries(self.size);
        check(
            needed.is_some_and(|n| n <= u64::from(self.l1_size)),
            "L1 table too small for the disk",
        )?;
        let in_file = |at: u64| at & !OFFSET == 0 && layout.is_cluster_offset(at);
        check(in_file(self.l1_offset), "offset of the L1 table")?;
        check(self.l1_size == 0 || self.l1_offset != 0, "offset of the L1 table")?;
        let reftable = u64::from(self.reftable_clusters) << self.cluster_bits;
        check(reftable > 0 && reftable <= REFTABLE_BYTES_MAX, "size of the refcount table")?;
        check(
            in_file(self.reftable_offset) && self.reftable_offset != 0,
            "offset of the refcount table",
        )?;
        check(self.snapshots <= SNAPSHOTS_MAX, "more than 65536 snapshots")?;
        check(self.snapshots == 0 || in_file(self.snapshots_offset), "offset of the snapshot table")
    }

    /// Extensions and the backing file's name.
    fn parse_tail(&mut self, bytes: &[u8]) -> Result<(), HeaderError> {
        let cluster = self.layout().cluster().min(bytes.len() as u64);
        let name_offset = be::u64_at(bytes, 8);
        let name_length = be::u32_at(bytes, 16);
        let mut end = cluster;
        if name_offset != 0 {
            check(name_length <= BACKING_NAME_MAX, "backing file name longer than 1023 bytes")?;
            let name_end = name_offset.saturating_add(u64::from(name_length));
            check(
                name_offset >= u64::from(self.header_length) && name_end <= cluster,
                "offset of the backing file name",
            )?;
            end = name_offset;
            if name_length > 0 {
                let name = &bytes[name_offset as usize..name_end as usize];
                let name = std::str::from_utf8(name)
                    .map_err(|_| HeaderError::Field("backing file name is not UTF-8"))?;
                check(!name.contains('\0'), "backing file name holds a zero byte")?;
                self.backing_file = Some(name.to_owned());
            }
        }
        self.parse_extensions(bytes.get(..end as usize).unwrap_or(bytes))
    }

    fn parse_extensions(&mut self, bytes: &[u8]) -> Result<(), HeaderError> {
        let mut at = self.header_length as usize;
        while at + 8 <= bytes.len() {
            let kind = be::u32_at(bytes, at);
            if kind == EXT_END {
                break;
            }
            let length = be::u32_at(bytes, at + 4) as usize;
            let data = at
                .checked_add(8)
                .and_then(|start| bytes.get(start..start.checked_add(length)?))
                .ok_or(HeaderError::Field("header extension too long"))?;
            self.extensions.push(Extension { kind, data: data.to_vec() });
            at += 8 + length.next_multiple_of(8);
        }
        Ok(())
    }

    /// Whether this driver can read and write the image.
    ///
    /// # Errors
    /// With the names of what it lacks.
    pub fn supported(&self) -> Result<(), HeaderError> {
        let known = incompatible::DIRTY
            | incompatible::CORRUPT
            | incompatible::DATA_FILE
            | incompatible::COMPRESSION
            | incompatible::EXTENDED_L2;
        let unknown = self.incompatible & !known;
        if unknown != 0 {
            let bits = (0..64u8).filter(|bit| unknown >> bit & 1 == 1);
            let names: Vec<String> = bits.map(|bit| self.feature_name(bit)).collect();
            return Err(HeaderError::Features(names.join(", ")));
        }
        if self.crypt_method != 0 && self.encryption().is_none() {
            return Err(HeaderError::Encrypted(self.crypt_method));
        }
        Ok(())
    }

    /// The name of an incompatible feature: from the image's own table, or its number.
    fn feature_name(&self, bit: u8) -> String {
        // Entries of 48 bytes: type (0: incompatible), bit number, 46 bytes of name.
        let table = self.extension(EXT_FEATURE_NAMES).unwrap_or_default();
        let entry = table.as_chunks::<48>().0.iter().find(|e| e[0] == 0 && e[1] == bit);
        let printable = |b: &&u8| (b' '..=b'~').contains(*b);
        let name: String = entry
            .map(|e| e[2..].iter().take_while(printable).map(|b| char::from(*b)).collect())
            .unwrap_or_default();
        if name.is_empty() { format!("unknown feature bit {bit}") } else { name }
    }

    fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.kind == kind).map(|e| &e.data[..])
    }

    /// The backing file's format, where the image names one.
    #[must_use]
    pub fn backing_format(&self) -> Option<String> {
        let data = self.extension(EXT_BACKING_FORMAT)?;
        std::str::from_utf8(data).ok().map(str::to_owned)
    }

    /// Whether guest data is in another file.
    #[must_use]
    pub fn has_data_file(&self) -> bool {
        self.incompatible & incompatible::DATA_FILE != 0
    }

    /// The name of the file that guest data is in, where the image gives one.
    #[must_use]
    pub fn data_file(&self) -> Option<String> {
        let data = self.has_data_file().then(|| self.extension(EXT_DATA_FILE))??;
        Some(String::from_utf8_lossy(data).into_owned())
    }

    /// Names the file that guest data is in; the feature bit is somebody else's matter.
    pub fn set_data_file(&mut self, name: Option<&str>) {
        self.extensions.retain(|extension| extension.kind != EXT_DATA_FILE);
        if let Some(name) = name {
            let data = name.as_bytes().to_vec();
            // After the backing file's format, as QEMU writes them.
            let at = usize::from(self.backing_format().is_some());
            self.extensions.insert(at, Extension { kind: EXT_DATA_FILE, data });
        }
    }

    /// Whether the data file is the disk as it is. Where the disk is encrypted it is not, whatever the
    /// image says.
    #[must_use]
    pub fn has_raw_data_file(&self) -> bool {
        self.has_data_file() && self.crypt_method == 0 && self.autoclear & AUTOCLEAR_RAW_DATA != 0
    }

    /// Whether clusters are made of subclusters.
    #[must_use]
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Where the bitmap directory is, while it is consistent: number of bitmaps, bytes, offset.
    #[must_use]
    pub fn bitmaps(&self) -> Option<(u32, u64, u64)> {
        if self.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return None;
        }
        let data = self.extension(EXT_BITMAPS)?;
        Some((be::u32_at(data, 0), be::u64_at(data, 8), be::u64_at(data, 16)))
    }

    /// Names another bitmap directory, or none: number of bitmaps, bytes, offset.
    pub(super) fn set_bitmaps(&mut self, directory: Option<(u32, u64, u64)>) {
        self.extensions.retain(|extension| extension.kind != EXT_BITMAPS);
        if let Some((count, bytes, offset)) = directory {
            let mut data = Vec::from(count.to_be_bytes());
            data.extend([0; 4]);
            data.extend(bytes.to_be_bytes());
            data.extend(offset.to_be_bytes());
            self.extensions.push(Extension { kind: EXT_BITMAPS, data });
        }
    }

    /// Whether refcounts may be written late.
    #[must_use]
    pub fn lazy_refcounts(&self) -> bool {
        self.version == 3 && self.compatible & LAZY_REFCOUNTS != 0
    }

    /// Whether the refcounts may be wrong.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.incompatible & incompatible::DIRTY != 0
    }

    /// Whether the image is marked as damaged.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.incompatible & incompatible::CORRUPT != 0
    }

    pub(super) fn layout(&self) -> Layout {
        Layout {
            cluster_bits: self.cluster_bits,
            version: self.version,
            refs: Width::of(self.refcount_order),
            extended: self.has_extended_l2(),
            external: self.has_data_file(),
        }
    }

    /// The bytes of a new image's header, extensions and backing file name: at most one cluster.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeaderError> {
        let v3 = self.version == 3;
        let length = if v3 { V3_LENGTH } else { V2_LENGTH };
        let mut bytes = vec![0; length];
        let mut put32 = |at, v: u32| be::put(&mut bytes, at, &v.to_be_bytes());
        put32(0, MAGIC);
        put32(4, self.version);
        put32(20, self.cluster_bits);
        put32(32, self.crypt_method);
        put32(field::L1_SIZE, self.l1_size);
        put32(field::REFTABLE_CLUSTERS, self.reftable_clusters);
        put32(field::SNAPSHOTS, self.snapshots);
        if v3 {
            put32(field::REFCOUNT_ORDER, self.refcount_order);
            put32(100, V3_LENGTH as u32);
            put32(104, u32::from(self.compression == Compression::Zstd) << 24);
        }
        let mut put64 = |at, v: u64| be::put(&mut bytes, at, &v.to_be_bytes());
        put64(field::SIZE, self.size);
        put64(field::L1_OFFSET, self.l1_offset);
        put64(field::REFTABLE_OFFSET, self.reftable_offset);
        put64(field::SNAPSHOTS_AT, self.snapshots_offset);
        if v3 {
            put64(field::INCOMPATIBLE, self.incompatible);
            put64(80, self.compatible);
            put64(field::AUTOCLEAR, self.autoclear);
        }
        for extension in &self.extensions {
            bytes.extend(extension.kind.to_be_bytes());
            bytes.extend((extension.data.len() as u32).to_be_bytes());
            bytes.extend(&extension.data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]);
        if let Some(name) = &self.backing_file {
            check(name.len() <= BACKING_NAME_MAX as usize, "backing file name too long")?;
            let at = bytes.len() as u64;
            be::put(&mut bytes, 8, &at.to_be_bytes());
            be::put(&mut bytes, 16, &(name.len() as u32).to_be_bytes());
            bytes.extend(name.as_bytes());
        }
        check(
            bytes.len() as u64 <= self.layout().cluster(),
            "header and backing file name do not fit in a cluster; use a larger cluster size",
        )?;
        Ok(bytes)
    }

    /// Takes away the extension that names the backing file's format.
    pub(super) fn clear_backing_format(&mut self) {
        self.extensions.retain(|extension| extension.kind != EXT_BACKING_FORMAT);
    }

    /// Adds the extension that names the backing file's format.
    pub fn set_backing_format(&mut self, format: &str) {
        let data = format.as_bytes().to_vec();
        self.extensions.insert(0, Extension { kind: EXT_BACKING_FORMAT, data });
    }

    /// Takes away the table of feature names.
    pub(super) fn clear_feature_names(&mut self) {
        self.extensions.retain(|extension| extension.kind != EXT_FEATURE_NAMES);
    }

    /// Adds the table of feature names, for those who do not know the features.
    pub fn set_feature_names(&mut self) {
        let names: [(u8, u8, &str); 7] = [
            (0, 0, "dirty bit"),
            (0, 1, "corrupt bit"),
            (0, 2, "external data file"),
            (0, 3, "compression type"),
            (0, 4, "extended L2 entries"),
            (1, 0, "lazy refcounts"),
            (2, 0, "bitmaps"),
        ];
        let mut data = Vec::new();
        for (kind, bit, name) in names {
            data.extend([kind, bit]);
            data.extend(name.as_bytes());
            data.resize(data.len().next_multiple_of(48), 0);
        }
        self.extensions.push(Extension { kind: EXT_FEATURE_NAMES, data });
    }
}
