//! `spindle img snapshot`.
use super::super::{Outcome, Stop};
use super::{Named, failed, one_file, usage};
use crate::tools::img::Look;
use crate::tools::img::image::driver_called;
use crate::tools::img::snapshot::{self, Action};
use clap::{ArgAction, Args};
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  spindle img snapshot -c before-upgrade disk.qcow2")]
pub(super) struct SnapshotArgs {
    #[command(flatten)]
    named: Named,
    /// Format [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// List the snapshots; so it is without any other
    #[arg(short, long, action = ArgAction::Count)]
    list: u8,
    /// Take a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    create: Vec<String>,
    /// Go back to a snapshot; what the disk has now is lost
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    apply: Vec<String>,
    /// Delete a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    delete: Vec<String>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// List them even if a guest has the image open for writing
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run_snapshot(args: SnapshotArgs) -> Result<Outcome, Stop> {
    let mut actions = vec![Action::List; usize::from(args.list)];
    actions.extend(args.create.into_iter().map(Action::Create));
    actions.extend(args.apply.into_iter().map(Action::Apply));
    actions.extend(args.delete.into_iter().map(Action::Delete));
    if actions.len() > 1 {
        return Err(usage("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let action = actions.pop().unwrap_or(Action::List);
    let file = one_file(args.named.take(args.files, args.format.as_deref())?)?;
    let format = driver_called(&file, args.format.as_deref()).map_err(failed)?;
    let look = Look { format, force_share: args.force_share, ..Look::default() };
    let text = snapshot::run(file, look, action).map_err(failed)?;
    Ok(Outcome::Print { text, status: 0 })
}
