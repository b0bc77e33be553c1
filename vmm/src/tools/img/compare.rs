//! `compare`: whether two images have the same content.
use super::ImgError;
use super::copy::BUFFER;
use super::files::on_block_layer;
use super::image::{Cache, Image, OpenMode, driver_called, errno_text};
use super::progress::{Progress, Show};
use super::status::Status;
use spindle_block::submit::node_io;
use spindle_block::{Cx, Io, IoBuf, Range};
use std::fmt::Write;
use std::path::PathBuf;

/// Exit status of images that are the same.
pub const EXIT_SAME: u8 = 0;
/// Exit status of images that differ.
pub const EXIT_DIFFERENT: u8 = 1;
/// Exit status when an image cannot be opened, or the command line is wrong.
pub const EXIT_FAILED: u8 = 2;
/// Exit status when block status cannot be read.
const EXIT_STATUS: u8 = 3;
/// Exit status when data cannot be read.
const EXIT_READ: u8 = 4;

/// Differences are found sector by sector.
const SECTOR: usize = 512;

/// What the command line of `compare` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompareRequest {
    /// The images.
    pub paths: [PathBuf; 2],
    /// `-f` and `-F`.
    pub formats: [Option<String>; 2],
    /// `-s`: sizes and allocation must agree too.
    pub strict: bool,
    /// `-T`.
    pub cache: Option<String>,
    /// `-U`.
    pub force_share: bool,
    /// `-p`.
    pub show: Show,
}

/// What came of it: text, and exit status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is to be printed.
    pub text: String,
    /// The exit status.
    pub status: u8,
}

/// A comparison that could not be completed, with its exit status.
pub type Failed = (u8, ImgError);

/// Compares two images.
///
/// # Errors
///
/// An image that cannot be opened or read.
pub fn run(request: CompareRequest) -> Result<Compared, Failed> {
    let name = request.cache.as_deref().unwrap_or("writeback");
    let cache = Cache::parse(name).ok_or_else(|| {
        (EXIT_FAILED, ImgError::said(format!("Invalid source cache option: {name}")))
    })?;
    let done = on_block_layer(|cx| async move { Ok(compare(&cx, &request, cache).await) });
    done.map_err(|error| (EXIT_FAILED, error))?
}

async fn compare(cx: &Cx, request: &CompareRequest, cache: Cache) -> Result<Compared, Failed> {
    let failed = |error| (EXIT_FAILED, error);
    let mut images = Vec::new();
    for (path, format) in request.paths.iter().zip(&request.formats) {
        let format = driver_called(path, format.as_deref()).map_err(failed)?;
        let mode = OpenMode { cache, ..OpenMode::read(format, request.force_share) };
        images.push(Image::open(cx, path, mode).await.map_err(failed)?);
    }
    let [one, two] = &images[..] else { return Ok(Compared::default()) };
    let total = one.size().max(two.size());
    let progress = Progress::new(request.show, total);
    let mut text = String::new();
    let same = contents(cx, one, two, request, &progress, &mut text).await;
    for image in images {
        // They were only read.
        let _ = image.close(cx).await;
    }
    let status = if same? { EXIT_SAME } else { EXIT_DIFFERENT };
    if request.show != Show::Nothing {
        progress.finish();
    }
    Ok(Compared { text, status })
}

async fn contents(
    cx: &Cx,
    one: &Image,
    two: &Image,
    request: &CompareRequest,
    progress: &Progress,
    text: &mut String,
) -> Result<bool, Failed> {
    let (common, longest) = (one.size().min(two.size()), one.size().max(two.size()));
    if request.strict && common != longest {
        text.push_str("Strict mode: Image size mismatch!\n");
        return Ok(false);
    }
    let mut buffers = [Vec::new(), Vec::new()];
    let mut at = 0;
    while at < common {
        let left = status(cx, one, at, one.size() - at).await?;
        let right = status(cx, two, at, two.size() - at).await?;
        let mut len = left.len.min(right.len).min(common - at).max(1);
        if request.strict && flags(&left) != flags(&right) {
            let _ = writeln!(text, "Strict mode: Offset {at} block status mismatch!");
            return Ok(false);
        }
        let differ = if left.zero && right.zero {
            None
        } else if left.present && right.present {
            len = len.min(BUFFER);
            read(cx, one, at, len, &mut buffers[0]).await?;
            read(cx, two, at, len, &mut buffers[1]).await?;
            first_difference(&buffers[0], &buffers[1])
        } else if left.present || right.present {
            len = len.min(BUFFER);
            let image = if left.present { one } else { two };
            first_data(cx, image, at, len, &mut buffers[0]).await?
        } else {
            None
        };
        if let Some(sector) = differ {
            let _ = writeln!(text, "Content mismatch at offset {}!", at + sector);
            return Ok(false);
        }
        at += len;
        progress.advance(len);
    }
    if common != longest {
        text.push_str("Warning: Image size mismatch!\n");
        let over = if one.size() > two.size() { one } else { two };
        while at < longest {
            let here = status(cx, over, at, longest - at).await?;
            let mut len = here.len.max(1);
            if here.present && !here.zero {
                len = len.min(BUFFER);
                if let Some(sector) = first_data(cx, over, at, len, &mut buffers[0]).await? {
                    let _ = writeln!(text, "Content mismatch at offset {}!", at + sector);
                    return Ok(false);
                }
            }
            at += len;
            progress.advance(len);
        }
    }
    text.push_str("Images are identical.\n");
    Ok(true)
}

/// What strict mode compares.
fn flags(status: &Status) -> (bool, bool, bool, bool, bool, bool) {
    let Status { data, zero, present, compressed, at_end, .. } = *status;
    (data, zero, present, compressed, status.offset.is_some(), at_end)
}

async fn status(cx: &Cx, image: &Image, at: u64, len: u64) -> Result<Status, Failed> {
    image.status(cx, Range::new(at, len), usize::MAX).await.map_err(|_| {
        let path = image.path.display();
        (EXIT_STATUS, ImgError::said(format!("Sector allocation test failed for {path}")))
    })
}

async fn read(cx: &Cx, image: &Image, at: u64, len: u64, into: &mut Vec<u8>) -> Result<(), Failed> {
    let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
    let (io, result) = node_io(cx, &image.node, Io::read(at, buf)).await;
    result.map_err(|e| {
        let sentence = format!(
            "Error while reading offset {at} of {}: {}",
            image.path.display(),
            errno_text(e)
        );
        (EXIT_READ, ImgError::said(sentence))
    })?;
    into.resize(usize::try_from(len).unwrap_or(0), 0);
    io.buf.read_at(0, into);
    Ok(())
}

/// Where two buffers of one length begin to differ.
fn first_difference(one: &[u8], two: &[u8]) -> Option<u64> {
    if one == two {
        return None;
    }
    let sector = one.chunks(SECTOR).zip(two.chunks(SECTOR)).position(|(a, b)| a != b);
    sector.map(|n| (n * SECTOR) as u64)
}

/// Where the first sector is that is not all zeros.
async fn first_data(
    cx: &Cx,
    image: &Image,
    at: u64,
    len: u64,
    buffer: &mut Vec<u8>,
) -> Result<Option<u64>, Failed> {
    read(cx, image, at, len, buffer).await?;
    let sector = buffer.chunks(SECTOR).position(|sector| sector.iter().any(|b| *b != 0));
    Ok(sector.map(|n| (n * SECTOR) as u64))
}
