//! What `check` shows, and its exit status.
use serde::Serialize;
use std::fmt::Write;

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
        if self.corruptions > 0 {
            EXIT_CORRUPT
        } else if self.leaks > 0 {
            EXIT_LEAKS
        } else if self.check_errors > 0 {
            EXIT_INCOMPLETE
        } else {
            EXIT_CLEAN
        }
    }

    /// The report for people.
    #[must_use]
    pub fn human(&self) -> String {
        let mut out = String::new();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_exit_status() {
        let status = |corruptions, leaks, check_errors| {
            CheckReport { corruptions, leaks, check_errors, ..CheckReport::default() }.exit_status()
        };
        assert_eq!([status(0, 0, 0), status(0, 0, 1)], [0, 1]);
        assert_eq!([status(0, 5, 1), status(1, 5, 0)], [3, 2]);
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
