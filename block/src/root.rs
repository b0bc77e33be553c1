//! The root of a graph: what controllers, exports and tools hold.
//!
//! The root is the one place that checks a request: range and overflow, read-only, the length of
//! its memory, alignment (bounced in [`bounce`]). It applies the cache mode, and
//! counts. Nodes below rely on it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    BlockError, Cx, Info, Io, IoBuf, Lane, Node, Op, bounce, ring::Owner, submit::submit_or_spawn,
};

/// What `detect-zeroes=` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// Writes are written.
    #[default]
    Off,
    /// A write of zeros becomes a write-zeroes that keeps the space.
    On,
    /// A write of zeros becomes a write-zeroes that may give the space back.
    Unmap,
}

/// What the user asked of this disk, beside what its nodes do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refuse writes even if the node would take them.
    pub read_only: bool,
    /// Every write is durable before it completes (`cache=writethrough`). Guests can change it.
    pub write_through: bool,
    /// Flushes do nothing (`cache=unsafe`).
    pub ignore_flush: bool,
    /// Discards do nothing (`discard=ignore`), and write-zeroes keep their space.
    pub ignore_discard: bool,
    /// See [`DetectZeroes`].
    pub detect_zeroes: DetectZeroes,
}

/// What is counted, in the order of [`Stats`]'s rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Reads.
    Read,
    /// Writes, write-zeroes with data included.
    Write,
    /// Flushes.
    Flush,
    /// Discards and write-zeroes without data.
    Unmap,
}

/// Counters of one kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that succeeded.
    pub operations: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Nanoseconds from submission to completion, summed.
    pub total_time_ns: u64,
}

/// Counters by [`Account`].
pub type Stats = [Counters; 4];

#[derive(Debug, Default)]
struct LaneCounters {
    operations: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    total_time_ns: AtomicU64,
}

/// A lane's counters on cache lines of their own: only that lane's thread writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct LaneStats([LaneCounters; 4]);

struct State {
    node: Arc<dyn Node>,
    policy: Policy,
}

/// See the module.
pub struct Root {
    name: String,
    state: Mutex<State>,
    /// Moves whenever `state` or the node's info changes; handles compare it with what they cached.
    generation: AtomicU64,
    stats: Box<[LaneStats]>,
    pub(crate) bounce_lock: bounce::Serial,
}

impl Root {
    /// A root over `node`; `name` is for messages and the monitor.
    #[must_use]
    pub fn new(name: &str, node: Arc<dyn Node>, policy: Policy) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            state: Mutex::new(State { node, policy }),
            generation: AtomicU64::new(1),
            stats: (0..Lane::MAX).map(|_| LaneStats::default()).collect(),
            bounce_lock: bounce::Serial::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node on top.
    #[must_use]
    pub fn node(&self) -> Arc<dyn Node> {
        Arc::clone(&self.lock().node)
    }

    /// What it is like to its users: the node's info, with the policy applied.
    #[must_use]
    pub fn info(&self) -> Info {
        let state = self.lock();
        let mut info = state.node.info();
        info.read_only |= state.policy.read_only;
        info
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.lock().policy
    }

    /// Changes the policy; requests submitted from now on follow it.
    pub fn set_policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.lock().policy);
        self.changed();
    }

    /// Puts another node on top. Every queue that uses the root is drained.
    pub fn replace(&self, node: Arc<dyn Node>) -> Arc<dyn Node> {
        let old = std::mem::replace(&mut self.lock().node, node);
        self.changed();
        old
    }

    /// The node's size has changed: handles look again.
    pub fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The counters, summed over all lanes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for lane in &self.stats {
            for (sum, lane) in sum.iter_mut().zip(&lane.0) {
                sum.operations += lane.operations.load(Ordering::Relaxed);
                sum.bytes += lane.bytes.load(Ordering::Relaxed);
                sum.failed += lane.failed.load(Ordering::Relaxed);
                sum.total_time_ns += lane.total_time_ns.load(Ordering::Relaxed);
            }
        }
        sum
    }

    /// A handle, for one queue or task.
    #[must_use]
    pub fn handle(self: &Arc<Self>) -> RootHandle {
        let generation = self.generation.load(Ordering::SeqCst);
        let (node, policy) = {
            let state = self.lock();
            (Arc::clone(&state.node), state.policy)
        };
        let mut info = node.info();
        info.read_only |= policy.read_only;
        RootHandle { root: Arc::clone(self), generation, node, policy, info }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One user's view of a root: caches what does not change while requests run, so that submitting
/// takes no lock.
pub struct RootHandle {
    root: Arc<Root>,
    generation: u64,
    node: Arc<dyn Node>,
    policy: Policy,
    info: Info,
}

impl RootHandle {
    /// The root.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The info, looked up anew when it has changed.
    pub fn info(&mut self) -> &Info {
        self.refresh();
        &self.info
    }

    /// The policy, looked up anew when it has changed.
    pub fn policy(&mut self) -> Policy {
        self.refresh();
        self.policy
    }

    /// Submits `io`; `owner` hears of the end.
    pub(crate) fn submit(&mut self, cx: &Cx, mut io: Io, owner: Owner) {
        match self.admit(&mut io) {
            Ok(Admitted::Aligned) => submit_or_spawn(cx, &self.node, io, owner),
            Ok(Admitted::Nothing) => cx.end_locally(owner, io.buf, Ok(())),
            Ok(Admitted::Bounce) => {
                let (root, node) = (Arc::clone(&self.root), Arc::clone(&self.node));
                let task_cx = Cx::clone(cx);
                cx.spawn(async move {
                    let (io, result) = bounce::io(&task_cx, &root, &node, io).await;
                    task_cx.end_locally(owner, io.buf, result);
                });
            }
            Err(error) => cx.end_locally(owner, io.buf, Err(error)),
        }
    }

    /// Does `io` and waits for it: for tools and jobs.
    pub async fn io(&mut self, cx: &Cx, mut io: Io) -> (IoBuf, Result<(), BlockError>) {
        let (io, result) = match self.admit(&mut io) {
            Ok(Admitted::Aligned) => crate::submit::node_io(cx, &self.node, io).await,
            Ok(Admitted::Nothing) => (io, Ok(())),
            Ok(Admitted::Bounce) => bounce::io(cx, &self.root, &self.node, io).await,
            Err(error) => (io, Err(error)),
        };
        (io.buf, result)
    }

    /// Counts a request that has ended. Called on the iothread whose lane it is.
    pub fn account(
        &self,
        lane: Lane,
        kind: Account,
        bytes: u64,
        took: Duration,
        result: Result<(), BlockError>,
    ) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.account_ns(lane, kind, bytes, took, result);
    }

    /// The same, of one that took `took` nanoseconds.
    #[inline]
    pub fn account_ns(
        &self,
        lane: Lane,
        kind: Account,
        bytes: u64,
        took: u64,
        result: Result<(), BlockError>,
    ) {
        let counters = &self.root.stats[lane.index()].0[kind as usize];
        // Only its own iothread writes a lane's counters: no locked instruction is needed.
        let add = |counter: &AtomicU64, n: u64| {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        };
        if result.is_err() {
            add(&counters.failed, 1);
            return;
        }
        add(&counters.operations, 1);
        add(&counters.bytes, bytes);
        add(&counters.total_time_ns, took);
    }

    #[inline]
    fn refresh(&mut self) {
        if self.root.generation.load(Ordering::SeqCst) != self.generation {
            self.look_again();
        }
    }

    #[cold]
    fn look_again(&mut self) {
        *self = self.root.handle();
    }

    /// Checks the request and applies the policy to it.
    fn admit(&mut self, io: &mut Io) -> Result<Admitted, BlockError> {
        self.refresh();
        let end = io.range.checked_end().ok_or(BlockError::OutOfRange)?;
        if end > self.info.size && io.op != Op::Flush {
            return Err(BlockError::OutOfRange);
        }
        if io.op.has_data() && io.buf.len() != io.range.len {
            debug_assert!(false, "{} bytes of memory for {:?}", io.buf.len(), io.range);
            return Err(BlockError::Misaligned);
        }
        if io.op.writes() {
            if self.info.read_only {
                return Err(BlockError::ReadOnly);
            }
            self.apply_policy(io);
        }
        let nothing = match io.op {
            Op::Flush => self.policy.ignore_flush || self.info.read_only,
            Op::Discard => self.policy.ignore_discard || io.range.len == 0,
            _ => io.range.len == 0,
        };
        if nothing {
            return Ok(Admitted::Nothing);
        }
        let mask = u64::from(self.info.request_alignment) - 1;
        let aligned = (io.range.offset | io.range.len) & mask == 0
            && (self.info.memory_alignment <= 1
                || !io.op.has_data()
                || io.buf.is_aligned(self.info.memory_alignment));
        let fits = io.range.len <= self.info.max_transfer
            && io.buf.iovecs().len() <= self.info.max_segments as usize;
        Ok(if aligned && fits { Admitted::Aligned } else { Admitted::Bounce })
    }

    fn apply_policy(&self, io: &mut Io) {
        let policy = self.policy;
        if matches!(io.op, Op::Write { .. })
            && policy.detect_zeroes != DetectZeroes::Off
            && io.buf.is_zero(0, io.range.len)
        {
            let fua = matches!(io.op, Op::Write { fua: true });
            io.op = Op::WriteZeroes { unmap: policy.detect_zeroes == DetectZeroes::Unmap, fua };
        }
        match &mut io.op {
            Op::Write { fua } => *fua = (*fua || policy.write_through) && !policy.ignore_flush,
            Op::WriteZeroes { unmap, fua } => {
                *fua = (*fua || policy.write_through) && !policy.ignore_flush;
                *unmap &= !policy.ignore_discard;
            }
            Op::Read | Op::Flush | Op::Discard => {}
        }
    }
}

enum Admitted {
    /// As the node wants it.
    Aligned,
    /// To be split or copied first.
    Bounce,
    /// Nothing is to be done.
    Nothing,
}
