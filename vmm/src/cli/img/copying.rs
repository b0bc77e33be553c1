//! `spindle img convert`, `dd` and `compare`.
use super::super::{Outcome, Stop};
use super::{Named, failed, number, one_file, usage};
use crate::tools::img::commit::{self, CommitRequest};
use crate::tools::img::compare::{self, CompareRequest};
use crate::tools::img::convert::{self, ConvertRequest};
use crate::tools::img::create::{format_called, options_help};
use crate::tools::img::dd::{self, DdRequest};
use crate::tools::img::error::ImgError;
use crate::tools::img::progress::Show;
use crate::tools::img::rebase::{self, RebaseRequest};
use crate::tools::img::source::options_path;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressStyle {
    /// As -p.
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) fn show(progress: bool, style: Option<ProgressStyle>, quiet: bool) -> Show {
    match (quiet, style) {
        (true, _) => Show::Nothing,
        (_, Some(ProgressStyle::Json)) => Show::Json,
        (_, Some(ProgressStyle::Text)) => Show::Percent,
        _ if progress => Show::Percent,
        _ => Show::Nothing,
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  spindle img convert -p -O qcow2 disk.raw disk.qcow2\n  \
                        spindle img convert -c -O qcow2 -o compression_type=zstd big.qcow2 small.qcow2")]
pub(super) struct ConvertArgs {
    #[command(flatten)]
    named: Named,
    /// As --image-opts
    #[arg(long)]
    source_image_opts: bool,
    /// Format of the sources [default: what each begins like]
    #[arg(short, long = "source-format", value_name = "FORMAT")]
    format: Option<String>,
    /// Format of the target: raw or qcow2 [default: raw]
    #[arg(short = 'O', long, value_name = "FORMAT")]
    target_format: Option<String>,
    /// Options of the target's format; 'spindle img create -f FORMAT -o help' lists them
    #[arg(short, long = "target-options", value_name = "KEY=VALUE[,...]")]
    options: Vec<String>,
    /// Backing file of the target: only what the source has over its own is copied
    #[arg(short = 'B', long = "backing", value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', long = "backing-format", value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Copy a snapshot of the source instead of its disk: snapshot.id=ID, snapshot.name=NAME or just
    /// one of the two
    #[arg(short = 'l', long = "source-snapshot", value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Compress (qcow2), on all CPUs
    #[arg(short, long)]
    compress: bool,
    /// The target is there already and keeps its shape
    #[arg(short = 'n', long = "no-create")]
    existing: bool,
    /// With -n: the target reads as zeros everywhere
    #[arg(long)]
    target_is_zero: bool,
    /// Zeros of this many bytes are not written; 0 writes everything [default: 4k]
    #[arg(short = 'S', long = "sparse-size", value_name = "SIZE")]
    sparse: Option<String>,
    /// Requests in flight, 1 to 16 [default: 8]
    #[arg(short = 'm', long = "parallel", value_name = "NUMBER", allow_negative_numbers = true)]
    width: Option<String>,
    /// Allocate in whatever order requests end
    #[arg(short = 'W', long = "oob-writes")]
    out_of_order: bool,
    /// Cache mode of the target: none, writeback, writethrough, directsync or unsafe
    /// [default: unsafe]
    #[arg(short = 't', long, value_name = "CACHE")]
    target_cache: Option<String>,
    /// Cache mode of the sources [default: writeback]
    #[arg(short = 'T', long, value_name = "CACHE")]
    source_cache: Option<String>,
    /// Even if a guest has a source open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Most bytes in a second [default: as fast as it goes]
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    /// Copy whole extents: zeros are not looked for in them
    #[arg(short = 'C', long = "copy-range-offloading")]
    copy_offload: bool,
    /// Persistent bitmaps too
    #[arg(long)]
    bitmaps: bool,
    /// With --bitmaps: not those that are inconsistent
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// With -n: the target is given by options
    #[arg(long)]
    target_image_opts: bool,
    /// What cannot be read is zeros in the target
    #[arg(long)]
    salvage: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Show progress; on a terminal with rate and time left
    #[arg(short)]
    progress: bool,
    /// Show progress in this way
    #[arg(long = "progress", value_enum, value_name = "STYLE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "text")]
    style: Option<ProgressStyle>,
    /// The sources, and last the target; - is a pipe on standard input or output
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_convert(mut args: ConvertArgs) -> Result<Outcome, Stop> {
    let refuse = |sentence: &str| Err(failed(ImgError::said(sentence)));
    if args.options.iter().any(|text| text == "help" || text == "?") {
        let Some(name) = args.target_format.as_deref() else {
            return refuse("Option help requires a format be specified");
        };
        let Ok(format) = format_called(name) else {
            return refuse(&format!("Unknown file format '{name}'"));
        };
        let text = options_help(format, !args.files.is_empty()).map_err(failed)?;
        return Ok(Outcome::Print { text, status: 0 });
    }
    let target = args.files.pop().unwrap_or_default();
    if args.compress && args.copy_offload {
        return refuse("Cannot enable copy offloading when -c is used");
    }
    if args.sparse.is_some() && args.copy_offload {
        return refuse("Cannot enable copy offloading when -S is used");
    }
    if args.salvage && args.copy_offload {
        return refuse("Cannot use copy offloading in salvaging mode");
    }
    if args.target_image_opts && !args.existing {
        return refuse("--target-image-opts requires use of -n flag");
    }
    if args.skip_broken_bitmaps && !args.bitmaps {
        return refuse("Use of --skip-broken-bitmaps requires --bitmaps");
    }
    let target = match args.target_image_opts {
        true if args.target_format.is_some() => {
            return refuse("--image-opts and --format are mutually exclusive");
        }
        true => options_path(&target.to_string_lossy()),
        false => target,
    };
    let rate = args.rate.map(|text| number("rate limit", &text)).transpose()?;
    args.named.image_opts |= args.source_image_opts;
    let sources = args.named.take(args.files, args.format.as_deref())?;
    let request = ConvertRequest {
        target_options: args.target_image_opts,
        sources,
        rate,
        whole: args.copy_offload,
        bitmaps: args.bitmaps,
        skip_broken: args.skip_broken_bitmaps,
        format: args.format,
        target,
        target_format: args.target_format,
        options: args.options,
        backing: args.backing,
        backing_format: args.backing_format,
        compress: args.compress,
        existing: args.existing,
        target_is_zero: args.target_is_zero,
        sparse: args.sparse,
        width: args.width,
        out_of_order: args.out_of_order,
        target_cache: args.target_cache,
        source_cache: args.source_cache,
        force_share: args.force_share,
        snapshot: args.snapshot,
        salvage: args.salvage,
        quiet: args.quiet,
        show: show(args.progress, args.style, args.quiet),
    };
    convert::run(request).map_err(failed)?;
    Ok(Outcome::Exit(0))
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  spindle img dd -O qcow2 if=disk.raw of=part.qcow2 bs=1M skip=1 count=100"
)]
pub(super) struct DdArgs {
    #[command(flatten)]
    named: Named,
    /// Format of the source [default: what it begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Format of the target: raw or qcow2 [default: raw]
    #[arg(short = 'O', long = "output-format", value_name = "FORMAT")]
    target_format: Option<String>,
    /// Even if a guest has the source open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Show progress in this way
    #[arg(long = "progress", value_enum, value_name = "STYLE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "text")]
    style: Option<ProgressStyle>,
    /// if=SOURCE of=TARGET [bs=BYTES] [count=BLOCKS] [skip=BLOCKS]
    #[arg(value_name = "OPERAND")]
    operands: Vec<String>,
}

pub(super) fn run_dd(args: DdArgs) -> Result<Outcome, Stop> {
    args.named.objects()?;
    let request = DdRequest {
        operands: args.operands,
        image_opts: args.named.image_opts,
        format: args.format,
        target_format: args.target_format,
        force_share: args.force_share,
        show: show(false, args.style, false),
    };
    dd::run(&request).map_err(failed)?;
    Ok(Outcome::Exit(0))
}

#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    named: Named,
    /// Format of the first image [default: what it begins like]
    #[arg(short, long = "a-format", value_name = "FORMAT")]
    format: Option<String>,
    /// Format of the second image [default: what it begins like]
    #[arg(short = 'F', long = "b-format", value_name = "FORMAT")]
    other_format: Option<String>,
    /// Sizes and allocation must agree too
    #[arg(short, long)]
    strict: bool,
    /// Cache mode [default: writeback]
    #[arg(short = 'T', long, value_name = "CACHE")]
    cache: Option<String>,
    /// Even if a guest has an image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Show progress
    #[arg(short)]
    progress: bool,
    /// Show progress in this way
    #[arg(long = "progress", value_enum, value_name = "STYLE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "text")]
    style: Option<ProgressStyle>,
    /// The two images
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_compare(args: CompareArgs) -> Result<Outcome, Stop> {
    let given = args.format.as_deref().or(args.other_format.as_deref());
    let files = args.named.take(args.files, given);
    let files = files.map_err(|stop| Stop { status: compare::EXIT_FAILED, ..stop })?;
    let Ok(paths) = <[PathBuf; 2]>::try_from(files) else {
        return Err(usage("Expecting two image file names"));
    };
    let request = CompareRequest {
        paths,
        formats: [args.format, args.other_format],
        strict: args.strict,
        cache: args.cache,
        force_share: args.force_share,
        show: show(args.progress, args.style, args.quiet),
    };
    match compare::run(request) {
        Ok(found) => {
            let text = if args.quiet { String::new() } else { found.text };
            Ok(Outcome::Print { text, status: found.status })
        }
        Err((status, error)) => Err(Stop { status, failure: error.into() }),
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  spindle img rebase -b new.qcow2 -F qcow2 overlay.qcow2\n  \
                        spindle img rebase -u -b moved/base.raw -F raw overlay.qcow2")]
pub(super) struct RebaseArgs {
    #[command(flatten)]
    named: Named,
    /// Format of the image [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The new backing file; '' for none
    #[arg(short, long = "backing", value_name = "FILE")]
    backing: Option<String>,
    /// Its format
    #[arg(short = 'F', long = "backing-format", value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Only change the name: for a backing file that was moved and holds the same
    #[arg(short = 'u', long = "backing-unsafe")]
    name_only: bool,
    /// Compress what is copied into the image
    #[arg(short, long)]
    compress: bool,
    /// Cache mode of the image [default: writeback]
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// Cache mode of the backing files [default: writeback]
    #[arg(short = 'T', long = "backing-cache", value_name = "CACHE")]
    source_cache: Option<String>,
    /// Even if a guest has a backing file open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Show progress
    #[arg(short)]
    progress: bool,
    /// Show progress in this way
    #[arg(long = "progress", value_enum, value_name = "STYLE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "text")]
    style: Option<ProgressStyle>,
    /// The image
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_rebase(args: RebaseArgs) -> Result<Outcome, Stop> {
    let path = one_file(args.named.take(args.files, args.format.as_deref())?)?;
    if args.backing.is_none() && !args.name_only {
        return Err(usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let request = RebaseRequest {
        path,
        format: args.format,
        backing: args.backing,
        backing_format: args.backing_format,
        name_only: args.name_only,
        compress: args.compress,
        cache: args.cache,
        source_cache: args.source_cache,
        force_share: args.force_share,
        show: show(args.progress, args.style, args.quiet),
    };
    rebase::run(request).map_err(failed)?;
    Ok(Outcome::Exit(0))
}

#[derive(Args, Debug)]
pub(super) struct CommitArgs {
    #[command(flatten)]
    named: Named,
    /// Format of the image [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The image of the backing chain that all above it goes into; the image is not emptied then
    #[arg(short, long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Most bytes in a second [default: as fast as it goes]
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    /// Do not empty the image
    #[arg(short = 'd', long = "drop")]
    keep: bool,
    /// Cache mode [default: writeback]
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Show progress
    #[arg(short)]
    progress: bool,
    /// Show progress in this way
    #[arg(long = "progress", value_enum, value_name = "STYLE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "text")]
    style: Option<ProgressStyle>,
    /// The image
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_commit(args: CommitArgs) -> Result<Outcome, Stop> {
    let rate = args.rate.map(|text| number("rate limit", &text)).transpose()?;
    let request = CommitRequest {
        rate,
        path: one_file(args.named.take(args.files, args.format.as_deref())?)?,
        format: args.format,
        base: args.base,
        keep: args.keep,
        cache: args.cache,
        show: show(args.progress, args.style, args.quiet),
    };
    commit::run(request).map_err(failed)?;
    let text = if args.quiet { "" } else { "Image committed.\n" };
    Ok(Outcome::Print { text: text.to_owned(), status: 0 })
}
