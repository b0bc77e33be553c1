//! Opening the files of images, and running the block layer on the caller's thread.
use super::image::{Cache, cannot_open, file_detail};
use super::{ImgError, Look};
use crate::sandbox::tool as sandbox;
use crate::spec::format::{self, Format, HostFiles};
use spindle_block::formats::ImageFormat;
use spindle_block::iothread::Clock;
use spindle_block::nodes::file::{FileNode, FileOptions};
use spindle_block::ring::{self, Aio};
use spindle_block::{Cx, Iothread};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A block layer of one's own: io_uring, or threads where that is forbidden.
pub(crate) fn block_layer() -> Result<Cx, ImgError> {
    block_layer_with(Aio::IoUring)
}

/// How the tools that only copy and look do their requests: with the page cache, as plain calls of
/// their own threads, for what is in memory is quicker done than handed on; past it, by io_uring.
pub(crate) fn aio_for(cache: Cache) -> Aio {
    if cache.direct { Aio::IoUring } else { Aio::Blocking }
}

/// A block layer of one's own, with this kind of ring.
pub(crate) fn block_layer_with(aio: Aio) -> Result<Cx, ImgError> {
    let (engine, _) = ring::open(aio).map_err(ImgError::Start)?;
    // Nothing of an image has been looked at but its first bytes.
    sandbox::enter().map_err(ImgError::Sandbox)?;
    Iothread::new("img", engine, Clock::Real).map_err(ImgError::Start)
}

/// Runs `task` on such a block layer, to the end.
pub(crate) fn on_block_layer_with<T: 'static, F: Future<Output = Result<T, ImgError>> + 'static>(
    aio: Aio,
    task: impl FnOnce(Cx) -> F,
) -> Result<T, ImgError> {
    let cx = block_layer_with(aio)?;
    cx.block_on(task(Cx::clone(&cx)))
}

/// Runs `task` on a block layer of its own, to the end.
pub(crate) fn on_block_layer<T: 'static, F: Future<Output = Result<T, ImgError>> + 'static>(
    task: impl FnOnce(Cx) -> F,
) -> Result<T, ImgError> {
    let cx = block_layer()?;
    cx.block_on(task(Cx::clone(&cx)))
}

/// The format of an image: as given, or by what it begins like.
pub(super) fn format_of(path: &Path, given: Option<Format>) -> Result<Format, ImgError> {
    if let Some(format) = given {
        return Ok(format);
    }
    let sight = format::look(&HostFiles, path)?;
    match format::signature(&sight.head) {
        // A DMG is known by its name, as with qemu-img: its signature is at its end.
        None if path.extension().is_some_and(|ending| ending == "dmg") => {
            Ok(Format::Image(ImageFormat::Dmg))
        }
        None => Ok(Format::Raw),
        Some(name) if Format::called(name).is_some() => {
            Ok(Format::called(name).unwrap_or(Format::Raw))
        }
        Some(other) => Err(ImgError::refused(
            path,
            format!(
                "it begins like a {other} image, which cannot be read; -f raw takes it as bytes"
            ),
        )),
    }
}

/// Opens an image's file for reading.
pub(super) fn open_to_read(path: &Path, look: Look) -> Result<Arc<FileNode>, ImgError> {
    let options =
        FileOptions { read_only: true, force_share: look.force_share, ..FileOptions::new(path) };
    FileNode::open(&options).map_err(|e| cannot_open(path, 0, &file_detail(&e)))
}

/// Where the backing file `name` of the image `image` is. A header is hostile: it may name a file,
/// nothing else.
pub(super) fn backing_path(image: &Path, name: &str) -> Result<PathBuf, ImgError> {
    let before_slash = name.split('/').next().unwrap_or_default();
    if before_slash.contains(':') {
        return Err(ImgError::refused(
            image,
            format!(
                "its header names the backing file '{}', which is no plain file",
                name.escape_debug()
            ),
        ));
    }
    let name = Path::new(name);
    Ok(match image.parent().filter(|_| name.is_relative()) {
        Some(dir) => dir.join(name),
        None => name.to_owned(),
    })
}
