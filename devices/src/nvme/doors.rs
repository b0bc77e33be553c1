//! Doorbells: what a register half leaves for a queue half, outside any lock (PCIe transport 1.0,
//! 3.1.2), and their shadows in guest memory (Base 5.8 and B.5).

use std::{
    cell::Cell,
    sync::atomic::{
        AtomicBool, AtomicU16, AtomicU32,
        Ordering::{Acquire, Relaxed, SeqCst},
        fence,
    },
};

use crate::{
    Dma,
    dma::{NotRam, Span},
};

/// The doorbells of the queues with one number. Several vCPUs write, one iothread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Door {
    /// Submission queue tail, as written last.
    pub sq_tail: AtomicU32,
    /// Entries of the submission queue; 0: there is none.
    pub sq_size: AtomicU32,
    /// The completion queue that the submission queue posts to: whose bell is rung.
    pub sq_cq: AtomicU16,
    /// Completion queue head, as written last.
    pub cq_head: AtomicU32,
    /// Entries of the completion queue; 0: there is none.
    pub cq_size: AtomicU32,
    /// Completion queue tail, as published last.
    pub cq_tail: AtomicU32,
    /// The queue half waits for room in the completion queue.
    pub stalled: AtomicBool,
    /// Interrupts of the completion queue are enabled.
    pub interrupts: AtomicBool,
    /// The completion queue's interrupt vector.
    pub vector: AtomicU16,
}

impl Door {
    /// Whether the completion queue has entries that the host has not consumed and would be
    /// interrupted for.
    #[must_use]
    pub fn wants_interrupt(&self) -> bool {
        self.interrupts.load(SeqCst)
            && self.cq_size.load(SeqCst) != 0
            && self.cq_head.load(SeqCst) != self.cq_tail.load(SeqCst)
    }

    /// As without queues.
    pub fn clear(&self) {
        self.clear_sq();
        self.clear_cq();
    }

    /// The submission queue is gone.
    pub fn clear_sq(&self) {
        self.sq_size.store(0, SeqCst);
        self.sq_tail.store(0, SeqCst);
        self.sq_cq.store(0, SeqCst);
    }

    /// The completion queue is gone.
    pub fn clear_cq(&self) {
        self.cq_size.store(0, SeqCst);
        self.cq_head.store(0, SeqCst);
        self.cq_tail.store(0, SeqCst);
        self.stalled.store(false, SeqCst);
        self.interrupts.store(false, SeqCst);
        self.vector.store(0, SeqCst);
    }
}

/// Where the shadow doorbells and the event indexes of all queues lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowPages {
    /// Guest address of the shadow doorbells.
    pub doorbells: u64,
    /// Guest address of the event indexes.
    pub events: u64,
}

impl ShadowPages {
    fn word(self, dma: &Dma, index: u64) -> Result<Shadow, NotRam> {
        let doorbell = dma.span(self.doorbells + index * 4, 4)?;
        let event = dma.span(self.events + index * 4, 4)?;
        Ok(Shadow { doorbell, event, start: Cell::new(0), used: Cell::new(false) })
    }

    /// The shadow of a submission queue's tail.
    ///
    /// # Errors
    /// When the pages are not RAM.
    pub fn tail(self, dma: &Dma, queue: u16) -> Result<Shadow, NotRam> {
        self.word(dma, u64::from(queue) * 2)
    }

    /// The shadow of a completion queue's head.
    ///
    /// # Errors
    /// When the pages are not RAM.
    pub fn head(self, dma: &Dma, queue: u16) -> Result<Shadow, NotRam> {
        self.word(dma, u64::from(queue) * 2 + 1)
    }
}

/// A doorbell in guest memory. The host writes the real one only when it passes the event index.
pub struct Shadow {
    doorbell: Span,
    event: Span,
    /// What [`Shadow::start`] was called with.
    start: Cell<u32>,
    /// The host was seen to write it.
    used: Cell<bool>,
}

impl Shadow {
    /// The host's value.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u32 {
        self.doorbell.load_u32(0, Acquire)
    }

    /// The host's value if it was ever seen to write one. Of the admin queue's shadows hosts make
    /// use or not (Linux does not), and those that do write them from the start.
    #[must_use]
    pub fn load_if_used(&self) -> Option<u32> {
        let value = self.load();
        if value != self.start.get() {
            self.used.set(true);
        }
        self.used.get().then_some(value)
    }

    /// Sets both to where the queue stands: whatever was in the pages is stale.
    pub fn start(&self, value: u32) {
        self.start.set(value);
        self.used.set(false);
        self.doorbell.store_u32(0, value, SeqCst);
        self.event.store_u32(0, value, SeqCst);
    }

    /// Asks for the real doorbell at the next value after `seen`. The caller looks at
    /// [`Shadow::load`] again afterwards: the host may have moved before it saw this.
    #[inline]
    pub fn arm(&self, seen: u32) {
        self.event.store_u32(0, seen, Relaxed);
        fence(SeqCst);
    }
}
