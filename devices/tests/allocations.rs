//! In steady state a request allocates nothing, from submission to completion.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::Write,
    sync::Arc,
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

thread_local! {
    /// Those of this thread, on which everything happens: the other tests are on other threads.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn reads(run: impl Fn(RandomReads, &Cx, &Arc<Root>, &mut dyn FnMut(u64))) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; 1 << 20]).unwrap();
    let (engine, _) = ring::open(Aio::IoUring).unwrap();
    let cx = Iothread::new("reads", engine, Clock::Real).unwrap();
    let node = FileNode::open(&FileOptions::new(file.path())).unwrap();
    let root = Root::new("file", node, Policy::default());
    let count = 20_000;
    let (mut from, mut to) = (None, 0);
    run(RandomReads { depth: 32, count, seed: 1 }, &cx, &root, &mut |done| {
        if done >= count / 2 {
            from.get_or_insert_with(|| ALLOCATIONS.get());
        }
        to = ALLOCATIONS.get();
    });
    assert!(from.unwrap() > 0, "the allocator counts");
    assert_eq!(to - from.unwrap(), 0, "allocations in the second half of {count} reads");
}

#[test]
fn a_read_through_virtio_blk_allocates_nothing() {
    reads(|load, cx, root, progress| load.run(cx, root, progress));
}

#[test]
fn a_read_through_nvme_allocates_nothing() {
    reads(|load, cx, root, progress| load.run_nvme(cx, root, progress));
}

#[test]
fn a_read_through_ahci_allocates_nothing() {
    reads(|load, cx, root, progress| load.run_ahci(cx, root, progress));
}

#[test]
fn a_read_through_virtio_scsi_allocates_nothing() {
    reads(|load, cx, root, progress| load.run_scsi(cx, root, progress));
}
