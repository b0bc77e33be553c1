//! Disks and what else sits on the PCI bus: from the description to devices over the block graph.

mod events;
mod virtio_blk;
mod virtio_rng;

use std::{sync::Arc, time::Instant};

use spindle_block::{
    Cx, Root,
    graph::{Entry, Graph, GraphError, Token, Usage},
};
use spindle_boot::gsi_for;
use spindle_devices::{
    Device, Dma, MsiSource, WindowSink, Windows,
    pci::{Address, PciFunction, Slot},
};

use super::{
    BuildError, Machine, Mailbox,
    board::{Board, FUNCTIONS},
    iothreads::{Iothreads, wait_for},
    nodes,
};
use crate::{
    monitor::schema::IoStatus,
    spec::{
        MachineSpec,
        device::{DeviceSpec, Drive},
    },
};

/// The first slot for devices: 00 is the host bridge, 01 the ISA bridge of machines with IDE.
const FIRST_SLOT: u8 = 2;

/// A disk as the machine and the monitor see it, whatever it is behind.
pub(super) trait DiskDevice: Send + Sync {
    /// Its node has another size: tells the driver.
    fn resized(&self);
}

/// One disk.
pub(super) struct Disk {
    /// The id of its device, and the name of its root.
    pub(super) id: String,
    /// The id of the function that it is reached through.
    function: String,
    pub(super) device: Arc<dyn DiskDevice>,
    pub(super) io_status: IoStatus,
    pub(super) write_cache: bool,
}

/// A function that a description asked for.
pub(super) struct Function {
    pub(super) id: String,
    pub(super) at: Address,
    /// Under which it declares its windows.
    number: u32,
    /// When its guest was last asked to let go of it.
    pub(super) asked: Option<Instant>,
}

/// What became of a description: a function, and the disks that are reached through it.
struct Made {
    function: Arc<dyn PciFunction>,
    disks: Vec<Disk>,
}

/// The block graph with everything on top of it.
pub(super) struct Disks {
    pub(super) graph: Arc<Graph>,
    pub(super) iothreads: Iothreads,
    pub(super) disks: Vec<Disk>,
    functions: Vec<Function>,
    ground: Ground,
    /// The number under which the next function declares its windows.
    next_number: u32,
}

/// What all devices are connected to.
pub(super) struct Ground {
    pub(super) bus: Arc<dyn WindowSink>,
    pub(super) vectors: Arc<dyn MsiSource>,
    pub(super) dma: Dma,
    pub(super) mailbox: Arc<Mailbox>,
}

/// Where one device is built.
struct Site<'a> {
    graph: &'a Arc<Graph>,
    iothreads: &'a Iothreads,
    ground: &'a Ground,
    slot: Slot,
}

impl Site<'_> {
    /// Puts a root called `id` on top of a node; it only reads where the node takes no writes.
    fn attach(&self, id: &str, drive: Drive<'_>) -> Result<Arc<Root>, BuildError> {
        let write = !self.graph.is_read_only(drive.node)?;
        let usage = Usage { write, share_write: drive.share_rw };
        Ok(self.graph.attach(id, drive.node, usage)?)
    }
}

/// Has drains of root `id` pause `device`.
fn pause_with(graph: &Graph, id: &str, device: Arc<dyn Device>) -> Result<(), BuildError> {
    graph.add_entry(id, Arc::new(Pauses(device)))?;
    Ok(())
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

impl Disks {
    /// Opens the nodes, builds the devices and puts them on the bus.
    pub(super) fn build(
        spec: &MachineSpec,
        iothreads: Iothreads,
        ground: Ground,
        board: &mut Board,
    ) -> Result<Self, BuildError> {
        let graph = Graph::new();
        let mut all = Self {
            graph,
            iothreads,
            disks: Vec::new(),
            functions: Vec::new(),
            ground,
            next_number: FUNCTIONS,
        };
        all.open(spec)?;
        // Places that were asked for come before those that are left.
        let (fixed, free): (Vec<_>, Vec<_>) =
            spec.devices.iter().partition(|device| device.addr().is_some());
        for device in fixed.into_iter().chain(free) {
            all.add(spec, device, board)?;
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

    /// Builds a device and puts it in its place; where on the bus, if that is where it sits.
    ///
    /// # Errors
    /// When it cannot be built there; nothing has changed then.
    pub(super) fn add(
        &mut self,
        spec: &MachineSpec,
        device: &DeviceSpec,
        board: &mut Board,
    ) -> Result<Option<Address>, BuildError> {
        let result = self.add_function(spec, device, board);
        if result.is_err() && device.drive().is_some() {
            // It may have come as far as this.
            let _ = self.graph.detach(device.id());
        }
        result.map(Some)
    }

    fn add_function(
        &mut self,
        spec: &MachineSpec,
        device: &DeviceSpec,
        board: &mut Board,
    ) -> Result<Address, BuildError> {
        let at = match device.addr() {
            Some(addr) => Address { slot: addr.slot, function: addr.function },
            None => board.pci.free_slot(FIRST_SLOT)?,
        };
        let wire = board
            .lines
            .source(gsi_for(at.slot, 0))
            .map_err(|source| BuildError::Resources { what: "an interrupt line", source })?;
        let number = self.next_number;
        self.next_number += 1;
        let slot = Slot {
            device: number,
            sink: Arc::clone(&self.ground.bus),
            vectors: Arc::clone(&self.ground.vectors),
            wire: Some((1, wire)),
            multifunction: at.function == 0 && shares_slot(spec, at),
        };
        let site =
            Site { graph: &self.graph, iothreads: &self.iothreads, ground: &self.ground, slot };
        let made = match device {
            DeviceSpec::VirtioBlkPci(disk) => virtio_blk::build(disk, site)?,
            DeviceSpec::VirtioRngPci(rng) => virtio_rng::build(rng, site)?,
        };
        board.pci.add(at, made.function)?;
        self.disks.extend(made.disks);
        self.functions.push(Function { id: device.id().to_owned(), at, number, asked: None });
        Ok(at)
    }

    /// The function with this id.
    pub(super) fn function_mut(&mut self, id: &str) -> Option<&mut Function> {
        self.functions.iter_mut().find(|function| function.id == id)
    }

    /// Names of the roots that function `id` sends requests to.
    pub(super) fn roots_of(&self, id: &str) -> Vec<String> {
        let its = self.disks.iter().filter(|disk| disk.function == id);
        its.map(|disk| disk.id.clone()).collect()
    }

    /// Lets go of function `id`, which is off the bus and at rest, and of its disks. Returns the ids of
    /// all that are gone, the function's last.
    pub(super) fn remove(&mut self, id: &str) -> Vec<String> {
        let mut gone = self.roots_of(id);
        self.disks.retain(|disk| disk.function != id);
        for root in &gone {
            // At the machine's end it is gone before.
            let _ = self.graph.detach(root);
        }
        self.functions.retain(|function| {
            if function.id == id {
                self.ground.bus.set(function.number, Windows::default());
            }
            function.id != id
        });
        gone.retain(|disk| disk != id);
        gone.push(id.to_owned());
        gone
    }
}

/// Closes every node, at the machine's end; what fails was logged.
pub(super) async fn close(graph: &Graph, cx: &Cx) {
    let result: Result<(), GraphError> = graph.close_all(cx).await;
    if let Err(e) = result {
        log::error!("{}", crate::error_chain(&e));
    }
}

/// Whether another function of the same slot is described.
fn shares_slot(spec: &MachineSpec, at: Address) -> bool {
    let mut others = spec.devices.iter().filter_map(DeviceSpec::addr);
    others.any(|other| other.slot == at.slot && other.function != at.function)
}

impl Machine {
    /// A disk's request failed and its policy is to pause.
    pub(super) fn note_failure(&mut self, device: &str, nospace: bool) {
        if let Some(disk) = self.disks.disks.iter_mut().find(|disk| disk.id == device) {
            disk.io_status = if nospace { IoStatus::Nospace } else { IoStatus::Failed };
        }
    }
}
