//! `spindle img`: the options of `qemu-img create`, `info` and `check`.
use super::{EXIT_INPUT, Outcome, Stop};
use crate::spec::format::Format;
use crate::tools::img::{Look, check, create, info};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct ImgArgs {
    #[command(subcommand)]
    command: ImgCommand,
}

#[derive(Debug, Subcommand)]
enum ImgCommand {
    /// Create an image
    Create(CreateArgs),
    /// Say what an image is
    Info(InfoArgs),
    /// Check an image: 0 clean, 1 not completed, 2 damaged, 3 leaks, 63 nothing to check
    Check(CheckArgs),
}

/// `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  spindle img create -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2")]
struct CreateArgs {
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Format: raw or qcow2 [default: by the file's ending, or raw]
    #[arg(short, value_name = "FORMAT")]
    format: Option<String>,
    /// Backing file
    #[arg(short, long = "backing", value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', long = "backing-format", value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Do not look at the backing file; a size must be given then
    #[arg(short = 'u', long = "unsafe-backing")]
    blind: bool,
    /// Options of the format; -o help lists them
    #[arg(short, long, value_name = "KEY=VALUE[,...]")]
    options: Vec<String>,
    /// The file
    file: Option<PathBuf>,
    /// Size of the disk in bytes, or with a suffix k, M, G or T [default: the backing file's]
    size: Option<String>,
}

#[derive(Args, Debug)]
struct InfoArgs {
    /// Format: raw or qcow2 [default: what the file begins like]
    #[arg(short, value_name = "FORMAT")]
    format: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// All backing files too
    #[arg(long)]
    backing_chain: bool,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    file: PathBuf,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Format: raw or qcow2 [default: what the file begins like]
    #[arg(short, value_name = "FORMAT")]
    format: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Repair leaks, or all that can be repaired
    #[arg(short, long, value_enum)]
    repair: Option<Repair>,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    file: PathBuf,
}

/// `-r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Repair {
    /// Clusters that nothing uses.
    Leaks,
    /// Everything.
    All,
}

/// Does what the arguments of `spindle img` say.
pub(super) fn run(args: ImgArgs) -> Result<Outcome, Stop> {
    match args.command {
        ImgCommand::Create(args) => run_create(args),
        ImgCommand::Info(args) => run_info(&args),
        ImgCommand::Check(args) => run_check(&args),
    }
}

fn run_create(args: CreateArgs) -> Result<Outcome, Stop> {
    let wants_help = args.options.iter().any(|text| text == "help" || text == "?");
    let Some(path) = args.file.clone().or_else(|| wants_help.then(PathBuf::new)) else {
        return Err(Stop::usage("give the file to create: spindle img create FILE SIZE"));
    };
    let request = create::Request {
        path,
        format: args.format,
        size: args.size,
        backing: args.backing,
        backing_format: args.backing_format,
        options: args.options,
    };
    if wants_help {
        return Ok(Outcome::Print { text: create::options_help(request.format()?), status: 0 });
    }
    let plan = request.plan()?;
    if args.blind && plan.size.is_none() {
        return Err(Stop::usage("-u does not look at the backing file, so a size must be given"));
    }
    let size = create::run(&plan, args.blind).map_err(Stop::input)?;
    let text = if args.quiet { String::new() } else { plan.announce(size) };
    Ok(Outcome::Print { text, status: 0 })
}

fn named(format: Option<&str>) -> Result<Option<Format>, Stop> {
    Ok(format.map(create::format_called).transpose()?)
}

fn run_info(args: &InfoArgs) -> Result<Outcome, Stop> {
    let look = Look { format: named(args.format.as_deref())?, force_share: args.force_share };
    let chain = info::run(&args.file, look, args.backing_chain).map_err(Stop::input)?;
    let text = match (args.output, chain.as_slice()) {
        (Output::Human, chain) => info::human(chain),
        (Output::Json, [only]) if !args.backing_chain => json(only)?,
        (Output::Json, chain) => json(&chain)?,
    };
    Ok(Outcome::Print { text, status: 0 })
}

fn run_check(args: &CheckArgs) -> Result<Outcome, Stop> {
    let look = Look { format: named(args.format.as_deref())?, force_share: args.force_share };
    let repair = match args.repair {
        None => check::Repair::None,
        Some(Repair::Leaks) => check::Repair::Leaks,
        Some(Repair::All) => check::Repair::All,
    };
    if args.repair.is_some() && args.force_share {
        return Err(Stop::usage("an image is repaired alone: -r and -U exclude each other"));
    }
    let Some(found) = check::run(&args.file, look, repair).map_err(Stop::input)? else {
        let failure = "this image format does not support checks".into();
        return Err(Stop { status: check::EXIT_UNSUPPORTED, failure });
    };
    let text = match args.output {
        Output::Json => json(&found.report)?,
        Output::Human if args.quiet => String::new(),
        Output::Human => {
            // Each finding by itself is for the error stream, as with qemu-img.
            for line in &found.findings {
                eprintln!("{line}");
            }
            found.report.human()
        }
    };
    Ok(Outcome::Print { text, status: found.report.exit_status() })
}

fn json(value: &impl serde::Serialize) -> Result<String, Stop> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| Stop { status: EXIT_INPUT, failure: e.into() })
}
