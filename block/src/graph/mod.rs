//! The block graph: named nodes, opened from options, used by roots and by each other.
//!
//! Nodes are opened from the files up and closed from the roots down. Whoever uses a node says what
//! it does with it (as QEMU's permissions do): there is one writer, or any number of readers.
//! Nothing here is on a request's path: roots hold their nodes themselves.

mod chain;
mod drain;
mod error;
mod format;
pub mod names;
mod open;
pub mod options;
mod query;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use drain::{Drain, Entry, EntryId, Token, Unhindered};
pub use error::{BackingReason, GraphError};
pub use options::{
    Backing, Cache, Discard, DriverOptions, HostFile, ImageOptions, NodeOptions, Qcow2Options,
};
pub use query::{NodeStatus, RootStatus};

use crate::{
    Cx, Node, Root,
    nodes::{fault::FaultNode, file::FileNode},
    root::Policy,
};

/// Most nodes of one graph.
const NODES_MAX: usize = 4096;

/// What a user of a node does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// It writes.
    pub write: bool,
    /// It suffers other writers.
    pub share_write: bool,
}

impl Usage {
    /// Reads, while nobody writes.
    pub const READ: Self = Self { write: false, share_write: false };
    /// Writes, alone.
    pub const WRITE: Self = Self { write: true, share_write: false };

    fn fits(self, other: Self) -> bool {
        (!self.write || other.share_write) && (!other.write || self.share_write)
    }
}

/// A node's use of another.
#[derive(Clone, Debug)]
struct Child {
    role: &'static str,
    name: String,
    usage: Usage,
}

/// Who uses a node: another node in a role, or a root.
struct User<'a> {
    name: &'a str,
    role: Option<&'static str>,
    usage: Usage,
}

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Some(role) => write!(f, "node '{}' ({role})", self.name),
            None => write!(f, "disk '{}'", self.name),
        }
    }
}

/// A node in the graph.
struct Member {
    node: Arc<dyn Node>,
    options: NodeOptions,
    children: Vec<Child>,
    /// Opened for this node, written in its place or for its backing chain, and closed with it.
    owner: Option<String>,
    fault: Option<Arc<FaultNode>>,
    file: Option<Arc<FileNode>>,
    /// When it was opened: children before parents.
    order: u64,
}

impl Member {
    /// Whether it takes no writes. A filter is what its child is, so that its options count too.
    fn read_only(&self) -> bool {
        self.options.read_only || self.node.info().read_only
    }
}

/// A root and the ways to it.
struct Attached {
    root: Arc<Root>,
    node: String,
    usage: Usage,
    entries: Vec<(EntryId, Arc<dyn Entry>)>,
    /// How many drains are on.
    drains: u32,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<String, Member>,
    roots: BTreeMap<String, Attached>,
    /// Names of nodes that are being opened or closed.
    busy: BTreeMap<String, Vec<Child>>,
    next_auto: u64,
    next_order: u64,
    next_entry: u64,
}

impl Inner {
    /// A node and all that is part of it, however deep.
    fn with_parts(&self, name: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::from([name.to_owned()]);
        loop {
            let of = |m: &Member| m.owner.as_ref().is_some_and(|owner| all.contains(owner));
            let parts = self.members.iter().filter(|(_, member)| of(member));
            let more: Vec<_> = parts.map(|(part, _)| part.clone()).collect();
            let before = all.len();
            all.extend(more);
            if all.len() == before {
                return all;
            }
        }
    }

    fn member(&self, name: &str) -> Result<&Member, GraphError> {
        self.members.get(name).ok_or_else(|| GraphError::NoNode(name.to_owned()))
    }

    /// Every use of node `name`: by whom, whether by a root, and how.
    fn uses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = User<'a>> {
        let members = self.members.iter().map(|(parent, m)| (parent, &m.children));
        let nodes = members.chain(self.busy.iter()).flat_map(move |(parent, children)| {
            let meant = children.iter().filter(move |c| c.name == name);
            meant.map(move |c| User { name: parent, role: Some(c.role), usage: c.usage })
        });
        let roots = self.roots.iter().filter(move |(_, a)| a.node == name);
        nodes.chain(roots.map(|(root, a)| User { name: root, role: None, usage: a.usage }))
    }

    /// Whether `wanted` may use node `name` so, beside those who do already.
    fn check_usage(&self, name: &str, wanted: &str, usage: Usage) -> Result<(), GraphError> {
        self.member(name)?;
        match self.uses(name).find(|user| !usage.fits(user.usage)) {
            None => Ok(()),
            Some(user) => Err(GraphError::Conflict {
                name: name.to_owned(),
                wanted: wanted.to_owned(),
                by: user.to_string(),
                writes: user.usage.write,
            }),
        }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.members.contains_key(name) || self.busy.contains_key(name)
    }

    fn auto_name(&mut self) -> String {
        loop {
            let name = names::auto(self.next_auto);
            self.next_auto += 1;
            if !self.is_taken(&name) {
                return name;
            }
        }
    }

    /// The name of the node at the bottom of `name`'s first children.
    fn bottom(&self, name: &str) -> Option<String> {
        // Children are opened before their parents, so that this ends.
        let mut name = name;
        loop {
            match self.members.get(name)?.children.iter().find(|c| c.role != "backing") {
                Some(child) => name = &child.name,
                None => return Some(name.to_owned()),
            }
        }
    }

    /// The file that is at the bottom of `name`'s first children.
    fn path_below(&self, name: &str) -> Option<PathBuf> {
        match &self.members.get(&self.bottom(name)?)?.options.driver {
            DriverOptions::File(file) | DriverOptions::HostDevice(file) => {
                Some(file.filename.clone())
            }
            _ => None,
        }
    }
}

/// See the module.
pub struct Graph {
    inner: Mutex<Inner>,
    /// The format whose images name others.
    overlay: Box<dyn chain::Overlay + Send + Sync>,
}

impl Graph {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), overlay: Box::new(format::Qcow2Format) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<Arc<dyn Node>, GraphError> {
        self.lock().member(name).map(|member| Arc::clone(&member.node))
    }

    /// Whether a node takes no writes.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn is_read_only(&self, name: &str) -> Result<bool, GraphError> {
        self.lock().member(name).map(Member::read_only)
    }

    /// The `fault` node of this name.
    ///
    /// # Errors
    /// When there is none, or it is of another driver.
    pub fn fault(&self, name: &str) -> Result<Arc<FaultNode>, GraphError> {
        let inner = self.lock();
        let member = inner.member(name)?;
        member.fault.clone().ok_or_else(|| GraphError::WrongDriver {
            name: name.to_owned(),
            driver: member.node.driver(),
            wanted: "fault",
        })
    }

    /// Names of all `fault` nodes.
    #[must_use]
    pub fn fault_nodes(&self) -> Vec<String> {
        let inner = self.lock();
        let faults = inner.members.iter().filter(|(_, m)| m.fault.is_some());
        faults.map(|(name, _)| name.clone()).collect()
    }

    /// Puts a root called `name` (a device's id) on top of a node, with the policy of the node's
    /// options.
    ///
    /// # Errors
    /// When the name is taken, the node is not there or read-only, or its users do not suffer this
    /// one.
    pub fn attach(&self, name: &str, node: &str, usage: Usage) -> Result<Arc<Root>, GraphError> {
        let mut inner = self.lock();
        if inner.roots.contains_key(name) {
            return Err(GraphError::RootTaken(name.to_owned()));
        }
        inner.check_usage(node, &format!("disk '{name}'"), usage)?;
        let member = inner.member(node)?;
        if usage.write && member.read_only() {
            let (name, child) = (name.to_owned(), node.to_owned());
            return Err(GraphError::ReadOnlyChild { name, child });
        }
        let policy = Policy { read_only: !usage.write, ..member.options.policy() };
        let root = Root::new(name, Arc::clone(&member.node), policy);
        let attached = Attached {
            root: Arc::clone(&root),
            node: node.to_owned(),
            usage,
            entries: Vec::new(),
            drains: 0,
        };
        inner.roots.insert(name.to_owned(), attached);
        Ok(root)
    }

    /// Takes a root away; its queues are gone already.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn detach(&self, name: &str) -> Result<(), GraphError> {
        let removed = self.lock().roots.remove(name);
        removed.map(|_| ()).ok_or_else(|| GraphError::NoRoot(name.to_owned()))
    }

    /// The root of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn root(&self, name: &str) -> Result<Arc<Root>, GraphError> {
        let inner = self.lock();
        let attached = inner.roots.get(name);
        attached.map(|a| Arc::clone(&a.root)).ok_or_else(|| GraphError::NoRoot(name.to_owned()))
    }

    /// Names of all roots.
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        self.lock().roots.keys().cloned().collect()
    }

    /// Closes a node that nobody uses, with what is part of it: nodes that were written in its place,
    /// and the backing files that were opened for it.
    ///
    /// # Errors
    /// When it is not there or in use; nothing has happened then. When its metadata could not be
    /// written: it is gone all the same.
    pub async fn delete(&self, cx: &Cx, name: &str) -> Result<(), GraphError> {
        let doomed = {
            let inner = self.lock();
            let member = inner.member(name)?;
            if let Some(owner) = &member.owner
                && inner.is_taken(owner)
            {
                let by = format!("node '{owner}', which it is part of");
                return Err(GraphError::InUse { name: name.to_owned(), by, root: false });
            }
            let doomed = inner.with_parts(name);
            for part in &doomed {
                let inside = |user: &User| user.role.is_some() && doomed.contains(user.name);
                if let Some(user) = inner.uses(part).find(|user| !inside(user)) {
                    let (name, by) = (part.clone(), user.to_string());
                    return Err(GraphError::InUse { name, by, root: user.role.is_none() });
                }
            }
            doomed
        };
        self.close(cx, doomed).await
    }

    /// Detaches all roots and closes all nodes: metadata written, data durable, locks given up.
    /// Everything is drained and every queue detached. For the end of the process.
    ///
    /// # Errors
    /// The first one; everything is closed all the same.
    pub async fn close_all(&self, cx: &Cx) -> Result<(), GraphError> {
        let all = {
            let mut inner = self.lock();
            inner.roots.clear();
            inner.members.keys().cloned().collect()
        };
        self.close(cx, all).await
    }

    /// Takes `names` out of the graph and closes them, parents first.
    async fn close(&self, cx: &Cx, names: BTreeSet<String>) -> Result<(), GraphError> {
        let mut doomed = {
            let mut inner = self.lock();
            let taken = names.into_iter().filter_map(|name| inner.members.remove_entry(&name));
            let taken: Vec<_> = taken.collect();
            // What is below stays in use until the last word has been written to it.
            for (name, member) in &taken {
                inner.busy.insert(name.clone(), member.children.clone());
            }
            taken
        };
        doomed.sort_by_key(|(_, member)| std::cmp::Reverse(member.order));
        let mut result = Ok(());
        for (name, member) in doomed {
            if let Err(error) = member.node.close(Cx::clone(cx)).await {
                log::error!("closing node '{name}': {error}");
                if result.is_ok() {
                    result = Err(GraphError::Close { name: name.clone(), error });
                }
            }
            self.lock().busy.remove(&name);
        }
        result
    }

    /// Changes the size of a node, and tells the roots above it. Requests wait meanwhile.
    ///
    /// # Errors
    /// When the node is not there, is part of another, or cannot have that size.
    pub async fn resize(
        self: &Arc<Self>,
        cx: &Cx,
        name: &str,
        size: u64,
    ) -> Result<(), GraphError> {
        let (node, roots) = {
            let inner = self.lock();
            let member = inner.member(name)?;
            if let Some(user) = inner.uses(name).find(|user| user.role.is_some()) {
                let by = user.to_string();
                return Err(GraphError::InUse { name: name.to_owned(), by, root: false });
            }
            let above = inner.roots.iter().filter(|(_, a)| a.node == name);
            let above: Vec<_> = above.map(|(root, _)| root.clone()).collect();
            (Arc::clone(&member.node), above)
        };
        let drain = self.drained(&roots).await?;
        let result = node.resize(Cx::clone(cx), size).await;
        for root in roots {
            if let Ok(root) = self.root(&root) {
                root.changed();
            }
        }
        drop(drain);
        result.map_err(|error| GraphError::Resize { name: name.to_owned(), size, error })
    }

    /// The node that root `name` stands on.
    ///
    /// # Errors
    /// When there is no such root.
    pub fn node_of_root(&self, name: &str) -> Result<String, GraphError> {
        let inner = self.lock();
        let attached = inner.roots.get(name);
        attached.map(|a| a.node.clone()).ok_or_else(|| GraphError::NoRoot(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
