//! What other threads hand to an iothread, and the one rule by which they wake it.
//!
//! The sender pushes, then looks at `sleeping`; the owner sets `sleeping`, then looks at the inbox
//! again. At least one of them sees the other: a message is never slept over, and a running iothread
//! costs its senders no system call. All of these are read-modify-write operations, which see the
//! latest value by themselves; on x86 a sequentially consistent store is one anyway, and the model
//! checker, which knows no order of plain stores and loads beyond acquire and release, can follow.

#[cfg(loom)]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use std::collections::VecDeque;
#[cfg(not(loom))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

/// A queue of `T` for one owner and many senders.
#[derive(Debug)]
pub struct Inbox<T> {
    /// `None` once the owner is gone.
    items: Mutex<Option<VecDeque<T>>>,
    /// Set after a push: lets the owner skip the lock when there is nothing.
    pending: AtomicBool,
    sleeping: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            items: Mutex::new(Some(VecDeque::new())),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
        }
    }
}

impl<T> Inbox<T> {
    /// Adds an item. Returns whether the owner sleeps and must be woken by the caller.
    ///
    /// # Errors
    /// Gives the item back when the owner is gone.
    pub fn push(&self, item: T) -> Result<bool, T> {
        match &mut *self.lock() {
            Some(items) => items.push_back(item),
            None => return Err(item),
        }
        self.pending.swap(true, SeqCst);
        Ok(self.sleeping.swap(false, SeqCst))
    }

    /// Moves everything into `out`. Returns whether there was anything.
    pub fn take(&self, out: &mut VecDeque<T>) -> bool {
        if !self.pending.swap(false, SeqCst) {
            return false;
        }
        if let Some(items) = &mut *self.lock() {
            if out.is_empty() {
                std::mem::swap(items, out);
            } else {
                out.append(items);
            }
        }
        true
    }

    /// The owner goes: returns what is left, and nothing is taken any more.
    pub fn close(&self) -> VecDeque<T> {
        self.lock().take().unwrap_or_default()
    }

    /// The owner wants to sleep. Returns `false`, and does not count as sleeping, when something
    /// has arrived.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.swap(true, SeqCst);
        if self.pending.fetch_or(false, SeqCst) {
            self.sleeping.store(false, SeqCst);
            return false;
        }
        true
    }

    /// The owner is awake.
    pub fn awake(&self) {
        self.sleeping.store(false, SeqCst);
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<VecDeque<T>>> {
        // A panic elsewhere cannot leave a VecDeque half-changed by push or swap.
        self.items.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Option<VecDeque<T>>> {
        self.items.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether something waits.
    #[must_use]
    pub fn has_items(&self) -> bool {
        self.pending.load(SeqCst)
    }
}

// make test runs this: tests/loom.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::{sync::Arc, thread};

    /// Either the sender is told to wake the owner, or the owner finds the item before sleeping.
    #[test]
    fn no_item_is_slept_over() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::default());
            let sender = {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || inbox.push(7u32))
            };
            let mut out = VecDeque::new();
            let mut slept = false;
            if !inbox.take(&mut out) {
                slept = inbox.prepare_sleep();
                if !slept {
                    inbox.take(&mut out);
                }
            }
            let woken = sender.join().expect("sender").expect("open");
            if slept {
                assert!(woken, "the owner sleeps and nobody wakes it");
                inbox.take(&mut out);
            }
            assert_eq!(out, [7]);
        });
    }
}
