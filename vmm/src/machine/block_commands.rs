//! What the monitor's commands about disks and nodes do.

use std::sync::Arc;

use spindle_block::{
    Cx,
    error::with_causes,
    graph::{Graph, NodeStatus, RootStatus},
    root::{Account, DetectZeroes, Stats},
};

use super::{Machine, disks::Disk, nodes};
use crate::monitor::{
    BlockTarget, Command, QmpError, Reply,
    schema::{
        BlockCacheInfo, BlockDeviceInfo, BlockDeviceStats, BlockInfo, BlockStats, FaultAdded,
        FaultInfo, ImageInfo,
    },
};

fn failed(error: &(dyn std::error::Error + 'static)) -> QmpError {
    QmpError::generic(with_causes(error))
}

impl Machine {
    /// Carries out a command about disks or nodes.
    pub(super) fn block_command(&mut self, command: Command, reply: Reply) {
        match command {
            Command::QueryBlock => reply.value(&self.query_block()),
            Command::QueryBlockstats { query_nodes } => {
                reply.value(&self.query_blockstats(query_nodes));
            }
            Command::QueryNamedBlockNodes => {
                let nodes = self.disks.graph.query_nodes();
                reply.value(&nodes.iter().map(|node| node_info(node, true)).collect::<Vec<_>>());
            }
            Command::BlockResize { target, size } => self.block_resize(target, size, reply),
            Command::BlockdevAdd(specs) => {
                self.on_control(reply, move |graph, cx| async move {
                    nodes::open_all(&graph, &cx, &specs).await.map_err(|e| failed(&e))
                });
            }
            Command::SdSetWriteProtected { id, on } => {
                let card = self.disks.card(&id).map(|sdhci| sdhci.set_write_protected(on));
                reply.result(card.ok_or_else(|| {
                    QmpError::device_not_found(format!("There is no SD card '{id}'"))
                }));
            }
            Command::BlockdevDel { node_name } => {
                self.on_control(reply, move |graph, cx| async move {
                    graph.delete(&cx, &node_name).await.map_err(|e| failed(&e))
                });
            }
            fault => self.fault_command(fault, reply),
        }
    }

    fn fault_command(&self, command: Command, reply: Reply) {
        let graph = &self.disks.graph;
        match command {
            Command::FaultAdd { node_name, rule } => {
                let added = graph.fault(&node_name).map_err(|e| failed(&e));
                let rule = nodes::rule(&rule);
                match added.and_then(|node| node.add(rule).map_err(|e| failed(&e))) {
                    Ok(id) => reply.value(&FaultAdded { id }),
                    Err(error) => reply.error(error),
                }
            }
            Command::FaultDel { node_name, id } => {
                let node = graph.fault(&node_name).map_err(|e| failed(&e));
                reply.result(node.and_then(|node| node.delete(&id).map_err(|e| failed(&e))));
            }
            Command::FaultQuery { node_name } => match graph.query_faults(node_name.as_deref()) {
                Ok(rules) => reply.value(&rules.into_iter().map(fault_info).collect::<Vec<_>>()),
                Err(error) => reply.error(failed(&error)),
            },
            Command::FaultRelease { node_name, id } => {
                let node = graph.fault(&node_name).map_err(|e| failed(&e));
                let released = node
                    .and_then(|node| node.release(id.as_deref()).map_err(|e| failed(&e)))
                    .map(|_count| ());
                reply.result(released);
            }
            other => {
                reply.error(QmpError::command_not_found(format!("{other:?} has no meaning here")));
            }
        }
    }

    /// Does something with the graph on an iothread, and answers when it is done.
    fn on_control<F>(&self, reply: Reply, task: impl FnOnce(Arc<Graph>, Cx) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), QmpError>> + 'static,
    {
        let graph = Arc::clone(&self.disks.graph);
        match self.disks.iothreads.control() {
            Ok(handle) => handle.post(move |cx| {
                let task = task(graph, Cx::clone(cx));
                cx.spawn(async move { reply.result(task.await) });
            }),
            Err(error) => reply.error(failed(&error)),
        }
    }

    fn block_resize(&self, target: BlockTarget, size: u64, reply: Reply) {
        let node = match target {
            BlockTarget::Node(name) => Ok(name),
            BlockTarget::Device(id) => self
                .disks
                .graph
                .node_of_root(&id)
                .map_err(|_| QmpError::device_not_found(format!("Device '{id}' not found"))),
        };
        let node = match node {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let on_it = |disk: &&Disk| {
            let root = disk.root().map(|root| self.disks.graph.node_of_root(root));
            root.is_some_and(|found| found.is_ok_and(|found| found == node))
        };
        let devices: Vec<_> =
            self.disks.disks.iter().filter(on_it).map(|d| Arc::clone(&d.device)).collect();
        self.on_control(reply, move |graph, cx| async move {
            graph.resize(&cx, &node, size).await.map_err(|e| failed(&e))?;
            for device in devices {
                device.resized();
            }
            Ok(())
        });
    }

    fn query_block(&self) -> Vec<BlockInfo> {
        let roots = self.disks.graph.query_roots();
        let info = |disk: &Disk| {
            let root = roots.iter().find(|root| Some(&*root.name) == disk.root());
            let inserted = root.map(|root| {
                let mut inserted = node_info(&root.node, disk.write_cache);
                inserted.ro |= root.policy.read_only;
                inserted
            });
            let tray_open = disk.drive.as_ref().map(|drive| drive.tray_open());
            BlockInfo::new(&disk.id, inserted, disk.io_status, tray_open)
        };
        self.disks.disks.iter().map(info).collect()
    }

    fn query_blockstats(&self, nodes: bool) -> Vec<BlockStats> {
        let roots = self.disks.graph.query_roots();
        if nodes {
            let all = self.disks.graph.query_nodes();
            return all.into_iter().map(|node| node_stats(node, &roots)).collect();
        }
        let stats = |disk: &Disk| {
            let root = roots.iter().find(|root| Some(&*root.name) == disk.root())?;
            Some(BlockStats {
                device: Some(String::new()),
                qdev: Some(disk.id.clone()),
                node_name: Some(root.node.node_name.clone()),
                stats: counters(&root.stats),
                ..BlockStats::default()
            })
        };
        self.disks.disks.iter().filter_map(stats).collect()
    }
}

fn node_stats(node: NodeStatus, roots: &[RootStatus]) -> BlockStats {
    let root = roots.iter().find(|root| root.node.node_name == node.node_name);
    BlockStats {
        node_name: Some(node.node_name),
        stats: root.map(|root| counters(&root.stats)).unwrap_or_default(),
        ..BlockStats::default()
    }
}

fn counters(stats: &Stats) -> BlockDeviceStats {
    let [read, write, flush, unmap] =
        [Account::Read, Account::Write, Account::Flush, Account::Unmap]
            .map(|kind| stats[kind as usize]);
    BlockDeviceStats {
        rd_bytes: read.bytes,
        wr_bytes: write.bytes,
        unmap_bytes: unmap.bytes,
        rd_operations: read.operations,
        wr_operations: write.operations,
        flush_operations: flush.operations,
        unmap_operations: unmap.operations,
        rd_total_time_ns: read.total_time_ns,
        wr_total_time_ns: write.total_time_ns,
        flush_total_time_ns: flush.total_time_ns,
        unmap_total_time_ns: unmap.total_time_ns,
        failed_rd_operations: read.failed,
        failed_wr_operations: write.failed,
        failed_flush_operations: flush.failed,
        failed_unmap_operations: unmap.failed,
        ..BlockDeviceStats::default()
    }
}

fn node_info(node: &NodeStatus, writeback: bool) -> BlockDeviceInfo {
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|p| p.display().to_string()).unwrap_or_default()
    };
    let file = path(&node.file);
    let backing = node.backing.as_ref().map(|(_, file)| path(file));
    BlockDeviceInfo {
        node_name: node.node_name.clone(),
        ro: node.info.read_only,
        drv: node.driver.to_owned(),
        backing_file: backing.clone(),
        backing_file_depth: node.backing_depth,
        detect_zeroes: match node.options.detect_zeroes {
            DetectZeroes::Off => "off",
            DetectZeroes::On => "on",
            DetectZeroes::Unmap => "unmap",
        },
        image: ImageInfo {
            filename: file.clone(),
            format: node.driver.to_owned(),
            virtual_size: node.info.size,
            actual_size: node.allocated,
            backing_filename: backing,
            ..ImageInfo::default()
        },
        cache: BlockCacheInfo {
            writeback,
            direct: node.direct,
            no_flush: node.options.cache.no_flush,
        },
        file,
        ..BlockDeviceInfo::default()
    }
}

fn fault_info(
    (node_name, status): (String, spindle_block::nodes::fault::FaultStatus),
) -> FaultInfo {
    FaultInfo {
        node_name,
        rule: nodes::rule_spec(&status.rule),
        hits: status.hits,
        waiting: status.waiting,
        spent: status.spent,
    }
}
