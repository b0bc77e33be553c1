//! What `info` shows.
use super::bitmap::{self, BitmapReport};
use super::files::{backing_path, block_layer};
use super::image::{OpenMode, cannot_open, open_bytes, open_detail};
use super::snapshot::{self, SnapshotReport};
use super::source::Top;
use super::text::{human_size, in_buckets};
use super::{ImgError, Look};
use crate::spec::format::Format;
use serde::Serialize;
use spindle_block::qcow2::header::Compression;
use spindle_block::qcow2::info::ImageInfo;
use spindle_block::{Cx, Node};
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest backing chain that is followed.
const CHAIN_MAX: usize = 200;

/// An image, as `qemu-img info` shows it (qapi/block-core.json, ImageInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageReport {
    /// The size of the disk, in bytes.
    pub virtual_size: u64,
    /// The file's name, as given.
    pub filename: String,
    /// The cluster size, in bytes, where the format has clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The format.
    pub format: String,
    /// The space the file takes on its file system, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// The backing file, where it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file, as the header names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing file's format, as the header names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Whether the image is encrypted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// The snapshots inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotReport>,
    /// Whether the image was not closed properly; `None`: the format does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
    /// The files that it is in.
    pub children: Vec<ChildReport>,
    /// The length of the file, where this is one.
    #[serde(skip)]
    pub file_length: u64,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChildReport {
    /// What it is to the image: `file`, `extents.0`, …
    pub name: String,
    /// What it is.
    pub info: ImageReport,
}

/// A host file with nothing particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {}

/// What only one format has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum FormatSpecific {
    /// qcow2.
    Qcow2(Qcow2Report),
    /// VMDK: as the block layer tells it.
    Vmdk(serde_json::Value),
    /// LUKS: as the block layer tells it.
    Luks(serde_json::Value),
    /// A file.
    File(FileReport),
}

/// What only qcow2 has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2Report {
    /// `0.10` (version 2) or `1.1` (version 3).
    pub compat: String,
    /// `zlib` or `zstd`.
    pub compression_type: String,
    /// Whether refcount updates are put off. Version 3 only, as all below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// The persistent dirty bitmaps, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<BitmapReport>,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// How the image is encrypted, as the block layer tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<serde_json::Value>,
    /// The file that guest data is in, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether that file is the disk, to be read without the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether the image is known to be damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether it has subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
}

impl ImageReport {
    /// The report for people.
    #[must_use]
    pub fn human(&self) -> String {
        let mut out = format!(
            "image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\n",
            self.filename,
            self.format,
            human_size(self.virtual_size),
            self.virtual_size
        );
        let disk = self.actual_size.map_or("unavailable".to_owned(), human_size);
        let _ = writeln!(out, "disk size: {disk}");
        if self.encrypted {
            out.push_str("encrypted: yes\n");
        }
        if self.dirty_flag == Some(true) {
            out.push_str("cleanly shut down: no\n");
        }
        if let Some(bytes) = self.cluster_size {
            let _ = writeln!(out, "cluster_size: {bytes}");
        }
        if let Some(name) = &self.backing_filename {
            let _ = write!(out, "backing file: {name}");
            match &self.full_backing_filename {
                Some(full) if full != name => {
                    let _ = writeln!(out, " (actual path: {full})");
                }
                _ => out.push('\n'),
            }
        }
        if let Some(format) = &self.backing_filename_format {
            let _ = writeln!(out, "backing file format: {format}");
        }
        out.push_str(&snapshot::human(&self.snapshots));
        out.push_str(&self.specific());
        for child in &self.children {
            child.human(&mut out);
        }
        out
    }

    /// What only this format has, for people.
    #[must_use]
    pub fn specific(&self) -> String {
        let mut out = String::new();
        match &self.format_specific {
            Some(FormatSpecific::Qcow2(qcow2)) => qcow2.human(&mut out),
            Some(FormatSpecific::Vmdk(value)) => {
                out.push_str("Format specific information:\n");
                super::formats::human(value, 1, &mut out);
            }
            Some(FormatSpecific::Luks(value)) => {
                out.push_str("Format specific information:\n");
                super::formats::human(&in_buckets(value.clone()), 1, &mut out);
            }
            Some(FormatSpecific::File(_)) | None => {}
        }
        out
    }
}

impl ChildReport {
    /// The file `path` of an image, `length` bytes long, as the child `name`; `allocated`: bytes of
    /// storage.
    pub(super) fn file(
        name: &str,
        path: &Path,
        driver: &str,
        length: u64,
        allocated: Option<u64>,
    ) -> Self {
        let specific = (driver == "file").then_some(FormatSpecific::File(FileReport {}));
        let info = ImageReport {
            virtual_size: length.next_multiple_of(512),
            filename: path.to_string_lossy().into_owned(),
            format: driver.to_owned(),
            actual_size: allocated,
            format_specific: specific,
            dirty_flag: Some(false),
            // As the disk's, in whole sectors.
            file_length: length.next_multiple_of(512),
            ..ImageReport::default()
        };
        Self { name: name.to_owned(), info }
    }

    fn human(&self, out: &mut String) {
        let info = &self.info;
        let disk = info.actual_size.map_or("unavailable".to_owned(), human_size);
        let _ = write!(
            out,
            "Child node '/{}':\n    filename: {}\n    protocol type: {}\n    file length: {} ({} \
             bytes)\n    disk size: {disk}\n",
            self.name,
            info.filename,
            info.format,
            human_size(info.file_length),
            info.file_length
        );
    }
}

impl Qcow2Report {
    fn human(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "Format specific information:\n    compat: {}\n    compression type: {}",
            self.compat, self.compression_type
        );
        let mut flag = |name: &str, value: Option<bool>| {
            if let Some(value) = value {
                let _ = writeln!(out, "    {name}: {value}");
            }
        };
        flag("lazy refcounts", self.lazy_refcounts);
        out.push_str(&bitmap::human(&self.bitmaps));
        let _ = writeln!(out, "    refcount bits: {}", self.refcount_bits);
        if let Some(value) = &self.encrypt {
            out.push_str("    encrypt:\n");
            super::formats::human(&in_buckets(value.clone()), 2, out);
        }
        if let Some(name) = &self.data_file {
            let _ = writeln!(out, "    data file: {name}");
        }
        let mut flag = |name: &str, value: Option<bool>| {
            if let Some(value) = value {
                let _ = writeln!(out, "    {name}: {value}");
            }
        };
        flag("data file raw", self.data_file_raw);
        flag("corrupt", self.corrupt);
        flag("extended l2", self.extended_l2);
    }
}

/// Several images (a backing chain) for people.
#[must_use]
pub fn human(chain: &[ImageReport]) -> String {
    let parts: Vec<String> = chain.iter().map(ImageReport::human).collect();
    parts.join("\n")
}

/// Looks at the image `path`, and at its backing files if `chain` says so.
///
/// # Errors
///
/// A file that cannot be read, an image that is damaged, a chain that is endless.
pub fn run(path: &Path, look: Look, chain: bool) -> Result<Vec<ImageReport>, ImgError> {
    let cx = block_layer()?;
    let mut reports: Vec<ImageReport> = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some((path.to_owned(), look.format));
    while let Some((path, format)) = next.take() {
        let mode = OpenMode::read(format, look.force_share);
        let task = Cx::clone(&cx);
        let opened = cx.block_on(async move { open_bytes(&task, &path, mode).await })?;
        let (Top { path, bottom, crypt, .. }, format) = opened;
        let at = path.clone();
        let identity = bottom.host.as_ref().and_then(|file| file.identity());
        if reports.len() >= CHAIN_MAX || !identity.is_none_or(|id| seen.insert(id)) {
            return Err(ImgError::refused(path, "the backing chain is endless"));
        }
        let file = Arc::clone(&bottom.node);
        let report = match format {
            Format::Raw => raw(&path, file.info().size),
            Format::Qcow2 => qcow2(&cx, &path, Arc::clone(&file))?,
            Format::Image(format) => {
                let header = crypt.header.as_ref().map(|header| &header.node);
                let described = header.unwrap_or(&file);
                let report = super::formats::report(&cx, format, &path, described, look)?.0;
                if header.is_some() { detached(report, file.info().size) } else { report }
            }
        };
        if chain && let Some(below) = &report.full_backing_filename {
            next = Some((PathBuf::from(below), named_format(&path, &report)?));
        }
        // Of images of several files, the others are counted already.
        let others = report.actual_size.unwrap_or(0);
        let own = bottom.host.as_ref().and_then(|file| file.allocated());
        let actual_size = own.map(|own| own.saturating_add(others));
        let mut report = ImageReport { actual_size, ..report };
        let child = match bottom.host.filter(|_| bottom.below.len() == 1) {
            Some(host) => {
                let length = host.length().and_then(Result::ok).unwrap_or(report.virtual_size);
                Some(ChildReport::file("file", &at, host.driver(), length, own))
            }
            // A server's disk has a length, and nothing else is known of it.
            None if bottom.node.driver() == "nbd" => {
                Some(ChildReport::file("file", &at, "nbd", bottom.node.info().size, None))
            }
            None => None,
        };
        report.children.extend(child);
        reports.push(report);
    }
    Ok(reports)
}

/// The report of a header, as that of a disk of `size` bytes which it is the header of.
fn detached(mut report: ImageReport, size: u64) -> ImageReport {
    report.virtual_size = size;
    if let Some(FormatSpecific::Luks(value)) = &mut report.format_specific {
        value["detached-header"] = true.into();
    }
    report
}

fn raw(path: &Path, size: u64) -> ImageReport {
    ImageReport {
        virtual_size: size,
        filename: path.to_string_lossy().into_owned(),
        format: Format::Raw.name().to_owned(),
        dirty_flag: Some(false),
        ..ImageReport::default()
    }
}

/// The format that a header gives for its backing file.
fn named_format(path: &Path, report: &ImageReport) -> Result<Option<Format>, ImgError> {
    match report.backing_filename_format.as_deref() {
        None => Ok(None),
        Some(name) if Format::called(name).is_some() => Ok(Format::called(name)),
        Some(other) => Err(ImgError::refused(
            path,
            format!(
                "its backing file has the format '{}', which cannot be read",
                other.escape_debug()
            ),
        )),
    }
}

fn qcow2(cx: &Cx, path: &Path, file: Arc<dyn Node>) -> Result<ImageReport, ImgError> {
    let task = Cx::clone(cx);
    let image = cx
        .block_on(async move { spindle_block::qcow2::info::info(&task, &file).await })
        .map_err(|error| cannot_open(path, 0, &open_detail(&error)))?;
    qcow2_report(path, image)
}

pub(crate) fn qcow2_report(path: &Path, image: ImageInfo) -> Result<ImageReport, ImgError> {
    let version_3 = image.compat != "0.10";
    let full = image.backing_file.as_deref().map(|name| backing_path(path, name)).transpose()?;
    Ok(ImageReport {
        virtual_size: image.virtual_size,
        filename: path.to_string_lossy().into_owned(),
        cluster_size: Some(image.cluster_size),
        format: Format::Qcow2.name().to_owned(),
        actual_size: None,
        format_specific: Some(FormatSpecific::Qcow2(Qcow2Report {
            compat: image.compat.to_owned(),
            compression_type: match image.compression {
                Compression::Zlib => "zlib".to_owned(),
                Compression::Zstd => "zstd".to_owned(),
            },
            lazy_refcounts: version_3.then_some(image.lazy_refcounts),
            bitmaps: image.bitmaps.into_iter().map(Into::into).collect(),
            refcount_bits: image.refcount_bits,
            encrypt: image.encrypt.clone(),
            data_file: image.data_file,
            data_file_raw: image.data_file_raw,
            corrupt: version_3.then_some(image.corrupt),
            extended_l2: version_3.then_some(image.extended_l2),
        })),
        full_backing_filename: full.map(|path| path.to_string_lossy().into_owned()),
        backing_filename: image.backing_file,
        backing_filename_format: image.backing_format,
        snapshots: snapshot::reports(image.snapshots),
        encrypted: image.encrypt.is_some(),
        dirty_flag: Some(image.dirty),
        ..ImageReport::default()
    })
}
