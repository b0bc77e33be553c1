//! Making images.

use std::sync::Arc;

use super::{
    counts::Width,
    crypt::{self, Encrypt},
    header::{
        AUTOCLEAR_RAW_DATA, Compression, EXTENDED_CLUSTER_BITS, Header, HeaderError,
        LAZY_REFCOUNTS, V2_LENGTH, V3_LENGTH, incompatible,
    },
    host::Host,
    join::{self, Work},
    layout::{COPIED, Layout, REFTABLE_BYTES_MAX},
};
use crate::{BlockError, Cx, Node, Range, formats::FormatError};

/// What is set aside when an image is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// All metadata; data clusters are mapped but holes in the file. With a backing file, which needs
    /// subclusters, they have a place and no contents.
    Metadata,
}

/// What an image is to be like. The defaults are QEMU's.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size of the disk in bytes; rounded up to 512.
    pub size: u64,
    /// Cluster size in bytes: a power of two, 512 to 2 MiB.
    pub cluster_size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Postpone refcount updates (version 3).
    pub lazy_refcounts: bool,
    /// How clusters will be compressed (version 3 for zstd).
    pub compression: Compression,
    /// Backing file: name and format.
    pub backing: Option<(String, String)>,
    /// Width of a refcount in bits: a power of two, 1 to 64 (version 2: 16).
    pub refcount_bits: u32,
    /// See [`Preallocation`].
    pub preallocation: Preallocation,
    /// Clusters of at least 16 KiB are made of subclusters (version 3).
    pub extended_l2: bool,
    /// The name of the file that guest data will be in (version 3).
    pub data_file: Option<String>,
    /// That file is the disk, to be read without the image: it holds no backing file's data, and every
    /// cluster is mapped.
    pub data_file_raw: bool,
    /// How the disk is encrypted, if at all.
    pub encrypt: Option<Encrypt>,
}

impl CreateOptions {
    /// A version 3 image of `size` bytes with 64 KiB clusters.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            cluster_size: 64 << 10,
            version: 3,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            backing: None,
            refcount_bits: 16,
            preallocation: Preallocation::Off,
            extended_l2: false,
            data_file: None,
            data_file_raw: false,
            encrypt: None,
        }
    }
}

/// Why an image was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// A cluster size that there is not.
    #[error("cluster size {0} is not a power of two from 512 to 2097152 (2M)")]
    ClusterSize(u64),
    /// A version that there is not.
    #[error("qcow2 version {0} does not exist; compat is 0.10 (2) or 1.1 (3)")]
    Version(u32),
    /// A width that refcounts cannot have.
    #[error("Refcount width must be a power of two and may not exceed 64 bits")]
    RefcountBits(u64),
    /// A feature that version 2 does not have.
    #[error("{0} needs compat=1.1")]
    NeedsVersion3(&'static str),
    /// Preallocated clusters would hide the backing file.
    #[error(
        "Backing file and preallocation can only be used at the same time if extended_l2 is on"
    )]
    PreallocatedBacking,
    /// Subclusters are not smaller than a sector.
    #[error("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes")]
    ExtendedClusterSize,
    /// Version 2 has one file.
    #[error(
        "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )]
    DataFileVersion,
    /// Version 2 has no subclusters.
    #[error(
        "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )]
    ExtendedVersion,
    /// There is no data file that could be raw.
    #[error("data-file-raw requires data-file")]
    RawWithoutDataFile,
    /// A raw data file is the whole disk.
    #[error("Backing file and data-file-raw cannot be used at the same time")]
    RawBacking,
    /// A pipe is one file.
    #[error("an image with an external data file cannot be written to a pipe")]
    StreamedDataFile,
    /// Its header could be written, its data is not.
    #[error("an encrypted image cannot be written to a pipe")]
    StreamedCrypt,
    /// What is raw is not encrypted.
    #[error("Encryption and data-file-raw cannot be used at the same time")]
    RawEncrypted,
    /// The disk is too large for its cluster size.
    #[error(
        "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
    )]
    TooLarge {
        /// Bytes asked for.
        size: u64,
        /// Bytes in a cluster.
        cluster_size: u64,
    },
    /// The header does not fit.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The encryption cannot be.
    #[error(transparent)]
    Crypt(#[from] FormatError),
    /// The file could not be written.
    #[error("writing the new image")]
    Io(#[from] BlockError),
}

/// Where everything is, in clusters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub reftable: u64,
    pub blocks: u64,
    pub l1: u64,
    l1_entries: u64,
    /// With preallocation only.
    tables: u64,
    /// Guest clusters that are mapped, and those of them that are in this file.
    mapped: u64,
    /// The LUKS header.
    crypt: u64,
    data: u64,
}

impl Plan {
    fn new(layout: Layout, size: u64, metadata: bool, crypt_len: u64) -> Option<Self> {
        let l1_entries = layout.l1_entries(size)?;
        let mapped = if metadata { size.div_ceil(layout.cluster()) } else { 0 };
        let tables = if metadata { l1_entries } else { 0 };
        Self::with(layout, l1_entries, (tables, mapped), crypt_len)
    }

    /// With so many L2 tables and guest clusters mapped; `None` where that is beyond the limit.
    pub fn with(
        layout: Layout,
        l1_entries: u64,
        (tables, mapped): (u64, u64),
        crypt_len: u64,
    ) -> Option<Self> {
        let cluster = layout.cluster();
        let l1 = (l1_entries * 8).div_ceil(cluster);
        let data = if layout.external { 0 } else { mapped };
        let crypt = crypt_len.div_ceil(cluster);
        let mut plan = Self { reftable: 1, blocks: 1, l1, l1_entries, tables, crypt, mapped, data };
        loop {
            let blocks = plan.total().div_ceil(layout.refs_per_block());
            let reftable = (blocks * 8).div_ceil(cluster);
            if (blocks, reftable) == (plan.blocks, plan.reftable) {
                return (reftable * cluster <= REFTABLE_BYTES_MAX).then_some(plan);
            }
            plan.blocks = blocks.max(plan.blocks);
            plan.reftable = reftable.max(plan.reftable);
        }
    }

    pub fn blocks_at(&self) -> u64 {
        1 + self.reftable
    }

    pub fn l1_at(&self) -> u64 {
        self.blocks_at() + self.blocks
    }

    pub fn tables_at(&self) -> u64 {
        self.l1_at() + self.l1
    }

    fn crypt_at(&self) -> u64 {
        self.tables_at() + self.tables
    }

    pub fn data_at(&self) -> u64 {
        self.crypt_at() + self.crypt
    }

    pub fn total(&self) -> u64 {
        self.data_at() + self.data
    }
}

/// Makes an image in `file`, whose old contents are lost. The header is written last: what is left
/// behind by a crash is no image.
///
/// # Errors
/// See [`CreateError`].
pub async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), CreateError> {
    let (header, plan) = plan(options)?;
    let bytes = header.to_bytes()?;
    let host = Host::new(Arc::clone(file));
    write(cx, &host, &header, plan, (&bytes, options.encrypt.as_ref())).await
}

/// Whether such an image can be made at all.
///
/// # Errors
/// See [`CreateError`].
pub fn check(options: &CreateOptions) -> Result<(), CreateError> {
    plan(options).and_then(|(header, _)| Ok(header.to_bytes().map(drop)?))
}

pub(super) fn plan(options: &CreateOptions) -> Result<(Header, Plan), CreateError> {
    let cluster_size = options.cluster_size;
    if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
        return Err(CreateError::ClusterSize(cluster_size));
    }
    if !(2..=3).contains(&options.version) {
        return Err(CreateError::Version(options.version));
    }
    let zstd = options.compression == Compression::Zstd;
    if options.version < 3 && (options.lazy_refcounts || zstd) {
        let what = if zstd { "compression_type=zstd" } else { "lazy_refcounts=on" };
        return Err(CreateError::NeedsVersion3(what));
    }
    let bits = options.refcount_bits;
    if !bits.is_power_of_two() || bits > 64 {
        return Err(CreateError::RefcountBits(bits.into()));
    }
    if options.version < 3 && bits != 16 {
        return Err(CreateError::NeedsVersion3("refcount_bits other than 16"));
    }
    let refs = Width::of(bits.trailing_zeros());
    check_features(options)?;
    let metadata = options.preallocation == Preallocation::Metadata || options.data_file_raw;
    let layout = Layout {
        cluster_bits: cluster_size.trailing_zeros(),
        version: options.version,
        refs,
        extended: options.extended_l2,
        external: options.data_file.is_some(),
    };
    let too_large = CreateError::TooLarge { size: options.size, cluster_size };
    let size = options.size.checked_next_multiple_of(512).ok_or(too_large.clone())?;
    let crypt_len = crypt::header_len(options.encrypt.as_ref())?;
    let plan = Plan::new(layout, size, metadata, crypt_len).ok_or(too_large)?;
    let mut header = Header {
        version: options.version,
        cluster_bits: layout.cluster_bits,
        size,
        crypt_method: options.encrypt.as_ref().map_or(0, Encrypt::method),
        l1_size: plan.l1_entries as u32,
        l1_offset: plan.l1_at() << layout.cluster_bits,
        reftable_offset: layout.cluster(),
        reftable_clusters: plan.reftable as u32,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: bit(zstd, incompatible::COMPRESSION)
            | bit(layout.external, incompatible::DATA_FILE)
            | bit(layout.extended, incompatible::EXTENDED_L2),
        compatible: bit(options.lazy_refcounts, LAZY_REFCOUNTS),
        autoclear: bit(options.data_file_raw, AUTOCLEAR_RAW_DATA),
        refcount_order: bits.trailing_zeros(),
        header_length: if options.version == 3 { V3_LENGTH } else { V2_LENGTH } as u32,
        compression: options.compression,
        backing_file: None,
        extensions: Vec::new(),
    };
    if let Some((name, format)) = &options.backing {
        header.backing_file = Some(name.clone());
        header.set_backing_format(format);
    }
    header.set_data_file(options.data_file.as_deref());
    if plan.crypt > 0 {
        let place = Range::new(plan.crypt_at() << layout.cluster_bits, crypt_len);
        header.set_encryption_header(place);
    }
    // Small clusters have no room for the names, which are a courtesy.
    if options.version == 3 && cluster_size >= 4096 {
        header.set_feature_names();
    }
    Ok((header, plan))
}

fn bit(on: bool, bit: u64) -> u64 {
    if on { bit } else { 0 }
}

/// Subclusters, data files, and what they go together with.
fn check_features(options: &CreateOptions) -> Result<(), CreateError> {
    let check = |ok: bool, error| if ok { Ok(()) } else { Err(error) };
    let version_3 = options.version >= 3;
    let (data_file, backing) = (options.data_file.is_some(), options.backing.is_some());
    check(data_file || !options.data_file_raw, CreateError::RawWithoutDataFile)?;
    check(!(options.data_file_raw && backing), CreateError::RawBacking)?;
    check(!(options.data_file_raw && options.encrypt.is_some()), CreateError::RawEncrypted)?;
    check(version_3 || !data_file, CreateError::DataFileVersion)?;
    let preallocated = options.preallocation == Preallocation::Metadata;
    if !options.extended_l2 {
        return check(!(preallocated && backing), CreateError::PreallocatedBacking);
    }
    check(options.cluster_size >= 1 << EXTENDED_CLUSTER_BITS, CreateError::ExtendedClusterSize)?;
    check(version_3, CreateError::ExtendedVersion)
}

/// Pieces of tables that are written at once.
const WIDTH: usize = 16;
/// Bytes of a table that are made in memory at once.
const PIECE: u64 = 256 << 10;

async fn write(
    cx: &Cx,
    host: &Host,
    header: &Header,
    plan: Plan,
    (header_bytes, encrypt): (&[u8], Option<&Encrypt>),
) -> Result<(), CreateError> {
    let layout = header.layout();
    let bits = layout.cluster_bits;
    let end = plan.total() << bits;
    // A block device keeps its length; every table is written in full, so its contents are no
    // matter. A file is emptied first.
    match host.set_len(cx, 0).await {
        Ok(()) => host.set_len(cx, end).await?,
        Err(_) if host.node().info().size >= end => {
            host.write_bytes(cx, 0, &[0; 512]).await?;
            host.sync(cx).await?;
        }
        Err(error) => return Err(error.into()),
    }
    let total = plan.total();
    let refs = layout.refs;
    let counts = |at: u64| {
        let (first, n) = (refs.in_bytes(at), refs.in_bytes(8));
        let mut bytes = [0; 8];
        (0..n).for_each(|i| refs.put(&mut bytes, i, u64::from(first + i < total)));
        bytes
    };
    table(cx, host, plan.blocks_at() << bits, plan.blocks << bits, counts).await?;
    let block = |index: u64| entry(index < plan.blocks, plan.blocks_at() + index, bits);
    table(cx, host, 1 << bits, plan.reftable << bits, |at| block(at / 8).to_be_bytes()).await?;
    let l2 = |index: u64| {
        entry(index < plan.tables, plan.tables_at() + index, bits) | owned(index < plan.tables)
    };
    table(cx, host, plan.l1_at() << bits, plan.l1 << bits, |at| l2(at / 8).to_be_bytes()).await?;
    let data = |index: u64| {
        let mapped = index < plan.mapped;
        let cluster = if layout.external { index } else { plan.data_at() + index };
        entry(mapped, cluster, bits) | owned(mapped)
    };
    // Over a backing file, subclusters have a place and no contents.
    let subs = |index: u64| {
        let placed = index < plan.mapped && header.backing_file.is_none();
        if placed { u64::from(u32::MAX) } else { 0 }
    };
    let (at, len) = (plan.tables_at() << bits, plan.tables << bits);
    if layout.extended {
        let whole = |index: u64| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&data(index).to_be_bytes());
            bytes[8..].copy_from_slice(&subs(index).to_be_bytes());
            bytes
        };
        table(cx, host, at, len, |at| whole(at / 16)).await?;
    } else {
        table(cx, host, at, len, |at| data(at / 8).to_be_bytes()).await?;
    }
    crypt::write_header(cx, host, header, encrypt).await?;
    host.sync(cx).await?;
    let mut first = header_bytes.to_vec();
    first.resize(layout.cluster() as usize, 0);
    host.write_bytes(cx, 0, &first).await?;
    Ok(host.sync(cx).await?)
}

fn entry(exists: bool, cluster: u64, bits: u32) -> u64 {
    if exists { cluster << bits } else { 0 }
}

fn owned(exists: bool) -> u64 {
    if exists { COPIED } else { 0 }
}

/// Writes a table of `len` bytes whose entries, of `N` bytes each, `at` makes.
async fn table<const N: usize>(
    cx: &Cx,
    host: &Host,
    offset: u64,
    len: u64,
    at: impl Fn(u64) -> [u8; N],
) -> Result<(), BlockError> {
    let at = &at;
    let work = (0..len.div_ceil(PIECE)).map(|piece| -> Work<'_> {
        Box::pin(async move {
            let (start, end) = (piece * PIECE, len.min((piece + 1) * PIECE));
            let bytes: Vec<u8> = (start..end).step_by(N).flat_map(at).collect();
            host.write_bytes(cx, offset + start, &bytes).await
        })
    });
    join::all(work, WIDTH).await
}
