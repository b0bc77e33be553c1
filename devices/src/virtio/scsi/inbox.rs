//! What other threads leave for a queue half.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use vmm_sys_util::eventfd::EventFd;

struct Inner<T> {
    items: VecDeque<T>,
    /// Set while there is a queue half.
    wake: Option<Arc<EventFd>>,
    /// Moves with every queue half.
    epoch: u64,
}

/// See the module. What is left while there is no queue half is dropped.
pub(super) struct Inbox<T> {
    inner: Mutex<Inner<T>>,
    pending: AtomicBool,
    /// Something came since the queue half looked last.
    news: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        let inner = Inner { items: VecDeque::new(), wake: None, epoch: 0 };
        let no = || AtomicBool::new(false);
        Self { inner: Mutex::new(inner), pending: no(), news: no() }
    }
}

impl<T> Inbox<T> {
    /// A queue half is there, and is woken by `wake`. Returns its epoch.
    pub fn open(&self, wake: &Arc<EventFd>) -> u64 {
        let mut inner = self.lock();
        inner.wake = Some(Arc::clone(wake));
        inner.epoch += 1;
        let (epoch, old) = (inner.epoch, std::mem::take(&mut inner.items));
        drop(inner);
        drop(old);
        epoch
    }

    /// The queue half of `epoch` is gone.
    pub fn close(&self, epoch: u64) {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            return;
        }
        inner.wake = None;
        let old = std::mem::take(&mut inner.items);
        self.pending.store(false, SeqCst);
        drop(inner);
        drop(old);
    }

    /// Leaves something, if there is a queue half; if `epoch` is given, if there is that one. What
    /// is dropped is dropped outside the lock: it may call back.
    pub fn post(&self, epoch: Option<u64>, item: T) {
        let mut inner = self.lock();
        let there = epoch.is_none_or(|epoch| epoch == inner.epoch);
        let Some(wake) = inner.wake.clone().filter(|_| there) else {
            drop(inner);
            drop(item);
            return;
        };
        inner.items.push_back(item);
        self.pending.store(true, SeqCst);
        self.news.store(true, SeqCst);
        drop(inner);
        // It can only fail by overflow; then it is readable, which is all that is wanted.
        drop(wake.write(1));
    }

    /// Whether something was left.
    #[inline]
    pub fn has_items(&self) -> bool {
        self.pending.load(SeqCst)
    }

    /// Takes everything.
    pub fn take(&self) -> VecDeque<T> {
        let mut inner = self.lock();
        self.pending.store(false, SeqCst);
        std::mem::take(&mut inner.items)
    }

    /// Takes the first one.
    pub fn take_one(&self) -> Option<T> {
        let mut inner = self.lock();
        let item = inner.items.pop_front();
        self.pending.store(!inner.items.is_empty(), SeqCst);
        item
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether something came since the last [`Inbox::visit`].
    pub fn has_news(&self) -> bool {
        self.news.load(SeqCst)
    }

    /// Looks at everything without taking it. What `look` returns is dropped outside the lock.
    pub fn visit<R>(&self, mut look: impl FnMut(&mut T) -> Option<R>) {
        let mut inner = self.lock();
        self.news.store(false, SeqCst);
        let dropped: Vec<R> = inner.items.iter_mut().filter_map(&mut look).collect();
        drop(inner);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
