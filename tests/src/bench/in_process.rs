//! The block layer in this process: against fio, against `qemu-img bench`, and counted.

use std::{fs, path::Path, process::Command};

use super::{
    Goal, Row, interleave, median,
    process::{
        Worker, fio_random_read, instructions, output, qemu_img_bench, qemu_img_iops, slope,
        system_calls,
    },
};

/// Size of the images: larger than any metadata cache, small enough to make in seconds.
const SIZE: u64 = 512 << 20;
/// Bytes between the requests of the peer: visits every block once, far from its neighbours.
const STEP: u64 = (SIZE as f64 * 0.618) as u64 / 4096 * 4096 + 4096;

/// All figures of this part. `dir` is on a file system with `O_DIRECT`.
///
/// # Errors
/// The first measurement that could not be made.
pub fn run(dir: &Path, rounds: usize, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, String> {
    let raw = dir.join("bench.raw");
    let qcow2 = dir.join("bench.qcow2");
    progress("making the images");
    make_raw(&raw)?;
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "-o", "preallocation=metadata"];
    output(Command::new("qemu-img").args(convert).arg(&raw).arg(&qcow2))?;
    let mut rows = Vec::new();
    progress("raw and qcow2 reads");
    reads(&raw, &qcow2, rounds, &mut rows)?;
    progress("counting instructions and system calls");
    counts(&raw, &qcow2, &mut rows)?;
    progress("controllers on null");
    on_null(rounds, &mut rows)?;
    progress("qcow2 allocating writes");
    allocating_writes(dir, rounds, &mut rows)?;
    for file in [raw, qcow2] {
        fs::remove_file(&file).map_err(|e| format!("cannot remove {}: {e}", file.display()))?;
    }
    Ok(rows)
}

fn make_raw(path: &Path) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(1);
    let block: Vec<u8> = (0..1 << 20).map(|_| random.u8(1..)).collect();
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(path)?;
        for _ in 0..SIZE >> 20 {
            std::io::Write::write_all(&mut file, &block)?;
        }
        file.sync_all()
    };
    write().map_err(|e| format!("cannot make {}: {e}", path.display()))
}

fn worker(file: &Path, format: &str, pattern: &str, depth: u32) -> Result<Worker, String> {
    let (file, depth) = (format!("file={}", file.display()), format!("depth={depth}"));
    Worker::new(&[
        &file,
        &format!("format={format}"),
        &format!("pattern={pattern}"),
        &depth,
        "cache=none",
    ])
}

fn reads(raw: &Path, qcow2: &Path, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    for (depth, count) in [(32, 120_000), (1, 25_000)] {
        let ours = worker(raw, "raw", "randread", depth)?;
        let format = worker(qcow2, "qcow2", "randread", depth)?;
        let (a, b) = interleave(
            rounds,
            || ours.run(count).map(|r| r.iops),
            || fio_random_read(raw, depth, 2),
        )?;
        rows.push(Row {
            name: format!("raw, 4K random read, QD{depth}, against fio"),
            ours: a,
            peer: Some(b),
            unit: "IOPS".into(),
            goal: Goal::RatioAtLeast(0.95),
        });
        let (a, b) = interleave(
            rounds,
            || format.run(count).map(|r| r.iops),
            || ours.run(count).map(|r| r.iops),
        )?;
        rows.push(Row {
            name: format!("qcow2, 4K random read, QD{depth}, against raw"),
            ours: a,
            peer: Some(b),
            unit: "IOPS".into(),
            goal: Goal::RatioAtLeast(0.95),
        });
    }
    Ok(())
}

fn counts(raw: &Path, qcow2: &Path, rows: &mut Vec<Row>) -> Result<(), String> {
    for (file, format, most) in [(raw, "raw", 1000.0), (qcow2, "qcow2", 1500.0)] {
        let ours = worker(file, format, "randread", 32)?;
        let peer = |count| qemu_img_bench(file, format, false, 32, STEP, count);
        rows.push(Row {
            name: format!("{format}, user-space instructions per 4K read, QD32"),
            ours: ours.instructions_per_io()?,
            peer: Some(slope(|count| instructions(&peer(count)))?),
            unit: "instructions".into(),
            goal: Goal::AtMost(most),
        });
        rows.push(Row {
            name: format!("{format}, system calls per 4K read, QD32"),
            ours: ours.system_calls_per_io()?,
            peer: Some(slope(|count| system_calls(&peer(count)))?),
            unit: "calls".into(),
            goal: Goal::RatioAtMost(0.5),
        });
        rows.push(Row {
            name: format!("{format}, heap allocations per 4K read, QD32"),
            ours: ours.run(20_000)?.allocations_per_io,
            peer: None,
            unit: "allocations".into(),
            goal: Goal::AtMost(0.001),
        });
    }
    let controllers = [
        ("virtio-blk", "virtio-blk, avail ring to used ring, raw, QD32", 2500.0),
        ("nvme", "nvme, shadow doorbells, submission to completion queue, raw, QD32", 2000.0),
        ("virtio-scsi", "virtio-scsi, avail ring to used ring, raw, QD32", 3500.0),
        ("ahci", "ahci, command list to PxSACT, register writes included, raw, QD32", 3500.0),
    ];
    for (pattern, name, most) in controllers {
        rows.push(Row {
            name: name.into(),
            ours: worker(raw, "raw", pattern, 32)?.instructions_per_io()?,
            peer: None,
            unit: "instructions".into(),
            goal: Goal::AtMost(most),
        });
    }
    Ok(())
}

/// What a controller's command costs without a disk, and whether queues on iothreads of their own get in
/// each other's way.
fn on_null(rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let null = |controller: &str, more: &[&str]| {
        let pattern = format!("pattern={controller}");
        let mut words = vec!["format=null", &pattern, "depth=32"];
        words.extend(more);
        Worker::new(&words)
    };
    for controller in ["virtio-blk", "nvme", "virtio-scsi", "ahci"] {
        let worker = null(controller, &[])?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(1e9 / worker.run(4_000_000)?.iops);
        }
        rows.push(Row {
            name: format!("{controller} on null, 4K read, QD32, guest included"),
            ours: median(times),
            peer: None,
            unit: "ns".into(),
            goal: Goal::None,
        });
        let [one, two] = ["queues=1", "queues=2"].map(|queues| null(controller, &[queues]));
        let (one, two) = (one?, two?);
        let (a, b) = interleave(
            rounds,
            || two.run(8_000_000).map(|r| r.iops),
            || one.run(8_000_000).map(|r| r.iops),
        )?;
        rows.push(Row {
            name: format!("{controller} on null, two queues on two iothreads against one"),
            ours: a,
            peer: Some(b),
            unit: "IOPS".into(),
            goal: Goal::RatioAtLeast(1.7),
        });
    }
    Ok(())
}

fn allocating_writes(dir: &Path, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let count = 20_000;
    let fresh = |name: &str| {
        let file = dir.join(name);
        // Larger than what is written, so that every write meets a cluster of its own.
        let create = ["create", "-q", "-f", "qcow2"];
        output(Command::new("qemu-img").args(create).arg(&file).arg("2G")).map(|_| file)
    };
    let (a, b) = interleave(
        rounds,
        || {
            let file = fresh("ours.qcow2")?;
            worker(&file, "qcow2", "fillrandom", 32)?.run(count).map(|r| r.iops)
        },
        || {
            let file = fresh("peer.qcow2")?;
            let step = ((2u64 << 30) as f64 * 0.618) as u64 / 65536 * 65536 + 65536;
            qemu_img_iops(&mut qemu_img_bench(&file, "qcow2", true, 32, step, count), count)
        },
    )?;
    for name in ["ours.qcow2", "peer.qcow2"] {
        let file = dir.join(name);
        output(Command::new("qemu-img").arg("check").arg("-q").arg(&file))?;
        fs::remove_file(&file).map_err(|e| format!("cannot remove {}: {e}", file.display()))?;
    }
    rows.push(Row {
        name: "qcow2, 4K random writes into unallocated clusters, QD32".into(),
        ours: a,
        peer: Some(b),
        unit: "IOPS".into(),
        goal: Goal::RatioAtLeast(2.0),
    });
    Ok(())
}
