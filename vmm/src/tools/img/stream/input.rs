//! Out of a pipe.
use super::super::ImgError;
use super::super::convert::{Checked, Target, prepare};
use super::super::copy::runs;
use super::super::image::{Image, errno_text};
use super::super::progress::Progress;
use super::super::source;
use super::{is_pipe, open, plain};
use crate::spec::format::Format;
use spindle_block::formats::ImageFormat;
use spindle_block::qcow2::{self, Piece};
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range, vmdk};
use std::fs::File;
use std::io::{self, Chain, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

/// Bytes of raw data that are read at once.
const STEP: u64 = 1 << 20;
/// Sizes of disks are made of sectors.
const SECTOR: u64 = 512;

type Pipe = Chain<Cursor<Vec<u8>>, File>;

/// What comes through a pipe.
enum Incoming {
    /// Bytes as they are, and how many have come.
    Raw(Pipe, u64),
    Qcow2(Box<qcow2::StreamReader<Pipe>>),
    Vmdk(Box<vmdk::StreamReader<Pipe>>),
}

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}

impl Incoming {
    fn open(path: &Path, format: Option<Format>) -> Result<Self, ImgError> {
        let mut file = open(path, false)?;
        let mut head = Vec::new();
        let wrong = |detail: &dyn std::error::Error| {
            ImgError::said(format!(
                "Could not open '{}': {}",
                path.display(),
                spindle_block::error::with_causes(detail)
            ))
        };
        (&mut file).take(4).read_to_end(&mut head).map_err(|error| wrong(&error))?;
        let format = format.unwrap_or(match &head[..] {
            b"QFI\xfb" => Format::Qcow2,
            b"KDMV" => Format::Image(ImageFormat::Vmdk),
            _ => Format::Raw,
        });
        let pipe = Cursor::new(head).chain(file);
        Ok(match format {
            Format::Raw => Self::Raw(pipe, 0),
            Format::Qcow2 => {
                Self::Qcow2(Box::new(qcow2::StreamReader::open(pipe).map_err(|e| wrong(&e))?))
            }
            Format::Image(ImageFormat::Vmdk) => {
                Self::Vmdk(Box::new(vmdk::StreamReader::open(pipe).map_err(|e| wrong(&e))?))
            }
            Format::Image(other) => {
                return said(format!(
                    "{} cannot be read from a pipe: that takes raw, vmdk with \
                     subformat=streamOptimized, or qcow2 whose tables lie before its data",
                    other.name()
                ));
            }
        })
    }

    /// The size of the disk, where it is known before the end.
    fn size(&self) -> Option<u64> {
        match self {
            Self::Raw(..) => None,
            Self::Qcow2(reader) => Some(reader.size().next_multiple_of(SECTOR)),
            Self::Vmdk(reader) => Some(reader.size()),
        }
    }

    fn next(&mut self) -> Result<Option<Piece>, ImgError> {
        let wrong = |error: &dyn std::error::Error| {
            ImgError::said(format!(
                "error while reading: {}",
                spindle_block::error::with_causes(error)
            ))
        };
        match self {
            Self::Raw(pipe, at) => {
                let mut bytes = Vec::new();
                let read = pipe.take(STEP).read_to_end(&mut bytes);
                read.map_err(|error: io::Error| {
                    ImgError::said(format!("error while reading at byte {at}: {}", plain(&error)))
                })?;
                let offset = *at;
                *at += bytes.len() as u64;
                Ok((!bytes.is_empty()).then_some(Piece { offset, bytes }))
            }
            Self::Qcow2(reader) => reader.next_piece().map_err(|error| wrong(&error)),
            Self::Vmdk(reader) => reader.next_piece().map_err(|error| wrong(&error)),
        }
    }
}

/// Reads an image out of a pipe into the target.
///
/// # Errors
///
/// What cannot be read or made in this way, a pipe that ends too early, a target that cannot be
/// written.
pub(in super::super) async fn read(cx: &Cx, checked: &Checked) -> Result<(), ImgError> {
    let request = &checked.request;
    let [path] = &request.sources[..] else {
        return said("only one image can be read from a pipe, and none beside it");
    };
    if is_pipe(&request.target) {
        return said(
            "an image cannot go from one pipe to another: one of the two has to be a file",
        );
    }
    if request.compress || request.bitmaps || request.snapshot.is_some() || request.salvage {
        return said("-c, -l, --bitmaps and --salvage need a source that is no pipe");
    }
    let mut incoming = Incoming::open(path, checked.format)?;
    let size = incoming.size();
    let name = request.target_format.as_deref().unwrap_or("raw");
    if size.is_none() && !request.existing && !matches!(name, "raw" | "qcow2") {
        return said(format!(
            "{name} needs to know the size of the disk before its data: from a pipe, raw data can \
             only become raw or qcow2"
        ));
    }
    let mut target = prepare(cx, checked, size.unwrap_or(0)).await?;
    let (made, aside) = (target.made, target.aside.take());
    let progress = Progress::new(request.show, size.unwrap_or(0));
    let copied = copy(cx, checked, &mut incoming, &target, aside.is_none(), &progress).await;
    let closed = target.image.close(cx).await;
    let result = copied
        .and(closed.map_err(|error| {
            ImgError::said(format!("error while writing: {}", errno_text(error)))
        }));
    match aside {
        None if result.is_err() && made => {
            // Half an image is worse than none. The first error is the one to tell.
            let _ = std::fs::remove_file(&request.target);
        }
        Some(aside) if result.is_ok() => checked.finish(aside)?,
        _ => {}
    }
    result?;
    progress.finish();
    Ok(())
}

async fn copy(
    cx: &Cx,
    checked: &Checked,
    incoming: &mut Incoming,
    target: &Target,
    in_place: bool,
    progress: &Progress,
) -> Result<(), ImgError> {
    let image = &target.image;
    if let Some(size) = incoming.size().filter(|size| !target.zeroed && *size > 0) {
        zeros(cx, image, Range::new(0, size)).await?;
    }
    // As with other sources: what is made in its place has its beginning last.
    let head = if in_place && !target.stream { super::super::convert::HEAD } else { 0 };
    let mut first = Vec::new();
    while let Some(piece) = incoming.next()? {
        let len = piece.bytes.len() as u64;
        let end = (piece.offset + len).next_multiple_of(SECTOR);
        if end > image.size() {
            if checked.request.existing {
                return said("output file is smaller than input file");
            }
            let grown = Arc::clone(&image.node).resize(Cx::clone(cx), end).await;
            grown.map_err(|error| writing(piece.offset, error))?;
        }
        if piece.offset < head {
            first.push(piece);
        } else {
            write(cx, checked, target, piece).await?;
        }
        progress.advance(len);
    }
    for piece in first {
        write(cx, checked, target, piece).await?;
    }
    Ok(())
}

/// Writes a piece, without the zeros in it.
async fn write(
    cx: &Cx,
    checked: &Checked,
    target: &Target,
    mut piece: Piece,
) -> Result<(), ImgError> {
    let whole = piece.bytes.len().next_multiple_of(SECTOR as usize);
    piece.bytes.resize(whole, 0);
    let range = Range::new(piece.offset, whole as u64);
    let buf = IoBuf::from_slice(&piece.bytes);
    let cluster = target.image.qcow2.as_ref().map_or(0, |image| image.cluster_size());
    let grain = if target.stream { 64 << 10 } else { 0 };
    let step = match checked.sparse {
        0 => 0,
        sparse => sparse.max(cluster).max(grain).next_power_of_two(),
    };
    for (at, len, zero) in runs(range, &buf, step) {
        let place = Range::new(range.offset + at, len);
        if zero {
            if !target.zeroed {
                zeros(cx, &target.image, place).await?;
            }
            continue;
        }
        let fua = checked.target_cache.write_through;
        let io = Io { op: Op::Write { fua }, range: place, buf: buf.view(at, len) };
        let written = node_io(cx, &target.image.node, io).await.1;
        written.map_err(|error| writing(place.offset, error))?;
    }
    Ok(())
}

async fn zeros(cx: &Cx, image: &Image, range: Range) -> Result<(), ImgError> {
    let op = Op::WriteZeroes { unmap: true, fua: false };
    let written = node_io(cx, &image.node, Io::bare(op, range)).await.1;
    written.map_err(|error| writing(range.offset, error))
}

fn writing(at: u64, error: BlockError) -> ImgError {
    ImgError::said(format!("error while writing at byte {at}: {}", errno_text(error)))
}

/// Whether any of the sources is a pipe.
pub(in super::super) fn any_pipe(paths: &[std::path::PathBuf]) -> bool {
    paths.iter().any(|path| !source::is_options(path) && is_pipe(path))
}
