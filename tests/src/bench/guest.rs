//! Figures from inside a guest: spindle against QEMU on the same KVM, images, kernel and command
//! line, in turn. Runs where the KVM is: on the host, or in the lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Goal, Row, kvm_stats::Exits, median, process::output};
use crate::lab::{
    guest::{Guest, Running, Vmm},
    job::Job,
};

/// Requests that fio keeps in flight, and which way they go.
const WORKLOADS: [(&str, &str, u32); 3] = [
    ("random read QD1", "randread", 1),
    ("random read QD32", "randread", 32),
    ("random write QD32", "randwrite", 32),
];

/// Where the guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Raw,
    Qcow2,
    Null,
}

/// What one workload in one guest came to.
#[derive(Clone, Copy, Debug)]
struct Sample {
    iops: f64,
    exits_per_io: f64,
}

/// All figures of this part. `dir` is on the disk that images are measured on.
///
/// # Errors
/// The first measurement that could not be made.
pub fn run(dir: &Path, rounds: usize, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, String> {
    let raw = dir.join("bench.raw");
    let qcow2 = dir.join("bench.qcow2");
    make_images(&raw, &qcow2)?;
    let mut rows = Vec::new();
    let media = [(Medium::Null, PathBuf::new()), (Medium::Raw, raw), (Medium::Qcow2, qcow2)];
    let mut null = None;
    for (medium, path) in &media {
        progress(&format!("virtio-blk on {medium:?}"));
        let figures = compare(*medium, path, rounds, dir)?;
        let null = null.get_or_insert_with(|| figures.clone());
        rows.extend(judge(*medium, &figures, null));
    }
    progress("two queues against one");
    rows.push(two_queues(&media[1].1, rounds, dir)?);
    Ok(rows)
}

fn make_images(raw: &Path, qcow2: &Path) -> Result<(), String> {
    let size = 256 << 20;
    let fill = || -> std::io::Result<()> {
        let mut file = fs::File::create(raw)?;
        let block = vec![0x5a; 1 << 20];
        for _ in 0..size >> 20 {
            std::io::Write::write_all(&mut file, &block)?;
        }
        file.sync_all()
    };
    fill().map_err(|e| format!("cannot make {}: {e}", raw.display()))?;
    output(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(raw).arg(qcow2))?;
    Ok(())
}

/// The words that give a guest one data disk behind virtio-blk with one iothread.
fn disk_words(vmm: &Vmm, medium: Medium, path: &Path, queues: u32) -> Vec<String> {
    let path = path.display();
    match (vmm, medium) {
        (Vmm::Spindle(_), Medium::Null) => vec![
            "--blockdev".into(),
            "driver=null-co,node-name=d0,size=256M".into(),
            "--object".into(),
            "iothread,id=io0".into(),
            "--device".into(),
            format!("virtio-blk-pci,drive=d0,iothread=io0,num-queues={queues}"),
        ],
        (Vmm::Spindle(_), _) => {
            let format = if medium == Medium::Raw { "raw" } else { "qcow2" };
            vec![
                "--disk".into(),
                format!("{path},format={format},cache=none,aio=io_uring,queues={queues}"),
            ]
        }
        (Vmm::Qemu, Medium::Null) => vec![
            "-object".into(),
            "iothread,id=io0".into(),
            "-blockdev".into(),
            "driver=null-co,node-name=d0,size=268435456".into(),
            "-device".into(),
            format!("virtio-blk-pci,drive=d0,iothread=io0,num-queues={queues}"),
        ],
        (Vmm::Qemu, _) => {
            let format = if medium == Medium::Raw { "raw" } else { "qcow2" };
            vec![
                "-object".into(),
                "iothread,id=io0".into(),
                "-blockdev".into(),
                format!(
                    "driver={format},node-name=d0,cache.direct=on,discard=unmap,\
                     file.driver=file,file.filename={path},file.aio=io_uring,\
                     file.cache.direct=on,file.discard=unmap"
                ),
                "-device".into(),
                format!("virtio-blk-pci,drive=d0,iothread=io0,num-queues={queues}"),
            ]
        }
    }
}

fn job() -> Job {
    let mut script = String::from("#!/bin/sh\ncd /tmp\n");
    for (name, rw, depth) in WORKLOADS {
        // Terse version 3: field 8 is read IOPS, field 49 write IOPS.
        let field = if rw == "randread" { 8 } else { 49 };
        script.push_str(&format!(
            "echo \"<<bench: begin {name}>>\"\n\
             v=$(fio --name=x --filename=/dev/vda --rw={rw} --bs=4k --direct=1 --iodepth={depth} \
             --ioengine=io_uring --norandommap --time_based --ramp_time=1 --runtime=3 \
             --output-format=terse | cut -d';' -f{field})\n\
             echo \"<<bench: end {name} = $v>>\"\n"
        ));
    }
    Job::new(script)
}

/// One guest, all workloads.
fn measure(
    vmm: &Vmm,
    medium: Medium,
    path: &Path,
    (cpus, queues): (u32, u32),
    work: &Path,
) -> Result<Vec<Sample>, String> {
    let mut guest = Guest::initramfs(vmm.clone(), job()).map_err(|e| e.to_string())?.cpus(cpus);
    guest.extra = disk_words(vmm, medium, path, queues);
    let mut running = guest.start(work).map_err(|e| e.to_string())?;
    let mut samples = Vec::new();
    for (name, _, _) in WORKLOADS {
        let lost = |e: crate::lab::guest::GuestError| format!("{vmm:?}, {medium:?}, {name}: {e}");
        running.wait_for(&format!("<<bench: begin {name}>>")).map_err(lost)?;
        running.run_on(Duration::from_millis(1500)).map_err(lost)?;
        let before = Exits::of(running.id())?;
        running.run_on(Duration::from_millis(2000)).map_err(lost)?;
        let after = Exits::of(running.id())?;
        running.wait_for(&format!("<<bench: end {name}")).map_err(lost)?;
        running.wait_for(&format!("<<bench: end {name} = ")).map_err(lost)?;
        let iops = figure(&running, name)?;
        let exits_per_io = (after.total - before.total) as f64 / (iops * 2.0);
        samples.push(Sample { iops, exits_per_io });
    }
    running.finish().map_err(|e| e.to_string())?;
    Ok(samples)
}

fn figure(running: &Running, name: &str) -> Result<f64, String> {
    let wanted = format!("<<bench: end {name} = ");
    for _ in 0..100 {
        let text = running.console();
        let value = text.split(&wanted).nth(1).and_then(|t| t.split_once(">>"));
        if let Some((value, _)) = value {
            return value.trim().parse().map_err(|e| format!("{name}: {value:?}: {e}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("{name}: the guest printed no figure"))
}

/// Runs one guest, again if the lab lost it.
fn measure_patiently(
    vmm: &Vmm,
    medium: Medium,
    path: &Path,
    shape: (u32, u32),
    work: &Path,
) -> Result<Vec<Sample>, String> {
    let mut last = String::new();
    for _ in 0..3 {
        match measure(vmm, medium, path, shape, work) {
            Ok(samples) => return Ok(samples),
            Err(error) => {
                eprintln!("lab-flake: {error}");
                last = error;
            }
        }
    }
    Err(last)
}

/// The medians of one workload, ours and the peer's.
#[derive(Clone, Copy, Debug)]
struct Figures {
    iops: [f64; 2],
    exits_per_io: [f64; 2],
}

/// Guests of both in turn, and the medians of each workload.
fn compare(
    medium: Medium,
    path: &Path,
    rounds: usize,
    work: &Path,
) -> Result<Vec<Figures>, String> {
    let mut all: [Vec<Vec<Sample>>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..2 {
            let who = (round + turn) % 2;
            let vmm = if who == 0 { Vmm::spindle() } else { Vmm::Qemu };
            all[who].push(measure_patiently(&vmm, medium, path, (2, 1), work)?);
        }
    }
    let mid = |n: usize, f: fn(&Sample) -> f64| {
        [0, 1].map(|who: usize| median(all[who].iter().map(|samples| f(&samples[n])).collect()))
    };
    let figures =
        |n| Figures { iops: mid(n, |s| s.iops), exits_per_io: mid(n, |s| s.exits_per_io) };
    Ok((0..WORKLOADS.len()).map(figures).collect())
}

/// The rows of a medium. `null` has the figures of the disk that takes no time, and is not judged
/// itself.
fn judge(medium: Medium, figures: &[Figures], null: &[Figures]) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((figures, null), (name, _, _)) in figures.iter().zip(null).zip(WORKLOADS) {
        let goal = Goal::RatioAtLeastOrNull { goal: 1.2, null: null.iops[0] / null.iops[1] };
        rows.push(Row {
            name: format!("virtio-blk on {medium:?}, {name}"),
            ours: figures.iops[0],
            peer: Some(figures.iops[1]),
            unit: "IOPS".into(),
            goal: if medium == Medium::Null { Goal::None } else { goal },
        });
        rows.push(Row {
            name: format!("virtio-blk on {medium:?}, {name}, exits per I/O"),
            ours: figures.exits_per_io[0],
            peer: Some(figures.exits_per_io[1]),
            unit: "exits".into(),
            goal: Goal::RatioAtMost(1.0),
        });
    }
    rows
}

fn two_queues(path: &Path, rounds: usize, work: &Path) -> Result<Row, String> {
    let (mut two, mut one) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let vmm = Vmm::spindle();
        two.push(measure_patiently(&vmm, Medium::Raw, path, (2, 2), work)?[1].iops);
        one.push(measure_patiently(&vmm, Medium::Raw, path, (2, 1), work)?[1].iops);
    }
    Ok(Row {
        name: "virtio-blk, random read QD32, two queues against one".into(),
        ours: median(two),
        peer: Some(median(one)),
        unit: "IOPS".into(),
        goal: Goal::RatioAtLeast(0.95),
    })
}
