//! `spindle img amend`.
use super::super::{Outcome, Stop};
use super::copying::{ProgressStyle, show};
use super::{Named, failed};
use crate::spec::format::Format;
use crate::tools::img::amend::{self, AmendRequest};
use crate::tools::img::error::ImgError;
use crate::tools::img::{Look, info};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  spindle img amend -o compat=1.1,refcount_bits=64 disk.qcow2")]
pub(super) struct AmendArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// What is to change; -o help lists the options
    #[arg(short, value_name = "KEY=VALUE[,...]")]
    options: Vec<String>,
    /// How the host's page cache is used
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// How progress is shown: json for programs
    #[arg(long = "progress", value_enum, value_name = "STYLE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "text")]
    style: Option<ProgressStyle>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Even where it is dangerous: overwrite active key slots, erase the last one
    #[arg(long)]
    force: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What an image begins like.
fn detected(file: &Path) -> Result<String, Stop> {
    let look = Look::default();
    let found = info::run(file, look, false).map_err(failed)?;
    Ok(found.into_iter().next().map(|report| report.format).unwrap_or_default())
}

pub(super) fn run_amend(args: AmendArgs) -> Result<Outcome, Stop> {
    let mut files = args.named.take(args.files, args.format.as_deref())?;
    if args.options.iter().any(|text| text == "help" || text == "?") {
        let format = match (args.format, &files[..]) {
            (None, [file]) => Some(detected(file)?),
            (None, _) => {
                return Err(failed(ImgError::said("Expecting one image file name")));
            }
            (given, _) => given,
        };
        match format.as_deref() {
            None | Some("qcow2" | "luks") => {}
            Some(other) if Format::called(other).is_some() => {
                return Err(failed(ImgError::said(format!(
                    "Format driver '{other}' does not support option amendment"
                ))));
            }
            Some(other) => {
                return Err(failed(ImgError::said(format!("Unknown file format '{other}'"))));
            }
        }
        let text = amend::help(format.as_deref());
        return Ok(Outcome::Print { text: text.to_owned(), status: 0 });
    }
    // Without options nothing is looked at.
    if files.len() != 1 && !args.options.is_empty() {
        return Err(failed(ImgError::said("Expecting one image file name")));
    }
    let request = AmendRequest {
        path: files.pop().unwrap_or_default(),
        format: args.format,
        options: args.options,
        cache: args.cache,
        force: args.force,
        show: show(args.progress, args.style, args.quiet),
    };
    amend::run(request).map_err(failed)?;
    Ok(Outcome::Print { text: String::new(), status: 0 })
}
