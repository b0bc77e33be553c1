//! Rules that a test can switch off, to see that the suite notices. In a build without tests every
//! rule is simply in force.

/// A rule that keeps an image whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Raised refcounts and written data are durable before an L2 entry is written.
    SyncBeforeL2,
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
    /// A new L2 table is whole before its L1 entry changes, whatever its cluster held before.
    FillTables,
    /// A flush ends with a sync of the file.
    FlushSyncs,
    /// Clusters with a refcount above one are copied, not written in place.
    CopyShared,
    /// Write-back copies L2 entries before it copies refcounts, so that it never writes an entry
    /// whose refcount it has not seen.
    SnapshotOrder,
    /// A FUA write or a flush is a single request on the file only while the mappings it depends on
    /// are durable.
    DurableLeaf,
    /// Version 3: while a snapshot is taken, deleted or gone back to, the dirty bit is set.
    SnapshotDirtyBit,
    /// What a snapshot shares is counted before the header names it.
    SnapshotRefsFirst,
    /// What a snapshot shares is not written in place any more before the header names it.
    SharedFlagsFirst,
    /// A new snapshot table or L1 table is durable before the header names it.
    SnapshotTableFirst,
    /// The header has forgotten a table durably before what it held loses its references.
    SnapshotGoneFirst,
    /// A header is replaced by one write of one sector.
    HeaderInOneSector,
    /// The bit of a granule is durable before the data that makes it dirty.
    BitmapBeforeData,
    /// A cluster of a bitmap is counted before a table or the header leads to it.
    BitmapRefsFirst,
    /// A bitmap directory is durable before the header names it.
    BitmapTablesFirst,
    /// The header has forgotten a bitmap durably before its clusters are free.
    BitmapGoneFirst,
    /// A data file is synced before the tables that lead to it are written.
    DataFileBeforeL2,
    /// What a subcluster held, or zeros, is in its place before the bitmap says that it has one.
    FillSubclusters,
}

impl Rule {
    /// Every rule, for tests.
    pub const ALL: [Self; 26] = [
        Self::SyncBeforeL2,
        Self::SyncBeforeReftable,
        Self::RefcountsBeforeL2,
        Self::DataBeforeMapping,
        Self::LimboUntilDurable,
        Self::LimboUntilUnpinned,
        Self::DirtyBitFirst,
        Self::ClusterLock,
        Self::FillRecycled,
        Self::FillTables,
        Self::FlushSyncs,
        Self::CopyShared,
        Self::SnapshotOrder,
        Self::DurableLeaf,
        Self::SnapshotDirtyBit,
        Self::SnapshotRefsFirst,
        Self::SharedFlagsFirst,
        Self::SnapshotTableFirst,
        Self::SnapshotGoneFirst,
        Self::HeaderInOneSector,
        Self::BitmapBeforeData,
        Self::BitmapRefsFirst,
        Self::BitmapTablesFirst,
        Self::BitmapGoneFirst,
        Self::DataFileBeforeL2,
        Self::FillSubclusters,
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

#[cfg(test)]
type Other = Box<dyn FnMut()>;

#[cfg(test)]
thread_local! {
    static OTHERS: std::cell::RefCell<Option<Other>> = const { std::cell::RefCell::new(None) };
}

/// Has `others` run wherever a thread may be interrupted at a bad moment, until called again. For
/// tests, in which all iothreads share one thread.
#[cfg(test)]
pub fn interrupt_with(others: Option<Other>) {
    OTHERS.with(|slot| *slot.borrow_mut() = others);
}

/// Nothing is interrupted until this is dropped: see [`interrupt_with`].
#[cfg(test)]
pub struct Uninterrupted(Option<Other>);

#[cfg(test)]
impl Uninterrupted {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self(OTHERS.with(|slot| slot.borrow_mut().take()))
    }
}

#[cfg(test)]
impl Drop for Uninterrupted {
    fn drop(&mut self) {
        OTHERS.with(|slot| *slot.borrow_mut() = self.0.take());
    }
}

/// A bad moment to be interrupted.
#[cfg(test)]
pub(super) fn interrupted() {
    let others = OTHERS.with(|slot| slot.borrow_mut().take());
    if let Some(mut others) = others {
        others();
        OTHERS.with(|slot| *slot.borrow_mut() = Some(others));
    }
}

/// A bad moment to be interrupted: for tests.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn interrupted() {}
