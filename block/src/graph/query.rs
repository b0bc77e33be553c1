//! What the monitor is told of the graph: plain data.

use std::path::PathBuf;

use super::{Graph, GraphError, Inner, NodeOptions};
use crate::{
    Info,
    nodes::fault::FaultStatus,
    root::{Policy, Stats},
};

/// A node, as `query-named-block-nodes` and `query-block` show it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its name.
    pub node_name: String,
    /// Its driver.
    pub driver: &'static str,
    /// The options it was opened with (`auto-read-only` resolved).
    pub options: NodeOptions,
    /// Size, block sizes, limits.
    pub info: Info,
    /// The file at the bottom, where there is one.
    pub file: Option<PathBuf>,
    /// Bytes of storage that this file uses.
    pub allocated: Option<u64>,
    /// Whether this file bypasses the host's page cache.
    pub direct: bool,
    /// Role and name of each child.
    pub children: Vec<(&'static str, String)>,
    /// The name of the backing node, and its file.
    pub backing: Option<(String, Option<PathBuf>)>,
    /// How many backing nodes there are below.
    pub backing_depth: u32,
    /// The node that it is part of, and closed with.
    pub owner: Option<String>,
}

/// A root, as `query-block` and `query-blockstats` show it.
#[derive(Clone, Debug)]
pub struct RootStatus {
    /// Its name: the device's id.
    pub name: String,
    /// The node below.
    pub node: NodeStatus,
    /// The policy in force.
    pub policy: Policy,
    /// The counters.
    pub stats: Stats,
    /// How many drains are on.
    pub drains: u32,
}

impl Inner {
    fn status(&self, name: &str) -> Result<NodeStatus, GraphError> {
        let member = self.member(name)?;
        let backing_of = |name: &str| {
            let children = &self.members.get(name)?.children;
            children.iter().find(|c| c.role == "backing").map(|c| c.name.clone())
        };
        let backing = backing_of(name);
        // Children are opened before their parents, so that this ends.
        let below = std::iter::successors(backing.clone(), |name| backing_of(name));
        let backing_depth = below.count() as u32;
        let bottom = self.bottom(name).and_then(|name| self.members.get(&name)?.file.clone());
        Ok(NodeStatus {
            node_name: name.to_owned(),
            driver: member.node.driver(),
            options: member.options.clone(),
            info: member.node.info(),
            file: self.path_below(name),
            allocated: bottom.as_ref().and_then(|file| file.allocated()),
            direct: bottom.is_some_and(|file| file.is_direct()),
            children: member.children.iter().map(|c| (c.role, c.name.clone())).collect(),
            backing: backing.map(|name| {
                let file = self.path_below(&name);
                (name, file)
            }),
            backing_depth,
            owner: member.owner.clone(),
        })
    }
}

impl Graph {
    /// One node.
    ///
    /// # Errors
    /// When it is not there.
    pub fn query_node(&self, name: &str) -> Result<NodeStatus, GraphError> {
        self.lock().status(name)
    }

    /// All nodes, by name.
    #[must_use]
    pub fn query_nodes(&self) -> Vec<NodeStatus> {
        let inner = self.lock();
        inner.members.keys().filter_map(|name| inner.status(name).ok()).collect()
    }

    /// All roots, by name.
    #[must_use]
    pub fn query_roots(&self) -> Vec<RootStatus> {
        let inner = self.lock();
        let status = |(name, attached): (&String, &super::Attached)| {
            Some(RootStatus {
                name: name.clone(),
                node: inner.status(&attached.node).ok()?,
                policy: attached.root.policy(),
                stats: attached.root.stats(),
                drains: attached.drains,
            })
        };
        inner.roots.iter().filter_map(status).collect()
    }

    /// The rules of all `fault` nodes, or of one.
    ///
    /// # Errors
    /// When the one is not there or no fault node.
    pub fn query_faults(
        &self,
        name: Option<&str>,
    ) -> Result<Vec<(String, FaultStatus)>, GraphError> {
        let names = name.map_or_else(|| self.fault_nodes(), |name| vec![name.to_owned()]);
        let mut all = Vec::new();
        for name in names {
            let rules = self.fault(&name)?.query();
            all.extend(rules.into_iter().map(|rule| (name.clone(), rule)));
        }
        Ok(all)
    }
}
