//! `spindle img map`, `measure`, `resize` and `bench`.
use super::super::{Outcome, Stop};
use super::{Named, Output, failed, json, number, one_file, usage};
use crate::tools::img::bench::{self, BenchRequest};
use crate::tools::img::error::{ImgError, number_between};
use crate::tools::img::image::{Cache, shown};
use crate::tools::img::map::{self, MapRequest};
use crate::tools::img::measure::{self, MeasureRequest};
use crate::tools::img::resize::{self, ResizeRequest};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct MapArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// How to print: human or json [default: human]
    #[arg(long, value_name = "STYLE")]
    output: Option<String>,
    /// Where to begin
    #[arg(short, long, value_name = "OFFSET")]
    start_offset: Option<String>,
    /// How far to look
    #[arg(short = 'l', long, value_name = "LENGTH")]
    max_length: Option<String>,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_map(args: MapArgs) -> Result<Outcome, Stop> {
    let output = Output::parse(args.output.as_deref())?;
    let start = args.start_offset.map_or(Ok(0), |text| number("start offset", &text))?;
    let max_length = args.max_length.map(|text| number("max length", &text)).transpose()?;
    let request = MapRequest {
        path: one_file(args.named.take(args.files, args.format.as_deref())?)?,
        format: args.format,
        force_share: args.force_share,
        start,
        max_length,
    };
    let entries = map::run(request).map_err(failed)?;
    let text = match output {
        Output::Human => {
            let (text, error) = map::human(&entries);
            if let Some(error) = error {
                // As far as it goes. A reader that has gone away is no reason to stop.
                let _ = std::io::stdout().lock().write_all(text.as_bytes());
                return Err(failed(error));
            }
            text
        }
        Output::Json => map::json(&entries),
    };
    Ok(Outcome::Print { text, status: 0 })
}

#[derive(Args, Debug)]
pub(super) struct MeasureArgs {
    #[command(flatten)]
    named: Named,
    /// Format of the image [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Format of the file to be made: raw or qcow2 [default: raw]
    #[arg(short = 'O', long, value_name = "FORMAT")]
    target_format: Option<String>,
    /// Options of that format
    #[arg(short, value_name = "KEY=VALUE[,...]")]
    options: Vec<String>,
    /// How to print: human or json [default: human]
    #[arg(long, value_name = "STYLE")]
    output: Option<String>,
    /// Size of an empty disk, instead of an image
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true)]
    size: Option<String>,
    /// Measure for a snapshot of the image: snapshot.id=ID, snapshot.name=NAME or just its name or id
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_measure(args: MeasureArgs) -> Result<Outcome, Stop> {
    let output = Output::parse(args.output.as_deref())?;
    let size = args.size.map(|text| number("image size", &text)).transpose()?;
    let mut files = args.named.take(args.files, args.format.as_deref())?;
    if files.len() > 1 {
        return Err(failed(ImgError::said("At most one filename argument is allowed.")));
    }
    let request = MeasureRequest {
        path: files.pop(),
        size,
        format: args.format,
        target_format: args.target_format,
        options: args.options,
        snapshot: args.snapshot,
        force_share: args.force_share,
    };
    let measured = measure::run(request).map_err(failed)?;
    let text = match output {
        Output::Human => measured.human(),
        Output::Json => json(&measured)?,
    };
    Ok(Outcome::Print { text, status: 0 })
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  spindle img resize disk.qcow2 +10G")]
pub(super) struct ResizeArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The disk may become smaller; what lies beyond its new end is lost
    #[arg(long)]
    shrink: bool,
    /// Set aside what is gained: off, falloc or full [default: off]
    #[arg(long, value_name = "MODE")]
    preallocation: Option<String>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// The file, and its new size: SIZE, +SIZE or -SIZE
    #[arg(value_names = ["FILE", "SIZE"])]
    operands: Vec<String>,
}

pub(super) fn run_resize(mut args: ResizeArgs) -> Result<Outcome, Stop> {
    if args.operands.len() < 2 {
        return Err(usage("Expecting image file name and size"));
    }
    if args.operands.len() > 2 {
        return Err(usage("Extra argument(s) in command line"));
    }
    let size = args.operands.pop().unwrap_or_default();
    let files = args.operands.into_iter().map(PathBuf::from).collect();
    let path = one_file(args.named.take(files, args.format.as_deref())?)?;
    let request = ResizeRequest {
        path,
        size,
        format: args.format,
        shrink: args.shrink,
        preallocation: args.preallocation,
    };
    resize::run(request).map_err(failed)?;
    let text = if args.quiet { "" } else { "Image resized.\n" };
    Ok(Outcome::Print { text: text.to_owned(), status: 0 })
}

#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Number of requests
    #[arg(short, long, value_name = "NUMBER", default_value = "75000")]
    count: String,
    /// Requests in flight
    #[arg(short, long, value_name = "NUMBER", default_value = "64")]
    depth: String,
    /// Bytes of a request
    #[arg(short = 's', long = "buffer-size", value_name = "SIZE", default_value = "4096")]
    length: String,
    /// Bytes from one request to the next [default: the size of a request]
    #[arg(short = 'S', long = "step-size", value_name = "SIZE")]
    step: Option<String>,
    /// Where to begin
    #[arg(short, long, value_name = "OFFSET")]
    offset: Option<String>,
    /// Write instead of reading
    #[arg(short, long)]
    write: bool,
    /// The byte that is written
    #[arg(long, value_name = "BYTE")]
    pattern: Option<String>,
    /// Flush after so many writes
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    flush_interval: String,
    /// Flushes do not wait for the requests before them
    #[arg(long)]
    no_drain: bool,
    /// Cache mode [default: writeback]
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// Taken for the sake of scripts: the engine is io_uring wherever the host has it
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    /// As -i native, which wants a cache mode that goes around the host's page cache
    #[arg(short = 'n', long)]
    native: bool,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_bench(args: BenchArgs) -> Result<Outcome, Stop> {
    let aio = args.aio.as_deref().unwrap_or(if args.native { "native" } else { "threads" });
    if !["threads", "native", "io_uring"].contains(&aio) {
        return Err(failed(ImgError::said(format!("Invalid aio option: {aio}"))));
    }
    let native = aio == "native";
    let between =
        |name: &str, text: &str, min, max| number_between(name, text, min, max).map_err(failed);
    const INT_MAX: u64 = i32::MAX as u64;
    let pattern = args.pattern.map_or(Ok(0), |text| between("pattern byte", &text, 0, 255))?;
    let request = BenchRequest {
        path: one_file(args.named.take(args.files, args.format.as_deref())?)?,
        format: args.format,
        count: between("request count", &args.count, 1, INT_MAX)?,
        depth: between("queue depth", &args.depth, 1, INT_MAX)?,
        length: between("buffer size", &args.length, 1, INT_MAX)?,
        step: args.step.map_or(Ok(0), |text| number("step size", &text))?,
        offset: args.offset.map_or(Ok(0), |text| number("offset", &text))?,
        write: args.write,
        pattern: u8::try_from(pattern).unwrap_or(0),
        flush_interval: between("flush interval", &args.flush_interval, 0, INT_MAX)?,
        no_drain: args.no_drain,
        cache: args.cache,
        force_share: args.force_share,
    };
    request.check().map_err(failed)?;
    let cache = Cache::parse(request.cache.as_deref().unwrap_or("writeback"));
    if native && cache.is_some_and(|cache| !cache.direct) {
        return Err(failed(ImgError::said(format!(
            "Could not open '{}': aio=native was specified, but it requires cache.direct=on, which was not \
             specified.",
            shown(&request.path)
        ))));
    }
    let announce = move |text: &str| {
        if !args.quiet {
            // A reader that has gone away is no reason to stop.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
    };
    let elapsed = bench::run(request, announce).map_err(failed)?;
    let text = format!("Run completed in {:.3} seconds.\n", elapsed.as_secs_f64());
    Ok(Outcome::Print { text: if args.quiet { String::new() } else { text }, status: 0 })
}
