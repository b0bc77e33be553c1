//! Making the file of an image smaller, offline: what nothing uses is freed, clusters of zeros lose
//! their place, what lies at the end moves into the holes before it, the file is cut off behind the
//! last cluster in use, and the holes that are left are punched.
//!
//! Works on the file alone, like a check, and changes no byte of the disk or of a snapshot. Clusters
//! move in batches, each in three steps with a sync between them: the copy and its refcount; the
//! entries that point to it; the refcount of where it was. So a crash leaves clusters that are
//! counted and used by nothing, and nothing else.

mod apply;
mod units;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use apply::Editor;
use units::{PHASES, Phase, Unit, Units};

use super::{
    check::{self, CheckError, Repair, Report as Checked, Walk},
    header::{Header, incompatible},
    host::Host,
    open::{OpenError, read_header},
};
use crate::{BlockError, Cx, Node, Range};

/// Rounds at most: each ends earlier in the file than the one before.
const ROUNDS_MAX: u32 = 16;
/// Clusters that move together, and their bytes.
const BATCH_UNITS: usize = 1024;
const BATCH_BYTES: u64 = 32 << 20;
/// The one autoclear feature that is kept up: bitmaps.
const KNOWN_AUTOCLEAR: u64 = 1;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only look.
    pub dry_run: bool,
    /// Data that are zeros lose their place too. All data are read for it.
    pub zeros: bool,
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Bytes of the file before.
    pub old_length: u64,
    /// Bytes of the file after.
    pub new_length: u64,
    /// Leaked clusters that were freed.
    pub leaks: u64,
    /// Clusters of zeros that lost their place.
    pub zeros: u64,
    /// Clusters that moved.
    pub moved: u64,
    /// Clusters that nothing uses and that stay in the middle of the file, as holes.
    pub holes: u64,
}

/// Why an image was not made smaller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// It could not be opened or checked.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// It is damaged.
    #[error("the image is damaged ({0} contradictions); 'img doctor' says more and repairs it")]
    Damaged(u64),
    /// It has something that is not kept up here.
    #[error("the image {0}; that is not supported")]
    Unsupported(&'static str),
    /// The file could not be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: BlockError,
    },
}

fn io(doing: &'static str) -> impl Fn(BlockError) -> CompactError {
    move |source| CompactError::Io { doing, source }
}

/// A rule that keeps the image whole, which a test can switch off to see that the suite notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Copies and their refcounts are durable before anything points to them.
    CopyFirst,
    /// The new pointers are durable before the old places lose their refcounts.
    PointersFirst,
}

#[cfg(test)]
thread_local! {
    static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
fn holds(rule: Rule) -> bool {
    OFF.get() != Some(rule)
}

#[cfg(not(test))]
#[inline(always)]
fn holds(_: Rule) -> bool {
    true
}

/// How far it is: bytes done and bytes to do.
pub type Progress<'a> = &'a dyn Fn(u64, u64);

/// Makes the file of the image in `file`, which nobody else uses, smaller. `length` is the file's in
/// bytes, not rounded.
///
/// # Errors
/// See [`CompactError`]. The image is whole then too.
pub async fn compact(
    cx: &Cx,
    file: &Arc<dyn Node>,
    length: u64,
    options: Options,
    progress: Progress<'_>,
) -> Result<Compacted, CompactError> {
    let header = read_header(cx, file).await.map_err(CheckError::from)?;
    header.supported().map_err(OpenError::from).map_err(CheckError::from)?;
    supported(&header)?;
    let checked = make_sound(cx, file, &header, options.dry_run).await?;
    let header = read_header(cx, file).await.map_err(CheckError::from)?;
    let host = Host::new(Arc::clone(file));
    let mut done = Compacted {
        cluster: header.layout().cluster(),
        old_length: length,
        leaks: checked.leaks + checked.leaks_fixed,
        ..Compacted::default()
    };
    if options.zeros {
        done.zeros = apply::drop_zeros(cx, &host, &header, options.dry_run, progress).await?;
    }
    if options.dry_run {
        let walk = Walk::new(cx, &host, &header).await?;
        let used = (0..walk.counted.len()).filter(|c| walk.references(*c) > 0).count() as u64;
        let end = used.saturating_sub(done.zeros).saturating_mul(done.cluster);
        done.new_length = end.min(length);
        return Ok(done);
    }
    let mut end = u64::MAX;
    for _ in 0..ROUNDS_MAX {
        let before = end;
        end = round(cx, &host, &mut done, progress).await?;
        if end >= before {
            break;
        }
    }
    finish(cx, &host, &mut done).await?;
    Ok(done)
}

fn supported(header: &Header) -> Result<(), CompactError> {
    let known = incompatible::DIRTY | incompatible::CORRUPT | incompatible::COMPRESSION;
    if header.version >= 3 && header.incompatible & !known != 0 {
        return Err(CompactError::Unsupported(
            "has extended L2 entries, an external data file or another feature of that kind",
        ));
    }
    if header.crypt_method != 0 {
        // What a cluster decrypts to depends on where it is.
        return Err(CompactError::Unsupported("is encrypted, so that its clusters cannot move"));
    }
    if header.version >= 3 && header.autoclear & !KNOWN_AUTOCLEAR != 0 {
        return Err(CompactError::Unsupported("has features that this version does not know"));
    }
    Ok(())
}

/// Frees leaks, and brings the counts of an image up to date that was not closed.
async fn make_sound(
    cx: &Cx,
    file: &Arc<dyn Node>,
    header: &Header,
    dry_run: bool,
) -> Result<Checked, CompactError> {
    // Flags that mislead nobody are what giving back leaks brings about.
    let broken = |r: &Checked| r.corruptions.saturating_sub(r.harmless_flags) + r.check_errors;
    let found = check::check(cx, file, Repair::None).await?;
    if header.is_corrupt() || (broken(&found) > 0 && !header.is_dirty()) {
        return Err(CompactError::Damaged(broken(&found).max(1)));
    }
    if dry_run || (found.is_clean() && !header.is_dirty()) {
        return Ok(found);
    }
    let left = check::check(cx, file, Repair::All).await?;
    if left.is_clean() { Ok(left) } else { Err(CompactError::Damaged(broken(&left).max(1))) }
}

/// Moves what is at the end into holes, once. Returns how many clusters the file then needs.
async fn round(
    cx: &Cx,
    host: &Host,
    done: &mut Compacted,
    progress: Progress<'_>,
) -> Result<u64, CompactError> {
    for phase in PHASES {
        let header = read_header(cx, host.node()).await.map_err(CheckError::from)?;
        let walk = Walk::new(cx, host, &header).await?;
        if walk.report.corruptions + walk.report.check_errors > 0 {
            return Err(CompactError::Damaged(walk.report.corruptions.max(1)));
        }
        let used = (0..walk.counted.len()).filter(|c| walk.references(*c) > 0).count() as u64;
        let units = Units::find(cx, host, &header, &walk, phase, used).await?;
        let mut editor = Editor::new(cx, host, walk);
        let total: u64 = units.list.iter().map(|unit| unit.len).sum();
        let mut moved = 0;
        let mut batch: Vec<(Unit, u64)> = Vec::new();
        let cluster = done.cluster;
        for unit in units.list {
            let Some(to) = editor.hole(unit.len, unit.start) else { continue };
            moved += unit.len;
            batch.push((unit, to));
            let bytes: u64 = batch.iter().map(|(unit, _)| unit.len * cluster).sum();
            let alone = phase == Phase::Blocks;
            if alone || batch.len() >= BATCH_UNITS || bytes >= BATCH_BYTES {
                editor.apply(&std::mem::take(&mut batch)).await?;
                progress(moved * cluster, total * cluster);
            }
        }
        editor.apply(&batch).await?;
        done.moved += moved;
        host.sync(cx).await.map_err(io("making the move durable"))?;
    }
    let header = read_header(cx, host.node()).await.map_err(CheckError::from)?;
    let walk = Walk::new(cx, host, &header).await?;
    Editor::new(cx, host, walk).drop_empty_blocks(&header).await
}

/// Cuts off what is behind the last cluster in use, and punches what is not used before it.
async fn finish(cx: &Cx, host: &Host, done: &mut Compacted) -> Result<(), CompactError> {
    let header = read_header(cx, host.node()).await.map_err(CheckError::from)?;
    let walk = Walk::new(cx, host, &header).await?;
    if walk.report.corruptions + walk.report.check_errors > 0 {
        return Err(CompactError::Damaged(walk.report.corruptions.max(1)));
    }
    let cluster = done.cluster;
    let used = |c: u64| walk.references(c as usize) > 0 || walk.stored[c as usize] > 0;
    let end = (0..walk.counted.len() as u64).rev().find(|c| used(*c)).map_or(0, |c| c + 1);
    done.new_length = done.old_length.min(end * cluster);
    let mut at = 0;
    while at < end {
        let first = at;
        while at < end && !used(at) {
            at += 1;
        }
        if at > first {
            done.holes += at - first;
            // Where the file system has no holes, the space stays.
            host.punch(cx, Range::new(first * cluster, (at - first) * cluster)).await;
        }
        at += 1;
    }
    if done.new_length < done.old_length {
        host.set_len(cx, done.new_length).await.map_err(io("cutting the file off"))?;
    }
    host.sync(cx).await.map_err(io("making it durable"))
}
