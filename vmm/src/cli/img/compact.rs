//! `spindle img compact`.
use super::super::{Outcome, Stop};
use super::copying::{ProgressStyle, show};
use super::{Named, Output, failed, json, one_file};
use crate::tools::img::compact::{self, CompactRequest};
use crate::tools::img::image::driver_called;
use clap::Args;
use std::path::PathBuf;

/// What `--help` ends with.
const MORE: &str = "\
The file shrinks in place, without room for a copy. In a qcow2 image lost clusters are freed,
clusters of zeros are taken out, clusters from the end move into the holes before it, and the file
is cut off behind the last one; compressed clusters stay where they are. Files of other formats keep
their length: blocks of zeros become holes. Nobody else may use the image meanwhile. A crash or a
signal at any moment leaves a whole image that loses space at most; run it again then.

Examples:
  spindle img compact --dry-run disk.qcow2
  spindle img compact -p disk.qcow2";

#[derive(Args, Debug)]
#[command(after_help = MORE)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, value_name = "FORMAT")]
    format: Option<String>,
    /// Only say how much would be won
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not read all data to find those that are zeros (qcow2)
    #[arg(long)]
    keep_zeros: bool,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// Show how far it is: as text, or as JSON for programs
    #[arg(long = "progress", value_enum, value_name = "STYLE")]
    style: Option<ProgressStyle>,
    /// How to print: human or json [default: human]
    #[arg(long, value_name = "STYLE")]
    output: Option<String>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_compact(args: CompactArgs) -> Result<Outcome, Stop> {
    let output = Output::parse(args.output.as_deref())?;
    let path = one_file(args.named.take(args.files, args.format.as_deref())?)?;
    let format = driver_called(&path, args.format.as_deref()).map_err(failed)?;
    let show = show(args.progress, args.style, args.quiet);
    let request =
        CompactRequest { path, format, dry_run: args.dry_run, keep_zeros: args.keep_zeros, show };
    let report = compact::run(request).map_err(failed)?;
    let text = match output {
        Output::Json => json(&report)?,
        Output::Human if args.quiet => String::new(),
        Output::Human => report.human(),
    };
    Ok(Outcome::Print { text, status: 0 })
}
