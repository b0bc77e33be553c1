//! `compact`: makes the file of an image smaller, in place.
use super::ImgError;
use super::files::on_block_layer;
use super::image::{OpenMode, cannot_open, open_bytes, shown};
use super::progress::{Progress, Show};
use super::source::{Bottom, Top};
use super::text::human_size;
use crate::spec::format::Format;
use serde::Serialize;
use spindle_block::error::with_causes;
use spindle_block::nodes::file::FileNode;
use spindle_block::qcow2::compact::{self, Options};
use spindle_block::submit::{node_io, read};
use spindle_block::{BlockError, Cx, ExtentKind, Io, Node, Op, Range};
use std::cell::Cell;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Holes are made of blocks of so many bytes.
const BLOCK: u64 = 4096;

/// What the command line of `compact` says.
#[derive(Clone, Debug, Default)]
pub struct CompactRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<Format>,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--keep-zeros`.
    pub keep_zeros: bool,
    /// How progress is shown.
    pub show: Show,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CompactReport {
    /// The file's name, as given.
    pub filename: String,
    /// The format.
    pub format: String,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Bytes of the file before.
    pub old_length: u64,
    /// Bytes of the file after.
    pub new_length: u64,
    /// Bytes of storage before, where the host tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_disk_size: Option<u64>,
    /// Bytes of storage after; with `--dry-run` a guess.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_disk_size: Option<u64>,
    /// qcow2: leaked clusters that were freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaked_clusters: Option<u64>,
    /// qcow2: clusters of zeros that lost their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_clusters: Option<u64>,
    /// qcow2: clusters that moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_clusters: Option<u64>,
    /// Bytes of zeros in the file that became holes (formats other than qcow2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub punched_bytes: Option<u64>,
}

impl CompactReport {
    /// The report for people.
    #[must_use]
    pub fn human(&self) -> String {
        let (is, would) =
            if self.dry_run { ("would be about", "would be ") } else { ("is now", "") };
        let mut out = format!(
            "{}: the file was {} long and {is} {}",
            self.filename,
            human_size(self.old_length),
            human_size(self.new_length)
        );
        if let (Some(old), Some(new)) = (self.old_disk_size, self.new_disk_size) {
            let _ = write!(
                out,
                ";\nit took {} of storage and {} {}",
                human_size(old),
                if self.dry_run { "would take about" } else { "takes" },
                human_size(new)
            );
        }
        out.push_str(".\n");
        let lines = [
            (self.leaked_clusters, "leaked clusters", "freed"),
            (self.zero_clusters, "clusters of zeros", "taken out"),
            (self.moved_clusters.filter(|_| !self.dry_run), "clusters", "moved"),
        ];
        for (n, what, done) in lines.into_iter().filter_map(|(n, w, d)| Some((n?, w, d))) {
            let _ = writeln!(out, "  {n} {what} {would}{done}");
        }
        if let Some(bytes) = self.punched_bytes {
            let _ = writeln!(out, "  {} of zeros {would}turned into holes", human_size(bytes));
        }
        out
    }
}

/// Makes the file smaller.
///
/// # Errors
///
/// An image that cannot be opened, is damaged or cannot be compacted; storage that fails.
pub fn run(request: CompactRequest) -> Result<CompactReport, ImgError> {
    on_block_layer(|cx| async move {
        let mode =
            OpenMode { format: request.format, writable: !request.dry_run, ..OpenMode::default() };
        let (top, format) = open_bytes(&cx, &request.path, mode).await?;
        let Top { path, bottom, .. } = top;
        let result = work(&cx, &bottom, format, &request).await;
        for node in &bottom.below {
            let closed = Arc::clone(node).close(Cx::clone(&cx)).await;
            if result.is_ok() {
                closed.map_err(|e| cannot_open(&path, 0, &e.to_string()))?;
            }
        }
        result
    })
}

async fn work(
    cx: &Cx,
    bottom: &Bottom,
    format: Format,
    request: &CompactRequest,
) -> Result<CompactReport, ImgError> {
    let refused = |reason: &str| {
        ImgError::said(format!("Could not compact '{}': {reason}", shown(&request.path)))
    };
    let Some(host) = bottom.host.as_ref().filter(|_| bottom.below.len() == 1) else {
        return Err(refused("its bytes are not simply those of a file"));
    };
    if host.driver() != "file" {
        return Err(refused(
            "it is a block device, which cannot become smaller; 'blkdiscard' or fstrim in the \
             guest give its space back",
        ));
    }
    let length = host.length().unwrap_or(Ok(bottom.node.info().size));
    let length = length.map_err(|e| refused(&e.to_string()))?;
    let mut report = CompactReport {
        filename: request.path.to_string_lossy().into_owned(),
        format: format.name().to_owned(),
        dry_run: request.dry_run,
        old_length: length,
        new_length: length,
        old_disk_size: host.allocated(),
        ..CompactReport::default()
    };
    let shown = Progress::new(request.show, length.max(1));
    let far = Cell::new(0);
    // Each step counts by itself: what is shown never goes back.
    let progress = |done: u64, total: u64| {
        let at = (u128::from(done) * u128::from(length) / u128::from(total.max(1))) as u64;
        if at > far.get() {
            shown.advance(at - far.get());
            far.set(at);
        }
    };
    if format == Format::Qcow2 {
        let options = Options { dry_run: request.dry_run, zeros: !request.keep_zeros };
        let done = compact::compact(cx, &bottom.node, length, options, &progress).await;
        let done = done.map_err(|e| refused(&with_causes(&e)))?;
        report.new_length = done.new_length;
        report.leaked_clusters = Some(done.leaks);
        report.zero_clusters = Some(done.zeros);
        report.moved_clusters = Some(done.moved);
        let less = (done.leaks + done.zeros) * done.cluster;
        report.new_disk_size = report.old_disk_size.map(|old| old.saturating_sub(less));
    } else {
        let bytes = dig(cx, host, length, request.dry_run, &progress).await;
        let bytes = bytes.map_err(|e| refused(&e.to_string()))?;
        report.punched_bytes = Some(bytes);
        report.new_disk_size = report.old_disk_size.map(|old| old.saturating_sub(bytes));
    }
    shown.finish();
    if !request.dry_run {
        report.new_disk_size = host.allocated();
    }
    Ok(report)
}

/// Turns blocks of zeros into holes: no byte of the file is another then, so that every format is
/// content, and a crash harms nothing. Returns how many bytes.
async fn dig(
    cx: &Cx,
    file: &Arc<FileNode>,
    length: u64,
    dry_run: bool,
    progress: &dyn Fn(u64, u64),
) -> Result<u64, BlockError> {
    let node: Arc<dyn Node> = Arc::clone(file) as _;
    let mut at = 0;
    let mut bytes = 0;
    while at < length {
        let extent = Arc::clone(&node).extent(Cx::clone(cx), Range::new(at, length - at)).await?;
        let end = at + extent.len;
        while at < end && extent.kind == ExtentKind::Data {
            let len = (end - at).min(PIECE - at % PIECE);
            let piece = read(cx, &node, at, len as usize).await?;
            for hole in zero_blocks(&piece.to_vec(), at) {
                bytes += hole.len;
                if !dry_run {
                    let op = Op::WriteZeroes { unmap: true, fua: false };
                    node_io(cx, &node, Io::bare(op, hole)).await.1?;
                }
            }
            at += len;
            progress(at, length);
        }
        at = end;
    }
    if bytes > 0 && !dry_run {
        node_io(cx, &node, Io::flush()).await.1?;
    }
    Ok(bytes)
}

/// The runs of whole blocks of zeros in `bytes`, which are at `offset`.
fn zero_blocks(bytes: &[u8], offset: u64) -> Vec<Range> {
    let mut holes: Vec<Range> = Vec::new();
    let skip = offset.next_multiple_of(BLOCK) - offset;
    let blocks = bytes.get(skip as usize..).unwrap_or_default().chunks_exact(BLOCK as usize);
    for (at, block) in (offset + skip..).step_by(BLOCK as usize).zip(blocks) {
        if block.iter().any(|byte| *byte != 0) {
            continue;
        }
        match holes.last_mut() {
            Some(last) if last.end() == at => last.len += BLOCK,
            _ => holes.push(Range::new(at, BLOCK)),
        }
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_of_zeros_become_holes() {
        let mut bytes = vec![0; 5 * 4096 + 100];
        bytes[2 * 4096 + 7] = 1;
        let holes = zero_blocks(&bytes, 4096 * 10);
        assert_eq!(holes, [Range::new(40960, 8192), Range::new(4096 * 13, 8192)]);
        let holes = zero_blocks(&bytes, 100);
        assert_eq!(holes, [Range::new(4096, 4096), Range::new(4096 * 3, 4096 * 2)]);
    }
}
