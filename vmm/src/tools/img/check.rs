//! What `check` shows, and its exit status.
use super::files::{aio_for, block_layer_with};
use super::image::{OpenMode, cannot_open, open_bytes, open_data_file, open_detail};
use super::source::{Bottom, Top};
use super::{ImgError, Look};
use crate::spec::format::Format;
use serde::Serialize;
use spindle_block::formats::{self, Alone, ImageFormat, Request, Secret};
use spindle_block::qcow2::Options;
use spindle_block::qcow2::check::CheckError;
pub use spindle_block::qcow2::check::Repair;
use spindle_block::{Cx, Node};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Exit status when nothing is wrong.
pub const EXIT_CLEAN: u8 = 0;
/// Exit status when the check could not be completed.
pub const EXIT_INCOMPLETE: u8 = 1;
/// Exit status when data may be damaged.
pub const EXIT_CORRUPT: u8 = 2;
/// Exit status when space is lost but no data.
pub const EXIT_LEAKS: u8 = 3;
/// Exit status when the format has nothing to check.
pub const EXIT_UNSUPPORTED: u8 = 63;

/// What a check found, as `qemu-img check` shows it (qapi/block-core.json, ImageCheck).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// The first byte behind everything the image uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_end_offset: Option<u64>,
    /// Clusters of the disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_clusters: u64,
    /// Errors of the check itself, such as unreadable tables.
    pub check_errors: u64,
    /// Compressed clusters.
    #[serde(skip_serializing_if = "is_zero")]
    pub compressed_clusters: u64,
    /// Clusters not behind their predecessor.
    #[serde(skip_serializing_if = "is_zero")]
    pub fragmented_clusters: u64,
    /// Clusters with data of their own.
    #[serde(skip_serializing_if = "is_zero")]
    pub allocated_clusters: u64,
    /// Clusters that nothing uses, but which count as used.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks: u64,
    /// Contradictions that may cost data.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions: u64,
    /// Leaks that were repaired.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks_fixed: u64,
    /// Corruptions that were repaired.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions_fixed: u64,
    /// The file's name, as given.
    pub filename: String,
    /// The format.
    pub format: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl CheckReport {
    /// The exit status that says what was found.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        if self.check_errors > 0 {
            EXIT_INCOMPLETE
        } else if self.corruptions > 0 {
            EXIT_CORRUPT
        } else if self.leaks > 0 {
            EXIT_LEAKS
        } else {
            EXIT_CLEAN
        }
    }

    /// The report for people.
    #[must_use]
    pub fn human(&self) -> String {
        let mut out = String::new();
        if self.leaks_fixed + self.corruptions_fixed > 0 {
            let _ = writeln!(
                out,
                "The following inconsistencies were found and repaired:\n\n    {} leaked \
                 clusters\n    {} corruptions\n\nDouble checking the fixed image now...",
                self.leaks_fixed, self.corruptions_fixed
            );
        }
        if self.corruptions + self.leaks + self.check_errors == 0 {
            out.push_str("No errors were found on the image.\n");
        }
        if self.corruptions > 0 {
            let _ = writeln!(
                out,
                "\n{} errors were found on the image.\nData may be corrupted, or further writes \
                 to the image may corrupt it.",
                self.corruptions
            );
        }
        if self.leaks > 0 {
            let _ = writeln!(
                out,
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, \
                 but no harm to data.",
                self.leaks
            );
        }
        if self.check_errors > 0 {
            let _ = writeln!(
                out,
                "\n{} internal errors have occurred during the check.",
                self.check_errors
            );
        }
        if self.total_clusters != 0 && self.allocated_clusters != 0 {
            let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
            let allocated = self.allocated_clusters;
            let _ = writeln!(
                out,
                "{allocated}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
                self.total_clusters,
                percent(allocated, self.total_clusters),
                percent(self.fragmented_clusters, allocated),
                percent(self.compressed_clusters, allocated),
            );
        }
        if let Some(end) = self.image_end_offset.filter(|end| *end != 0) {
            let _ = writeln!(out, "Image end offset: {end}");
        }
        out
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The counts.
    pub report: CheckReport,
    /// Each finding, in words.
    pub findings: Vec<String>,
}

/// Checks the image `path` and repairs it as far as asked; `None` if its format has nothing to
/// check.
///
/// # Errors
///
/// A file that cannot be opened, or an image too damaged to be looked at.
pub fn run(path: &Path, look: Look, repair: Repair) -> Result<Option<Checked>, ImgError> {
    let mode = OpenMode {
        writable: repair != Repair::None,
        cache: look.cache,
        ..OpenMode::read(look.format, look.force_share)
    };
    let cx = block_layer_with(aio_for(mode.cache))?;
    let (task, given) = (Cx::clone(&cx), path.to_owned());
    let opened = cx.block_on(async move { open_bytes(&task, &given, mode).await })?;
    let (Top { path: name, bottom, crypt, .. }, format) = opened;
    let (given, path) = (path, name);
    let secret = crypt.secret().map_err(|detail| cannot_open(given, 0, &detail))?;
    if let Format::Image(format) = format {
        // There is nothing to check in it, but qemu-img opens it first.
        if format == ImageFormat::Luks {
            let open = unlocked(&cx, bottom.node, crypt.header, secret);
            open.map_err(|detail| cannot_open(given, 0, &detail))?;
            return Ok(None);
        }
        let found = super::formats::check(&cx, &path, format, bottom, mode)?;
        return Ok(found.map(|found| image_report(&path, format.name(), found)));
    }
    if format == Format::Raw {
        return Ok(None);
    }
    let file = bottom.node;
    let (task, on) = (Arc::clone(&file), cx.clone());
    let options =
        Options { read_only: true, secret, encrypt_format: crypt.format, ..Options::default() };
    cx.block_on(async move { spindle_block::qcow2::unlocks(&on, &task, &options).await })
        .map_err(|error| cannot_open(given, 0, &open_detail(&error)))?;
    let (on, task, shown) = (cx.clone(), Arc::clone(&file), path.clone());
    // It is not looked into, but an image without it is none.
    let beside = cx.block_on(async move {
        let header = spindle_block::qcow2::read_header(&on, &task).await;
        header.map(|header| open_data_file(&shown, &header, mode))
    });
    if let Ok(Err(detail)) = beside {
        return Err(cannot_open(&path, 0, &detail));
    }
    let task = Arc::clone(&file);
    let on = cx.clone();
    let found = cx
        .block_on(async move { spindle_block::qcow2::check::check(&on, &task, repair).await })
        .map_err(|source| match source {
            CheckError::NeedsRebuild(findings) => {
                findings.iter().for_each(|line| eprintln!("{line}"));
                eprintln!("ERROR need to rebuild refcount structures");
                ImgError::said("Check failed: Input/output error")
            }
            source => ImgError::Check { path: path.clone(), source },
        })?;
    let report = CheckReport {
        image_end_offset: Some(found.image_end_offset),
        total_clusters: found.total_clusters,
        check_errors: found.check_errors,
        compressed_clusters: found.compressed_clusters,
        fragmented_clusters: found.fragmented_clusters,
        allocated_clusters: found.allocated_clusters,
        leaks: found.leaks,
        corruptions: found.corruptions,
        leaks_fixed: found.leaks_fixed,
        corruptions_fixed: found.corruptions_fixed,
        filename: path.to_string_lossy().into_owned(),
        format: format.name().to_owned(),
    };
    Ok(Some(Checked { report, findings: found.messages }))
}

/// Sees that the passphrase opens the disk.
fn unlocked(
    cx: &Cx,
    file: Arc<dyn Node>,
    header: Option<Bottom>,
    secret: Option<Secret>,
) -> Result<(), String> {
    let task = Cx::clone(cx);
    let header = header.map(|header| header.node);
    let opened = cx.block_on(async move {
        let request = Request { secret, header, ..Request::read(file, &Alone) };
        formats::open(&task, ImageFormat::Luks, request).await.map(|_| ())
    });
    opened.map_err(|error| super::formats::detail(ImageFormat::Luks, &error))
}

fn image_report(path: &Path, format: &str, found: spindle_block::formats::Report) -> Checked {
    let report = CheckReport {
        // Only Parallels' driver says it, as with qemu-img.
        image_end_offset: (format == "parallels").then_some(found.end),
        leaks: found.leaks,
        corruptions: found.corruptions,
        filename: path.to_string_lossy().into_owned(),
        format: format.to_owned(),
        ..CheckReport::default()
    };
    let counts = matches!(format, "parallels" | "qed");
    let report = CheckReport {
        total_clusters: if counts { found.total } else { 0 },
        allocated_clusters: if counts { found.allocated } else { 0 },
        ..report
    };
    Checked { report, findings: found.messages }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_exit_status() {
        let status = |corruptions, leaks, check_errors| {
            CheckReport { corruptions, leaks, check_errors, ..CheckReport::default() }.exit_status()
        };
        assert_eq!([status(0, 0, 0), status(0, 0, 1)], [0, 1]);
        assert_eq!([status(0, 5, 0), status(1, 5, 0), status(1, 5, 1)], [3, 2, 1]);
    }

    #[test]
    fn findings_are_told_apart() {
        let report = CheckReport {
            leaks: 2,
            total_clusters: 8,
            allocated_clusters: 4,
            fragmented_clusters: 1,
            image_end_offset: Some(65536),
            ..CheckReport::default()
        };
        assert_eq!(
            report.human(),
            "\n2 leaked clusters were found on the image.\nThis means waste of disk space, but no \
             harm to data.\n4/8 = 50.00% allocated, 25.00% fragmented, 0.00% compressed \
             clusters\nImage end offset: 65536\n"
        );
    }
}
