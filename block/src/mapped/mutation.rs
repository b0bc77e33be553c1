//! Rules that a test can switch off, to see that the suite notices.

/// A rule that keeps an image whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// An entry is published only after its data was written.
    DataBeforeMapping,
    /// Written data is durable before an entry that points to it is written.
    SyncBeforeTable,
    /// A flush ends with a sync of the file.
    FlushSyncs,
}

thread_local! {
    static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Switches a rule off on this thread until the guard is dropped.
pub(crate) fn without(rule: Rule) -> Off {
    OFF.set(Some(rule));
    Off(())
}

/// See [`without`].
pub(crate) struct Off(());

impl Drop for Off {
    fn drop(&mut self) {
        OFF.set(None);
    }
}

/// Whether a rule is in force.
pub(crate) fn holds(rule: Rule) -> bool {
    OFF.get() != Some(rule)
}
