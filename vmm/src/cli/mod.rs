//! The command line: the one place that knows clap.
//!
//! Exit statuses: 0 done, 1 something named on the command line cannot be used, 2 the command
//! line itself is wrong; `run` ends with what the machine says, `img check` as `qemu-img check`.
mod img;
mod io;
mod nbd;
mod qemu;
mod run;
#[cfg(test)]
mod tests;

use crate::doctor;
use crate::spec::{MachineSpec, SpecError};
use crate::tools::img::error;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use spindle_block::error::with_causes;
use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Whatever ended a program.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Exit status when the command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// Exit status when something it names cannot be used.
pub const EXIT_INPUT: u8 = 1;

/// What the command line starts.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// Runs a machine to its end; the value is the exit status.
    pub run: fn(MachineSpec) -> Result<u8, Failure>,
}

/// A virtual machine monitor whose heart is storage.
#[derive(Debug, Parser)]
#[command(name = "spindle", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The same with the one command that is to start quickly: what the others take is not even built.
#[derive(Debug, Parser)]
#[command(name = "spindle", version, max_term_width = 100, disable_help_subcommand = true)]
struct RunCli {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    /// Run a virtual machine.
    Run(Box<run::RunArgs>),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a virtual machine.
    Run(Box<run::RunArgs>),
    /// Create, convert, look at and check disk images
    Img(Box<img::ImgArgs>),
    /// Read and write an image by commands, as qemu-io does
    #[command(disable_help_flag = true)]
    Io(Words),
    /// Export an image over NBD, as qemu-nbd does
    #[command(disable_help_flag = true)]
    Nbd(Words),
    /// Say what this host offers, and what to do about what is missing.
    Doctor(DoctorArgs),
}

/// The command line of a tool that parses its own, as getopt_long(3) does.
#[derive(Args, Debug)]
struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<OsString>,
}

#[derive(Args, Debug)]
struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a command came to.
enum Outcome {
    /// Text for standard output, and an exit status.
    Print { text: String, status: u8 },
    /// An exit status.
    Exit(u8),
}

/// A command that failed, and the exit status that says so.
struct Stop {
    status: u8,
    failure: Failure,
}

impl From<SpecError> for Stop {
    fn from(error: SpecError) -> Self {
        let status = if error.is_usage() { EXIT_USAGE } else { EXIT_INPUT };
        Self { status, failure: error.into() }
    }
}

impl Stop {
    fn input(failure: impl Into<Failure>) -> Self {
        Self { status: EXIT_INPUT, failure: failure.into() }
    }
}

/// The `spindle` command: parses the process's arguments, does what they say, and returns the
/// exit status.
#[must_use]
pub fn main(programs: &Programs) -> ExitCode {
    start_log();
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(text) = qemu::version(&args) {
        return print(&text, 0);
    }
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(sentence) = img_command().then(|| img::refused(&error)).flatten() {
                eprintln!("{sentence}");
                return ExitCode::from(EXIT_INPUT);
            }
            // Help and version are "errors" too, with status 0 and standard output.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    match dispatch(cli, programs) {
        Ok(Outcome::Exit(status)) => ExitCode::from(status),
        Ok(Outcome::Print { text, status }) => print(&text, status),
        Err(stop) => {
            let prefix = if img_command() { error::prefix() } else { "spindle" };
            eprintln!("{prefix}: {}", with_causes(&*stop.failure));
            ExitCode::from(stop.status)
        }
    }
}

/// Whether this process is one of the image tools.
fn img_command() -> bool {
    error::prefix() != "spindle img" || std::env::args_os().nth(1).is_some_and(|arg| arg == "img")
}

/// Log lines go to standard error, warnings and worse unless `SPINDLE_LOG` says otherwise.
fn start_log() {
    let environment = env_logger::Env::new().filter_or("SPINDLE_LOG", "warn");
    let _ = env_logger::Builder::from_env(environment)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "spindle: {level}: {}", record.args())
        })
        .try_init();
}

fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let args = qemu::accept(args);
    if args.get(1).is_some_and(|word| word == "run") {
        let RunCommand::Run(args) = RunCli::try_parse_from(args)?.command;
        return Ok(Cli { command: Command::Run(args) });
    }
    let matches = Cli::command().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches)
}

fn dispatch(cli: Cli, programs: &Programs) -> Result<Outcome, Stop> {
    match cli.command {
        Command::Run(args) => run::run(*args, programs),
        Command::Img(args) => img::run(*args),
        Command::Io(args) => io::run(&args.words),
        Command::Nbd(args) => nbd::run(&args.words),
        Command::Doctor(args) => doctor(&args),
    }
}

/// `spindle doctor` ends with 1 where machines cannot run.
fn doctor(args: &DoctorArgs) -> Result<Outcome, Stop> {
    let report = doctor::examine();
    let text = if args.json { report.json().map_err(Stop::input)? + "\n" } else { report.text() };
    Ok(Outcome::Print { text, status: if report.usable { 0 } else { EXIT_INPUT } })
}

/// Writes to standard output; a reader that has gone away is no failure of ours.
fn print(text: &str, status: u8) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("spindle: cannot write to standard output: {e}");
            ExitCode::from(EXIT_INPUT)
        }
        _ => ExitCode::from(status),
    }
}
