//! `spindle img bitmap`.
use super::super::{Outcome, Stop};
use super::{Named, failed, number, one_file};
use crate::tools::img::bitmap::{self, Act, BitmapRequest};
use crate::tools::img::error::ImgError;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, FromArgMatches};
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  spindle img bitmap --add disk.qcow2 since-monday\n  \
                        spindle img bitmap --merge a --merge b disk.qcow2 both")]
struct Parsed {
    #[command(flatten)]
    named: Named,
    /// Add the bitmap
    #[arg(long, action = ArgAction::Count)]
    add: u8,
    /// Remove it
    #[arg(long, action = ArgAction::Count)]
    remove: u8,
    /// Clean it
    #[arg(long, action = ArgAction::Count)]
    clear: u8,
    /// Record writes in it from now on
    #[arg(long, action = ArgAction::Count)]
    enable: u8,
    /// Record no more
    #[arg(long, action = ArgAction::Count)]
    disable: u8,
    /// Make dirty in it what is dirty in another
    #[arg(long, value_name = "BITMAP")]
    merge: Vec<String>,
    /// With --add: how much of the disk a bit stands for [default: the cluster size, 4k to 64k]
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,
    /// The image that has the bitmaps to be merged
    #[arg(short = 'b', long = "source-file", value_name = "FILE")]
    source: Option<PathBuf>,
    /// Its format
    #[arg(short = 'F', long = "source-format", value_name = "FORMAT")]
    source_format: Option<String>,
    /// Format [default: what the file begins like]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The file, and the name of the bitmap
    #[arg(value_names = ["FILE", "BITMAP"])]
    operands: Vec<String>,
}

/// The arguments, with the order of what is to be done.
#[derive(Debug)]
pub(super) struct BitmapArgs {
    parsed: Parsed,
    acts: Vec<Act>,
}

impl Args for BitmapArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Parsed::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Parsed::augment_args_for_update(command)
    }
}

impl FromArgMatches for BitmapArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let parsed = Parsed::from_arg_matches(matches)?;
        let typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let at = |name: &str| matches.indices_of(name).into_iter().flatten().collect::<Vec<_>>();
        let mut acts: Vec<(usize, Act)> = Vec::new();
        let plain = [
            ("add", Act::Add),
            ("remove", Act::Remove),
            ("clear", Act::Clear),
            ("enable", Act::Enable),
            ("disable", Act::Disable),
        ];
        for (name, act) in plain {
            if typed(name) {
                acts.extend(at(name).into_iter().map(|index| (index, act.clone())));
            }
        }
        acts.extend(at("merge").into_iter().zip(parsed.merge.iter().cloned().map(Act::Merge)));
        acts.sort_by_key(|(index, _)| *index);
        Ok(Self { parsed, acts: acts.into_iter().map(|(_, act)| act).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run_bitmap(args: BitmapArgs) -> Result<Outcome, Stop> {
    let BitmapArgs { parsed, acts } = args;
    let said = |sentence: &str| Err(failed(ImgError::said(sentence)));
    let granularity = parsed.granularity.map(|text| number("granularity", &text)).transpose()?;
    if acts.is_empty() {
        return said(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
        );
    }
    let [file, name] = match <[String; 2]>::try_from(parsed.operands) {
        Ok(operands) => operands,
        Err(_) => return said("Expecting filename and bitmap name"),
    };
    if granularity.is_some() && !acts.contains(&Act::Add) {
        return said("granularity only supported with --add");
    }
    if parsed.source_format.is_some() && parsed.source.is_none() {
        return said("-F only supported with -b");
    }
    if parsed.source.is_some() && !acts.iter().any(|act| matches!(act, Act::Merge(_))) {
        return said("Merge bitmap source file only supported with --merge");
    }
    let files = parsed.named.take(vec![PathBuf::from(file)], parsed.format.as_deref())?;
    let request = BitmapRequest {
        path: one_file(files)?,
        format: parsed.format,
        bitmap: name,
        acts,
        granularity,
        source: parsed.source,
        source_format: parsed.source_format,
    };
    bitmap::run(request).map_err(failed)?;
    Ok(Outcome::Print { text: String::new(), status: 0 })
}
