//! `map`: what a disk is made of, and where.
use super::ImgError;
use super::files::on_block_layer;
use super::image::{Image, OpenMode, driver_called, errno_text};
use super::status::Status;
use spindle_block::{BlockError, Cx, Range};
use std::fmt::Write;
use std::path::PathBuf;

/// A stretch of the disk (qapi/block-core.json, MapEntry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Where it begins, in bytes.
    pub start: u64,
    /// What it is.
    pub status: Status,
    /// The file it is in.
    pub file: PathBuf,
}

/// What the command line of `map` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// `-U`.
    pub force_share: bool,
    /// `--start-offset`, in bytes.
    pub start: u64,
    /// `--max-length`, in bytes.
    pub max_length: Option<u64>,
}

/// The entries of an image.
///
/// # Errors
///
/// An image that cannot be opened or read.
pub fn run(request: MapRequest) -> Result<Vec<MapEntry>, ImgError> {
    let format = driver_called(&request.path, request.format.as_deref())?;
    on_block_layer(|cx| async move {
        let mode = OpenMode::read(format, request.force_share);
        let image = Image::open(&cx, &request.path, mode).await?;
        let entries = entries(&cx, &image, &request).await;
        // It was only read.
        let _ = image.close(&cx).await;
        entries
    })
}

async fn entries(cx: &Cx, image: &Image, request: &MapRequest) -> Result<Vec<MapEntry>, ImgError> {
    let layers = image.layers();
    let size = image.size();
    let end = request.max_length.map_or(size, |max| request.start.saturating_add(max).min(size));
    let mut entries: Vec<MapEntry> = Vec::new();
    let mut at = request.start;
    while at < end {
        let status = what_is_at(cx, &layers, Range::new(at, end - at)).await;
        let status = status.map_err(|e| {
            ImgError::said(format!("Failed to read image metadata: {}", errno_text(e)))
        })?;
        let layer = layers.get(status.depth).copied().unwrap_or(image);
        let file = layer.data.as_ref().unwrap_or(&layer.path);
        let len = status.len.max(1);
        match entries.last_mut() {
            Some(last) if continues(last, &status) => last.status.len += len,
            _ => entries.push(MapEntry { start: at, status, file: file.clone() }),
        }
        at += len;
    }
    Ok(entries)
}

/// What the first image says that says anything, be it that its backing file is too short.
async fn what_is_at(cx: &Cx, layers: &[&Image], range: Range) -> Result<Status, BlockError> {
    let mut found = Status { len: range.len, ..Status::default() };
    for (depth, layer) in layers.iter().enumerate() {
        let part = Range::new(range.offset, found.len);
        found = Status { depth, ..layer.own_status(cx, part).await? };
        if found.zero || found.data || found.len == 0 {
            break;
        }
    }
    Ok(found)
}

fn continues(last: &MapEntry, next: &Status) -> bool {
    let of = &last.status;
    let offset_follows = match (of.offset, next.offset) {
        (None, None) => true,
        (Some(at), Some(next)) => at + of.len == next,
        _ => false,
    };
    offset_follows
        && (of.depth, of.data, of.zero, of.present, of.compressed)
            == (next.depth, next.data, next.zero, next.present, next.compressed)
}

/// The table for people: data only, up to data that is nowhere as it is, if there is such.
#[must_use]
pub fn human(entries: &[MapEntry]) -> (String, Option<ImgError>) {
    let mut out = format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to");
    for MapEntry { start, status, file } in entries {
        if !status.data {
            continue;
        }
        let Some(offset) = status.offset else {
            let sentence = "File contains external, encrypted or compressed clusters.";
            return (out, Some(ImgError::said(sentence)));
        };
        if !status.zero {
            let _ = writeln!(
                out,
                "{:<16}{:<16}{:<16}{}",
                hex(*start),
                hex(status.len),
                hex(offset),
                file.display()
            );
        }
    }
    (out, None)
}

/// C's `%#x`.
fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

/// The entries as JSON, laid out as qemu-img does.
#[must_use]
pub fn json(entries: &[MapEntry]) -> String {
    let lines: Vec<String> = entries
        .iter()
        .map(|MapEntry { start, status, .. }| {
            let offset = status.offset.map_or(String::new(), |at| format!(", \"offset\": {at}"));
            format!(
                "{{ \"start\": {start}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": \
                 {}, \"data\": {}, \"compressed\": {}{offset}}}",
                status.len,
                status.depth,
                status.present,
                status.zero,
                status.data,
                status.compressed
            )
        })
        .collect();
    format!("[{}]\n", lines.join(",\n"))
}
