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
use crate::{BlockError, Cx, Node, Range};

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
        self.corruptions_of(1, message);
    }

    /// The same corruption, found once for each of so many tables that share it.
    fn corruptions_of(&mut self, times: u32, message: String) {
        self.corruptions_said(times, format!("ERROR {message}"));
    }

    fn corruptions_said(&mut self, times: u32, message: String) {
        self.corruptions += u64::from(times.max(1));
        self.say(message);
    }

    /// Something is said to be beyond the end of the file.
    fn exceeds(&mut self, range: Range) {
        let Range { offset, len } = range;
        self.corruptions_said(
            1,
            format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster \
                 or more: offset {offset:#x} size {len:#x}"
            ),
        );
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
    /// Leaks cannot be told from what is only not counted; with what was found.
    #[error("the refcounts have to be rebuilt: repair everything ('-r all')")]
    NeedsRebuild(Vec<String>),
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
    look(cx, file, repair, true).await
}

/// Puts right an image that says that its refcounts may be wrong: as [`check`] does, but the refcounts
/// stay where they are, if that is possible.
pub(super) async fn put_right(cx: &Cx, file: &Arc<dyn Node>) -> Result<Report, CheckError> {
    look(cx, file, Repair::All, false).await
}

/// `anew`: where clusters that are in use have no refcount at all, all refcounts get a new place, as
/// with qemu-img, which has not to rely on them to find free ones.
async fn look(
    cx: &Cx,
    file: &Arc<dyn Node>,
    repair: Repair,
    anew: bool,
) -> Result<Report, CheckError> {
    let header = read_header(cx, file).await?;
    header.supported().map_err(OpenError::from)?;
    let host = Host::new(Arc::clone(file));
    let walk = Walk::new(cx, &host, &header).await?;
    if repair == Repair::None {
        return Ok(walk.report);
    }
    let corruptions = walk.report.corruptions;
    let before = (walk.report.leaks, walk.corruptions_before_flags);
    if repair == Repair::Leaks && anew && walk.must_rebuild(anew) {
        let mut said = walk.report.messages;
        said.truncate(walk.messages_before_flags);
        return Err(CheckError::NeedsRebuild(said));
    }
    let marked = header.is_dirty() || header.is_corrupt();
    let wanted = before.0 + before.1 > 0 || (repair == Repair::All && corruptions > 0);
    let (said, flags) = if wanted {
        repair::repair(cx, &host, &header, walk, (repair, anew)).await?
    } else if marked {
        (walk.report.messages, 0)
    } else {
        return Ok(walk.report);
    };
    let before = (before.0, before.1, flags);
    finish(cx, file, &host, (repair, anew, before), said).await
}

/// Writes the snapshot table again, with all that it must say. The image is sound but for that.
async fn complete_snapshots(cx: &Cx, file: &Arc<dyn Node>) -> Result<(), CheckError> {
    let doing = io("writing the snapshot table");
    let image = super::open(cx, Arc::clone(file), None, super::Options::default()).await?;
    image.rewrite_snapshots(cx).await.map_err(&doing)?;
    let node: Arc<dyn Node> = image;
    node.close(Cx::clone(cx)).await.map_err(doing)
}

/// Looks again after a repair of so many leaks and corruptions, and of so many flags, and clears the
/// marks of an image that is sound.
async fn finish(
    cx: &Cx,
    file: &Arc<dyn Node>,
    host: &Host,
    (repair, anew, (leaks, corruptions, flags)): (Repair, bool, (u64, u64, u64)),
    mut said: Vec<String>,
) -> Result<Report, CheckError> {
    let mut header: Header = read_header(cx, file).await?;
    let mut walk = Walk::new(cx, host, &header).await?;
    let incomplete = walk.incomplete_snapshots;
    let nothing_else = walk.report.corruptions == incomplete && walk.report.check_errors == 0;
    if repair == Repair::All && anew && incomplete > 0 && nothing_else {
        repair::clear_marks(cx, host, &header).await?;
        // Opening looks at images that were not closed.
        Box::pin(complete_snapshots(cx, file)).await?;
        for message in said.iter_mut().filter(|message| message.ends_with("is incomplete")) {
            *message = message.replacen("ERROR", "Repairing", 1);
        }
        header = read_header(cx, file).await?;
        walk = Walk::new(cx, host, &header).await?;
    }
    let left = walk.corruptions_before_flags;
    let mut report = walk.report;
    report.leaks_fixed = leaks.saturating_sub(report.leaks);
    report.corruptions_fixed = corruptions.saturating_sub(left) + flags;
    if repair == Repair::All && report.corruptions == 0 && report.check_errors == 0 {
        repair::clear_marks(cx, host, &header).await?;
    }
    if report.leaks_fixed + report.corruptions_fixed > 0 {
        said.append(&mut report.messages);
    }
    report.messages = said;
    Ok(report)
}
