//! `measure`: how large a file an image will need.
use super::ImgError;
use super::create::{FormatPlan, Preallocation, Qcow2Plan, Request, format_called};
use super::error::prefix;
use super::files::on_block_layer;
use super::image::{Image, OpenMode, driver_called, errno_text};
use super::snapshot::Which;
use super::words;
use crate::spec::SpecError;
use crate::spec::format::Format;
use serde::Serialize;
use spindle_block::formats::ImageFormat;
use spindle_block::qcow2::{BitmapInfo, Encrypt};
use spindle_block::{Cx, Range};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Bytes of an entry of an L1, L2 or refcount table (docs/interop/qcow2.txt).
const ENTRY: u64 = 8;

/// Sizes of a file that there is not yet (qapi/block-core.json, BlockMeasureInfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// Bytes of the persistent bitmaps, where source and target can have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
    /// Bytes for what the source has now.
    pub required: u64,
    /// Bytes when every cluster of the disk is allocated.
    pub fully_allocated: u64,
}

impl Measured {
    /// The sizes for people.
    #[must_use]
    pub fn human(&self) -> String {
        let mut out = format!(
            "required size: {}\nfully allocated size: {}\n",
            self.required, self.fully_allocated
        );
        if let Some(bytes) = self.bitmaps {
            let _ = writeln!(out, "bitmaps size: {bytes}");
        }
        out
    }
}

/// What the command line of `measure` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeasureRequest {
    /// The image that would be converted.
    pub path: Option<PathBuf>,
    /// `--size`, in bytes.
    pub size: Option<u64>,
    /// `-f`.
    pub format: Option<String>,
    /// `-O`.
    pub target_format: Option<String>,
    /// Each `-o`.
    pub options: Vec<String>,
    /// `-l`.
    pub snapshot: Option<String>,
    /// `-U`.
    pub force_share: bool,
}

/// Measures.
///
/// # Errors
///
/// Neither or both of image and size, options that there are not, an image that cannot be read.
pub fn run(request: MeasureRequest) -> Result<Measured, ImgError> {
    if request.path.is_some() && request.size.is_some() {
        return Err(ImgError::said("--size N cannot be used together with a filename."));
    }
    if request.path.is_none() && request.size.is_none() {
        return Err(ImgError::said("Either --size N or one filename must be specified."));
    }
    let name = request.target_format.as_deref().unwrap_or("raw");
    let format =
        format_called(name).map_err(|_| ImgError::said(format!("Unknown file format '{name}'")))?;
    if let Format::Image(format) = format
        && format != ImageFormat::Luks
    {
        let name = format.name();
        let reason = format!("Block driver '{name}' does not support size measurement");
        return Err(ImgError::said(reason));
    }
    let plan = Request {
        path: PathBuf::from("image"),
        format: Some(format.name().to_owned()),
        size: Some("0".to_owned()),
        options: request.options.clone(),
        ..Request::default()
    };
    let plan = plan.plan().map_err(|error| {
        let text = words::of_options(Path::new("image"), &error);
        ImgError::said(match error {
            SpecError::Unknown { .. } | SpecError::NoValue { .. } => {
                let (tool, name) = (prefix(), format.name());
                format!("{text}\n{tool}: Invalid options for file format '{name}'")
            }
            _ => text,
        })
    })?;
    let Some(path) = request.path else {
        let size = request.size.unwrap_or(0);
        return measured(&plan.format, plan.backing.is_some(), size, 0, None);
    };
    let snapshot = request.snapshot.as_deref().map(Which::parse).transpose()?;
    let source = driver_called(&path, request.format.as_deref())?;
    on_block_layer(|cx| async move {
        let mode = OpenMode::read(source, request.force_share);
        let mut image = Image::open(&cx, &path, mode).await?;
        if let Some(which) = &snapshot {
            image = image.at_snapshot(&cx, which).await?;
        }
        let unit = match &plan.format {
            FormatPlan::Qcow2(own) => own.cluster_size,
            FormatPlan::Raw { .. } | FormatPlan::Image(_) => 1,
        };
        let used = used(&cx, &image, unit).await;
        let size = image.size();
        let bitmaps = match (&plan.format, &image.qcow2) {
            (FormatPlan::Qcow2(own), Some(qcow2)) if own.version >= 3 => {
                let list = qcow2.bitmaps(&cx).await.unwrap_or_default();
                Some(bitmaps_size(&list, size, own.cluster_size))
            }
            _ => None,
        };
        // It was only read.
        let _ = image.close(&cx).await;
        measured(&plan.format, plan.backing.is_some(), size, used?, bitmaps)
    })
}

/// Bytes of the clusters that hold data.
async fn used(cx: &Cx, image: &Image, unit: u64) -> Result<u64, ImgError> {
    let mut used = 0;
    let mut at = 0;
    while at < image.size() {
        let range = Range::new(at, image.size() - at);
        let status = image.status(cx, range, usize::MAX).await.map_err(|e| {
            ImgError::said(format!("Unable to get block status: {}", errno_text(e)))
        })?;
        let mut len = status.len.max(1);
        if status.data && !status.zero {
            len = (at + len).next_multiple_of(unit) - at;
            used += at % unit + len;
        }
        at += len;
    }
    Ok(used)
}

fn measured(
    format: &FormatPlan,
    backing: bool,
    size: u64,
    used: u64,
    bitmaps: Option<u64>,
) -> Result<Measured, ImgError> {
    let too_large = || ImgError::said("The image size is too large");
    match format {
        FormatPlan::Raw { .. } | FormatPlan::Image(_) => {
            let size = size.checked_next_multiple_of(512).ok_or_else(too_large)?;
            let size = match format {
                FormatPlan::Image(own) => own.luks_file(size).map_err(ImgError::said)?,
                _ => size,
            };
            Ok(Measured { bitmaps: None, required: size, fully_allocated: size })
        }
        FormatPlan::Qcow2(own) => {
            let size = size.checked_next_multiple_of(own.cluster_size).ok_or_else(too_large)?;
            let whole = whole_file(size, own).ok_or_else(too_large)?;
            let header = match own.encrypt.block().map_err(ImgError::said)? {
                Some(Encrypt::Luks(luks)) => luks.header_len().unwrap_or(0),
                _ => 0,
            };
            let whole = whole
                .checked_add(header.next_multiple_of(own.cluster_size))
                .ok_or_else(too_large)?;
            let set_aside =
                matches!(own.preallocation, Preallocation::Falloc | Preallocation::Full);
            let used = if backing || set_aside { size } else { used };
            Ok(Measured {
                bitmaps,
                required: (whole - size).saturating_add(used),
                fully_allocated: whole,
            })
        }
    }
}

/// Bytes that the bitmaps of a disk of `size` bytes take in another image: all of their bits, their
/// tables, and the directory (docs/interop/qcow2.txt, "Bitmaps").
fn bitmaps_size(list: &[BitmapInfo], size: u64, cluster: u64) -> u64 {
    let (mut all, mut directory) = (0, 0);
    for bitmap in list.iter().filter(|bitmap| !bitmap.inconsistent) {
        let clusters = size.div_ceil(bitmap.granularity).div_ceil(8).div_ceil(cluster);
        all += clusters * cluster + (clusters * ENTRY).next_multiple_of(cluster);
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    all + directory.next_multiple_of(cluster)
}

/// Bytes of a file whose disk of `size` bytes (whole clusters) is all allocated; `None` where that
/// is more than 64 bits hold.
fn whole_file(size: u64, own: &Qcow2Plan) -> Option<u64> {
    let cluster = own.cluster_size;
    let per_table = cluster / ENTRY;
    let l2_entry = if own.extended_l2 { 2 * ENTRY } else { ENTRY };
    let per_l2 = cluster / l2_entry;
    let l2_entries = (size / cluster).checked_next_multiple_of(per_l2)?;
    let l1_entries = (l2_entries / per_l2).checked_next_multiple_of(per_table)?;
    // The header, and the tables.
    let metadata = cluster + l2_entries.checked_mul(l2_entry)? + l1_entries.checked_mul(ENTRY)?;
    let clusters = size.checked_add(metadata)? / cluster;
    let per_block = cluster * 8 / u64::from(own.refcount_bits.max(1));
    let (mut blocks, mut tables) = (0_u64, 0_u64);
    loop {
        // Refcount blocks count themselves and their table, too.
        let next = (clusters + tables + blocks).div_ceil(per_block);
        let next_tables = next.div_ceil(per_table);
        if (next, next_tables) == (blocks, tables) {
            break;
        }
        (blocks, tables) = (next, next_tables);
    }
    size.checked_add(metadata)?.checked_add((blocks + tables).checked_mul(cluster)?)
}
