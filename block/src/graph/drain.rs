//! Drains: nothing is in flight above some roots, and nothing new comes, until the [`Drain`] is
//! dropped. Nobody blocks a thread on it.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use super::{Graph, GraphError};
use crate::{
    Node,
    iothread::{Handle, QueueSlot},
};

/// A drain that takes longer says what it waits for.
const SLOW: Duration = Duration::from_secs(1);

/// A way by which requests come to a root: a queue, an export, a job's steps.
pub trait Entry: Send + Sync {
    /// Stops taking requests; drops `token` once nothing of it is in flight. `root` is for messages.
    /// Pauses nest.
    fn pause(&self, root: &str, token: Token);

    /// Undoes one [`Entry::pause`].
    fn resume(&self);
}

/// Held by an entry that is being paused. When the last one of a drain is dropped, the drain is
/// complete: an iothread that is gone has dropped its own.
pub struct Token(#[expect(dead_code, reason = "what counts is that it is dropped")] Arc<Pending>);

struct Pending(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Drop for Pending {
    fn drop(&mut self) {
        let then = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(then) = then {
            then();
        }
    }
}

/// A queue attached to an iothread.
pub(super) struct QueueEntry {
    pub handle: Handle,
    pub slot: QueueSlot,
}

/// Tells the task that watches a pause that it is over.
#[derive(Default)]
struct Over(Mutex<(bool, Option<Waker>)>);

impl Over {
    fn set(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it is over; if not, `waker` is told later.
    fn poll(&self, waker: &Waker) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Some(waker.clone());
        state.0
    }
}

impl Entry for QueueEntry {
    fn pause(&self, root: &str, token: Token) {
        let (slot, root) = (self.slot, root.to_owned());
        self.handle.post(move |cx| {
            let over = Arc::new(Over::default());
            let told = Arc::clone(&over);
            cx.pause(slot, move |_| {
                told.set();
                drop(token);
            });
            let watcher = crate::Cx::clone(cx);
            if watcher.in_flight(slot) == 0 {
                return;
            }
            cx.spawn(async move {
                let mut sleep = std::pin::pin!(watcher.sleep(SLOW));
                let slow = poll_fn(|task| match over.poll(task.waker()) {
                    true => Poll::Ready(false),
                    false => sleep.as_mut().poll(task).map(|()| true),
                });
                if slow.await {
                    log::warn!(
                        "draining '{root}' waits for {} requests on iothread '{}'",
                        watcher.in_flight(slot),
                        watcher.handle().name()
                    );
                }
            });
        });
    }

    fn resume(&self) {
        let slot = self.slot;
        self.handle.post(move |cx| cx.resume(slot));
    }
}

/// Some roots are drained until this is dropped.
#[must_use = "dropping it ends the drain"]
pub struct Drain {
    graph: Arc<Graph>,
    roots: Vec<String>,
    nodes: Vec<Arc<dyn Node>>,
}

impl Drop for Drain {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.drain(false);
        }
        let mut inner = self.graph.lock();
        for name in &self.roots {
            let Some(attached) = inner.roots.get_mut(name) else { continue };
            attached.drains = attached.drains.saturating_sub(1);
            for (_, entry) in &attached.entries {
                entry.resume();
            }
        }
    }
}

/// Nothing waits on purpose below a root until this is dropped. Its entries stay open.
#[must_use = "dropping it ends the effect"]
pub struct Unhindered(Vec<Arc<dyn Node>>);

impl Drop for Unhindered {
    fn drop(&mut self) {
        self.0.iter().for_each(|node| node.drain(false));
    }
}

/// Names an [`Entry`] of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

impl Graph {
    /// Tells of a queue that submits to root `root`: drains pause it from now on. One that comes
    /// while a drain is on is paused at once.
    ///
    /// # Errors
    /// When there is no such root.
    pub fn add_queue(
        &self,
        root: &str,
        handle: Handle,
        slot: QueueSlot,
    ) -> Result<EntryId, GraphError> {
        self.add_entry(root, Arc::new(QueueEntry { handle, slot }))
    }

    /// As [`Graph::add_queue`], for any entry.
    ///
    /// # Errors
    /// When there is no such root.
    pub fn add_entry(&self, root: &str, entry: Arc<dyn Entry>) -> Result<EntryId, GraphError> {
        let mut inner = self.lock();
        inner.next_entry += 1;
        let id = EntryId(inner.next_entry);
        let attached =
            inner.roots.get_mut(root).ok_or_else(|| GraphError::NoRoot(root.to_owned()))?;
        for _ in 0..attached.drains {
            entry.pause(root, Token(Arc::new(Pending(Mutex::new(None)))));
        }
        attached.entries.push((id, entry));
        Ok(id)
    }

    /// The entry is gone (its queue was detached): it is not paused or resumed any more.
    pub fn remove_entry(&self, root: &str, id: EntryId) {
        if let Some(attached) = self.lock().roots.get_mut(root) {
            attached.entries.retain(|(other, _)| *other != id);
        }
    }

    /// Starts to drain `roots`. `then` gets the [`Drain`] once nothing is in flight above them, on
    /// whichever thread that happens: here if there are no entries, else on an iothread. Drains
    /// nest.
    ///
    /// # Errors
    /// When a root does not exist; nothing has started then.
    pub fn drain(
        self: &Arc<Self>,
        roots: &[String],
        then: impl FnOnce(Drain) + Send + 'static,
    ) -> Result<(), GraphError> {
        let mut drain = Drain { graph: Arc::clone(self), roots: Vec::new(), nodes: Vec::new() };
        let mut entries = Vec::new();
        {
            let mut inner = self.lock();
            if let Some(missing) = roots.iter().find(|name| !inner.roots.contains_key(*name)) {
                return Err(GraphError::NoRoot((*missing).clone()));
            }
            for name in roots {
                let Some(attached) = inner.roots.get_mut(name) else { continue };
                attached.drains += 1;
                let found = attached.entries.iter().map(|(_, entry)| Arc::clone(entry));
                entries.extend(found.map(|entry| (name.clone(), entry)));
                add_below(attached.root.node(), &mut drain.nodes);
            }
        }
        drain.roots = roots.to_vec();
        let nodes = drain.nodes.clone();
        let complete: Box<dyn FnOnce() + Send> = Box::new(move || then(drain));
        let pending = Arc::new(Pending(Mutex::new(Some(complete))));
        for (root, entry) in &entries {
            entry.pause(root, Token(Arc::clone(&pending)));
        }
        // What hangs must be told after the entries are closing, and before the wait can end.
        for node in nodes {
            node.drain(true);
        }
        drop(pending);
        Ok(())
    }

    /// Tells all nodes below `root` what a drain tells them: throttles let through, and what hangs in a
    /// fault ends as [`BlockError::Aborted`](crate::BlockError::Aborted). For one of several disks of
    /// a controller that leaves: its requests have to end, and those of the others must not stop.
    ///
    /// # Errors
    /// When there is no such root.
    pub fn unhinder(&self, root: &str) -> Result<Unhindered, GraphError> {
        let mut nodes = Vec::new();
        let inner = self.lock();
        let attached = inner.roots.get(root).ok_or_else(|| GraphError::NoRoot(root.to_owned()))?;
        add_below(attached.root.node(), &mut nodes);
        drop(inner);
        nodes.iter().for_each(|node| node.drain(true));
        Ok(Unhindered(nodes))
    }

    /// Drains `roots` and waits for it.
    ///
    /// # Errors
    /// As [`Graph::drain`].
    pub async fn drained(self: &Arc<Self>, roots: &[String]) -> Result<Drain, GraphError> {
        let slot = Arc::new(Mutex::new((None, None::<Waker>)));
        let filled = Arc::clone(&slot);
        self.drain(roots, move |drain| {
            let waker = {
                let mut slot = filled.lock().unwrap_or_else(PoisonError::into_inner);
                slot.0 = Some(drain);
                slot.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        })?;
        let drain = poll_fn(|task| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.1 = Some(task.waker().clone());
            slot.0.take().map_or(Poll::Pending, Poll::Ready)
        });
        Ok(drain.await)
    }
}

/// Adds `node` and all below it, each once.
fn add_below(node: Arc<dyn Node>, nodes: &mut Vec<Arc<dyn Node>>) {
    if nodes.iter().any(|other| Arc::ptr_eq(other, &node)) {
        return;
    }
    let children = node.children();
    nodes.push(node);
    for (_, child) in children {
        add_below(child, nodes);
    }
}
