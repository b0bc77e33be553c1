//! Running the workers and the peers, and reading what they print.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The longest any one measurement may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a command to its end and returns what it printed on both streams.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than the limit.
pub fn output(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let mut wrapped = Command::new("timeout");
    wrapped.arg(LIMIT.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    let out = wrapped.output().map_err(|e| format!("cannot run {shown}: {e}"))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.success() {
        Ok(text)
    } else {
        Err(format!("{shown} ended with {}:\n{text}", out.status))
    }
}

/// One measurement of our own worker.
#[derive(Clone, Debug)]
pub struct Worker {
    binary: PathBuf,
    args: Vec<String>,
}

/// What the worker reports.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub struct Report {
    /// Requests per second.
    pub iops: f64,
    /// System calls of the ring per request.
    pub system_calls_per_io: f64,
    /// Heap allocations per request, after the first tenth.
    pub allocations_per_io: f64,
}

impl Worker {
    /// The worker with these arguments; it stands beside the running binary.
    ///
    /// # Errors
    /// When it is not there.
    pub fn new(args: &[&str]) -> Result<Self, String> {
        let me = std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?;
        let binary = me.with_file_name("block-bench");
        if !binary.exists() {
            return Err(format!("{} is missing: run `make bench`", binary.display()));
        }
        Ok(Self { binary, args: args.iter().map(|a| (*a).to_owned()).collect() })
    }

    fn command(&self, count: u64) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.args).arg(format!("count={count}"));
        command
    }

    /// Runs `count` requests.
    ///
    /// # Errors
    /// What the worker said.
    pub fn run(&self, count: u64) -> Result<Report, String> {
        let text = output(&mut self.command(count))?;
        let line = text.lines().find(|l| l.starts_with('{')).unwrap_or_default();
        serde_json::from_str(line).map_err(|e| format!("unexpected report {text:?}: {e}"))
    }

    /// User-space instructions per request: the slope between 2000 and 6000.
    ///
    /// # Errors
    /// When callgrind fails.
    pub fn instructions_per_io(&self) -> Result<f64, String> {
        slope(|count| instructions(&self.command(count)))
    }

    /// System calls per request, whole process: the slope between 2000 and 6000.
    ///
    /// # Errors
    /// When strace fails.
    pub fn system_calls_per_io(&self) -> Result<f64, String> {
        slope(|count| system_calls(&self.command(count)))
    }
}

/// How `measure` grows with the number of requests, between 2000 and 6000: the median of three, since
/// threads of a process that just starts come and go.
///
/// # Errors
/// What `measure` said.
pub fn slope(measure: impl Fn(u64) -> Result<f64, String>) -> Result<f64, String> {
    let once = |_| Ok((measure(6000)? - measure(2000)?) / 4000.0);
    Ok(super::median((0..3).map(once).collect::<Result<_, String>>()?))
}

/// Instructions that a command executes in user space.
///
/// # Errors
/// When callgrind fails.
pub fn instructions(command: &Command) -> Result<f64, String> {
    let mut wrapped = Command::new("valgrind");
    wrapped.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    let text = output(&mut wrapped)?;
    text.lines()
        .find_map(|l| l.split("Collected :").nth(1))
        .and_then(|n| n.trim().parse().ok())
        .ok_or_else(|| format!("callgrind printed no count:\n{text}"))
}

/// System calls that a command and its threads make.
///
/// # Errors
/// When strace fails.
pub fn system_calls(command: &Command) -> Result<f64, String> {
    let mut wrapped = Command::new("strace");
    wrapped.args(["-f", "-c", "-U", "calls,name"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    let text = output(&mut wrapped)?;
    text.lines()
        .find_map(|l| l.trim().strip_suffix("total"))
        .and_then(|n| n.trim().parse().ok())
        .ok_or_else(|| format!("strace printed no total:\n{text}"))
}

/// `fio` with the io_uring engine reading `file` at random: requests per second.
///
/// # Errors
/// When fio fails.
pub fn fio_random_read(file: &Path, depth: u32, seconds: u32) -> Result<f64, String> {
    fio(file, "randread", depth, seconds)
}

/// The same one block after the other, reading or writing.
///
/// # Errors
/// When fio fails.
pub fn fio_sequential(file: &Path, write: bool, depth: u32, seconds: u32) -> Result<f64, String> {
    fio(file, if write { "write" } else { "read" }, depth, seconds)
}

fn fio(file: &Path, rw: &str, depth: u32, seconds: u32) -> Result<f64, String> {
    let mut fio = Command::new("fio");
    fio.arg("--name=bench").arg(format!("--filename={}", file.display()));
    fio.args(["--bs=4k", "--direct=1", "--ioengine=io_uring"]).arg(format!("--rw={rw}"));
    fio.args(["--norandommap", "--time_based", "--output-format=json"]);
    fio.arg(format!("--iodepth={depth}")).arg(format!("--runtime={seconds}"));
    let text = output(&mut fio)?;
    let start = text.find('{').ok_or("fio printed no report")?;
    let mut reports = serde_json::Deserializer::from_str(&text[start..]).into_iter();
    let report: serde_json::Value =
        reports.next().ok_or("fio printed no report")?.map_err(|e| format!("fio: {e}"))?;
    let way = if rw == "write" { "write" } else { "read" };
    report["jobs"][0][way]["iops"].as_f64().ok_or_else(|| "fio reports no iops".into())
}

/// `qemu-img bench` as a command: `count` requests of 4 KiB, `step` bytes apart.
#[must_use]
pub fn qemu_img_bench(
    file: &Path,
    format: &str,
    write: bool,
    depth: u32,
    step: u64,
    count: u64,
) -> Command {
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-t", "none", "-i", "io_uring", "-s", "4096", "-f", format]);
    command.arg("-c").arg(count.to_string()).arg("-d").arg(depth.to_string());
    command.arg("-S").arg(step.to_string());
    if write {
        command.arg("-w");
    }
    command.arg(file);
    command
}

/// Requests per second of a `qemu-img bench` command for `count` requests, by its own clock.
///
/// # Errors
/// When it fails.
pub fn qemu_img_iops(command: &mut Command, count: u64) -> Result<f64, String> {
    let start = Instant::now();
    let text = output(command)?;
    let whole = start.elapsed().as_secs_f64();
    let seconds = text
        .lines()
        .find_map(|l| l.strip_prefix("Run completed in "))
        .and_then(|l| l.split(' ').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(whole);
    Ok(count as f64 / seconds)
}
