//! Who an iothread serves.

use std::{os::fd::RawFd, rc::Rc};

use super::Iothread;
use crate::{BlockError, Io, IoBuf, ring::Owner, root::RootHandle};

/// What a pass over a queue left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The budget is used up and there is more.
    More,
    /// Nothing is left to take.
    Idle,
    /// The guest broke the ring: never serve it again, until it is attached anew.
    Dead,
}

/// One queue of a controller (a virtqueue, an NVMe queue pair, an AHCI port), an export, a
/// benchmark: whatever takes requests from somewhere and wants them done. It has exactly one owner,
/// the iothread it is attached to, and is only ever called on that thread.
///
/// A request is taken only with a place to answer it; each [`Port::submit`] is answered by exactly
/// one [`Queue::complete`] with the same token.
pub trait Queue: Send {
    /// Takes and submits at most `budget` requests.
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress;

    /// A request has ended. `buf` is the memory that was submitted.
    fn complete(
        &mut self,
        port: &mut Port<'_>,
        token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    );

    /// Shows the guest what has ended, without an interrupt, which may follow later by
    /// [`Queue::flush_irq`]. Returns whether it may: `false` where there is nothing to interrupt for,
    /// or where nothing is to be held back.
    fn publish(&mut self) -> bool {
        false
    }

    /// The pass is over: publish completions and raise at most one interrupt a vector.
    fn flush_irq(&mut self);

    /// Whether there is something to take, looked up without a system call (a ring index, a shadow
    /// tail, a doorbell word).
    fn pending(&mut self) -> bool;

    /// The iothread is about to sleep (`true`: ask the guest to ring the doorbell from now on) or
    /// has woken (`false`: notifications are not needed). Idempotent.
    fn notify(&mut self, on: bool);

    /// The eventfd that the guest's doorbell signals, if it has one. The iothread watches it for
    /// as long as the queue is attached.
    fn doorbell(&self) -> Option<RawFd>;

    /// Whether [`Queue::attend`] is wanted. Looked up while the queue is paused or dead.
    fn wants_attention(&self) -> bool {
        false
    }

    /// Does what cannot wait until the queue works again: somebody whose own request is in flight
    /// waits for it. It takes no requests and touches no guest memory.
    fn attend(&mut self) {}

    /// Nothing is in flight and nothing will be taken until it is resumed: the answer to a pause or
    /// a reset that was asked for through [`Iothread::pause`].
    fn drained(&mut self);
}

/// A queue's way to submit requests.
pub struct Port<'a> {
    pub(super) cx: &'a Rc<Iothread>,
    pub(super) slot: u16,
    pub(super) submitted: u32,
}

impl Port<'_> {
    /// Submits a request for `root`. The fast path allocates nothing and takes no shared lock.
    pub fn submit(&mut self, root: &mut RootHandle, io: Io, token: u32) {
        self.submitted += 1;
        let owner = Owner::Queue { slot: self.slot, token };
        root.submit(self.cx, io, owner);
    }

    /// The iothread, for what is rare.
    #[must_use]
    pub fn cx(&self) -> &Rc<Iothread> {
        self.cx
    }

    /// Ends `token` in a later call of [`Queue::complete`] of this pass, as if it had been
    /// submitted. For requests that need no I/O but must be answered in order with others.
    pub fn complete_later(&mut self, token: u32, buf: IoBuf, result: Result<(), BlockError>) {
        self.submitted += 1;
        let owner = Owner::Queue { slot: self.slot, token };
        self.cx.end_locally(owner, buf, result);
    }

    /// Spawns a task on this iothread that ends `token` when it is done.
    pub fn spawn(
        &mut self,
        token: u32,
        task: impl Future<Output = (IoBuf, Result<(), BlockError>)> + 'static,
    ) {
        self.submitted += 1;
        let owner = Owner::Queue { slot: self.slot, token };
        let cx = Rc::clone(self.cx);
        self.cx.spawn(async move {
            let (buf, result) = task.await;
            cx.end_locally(owner, buf, result);
        });
    }
}
