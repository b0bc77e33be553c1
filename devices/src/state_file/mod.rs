//! What of a disk must survive power loss and is not in its image: reservations, saved feature
//! values, logs, firmware slots, marks.
//!
//! A [`DiskState`] holds named *sections*, each a few bytes with a version of their own, and writes
//! all of them to a [`StateStore`] whenever one changes: to one file per disk ([`FileStore`]: new
//! file, fsync, rename) or into memory ([`MemoryStore`], for tests and for `state=none`). Whoever
//! changes a section is told once it is durable. What is read back is hostile input: [`decode`]
//! bounds everything, and [`Fields`] is how a section's own bytes are taken apart.

mod codec;
mod fields;
mod store;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use codec::{Section, Sections, StateError, decode, encode};
pub use fields::{Fields, Truncated};
pub use store::{FileStore, MemoryStore, Saved, StateStore};

/// The state of one disk, shared by all controllers that the disk sits behind.
pub struct DiskState {
    store: Arc<dyn StateStore>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sections: Sections,
    /// A save is under way; it began before the last change if `waiting` is not empty.
    saving: bool,
    waiting: Vec<Saved>,
}

impl DiskState {
    /// Reads what the store holds; a store that holds nothing is an empty state.
    ///
    /// # Errors
    /// When it cannot be read, or is not what [`encode`] makes: it is left as it is then.
    pub fn open(store: Arc<dyn StateStore>) -> Result<Arc<Self>, StateError> {
        let sections = match store.load()? {
            Some(bytes) => decode(&bytes)?,
            None => Sections::new(),
        };
        let inner = Mutex::new(Inner { sections, ..Inner::default() });
        Ok(Arc::new(Self { store, inner }))
    }

    /// A state that lives as long as the process.
    #[must_use]
    pub fn volatile() -> Arc<Self> {
        Arc::new(Self { store: MemoryStore::new(), inner: Mutex::default() })
    }

    /// A section, if it was ever written.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Section> {
        self.lock().sections.get(name).cloned()
    }

    /// Replaces a section; `saved` is called once it is durable, or could not be made so. It may be
    /// called before this returns.
    ///
    /// # Panics
    /// When the name or the bytes are longer than a state file may hold: sections are the device's own.
    pub fn put(self: &Arc<Self>, name: &str, section: Section, saved: Saved) {
        assert!(codec::fits(name, &section), "section {name} does not fit a state file");
        {
            let mut inner = self.lock();
            inner.sections.insert(name.to_owned(), section);
            inner.waiting.push(saved);
        }
        self.save();
    }

    /// Removes a section; `saved` as for [`DiskState::put`].
    pub fn remove(self: &Arc<Self>, name: &str, saved: Saved) {
        {
            let mut inner = self.lock();
            inner.sections.remove(name);
            inner.waiting.push(saved);
        }
        self.save();
    }

    /// Saves what has changed, unless a save is under way: that one goes on with it.
    fn save(self: &Arc<Self>) {
        let (bytes, waiting) = {
            let mut inner = self.lock();
            if inner.saving || inner.waiting.is_empty() {
                return;
            }
            inner.saving = true;
            (encode(&inner.sections), std::mem::take(&mut inner.waiting))
        };
        let me = Arc::clone(self);
        self.store.save(
            bytes,
            Box::new(move |result| {
                me.lock().saving = false;
                for saved in waiting {
                    saved(copy(&result));
                }
                me.save();
            }),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same result for one more who waits.
fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(error.raw_os_error().map_or_else(
            || io::Error::new(error.kind(), error.to_string()),
            io::Error::from_raw_os_error,
        )),
    }
}

#[cfg(test)]
mod tests;
