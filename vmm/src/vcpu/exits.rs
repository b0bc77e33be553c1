//! How often CPUs leave the guest, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Why a CPU left the guest for user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// Port input.
    PortRead,
    /// Port output.
    PortWrite,
    /// A load from a device.
    MemoryRead,
    /// A store to a device.
    MemoryWrite,
    /// A signal, or a request to pause.
    Interrupted,
    /// Anything else.
    Other,
}

const KINDS: usize = 6;

/// One CPU's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ExitCounts {
    kinds: [AtomicU64; KINDS],
    collected: AtomicU64,
}

/// Exits of all CPUs since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExitTotals {
    /// Port input.
    pub port_read: u64,
    /// Port output.
    pub port_write: u64,
    /// Loads from devices.
    pub memory_read: u64,
    /// Stores to devices.
    pub memory_write: u64,
    /// Signals and requests to pause.
    pub interrupted: u64,
    /// Anything else.
    pub other: u64,
    /// Writes that KVM collected: not exits.
    pub collected_writes: u64,
}

impl ExitCounts {
    pub(super) fn count(&self, kind: ExitKind) {
        // One thread writes; a reader may be a little late.
        let counter = &self.kinds[kind as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn collected(&self, writes: u32) {
        self.collected.fetch_add(u64::from(writes), Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, totals: &mut ExitTotals) {
        let get = |kind: ExitKind| self.kinds[kind as usize].load(Ordering::Relaxed);
        totals.port_read += get(ExitKind::PortRead);
        totals.port_write += get(ExitKind::PortWrite);
        totals.memory_read += get(ExitKind::MemoryRead);
        totals.memory_write += get(ExitKind::MemoryWrite);
        totals.interrupted += get(ExitKind::Interrupted);
        totals.other += get(ExitKind::Other);
        totals.collected_writes += self.collected.load(Ordering::Relaxed);
    }
}

impl ExitTotals {
    /// All exits to user space.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.port_read
            + self.port_write
            + self.memory_read
            + self.memory_write
            + self.interrupted
            + self.other
    }
}
