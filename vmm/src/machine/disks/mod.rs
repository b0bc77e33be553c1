//! Disks and what else sits on the PCI bus: from the description to devices over the block graph.

mod ahci;
mod events;
mod ide;
mod lease;
mod nvme;
mod pool;
mod scsi;
mod sd;
mod state;
mod virtio_blk;
mod virtio_rng;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use spindle_block::{
    Cx, Root,
    graph::{Graph, GraphError},
};
use spindle_boot::gsi_for;
use spindle_devices::{
    Dma, MsiSource, WindowSink, Windows,
    ahci::Ahci,
    device::Done,
    nvme::{Nvme, Subsystem},
    pci::{Address, PciFunction, Slot},
    scsi::LogicalUnit,
    sdhci::Sdhci,
    virtio::VirtioScsi,
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
        MachineSpec, ObjectSpec,
        device::{DeviceSpec, Drive, Place, in_slot, piix},
    },
    tools::object,
};
use events::Failures;
use lease::Lease;
pub(super) use lease::Medium;
use scsi::Units;
use state::States;

/// The first slot for devices: 00 is the host bridge, 01 the ISA bridge of machines with IDE.
const FIRST_SLOT: u8 = 2;

/// A disk as the machine and the monitor see it, whatever it is behind.
pub(super) trait DiskDevice: Send + Sync {
    /// Its node has another size: tells the driver.
    fn resized(&self);

    /// Leaves its controller: `done` is called once nothing of it is in flight. A disk that is a whole
    /// function has nothing to leave.
    fn leave(&self, done: Done);
}

/// One disk.
pub(super) struct Disk {
    /// The id of its device.
    pub(super) id: String,
    /// The id of the function that it is reached through.
    pub(super) function: String,
    /// What its data is in; `None`: a drive that is empty.
    pub(super) medium: Option<Medium>,
    pub(super) device: Arc<dyn DiskDevice>,
    pub(super) io_status: IoStatus,
    pub(super) write_cache: bool,
    /// What moves the tray, if it has one.
    pub(super) drive: Option<Arc<LogicalUnit>>,
    /// The node that was opened for its medium alone.
    pub(super) own_node: Option<String>,
    /// It is leaving its controller.
    pub(super) leaving: bool,
}

impl Disk {
    /// The name of its root.
    pub(super) fn root(&self) -> Option<&str> {
        self.medium.as_ref().map(Medium::root)
    }
}

/// A controller to which disks come and from which they go.
#[derive(Clone)]
enum Controller {
    Nvme(Nvme),
    Scsi(VirtioScsi),
    Ahci(Ahci),
    Ide(ide::Piix),
    Sd(Sdhci),
    /// None do.
    Closed,
}

/// A function that a description asked for.
pub(super) struct Function {
    pub(super) id: String,
    pub(super) at: Address,
    /// Under which it declares its windows.
    number: u32,
    /// When its guest was last asked to let go of it.
    pub(super) asked: Option<Instant>,
    controller: Controller,
}

/// What became of a description: a function, and the disks that are reached through it.
struct Made {
    function: Arc<dyn PciFunction>,
    disks: Vec<Disk>,
    controller: Controller,
}

/// The block graph with everything on top of it.
pub(super) struct Disks {
    pub(super) graph: Arc<Graph>,
    pub(super) iothreads: Iothreads,
    pub(super) disks: Vec<Disk>,
    functions: Vec<Function>,
    subsystems: BTreeMap<String, Arc<Subsystem>>,
    units: Units,
    states: Arc<States>,
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

/// What builders of devices need.
#[derive(Clone, Copy)]
struct Scope<'a> {
    graph: &'a Arc<Graph>,
    iothreads: &'a Iothreads,
    ground: &'a Ground,
    states: &'a Arc<States>,
}

/// Where a function is built.
struct Site<'a> {
    scope: Scope<'a>,
    slot: Slot,
}

impl Scope<'_> {
    /// Puts a root called `id` on top of a node that holds at least one block of this size.
    fn attach(&self, id: &str, drive: Drive<'_>, block: u32) -> Result<Arc<Lease>, BuildError> {
        Self::sized(id, Lease::new(self.graph, id, drive, false)?, block)
    }

    /// The same for a root that never writes.
    fn attach_to_read(&self, id: &str, node: &str, block: u32) -> Result<Arc<Lease>, BuildError> {
        let drive = Drive { node, share_rw: false };
        Self::sized(id, Lease::new(self.graph, id, drive, true)?, block)
    }

    fn sized(id: &str, lease: Arc<Lease>, block: u32) -> Result<Arc<Lease>, BuildError> {
        let size = lease.root().info().size;
        if size < u64::from(block) {
            return Err(BuildError::TooSmall { id: id.to_owned(), size, block });
        }
        Ok(lease)
    }

    /// Who hears of failed requests.
    fn failures(&self) -> Arc<Failures> {
        Arc::new(Failures {
            mailbox: Arc::clone(&self.ground.mailbox),
            graph: Arc::clone(self.graph),
        })
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
            subsystems: BTreeMap::new(),
            units: Units::new(),
            states: Arc::default(),
            ground,
            next_number: FUNCTIONS,
        };
        all.open(spec)?;
        // Places that were asked for come before those that are left, controllers before their disks.
        let rank = |device: &&DeviceSpec| match device.kind().place() {
            Place::Nowhere => 0,
            Place::Pci(Some(_)) => 1,
            Place::Pci(None) => 2,
            Place::Bus(_) => 3,
        };
        let mut devices: Vec<&DeviceSpec> = spec.devices.iter().collect();
        devices.sort_by_key(rank);
        for device in devices {
            all.add(spec, device, board)?;
        }
        Ok(all)
    }

    fn open(&self, spec: &MachineSpec) -> Result<(), BuildError> {
        for one in &spec.objects {
            if let ObjectSpec::Secret(secret) = one {
                let failed = |reason| BuildError::Secret { id: secret.id.clone(), reason };
                object::define(secret).map_err(failed)?;
            }
        }
        let options = spec.blockdevs.iter().map(nodes::options);
        let options: Vec<_> = options.collect::<Result<_, _>>()?;
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
        match device.kind().place() {
            Place::Nowhere => {
                let id = device.id();
                let nqn = match device {
                    DeviceSpec::NvmeSubsys(subsystem) => subsystem.full_nqn(),
                    _ => None,
                };
                let subsystem = match nqn {
                    Some(nqn) => Subsystem::named(id, &nqn),
                    None => Subsystem::new(id),
                };
                self.subsystems.insert(id.to_owned(), subsystem);
                Ok(None)
            }
            Place::Pci(_) => self.add_function(spec, device, board).map(Some),
            Place::Bus(controller) => self.add_disk(device, controller).map(|()| None),
        }
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
        let site = Site { scope: self.scope(), slot };
        let made = match device {
            DeviceSpec::VirtioBlkPci(disk) => virtio_blk::build(disk, site)?,
            DeviceSpec::VirtioScsiPci(adapter) => scsi::build(adapter, site)?,
            DeviceSpec::Nvme(nvme) => {
                let subsystem = nvme.subsys.as_ref().and_then(|id| self.subsystems.get(id));
                nvme::build(nvme, subsystem.cloned(), site)?
            }
            DeviceSpec::VirtioRngPci(rng) => virtio_rng::build(rng, site)?,
            DeviceSpec::Ich9Ahci(controller) => ahci::build(controller, site)?,
            DeviceSpec::Piix3Ide(_) | DeviceSpec::Piix4Ide(_) => {
                let (ide, piix4) = piix(device).ok_or_else(|| misplaced(device))?;
                ide::build(ide, piix4, ide::prepare(piix4, at, board)?, site)?
            }
            DeviceSpec::SdhciPci(sdhci) => {
                let embedded = matches!(in_slot(spec, &sdhci.id), Some(DeviceSpec::Emmc(_)));
                sd::build(sdhci, embedded, site)?
            }
            DeviceSpec::NvmeNs(_)
            | DeviceSpec::SdCard(_)
            | DeviceSpec::Emmc(_)
            | DeviceSpec::NvmeSubsys(_)
            | DeviceSpec::ScsiHd(_)
            | DeviceSpec::ScsiCd(_)
            | DeviceSpec::IdeHd(_)
            | DeviceSpec::IdeCd(_) => return Err(misplaced(device)),
        };
        if let Err(error) = board.pci.add(at, made.function) {
            // A subsystem that others use forgets what came with this controller.
            made.disks.iter().for_each(|disk| disk.device.leave(Box::new(|| ())));
            return Err(error.into());
        }
        self.disks.extend(made.disks);
        let (id, controller) = (device.id().to_owned(), made.controller);
        self.functions.push(Function { id, at, number, asked: None, controller });
        Ok(at)
    }

    fn add_disk(&mut self, device: &DeviceSpec, controller: &str) -> Result<(), BuildError> {
        let function = self.functions.iter().find(|function| function.id == controller);
        let function = function.ok_or_else(|| misplaced(device))?;
        let scope = Scope {
            graph: &self.graph,
            iothreads: &self.iothreads,
            ground: &self.ground,
            states: &self.states,
        };
        let disk = match (device, &function.controller) {
            (DeviceSpec::NvmeNs(ns), Controller::Nvme(nvme)) => {
                nvme::add(ns, controller, nvme, &scope)?
            }
            (DeviceSpec::ScsiHd(disk), Controller::Scsi(adapter)) => {
                scsi::add_disk(disk, adapter, &mut self.units, &scope)?
            }
            (DeviceSpec::ScsiCd(drive), Controller::Scsi(adapter)) => {
                scsi::add_drive(drive, adapter, &scope)?
            }
            (DeviceSpec::IdeHd(disk), Controller::Ide(piix)) => ide::add_disk(disk, piix, &scope)?,
            (DeviceSpec::IdeCd(drive), Controller::Ide(piix)) => {
                ide::add_drive(drive, piix, &scope)?
            }
            (DeviceSpec::IdeHd(disk), Controller::Ahci(controller)) => {
                ahci::add_disk(disk, controller, &scope)?
            }
            (DeviceSpec::IdeCd(drive), Controller::Ahci(controller)) => {
                ahci::add_drive(drive, controller, &scope)?
            }
            (DeviceSpec::SdCard(_) | DeviceSpec::Emmc(_), Controller::Sd(sdhci)) => {
                sd::add(device, sdhci, &scope)?
            }
            _ => return Err(misplaced(device)),
        };
        self.disks.push(disk);
        Ok(())
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            graph: &self.graph,
            iothreads: &self.iothreads,
            ground: &self.ground,
            states: &self.states,
        }
    }

    /// The function with this id.
    pub(super) fn function_mut(&mut self, id: &str) -> Option<&mut Function> {
        self.functions.iter_mut().find(|function| function.id == id)
    }

    /// The disk with this id.
    pub(super) fn disk(&self, id: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// As [`Disks::disk`].
    pub(super) fn disk_mut(&mut self, id: &str) -> Option<&mut Disk> {
        self.disks.iter_mut().find(|disk| disk.id == id)
    }

    /// A hold on `node` for the drive `id`.
    pub(super) fn medium(&self, id: &str, node: &str) -> Result<(Arc<Root>, Medium), BuildError> {
        let misplaced = || BuildError::Misplaced(id.to_owned());
        let disk = self.disk(id).ok_or_else(misplaced)?;
        let function = self.functions.iter().find(|function| function.id == disk.function);
        match function.map(|function| &function.controller) {
            Some(Controller::Scsi(adapter)) => scsi::medium(id, node, adapter, &self.scope()),
            Some(Controller::Ide(piix)) => ide::medium(id, node, piix, &self.scope()),
            Some(Controller::Ahci(ahci)) => ahci::medium(id, node, ahci, &self.scope()),
            _ => Err(misplaced()),
        }
    }

    /// The controller that holds the card `id`.
    pub(super) fn card(&self, id: &str) -> Option<&Sdhci> {
        let disk = self.disk(id)?;
        let function = self.functions.iter().find(|function| function.id == disk.function)?;
        match &function.controller {
            Controller::Sd(sdhci) => Some(sdhci),
            Controller::Nvme(_)
            | Controller::Scsi(_)
            | Controller::Ahci(_)
            | Controller::Ide(_)
            | Controller::Closed => None,
        }
    }

    /// Takes over the hold on what a pool has opened for a namespace of `controller`.
    fn adopt(
        &mut self,
        controller: &str,
        id: &str,
        nsid: u32,
        lease: Arc<Lease>,
    ) -> Result<(), BuildError> {
        let function = self.functions.iter().find(|function| function.id == controller);
        match function.map(|function| &function.controller) {
            Some(Controller::Nvme(device)) => {
                let disk = nvme::disk(id, controller, lease, true, device, nsid)?;
                self.disks.push(Disk { own_node: Some(id.to_owned()), ..disk });
                Ok(())
            }
            _ => Err(BuildError::Misplaced(id.to_owned())),
        }
    }

    /// The disks that are reached through function `id`.
    pub(super) fn behind<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Disk> {
        self.disks.iter().filter(move |disk| disk.function == id)
    }

    /// Names of the roots that function `id` sends requests to.
    pub(super) fn roots_of(&self, id: &str) -> Vec<String> {
        let mut roots: Vec<_> =
            self.behind(id).filter_map(|disk| disk.root().map(str::to_owned)).collect();
        roots.dedup();
        roots
    }

    /// Lets go of a disk that has left its controller. Returns the node that nobody needs any more.
    pub(super) fn remove_disk(&mut self, id: &str) -> Option<String> {
        let own = self.disk_mut(id)?.own_node.take();
        self.disks.retain(|disk| disk.id != id);
        own
    }

    /// Lets go of function `id`, which is off the bus and at rest, and of its disks. Returns the ids of
    /// all that are gone, the function's last.
    pub(super) fn remove(&mut self, id: &str) -> Vec<String> {
        let gone = self.behind(id).map(|disk| disk.id.clone()).filter(|disk| disk != id);
        let gone = gone.chain([id.to_owned()]).collect();
        self.disks.retain(|disk| disk.function != id);
        self.functions.retain(|function| {
            if function.id == id {
                self.ground.bus.set(function.number, Windows::default());
            }
            function.id != id
        });
        gone
    }
}

/// Lowering has checked where devices can sit.
fn misplaced(device: &DeviceSpec) -> BuildError {
    BuildError::Misplaced(device.id().to_owned())
}

/// Closes every node, at the machine's end; what fails was logged.
pub(super) async fn close(graph: &Graph, cx: &Cx) {
    let result: Result<(), GraphError> = graph.close_all(cx).await;
    if let Err(e) = result {
        log::error!("{}", spindle_block::error::with_causes(&e));
    }
}

/// Whether another function of the same slot is described.
fn shares_slot(spec: &MachineSpec, at: Address) -> bool {
    let mut others = spec.devices.iter().filter_map(DeviceSpec::addr);
    others.any(|other| other.slot == at.slot && other.function != at.function)
}

impl Machine {
    /// A request to the root `root` failed and the policy is to pause.
    pub(super) fn note_failure(&mut self, root: &str, nospace: bool) {
        for disk in self.disks.disks.iter_mut().filter(|disk| disk.root() == Some(root)) {
            disk.io_status = if nospace { IoStatus::Nospace } else { IoStatus::Failed };
        }
    }
}
