//! Opening an image: from hostile bytes to a [`Qcow2`].

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use super::{
    COPY_BYTES_MAX, Qcow2,
    alloc::Allocator,
    be,
    bitmap::Bitmaps,
    cache::SliceCache,
    check,
    compressed::Unpacker,
    crypt::{self, Crypt},
    data::Data,
    header::{
        AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_DATA, HEADER_BYTES_MAX, Header, HeaderError, field,
        incompatible,
    },
    header_io::HeaderSector,
    host::Host,
    l1::L1,
    layout::{L1_BYTES_MAX, Layout},
    limbo::Limbo,
    pack::Packing,
    refcount::Refcounts,
    snapshot::{Snapshot, read_snapshots},
    sync::{RangeLocks, Semaphore},
    writeback::Flushes,
};
use crate::{
    BlockError, Cx, Info, Node, PinDomain,
    formats::{FormatError, Secret},
};

/// Memory for cached L2 entries where nothing else is asked for: enough for every entry of the
/// disk, up to this many bytes.
const CACHE_BYTES_MAX: u64 = 32 << 20;
/// A disk can grow while it is in use to eight times its size, or to this size, whichever is more.
const GROWTH_BYTES: u64 = 64 << 40;

/// How an image is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Never write to the image, not even marks.
    pub read_only: bool,
    /// Memory for cached L2 entries in bytes; by default enough for the whole disk, at most 32 MiB.
    pub cache_bytes: Option<u64>,
    /// Postpone refcount updates or not; by default as the image says. Version 2 cannot.
    pub lazy_refcounts: Option<bool>,
    /// `encrypt.key-secret`: the passphrase of an encrypted image.
    pub secret: Option<Secret>,
    /// `encrypt.format`: how it is encrypted, if that is to be as expected.
    pub encrypt_format: Option<String>,
}

/// Why an image cannot be opened. The caller adds the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The header does not allow it.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file could not be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: BlockError,
    },
    /// Guest data is in another file, which was not given.
    #[error("'data-file' is required for this image")]
    NoDataFile,
    /// A data file was given for an image that has none.
    #[error("'data-file' can only be set for images with an external data file")]
    DataFile,
    /// A table lies outside the file.
    #[error("the image is damaged or cut short: its {0} is outside the file")]
    Truncated(&'static str),
    /// The image is marked as damaged.
    #[error(
        "the image is marked as damaged and can only be opened read-only; repair it with 'spindle img check -r all'"
    )]
    Corrupt,
    /// The refcounts of an image that was not closed could not be rebuilt.
    #[error(
        "the image was not closed properly and its refcounts could not be rebuilt; see 'spindle img check'"
    )]
    Rebuild(#[source] Box<check::CheckError>),
    /// What is encrypted is not opened.
    #[error(transparent)]
    Crypt(#[from] FormatError),
}

/// For `map_err`.
fn io(doing: &'static str) -> impl Fn(BlockError) -> OpenError {
    move |source| OpenError::Io { doing, source }
}

/// Reads and checks the header of the image in `file`.
///
/// # Errors
/// When it cannot be read or is no header. What this driver does not support is not an error here:
/// ask [`Header::supported`].
pub async fn read_header(cx: &Cx, file: &Arc<dyn Node>) -> Result<Header, OpenError> {
    let host = Host::new(Arc::clone(file));
    Ok(read_first_cluster(cx, &host).await?.0)
}

pub(super) async fn read_first_cluster(
    cx: &Cx,
    host: &Host,
) -> Result<(Header, Vec<u8>), OpenError> {
    let doing = io("reading the image header");
    let size = host.node().info().size;
    let first = host.read(cx, 0, 512).await.map_err(&doing)?;
    let bits = be::u32_at(&first, 20);
    // Anything but a sane cluster size is refused by the parser, which needs no more to see it.
    let cluster = if (9..=21).contains(&bits) { 1u64 << bits } else { 512 };
    let len = cluster.min(size.max(512)).min(HEADER_BYTES_MAX as u64);
    let bytes = host.read(cx, 0, len as usize).await.map_err(&doing)?;
    Ok((Header::parse(&bytes)?, bytes))
}

/// The files of an image.
pub struct Files {
    /// The image.
    pub file: Arc<dyn Node>,
    /// What its header names as its backing file; without it, what is not in the image reads as
    /// zeros.
    pub backing: Option<Arc<dyn Node>>,
    /// The file that guest data is in, where the image says that there is one
    /// ([`Header::has_data_file`]).
    pub data: Option<Arc<dyn Node>>,
}

/// Opens the image in `file`, whose guest data is there too. `backing` is the node of the file that its header names, which the
/// caller has opened; without it, what is not in the image reads as zeros.
///
/// # Errors
/// See [`OpenError`]. The image is unchanged then, except that marks may have been written.
pub async fn open(
    cx: &Cx,
    file: Arc<dyn Node>,
    backing: Option<Arc<dyn Node>>,
    options: Options,
) -> Result<Arc<Qcow2>, OpenError> {
    open_files(cx, Files { file, backing, data: None }, options).await
}

/// Opens an image that may have its guest data in another file.
///
/// # Errors
/// As for [`open`]; also when a data file is missing, or is none of the image's.
pub async fn open_files(cx: &Cx, files: Files, options: Options) -> Result<Arc<Qcow2>, OpenError> {
    let Files { file, backing, data } = files;
    let host = Host::new(file);
    let (mut header, _) = read_first_cluster(cx, &host).await?;
    header.supported()?;
    let crypt = unlock(cx, &host, &header, &options).await?;
    match &data {
        None if header.has_data_file() => return Err(OpenError::NoDataFile),
        Some(_) if !header.has_data_file() => return Err(OpenError::DataFile),
        _ => {}
    }
    let read_only = options.read_only
        || host.node().info().read_only
        || data.as_ref().is_some_and(|data| data.info().read_only);
    if !read_only {
        if header.is_corrupt() {
            return Err(OpenError::Corrupt);
        }
        if header.is_dirty() {
            let rebuilt = check::put_right(cx, host.node()).await;
            rebuilt.map_err(|e| OpenError::Rebuild(Box::new(e)))?;
        }
        // Bitmaps and raw data files are kept up; of other features that clear themselves we know
        // nothing.
        let raw = if header.has_raw_data_file() { AUTOCLEAR_RAW_DATA } else { 0 };
        let kept = header.autoclear & (AUTOCLEAR_BITMAPS | raw);
        clear_autoclear(cx, &host, &header, kept).await?;
        header = read_first_cluster(cx, &host).await?.0;
    }
    let sector = host.read(cx, 0, 512).await.map_err(io("reading the image header"))?;
    let mut tables = Tables::read(cx, &host, &header).await?;
    if !read_only && header.snapshots > 0 {
        tables.find_snapshots(cx, &host, &header).await?;
    }
    let options = Options { read_only, ..options };
    let nodes = (host, data, backing);
    let image = Arc::new(assemble(nodes, &header, sector, tables, options, crypt));
    if !read_only && !image.start_bitmaps(cx).await? {
        log::warn!("the bitmaps of the image are damaged or of an unknown kind; they are void now");
        clear_autoclear(cx, &image.host, &header, header.autoclear & AUTOCLEAR_RAW_DATA).await?;
        let sector = image.host.read(cx, 0, 512).await;
        image.header_is(sector.map_err(io("reading the image header"))?);
    }
    Ok(image)
}

/// Opens the disk that a snapshot of the image in `file` holds, to be read only.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_snapshot(
    cx: &Cx,
    file: Arc<dyn Node>,
    backing: Option<Arc<dyn Node>>,
    options: Options,
    snapshot: &Snapshot,
) -> Result<Arc<Qcow2>, OpenError> {
    let host = Host::new(file);
    let (mut header, _) = read_first_cluster(cx, &host).await?;
    header.supported()?;
    if header.has_data_file() {
        return Err(OpenError::NoDataFile);
    }
    header.size = snapshot.disk_size.unwrap_or(header.size);
    header.l1_offset = snapshot.l1_offset;
    header.l1_size = snapshot.l1_size;
    header.check_fields()?;
    let sector = host.read(cx, 0, 512).await.map_err(io("reading the image header"))?;
    let tables = Tables::read(cx, &host, &header).await?;
    let crypt = unlock(cx, &host, &header, &options).await?;
    let options = Options { read_only: true, ..options };
    Ok(Arc::new(assemble((host, None, backing), &header, sector, tables, options, crypt)))
}

/// Sees that the passphrase of `options` opens the image in `file`, if it is encrypted.
///
/// # Errors
/// See [`OpenError`].
pub async fn unlocks(cx: &Cx, file: &Arc<dyn Node>, options: &Options) -> Result<(), OpenError> {
    let host = Host::new(Arc::clone(file));
    let (header, _) = read_first_cluster(cx, &host).await?;
    // Whatever else is wrong is for others to say.
    if header.supported().is_ok() {
        unlock(cx, &host, &header, options).await?;
    }
    Ok(())
}

async fn unlock(
    cx: &Cx,
    host: &Host,
    header: &Header,
    options: &Options,
) -> Result<Option<Crypt>, FormatError> {
    let format = options.encrypt_format.as_deref();
    crypt::open(cx, host, header, options.secret.as_ref(), format).await
}

/// Features that we do not keep up are declared void, as the specification demands, before anything
/// else is written.
async fn clear_autoclear(
    cx: &Cx,
    host: &Host,
    header: &Header,
    kept: u64,
) -> Result<(), OpenError> {
    if header.version < 3 || header.autoclear == kept {
        return Ok(());
    }
    let doing = io("clearing autoclear feature bits");
    let mut sector = host.read(cx, 0, 512).await.map_err(&doing)?;
    be::put(&mut sector, field::AUTOCLEAR, &kept.to_be_bytes());
    host.write_bytes(cx, 0, &sector).await.map_err(&doing)?;
    host.sync(cx).await.map_err(&doing)
}

/// The tables that are in memory as a whole.
struct Tables {
    l1: Vec<u64>,
    reftable: Vec<u64>,
    /// Offset and bytes of the snapshot table and the snapshots' L1 tables.
    snapshots: Vec<crate::Range>,
}

impl Tables {
    async fn read(cx: &Cx, host: &Host, header: &Header) -> Result<Self, OpenError> {
        let file = host.node().info().size;
        let l1_bytes = u64::from(header.l1_size) * 8;
        // Offsets are below 2^56 and lengths bounded: the header was checked.
        if header.l1_offset + l1_bytes > file.next_multiple_of(512) {
            return Err(OpenError::Truncated("L1 table"));
        }
        if header.reftable_offset >= file {
            return Err(OpenError::Truncated("refcount table"));
        }
        let l1 = host.read(cx, header.l1_offset, l1_bytes as usize).await;
        let l1 = be::table(&l1.map_err(io("reading the L1 table"))?);
        let ref_bytes = u64::from(header.reftable_clusters) << header.cluster_bits;
        let reftable = host.read(cx, header.reftable_offset, ref_bytes as usize).await;
        let mut reftable = be::table(&reftable.map_err(io("reading the refcount table"))?);
        let used = reftable.iter().rposition(|e| *e != 0).map_or(0, |last| last + 1);
        reftable.truncate(used);
        Ok(Self { l1, reftable, snapshots: Vec::new() })
    }

    /// Learns where the tables of snapshots are, so that nothing is written over them.
    async fn find_snapshots(
        &mut self,
        cx: &Cx,
        host: &Host,
        header: &Header,
    ) -> Result<(), OpenError> {
        let file = host.node().info().size;
        let doing = io("reading the snapshot table");
        let (list, bytes) = read_snapshots(cx, host, header).await.map_err(doing)?;
        self.snapshots.push(crate::Range::new(header.snapshots_offset, bytes));
        // A hostile table may name any number of bytes.
        let mut left = 2 * L1_BYTES_MAX;
        for one in list {
            let bytes = u64::from(one.l1_size) * 8;
            if one.l1_offset < file && bytes <= left {
                left -= bytes;
                self.snapshots.push(crate::Range::new(one.l1_offset, bytes));
            }
        }
        Ok(())
    }

    /// The clusters of all tables, and the L1 entries that share theirs with something else: what
    /// is written through those would destroy it.
    fn metadata(&self, header: &Header) -> (HashSet<u64>, HashSet<usize>) {
        let layout = header.layout();
        let clusters =
            |offset: u64, bytes: u64| layout.clusters_of(crate::Range::new(offset, bytes));
        let mut metadata: HashSet<u64> = HashSet::from([0]);
        metadata.extend(clusters(header.l1_offset, u64::from(header.l1_size) * 8));
        let ref_bytes = u64::from(header.reftable_clusters) << header.cluster_bits;
        metadata.extend(clusters(header.reftable_offset, ref_bytes));
        metadata.extend(header.encryption_clusters());
        metadata.extend(self.snapshots.iter().flat_map(|range| layout.clusters_of(*range)));
        metadata
            .extend(self.reftable.iter().filter(|e| **e != 0).map(|e| e >> layout.cluster_bits));
        let mut refused = HashSet::new();
        for (index, entry) in self.l1.iter().enumerate() {
            if let Ok(host) = layout.table_of(*entry)
                && host != 0
                && !metadata.insert(host >> layout.cluster_bits)
            {
                refused.insert(index);
            }
        }
        (metadata, refused)
    }
}

/// Slices that get a number: see [`GROWTH_BYTES`].
fn slices_max(layout: Layout, size: u64) -> u64 {
    let reach = size.saturating_mul(8).max(GROWTH_BYTES);
    let l1_max = super::layout::L1_BYTES_MAX / 8;
    let l1 = layout.l1_entries(reach).unwrap_or(l1_max);
    l1 * layout.slices_per_table()
}

/// The image's file, its data file, and its backing file.
type Nodes = (Host, Option<Arc<dyn Node>>, Option<Arc<dyn Node>>);

fn assemble(
    (host, data, backing): Nodes,
    header: &Header,
    sector: Vec<u8>,
    tables: Tables,
    options: Options,
    crypt: Option<Crypt>,
) -> Qcow2 {
    let layout = header.layout();
    let below = host.node().info();
    let host = Arc::new(host);
    let data = Data::new(&host, data, header.has_raw_data_file());
    let beside = backing.as_ref().map_or(below, |b| b.info());
    let of_data = data.host.node().info();
    let least = |of: fn(&Info) -> u64| of(&below).min(of(&beside)).min(of(&of_data));
    let most = |of: fn(&Info) -> u32| of(&below).max(of(&beside)).max(of(&of_data));
    let unit = if crypt.is_some() { crypt::SECTOR } else { 1 };
    let info = Info {
        size: header.size,
        request_alignment: most(|info| info.request_alignment).max(unit),
        memory_alignment: most(|info| info.memory_alignment),
        preferred_write: layout.unit() as u32,
        max_transfer: least(|info| info.max_transfer),
        max_segments: least(|info| info.max_segments.into()) as u32,
        discard_granularity: layout.unit() as u32,
        read_only: options.read_only,
    };
    let (metadata, refused) = tables.metadata(header);
    let slices = header.size.div_ceil(layout.cluster()).div_ceil(layout.slice_entries() as u64);
    let whole = slices.saturating_mul(layout.slice_bytes());
    let cache_bytes = options.cache_bytes.unwrap_or_else(|| whole.min(CACHE_BYTES_MAX));
    let refs = Refcounts::new(
        layout,
        tables.reftable,
        header.reftable_offset,
        u64::from(header.reftable_clusters),
    );
    Qcow2 {
        layout,
        data,
        backing,
        info,
        size: AtomicU64::new(header.size),
        corrupt: AtomicBool::new(header.incompatible & incompatible::CORRUPT != 0),
        lazy_refcounts: header.version >= 3
            && options.lazy_refcounts.unwrap_or_else(|| header.lazy_refcounts()),
        pins: PinDomain::default(),
        cache: SliceCache::new(layout, cache_bytes, slices_max(layout, header.size)),
        l1: L1::new(layout, header.l1_offset, tables.l1, refused),
        alloc: Allocator::new(layout, refs, metadata, below.size),
        limbo: Limbo::default(),
        header: HeaderSector::new(sector),
        clusters: RangeLocks::default(),
        tables: RangeLocks::default(),
        copies: Semaphore::new(COPY_BYTES_MAX),
        flushes: Flushes::default(),
        order: Semaphore::new(1),
        unpacker: Unpacker::new(header.compression),
        packing: Packing::default(),
        bitmaps: Bitmaps::default(),
        crypt,
        host,
    }
}
