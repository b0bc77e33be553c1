//! A load generator on the path that a controller takes: a [`Queue`] on an iothread that submits to
//! a [`Root`] and counts what comes back.

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use spindle_block::{
    BlockError, Cx, Io, IoBuf, Op, Range, Root, RootHandle,
    iothread::{Port, Progress, Queue},
};

pub mod spread;

use crate::counting_alloc::allocations;

/// What the load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Reads at random offsets.
    RandomRead,
    /// Writes at random offsets.
    RandomWrite,
    /// Writes at random offsets, each block once: every one of them allocates.
    FillRandom,
    /// Reads one after another.
    Read,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What it does.
    pub pattern: Pattern,
    /// Bytes a request.
    pub block_size: u32,
    /// Requests in flight.
    pub depth: u32,
    /// Requests in all.
    pub count: u64,
    /// Seed of the offsets.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Requests done.
    pub requests: u64,
    /// From the first submission to the last completion.
    pub elapsed: Duration,
    /// System calls of the ring meanwhile.
    pub system_calls: u64,
    /// Heap allocations meanwhile, after the first tenth of the requests; 0 unless the binary
    /// counts them.
    pub steady_allocations: u64,
}

impl Outcome {
    /// Requests per second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

#[derive(Default)]
struct Shared {
    completed: AtomicU64,
    failed: AtomicU64,
    steady_from: AtomicU64,
}

struct Generator {
    handle: RootHandle,
    load: Load,
    blocks: u64,
    /// Memory of requests that are not in flight.
    idle: Vec<(u32, IoBuf)>,
    submitted: u64,
    random: fastrand::Rng,
    shared: Arc<Shared>,
}

impl Generator {
    fn next_block(&mut self) -> u64 {
        let n = self.submitted;
        match self.load.pattern {
            Pattern::RandomRead | Pattern::RandomWrite => self.random.u64(0..self.blocks),
            // A step coprime to the number of blocks visits each once, far from its neighbours.
            Pattern::FillRandom => {
                (u128::from(n) * u128::from(step(self.blocks)) % u128::from(self.blocks)) as u64
            }
            Pattern::Read => n % self.blocks,
        }
    }
}

/// A number near 0.618 of `blocks`, coprime to it.
fn step(blocks: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let start = ((blocks as f64 * 0.618) as u64).max(1);
    (start..).find(|s| gcd(*s, blocks) == 1).unwrap_or(1)
}

impl Queue for Generator {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        for _ in 0..budget {
            if self.submitted == self.load.count {
                return Progress::Idle;
            }
            let Some((token, buf)) = self.idle.pop() else { return Progress::Idle };
            let offset = self.next_block() * u64::from(self.load.block_size);
            self.submitted += 1;
            let op = match self.load.pattern {
                Pattern::RandomRead | Pattern::Read => Op::Read,
                Pattern::RandomWrite | Pattern::FillRandom => Op::Write { fua: false },
            };
            let range = Range::new(offset, u64::from(self.load.block_size));
            port.submit(&mut self.handle, Io { op, range, buf }, token);
        }
        Progress::More
    }

    fn complete(
        &mut self,
        _: &mut Port<'_>,
        token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        self.idle.push((token, buf));
        if result.is_err() {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
        }
        let done = self.shared.completed.fetch_add(1, Ordering::Relaxed) + 1;
        if done == (self.load.count / 10).max(1) {
            self.shared.steady_from.store(allocations(), Ordering::Relaxed);
        }
    }

    fn flush_irq(&mut self) {}

    fn pending(&mut self) -> bool {
        self.submitted < self.load.count && !self.idle.is_empty()
    }

    fn notify(&mut self, _: bool) {}

    fn doorbell(&self) -> Option<RawFd> {
        None
    }

    fn drained(&mut self) {}
}

/// Runs `load` on `root` from this thread's iothread, to its end.
///
/// # Panics
/// When a request fails, or the disk is smaller than a block.
pub fn run(cx: &Cx, root: &Arc<Root>, load: Load) -> Outcome {
    let blocks = root.info().size / u64::from(load.block_size);
    assert!(blocks > 0, "the disk is smaller than a block of {} bytes", load.block_size);
    let memory = |n: u32| IoBuf::from_slice(&vec![n as u8 | 1; load.block_size as usize]);
    let shared = Arc::new(Shared::default());
    let generator = Generator {
        handle: root.handle(),
        load,
        blocks,
        idle: (0..load.depth).map(|n| (n, memory(n))).collect(),
        submitted: 0,
        random: fastrand::Rng::with_seed(load.seed),
        shared: Arc::clone(&shared),
    };
    let before = cx.ring_stats();
    let start = Instant::now();
    let slot = cx.attach(Box::new(generator));
    let watch = Arc::clone(&shared);
    cx.run_until(move || watch.completed.load(Ordering::Relaxed) == load.count);
    let elapsed = start.elapsed();
    let steady_allocations = allocations() - shared.steady_from.load(Ordering::Relaxed);
    cx.detach(slot);
    let failed = shared.failed.load(Ordering::Relaxed);
    assert_eq!(failed, 0, "{failed} of {} requests failed", load.count);
    Outcome {
        requests: load.count,
        elapsed,
        system_calls: cx.ring_stats().system_calls - before.system_calls,
        steady_allocations,
    }
}
