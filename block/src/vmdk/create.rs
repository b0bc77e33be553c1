//! Making VMDKs.

use std::{fmt::Write, sync::Arc};

use super::{
    descriptor::NO_PARENT,
    spec::{Header, SECTOR, TABLE_BYTES, flags},
    stream,
};
use crate::{
    BlockError, Cx, Node, Range,
    formats::{BLOCKS_MAX, FormatError, begin, io},
    qcow2::host::Host,
};

const GRAIN: u64 = 64 << 10;
/// Where the descriptor is in a sparse extent, and how much room it has (sectors).
const DESCRIPTOR: Range = Range { offset: SECTOR, len: 20 * SECTOR };
/// Bytes of an extent of the kinds that are split.
const SPLIT: u64 = 2 << 30;

/// `subformat=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// One file that grows.
    #[default]
    MonolithicSparse,
    /// A descriptor, and one file of plain bytes.
    MonolithicFlat,
    /// A descriptor, and files of up to 2 GiB that grow.
    TwoGbMaxExtentSparse,
    /// A descriptor, and files of up to 2 GiB of plain bytes.
    TwoGbMaxExtentFlat,
    /// One file with compressed grains, written in one go.
    StreamOptimized,
}

impl Subformat {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::MonolithicSparse,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentSparse,
        Self::TwoGbMaxExtentFlat,
        Self::StreamOptimized,
    ];

    /// The name, as descriptors have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
        }
    }

    /// Whether extents are plain bytes.
    #[must_use]
    pub fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::TwoGbMaxExtentFlat)
    }

    fn is_split(self) -> bool {
        matches!(self, Self::TwoGbMaxExtentFlat | Self::TwoGbMaxExtentSparse)
    }

    fn is_embedded(self) -> bool {
        matches!(self, Self::MonolithicSparse | Self::StreamOptimized)
    }
}

/// What an image is to be like. The defaults are QEMU's.
#[derive(Clone, Debug)]
pub struct VmdkOptions {
    /// Bytes of the disk; a multiple of 512.
    pub size: u64,
    /// See [`Subformat`].
    pub subformat: Subformat,
    /// `ide`, `lsilogic`, `buslogic` or `legacyESX`.
    pub adapter_type: String,
    /// `ddb.virtualHWVersion`.
    pub hwversion: String,
    /// `ddb.toolsVersion`.
    pub toolsversion: String,
    /// Grains can be marked as zeros.
    pub zeroed_grain: bool,
    /// Backing file, and its content id as [`Facts::id`](crate::formats::Facts::id) has it.
    pub backing: Option<(String, [u8; 16])>,
}

impl VmdkOptions {
    /// An image of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            subformat: Subformat::default(),
            adapter_type: "ide".to_owned(),
            hwversion: "4".to_owned(),
            toolsversion: "2147483647".to_owned(),
            zeroed_grain: false,
            backing: None,
        }
    }
}

/// Makes further files of an image, in its directory.
pub trait Make {
    /// Makes the file `name`, empty; what was there under this name is lost.
    ///
    /// # Errors
    /// A sentence about why not.
    fn make(&self, name: &str) -> Result<Arc<dyn Node>, String>;
}

fn check(options: &VmdkOptions) -> Result<(), FormatError> {
    let bad = |what: &str| Err(FormatError::Option(what.to_owned()));
    if options.subformat.is_flat() && options.backing.is_some() {
        return bad("Flat image can't have backing file");
    }
    if options.subformat.is_flat() && options.zeroed_grain {
        return bad("Flat image can't enable zeroed grain");
    }
    if !["ide", "lsilogic", "buslogic", "legacyESX"].contains(&&*options.adapter_type) {
        return Err(FormatError::Option(format!(
            "Unknown adapter type: '{}'",
            options.adapter_type.escape_debug()
        )));
    }
    let limit = if options.subformat.is_flat() { i64::MAX as u64 } else { BLOCKS_MAX * GRAIN };
    if options.size > limit {
        return bad("the disk is too large for a VMDK");
    }
    Ok(())
}

/// The descriptor's text.
fn text(options: &VmdkOptions, extents: &[String]) -> Result<String, FormatError> {
    let heads = if options.adapter_type == "ide" { 16 } else { 255 };
    let parent = match &options.backing {
        Some((_, id)) => u128::from_be_bytes(*id) as u32,
        None => NO_PARENT,
    };
    let mut out = format!(
        "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID={parent:08x}\ncreateType=\"{}\"\n",
        fastrand::u32(0..u32::MAX - 1),
        options.subformat.name()
    );
    if let Some((name, _)) = &options.backing {
        if name.contains(['"', '\n']) {
            return Err(FormatError::Option(
                "the backing file's name has a quotation mark or a line end".to_owned(),
            ));
        }
        let _ = writeln!(out, "parentFileNameHint=\"{name}\"");
    }
    out.push_str("\n# Extent description\n");
    for extent in extents {
        let _ = writeln!(out, "{extent}");
    }
    let _ = write!(
        out,
        "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \
         \"{}\"\nddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\nddb.adapterType \
         = \"{}\"\nddb.toolsVersion = \"{}\"\n",
        options.hwversion,
        options.size / (63 * heads * 512),
        options.adapter_type,
        options.toolsversion
    );
    if out.len() as u64 > DESCRIPTOR.len && options.subformat.is_embedded() {
        return Err(FormatError::Option("the descriptor is longer than 10 KiB".to_owned()));
    }
    Ok(out)
}

/// The header of a new sparse extent.
fn header(options: &VmdkOptions, size: u64, descriptor: bool) -> Header {
    let stream = options.subformat == Subformat::StreamOptimized;
    let mut flags = flags::NEWLINES;
    flags |= if stream { flags::COMPRESSED | flags::MARKERS } else { flags::REDUNDANT };
    flags |= if options.zeroed_grain { flags::ZERO_GRAINS } else { 0 };
    let version = if stream {
        3
    } else if options.zeroed_grain {
        2
    } else {
        1
    };
    let descriptor = if descriptor { DESCRIPTOR } else { Range::default() };
    let mut header = Header {
        version,
        flags,
        size,
        grain: GRAIN,
        descriptor,
        redundant_at: 0,
        directory_at: None,
        overhead: GRAIN,
    };
    if !stream {
        let start = descriptor.end().max(SECTOR);
        let directory = (header.tables() * 4).next_multiple_of(SECTOR);
        let both = directory + header.tables() * TABLE_BYTES;
        header.redundant_at = start;
        header.directory_at = Some(start + both);
        header.overhead = (start + 2 * both).next_multiple_of(GRAIN);
    }
    header
}

/// Writes a directory, whose tables follow it, and the tables, all empty.
async fn write_tables(cx: &Cx, host: &Host, header: &Header, at: u64) -> Result<(), BlockError> {
    let directory = (header.tables() * 4).next_multiple_of(SECTOR);
    let first = at + directory;
    let entry = |n: u64| ((first + n * TABLE_BYTES) / SECTOR) as u32;
    let mut bytes: Vec<u8> = (0..header.tables()).flat_map(|n| entry(n).to_le_bytes()).collect();
    bytes.resize(directory as usize, 0);
    host.write_bytes(cx, at, &bytes).await?;
    if host.node().driver() != "file" {
        // Of a device nobody knows what it held.
        let mut at = first;
        let end = first + header.tables() * TABLE_BYTES;
        while at < end {
            let len = (end - at).min(1 << 20);
            host.write_bytes(cx, at, &vec![0; len as usize]).await?;
            at += len;
        }
    }
    Ok(())
}

async fn make_sparse(
    cx: &Cx,
    file: &Arc<dyn Node>,
    header: &Header,
    text: &str,
) -> Result<(), BlockError> {
    let host = Host::new(Arc::clone(file));
    begin(cx, &host, header.overhead).await?;
    match header.directory_at {
        Some(at) => {
            write_tables(cx, &host, header, header.redundant_at).await?;
            write_tables(cx, &host, header, at).await?;
        }
        None => {
            let trailer = stream::empty_trailer(header);
            host.write_bytes(cx, header.overhead, &trailer).await?;
        }
    }
    if header.descriptor.len > 0 {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(header.descriptor.len as usize, 0);
        host.write_bytes(cx, header.descriptor.offset, &bytes).await?;
    }
    host.sync(cx).await?;
    host.write_bytes(cx, 0, &header.to_bytes()).await?;
    host.sync(cx).await
}

/// Makes an image in `file`, whose old contents are lost, and in files that `make` makes. `name` is
/// the file's name without directories.
///
/// # Errors
/// Options that cannot be, or files that cannot be made or written.
pub async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    name: &str,
    options: &VmdkOptions,
    make: &dyn Make,
) -> Result<(), FormatError> {
    check(options)?;
    let writing = io("writing the new image");
    let sectors = options.size / SECTOR;
    if name.contains(['"', '\n']) {
        return Err(FormatError::Option(
            "the file's name has a quotation mark or a line end".to_owned(),
        ));
    }
    if options.subformat.is_embedded() {
        let text = text(options, &[format!("RW {sectors} SPARSE \"{name}\"")])?;
        let header = header(options, options.size, true);
        return make_sparse(cx, file, &header, &text).await.map_err(writing);
    }
    let (stem, ending) = match name.strip_suffix(".vmdk") {
        Some(stem) => (stem, ".vmdk"),
        None => (name, ""),
    };
    let flat = options.subformat.is_flat();
    let mut lines = Vec::new();
    let mut start = 0;
    while start < options.size || lines.is_empty() {
        let len = if options.subformat.is_split() { SPLIT } else { u64::MAX };
        let len = len.min(options.size - start);
        let part = match (options.subformat.is_split(), flat) {
            (false, _) => format!("{stem}-flat{ending}"),
            (true, true) => format!("{stem}-f{:03}{ending}", lines.len() + 1),
            (true, false) => format!("{stem}-s{:03}{ending}", lines.len() + 1),
        };
        let extent = make.make(&part).map_err(FormatError::Beside)?;
        let made = if flat {
            let host = Host::new(Arc::clone(&extent));
            begin(cx, &host, len).await
        } else {
            make_sparse(cx, &extent, &header(options, len, false), "").await
        };
        let closed = Arc::clone(&extent).close(Cx::clone(cx)).await;
        made.and(closed).map_err(&writing)?;
        let (kind, offset) = if flat { ("FLAT", " 0") } else { ("SPARSE", "") };
        lines.push(format!("RW {} {kind} \"{part}\"{offset}", len / SECTOR));
        start += len;
        if options.size == 0 {
            break;
        }
    }
    let text = text(options, &lines)?;
    let host = Host::new(Arc::clone(file));
    let make = async {
        begin(cx, &host, 0).await?;
        host.write_bytes(cx, 0, text.as_bytes()).await?;
        host.set_len(cx, text.len() as u64).await?;
        host.sync(cx).await
    };
    make.await.map_err(writing)
}
