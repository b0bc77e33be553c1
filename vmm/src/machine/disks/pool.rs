//! A directory in which a controller's guest creates namespaces: each is a qcow2 image there.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use serde_json::{Value, json};
use spindle_block::{
    Cx, Node, Root,
    error::with_causes,
    graph::Graph,
    iothread::Handle,
    nodes::file::{FileNode, FileOptions},
    qcow2::create::{CreateOptions, create},
};
use spindle_devices::nvme::{Capacity, NamespacePool, PoolDisk, PoolError};

use super::{
    lease::Lease,
    state::{States, beside},
};
use crate::{
    machine::{Mailbox, nodes},
    spec::{device::Drive, node_from_options, props::Mode},
};

/// The name of an image is this, the namespace's ID, and its format as the ending.
const PREFIX: &str = "ns";
const ENDING: &str = "qcow2";

/// See the module.
pub(super) struct Pool {
    me: Weak<Self>,
    /// The id of the controller.
    controller: String,
    dir: PathBuf,
    total: u64,
    graph: Arc<Graph>,
    states: Arc<States>,
    /// Who opens and closes images.
    control: Handle,
    mailbox: Arc<Mailbox>,
    /// Sizes of the namespaces there are, by their IDs.
    given: Mutex<BTreeMap<u32, u64>>,
}

/// Why an image could not be made or opened, in words.
type Reason = String;

fn words(error: &dyn std::error::Error) -> Reason {
    with_causes(error)
}

/// The namespace that an image of a pool is of.
fn nsid_of(path: &Path) -> Option<u32> {
    if path.extension() != Some(OsStr::new(ENDING)) {
        return None;
    }
    path.file_stem()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

impl Pool {
    /// The pool of `size` bytes in `dir`.
    pub(super) fn new(
        controller: &str,
        (dir, size): (&Path, u64),
        (graph, states): (&Arc<Graph>, &Arc<States>),
        control: Handle,
        mailbox: &Arc<Mailbox>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            controller: controller.to_owned(),
            dir: dir.to_owned(),
            total: size,
            graph: Arc::clone(graph),
            states: Arc::clone(states),
            control,
            mailbox: Arc::clone(mailbox),
            given: Mutex::default(),
        })
    }

    /// The namespaces that an earlier machine left there.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(super) fn existing(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            found.extend(nsid_of(&entry?.path()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Opens the image of a namespace that is there.
    pub(super) async fn open(&self, cx: Cx, nsid: u32) -> Result<PoolDisk, Reason> {
        let disk = self.attach(&cx, nsid).await?;
        self.lock().insert(nsid, disk.root.info().size);
        Ok(disk)
    }

    fn path(&self, nsid: u32) -> PathBuf {
        self.dir.join(format!("{PREFIX}{nsid}.{ENDING}"))
    }

    /// What node, root and disk of a namespace are called.
    fn name(&self, nsid: u32) -> String {
        format!("{}-{PREFIX}{nsid}", self.controller)
    }

    async fn make(&self, cx: &Cx, nsid: u32, size: u64) -> Result<PoolDisk, Reason> {
        let options = FileOptions::new(self.path(nsid));
        let file: Arc<dyn Node> = FileNode::create(&options, 0).map_err(|e| words(&e))?;
        let made = create(cx, &file, &CreateOptions::new(size)).await.map_err(|e| words(&e));
        let closed = file.close(Cx::clone(cx)).await.map_err(|e| words(&e));
        made.and(closed)?;
        self.attach(cx, nsid).await
    }

    /// Opens the nodes, and hands the hold on them to the machine.
    async fn attach(&self, cx: &Cx, nsid: u32) -> Result<PoolDisk, Reason> {
        let name = self.name(nsid);
        let options = json!({
            "driver": "qcow2", "node-name": name, "discard": "unmap",
            "file": {"driver": "file", "filename": self.path(nsid).to_string_lossy()},
        });
        let Value::Object(options) = options else { return Err(String::new()) };
        let specs = node_from_options(options, Mode::Lenient).map_err(|e| words(&e))?;
        nodes::open_all(&self.graph, cx, &specs).await.map_err(|e| words(&e))?;
        let drive = Drive { node: &name, share_rw: false };
        let lease = Lease::new(&self.graph, &name, drive, false).map_err(|e| words(&e))?;
        let state = self.states.of(&self.graph, &name, None).map_err(|e| words(&e))?;
        let (root, controller): (Arc<Root>, _) =
            (Arc::clone(lease.root()), self.controller.clone());
        self.mailbox.call(Box::new(move |machine| {
            if let Err(error) = machine.disks.adopt(&controller, &name, nsid, lease) {
                log::error!("{}", with_causes(&error));
            }
        }));
        Ok(PoolDisk { root, state })
    }

    /// Closes the image of a namespace that nobody uses, and removes it.
    async fn remove(&self, cx: &Cx, nsid: u32) -> Result<(), Reason> {
        self.graph.delete(cx, &self.name(nsid)).await.map_err(|e| words(&e))?;
        let path = self.path(nsid);
        fs::remove_file(&path).map_err(|e| format!("'{}': {e}", path.display()))?;
        match beside(&path).map(fs::remove_file) {
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => Err(e.to_string()),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, u64>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NamespacePool for Pool {
    fn capacity(&self) -> Capacity {
        let used = self.lock().values().fold(0_u64, |sum, size| sum.saturating_add(*size));
        Capacity { total: self.total, free: self.total.saturating_sub(used) }
    }

    fn create(
        &self,
        nsid: u32,
        size: u64,
        done: Box<dyn FnOnce(Result<PoolDisk, PoolError>) + Send>,
    ) {
        {
            let mut given = self.lock();
            let used = given.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
            if size > self.total.saturating_sub(used) {
                drop(given);
                return done(Err(PoolError::NoSpace(size)));
            }
            given.insert(nsid, size);
        }
        let Some(me) = self.me.upgrade() else { return };
        self.control.post(move |cx| {
            let task = Cx::clone(cx);
            cx.spawn(async move {
                let made = me.make(&task, nsid, size).await;
                if made.is_err() {
                    me.lock().remove(&nsid);
                }
                done(made.map_err(PoolError::Failed));
            });
        });
    }

    fn delete(&self, nsid: u32, done: Box<dyn FnOnce(Result<(), PoolError>) + Send>) {
        let Some(me) = self.me.upgrade() else { return };
        // The machine gives up its hold first.
        self.mailbox.call(Box::new(move |machine| {
            machine.disks.remove_disk(&me.name(nsid));
            let control = me.control.clone();
            control.post(move |cx| {
                let task = Cx::clone(cx);
                cx.spawn(async move {
                    let removed = me.remove(&task, nsid).await;
                    me.lock().remove(&nsid);
                    done(removed.map_err(PoolError::Failed));
                });
            });
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_pool_are_known_by_their_names() {
        assert_eq!(nsid_of(Path::new("/x/ns7.qcow2")), Some(7));
        for other in ["ns7.raw", "ns.qcow2", "nsx.qcow2", "7.qcow2", "ns7.qcow2.state"] {
            assert_eq!(nsid_of(Path::new(other)), None, "{other}");
        }
    }
}
