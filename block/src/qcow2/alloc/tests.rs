//! Refcounts that a write-back lets go of while others wait for the file.

use std::{cell::Cell, rc::Rc};

use super::*;
use crate::{nodes::file::FileNode, qcow2::refcount::KEPT_SLICES, ring::sim::World};

/// Clusters of 64 KiB: a block is one cluster of 16 slices, each of 2048 counts.
const LAYOUT: Layout = Layout::standard(16, 3);
const PER_SLICE: u64 = 2048;
const BLOCK: u64 = 1 << 16;
const FILE: u64 = 1 << 20;

struct Bench {
    world: World,
    cx: Cx,
    other: Cx,
    host: Rc<Host>,
    alloc: Rc<Allocator>,
}

impl Bench {
    /// One block, in cluster 1, all of whose counts are 0 in the file.
    fn new() -> Self {
        let world = World::new(1);
        let [cx, other] = ["test", "other"].map(|name| world.iothread(name).expect("an iothread"));
        let file = world.create_file("image", &[], FILE);
        let host = Rc::new(Host::new(FileNode::over(file, FILE, 512, false)));
        let refs = Refcounts::new(LAYOUT, vec![BLOCK], 2 << 16, 1);
        let alloc = Rc::new(Allocator::new(LAYOUT, refs, HashSet::new(), FILE));
        Self { world, cx, other, host, alloc }
    }

    /// So many other slices that a write-back keeps none of the clean ones.
    fn crowd(&self) {
        self.alloc.with_refs(|refs| {
            (1000..).take(KEPT_SLICES).for_each(|number| refs.insert(number, &[]));
        });
    }

    /// What a write-back of the refcounts does, on another iothread.
    fn write_back(&self) {
        let writes = self.alloc.begin_write(512).expect("whole").expect("room");
        let (blocks, host) = (writes.blocks.clone(), Rc::clone(&self.host));
        let cx = Cx::clone(&self.other);
        self.other.spawn(async move {
            for (offset, bytes) in blocks {
                host.write_bytes(&cx, offset, &bytes).await.expect("no errors");
            }
        });
        self.world.run_until_idle(std::slice::from_ref(&self.other));
        self.alloc.end_write(&writes, true);
    }

    /// Runs `task` until it waits for the file and the file has answered, does `meanwhile`, and
    /// runs it to its end.
    fn interrupted(
        &self,
        task: impl AsyncFnOnce(Rc<Allocator>, Cx, Rc<Host>) -> Result<(), BlockError> + 'static,
        meanwhile: impl FnOnce(),
    ) {
        let ended = Rc::new(Cell::new(false));
        let (alloc, host) = (Rc::clone(&self.alloc), Rc::clone(&self.host));
        let (cx, end) = (Cx::clone(&self.cx), Rc::clone(&ended));
        self.cx.spawn(async move {
            task(alloc, cx, host).await.expect("no errors");
            end.set(true);
        });
        while self.world.in_flight() == 0 {
            self.cx.turn();
            self.cx.kick();
        }
        while self.world.in_flight() > 0 {
            self.world.step();
        }
        assert!(!ended.get());
        meanwhile();
        self.world.run_until_idle(std::slice::from_ref(&self.cx));
        assert!(ended.get());
    }

    /// The count of a cluster, from the file where it is not in memory.
    fn count(&self, cluster: u64) -> u64 {
        let found = Rc::new(Cell::new(None));
        let (alloc, host) = (Rc::clone(&self.alloc), Rc::clone(&self.host));
        let (cx, out) = (Cx::clone(&self.cx), Rc::clone(&found));
        self.cx.spawn(async move {
            let slice = alloc.with_refs(|refs| refs.slice_of(cluster));
            if !alloc.with_refs(|refs| refs.is_loaded(slice)) {
                alloc.load(&cx, &host, slice).await.expect("no errors");
            }
            out.set(alloc.with_refs(|refs| refs.get(cluster)));
        });
        self.world.run_until_idle(std::slice::from_ref(&self.cx));
        found.get().expect("a count")
    }
}

#[test]
fn a_neighbour_that_was_written_back_meanwhile_is_not_taken_from_an_older_read() {
    let bench = Bench::new();
    let neighbour = PER_SLICE + 5;
    bench.alloc.with_refs(|refs| refs.insert(1, &[]));
    bench.crowd();
    bench.interrupted(
        async |alloc, cx, host| alloc.load(&cx, &host, 0).await,
        || {
            assert!(bench.alloc.with_refs(|refs| refs.set(neighbour, 1)));
            bench.write_back();
            assert!(!bench.alloc.with_refs(|refs| refs.is_loaded(1)), "the write-back kept it");
        },
    );
    assert_eq!(bench.count(neighbour), 1, "a cluster in use is free");
}

#[test]
fn the_counts_beside_a_new_block_survive_a_write_back() {
    let bench = Bench::new();
    // A device that cannot grow, so that the new block must be filled: a wait.
    let used = 3;
    {
        let mut state = lock(&bench.alloc.state);
        state.refs.insert(0, &[]);
        assert!(state.refs.set(used, 1));
        state.can_grow = false;
        state.fresh = 8;
    }
    bench.crowd();
    let uncovered = LAYOUT.refs_per_block();
    bench.interrupted(
        async move |alloc, cx, host| alloc.add_block(&cx, &host, uncovered).await,
        || {
            bench.write_back();
            assert!(!bench.alloc.with_refs(|refs| refs.is_loaded(0)), "the write-back kept it");
        },
    );
    assert_eq!((bench.count(used), bench.count(8)), (1, 1), "used, and the block");
}
