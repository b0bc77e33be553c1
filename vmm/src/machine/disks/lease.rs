//! What a disk holds of the block graph, and gives back when it goes.

use std::sync::Arc;

use spindle_block::{
    Root,
    graph::{Entry, EntryId, Graph, GraphError, Token, Usage},
};
use spindle_devices::Device;

use crate::spec::device::Drive;

/// A root in the graph; it is detached with the last one who holds it.
pub(super) struct Lease {
    graph: Arc<Graph>,
    root: Arc<Root>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // At the machine's end all roots are gone before.
        let _ = self.graph.detach(self.root.name());
    }
}

impl Lease {
    /// Puts a root called `id` on top of a node; it only reads where the node takes no writes, or where
    /// it is told to.
    pub(super) fn new(
        graph: &Arc<Graph>,
        id: &str,
        drive: Drive<'_>,
        read_only: bool,
    ) -> Result<Arc<Self>, GraphError> {
        let write = !read_only && !graph.is_read_only(drive.node)?;
        let usage = Usage { write, share_write: drive.share_rw };
        let root = graph.attach(id, drive.node, usage)?;
        Ok(Arc::new(Self { graph: Arc::clone(graph), root }))
    }

    pub(super) fn root(&self) -> &Arc<Root> {
        &self.root
    }
}

/// A device's hold on a root: drains of the root pause the device.
pub(in crate::machine) struct Medium {
    lease: Arc<Lease>,
    entry: EntryId,
}

impl Drop for Medium {
    fn drop(&mut self) {
        self.lease.graph.remove_entry(self.lease.root.name(), self.entry);
    }
}

impl Medium {
    pub(super) fn new(lease: Arc<Lease>, device: Arc<dyn Device>) -> Result<Self, GraphError> {
        let entry = lease.graph.add_entry(lease.root.name(), Arc::new(Pauses(device)))?;
        Ok(Self { lease, entry })
    }

    /// The root's name.
    pub(in crate::machine) fn root(&self) -> &str {
        self.lease.root.name()
    }
}

/// A device as the graph's drains see it.
struct Pauses(Arc<dyn Device>);

impl Entry for Pauses {
    fn pause(&self, _root: &str, token: Token) {
        self.0.pause(Box::new(move || drop(token)));
    }

    fn resume(&self) {
        self.0.resume();
    }
}
