//! `reads virtio-blk|virtio-scsi|nvme FILE COUNT [DEPTH]`: random 4 KiB reads of a raw file through a
//! controller, from the driver's queue and back to it (NVMe with shadow doorbells). Run it under
//! `valgrind --tool=callgrind` with two counts; the slope is what one request costs. Heap allocations
//! after the first tenth are printed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
};

use spindle_block::{
    Iothread, Root,
    iothread::Clock,
    nodes::file::{FileNode, FileOptions},
    ring::{self, Aio},
    root::Policy,
};
use spindle_devices::testkit::load::RandomReads;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: reads virtio-blk|virtio-scsi|nvme FILE COUNT [DEPTH]";
    let args: Vec<String> = std::env::args().collect();
    let [_, controller, file, count, rest @ ..] = args.as_slice() else {
        return Err(USAGE.into());
    };
    let count: u64 = count.parse()?;
    let depth = rest.first().map_or(Ok(32), |depth| depth.parse())?;
    let (engine, _) = ring::open(Aio::IoUring)?;
    let cx = Iothread::new("reads", engine, Clock::Real)?;
    let root = Root::new("file", FileNode::open(&FileOptions::new(file))?, Policy::default());
    let mut steady = None;
    let start = std::time::Instant::now();
    let progress = |done| {
        if done >= count / 10 && steady.is_none() {
            steady = Some(ALLOCATIONS.load(Ordering::Relaxed));
        }
        if done == count {
            let after = ALLOCATIONS.load(Ordering::Relaxed) - steady.unwrap_or_default();
            println!(
                "{after} allocations after the first tenth, {:?}",
                start.elapsed() / count as u32
            );
        }
    };
    let reads = RandomReads { depth, count, seed: 1 };
    match controller.as_str() {
        "virtio-blk" => reads.run(&cx, &root, progress),
        "virtio-scsi" => reads.run_scsi(&cx, &root, progress),
        "nvme" => reads.run_nvme(&cx, &root, progress),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
