//! Rules that a test can switch off, to see that the suite notices. In a build without tests every
//! rule is simply in force.

/// A rule that keeps an image whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Raised refcounts and written data are durable before an L2 entry is written.
    SyncBeforeL2,
    /// L2 tables are durable before an L1 entry points to them.
    SyncBeforeL1,
    /// New refcount blocks are durable before the table points to them.
    SyncBeforeReftable,
    /// Refcounts are written at all before the L2 entries that need them.
    RefcountsBeforeL2,
    /// A mapping is published only after its data was written.
    DataBeforeMapping,
    /// A freed cluster waits until its L2 entry is durably gone.
    LimboUntilDurable,
    /// A freed cluster waits until no request that was translated before still runs.
    LimboUntilUnpinned,
    /// With lazy refcounts the dirty bit is durable before the first L2 entry.
    DirtyBitFirst,
    /// Requests that allocate within one cluster wait for each other.
    ClusterLock,
    /// A recycled cluster whose old contents are unknown is filled whole.
    FillRecycled,
    /// A flush ends with a sync of the file.
    FlushSyncs,
    /// Clusters with a refcount above one are copied, not written in place.
    CopyShared,
    /// Write-back copies L2 entries before it copies refcounts, so that it never writes an entry
    /// whose refcount it has not seen.
    SnapshotOrder,
}

impl Rule {
    /// Every rule, for tests.
    pub const ALL: [Self; 13] = [
        Self::SyncBeforeL2,
        Self::SyncBeforeL1,
        Self::SyncBeforeReftable,
        Self::RefcountsBeforeL2,
        Self::DataBeforeMapping,
        Self::LimboUntilDurable,
        Self::LimboUntilUnpinned,
        Self::DirtyBitFirst,
        Self::ClusterLock,
        Self::FillRecycled,
        Self::FlushSyncs,
        Self::CopyShared,
        Self::SnapshotOrder,
    ];
}

#[cfg(test)]
thread_local! {
    static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Switches a rule off on this thread until the guard is dropped. For tests.
#[cfg(test)]
pub fn without(rule: Rule) -> Off {
    OFF.set(Some(rule));
    Off(())
}

/// See [`without`].
#[cfg(test)]
pub struct Off(());

#[cfg(test)]
impl Drop for Off {
    fn drop(&mut self) {
        OFF.set(None);
    }
}

/// Whether a rule is in force.
#[cfg(test)]
pub(super) fn holds(rule: Rule) -> bool {
    OFF.get() != Some(rule)
}

/// Whether a rule is in force: always.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn holds(_: Rule) -> bool {
    true
}
