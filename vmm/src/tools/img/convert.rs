//! `convert`: copies images into another, of another format or shape.
use super::aside::Aside;
use super::carry::Bitmaps;
use super::copy::{self, Copy};
use super::create::{self, FormatPlan, Plan, Preallocation, Request};
use super::error::{not_a_size, number_between};
use super::files::{aio_for, on_block_layer_with};
use super::image::{Cache, Image, OpenMode, driver_called, errno_text};
use super::pool::Pool;
use super::progress::{Progress, Show};
use super::snapshot::Which;
use super::stream;
use super::words;
use super::{ImgError, create::format_called};
use crate::spec::SpecError;
use crate::spec::format::Format;
use crate::spec::keyval;
use spindle_block::Cx;
use spindle_block::formats::ImageFormat;
use spindle_block::ring::Aio;
use std::path::{Path, PathBuf};

/// The largest piece that `-S` takes (qemu-img, MAX_BUF_SECTORS), in bytes.
const SPARSE_MAX: u64 = 32768 * 512;
/// A grain of a stream, in bytes.
const STREAM_UNIT: u64 = 64 << 10;
/// What comes last in a target that is made in its place: the disk is none without it, for there its
/// partition table, boot sector or file system begins.
pub(super) const HEAD: u64 = 1 << 20;
/// Most requests in flight (qemu-img, MAX_COROUTINES).
pub const WIDTH_MAX: u64 = 16;

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
    /// The target is given by options.
    pub target_options: bool,
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
    /// `--skip-broken-bitmaps`.
    pub skip_broken: bool,
    /// `-S`, in bytes.
    pub sparse: Option<String>,
    /// `-m`.
    pub width: Option<String>,
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

impl ConvertRequest {
    /// Whether the target gets a backing file of which nobody has said the format.
    fn guesses_backing(&self) -> bool {
        let given = |name: &str| {
            self.options.iter().any(|text| {
                keyval::parse("-o", text, None, &[]).is_ok_and(|options| options.contains_key(name))
            })
        };
        let backing = self.backing.is_some() || given("backing_file");
        backing && self.backing_format.is_none() && !given("backing_fmt")
    }
}

/// A request that makes sense.
pub(super) struct Checked {
    pub request: ConvertRequest,
    pub format: Option<Format>,
    pub sparse: u64,
    width: usize,
    pub target_cache: Cache,
    source_cache: Cache,
    snapshot: Option<Which>,
}

impl Checked {
    /// How requests are done.
    fn aio(&self) -> Aio {
        let direct = self.target_cache.direct || self.source_cache.direct;
        aio_for(Cache { direct, ..Cache::default() })
    }

    /// Gives a finished target its name.
    pub fn finish(&self, aside: Aside) -> Result<(), ImgError> {
        let path = self.request.target.display();
        let finished = aside.finish(!self.target_cache.no_flush);
        finished.map_err(|e| ImgError::said(format!("{path}: cannot name the finished image: {e}")))
    }
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
    on_block_layer_with(checked.aio(), |cx| async move { convert(&cx, checked).await })
}

fn check(request: ConvertRequest) -> Result<Checked, ImgError> {
    let sparse = match &request.sparse {
        None => 4096,
        Some(text) => match crate::spec::size::parse(text, 1) {
            Err(_) => return Err(not_a_size("buffer size for sparse output", text)),
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
    let width = match request.width.as_deref() {
        None => 8,
        Some(text) => number_between("number of coroutines", text, 1, WIDTH_MAX)?,
    };
    let width = usize::try_from(width).unwrap_or(1);
    if !request.existing && request.target_is_zero {
        return said("--target-is-zero requires use of -n flag");
    }
    if request.target_is_zero && request.backing.is_some() {
        // qemu-img says so too, copies nothing and calls it a success.
        return said("Cannot use --target-is-zero when the destination image has a backing file");
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
    if stream::input::any_pipe(&checked.request.sources) {
        return stream::input::read(cx, &checked).await;
    }
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
    let mut bitmaps = None;
    if checked.request.bitmaps {
        match Bitmaps::of(cx, &sources, checked.request.skip_broken).await {
            Ok(found) => bitmaps = Some(found),
            Err(error) => {
                close_all(cx, sources).await;
                return Err(error);
            }
        }
    }
    if stream::is_pipe(&checked.request.target) {
        if bitmaps.is_some() {
            close_all(cx, sources).await;
            return said("--bitmaps needs a target that is no pipe");
        }
        let result = stream::output::write(cx, &checked, &sources).await;
        close_all(cx, sources).await;
        return result;
    }
    let total: u64 = sources.iter().map(Image::size).sum();
    let mut target = match prepare(cx, &checked, total).await {
        Ok(target) => target,
        Err(error) => {
            close_all(cx, sources).await;
            return Err(error);
        }
    };
    let (made, aside) = (target.made, target.aside.take());
    let result = copy_over(cx, &checked, sources, target, bitmaps).await;
    let Some(aside) = aside else {
        if result.is_err() && made {
            // Half an image is worse than none. The first error is the one to tell.
            let _ = std::fs::remove_file(&checked.request.target);
        }
        return result;
    };
    // Where it failed, what was made aside is gone with `aside`.
    result?;
    checked.finish(aside)
}

/// The target, ready to be written.
pub(super) struct Target {
    pub image: Image,
    /// It is a file that did not have this content before.
    pub made: bool,
    /// It gets its name when it is complete.
    pub aside: Option<Aside>,
    pub zeroed: bool,
    /// It is written in one go: a part that is written twice is there twice.
    pub stream: bool,
    on_backing: Option<u64>,
}

pub(super) async fn prepare(cx: &Cx, checked: &Checked, total: u64) -> Result<Target, ImgError> {
    let request = &checked.request;
    let name = request.target_format.as_deref().unwrap_or("raw");
    let Ok(format) = format_called(name) else {
        return said(format!("Unknown file format '{name}'"));
    };
    // Streams are compressed anyway.
    let packs = |format| matches!(format, Format::Qcow2 | Format::Image(ImageFormat::Vmdk));
    // Options say themselves what they describe.
    let known = (!request.target_options).then_some(format);
    if request.compress && known.is_some_and(|format| !packs(format)) {
        return said("Compression not supported for this file format");
    }
    let mode = OpenMode { cache: checked.target_cache, ..OpenMode::write(known) };
    if request.existing {
        let image = Image::open(cx, &request.target, mode).await?;
        if request.compress && !packs(image.format) {
            close_all(cx, vec![image]).await;
            return said("Compression not supported for this file format");
        }
        if image.size() < total {
            close_all(cx, vec![image]).await;
            return said("output file is smaller than input file");
        }
        let below = image.backing.as_ref().filter(|_| request.backing.is_some());
        let on_backing = below.map(|below| below.size());
        return Ok(Target {
            image,
            made: false,
            aside: None,
            zeroed: request.target_is_zero,
            stream: false,
            on_backing,
        });
    }
    super::option_help::text(format, false).map_err(ImgError::said)?;
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
    if request.guesses_backing() {
        return said("Use of backing file requires explicit backing format");
    }
    let failed = |error: &dyn std::fmt::Display| {
        ImgError::said(format!(
            "{}: error while converting {name}: {error}",
            request.target.display()
        ))
    };
    let mut plan = plan(request, total).map_err(|error| {
        let text = words::of_options(&request.target, &error);
        match error {
            // Before there is anything that could fail.
            SpecError::Unknown { .. } | SpecError::NoValue { .. } => ImgError::said(text),
            _ => failed(&text),
        }
    })?;
    if request.compress && plan.is_encrypted() {
        return said("Compression and encryption not supported at the same time");
    }
    if request.compress && plan.is_preallocated() {
        return said("Compression and preallocation not supported at the same time");
    }
    let regular = std::fs::metadata(&request.target).map_or(true, |m| m.is_file());
    let mut aside = Aside::begin(&plan);
    if let Some(aside) = &aside {
        aside.path().clone_into(&mut plan.path);
    }
    let named = |aside: &Option<Aside>, text: String| match aside {
        Some(aside) => aside.named_as_target(&text),
        None => text,
    };
    create::run(&plan, true).map_err(|error| {
        let text = match &error {
            ImgError::File(error) => words::of_making_file(error),
            ImgError::NotMade { reason, .. } => reason.clone(),
            other => spindle_block::error::with_causes(other),
        };
        failed(&named(&aside, text))
    })?;
    if let Some(aside) = &mut aside {
        aside.empty_old().map_err(|text| failed(&text))?;
    }
    let image = match Image::open(cx, &plan.opened(), mode).await {
        Ok(image) => image,
        Err(error) => {
            if regular && aside.is_none() {
                let _ = std::fs::remove_file(&request.target);
            }
            let text = spindle_block::error::with_causes(&error);
            return Err(ImgError::said(named(&aside, text)));
        }
    };
    // What several sources have over their own backing files is no difference to this one.
    let below = image.backing.as_ref().filter(|_| request.sources.len() == 1);
    let on_backing = below.map(|below| below.size());
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
        aside,
        stream,
        on_backing,
    })
}

pub(super) fn plan(request: &ConvertRequest, total: u64) -> Result<Plan, SpecError> {
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
    bitmaps: Option<Bitmaps>,
) -> Result<(), ImgError> {
    let request = &checked.request;
    let total = sources.iter().map(Image::size).sum();
    if let Some(Err(error)) = bitmaps.as_ref().map(|bitmaps| bitmaps.check(&target.image)) {
        close_all(cx, sources).await;
        close_all(cx, vec![target.image]).await;
        return Err(error);
    }
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
    let (sources, image, mut result) = copy::run(
        cx,
        Copy {
            sources,
            target: target.image,
            zeroed: target.zeroed,
            on_backing: target.on_backing,
            skip_absent: false,
            head: if target.aside.is_none() && !target.stream { HEAD } else { 0 },
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
            aio: checked.aio(),
            progress: Progress::new(request.show, total),
        },
    )
    .await;
    if let Some(bitmaps) = bitmaps.filter(|_| result.is_ok()) {
        result = bitmaps.copy(cx, &sources, &image).await;
    }
    close_all(cx, sources).await;
    let closed = image.close(cx).await;
    result?;
    closed.map_err(|e| ImgError::said(format!("error while writing: {}", errno_text(e))))
}
