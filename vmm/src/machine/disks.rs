//! Disks and what else sits on the PCI bus: from the description to devices over the block graph.

use std::{sync::Arc, time::Duration};

use spindle_block::{
    BlockError, Cx,
    graph::{Entry, Graph, GraphError, Token, Usage},
};
use spindle_boot::gsi_for;
use spindle_devices::{
    Device, Dma, MsiSource, WindowSink,
    pci::{Address, Endpoint, Slot},
    virtio::{
        VirtioBlk, VirtioBlkConfig, VirtioRng, VirtioRngConfig,
        blk::{BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation},
    },
};

use super::{
    BuildError, Letter, Machine, Mailbox,
    board::{Board, FUNCTIONS},
    iothreads::{Iothreads, wait_for},
    nodes,
};
use crate::{
    monitor::{Event, IoAction, IoOperation as Operation, schema::IoStatus},
    spec::{
        MachineSpec,
        device::{self, DeviceSpec, PciAddr, VirtioBlkSpec, VirtioRngSpec},
    },
};

/// The first slot for devices: 00 is the host bridge, 01 the ISA bridge of machines with IDE.
const FIRST_SLOT: u8 = 2;

/// One disk.
pub(super) struct Disk {
    pub(super) id: String,
    pub(super) device: Arc<VirtioBlk>,
    pub(super) io_status: IoStatus,
    pub(super) write_cache: bool,
}

/// The block graph with everything on top of it.
pub(super) struct Disks {
    pub(super) graph: Arc<Graph>,
    pub(super) iothreads: Iothreads,
    pub(super) disks: Vec<Disk>,
    /// Devices that the graph knows nothing of.
    pub(super) others: Vec<Arc<dyn Device>>,
}

/// What devices are connected to.
pub(super) struct Sockets<'a> {
    pub(super) board: &'a mut Board,
    pub(super) bus: Arc<dyn WindowSink>,
    pub(super) vectors: Arc<dyn MsiSource>,
    pub(super) dma: Dma,
    pub(super) mailbox: Arc<Mailbox>,
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

/// Failed requests become events, and pauses where the disk says so.
struct Failures(Arc<Mailbox>);

impl BlockEvents for Failures {
    fn io_error(&self, event: IoErrorEvent) {
        if event.action == ErrorAction::Stop {
            let (device, reason) = (event.device.clone(), event.reason.to_string());
            self.0.post(Letter::StopForError {
                device,
                reason,
                nospace: event.reason == BlockError::NoSpace,
            });
        }
        self.0.tell(Event::BlockIoError {
            device: event.device,
            node_name: event.node,
            operation: match event.operation {
                IoOperation::Read => Operation::Read,
                IoOperation::Write => Operation::Write,
            },
            action: match event.action {
                ErrorAction::Report => IoAction::Report,
                ErrorAction::Ignore => IoAction::Ignore,
                ErrorAction::Stop => IoAction::Stop,
            },
            nospace: event.nospace,
            reason: event.reason.to_string(),
        });
    }
}

impl Disks {
    /// Opens the nodes, builds the devices and puts them on the bus.
    pub(super) fn build(
        spec: &MachineSpec,
        iothreads: Iothreads,
        mut to: Sockets<'_>,
    ) -> Result<Self, BuildError> {
        let graph = Graph::new();
        let mut all = Self { graph, iothreads, disks: Vec::new(), others: Vec::new() };
        all.open(spec)?;
        // Places that were asked for come before those that are left.
        let placed = |device: &&DeviceSpec| addr_of(device).is_some();
        let (fixed, free): (Vec<_>, Vec<_>) = spec.devices.iter().partition(placed);
        for (number, device) in (FUNCTIONS..).zip(fixed.into_iter().chain(free)) {
            all.add(spec, device, number, &mut to)?;
        }
        Ok(all)
    }

    fn open(&self, spec: &MachineSpec) -> Result<(), BuildError> {
        let options: Vec<_> = spec.blockdevs.iter().map(nodes::options).collect();
        if options.is_empty() {
            return Ok(());
        }
        let graph = Arc::clone(&self.graph);
        let opened = wait_for(&self.iothreads.control()?, move |cx| async move {
            for options in options {
                if let Err(error) = graph.open(&cx, options).await {
                    close(&graph, &cx).await;
                    return Err(error);
                }
            }
            Ok(())
        });
        match opened {
            Some(result) => Ok(result?),
            None => Err(BuildError::IothreadGone),
        }
    }

    fn add(
        &mut self,
        spec: &MachineSpec,
        device: &DeviceSpec,
        number: u32,
        to: &mut Sockets<'_>,
    ) -> Result<(), BuildError> {
        let at = match addr_of(device) {
            Some(addr) => Address { slot: addr.slot, function: addr.function },
            None => to.board.pci.free_slot(FIRST_SLOT)?,
        };
        let wire = to
            .board
            .lines
            .source(gsi_for(at.slot, 0))
            .map_err(|source| BuildError::Resources { what: "an interrupt line", source })?;
        let slot = Slot {
            device: number,
            sink: Arc::clone(&to.bus),
            vectors: Arc::clone(&to.vectors),
            wire: Some((1, wire)),
            multifunction: at.function == 0 && shares_slot(spec, at),
        };
        let function = match device {
            DeviceSpec::VirtioBlkPci(disk) => self.add_disk(spec, disk, slot, to)?,
            DeviceSpec::VirtioRngPci(rng) => {
                let config = rng_config(rng, &self.iothreads)?;
                let function = VirtioRng::new(config, to.dma.clone(), slot)?.function();
                self.others.push(Arc::clone(&function) as Arc<dyn Device>);
                function
            }
        };
        Ok(to.board.pci.add(at, function)?)
    }

    fn add_disk(
        &mut self,
        spec: &MachineSpec,
        disk: &VirtioBlkSpec,
        slot: Slot,
        to: &Sockets<'_>,
    ) -> Result<Arc<Endpoint>, BuildError> {
        let read_only = spec.node(&disk.drive).is_some_and(|node| node.read_only);
        let usage = Usage { write: !read_only, share_write: disk.share_rw };
        let root = self.graph.attach(&disk.id, &disk.drive, usage)?;
        let config = disk_config(disk, &self.iothreads)?;
        let failures = Arc::new(Failures(Arc::clone(&to.mailbox)));
        let device = VirtioBlk::new(config, root, to.dma.clone(), slot, failures)?;
        let function = device.function();
        let pauses = Arc::new(Pauses(Arc::clone(&function) as Arc<dyn Device>));
        self.graph.add_entry(&disk.id, pauses)?;
        self.disks.push(Disk {
            id: disk.id.clone(),
            device: Arc::new(device),
            io_status: IoStatus::Ok,
            write_cache: disk.write_cache,
        });
        Ok(function)
    }
}

/// Closes every node, at the machine's end; what fails was logged.
pub(super) async fn close(graph: &Graph, cx: &Cx) {
    let result: Result<(), GraphError> = graph.close_all(cx).await;
    if let Err(e) = result {
        log::error!("{}", spindle_block::error::with_causes(&e));
    }
}

fn addr_of(device: &DeviceSpec) -> Option<PciAddr> {
    match device {
        DeviceSpec::VirtioBlkPci(disk) => disk.addr,
        DeviceSpec::VirtioRngPci(rng) => rng.addr,
    }
}

/// Whether another function of the same slot is described.
fn shares_slot(spec: &MachineSpec, at: Address) -> bool {
    let others = spec.devices.iter().filter_map(addr_of);
    others.into_iter().any(|other| other.slot == at.slot && other.function != at.function)
}

fn disk_config(disk: &VirtioBlkSpec, iothreads: &Iothreads) -> Result<VirtioBlkConfig, BuildError> {
    let policy = |policy| match policy {
        device::ErrorPolicy::Report => ErrorPolicy::Report,
        device::ErrorPolicy::Ignore => ErrorPolicy::Ignore,
        device::ErrorPolicy::Stop => ErrorPolicy::Stop,
        device::ErrorPolicy::Enospc => ErrorPolicy::Enospc,
    };
    Ok(VirtioBlkConfig {
        queue_size: disk.queue_size,
        serial: disk.serial.clone().unwrap_or_default(),
        logical_block_size: disk.logical_block_size,
        physical_block_size: disk.physical_block_size,
        min_io_size: disk.min_io_size,
        opt_io_size: disk.opt_io_size,
        discard_granularity: disk.discard_granularity,
        werror: policy(disk.werror),
        rerror: policy(disk.rerror),
        write_cache: disk.write_cache,
        config_wce: disk.config_wce,
        discard: disk.discard,
        write_zeroes: disk.write_zeroes,
        max_discard_sectors: disk.max_discard_sectors,
        max_write_zeroes_sectors: disk.max_write_zeroes_sectors,
        seg_max_adjust: disk.seg_max_adjust,
        event_idx: disk.event_idx,
        indirect_desc: disk.indirect_desc,
        queue_reset: disk.queue_reset,
        vectors: disk.vectors,
        ..VirtioBlkConfig::new(&disk.id, iothreads.of_disk(disk)?)
    })
}

fn rng_config(rng: &VirtioRngSpec, iothreads: &Iothreads) -> Result<VirtioRngConfig, BuildError> {
    Ok(VirtioRngConfig {
        id: rng.id.clone(),
        iothread: iothreads.control()?,
        max_bytes: rng.max_bytes,
        period: Duration::from_millis(rng.period.into()),
        vectors: None,
    })
}

impl Machine {
    /// A disk's request failed and its policy is to pause.
    pub(super) fn note_failure(&mut self, device: &str, nospace: bool) {
        if let Some(disk) = self.disks.disks.iter_mut().find(|disk| disk.id == device) {
            disk.io_status = if nospace { IoStatus::Nospace } else { IoStatus::Failed };
        }
    }
}
