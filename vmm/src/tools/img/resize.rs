//! `resize`: changes the size of a disk.
use super::ImgError;
use super::files::on_block_layer;
use super::image::{Image, OpenMode, driver_called, errno_text, warn_of_probing};
use crate::spec::format::Format;
use crate::spec::size;
use spindle_block::formats::ImageFormat;
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, Io, IoBuf, Range};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Zeros are written in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// What the command line of `resize` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeRequest {
    /// The image.
    pub path: PathBuf,
    /// `[+|-]SIZE`.
    pub size: String,
    /// `-f`.
    pub format: Option<String>,
    /// `--shrink`.
    pub shrink: bool,
    /// `--preallocation`.
    pub preallocation: Option<String>,
}

/// How what is gained is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Not at all.
    Off,
    /// Clusters get their place, of which nothing is written.
    Metadata,
    /// By posix_fallocate(3).
    Falloc,
    /// By writing zeros.
    Full,
}

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}

/// Resizes.
///
/// # Errors
///
/// A size that is none, one that would lose data without `--shrink`, an image that cannot be
/// written.
pub fn run(request: ResizeRequest) -> Result<(), ImgError> {
    let sign = request.size.chars().next().filter(|c| matches!(c, '+' | '-'));
    let number = request.size.strip_prefix(['+', '-']).unwrap_or(&request.size);
    let Ok(amount) = size::parse(number, 1) else {
        return said(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, \
             T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        );
    };
    let ahead = match request.preallocation.as_deref() {
        None | Some("off") => Ahead::Off,
        Some("metadata") => Ahead::Metadata,
        Some("falloc") => Ahead::Falloc,
        Some("full") => Ahead::Full,
        Some(mode) => return said(format!("Invalid preallocation mode '{mode}'")),
    };
    let format = driver_called(&request.path, request.format.as_deref())?;
    on_block_layer(|cx| async move {
        let image = Image::open(&cx, &request.path, OpenMode::write(format)).await?;
        warn_of_probing(&image, format);
        let result = resize(&cx, &image, &request, sign, amount, ahead).await;
        let closed = image.close(&cx).await;
        result?;
        closed.map_err(failed)
    })
}

fn failed(error: BlockError) -> ImgError {
    ImgError::said(format!("Failed to resize image: {}", errno_text(error)))
}

async fn resize(
    cx: &Cx,
    image: &Image,
    request: &ResizeRequest,
    sign: Option<char>,
    amount: u64,
    ahead: Ahead,
) -> Result<(), ImgError> {
    let old = image.size();
    let new = match sign {
        Some('+') => old.checked_add(amount),
        Some(_) => old.checked_sub(amount),
        None => Some(amount),
    };
    let in_sectors = new.is_none_or(|new| new.is_multiple_of(512));
    let new = match new.and_then(|new| new.checked_next_multiple_of(512)) {
        Some(new) if new > 0 && i64::try_from(new).is_ok() => new,
        _ => return said("New image size must be positive"),
    };
    if new <= old && ahead != Ahead::Off {
        return said("Preallocation can only be used for growing images");
    }
    if ahead == Ahead::Metadata && image.qcow2.is_none() {
        return said("Unsupported preallocation mode: metadata");
    }
    if new < old && !request.shrink {
        return said(format!(
            "Use the --shrink option to perform a shrink operation.\n{}: warning: Shrinking an \
             image will delete all data beyond the shrunken image's end. Before performing such \
             an operation, make sure there is no important data there.",
            super::error::prefix()
        ));
    }
    if image.qcow2.is_some() && !in_sectors {
        return said("The new size must be a multiple of 512");
    }
    if let Some(qcow2) = &image.qcow2
        && qcow2.is_version_2()
        && !qcow2.snapshots(cx).await.map_err(failed)?.is_empty()
    {
        return said("Can't resize a v2 image which has snapshots");
    }
    to(cx, image, old, new, ahead).await.map_err(|error| match (image.format, error) {
        (Format::Image(ImageFormat::Qed), BlockError::Unsupported) if new < old => {
            ImgError::said("Shrinking images is currently not supported")
        }
        (Format::Image(_), BlockError::Unsupported) => {
            ImgError::said("Image format driver does not support resize")
        }
        (Format::Qcow2, BlockError::OutOfRange) => {
            ImgError::said("Failed to grow the L1 table: File too large")
        }
        (_, error) => failed(error),
    })
}

/// Gives a disk of `old` bytes the size `new`.
pub(crate) async fn to(
    cx: &Cx,
    image: &Image,
    old: u64,
    new: u64,
    ahead: Ahead,
) -> Result<(), BlockError> {
    let file = image.data.as_ref().unwrap_or(&image.path);
    let file_len = || std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let before = file_len();
    match &image.qcow2 {
        Some(qcow2) if new < old => qcow2.shrink(cx, new).await?,
        _ => Arc::clone(&image.node).resize(Cx::clone(cx), new).await?,
    }
    match ahead {
        _ if new <= old => Ok(()),
        Ahead::Full => write_zeros(cx, image, old, new).await,
        Ahead::Falloc | Ahead::Metadata => match &image.qcow2 {
            Some(qcow2) => {
                qcow2.preallocate(cx, Range::new(old, new - old)).await?;
                // What lay in the file before has been written to.
                match file_len().checked_sub(before) {
                    Some(grown) if ahead == Ahead::Falloc && grown > 0 => {
                        allocate(file, before, grown)
                    }
                    _ => Ok(()),
                }
            }
            None if ahead == Ahead::Falloc => allocate(file, old, new - old),
            None => Err(BlockError::Unsupported),
        },
        Ahead::Off => Ok(()),
    }
}

/// Sets space aside (posix_fallocate(3)).
fn allocate(path: &Path, from: u64, len: u64) -> Result<(), BlockError> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    let (Ok(from), Ok(len)) = (i64::try_from(from), i64::try_from(len)) else {
        return Err(BlockError::NoSpace);
    };
    // SAFETY: no memory is passed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), from, len) } {
        0 => Ok(()),
        errno => Err(BlockError::from_errno(errno)),
    }
}

async fn write_zeros(cx: &Cx, image: &Image, from: u64, to: u64) -> Result<(), BlockError> {
    let mut at = from;
    while at < to {
        let len = PIECE.min(to - at);
        let buf = IoBuf::zeroed(usize::try_from(len).map_err(|_| BlockError::NoMemory)?);
        node_io(cx, &image.node, Io::write(at, buf)).await.1?;
        at += len;
    }
    Ok(())
}
