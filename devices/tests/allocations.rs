//! In steady state a request allocates nothing, from the available ring to the used ring.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use spindle_block::{
    Cx, Iothread, Root,
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
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations in the second half of some reads.
fn allocations(run: impl FnOnce(RandomReads, &Cx, &Arc<Root>, &mut dyn FnMut(u64))) -> u64 {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; 1 << 20]).unwrap();
    let (engine, _) = ring::open(Aio::IoUring).unwrap();
    let cx = Iothread::new("reads", engine, Clock::Real).unwrap();
    let node = FileNode::open(&FileOptions::new(file.path())).unwrap();
    let root = Root::new("file", node, Policy::default());
    let count = 20_000;
    let (mut from, mut to) = (None, 0);
    let load = RandomReads { depth: 32, count, seed: 1 };
    run(load, &cx, &root, &mut |done| {
        if done >= count / 2 {
            from.get_or_insert_with(|| ALLOCATIONS.load(Ordering::Relaxed));
        }
        to = ALLOCATIONS.load(Ordering::Relaxed);
    });
    assert!(from.unwrap() > 0, "the allocator counts");
    to - from.unwrap()
}

/// One test, because the allocator counts for all threads.
#[test]
fn a_read_allocates_nothing() {
    let blk = allocations(|load, cx, root, progress| load.run(cx, root, progress));
    assert_eq!(blk, 0, "through virtio-blk");
    let scsi = allocations(|load, cx, root, progress| load.run_scsi(cx, root, progress));
    assert_eq!(scsi, 0, "through virtio-scsi");
}
