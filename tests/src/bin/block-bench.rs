//! The worker behind `make bench`: one load on one disk, on the path a controller takes, and a line
//! of JSON.

use std::{process::ExitCode, sync::Arc, time::Instant};

use spindle_block::{
    Cx, Iothread, Node, Root,
    iothread::Clock,
    nodes::{
        file::{FileNode, FileOptions},
        null::{NullNode, NullOptions},
    },
    qcow2,
    ring::{self, Aio},
    root::Policy,
};
use spindle_devices::testkit::load::RandomReads;
use spindle_tests::{
    counting_alloc::{CountingAlloc, allocations},
    load::{
        Load, Outcome, Pattern, run,
        spread::{Controller, spread},
    },
};

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

const USAGE: &str = "\
usage: block-bench file=FILE format=raw|qcow2|null pattern=randread|randwrite|fillrandom|read|virtio-blk|nvme|virtio-scsi|ahci
                   [queues=N] [depth=N] [count=N] [cache=none|writeback] [aio=io_uring|threads] [seed=N]";

struct Request {
    file: String,
    format: String,
    pattern: Pattern,
    /// The controller that the load goes through, from submission to completion.
    controller: Option<Controller>,
    /// Its queues, each with an iothread on a thread of its own; `None`: one, on this thread.
    queues: Option<u16>,
    depth: u32,
    count: u64,
    direct: bool,
    aio: Aio,
    seed: u64,
}

fn parse() -> Option<Request> {
    let mut request = Request {
        file: String::new(),
        format: String::new(),
        pattern: Pattern::RandomRead,
        controller: None,
        queues: None,
        depth: 32,
        count: 100_000,
        direct: false,
        aio: Aio::IoUring,
        seed: 1,
    };
    for word in std::env::args().skip(1) {
        let (key, value) = word.split_once('=')?;
        match (key, value) {
            ("file", _) => request.file = value.into(),
            ("format", "raw" | "qcow2" | "null") => request.format = value.into(),
            ("pattern", "randread") => request.pattern = Pattern::RandomRead,
            ("pattern", "randwrite") => request.pattern = Pattern::RandomWrite,
            ("pattern", "fillrandom") => request.pattern = Pattern::FillRandom,
            ("pattern", "read") => request.pattern = Pattern::Read,
            ("pattern", "virtio-blk") => request.controller = Some(Controller::VirtioBlk),
            ("pattern", "nvme") => request.controller = Some(Controller::Nvme),
            ("pattern", "virtio-scsi") => request.controller = Some(Controller::VirtioScsi),
            ("pattern", "ahci") => request.controller = Some(Controller::Ahci),
            ("queues", _) => request.queues = Some(value.parse().ok().filter(|n| *n > 0)?),
            ("depth", _) => request.depth = value.parse().ok().filter(|n| *n > 0)?,
            ("count", _) => request.count = value.parse().ok().filter(|n| *n > 0)?,
            ("cache", "none" | "writeback") => request.direct = value == "none",
            ("aio", "io_uring") => request.aio = Aio::IoUring,
            ("aio", "threads") => request.aio = Aio::Threads,
            ("seed", _) => request.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    let named = !request.file.is_empty() || request.format == "null";
    (named && !request.format.is_empty()).then_some(request)
}

fn main() -> ExitCode {
    let Some(request) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match measure(&request) {
        Ok(outcome) => {
            let per_io = |n: u64| n as f64 / outcome.requests as f64;
            println!(
                "{}",
                serde_json::json!({
                    "iops": outcome.iops(),
                    "system_calls_per_io": per_io(outcome.system_calls),
                    "allocations_per_io": per_io(outcome.steady_allocations),
                })
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("block-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(request: &Request) -> Result<Outcome, String> {
    let (engine, notice) = ring::open(request.aio).map_err(|e| format!("no ring: {e}"))?;
    if let Some(notice) = notice {
        return Err(notice);
    }
    let cx = Iothread::new("bench", engine, Clock::Real).map_err(|e| format!("no ring: {e}"))?;
    let node = open(&cx, request)?;
    let root = Root::new("bench", Arc::clone(&node), Policy::default());
    let load = Load {
        pattern: request.pattern,
        block_size: 4096,
        depth: request.depth,
        count: request.count,
        seed: request.seed,
    };
    let outcome = match request.controller {
        Some(controller) => match request.queues {
            Some(queues) => spread(controller, queues, &root, load),
            None => through(controller, &cx, &root, load),
        },
        None => run(&cx, &root, load),
    };
    let closing = Cx::clone(&cx);
    cx.block_on(async move { node.close(closing).await })
        .map_err(|e| format!("cannot close {}: {e}", request.file))?;
    Ok(outcome)
}

/// Random reads by a guest of a few instructions.
fn through(controller: Controller, cx: &Cx, root: &Arc<Root>, load: Load) -> Outcome {
    let before = cx.ring_stats();
    let start = Instant::now();
    let (mut from, mut to) = (None, 0);
    let depth = u16::try_from(load.depth).unwrap_or(1024);
    let reads = RandomReads { depth, count: load.count, seed: load.seed };
    let progress = |done| {
        to = allocations();
        if done >= load.count / 10 {
            from.get_or_insert(to);
        }
    };
    match controller {
        Controller::VirtioBlk => reads.run(cx, root, progress),
        Controller::Nvme => reads.run_nvme(cx, root, progress),
        Controller::VirtioScsi => reads.run_scsi(cx, root, progress),
        Controller::Ahci => reads.run_ahci(cx, root, progress),
    }
    Outcome {
        requests: load.count,
        elapsed: start.elapsed(),
        system_calls: cx.ring_stats().system_calls - before.system_calls,
        steady_allocations: to - from.unwrap_or(to),
    }
}

fn open(cx: &Cx, request: &Request) -> Result<Arc<dyn Node>, String> {
    if request.format == "null" {
        return Ok(NullNode::new(NullOptions::default()));
    }
    let options = FileOptions { direct: request.direct, ..FileOptions::new(&request.file) };
    let file = FileNode::open(&options).map_err(|e| e.to_string())?;
    match request.format.as_str() {
        "qcow2" => {
            let task_cx = Cx::clone(cx);
            let options = qcow2::Options::default();
            let opened =
                cx.block_on(async move { qcow2::open(&task_cx, file, None, options).await });
            match opened {
                Ok(image) => Ok(image),
                Err(error) => Err(format!("cannot open {}: {error}", request.file)),
            }
        }
        _ => Ok(file),
    }
}
