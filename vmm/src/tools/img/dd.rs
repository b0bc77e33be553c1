//! `dd`: copies a part of an image's disk into a new image.
use super::ImgError;
use super::copy::BUFFER;
use super::create::{self, Request, format_called};
use super::error::{BYTES_MAX, number_between, prefix};
use super::files::{aio_for, on_block_layer_with};
use super::image::{Cache, Image, OpenMode, driver_called, errno_text};
use super::progress::{Progress, Show};
use super::words;
use spindle_block::submit::node_io;
use spindle_block::{Cx, Io, IoBuf};
use std::path::PathBuf;

/// The largest `bs`.
const BLOCK_MAX: u64 = i32::MAX as u64;

/// What the command line of `dd` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DdRequest {
    /// Each `key=value`.
    pub operands: Vec<String>,
    /// `--image-opts`: the source is given by options.
    pub image_opts: bool,
    /// `-f`.
    pub format: Option<String>,
    /// `-O`.
    pub target_format: Option<String>,
    /// `-U`.
    pub force_share: bool,
    /// `--progress`.
    pub show: Show,
}

/// The operands, taken apart.
struct Operands {
    from: PathBuf,
    to: PathBuf,
    block: u64,
    count: Option<u64>,
    skip: u64,
}

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}

fn number(name: &str, text: &str) -> Result<u64, ImgError> {
    number_between(name, text, 0, BYTES_MAX)
}

impl Operands {
    fn parse(given: &[String]) -> Result<Self, ImgError> {
        let (mut from, mut to, mut count) = (None, None, None);
        let (mut block, mut skip) = (512, 0);
        for text in given {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            match name {
                "if" => from = Some(PathBuf::from(value)),
                "of" => to = Some(PathBuf::from(value)),
                "bs" => {
                    block = number("bs", value)?;
                    if !(1..=BLOCK_MAX).contains(&block) {
                        return said(format!(
                            "Invalid bs specified. Must be between 1 and {BLOCK_MAX}."
                        ));
                    }
                }
                "count" => count = Some(number("count", value)?),
                "skip" => skip = number("skip", value)?,
                other => return said(format!("unrecognized operand {other}")),
            }
        }
        let (Some(from), Some(to)) = (from, to) else {
            return said("Must specify both input and output files");
        };
        Ok(Self { from, to, block, count, skip })
    }
}

/// Copies.
///
/// # Errors
///
/// Operands that there are not, images that cannot be read or made. A target that was being made
/// is gone then.
pub fn run(request: &DdRequest) -> Result<(), ImgError> {
    let mut operands = Operands::parse(&request.operands)?;
    if request.image_opts {
        if request.format.is_some() {
            return said("--image-opts and --format are mutually exclusive");
        }
        operands.from = super::source::options_path(&operands.from.to_string_lossy());
    }
    let source = driver_called(&operands.from, request.format.as_deref())?;
    let Ok(target) = format_called(request.target_format.as_deref().unwrap_or("raw")) else {
        return said("Unknown file format");
    };
    super::option_help::text(target, false).map_err(ImgError::said)?;
    let (force_share, show) = (request.force_share, request.show);
    on_block_layer_with(aio_for(Cache::default()), |cx| async move {
        let image = Image::open(&cx, &operands.from, OpenMode::read(source, force_share)).await?;
        let size = image.size();
        let whole = operands.count.map_or(size, |n| n.saturating_mul(operands.block).min(size));
        let start = operands.skip.saturating_mul(operands.block);
        let end = start.saturating_add(whole).min(size);
        if start > size {
            eprintln!("{}: {}: cannot skip to specified offset", prefix(), operands.from.display());
        }
        let len = end.saturating_sub(start);
        let made = make(&cx, &operands, target.name(), len).await;
        let result = match made {
            Ok(out) => copy(&cx, &image, start, len, out, &Progress::new(show, len)).await,
            Err(error) => Err(error),
        };
        // It was only read.
        let _ = image.close(&cx).await;
        result
    })
}

async fn make(cx: &Cx, operands: &Operands, format: &str, len: u64) -> Result<Image, ImgError> {
    let plan = Request {
        path: operands.to.clone(),
        format: Some(format.to_owned()),
        size: Some(len.to_string()),
        ..Request::default()
    };
    let failed = |detail: String| {
        ImgError::said(format!(
            "{}: error while creating output image: {detail}",
            operands.to.display()
        ))
    };
    create::run(&plan.plan()?, true).map_err(|error| match &error {
        ImgError::File(error) => failed(words::of_making_file(error)),
        ImgError::NotMade { reason, .. } => failed(reason.clone()),
        other => failed(spindle_block::error::with_causes(other)),
    })?;
    let mode =
        OpenMode { cache: Cache::default(), ..OpenMode::write(Some(format_called(format)?)) };
    Image::open(cx, &operands.to, mode).await
}

async fn copy(
    cx: &Cx,
    from: &Image,
    start: u64,
    len: u64,
    to: Image,
    progress: &Progress,
) -> Result<(), ImgError> {
    let path = to.path.clone();
    let result = copy_bytes(cx, from, start, len, &to, progress).await;
    let closed = to.close(cx).await;
    let result = result.and(closed.map_err(|e| {
        ImgError::said(format!("error while writing to output image file: {}", errno_text(e)))
    }));
    if result.is_err() && path.is_file() {
        // Half an image is worse than none. The first error is the one to tell.
        let _ = std::fs::remove_file(&path);
    }
    result
}

async fn copy_bytes(
    cx: &Cx,
    from: &Image,
    start: u64,
    len: u64,
    to: &Image,
    progress: &Progress,
) -> Result<(), ImgError> {
    let mut done = 0;
    while done < len {
        let step = BUFFER.min(len - done);
        let buf = IoBuf::zeroed(usize::try_from(step).unwrap_or(0));
        let (io, result) = node_io(cx, &from.node, Io::read(start + done, buf)).await;
        result.map_err(|e| {
            ImgError::said(format!("error while reading from input image file: {}", errno_text(e)))
        })?;
        let written = node_io(cx, &to.node, Io::write(done, io.buf)).await.1;
        written.map_err(|e| {
            ImgError::said(format!("error while writing to output image file: {}", errno_text(e)))
        })?;
        done += step;
        progress.advance(step);
    }
    progress.finish();
    Ok(())
}
