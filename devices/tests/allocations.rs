//! In steady state a request allocates nothing, from the available ring to the used ring.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
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
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_read_through_virtio_blk_allocates_nothing() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; 1 << 20]).unwrap();
    let (engine, _) = ring::open(Aio::IoUring).unwrap();
    let cx = Iothread::new("reads", engine, Clock::Real).unwrap();
    let node = FileNode::open(&FileOptions::new(file.path())).unwrap();
    let root = Root::new("file", node, Policy::default());
    let count = 20_000;
    let (mut from, mut to) = (None, 0);
    RandomReads { depth: 32, count, seed: 1 }.run(&cx, &root, |done| {
        if done >= count / 2 {
            from.get_or_insert_with(|| ALLOCATIONS.load(Ordering::Relaxed));
        }
        to = ALLOCATIONS.load(Ordering::Relaxed);
    });
    assert!(from.unwrap() > 0, "the allocator counts");
    assert_eq!(to - from.unwrap(), 0, "allocations in the second half of {count} reads");
}
