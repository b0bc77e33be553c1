//! Checking and repairing: counts every reference and compares.
//!
//! Works on the file alone, without an open image, and reports what `qemu-img check` reports:
//! *leaks* waste space and harm nothing; *corruptions* can lose data.

mod repair;
mod walk;

use std::sync::Arc;

use super::{
    header::Header,
    host::Host,
    open::{OpenError, read_header},
};
use crate::{BlockError, Cx, Node};

pub(super) use repair::rebuild;
pub(super) use walk::Walk;

/// Messages that are kept; the rest is counted.
const MESSAGES_MAX: usize = 1000;

/// What to repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: only look.
    #[default]
    None,
    /// Leaks: clusters whose refcount is too high.
    Leaks,
    /// Everything that can be repaired.
    All,
}

/// What was found, in the words of `qemu-img check --output=json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Where the last cluster in use ends, in bytes.
    pub image_end_offset: u64,
    /// Guest clusters of the disk.
    pub total_clusters: u64,
    /// Guest clusters with data of their own.
    pub allocated_clusters: u64,
    /// Allocated clusters that do not follow the one before.
    pub fragmented_clusters: u64,
    /// Compressed clusters.
    pub compressed_clusters: u64,
    /// Places that could not be read.
    pub check_errors: u64,
    /// Corruptions that are left.
    pub corruptions: u64,
    /// Of these, flags that contradict a refcount but mislead nobody: a cluster with one reference
    /// is copied where it need not be, or a leak makes it seem shared.
    pub harmless_flags: u64,
    /// Leaked clusters that are left.
    pub leaks: u64,
    /// Corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Leaked clusters that were freed.
    pub leaks_fixed: u64,
    /// What was found, in words; at most a thousand lines.
    pub messages: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }

    fn say(&mut self, message: String) {
        if self.messages.len() < MESSAGES_MAX {
            self.messages.push(message);
        }
    }

    fn corruption(&mut self, message: String) {
        self.corruptions += 1;
        self.say(format!("ERROR {message}"));
    }

    fn leak(&mut self, message: String) {
        self.leaks += 1;
        self.say(format!("Leaked {message}"));
    }
}

/// Why an image could not be checked. The caller adds the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It cannot be opened at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is too much of it.
    #[error("the file has {0} clusters, more than can be checked")]
    TooLarge(u64),
    /// Metadata could not be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: BlockError,
    },
}

fn io(doing: &'static str) -> impl Fn(BlockError) -> CheckError {
    move |source| CheckError::Io { doing, source }
}

/// Checks the image in `file`, which nobody else uses, and repairs it as far as asked.
///
/// # Errors
/// See [`CheckError`]. What is merely wrong with the image is in the report.
pub async fn check(cx: &Cx, file: &Arc<dyn Node>, repair: Repair) -> Result<Report, CheckError> {
    let header = read_header(cx, file).await?;
    header.supported().map_err(OpenError::from)?;
    let host = Host::new(Arc::clone(file));
    let walk = Walk::new(cx, &host, &header).await?;
    if repair == Repair::None {
        return Ok(walk.report);
    }
    let before = (walk.report.leaks, walk.report.corruptions);
    let marked = header.is_dirty() || header.is_corrupt();
    let wanted = before.0 > 0 || (repair == Repair::All && before.1 > 0);
    if wanted {
        repair::repair(cx, &host, &header, walk, repair).await?;
    } else if !marked {
        return Ok(walk.report);
    }
    finish(cx, file, &host, repair, before).await
}

/// Looks again after a repair, and clears the marks of an image that is sound.
async fn finish(
    cx: &Cx,
    file: &Arc<dyn Node>,
    host: &Host,
    repair: Repair,
    before: (u64, u64),
) -> Result<Report, CheckError> {
    let header: Header = read_header(cx, file).await?;
    let mut report = Walk::new(cx, host, &header).await?.report;
    report.leaks_fixed = before.0.saturating_sub(report.leaks);
    report.corruptions_fixed = before.1.saturating_sub(report.corruptions);
    if repair == Repair::All && report.corruptions == 0 && report.check_errors == 0 {
        repair::clear_marks(cx, host, &header).await?;
    }
    Ok(report)
}
