//! The machine itself.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use spindle_block::{
    Cx, Node, Root, file::File, nodes::file::FileNode, ring::sim::World, root::Policy,
};

use super::{Bus, Irqs, Memory, Wire, irq::Source};
use crate::{
    LineIrq, Registers, Space, Window, WindowSink, Windows,
    ahci::{Ahci, AhciConfig},
    device::Device,
    ide::{Ide, IdeConfig, IdeSlot, Model, isa_bridge},
    nvme::{Nvme, NvmeConfig, NvmeNamespaceConfig},
    pci::{
        Address, BarWindows, ConfigPorts, Ecam, HostBridge, PciBus, Slot,
        access::{CONFIG_PORTS, ECAM_BUS_LEN},
    },
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    virtio::{
        VirtioBlk, VirtioBlkConfig, VirtioRng, VirtioRngConfig, VirtioScsi, VirtioScsiConfig,
        blk::{BlockEvents, IoErrorEvent},
    },
};

/// Failed requests that devices reported.
#[derive(Default)]
pub struct Errors(Mutex<Vec<IoErrorEvent>>);

impl Errors {
    /// Those since the last call.
    pub fn take(&self) -> Vec<IoErrorEvent> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BlockEvents for Errors {
    fn io_error(&self, event: IoErrorEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// A disk on the machine.
pub struct Disk {
    /// Where it sits.
    pub at: Address,
    /// The device.
    pub device: VirtioBlk,
    /// What its data is in.
    pub root: Arc<Root>,
    /// The simulated file below, if it is on one.
    pub file: Option<Arc<File>>,
    /// Its INTx wire.
    pub wire: Wire,
}

/// An NVMe controller on the machine.
pub struct NvmeDisk {
    /// Where it sits.
    pub at: Address,
    /// The device.
    pub device: Nvme,
    /// Its INTx wire.
    pub wire: Wire,
}

/// A host bus adapter on the machine.
pub struct ScsiAdapter {
    /// Where it sits.
    pub at: Address,
    /// The device.
    pub device: VirtioScsi,
    /// Its INTx wire.
    pub wire: Wire,
}

/// An IDE controller on the machine.
pub struct IdeController {
    /// Where it sits.
    pub at: Address,
    /// The device.
    pub device: Ide,
    /// The interrupt of each channel.
    pub wires: [Wire; 2],
}

/// An AHCI controller on the machine.
pub struct AhciController {
    /// Where it sits.
    pub at: Address,
    /// The device.
    pub device: Ahci,
    /// Its INTx wire.
    pub wire: Wire,
}

/// A machine: memory, a PCI bus, iothreads over simulated files. One thread, virtual time.
pub struct Machine {
    /// Guest memory.
    pub memory: Memory,
    /// Its address spaces.
    pub bus: Arc<Bus>,
    /// Its PCI bus.
    pub pci: Arc<PciBus>,
    /// Where message-signalled interrupts arrive.
    pub irqs: Arc<Irqs>,
    /// The simulated files and the clock.
    pub world: World,
    /// The iothreads, all on this thread. New disks use them in turn.
    pub iothreads: Vec<Cx>,
    /// Failed requests.
    pub errors: Arc<Errors>,
    next_device: Cell<u32>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.bus.clear();
    }
}

/// Where configuration space lies in memory.
pub const ECAM: u64 = 0xb000_0000;
/// Numbers under which the machine's own windows are declared.
const OWN_WINDOWS: u32 = u32::MAX;

impl Machine {
    /// A machine with two iothreads, no disks, and this seed for whatever is left to chance.
    ///
    /// # Panics
    /// When the host is out of memory or descriptors.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let iothread = |name: &str| world.iothread(name).expect("an iothread");
        let iothreads = vec![iothread("io0"), iothread("io1")];
        Self::with_iothreads(world, iothreads)
    }

    /// A machine over other iothreads, which the caller drives.
    ///
    /// # Panics
    /// As [`Machine::new`].
    #[must_use]
    pub fn with_iothreads(world: World, iothreads: Vec<Cx>) -> Self {
        let pci = PciBus::new();
        pci.add(Address { slot: 0, function: 0 }, HostBridge::new()).expect("an empty bus");
        let bus = Bus::new();
        let window = |space, base, len, target: Arc<dyn Registers>| Window {
            space,
            base,
            len,
            coalesce: false,
            target,
            target_offset: 0,
        };
        let ranges = vec![
            window(Space::Port, CONFIG_PORTS, 8, ConfigPorts::new(Arc::clone(&pci), None)),
            window(Space::Memory, ECAM, ECAM_BUS_LEN, Ecam::new(Arc::clone(&pci))),
        ];
        bus.set(OWN_WINDOWS, Windows { ranges, doorbells: Vec::new() });
        Self {
            memory: Memory::new(),
            bus,
            pci,
            irqs: Irqs::new(),
            world,
            iothreads,
            errors: Arc::default(),
            next_device: Cell::new(1),
        }
    }

    /// A place for a device, and its wire.
    ///
    /// # Panics
    /// When the bus is full.
    #[must_use]
    pub fn slot(&self) -> (Address, Slot, Wire) {
        let wire = Wire::default();
        let device = self.next_device.replace(self.next_device.get() + 1);
        let slot = Slot {
            device,
            sink: Arc::clone(&self.bus) as Arc<dyn WindowSink>,
            vectors: Arc::new(Source(Arc::clone(&self.irqs))),
            wire: Some((1, Box::new(wire.clone()))),
            multifunction: false,
        };
        (self.pci.free_slot(1).expect("a free slot"), slot, wire)
    }

    /// A virtio disk of `size` bytes on a simulated file, one queue, changed by `configure`.
    ///
    /// # Panics
    /// When the machine is full.
    pub fn add_disk(
        &self,
        id: &str,
        size: u64,
        configure: impl FnOnce(&mut VirtioBlkConfig),
    ) -> Disk {
        let file = self.world.create_file(id, &[], size);
        let node = FileNode::over(Arc::clone(&file), size, 1, false);
        let mut disk = self.add_disk_over(id, node, configure);
        disk.file = Some(file);
        disk
    }

    /// A virtio disk over any node.
    ///
    /// # Panics
    /// When the machine is full.
    pub fn add_disk_over(
        &self,
        id: &str,
        node: Arc<dyn Node>,
        configure: impl FnOnce(&mut VirtioBlkConfig),
    ) -> Disk {
        self.add_disk_on(id, Root::new(&format!("{id}-node"), node, Policy::default()), configure)
    }

    /// A virtio disk over a root.
    ///
    /// # Panics
    /// When the machine is full.
    pub fn add_disk_on(
        &self,
        id: &str,
        root: Arc<Root>,
        configure: impl FnOnce(&mut VirtioBlkConfig),
    ) -> Disk {
        let iothreads = self.iothreads.first().map(|cx| cx.handle()).into_iter().collect();
        let mut config = VirtioBlkConfig::new(id, iothreads);
        configure(&mut config);
        let (at, slot, wire) = self.slot();
        let events = Arc::clone(&self.errors) as Arc<dyn BlockEvents>;
        let dma = self.memory.dma().clone();
        let device = VirtioBlk::new(config, Arc::clone(&root), dma, slot, events).expect("a disk");
        self.pci.add(at, device.function()).expect("a free slot");
        Disk { at, device, root, file: None, wire }
    }

    /// A root over a simulated file of `size` bytes, for a namespace.
    #[must_use]
    pub fn add_root(&self, name: &str, size: u64) -> (Arc<Root>, Arc<File>) {
        let file = self.world.create_file(name, &[], size);
        let node = FileNode::over(Arc::clone(&file), size, 1, false);
        (Root::new(&format!("{name}-node"), node, Policy::default()), file)
    }

    /// An NVMe controller on the first iothread with up to 16 pairs of I/O queues and a namespace
    /// over each of `roots`, changed by `configure`.
    ///
    /// # Panics
    /// When the machine is full, or the configuration makes no sense.
    pub fn add_nvme(
        &self,
        id: &str,
        roots: &[Arc<Root>],
        configure: impl FnOnce(&mut NvmeConfig),
    ) -> NvmeDisk {
        let iothreads = self.iothreads.first().map(|cx| cx.handle()).into_iter().collect();
        let mut config = NvmeConfig::new(id, iothreads);
        // Each takes a descriptor, and tests have many machines.
        config.max_ioqpairs = 16;
        config.namespaces =
            roots.iter().map(|root| NvmeNamespaceConfig::new(Arc::clone(root))).collect();
        configure(&mut config);
        let (at, slot, wire) = self.slot();
        let events = Arc::clone(&self.errors) as Arc<dyn BlockEvents>;
        let device =
            Nvme::new(config, self.memory.dma().clone(), slot, events).expect("a controller");
        self.pci.add(at, device.function()).expect("a free slot");
        NvmeDisk { at, device, wire }
    }

    /// An AHCI controller with so many empty ports, which use the iothreads in turn, changed by
    /// `configure`.
    ///
    /// # Panics
    /// When the machine is full, or the configuration makes no sense.
    pub fn add_ahci(
        &self,
        id: &str,
        ports: usize,
        configure: impl FnOnce(&mut AhciConfig),
    ) -> AhciController {
        let iothreads = self.iothreads.iter().map(|cx| cx.handle()).cycle().take(ports).collect();
        let mut config = AhciConfig::new(id, iothreads);
        configure(&mut config);
        let (at, slot, wire) = self.slot();
        let events = Arc::clone(&self.errors) as Arc<dyn BlockEvents>;
        let dma = self.memory.dma().clone();
        let device = Ahci::new(config, dma, slot, events).expect("a controller");
        self.pci.add(at, device.function()).expect("a free slot");
        AhciController { at, device, wire }
    }

    /// A virtio host bus adapter with one request queue and no units, changed by `configure`.
    ///
    /// # Panics
    /// When the machine is full.
    pub fn add_scsi(&self, id: &str, configure: impl FnOnce(&mut VirtioScsiConfig)) -> ScsiAdapter {
        let iothreads = self.iothreads.first().map(|cx| cx.handle()).into_iter().collect();
        let mut config = VirtioScsiConfig::new(id, iothreads);
        configure(&mut config);
        let (at, slot, wire) = self.slot();
        let events = Arc::clone(&self.errors) as Arc<dyn BlockEvents>;
        let dma = self.memory.dma().clone();
        let device = VirtioScsi::new(config, dma, slot, events).expect("an adapter");
        self.pci.add(at, device.function()).expect("a free slot");
        ScsiAdapter { at, device, wire }
    }

    /// A SCSI disk of `size` bytes on a simulated file, to be put behind adapters; and the file.
    pub fn scsi_disk(
        &self,
        id: &str,
        size: u64,
        configure: impl FnOnce(&mut UnitConfig),
    ) -> (Arc<LogicalUnit>, Arc<File>) {
        let file = self.world.create_file(id, &[], size);
        let node = FileNode::over(Arc::clone(&file), size, 1, false);
        (self.scsi_unit(id, UnitKind::Disk, node, configure), file)
    }

    /// A SCSI disk or drive over any node.
    pub fn scsi_unit(
        &self,
        id: &str,
        kind: UnitKind,
        node: Arc<dyn Node>,
        configure: impl FnOnce(&mut UnitConfig),
    ) -> Arc<LogicalUnit> {
        let mut config = UnitConfig::new(id, kind);
        configure(&mut config);
        let root = Root::new(&format!("{id}-node"), node, Policy::default());
        LogicalUnit::new(config, Some(root))
    }

    /// An IDE controller without drives, a channel on each of the first two iothreads, and the bridge
    /// beside it.
    ///
    /// # Panics
    /// When the machine is full.
    #[must_use]
    pub fn add_ide(&self, id: &str, model: Model) -> IdeController {
        let (bridge, slot, _) = self.slot();
        self.pci.add(bridge, isa_bridge(model)).expect("a free slot");
        let last = self.iothreads.len() - 1;
        let iothreads = [0, last.min(1)].map(|i| self.iothreads[i].handle());
        let config = IdeConfig { id: id.to_owned(), model, iothreads };
        let wires = [Wire::default(), Wire::default()];
        let slot = IdeSlot {
            device: slot.device,
            sink: slot.sink,
            wires: wires.clone().map(|wire| Box::new(wire) as Box<dyn LineIrq>),
        };
        let events = Arc::clone(&self.errors) as Arc<dyn BlockEvents>;
        let device =
            Ide::new(config, self.memory.dma().clone(), slot, &events).expect("a controller");
        let at = Address { function: 1, ..bridge };
        self.pci.add(at, device.function()).expect("a free function");
        IdeController { at, device, wires }
    }

    /// A virtio source of random numbers.
    ///
    /// # Panics
    /// When the machine is full.
    pub fn add_rng(&self, configure: impl FnOnce(&mut VirtioRngConfig)) -> (Address, VirtioRng) {
        let mut config = VirtioRngConfig {
            id: "rng0".to_owned(),
            iothread: self.iothreads[0].handle(),
            max_bytes: u64::MAX,
            period: std::time::Duration::from_secs(1),
            event_idx: true,
            indirect_desc: true,
            queue_reset: true,
            vectors: None,
        };
        configure(&mut config);
        let (at, slot, _) = self.slot();
        let rng = VirtioRng::new(config, self.memory.dma().clone(), slot).expect("a source");
        self.pci.add(at, rng.function()).expect("a free slot");
        (at, rng)
    }

    /// Gives BARs addresses, as a machine that boots without firmware does.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn assign(&self) {
        let windows = BarWindows {
            low: 0xc000_0000..0xd000_0000,
            high: 1 << 40..1 << 41,
            ports: 0xc000..0xd000,
        };
        windows.assign(&self.pci).expect("room for all BARs");
    }

    /// Lets the iothreads run until nothing can happen any more.
    pub fn run(&self) {
        self.world.run_until_idle(&self.iothreads);
    }

    /// Lets each iothread take what is new, without completing anything below.
    pub fn turn(&self) {
        for _ in 0..4 {
            for cx in &self.iothreads {
                cx.turn();
                cx.kick();
            }
        }
    }

    /// A load from memory space.
    #[must_use]
    pub fn read(&self, address: u64, width: u8) -> u64 {
        self.bus.read(Space::Memory, address, width)
    }

    /// A store to memory space.
    pub fn write(&self, address: u64, width: u8, value: u64) {
        self.bus.write(Space::Memory, address, width, value);
    }

    /// A load from configuration space, through the window in memory.
    #[must_use]
    pub fn pci_read(&self, at: Address, offset: u64, width: u8) -> u64 {
        self.read(ecam(at) + offset, width)
    }

    /// A store to configuration space.
    pub fn pci_write(&self, at: Address, offset: u64, width: u8, value: u64) {
        self.write(ecam(at) + offset, width, value);
    }

    /// Runs something asynchronous of a device to its end: `start` gets what to call then.
    ///
    /// # Panics
    /// When it never ends.
    pub fn finish(&self, start: impl FnOnce(Box<dyn FnOnce() + Send>)) {
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        start(Box::new(move || flag.store(true, SeqCst)));
        self.run();
        assert!(over.load(SeqCst), "it never ended");
    }

    /// Resets a function of a machine whose iothreads do not run in virtual time.
    ///
    /// # Panics
    /// When there is none.
    pub fn reset_turning(&self, at: Address) {
        let function = self.pci.get(at).expect("a function");
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        self.bus.drain();
        Device::reset(&*function, Box::new(move || flag.store(true, SeqCst)));
        for cx in &self.iothreads {
            cx.run_until(|| over.load(SeqCst));
        }
    }

    /// Resets a function as a reset of the machine does.
    ///
    /// # Panics
    /// When there is none, or the reset never ends.
    pub fn reset(&self, at: Address) {
        let function = self.pci.get(at).expect("a function");
        // What virtual CPUs have written comes before it.
        self.bus.drain();
        self.finish(|done| Device::reset(&*function, done));
    }
}

fn ecam(at: Address) -> u64 {
    ECAM + (u64::from(at.slot) << 15) + (u64::from(at.function) << 12)
}
