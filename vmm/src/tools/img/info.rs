//! What `info` shows.
use super::text::human_size;
use serde::Serialize;
use std::fmt::Write;

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
    /// Whether the image was not closed properly.
    pub dirty_flag: bool,
}

/// What only one format has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum FormatSpecific {
    /// qcow2.
    Qcow2(Qcow2Report),
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
    /// Bits of a refcount.
    pub refcount_bits: u32,
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
        if self.dirty_flag {
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
        if let Some(FormatSpecific::Qcow2(qcow2)) = &self.format_specific {
            qcow2.human(&mut out);
        }
        out
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
        let _ = writeln!(out, "    refcount bits: {}", self.refcount_bits);
        let mut flag = |name: &str, value: Option<bool>| {
            if let Some(value) = value {
                let _ = writeln!(out, "    {name}: {value}");
            }
        };
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
