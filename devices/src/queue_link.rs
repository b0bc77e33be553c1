//! What ties a register half to a queue half on its iothread: attaching, detaching, pauses.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use spindle_block::iothread::{Cx, Handle, Port, Queue, QueueSlot};

use crate::device::Countdown;

/// The place of one queue half, named by both halves. All methods may be called from any thread.
pub struct QueueLink {
    handle: Handle,
    /// Moves when what was started before must not be attached any more.
    epoch: AtomicU64,
    /// Set while the queue is attached; only its iothread looks.
    slot: Mutex<Option<QueueSlot>>,
    resumed: AtomicBool,
}

impl QueueLink {
    /// A place on an iothread, with nothing in it.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            epoch: AtomicU64::new(0),
            slot: Mutex::new(None),
            resumed: AtomicBool::new(false),
        }
    }

    /// The iothread.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How often [`QueueLink::retire`] was called.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Nothing that was started before may be attached from now on.
    pub fn retire(&self) {
        self.epoch.fetch_add(1, SeqCst);
    }

    /// Attaches a queue half to its iothread, unless [`QueueLink::retire`] was called since `epoch`
    /// or there is one.
    pub fn attach(self: &Arc<Self>, epoch: u64, queue: Box<dyn Queue>) {
        let link = Arc::clone(self);
        self.handle.post(move |cx| {
            let mut slot = link.slot();
            if link.epoch() == epoch && slot.is_none() {
                *slot = Some(cx.attach(queue));
            }
        });
    }

    /// Drains the queue half and drops it; then lets go of `countdown`.
    pub fn detach(self: &Arc<Self>, countdown: Countdown) {
        self.when_drained(move |link, cx| {
            let slot = link.slot().take();
            if let Some(slot) = slot {
                drop(cx.detach(slot));
            }
            drop(countdown);
        });
    }

    /// Stops taking requests; lets go of `countdown` once nothing is in flight.
    pub fn pause(self: &Arc<Self>, countdown: Countdown) {
        self.when_drained(move |_, _| drop(countdown));
    }

    fn when_drained(self: &Arc<Self>, then: impl FnOnce(&Self, &Cx) + Send + 'static) {
        let link = Arc::clone(self);
        self.handle.post(move |cx| {
            let slot = *link.slot();
            match slot {
                Some(slot) => cx.pause(slot, move |cx| then(&link, cx)),
                None => then(&link, cx),
            }
        });
    }

    /// Undoes one [`QueueLink::pause`]; the queue half tries parked requests again.
    pub fn resume(self: &Arc<Self>) {
        let link = Arc::clone(self);
        self.handle.post(move |cx| {
            let slot = *link.slot();
            if let Some(slot) = slot {
                link.resumed.store(true, SeqCst);
                cx.resume(slot);
            }
        });
    }

    /// Calls `f` with the queue half on its iothread, paused or not, and publishes what it
    /// answered. Without a queue half `f` is only dropped.
    pub fn with_queue(
        self: &Arc<Self>,
        f: impl FnOnce(&mut dyn Queue, &mut Port<'_>) + Send + 'static,
    ) {
        let link = Arc::clone(self);
        self.handle.post(move |cx| {
            let slot = *link.slot();
            if let Some(slot) = slot {
                cx.with_queue(slot, |queue, port| {
                    f(queue, port);
                    queue.flush_irq();
                });
            }
        });
    }

    /// Whether the machine went on since the last call.
    #[inline]
    #[must_use]
    pub fn take_resumed(&self) -> bool {
        self.is_resumed() && self.resumed.swap(false, SeqCst)
    }

    /// Whether the machine went on since [`QueueLink::take_resumed`].
    #[inline]
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed.load(SeqCst)
    }

    fn slot(&self) -> MutexGuard<'_, Option<QueueSlot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
