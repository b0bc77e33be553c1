//! The interrupt wire of a channel.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use crate::LineIrq;

/// A wire whose level is changed under a channel's lock and applied outside of it. The input at its
/// end may be edge-triggered, so that a fall between two rises must not be lost.
pub(super) struct Line {
    /// How often the level has changed: odd is high.
    edges: AtomicU64,
    /// The wire, and `edges` as it was applied last.
    wire: Mutex<(Box<dyn LineIrq>, u64)>,
}

impl Line {
    pub fn new(wire: Box<dyn LineIrq>) -> Self {
        Self { edges: AtomicU64::new(0), wire: Mutex::new((wire, 0)) }
    }

    /// Sets the level; [`Line::apply`] makes it true. Returns whether it changed. The caller holds the
    /// channel's lock.
    pub fn set(&self, level: bool) -> bool {
        let edges = self.edges.load(SeqCst);
        let change = level != (edges % 2 == 1);
        if change {
            self.edges.store(edges + 1, SeqCst);
        }
        change
    }

    /// Makes the wire's level what was set last.
    pub fn apply(&self) {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.edges.load(SeqCst);
        let (wire, applied) = &mut *wire;
        if now == *applied {
            return;
        }
        // High both times, with at least one fall between.
        if now % 2 == 1 && *applied % 2 == 1 {
            wire.set(false);
        }
        wire.set(now % 2 == 1);
        *applied = now;
    }
}
