//! `rebase`: puts an image on another backing file.
//!
//! The safe way first copies into the image what the old backing file has and the new one has not,
//! makes that durable, and then changes the name in the header: at any moment the image reads as it
//! did before.
use super::ImgError;
use super::copy::BUFFER;
use super::files::{backing_path, on_block_layer};
use super::image::{
    Cache, Image, OpenMode, cannot_open, driver_called, errno_text, open_bytes, open_detail,
    warn_of_probing, warn_of_raw_guess,
};
use super::progress::{Progress, Show};
use crate::spec::format::Format;
use spindle_block::qcow2::{ClusterPacker, PackedCluster};
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, Io, IoBuf, Range, qcow2};
use std::path::PathBuf;

/// What the command line of `rebase` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebaseRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// `-b`; empty: no backing file.
    pub backing: Option<String>,
    /// `-F`.
    pub backing_format: Option<String>,
    /// `-u`: only the name changes.
    pub name_only: bool,
    /// `-c`: what is copied is compressed.
    pub compress: bool,
    /// `-t`.
    pub cache: Option<String>,
    /// `-T`.
    pub source_cache: Option<String>,
    /// `-U`.
    pub force_share: bool,
    /// `-p`.
    pub show: Show,
}

/// The caches and formats, checked.
struct Checked {
    request: RebaseRequest,
    format: Option<Format>,
    backing: Option<(String, Option<Format>)>,
    cache: Cache,
    source_cache: Cache,
}

/// Rebases.
///
/// # Errors
///
/// Images that cannot be opened, read or written; the image reads as before then, but for the
/// name-only way.
pub fn run(request: RebaseRequest) -> Result<(), ImgError> {
    let cache = |name: &Option<String>, what: &str| match name {
        None => Ok(Cache::default()),
        Some(name) => Cache::parse(name)
            .ok_or_else(|| ImgError::said(format!("Invalid {what}cache option: {name}"))),
    };
    let backing_format = match request.backing_format.as_deref() {
        None => None,
        Some(name) if Format::called(name).is_some() => Format::called(name),
        Some(other) => return Err(ImgError::said(format!("Invalid format name: '{other}'"))),
    };
    let backing = request.backing.clone().filter(|name| !name.is_empty());
    let checked = Checked {
        cache: cache(&request.cache, "")?,
        source_cache: cache(&request.source_cache, "source ")?,
        format: driver_called(&request.path, request.format.as_deref())?,
        backing: backing.map(|name| (name, backing_format)),
        request,
    };
    on_block_layer(|cx| async move {
        if checked.request.name_only {
            return rename(&cx, &checked).await;
        }
        copy(&cx, &checked).await?;
        rename(&cx, &checked).await
    })
}

impl Checked {
    fn not_changed(&self, reason: &str) -> ImgError {
        let name = self.backing.as_ref().map_or("", |(name, _)| name);
        ImgError::said(format!("Could not change the backing file to '{name}': {reason}"))
    }

    /// What the image could not have, whatever its content.
    fn check(&self, format: Format) -> Result<(), ImgError> {
        if format != Format::Qcow2 {
            return Err(self.not_changed("Operation not supported"));
        }
        match &self.backing {
            Some((_, None)) => Err(self.not_changed("backing format must be specified")),
            _ => Ok(()),
        }
    }
}

/// Changes the name in the header. The old backing file need not be there.
async fn rename(cx: &Cx, checked: &Checked) -> Result<(), ImgError> {
    let path = &checked.request.path;
    let mode = OpenMode { cache: checked.cache, ..OpenMode::write(checked.format) };
    let (top, format) = open_bytes(cx, path, mode).await?;
    let file = top.bottom.node;
    if format == Format::Qcow2 {
        let wrap = |detail: String| cannot_open(path, 0, &detail);
        let secret = top.crypt.secret().map_err(wrap)?;
        let encrypt_format = top.crypt.format;
        let options = qcow2::Options { secret, encrypt_format, ..qcow2::Options::default() };
        let opens = qcow2::unlocks(cx, &file, &options).await;
        opens.map_err(|error| wrap(open_detail(&error)))?;
    }
    if let Err(error) = checked.check(format) {
        if format == Format::Raw {
            warn_of_raw_guess(path, checked.format);
        }
        return Err(error);
    }
    let backing = checked
        .backing
        .as_ref()
        .and_then(|(name, format)| format.map(|format| (name.as_str(), format.name())));
    let changed = qcow2::set_backing(cx, &file, backing).await;
    let closed = file.close(Cx::clone(cx)).await;
    changed.map_err(|e| checked.not_changed(&open_detail(&e)))?;
    closed.map_err(|e| checked.not_changed(errno_text(e)))
}

/// Copies into the image what it would otherwise lose.
async fn copy(cx: &Cx, checked: &Checked) -> Result<(), ImgError> {
    let request = &checked.request;
    let mode = OpenMode { cache: checked.cache, ..OpenMode::write(checked.format) };
    let image = Image::open(cx, &request.path, mode).await?;
    let result = copy_from_old(cx, checked, &image).await;
    let closed = image.close(cx).await;
    result?;
    closed.map_err(|e| checked.not_changed(errno_text(e)))
}

async fn copy_from_old(cx: &Cx, checked: &Checked, image: &Image) -> Result<(), ImgError> {
    if image.format == Format::Raw {
        warn_of_probing(image, checked.format);
    }
    checked.check(image.format)?;
    let new = match &checked.backing {
        None => None,
        Some((name, format)) => {
            let read = OpenMode::read(*format, checked.request.force_share);
            let mode = OpenMode { cache: checked.source_cache, ..read };
            let path = backing_path(&image.path, name)?;
            let opened = Image::open(cx, &path, mode).await;
            Some(opened.map_err(|error| {
                let text = error.to_string();
                let detail = text.split_once("': ").map_or(text.as_str(), |(_, rest)| rest);
                ImgError::said(format!("Could not open new backing file '{name}': {detail}"))
            })?)
        }
    };
    let progress = Progress::new(checked.request.show, image.size());
    let compress = checked.request.compress;
    let result = keep_differences(cx, image, new.as_ref(), compress, &progress).await;
    if let Some(new) = new {
        // It was only read.
        let _ = new.close(cx).await;
    }
    result?;
    progress.finish();
    Ok(())
}

async fn keep_differences(
    cx: &Cx,
    image: &Image,
    new: Option<&Image>,
    compress: bool,
    progress: &Progress,
) -> Result<(), ImgError> {
    let size = image.size();
    let mut packer = match image.qcow2.as_ref().filter(|_| compress) {
        Some(qcow2) => Some(ClusterPacker::new(qcow2.compression()).map_err(not_written)?),
        None => None,
    };
    let unit = image.qcow2.as_ref().map_or(512, |qcow2| qcow2.cluster_size());
    let old = image.backing.as_deref();
    let mut at = 0;
    while at < size {
        let status = image.status(cx, Range::new(at, size - at), 1).await.map_err(|e| {
            ImgError::said(format!("error while reading image metadata: {}", errno_text(e)))
        })?;
        let mut len = status.len.max(1);
        if !status.present {
            len = len.min(BUFFER);
            let before = read(cx, old, at, len, "old").await?;
            let after = read(cx, new, at, len, "new").await?;
            // Runs of clusters that differ.
            let mut from = 0;
            while from < len {
                let piece = |from: u64| ((at + from) / unit * unit + unit - at).min(len);
                let differs =
                    |from: u64, to: u64| bytes(&before, from, to) != bytes(&after, from, to);
                let mut to = piece(from);
                if !differs(from, to) {
                    from = to;
                    continue;
                }
                while to < len && differs(to, piece(to)) {
                    to = piece(to);
                }
                let data = bytes(&before, from, to);
                write(cx, image, at + from, data, packer.as_mut()).await.map_err(not_written)?;
                from = to;
            }
        }
        at += len;
        progress.advance(len);
    }
    Ok(())
}

fn not_written(error: BlockError) -> ImgError {
    ImgError::said(format!("Error while writing to COW image: {}", errno_text(error)))
}

/// Writes data into the image: clusters that become smaller compressed, the others as they are.
async fn write(
    cx: &Cx,
    image: &Image,
    offset: u64,
    data: &[u8],
    packer: Option<&mut ClusterPacker>,
) -> Result<(), BlockError> {
    let (Some(packer), Some(qcow2)) = (packer, &image.qcow2) else {
        return node_io(cx, &image.node, Io::write(offset, IoBuf::from_slice(data))).await.1;
    };
    let unit = qcow2.cluster_size();
    let mut at = offset;
    for piece in data.chunks(usize::try_from(unit).unwrap_or(usize::MAX)) {
        let mut whole = piece.to_vec();
        // The last cluster of the disk may be cut short by its end.
        whole.resize(usize::try_from(unit).unwrap_or(whole.len()), 0);
        match packer.pack(&whole).filter(|_| at.is_multiple_of(unit)) {
            Some(bytes) => {
                qcow2.write_compressed(cx, &[PackedCluster { offset: at, bytes }]).await?;
            }
            None => node_io(cx, &image.node, Io::write(at, IoBuf::from_slice(piece))).await.1?,
        }
        at += piece.len() as u64;
    }
    Ok(())
}

fn bytes(all: &[u8], from: u64, to: u64) -> &[u8] {
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(all.len());
    &all[at(from)..at(to)]
}

/// What a backing file has; zeros behind its end, or where there is none.
async fn read(
    cx: &Cx,
    image: Option<&Image>,
    at: u64,
    len: u64,
    which: &str,
) -> Result<Vec<u8>, ImgError> {
    let mut all = vec![0; usize::try_from(len).unwrap_or(0)];
    let Some(image) = image.filter(|image| at < image.size()) else { return Ok(all) };
    let len = len.min(image.size() - at);
    let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
    let (io, result) = node_io(cx, &image.node, Io::read(at, buf)).await;
    result.map_err(|e| {
        ImgError::said(format!("error while reading from {which} backing file: {}", errno_text(e)))
    })?;
    io.buf.read_at(0, &mut all[..usize::try_from(len).unwrap_or(0)]);
    Ok(all)
}
