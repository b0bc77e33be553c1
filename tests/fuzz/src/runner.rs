//! Runs one target for a time. The input that is being tried lies in a file, so that it is there
//! after whatever happens to the process: a panic, an abort, or the end that a watcher makes of it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{Target, corpus::Corpus, counters::Reached, mutate::mutant};

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Inputs that were tried.
    pub inputs: u64,
    /// Inputs in the corpus at the end.
    pub corpus: usize,
    /// Branches reached, if they are counted.
    pub reached: usize,
}

/// The file that holds the input being tried.
#[derive(Debug)]
pub struct Current {
    path: PathBuf,
    file: File,
}

impl Current {
    /// For `target`, in the directory `dir`, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path, target: &Target) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}.input", target.name));
        let file = File::create(&path)?;
        Ok(Self { path, file })
    }

    fn set(&self, input: &[u8]) -> io::Result<()> {
        self.file.set_len(input.len() as u64)?;
        self.file.write_all_at(input, 0)
    }

    /// Nothing is being tried any more.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn clear(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

/// Tries every input of the corpus, and then mutants of them until `time` is over. Returns what came
/// of it, and `false` when the last input failed: it is in `current`.
///
/// # Errors
/// When `current` cannot be written.
pub fn run(
    target: &Target,
    seed: u64,
    time: Duration,
    current: &Current,
) -> io::Result<(Outcome, bool)> {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut corpus = Corpus::new(target);
    let mut reached = Reached::default();
    let guided = Reached::is_guided();
    let mut outcome = Outcome::default();
    let mut listed = corpus.all().to_vec().into_iter();
    let good = loop {
        let next = listed.next();
        let is_listed = next.is_some();
        if !is_listed && start.elapsed() >= time {
            break true;
        }
        let input = next.unwrap_or_else(|| mutant(target, &corpus, &mut rng));
        current.set(&input)?;
        if guided {
            Reached::begin();
        }
        let result = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        outcome.inputs += 1;
        if result.is_err() {
            break false;
        }
        if guided && reached.end() && !is_listed {
            corpus.add(input);
        }
    };
    outcome.corpus = corpus.all().len();
    outcome.reached = reached.count();
    Ok((outcome, good))
}

/// Tries one input.
#[must_use]
pub fn try_one(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok()
}
