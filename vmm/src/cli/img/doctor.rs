//! `spindle img doctor`.
use super::super::{Outcome, Stop};
use super::{Named, Output, failed, json, one_file, usage};
use crate::tools::img::doctor::{self, DoctorRequest};
use crate::tools::img::error::ImgError;
use crate::tools::img::image::driver_called;
use clap::Args;
use std::path::PathBuf;

/// What `--help` ends with.
const MORE: &str = "\
A repair is rehearsed in memory first, so that what it would do is known; without --repair
nothing is written. With it, the old bytes of everything that changes are durable in the undo
file before the first change. --undo looks whether the image is still the one that was repaired
and brings it back byte for byte; one that was used since is left alone.

Exit status:
   0  nothing is wrong, or everything was repaired
   1  the image could not be examined
   2  data are damaged or in danger
   3  space is lost, or something was left undone, but no data are in danger
  63  the format has nothing that could be examined

Examples:
  spindle img doctor disk.qcow2
  spindle img doctor --repair disk.qcow2
  spindle img doctor --undo disk.qcow2.undo disk.qcow2";

#[derive(Args, Debug)]
#[command(after_help = MORE)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, value_name = "FORMAT")]
    format: Option<String>,
    /// How to print: human or json [default: human]
    #[arg(long, value_name = "STYLE")]
    output: Option<String>,
    /// Make the repair
    #[arg(long)]
    repair: bool,
    /// Where the old bytes go [default: FILE.undo]
    #[arg(long, value_name = "UNDOFILE", requires = "repair")]
    undo_file: Option<PathBuf>,
    /// Take a repair back
    #[arg(long, value_name = "UNDOFILE", conflicts_with = "repair")]
    undo: Option<PathBuf>,
    /// Even if a guest has the image open for writing: what is found may not be true then
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl DoctorArgs {
    /// Whether the image may be changed.
    pub(super) fn writes(&self) -> bool {
        self.repair || self.undo.is_some()
    }
}

pub(super) fn run_doctor(args: DoctorArgs) -> Result<Outcome, Stop> {
    let output = Output::parse(args.output.as_deref())?;
    let path = one_file(args.named.take(args.files, args.format.as_deref())?)?;
    if args.repair && args.force_share {
        return Err(usage("an image is repaired alone: --repair and -U exclude each other"));
    }
    if let Some(undo_file) = args.undo {
        if output == Output::Json || args.format.is_some() {
            return Err(failed(ImgError::said("--undo takes neither -f nor --output=json")));
        }
        let text = doctor::run_undo(&undo_file, &path).map_err(failed)?;
        return Ok(Outcome::Print { text, status: 0 });
    }
    let format = driver_called(&path, args.format.as_deref()).map_err(failed)?;
    let request = DoctorRequest {
        path,
        format,
        repair: args.repair,
        undo_file: args.undo_file,
        force_share: args.force_share,
    };
    let found = doctor::run(request).map_err(failed)?;
    let text = match output {
        Output::Human => found.human(),
        Output::Json => json(&found)?,
    };
    Ok(Outcome::Print { text, status: found.exit_status() })
}
