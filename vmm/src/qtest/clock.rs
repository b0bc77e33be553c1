//! Time that stands still until it is told to move.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::accel::Clocks;

/// The clock of a machine that a test drives, in nanoseconds since its start.
#[derive(Debug, Default)]
pub(super) struct VirtualClock(AtomicU64);

impl VirtualClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn now(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Moves on to `ns`, if that is later, and returns what it is then.
    pub(super) fn advance_to(&self, ns: u64) -> u64 {
        self.0.fetch_max(ns, SeqCst).max(ns)
    }

    /// What devices see of it. The wall clock starts at the host's time.
    pub(super) fn clocks(self: &Arc<Self>) -> Clocks {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let (a, b) = (Arc::clone(self), Arc::clone(self));
        Clocks {
            monotonic: Box::new(move || a.now()),
            wall: Box::new(move || start.saturating_add(b.now() / 1_000_000_000)),
        }
    }
}
