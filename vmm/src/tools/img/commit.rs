//! `commit`: writes what an image has over its backing file into that, and empties the image.
//!
//! The image is emptied only after the backing file is complete and durable: at any moment it reads
//! as it did before.
use super::ImgError;
use super::convert::close_all;
use super::copy::{self, Copy};
use super::files::{aio_for, on_block_layer_with};
use super::image::{Base, Cache, Image, OpenMode, driver_called, errno_text, warn_of_probing};
use super::progress::{Progress, Show};
use crate::spec::format::Format;
use spindle_block::{BlockError, Cx};
use std::path::PathBuf;
use std::sync::Arc;

/// Requests in flight.
const WIDTH: usize = 8;

/// What the command line of `commit` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// `-b`: the image of the chain that everything goes into.
    pub base: Option<PathBuf>,
    /// `-d`: the image is not emptied.
    pub keep: bool,
    /// `-r`, in bytes a second.
    pub rate: Option<u64>,
    /// `-t`.
    pub cache: Option<String>,
    /// `-p`.
    pub show: Show,
}

/// Commits.
///
/// # Errors
///
/// Images that cannot be opened, read or written. The image still has all its data then.
pub fn run(request: CommitRequest) -> Result<(), ImgError> {
    let name = request.cache.as_deref().unwrap_or("writeback");
    let cache = Cache::parse(name)
        .ok_or_else(|| ImgError::said(format!("Invalid cache option: {name}")))?;
    let format = driver_called(&request.path, request.format.as_deref())?;
    on_block_layer_with(
        aio_for(cache),
        |cx| async move { commit(&cx, request, format, cache).await },
    )
}

async fn commit(
    cx: &Cx,
    request: CommitRequest,
    format: Option<Format>,
    cache: Cache,
) -> Result<(), ImgError> {
    let base = request.base.clone().map_or(Base::First, Base::Named);
    let mode = OpenMode { cache, ..OpenMode::write(format) };
    let (top, found) = Image::open_above(cx, &request.path, mode, &base).await?;
    warn_of_probing(&top, format);
    let Some((path, base_format)) = found else {
        close_all(cx, vec![top]).await;
        return Err(ImgError::said(match &request.base {
            None => "Image does not have a backing file".to_owned(),
            Some(base) => format!(
                "Did not find '{}' in the backing chain of '{}'",
                base.display(),
                request.path.display()
            ),
        }));
    };
    let mode = OpenMode { cache, ..OpenMode::write(base_format) };
    let target = match Image::open(cx, &path, mode).await {
        Ok(target) => target,
        Err(error) => {
            close_all(cx, vec![top]).await;
            return Err(error);
        }
    };
    if let Err(error) = grow(cx, &target, top.size()).await {
        close_all(cx, vec![top, target]).await;
        return Err(failed(error));
    }
    let progress = Progress::new(request.show, top.size());
    let copying = Copy {
        sources: vec![top],
        target,
        zeroed: false,
        on_backing: None,
        skip_absent: true,
        head: 0,
        whole: false,
        rate: request.rate.filter(|rate| *rate > 0),
        sparse: 4096,
        width: WIDTH,
        out_of_order: false,
        pool: None,
        salvage: false,
        quiet: false,
        write_through: cache.write_through,
        aio: aio_for(cache),
        progress,
    };
    let (sources, target, result) = copy::run(cx, copying).await;
    // Closing makes the base durable, before anything is taken from the image.
    let mut result = result.and(target.close(cx).await.map_err(failed));
    for top in sources {
        if let Some(qcow2) =
            top.qcow2.as_ref().filter(|_| result.is_ok() && !request.keep && request.base.is_none())
        {
            let empty = qcow2.make_empty(cx).await;
            result = empty.map_err(|e| {
                let path = request.path.display();
                ImgError::said(format!("Could not empty {path}: {}", errno_text(e)))
            });
        }
        result = result.and(top.close(cx).await.map_err(failed));
    }
    result
}

async fn grow(cx: &Cx, target: &Image, size: u64) -> Result<(), BlockError> {
    if target.size() >= size {
        return Ok(());
    }
    Arc::clone(&target.node).resize(Cx::clone(cx), size).await
}

fn failed(error: BlockError) -> ImgError {
    ImgError::said(format!("Could not commit image: {}", errno_text(error)))
}
