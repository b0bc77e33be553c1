//! Opening nodes.

use std::{path::Path, sync::Arc};

use super::{
    Child, DriverOptions, Graph, GraphError, HostFile, ImageOptions, Inner, Member, NODES_MAX,
    NodeOptions, Qcow2Options, Usage, chain::Upper, names,
};
use crate::{
    Cx, Node,
    nodes::{
        fault::{FaultNode, config},
        file::{Driver, FileError, FileNode, FileOptions, Reason, probe},
        null::NullNode,
        raw::RawNode,
    },
};

/// A node that has been opened, and what was opened with it.
pub(super) struct Opened {
    pub node: Arc<dyn Node>,
    pub fault: Option<Arc<FaultNode>>,
    pub file: Option<Arc<FileNode>>,
    /// Members opened for its data file and its backing chain, children first, and the use of those
    /// directly below.
    pub chain: Vec<(String, Member)>,
    pub children: Vec<Child>,
}

impl Opened {
    pub fn plain(node: Arc<dyn Node>) -> Self {
        Self { node, fault: None, file: None, chain: Vec::new(), children: Vec::new() }
    }
}

/// A name and children that are spoken for while a node is being opened.
struct Reservation<'a> {
    graph: &'a Graph,
    name: String,
    children: Vec<Child>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.graph.lock().busy.remove(&self.name);
    }
}

impl Graph {
    /// Opens a node. Its children are there already; the backing files that a qcow2 image names are
    /// opened with it. Returns its name.
    ///
    /// # Errors
    /// One sentence that names the file or the node; nothing has changed then.
    pub async fn open(&self, cx: &Cx, mut options: NodeOptions) -> Result<String, GraphError> {
        let reserved = self.reserve(&mut options)?;
        let opened = self.open_driver(cx, &reserved.name, &mut options).await?;
        let name = reserved.name.clone();
        let mut children = reserved.children.clone();
        children.extend(opened.children);
        let mut inner = self.lock();
        for (member_name, mut member) in opened.chain {
            member.order = inner.next_order;
            member.owner = Some(name.clone());
            inner.next_order += 1;
            inner.busy.remove(&member_name);
            inner.members.insert(member_name, member);
        }
        let order = inner.next_order;
        inner.next_order += 1;
        let (fault, file) = (opened.fault, opened.file);
        let node = opened.node;
        let owner = options.owner.clone();
        let member = Member { node, options, children, owner, fault, file, order };
        inner.members.insert(name.clone(), member);
        drop(inner);
        drop(reserved);
        Ok(name)
    }

    /// Takes the name and the children, if both can be had.
    fn reserve(&self, options: &mut NodeOptions) -> Result<Reservation<'_>, GraphError> {
        let mut inner = self.lock();
        if inner.members.len() >= NODES_MAX {
            return Err(GraphError::TooMany(NODES_MAX));
        }
        let name = match &options.node_name {
            Some(name) if !names::is_valid(name) => return Err(GraphError::BadName(name.clone())),
            Some(name) if inner.is_taken(name) => return Err(GraphError::Taken(name.clone())),
            Some(name) => name.clone(),
            None => inner.auto_name(),
        };
        let children = claims(&inner, &name, options)?;
        inner.busy.insert(name.clone(), children.clone());
        drop(inner);
        options.node_name = Some(name.clone());
        Ok(Reservation { graph: self, name, children })
    }

    async fn open_driver(
        &self,
        cx: &Cx,
        name: &str,
        options: &mut NodeOptions,
    ) -> Result<Opened, GraphError> {
        match &options.driver {
            DriverOptions::File(file) => self.open_file(file, Driver::File, options),
            DriverOptions::HostDevice(file) => self.open_file(file, Driver::HostDevice, options),
            DriverOptions::Null(null) => {
                let read_only = null.read_only || options.read_only;
                let node = NullNode::new(super::options::NullOptions { read_only, ..*null });
                Ok(Opened::plain(node))
            }
            DriverOptions::Raw { file, offset, size } => {
                let window = RawNode::new(self.node(file)?, *offset, *size, options.read_only);
                let window =
                    window.map_err(|error| GraphError::Window { name: name.to_owned(), error })?;
                Ok(Opened::plain(window))
            }
            DriverOptions::Fault { file, rules } => {
                let node = FaultNode::new(self.node(file)?);
                for rule in rules {
                    node.add(rule.clone())
                        .map_err(|error| GraphError::Fault { name: name.to_owned(), error })?;
                }
                let fault = Some(Arc::clone(&node));
                Ok(Opened { fault, ..Opened::plain(node) })
            }
            DriverOptions::Blkdebug { image, config: path, rules } => {
                let mut rules = rules.clone();
                if let Some(path) = path {
                    config::read(path, &mut rules).map_err(|error| {
                        let (name, path) = (name.to_owned(), path.clone());
                        GraphError::FaultConfig { name, path, error }
                    })?;
                }
                let node = FaultNode::blkdebug(self.node(image)?, rules);
                let fault = Some(Arc::clone(&node));
                Ok(Opened { fault, ..Opened::plain(node) })
            }
            DriverOptions::Qcow2(qcow2) => {
                self.open_overlay(cx, &*self.overlay, Upper::Qcow2(qcow2), options).await
            }
            DriverOptions::Image(image) => {
                self.open_overlay(cx, &*self.overlay, Upper::Image(image), options).await
            }
        }
    }

    fn open_file(
        &self,
        file: &HostFile,
        driver: Driver,
        options: &NodeOptions,
    ) -> Result<Opened, GraphError> {
        let node = self.open_host_file(&file_options(file, driver, options))?;
        let file = Some(Arc::clone(&node));
        Ok(Opened { file, ..Opened::plain(node) })
    }

    /// Opens a file; if it is locked, and by this graph, says so.
    pub(super) fn open_host_file(
        &self,
        options: &FileOptions,
    ) -> Result<Arc<FileNode>, GraphError> {
        FileNode::open(options).map_err(|error| match error {
            FileError { reason: Reason::Locked { .. }, ref path, .. } => {
                match self.node_with_file(path) {
                    Some(node) => GraphError::InUseHere { path: path.clone(), node },
                    None => GraphError::File(error),
                }
            }
            error => GraphError::File(error),
        })
    }

    /// The node that has this file open.
    fn node_with_file(&self, path: &Path) -> Option<String> {
        use std::os::fd::AsFd;
        let file = std::fs::File::open(path).ok()?;
        let identity = Some(probe::facts(file.as_fd()).ok()?.identity);
        let inner = self.lock();
        let mut files = inner.members.iter().filter_map(|(n, m)| Some((n, m.file.as_ref()?)));
        files.find(|(_, file)| file.identity() == identity).map(|(name, _)| name.clone())
    }

    /// A name for a node of a backing chain, kept until the chain is in the graph.
    pub(super) fn reserve_auto(&self) -> String {
        let mut inner = self.lock();
        let name = inner.auto_name();
        inner.busy.insert(name.clone(), Vec::new());
        name
    }

    /// Gives such names back.
    pub(super) fn unreserve<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        let mut inner = self.lock();
        for name in names {
            inner.busy.remove(name);
        }
    }
}

/// How a file node's file is opened.
pub(super) fn file_options(file: &HostFile, driver: Driver, options: &NodeOptions) -> FileOptions {
    FileOptions {
        path: file.filename.clone(),
        driver,
        read_only: options.read_only,
        auto_read_only: options.auto_read_only,
        direct: options.cache.direct,
        ignore_discard: options.discard == super::Discard::Ignore,
        no_flush: options.cache.no_flush,
        locking: file.locking,
        force_share: options.force_share,
        share_rw: false,
    }
}

/// The children that `options` name, if this node may use them so. A node that may be read-only is,
/// where its child is.
fn claims(inner: &Inner, name: &str, options: &mut NodeOptions) -> Result<Vec<Child>, GraphError> {
    let role =
        if matches!(options.driver, DriverOptions::Blkdebug { .. }) { "image" } else { "file" };
    let data = match &options.driver {
        DriverOptions::Qcow2(qcow2) => qcow2.data_file.clone(),
        _ => None,
    };
    let (file, filter, backing) = match &options.driver {
        DriverOptions::Blkdebug { image, .. } => (image.clone(), true, None),
        DriverOptions::Raw { file, .. } => (file.clone(), false, None),
        DriverOptions::Fault { file, .. } => (file.clone(), true, None),
        DriverOptions::Qcow2(Qcow2Options { file, backing, .. })
        | DriverOptions::Image(ImageOptions { file, backing, .. }) => {
            let backing = match backing {
                super::Backing::Node(node) => Some(node.clone()),
                super::Backing::FromHeader | super::Backing::None => None,
            };
            (file.clone(), false, backing)
        }
        DriverOptions::File(_) | DriverOptions::HostDevice(_) | DriverOptions::Null(_) => {
            return Ok(Vec::new());
        }
    };
    if inner.member(&file)?.read_only() && !options.read_only {
        if !(options.auto_read_only || filter) {
            return Err(GraphError::ReadOnlyChild { name: name.to_owned(), child: file });
        }
        options.read_only = true;
    }
    let usage = if options.read_only { Usage::READ } else { Usage::WRITE };
    let mut children = vec![Child { role, name: file, usage }];
    children.extend(data.map(|name| Child { role: "data-file", name, usage }));
    children.extend(backing.map(|name| Child { role: "backing", name, usage: Usage::READ }));
    if let DriverOptions::Image(ImageOptions { header: Some(name), .. }) = &options.driver {
        children.push(Child { role: "header", name: name.clone(), usage: Usage::READ });
    }
    let wanted = format!("node '{name}'");
    for child in &children {
        inner.check_usage(&child.name, &wanted, child.usage)?;
    }
    Ok(children)
}
