//! The controller as a device.

use std::sync::Arc;

use super::{
    config::{NvmeConfig, NvmeError, NvmeNamespaceConfig},
    namespace::Namespace,
    pci::NvmePci,
    spec::CLASS,
    subsystem::{AttachError, Subsystem},
};
use crate::{
    Dma,
    device::{Countdown, Done},
    pci::{
        Bar, BarKind, Capability, Endpoint, EndpointError, Identity, Interrupts, MsixPlace, Parts,
        Slot,
    },
    policy::BlockEvents,
};

/// The one BAR, and where the MSI-X structures lie in it.
pub(super) const BAR: u8 = 0;
const BAR_LEN: u64 = 0x4000;
const TABLE: u32 = 0x2000;
const PENDING: u32 = 0x3000;

/// An NVM Express controller on PCI.
#[derive(Clone)]
pub struct Nvme {
    pci: Arc<NvmePci>,
    function: Arc<Endpoint>,
}

impl Nvme {
    /// Builds a controller and its namespaces. `events` hears of failed requests.
    ///
    /// # Errors
    /// When the configuration makes no sense, or the machine has no interrupt vectors or
    /// descriptors left.
    pub fn new(
        config: NvmeConfig,
        dma: Dma,
        slot: Slot,
        events: Arc<dyn BlockEvents>,
    ) -> Result<Self, NvmeError> {
        config.check()?;
        let id = config.id.clone();
        let failed = |what| {
            let id = id.clone();
            move |source| EndpointError::Resources { id, what, source }
        };
        let vectors = config.vector_count();
        let irqs = slot.vectors.vectors(vectors).map_err(failed("interrupt vectors"))?;
        let (pin, line) = slot.wire.map_or((0, None), |(pin, line)| (pin, Some(line)));
        let interrupts = Interrupts::new(irqs, line);
        let subsystem =
            config.subsystem.clone().unwrap_or_else(|| Subsystem::single(&config.serial));
        if let Some(pool) = &config.pool {
            subsystem.set_pool(pool);
        }
        let (vendor, device) = config.pci_ids;
        let namespaces = config.namespaces.clone();
        let pci = NvmePci::new(config, subsystem, dma, Arc::clone(&interrupts), events)
            .map_err(failed("an eventfd for each queue"))?;
        let mut capabilities = vec![Capability::express()];
        if vectors > 0 {
            capabilities.push(Capability::msi(vectors));
        }
        let parts = Parts {
            id,
            identity: Identity {
                vendor,
                device,
                revision: 0,
                class: CLASS,
                subsystem_vendor: vendor,
                subsystem: device,
            },
            bars: vec![Bar {
                index: BAR,
                kind: BarKind::Memory64 { prefetchable: false },
                size: BAR_LEN,
            }],
            capabilities,
            msix: (vectors > 0).then_some(MsixPlace { bar: BAR, table: TABLE, pending: PENDING }),
            pin,
            interrupts,
            controller: Arc::clone(&pci) as _,
        };
        let function = Endpoint::new(parts, slot.device, slot.sink, slot.multifunction)?;
        pci.set_function(&function);
        let controller = Self { pci, function };
        controller.subsystem().settle_controller(controller.cntlid());
        for namespace in &namespaces {
            controller.add_namespace(namespace)?;
        }
        Ok(controller)
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }

    /// The subsystem that it belongs to.
    #[must_use]
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        self.pci.ctl().subsystem()
    }

    /// Its controller ID in the subsystem.
    #[must_use]
    pub fn cntlid(&self) -> u16 {
        self.pci.ctl().cntlid()
    }

    /// Adds a namespace to the subsystem and attaches it, unless its host has detached it before; a
    /// running host is told.
    ///
    /// # Errors
    /// When its ID is taken or it makes no sense.
    pub fn add_namespace(&self, config: &NvmeNamespaceConfig) -> Result<Arc<Namespace>, NvmeError> {
        let namespace = self.subsystem().add(config)?;
        let ours = self.cntlid();
        self.subsystem().settle(namespace.nsid(), |cntlid| cntlid == ours);
        Ok(namespace)
    }

    /// Takes a namespace away from all controllers of the subsystem and out of it; running hosts are
    /// told. `done` is called once nothing of it is in flight: from then on its image can be closed.
    pub fn remove_namespace(&self, nsid: u32, done: Done) {
        let controllers = self.subsystem().controllers();
        let done = Countdown::new(done);
        if let Some(namespace) = self.subsystem().remove(nsid) {
            namespace.when_open(done.clone());
        }
        controllers.iter().for_each(|ctl| ctl.quiesce(Some(nsid), &done));
    }

    /// Attaches a namespace of the subsystem; a running host is told.
    ///
    /// # Errors
    /// When there is no such namespace, or it cannot be attached.
    pub fn attach(&self, nsid: u32) -> Result<(), AttachError> {
        self.subsystem().attach(nsid, self.cntlid())
    }

    /// The size of a namespace's image has changed: the hosts that have it are told. Call it after
    /// [`spindle_block::Root::changed`].
    pub fn resized(&self, nsid: u32) {
        self.subsystem().changed(nsid, None);
    }
}
