//! `spindle img`: the options of `qemu-img`.
mod amend;
mod bitmap;
mod compact;
mod copying;
mod doctor;
mod looking;
mod snapshot;

use super::{EXIT_INPUT, Failure, Outcome, Stop};
use crate::sandbox::tool::{self as sandbox, Needs};
use crate::tools::img::error::{BYTES_MAX, ImgError, number_between, prefix};
use crate::tools::img::image::{Cache, driver_called, shown};
use crate::tools::img::source::options_path;
use crate::tools::img::text::in_buckets;
use crate::tools::img::{Look, check, create, info, words};
use crate::tools::object;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct ImgArgs {
    /// Confine the command to what it needs, by a seccomp filter and a limit of memory
    #[arg(long, value_name = "on|off", default_value = "on", global = true)]
    #[arg(value_parser = switch, action = clap::ArgAction::Set)]
    sandbox: bool,
    #[command(subcommand)]
    command: ImgCommand,
}

/// `on` or `off`.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is on or off".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
enum ImgCommand {
    /// Create an image
    Create(CreateArgs),
    /// Say what an image is
    Info(InfoArgs),
    /// Check an image: 0 clean, 1 not completed, 2 damaged, 3 leaks, 63 nothing to check
    Check(CheckArgs),
    /// Say in plain words what is wrong with an image, repair it, and take the repair back
    Doctor(doctor::DoctorArgs),
    /// Make the file of an image smaller, in place
    Compact(compact::CompactArgs),
    /// Copy images into another format or shape
    Convert(copying::ConvertArgs),
    /// Compare the contents of two images: 0 the same, 1 different, above 1 not compared
    Compare(copying::CompareArgs),
    /// Say what a disk is made of, and where
    Map(looking::MapArgs),
    /// Say how large a file an image will need
    Measure(looking::MeasureArgs),
    /// Change what an image is
    Amend(amend::AmendArgs),
    /// Add, remove and change persistent dirty bitmaps
    Bitmap(bitmap::BitmapArgs),
    /// List, take, go back to and delete snapshots
    Snapshot(snapshot::SnapshotArgs),
    /// Change the size of a disk
    Resize(looking::ResizeArgs),
    /// Write what an image has over its backing file into that
    Commit(copying::CommitArgs),
    /// Put an image on another backing file
    Rebase(copying::RebaseArgs),
    /// Copy a part of a disk into a new image
    Dd(copying::DdArgs),
    /// Measure requests to an image
    Bench(looking::BenchArgs),
}

/// How images are named.
#[derive(Args, Debug, Default)]
struct Named {
    /// An object that options refer to: secret,id=ID,data=TEXT|file=FILE[,format=raw|base64]
    #[arg(long, value_name = "OBJECT")]
    object: Vec<String>,
    /// Images are given by options: driver=…,file.filename=…
    #[arg(long)]
    image_opts: bool,
}

impl Named {
    /// Takes the objects of the command line.
    fn objects(&self) -> Result<(), Stop> {
        let mut objects = self.object.iter();
        objects.try_for_each(|text| object::add(text)).map_err(|e| failed(ImgError::said(e)))
    }

    /// Takes images as option strings, if that is how they are given.
    fn take(&self, files: Vec<PathBuf>, format: Option<&str>) -> Result<Vec<PathBuf>, Stop> {
        self.objects()?;
        if !self.image_opts {
            return Ok(files);
        }
        if format.is_some() {
            return Err(failed(ImgError::said("--image-opts and --format are mutually exclusive")));
        }
        Ok(files.into_iter().map(|file| options_path(&file.to_string_lossy())).collect())
    }
}

/// The cache mode called `name`, or qemu-img's sentence about it.
fn cache(name: Option<&str>, what: &str) -> Result<Cache, Stop> {
    let name = name.unwrap_or("writeback");
    Cache::parse(name)
        .ok_or_else(|| failed(ImgError::said(format!("Invalid {what}cache option: {name}"))))
}

/// `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Backing file
    #[arg(short, long = "backing", value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', long = "backing-format", value_name = "FORMAT")]
    backing_format: Option<String>,
    #[command(flatten)]
    named: Named,
    /// Do not look at the backing file; a size must be given then
    #[arg(short = 'u', long = "backing-unsafe")]
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
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// How to print: human or json [default: human]
    #[arg(long, value_name = "STYLE")]
    output: Option<String>,
    /// All backing files too
    #[arg(short, long)]
    backing_chain: bool,
    #[command(flatten)]
    named: Named,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Format: raw or qcow2 [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// How to print: human or json [default: human]
    #[arg(long, value_name = "STYLE")]
    output: Option<String>,
    /// Cache mode [default: writeback]
    #[arg(short = 'T', long, value_name = "CACHE")]
    cache: Option<String>,
    #[command(flatten)]
    named: Named,
    /// Repair leaks, or all that can be repaired
    #[arg(short, long, value_name = "leaks|all")]
    repair: Option<String>,
    /// Even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Output {
    fn parse(text: Option<&str>) -> Result<Self, Stop> {
        match text {
            None | Some("human") => Ok(Self::Human),
            Some("json") => Ok(Self::Json),
            Some(other) => Err(usage(&format!("--output expects 'human' or 'json' not '{other}'"))),
        }
    }
}

impl ImgCommand {
    /// Whether files are opened for writing, made or changed.
    fn writes(&self) -> bool {
        match self {
            Self::Info(_) | Self::Map(_) | Self::Measure(_) | Self::Compare(_) => false,
            Self::Check(args) => args.repair.is_some(),
            Self::Doctor(args) => args.writes(),
            Self::Create(_)
            | Self::Compact(_)
            | Self::Convert(_)
            | Self::Amend(_)
            | Self::Bitmap(_)
            | Self::Snapshot(_)
            | Self::Resize(_)
            | Self::Commit(_)
            | Self::Rebase(_)
            | Self::Dd(_)
            | Self::Bench(_) => true,
        }
    }
}

/// Whether something on the command line may name a server.
pub(super) fn names_a_server() -> bool {
    std::env::args_os().skip(1).any(|arg| arg.to_string_lossy().contains("nbd"))
}

/// Does what the arguments of `spindle img` say.
pub(super) fn run(args: ImgArgs) -> Result<Outcome, Stop> {
    if args.sandbox {
        let needs =
            Needs { writes: args.command.writes(), network: names_a_server(), device: false };
        sandbox::arm(needs);
    }
    match args.command {
        ImgCommand::Create(args) => run_create(args),
        ImgCommand::Info(args) => run_info(args),
        ImgCommand::Check(args) => run_check(args),
        ImgCommand::Doctor(args) => doctor::run_doctor(args),
        ImgCommand::Compact(args) => compact::run_compact(args),
        ImgCommand::Convert(args) => copying::run_convert(args),
        ImgCommand::Compare(args) => copying::run_compare(args),
        ImgCommand::Map(args) => looking::run_map(args),
        ImgCommand::Measure(args) => looking::run_measure(args),
        ImgCommand::Bitmap(args) => bitmap::run_bitmap(args),
        ImgCommand::Amend(args) => amend::run_amend(args),
        ImgCommand::Snapshot(args) => snapshot::run_snapshot(args),
        ImgCommand::Resize(args) => looking::run_resize(args),
        ImgCommand::Commit(args) => copying::run_commit(args),
        ImgCommand::Rebase(args) => copying::run_rebase(args),
        ImgCommand::Dd(args) => copying::run_dd(args),
        ImgCommand::Bench(args) => looking::run_bench(args),
    }
}

/// The exit status of qemu-img for everything that has none of its own.
fn failed(error: ImgError) -> Stop {
    Stop { status: EXIT_INPUT, failure: error.into() }
}

/// A command line that is wrong, in qemu-img's words.
fn usage(sentence: &str) -> Stop {
    failed(ImgError::said(format!("{sentence}\n{}", hint())))
}

/// The command, as it was typed; empty where there is none.
fn command_name() -> String {
    let started_as_tool = prefix() == "qemu-img";
    let words = std::env::args().skip(if started_as_tool { 1 } else { 2 });
    let known = |word: &String| ImgCommand::has_subcommand(word);
    words
        .take_while(|word| !word.starts_with('-') || word.starts_with("--"))
        .find(known)
        .unwrap_or_default()
}

fn hint() -> String {
    let name = format!("{} {}", prefix(), command_name());
    format!("Try '{} --help' for more info", name.trim_end())
}

/// What qemu-img says of a command line that clap refuses, where it has words for it.
pub(super) fn refused(error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let name = format!("{} {}", prefix(), command_name());
    let name = name.trim_end();
    // The C library's words begin with the name of the program and the command.
    let sentence = match error.kind() {
        ErrorKind::UnknownArgument => {
            let typed = context(ContextKind::InvalidArg);
            let letter = typed.strip_prefix('-').and_then(|rest| rest.chars().next());
            match letter {
                Some('-') => format!("{name}: unrecognized option '{typed}'"),
                Some(letter) => format!("{name}: invalid option -- '{letter}'"),
                None => format!("{}: Unexpected argument: {typed}", prefix()),
            }
        }
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            let arg = context(ContextKind::InvalidArg);
            let option = arg.split([' ', '=']).next().unwrap_or_default();
            // clap names the long option of the two; what lacks an argument was typed last.
            let typed = std::env::args().next_back().unwrap_or_default();
            let letter = match typed.strip_prefix('-') {
                Some(letters) if !letters.starts_with('-') => letters.chars().next_back(),
                _ if option.starts_with("--") => None,
                _ => option.chars().nth(1),
            };
            match letter {
                None => format!("{name}: option '{option}' requires an argument"),
                Some(letter) => format!("{name}: option requires an argument -- '{letter}'"),
            }
        }
        ErrorKind::InvalidSubcommand => {
            format!("{name}: Command not found: {}", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            format!("{name}: Not enough arguments")
        }
        _ => return None,
    };
    Some(format!("{sentence}\n{}", hint()))
}

/// The one file that a command takes.
fn one_file(mut files: Vec<PathBuf>) -> Result<PathBuf, Stop> {
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(usage("Expecting one image file name")),
    }
}

/// A byte count, or qemu-img's sentence about it.
fn number(name: &str, text: &str) -> Result<u64, Stop> {
    number_between(name, text, 0, BYTES_MAX).map_err(failed)
}

fn run_create(args: CreateArgs) -> Result<Outcome, Stop> {
    args.named.objects()?;
    if args.named.image_opts {
        return Err(usage("unrecognized option '--image-opts'"));
    }
    let wants_help = args.options.iter().any(|text| text == "help" || text == "?");
    let Some(path) = args.file.clone().or_else(|| wants_help.then(PathBuf::new)) else {
        return Err(usage("Expecting image file name"));
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
        let format = request.format();
        let format = format.map_err(|error| failed(words::of_format(&error)))?;
        let text = create::options_help(format, args.file.is_some()).map_err(failed)?;
        return Ok(Outcome::Print { text, status: 0 });
    }
    if let Some(text) = &request.size {
        // Its own sentence, before anything else is looked at.
        number("image size", text)?;
    }
    let path = request.path.clone();
    // qemu-img says what it is about to do. A reader that has gone away is no reason to stop.
    let say = |text: &str| drop(std::io::stdout().lock().write_all(text.as_bytes()));
    let plan = request.plan().map_err(|error| {
        if let (false, Ok(line)) = (args.quiet, request.announce_in_vain(args.blind)) {
            say(&line);
        }
        failed(words::of_plan(&path, error))
    })?;
    let size = create::size(&plan, args.blind);
    let size = size.map_err(|error| failed(words::of_backing(&path, error)))?;
    let line = request.announce(size).map_err(|error| failed(words::of_plan(&path, error)))?;
    let text = if args.quiet { String::new() } else { line };
    create::make(&plan, size).map_err(|error| {
        say(&text);
        failed(words::of_making(&path, error))
    })?;
    Ok(Outcome::Print { text, status: 0 })
}

fn run_info(args: InfoArgs) -> Result<Outcome, Stop> {
    let output = Output::parse(args.output.as_deref())?;
    let file = one_file(args.named.take(args.files, args.format.as_deref())?)?;
    let format = driver_called(&file, args.format.as_deref()).map_err(failed)?;
    let look = Look { format, force_share: args.force_share, ..Look::default() };
    let chain = info::run(&file, look, args.backing_chain).map_err(failed)?;
    let text = match (output, chain.as_slice()) {
        (Output::Human, chain) => info::human(chain),
        (Output::Json, [only]) if !args.backing_chain => json(only)?,
        (Output::Json, chain) => json(&chain)?,
    };
    Ok(Outcome::Print { text, status: 0 })
}

fn run_check(args: CheckArgs) -> Result<Outcome, Stop> {
    let repair = match args.repair.as_deref() {
        None => check::Repair::None,
        Some("leaks") => check::Repair::Leaks,
        Some("all") => check::Repair::All,
        Some(other) => {
            let sentence = "--repair (-r) expects 'leaks' or 'all' not";
            return Err(usage(&format!("{sentence} '{other}'")));
        }
    };
    let output = Output::parse(args.output.as_deref())?;
    let cache = cache(args.cache.as_deref(), "source ")?;
    let file = one_file(args.named.take(args.files, args.format.as_deref())?)?;
    let format = driver_called(&file, args.format.as_deref()).map_err(failed)?;
    let look = Look { format, force_share: args.force_share, cache };
    if repair != check::Repair::None && args.force_share {
        return Err(failed(ImgError::said(format!(
            "Could not open '{}': force-share=on can only be used with read-only images",
            shown(&file)
        ))));
    }
    let Some(found) = check::run(&file, look, repair).map_err(failed)? else {
        let failure = ImgError::said("This image format does not support checks").into();
        return Err(Stop { status: check::EXIT_UNSUPPORTED, failure });
    };
    let text = match output {
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

/// JSON, laid out and ordered as qemu-img does.
fn json(value: &impl Serialize) -> Result<String, Stop> {
    let internal = |failure: Failure| Stop { status: EXIT_INPUT, failure };
    let value = serde_json::to_value(value).map_err(|e| internal(e.into()))?;
    let mut out = Vec::new();
    let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, layout);
    in_buckets(value).serialize(&mut writer).map_err(|e| internal(e.into()))?;
    String::from_utf8(out).map(|text| open_up(&text)).map_err(|e| internal(e.into()))
}

/// Empty lists and objects take two lines with qemu-img.
fn open_up(text: &str) -> String {
    let line = |line: &str| {
        let indent = " ".repeat(line.len() - line.trim_start().len());
        for (empty, open, close) in [("[]", "[", "]"), ("{}", "{", "}")] {
            let (bare, comma) = match line.strip_suffix(',') {
                Some(bare) => (bare, ","),
                None => (line, ""),
            };
            if let Some(start) = bare.strip_suffix(empty) {
                return format!("{start}{open}\n{indent}{close}{comma}\n");
            }
        }
        format!("{line}\n")
    };
    text.lines().map(line).collect()
}
