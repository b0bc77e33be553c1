//! The image tool against qemu-img, on a RAM disk; its `bench` against fio, where O_DIRECT is.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Goal, Row, interleave,
    process::{fio_sequential, output, qemu_img_bench, qemu_img_iops},
};

const MIB: u64 = 1 << 20;
/// The disk that is half zeros.
const HALF: u64 = 2 << 30;
/// Programs and libraries that are compressed.
const PROGRAMS: u64 = 1 << 30;
/// The image that is checked.
const FULL: &str = "100G";
/// Most memory of a conversion, in MiB.
const MEMORY: f64 = 64.0;

/// Both tools.
struct Tools {
    ours: PathBuf,
    /// Where files are in memory.
    ram: PathBuf,
}

/// All figures of this part. `dir` is on a file system with `O_DIRECT`.
///
/// # Errors
/// The first measurement that could not be made.
pub fn run(dir: &Path, rounds: usize, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, String> {
    let me = std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?;
    let ours = me.with_file_name("spindle");
    if !ours.exists() {
        return Err(format!("{} is missing: run `make bench`", ours.display()));
    }
    let ram = tempfile::tempdir_in("/dev/shm").map_err(|e| format!("no RAM disk: {e}"))?;
    let tools = Tools { ours, ram: ram.path().to_owned() };
    let mut rows = Vec::new();
    progress("making the images");
    tools.make_half()?;
    progress("raw to qcow2 and back");
    tools.plain(rounds, &mut rows)?;
    progress("compressing");
    tools.packed(rounds, &mut rows)?;
    progress("checking");
    tools.check(rounds, &mut rows)?;
    progress("img bench");
    tools.bench(dir, rounds, &mut rows)?;
    Ok(rows)
}

fn failed(what: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", what.display())
}

impl Tools {
    fn at(&self, name: &str) -> String {
        self.ram.join(name).display().to_string()
    }

    /// A disk of one mebibyte of noise and one of zeros in turn.
    fn make_half(&self) -> Result<(), String> {
        let path = self.ram.join("half.raw");
        let mut random = fastrand::Rng::with_seed(5);
        let mut noise = vec![0; MIB as usize];
        let zeros = vec![0; MIB as usize];
        let mut file = fs::File::create(&path).map_err(failed(&path))?;
        for _ in 0..HALF / MIB / 2 {
            random.fill(&mut noise);
            let written = file.write_all(&noise).and_then(|()| file.write_all(&zeros));
            written.map_err(failed(&path))?;
        }
        let (raw, qcow2) = (self.at("half.raw"), self.at("half.qcow2"));
        let make = ["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2];
        output(Command::new("qemu-img").args(make)).map(drop)
    }

    /// Seconds that a command takes. A target called `out` is made anew.
    fn time(&self, tool: &Path, args: &[&str]) -> Result<f64, String> {
        let out = self.ram.join("out");
        if out.exists() {
            fs::remove_file(&out).map_err(failed(&out))?;
        }
        let mut command = Command::new(tool);
        if tool == self.ours {
            command.arg("img");
        }
        let start = Instant::now();
        output(command.args(args))?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn against(&self, name: &str, args: &[&str], rounds: usize, goal: f64) -> Result<Row, String> {
        let (ours, peer) = interleave(
            rounds,
            || self.time(&self.ours, args),
            || self.time(Path::new("qemu-img"), args),
        )?;
        Ok(Row {
            name: name.into(),
            ours,
            peer: Some(peer),
            unit: "s".into(),
            goal: Goal::RatioAtMost(goal),
        })
    }

    fn plain(&self, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
        let (raw, qcow2, out) = (self.at("half.raw"), self.at("half.qcow2"), self.at("out"));
        let there = ["convert", "-f", "raw", "-O", "qcow2", &raw, &out];
        rows.push(self.against(
            "img convert raw → qcow2, 2 GiB half zeros",
            &there,
            rounds,
            0.7,
        )?);
        let back = ["convert", "-f", "qcow2", "-O", "raw", &qcow2, &out];
        rows.push(self.against("img convert qcow2 → raw, 2 GiB half zeros", &back, rounds, 0.7)?);
        rows.push(self.memory("img convert raw → qcow2, peak memory", &there)?);
        for name in ["half.raw", "half.qcow2"] {
            let path = self.ram.join(name);
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        Ok(())
    }

    fn packed(&self, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
        let path = self.ram.join("programs.raw");
        let mut file = fs::File::create(&path).map_err(failed(&path))?;
        let mut left = PROGRAMS;
        for dir in ["/usr/bin", "/usr/lib"] {
            gather(Path::new(dir), &mut file, &mut left);
        }
        file.set_len((PROGRAMS - left).next_multiple_of(512)).map_err(failed(&path))?;
        let (raw, out) = (self.at("programs.raw"), self.at("out"));
        for (kind, goal) in [("zlib", 0.35), ("zstd", 0.5)] {
            let option = format!("compression_type={kind}");
            let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &option, &raw, &out];
            let name = format!("img convert -c, {kind}, 1 GiB of programs");
            rows.push(self.against(&name, &args, rounds.min(3), goal)?);
            let mut sizes = Vec::new();
            for tool in [&*self.ours, Path::new("qemu-img")] {
                self.time(tool, &args)?;
                let path = self.ram.join("out");
                sizes.push(fs::metadata(&path).map_err(failed(&path))?.len() as f64 / MIB as f64);
            }
            rows.push(Row {
                name: format!("img convert -c, {kind}, size"),
                ours: sizes[0],
                peer: Some(sizes[1]),
                unit: "MiB".into(),
                goal: Goal::RatioAtMost(1.02),
            });
            rows.push(self.memory(&format!("img convert -c, {kind}, peak memory"), &args)?);
        }
        for path in [path, self.ram.join("out")] {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        Ok(())
    }

    fn check(&self, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
        let full = self.at("full.qcow2");
        let make = ["create", "-f", "qcow2", "-o", "preallocation=metadata", &full, FULL];
        output(Command::new("qemu-img").args(make))?;
        let args = ["check", &full];
        rows.push(self.against("img check, 100 GiB fully mapped", &args, 2 * rounds + 1, 0.5)?);
        fs::remove_file(&full).map_err(failed(Path::new(&full)))
    }

    /// The most memory that our tool has at any time.
    fn memory(&self, name: &str, args: &[&str]) -> Result<Row, String> {
        let _ = fs::remove_file(self.ram.join("out"));
        let mut command = Command::new(&self.ours);
        command.arg("img").args(args).stdout(Stdio::null());
        let mut child = command.spawn().map_err(failed(&self.ours))?;
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut most = 0.0_f64;
        while child.try_wait().map_err(failed(&self.ours))?.is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            most = most.max(kib.unwrap_or(0.0) / 1024.0);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Row {
            name: name.into(),
            ours: most,
            peer: None,
            unit: "MiB".into(),
            goal: Goal::AtMost(MEMORY),
        })
    }

    /// `img bench`: writes that allocate against qemu-img, the rest against fio.
    fn bench(&self, dir: &Path, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
        const COUNT: u64 = 16384;
        // One request in each cluster.
        let fresh = |peer: bool| -> Result<f64, String> {
            let path = dir.join("bench-fresh.qcow2");
            let make = ["create", "-f", "qcow2"];
            output(Command::new("qemu-img").args(make).arg(&path).arg("2G"))?;
            let mut command = qemu_img_bench(&path, "qcow2", true, 32, 65536, COUNT);
            if !peer {
                command = self.same(&command);
            }
            let iops = qemu_img_iops(&mut command, COUNT);
            fs::remove_file(&path).map_err(failed(&path))?;
            iops
        };
        let (ours, peer) = interleave(rounds, || fresh(false), || fresh(true))?;
        rows.push(Row {
            name: "img bench, 4K writes into unallocated clusters, QD32".into(),
            ours,
            peer: Some(peer),
            unit: "IOPS".into(),
            goal: Goal::RatioAtLeast(2.0),
        });
        let path = dir.join("bench-img.raw");
        let mut random = fastrand::Rng::with_seed(6);
        let mut noise = vec![0; MIB as usize];
        random.fill(&mut noise);
        let mut file = fs::File::create(&path).map_err(failed(&path))?;
        for _ in 0..512 {
            file.write_all(&noise).map_err(failed(&path))?;
        }
        file.sync_all().map_err(failed(&path))?;
        for (write, depth, count) in
            [(false, 32, 120_000), (false, 1, 25_000), (true, 32, 60_000), (true, 1, 15_000)]
        {
            let command = qemu_img_bench(&path, "raw", write, depth, 4096, count);
            let (ours, peer) = interleave(
                rounds,
                || qemu_img_iops(&mut self.same(&command), count),
                || fio_sequential(&path, write, depth, 2),
            )?;
            let what = if write { "writes" } else { "reads" };
            rows.push(Row {
                name: format!("img bench, raw, 4K {what}, QD{depth}, against fio"),
                ours,
                peer: Some(peer),
                unit: "IOPS".into(),
                goal: Goal::RatioAtLeast(0.95),
            });
        }
        fs::remove_file(&path).map_err(failed(&path))
    }

    /// A command of qemu-img's for our tool.
    fn same(&self, command: &Command) -> Command {
        let mut own = Command::new(&self.ours);
        own.arg("img").args(command.get_args());
        own
    }
}

/// Adds the files below a directory, in the order of their names, until there is enough.
fn gather(dir: &Path, to: &mut fs::File, left: &mut u64) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() {
            gather(&path, to, left);
        } else if meta.is_file()
            && *left > 0
            && let Ok(file) = fs::File::open(&path)
        {
            // One that cannot be read is left out.
            *left -= std::io::copy(&mut file.take(*left), to).unwrap_or(0);
        }
    }
}
