//! `fuzz`: runs fuzz targets, each in a process of its own, and keeps the input that one fails at.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use spindle_fuzz::{
    TARGETS, Target,
    runner::{self, Current},
};

const HELP: &str = "\
fuzz [--seconds N] [--seed N] [TARGET...]   runs all targets, or these (default: 10 s each),
                                            as many at a time as there are CPUs
fuzz --input FILE TARGET                    tries one input
fuzz --list                                 lists the targets

An input that fails is kept in target/fuzz/. Once its cause is found, a small form of it belongs in
tests/fuzz/corpus/TARGET/, where every run tries it.";

/// How much longer than asked a target may take: one input that takes so long is a hang.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Args {
    seconds: Option<u64>,
    seed: Option<u64>,
    input: Option<PathBuf>,
    /// This process is the one that a target runs in.
    here: bool,
    targets: Vec<&'static Target>,
}

fn number(text: Option<String>) -> Result<u64, String> {
    let text = text.ok_or("a number is missing")?;
    let hex = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    hex.unwrap_or_else(|| text.parse()).map_err(|e| format!("{text}: {e}"))
}

fn parse() -> Result<Option<Args>, String> {
    let mut args = Args::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match &*word {
            "--seconds" => args.seconds = Some(number(words.next())?),
            "--seed" => args.seed = Some(number(words.next())?),
            "--input" => args.input = Some(words.next().ok_or("a file is missing")?.into()),
            "--here" => args.here = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            "--list" => {
                TARGETS.iter().for_each(|target| println!("{}", target.name));
                return Ok(None);
            }
            name => {
                let target = TARGETS.iter().find(|target| target.name == name);
                args.targets.push(target.ok_or_else(|| format!("there is no target {name}"))?);
            }
        }
    }
    if args.targets.is_empty() {
        args.targets = TARGETS.iter().collect();
    }
    Ok(Some(args))
}

fn main() -> ExitCode {
    match parse().and_then(|args| args.map_or(Ok(true), |args| run(&args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::from(2)
        }
    }
}

/// Where inputs are kept.
fn directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).unwrap_or(here);
    target.unwrap_or_else(|| root.join("target")).join("fuzz")
}

fn run(args: &Args) -> Result<bool, String> {
    if let Some(path) = &args.input {
        let input = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let [target] = args.targets[..] else {
            return Err("an input is for one target".to_owned());
        };
        return Ok(runner::try_one(target, &input));
    }
    let time = Duration::from_secs(args.seconds.unwrap_or(10));
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    if args.here {
        return here(args.targets[0], seed, time);
    }
    // One at a time on each CPU: a target is one thread, and starved of CPU it tries less.
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<(), String> {
        while let Some(target) = args.targets.get(next.fetch_add(1, SeqCst)) {
            if !watched(target, seed, time)? {
                failed.fetch_add(1, SeqCst);
            }
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let panicked = |_| "a worker panicked".to_owned();
        all.into_iter().try_for_each(|worker| worker.join().map_err(panicked)?)
    })?;
    let failed = failed.into_inner();
    println!("{} passed, {failed} failed", args.targets.len() - failed);
    Ok(failed == 0)
}

/// Runs a target in this process.
fn here(target: &Target, seed: u64, time: Duration) -> Result<bool, String> {
    let said = |e: std::io::Error| e.to_string();
    let current = Current::new(&directory(), target).map_err(said)?;
    let (outcome, good) = runner::run(target, seed, time, &current).map_err(said)?;
    if good {
        current.clear().map_err(said)?;
        let reached = match outcome.reached {
            0 => String::new(),
            n => format!(", {n} branches, corpus of {}", outcome.corpus),
        };
        println!("{}: {} inputs{reached}, seed {seed:#x}", target.name, outcome.inputs);
    }
    Ok(good)
}

/// Runs a target in a process of its own, whose end is waited for only so long.
fn watched(target: &Target, seed: u64, time: Duration) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .args(["--here", "--seconds", &time.as_secs().to_string(), "--seed", &seed.to_string()])
        .arg(target.name)
        .spawn()
        .map_err(|e| e.to_string())?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break Some(status);
        }
        if start.elapsed() > time + GRACE {
            let ended = child.kill().and_then(|()| child.wait());
            ended.map_err(|e| e.to_string())?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if status.is_some_and(|status| status.success()) {
        return Ok(true);
    }
    let how = status.map_or("no end: it hangs".to_owned(), |status: ExitStatus| status.to_string());
    let kept = keep(target)?;
    let name = target.name;
    println!("{name}: FAILED, {how}, seed {seed:#x}");
    println!("{name}: the input is {}; again: fuzz --input FILE {name}", kept.display());
    Ok(false)
}

/// Gives the input that failed a name of its own.
fn keep(target: &Target) -> Result<PathBuf, String> {
    let dir = directory();
    let current = dir.join(format!("{}.input", target.name));
    let kept = dir.join(format!("{}-{:016x}", target.name, fastrand::u64(..)));
    fs::rename(&current, &kept).map_err(|e| format!("{}: {e}", current.display()))?;
    Ok(kept)
}
