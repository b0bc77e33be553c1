//! `convert`: copies images into another, of another format or shape.
use super::copy::{self, Copy};
use super::create::{self, FormatPlan, Plan, Preallocation, Request};
use super::error::not_a_size;
use super::files::on_block_layer;
use super::image::{Cache, Image, OpenMode, driver_called, errno_text, file_detail};
use super::pool::Pool;
use super::progress::{Progress, Show};
use super::snapshot::Which;
use super::{ImgError, create::format_called};
use crate::spec::SpecError;
use crate::spec::format::Format;
use spindle_block::Cx;
use std::path::{Path, PathBuf};

/// The largest piece that `-S` takes (qemu-img, MAX_BUF_SECTORS), in bytes.
const SPARSE_MAX: u64 = 32768 * 512;
/// A grain of a stream, in bytes.
const STREAM_UNIT: u64 = 64 << 10;
/// Most requests in flight (qemu-img, MAX_COROUTINES).
pub const WIDTH_MAX: i64 = 16;

/// What the command line of `convert` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertRequest {
    /// The sources, one behind the other.
    pub sources: Vec<PathBuf>,
    /// `-f`.
    pub format: Option<String>,
    /// The target.
    pub target: PathBuf,
    /// `-O`.
    pub target_format: Option<String>,
    /// Each `-o`.
    pub options: Vec<String>,
    /// `-B`.
    pub backing: Option<String>,
    /// `-F`.
    pub backing_format: Option<String>,
    /// `-c`.
    pub compress: bool,
    /// `-n`: the target is there already.
    pub existing: bool,
    /// `--target-is-zero`.
    pub target_is_zero: bool,
    /// `-r`, in bytes a second.
    pub rate: Option<u64>,
    /// `-C`: zeros are not looked for in what has data.
    pub whole: bool,
    /// `--bitmaps`.
    pub bitmaps: bool,
    /// `-S`, in bytes.
    pub sparse: Option<String>,
    /// `-m`.
    pub width: Option<i64>,
    /// `-W`.
    pub out_of_order: bool,
    /// `-t`.
    pub target_cache: Option<String>,
    /// `-T`.
    pub source_cache: Option<String>,
    /// `-U`.
    pub force_share: bool,
    /// `-l`.
    pub snapshot: Option<String>,
    /// `--salvage`.
    pub salvage: bool,
    /// `-q`.
    pub quiet: bool,
    /// `-p`.
    pub show: Show,
}

/// A request that makes sense.
struct Checked {
    request: ConvertRequest,
    format: Option<Format>,
    sparse: u64,
    width: usize,
    target_cache: Cache,
    source_cache: Cache,
    snapshot: Option<Which>,
}

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}

/// Converts.
///
/// # Errors
///
/// Options that contradict each other, images that cannot be opened, made, read or written. A
/// target that was being made is gone then.
pub fn run(request: ConvertRequest) -> Result<(), ImgError> {
    let checked = check(request)?;
    on_block_layer(|cx| async move { convert(&cx, checked).await })
}

fn check(request: ConvertRequest) -> Result<Checked, ImgError> {
    let sparse = match &request.sparse {
        None => 4096,
        Some(text) => match crate::spec::size::parse(text, 1) {
            Err(_) => return Err(not_a_size("buffer size for sparse output")),
            Ok(bytes) if bytes.is_multiple_of(512) && bytes <= SPARSE_MAX => bytes,
            Ok(_) => {
                return said(format!(
                    "Invalid buffer size for sparse output specified. Valid sizes are multiples \
                     of 512 up to {SPARSE_MAX}. Select 0 to disable sparse detection (fully \
                     allocates output)."
                ));
            }
        },
    };
    let width = match request.width.unwrap_or(8) {
        n @ 1..=WIDTH_MAX => usize::try_from(n).unwrap_or(1),
        _ => {
            return said(format!(
                "Invalid number of coroutines. Allowed number of coroutines is between 1 and \
                 {WIDTH_MAX}"
            ));
        }
    };
    if !request.existing && request.target_is_zero {
        return said("--target-is-zero requires use of -n flag");
    }
    if request.existing && !request.options.is_empty() {
        return said("-o has no effect when skipping image creation");
    }
    if request.sources.is_empty() {
        return said("Must specify image file name");
    }
    let cache = |name: &Option<String>, default: Cache, what: &str| match name {
        None => Ok(default),
        Some(name) => Cache::parse(name)
            .ok_or_else(|| ImgError::said(format!("Invalid {what}cache option: {name}"))),
    };
    let target_cache = cache(&request.target_cache, Cache::UNSAFE, "")?;
    let source_cache = cache(&request.source_cache, Cache::default(), "source ")?;
    let first = request.sources.first().map_or(Path::new(""), PathBuf::as_path);
    let format = driver_called(first, request.format.as_deref())?;
    let snapshot = request.snapshot.as_deref().map(Which::parse).transpose()?;
    if snapshot.is_some() && request.sources.len() > 1 {
        return said("No support for concatenating multiple snapshot");
    }
    Ok(Checked { request, format, sparse, width, target_cache, source_cache, snapshot })
}

/// Closes images that were only read, or whose state no longer matters.
pub(super) async fn close_all(cx: &Cx, images: Vec<Image>) {
    for image in images {
        // Nothing was written, or something worse has been said already.
        let _ = image.close(cx).await;
    }
}

async fn convert(cx: &Cx, checked: Checked) -> Result<(), ImgError> {
    let mut sources = Vec::new();
    for path in &checked.request.sources {
        let read = OpenMode::read(checked.format, checked.request.force_share);
        let mode = OpenMode { cache: checked.source_cache, ..read };
        let opened = match (Image::open(cx, path, mode).await, &checked.snapshot) {
            (Ok(image), Some(which)) => image.at_snapshot(cx, which).await,
            (opened, _) => opened,
        };
        match opened {
            Ok(image) => sources.push(image),
            Err(error) => {
                close_all(cx, sources).await;
                return Err(error);
            }
        }
    }
    if let Err(error) = bitmaps(cx, &checked.request, &sources).await {
        close_all(cx, sources).await;
        return Err(error);
    }
    let total: u64 = sources.iter().map(Image::size).sum();
    let target = match prepare(cx, &checked, total).await {
        Ok(target) => target,
        Err(error) => {
            close_all(cx, sources).await;
            return Err(error);
        }
    };
    let made = target.made;
    let result = copy_over(cx, &checked, sources, target, total).await;
    if result.is_err() && made {
        // Half an image is worse than none. The first error is the one to tell.
        let _ = std::fs::remove_file(&checked.request.target);
    }
    result
}

/// `--bitmaps` is for images that can have them; those of a source cannot be copied yet.
async fn bitmaps(cx: &Cx, request: &ConvertRequest, sources: &[Image]) -> Result<(), ImgError> {
    if !request.bitmaps {
        return Ok(());
    }
    let [source] = sources else {
        return said("Copying bitmaps only possible with single source");
    };
    if source.format != Format::Qcow2 {
        return said("Source lacks bitmap support");
    }
    let header = spindle_block::qcow2::read_header(cx, &source.file).await;
    match header.map(|header| header.bitmaps()) {
        Ok(None) => Ok(()),
        _ => said("the source's bitmaps cannot be copied; leave --bitmaps out to do without them"),
    }
}

/// The target, ready to be written.
struct Target {
    image: Image,
    /// It is a file that did not have this content before.
    made: bool,
    zeroed: bool,
    /// It is written in one go: a part that is written twice is there twice.
    stream: bool,
    on_backing: Option<u64>,
}

async fn prepare(cx: &Cx, checked: &Checked, total: u64) -> Result<Target, ImgError> {
    let request = &checked.request;
    let name = request.target_format.as_deref().unwrap_or("raw");
    let Ok(format) = format_called(name) else {
        return said(format!("Unknown file format '{name}'"));
    };
    if request.compress && format != Format::Qcow2 {
        return said("Compression not supported for this file format");
    }
    let mode = OpenMode { cache: checked.target_cache, ..OpenMode::write(Some(format)) };
    if request.existing {
        let image = Image::open(cx, &request.target, mode).await?;
        if image.size() < total {
            close_all(cx, vec![image]).await;
            return said("output file is smaller than input file");
        }
        let on_backing = backing_below(request, &image);
        return Ok(Target {
            image,
            made: false,
            zeroed: request.target_is_zero,
            stream: false,
            on_backing,
        });
    }
    if request.backing.is_some() && !format.has_backing() {
        let name = format.name();
        return said(format!("Backing file not supported for file format '{name}'"));
    }
    if request.backing.is_some() && request.sources.len() > 1 {
        return said(
            "Having a backing file for the target makes no sense when concatenating \
                     multiple input images",
        );
    }
    if request.backing.is_some() && request.backing_format.is_none() {
        return said("Use of backing file requires explicit backing format");
    }
    let failed = |error: &dyn std::fmt::Display| {
        ImgError::said(format!(
            "{}: error while converting {name}: {error}",
            request.target.display()
        ))
    };
    let plan = plan(request, total).map_err(|error| match error {
        SpecError::Unknown { name, .. } => ImgError::said(format!("Invalid parameter '{name}'")),
        other => failed(&other),
    })?;
    if request.compress && plan.is_encrypted() {
        return said("Compression and encryption not supported at the same time");
    }
    let regular = std::fs::metadata(&request.target).map_or(true, |m| m.is_file());
    create::run(&plan, true).map_err(|error| match &error {
        ImgError::File(error) => failed(&file_detail(error)),
        ImgError::NotMade { reason, .. } => failed(reason),
        other => failed(&spindle_block::error::with_causes(other)),
    })?;
    let image = match Image::open(cx, &plan.opened(), mode).await {
        Ok(image) => image,
        Err(error) => {
            if regular {
                let _ = std::fs::remove_file(&request.target);
            }
            return Err(error);
        }
    };
    let on_backing = backing_below(request, &image);
    let stream = super::formats::stream_plan(&plan.format);
    let whole = match plan.format {
        FormatPlan::Qcow2(own) => own.preallocation == Preallocation::Off,
        // What a hole decrypts to is no zeros.
        FormatPlan::Image(own) => own.key_secret().is_none(),
        FormatPlan::Raw { .. } => true,
    };
    Ok(Target {
        zeroed: regular && whole && image.backing.is_none(),
        image,
        made: regular,
        stream,
        on_backing,
    })
}

fn backing_below(request: &ConvertRequest, image: &Image) -> Option<u64> {
    request.backing.as_ref().and(image.backing.as_ref()).map(|below| below.size())
}

fn plan(request: &ConvertRequest, total: u64) -> Result<Plan, SpecError> {
    let plan = Request {
        path: request.target.clone(),
        format: Some(request.target_format.clone().unwrap_or_else(|| "raw".to_owned())),
        size: Some(total.to_string()),
        backing: request.backing.clone(),
        backing_format: request.backing_format.clone(),
        options: request.options.clone(),
    };
    plan.plan()
}

async fn copy_over(
    cx: &Cx,
    checked: &Checked,
    sources: Vec<Image>,
    target: Target,
    total: u64,
) -> Result<(), ImgError> {
    let request = &checked.request;
    let pool = match target.image.qcow2.as_ref().filter(|_| request.compress) {
        None => None,
        Some(image) => match Pool::new(image.compression()) {
            Ok(pool) => Some(pool),
            Err(error) => {
                close_all(cx, sources).await;
                close_all(cx, vec![target.image]).await;
                return Err(ImgError::Start(error));
            }
        },
    };
    let (sources, image, result) = copy::run(
        cx,
        Copy {
            sources,
            target: target.image,
            zeroed: target.zeroed,
            on_backing: target.on_backing,
            skip_absent: false,
            sparse: if target.stream && checked.sparse > 0 {
                checked.sparse.max(STREAM_UNIT)
            } else {
                checked.sparse
            },
            whole: request.whole,
            rate: request.rate.filter(|rate| *rate > 0),
            width: checked.width,
            out_of_order: request.out_of_order,
            pool,
            salvage: request.salvage,
            quiet: request.quiet,
            write_through: checked.target_cache.write_through,
            progress: Progress::new(request.show, total),
        },
    )
    .await;
    close_all(cx, sources).await;
    let closed = image.close(cx).await;
    result?;
    closed.map_err(|e| ImgError::said(format!("error while writing: {}", errno_text(e))))
}
