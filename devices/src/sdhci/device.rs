//! The controller as a device.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use spindle_block::Root;

use super::{
    config::{SdhciConfig, SlotKind},
    host::{Host, Mail},
    pci::SdhciPci,
    queue::SdQueue,
    regs::LEN,
};
use crate::{
    Dma,
    device::Done,
    pci::{Bar, BarKind, Capability, Endpoint, EndpointError, Identity, Interrupts, Parts, Slot},
    policy::{BlockEvents, ErrorPolicy, Failures},
    queue_link::QueueLink,
    sd::{Card, CardConfig, CardLayoutError},
};

/// The BAR with the registers of the one slot.
pub(super) const BAR: u8 = 0;
/// SD host controller with DMA (SDHC appendix C: base class 08h, sub-class 05h, interface 01h).
const CLASS: u32 = 0x08_0501;

/// Why a card cannot be put into the slot.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// There is one.
    #[error("the slot of '{0}' has a card already")]
    Taken(String),
    /// No card has such a layout.
    #[error(transparent)]
    Layout(#[from] CardLayoutError),
}

/// An SD host controller on PCI, with one slot.
#[derive(Clone)]
pub struct Sdhci {
    pci: Arc<SdhciPci>,
    function: Arc<Endpoint>,
    slot: SlotKind,
    taken: Arc<AtomicBool>,
}

impl Sdhci {
    /// Builds a controller with an empty slot. `events` hears of failed requests.
    ///
    /// # Errors
    /// When the machine has no interrupt vectors or descriptors left.
    pub fn new(
        config: SdhciConfig,
        dma: Dma,
        slot: Slot,
        events: Arc<dyn BlockEvents>,
    ) -> Result<Self, EndpointError> {
        let id = config.id.clone();
        let failed = |what| {
            let id = id.clone();
            move |source| EndpointError::Resources { id, what, source }
        };
        let irqs = slot.vectors.vectors(1).map_err(failed("an interrupt vector"))?;
        let (pin, line) = slot.wire.map_or((0, None), |(pin, line)| (pin, Some(line)));
        let interrupts = Interrupts::new(irqs, line);
        let host =
            Host::new(&config, dma, Arc::clone(&interrupts)).map_err(failed("an eventfd"))?;
        let place = Arc::new(QueueLink::new(config.iothread.clone()));
        let failures = Failures {
            device: config.id.clone(),
            werror: config.werror,
            rerror: config.rerror,
            events,
        };
        place.attach(place.epoch(), Box::new(SdQueue::new(&host, &place, failures)));
        let pci = SdhciPci::new(host, place);
        let (vendor, device) = config.pci_ids;
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
            bars: vec![Bar { index: BAR, kind: BarKind::Memory32, size: LEN }],
            capabilities: vec![Capability::msi(1)],
            msix: None,
            pin,
            interrupts,
            controller: Arc::clone(&pci) as _,
        };
        let function = Endpoint::new(parts, slot.device, slot.sink, slot.multifunction)?;
        pci.set_function(&function);
        Ok(Self { pci, function, slot: config.slot, taken: Arc::default() })
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }

    /// What the slot is for.
    #[must_use]
    pub fn slot(&self) -> SlotKind {
        self.slot
    }

    /// Puts a card into the slot; a running guest is told. Its data are what `root` holds; `policies`
    /// are what failed writes and failed reads do, if the card has some of its own.
    ///
    /// # Errors
    /// When there is a card, or when no card can be made of the image.
    pub fn insert(
        &self,
        card: CardConfig,
        root: Arc<Root>,
        policies: Option<(ErrorPolicy, ErrorPolicy)>,
    ) -> Result<(), CardError> {
        debug_assert!(root.info().size >= card.size, "a card beyond its image");
        let read_only = card.read_only;
        let card = Box::new(Card::new(card)?);
        if self.taken.swap(true, SeqCst) {
            return Err(CardError::Taken(self.pci.host().id.clone()));
        }
        if read_only {
            self.set_write_protected(true);
        }
        self.pci.host().post(Mail::Insert(card, root, policies));
        Ok(())
    }

    /// Takes the card out; a running guest is told. `done` is called once nothing of it is in flight:
    /// from then on its image can be closed.
    pub fn remove(&self, done: Done) {
        let taken = Arc::clone(&self.taken);
        self.set_write_protected(false);
        self.pci.host().post(Mail::Remove(Box::new(move || {
            taken.store(false, SeqCst);
            done();
        })));
    }

    /// Moves the card's write protect switch.
    pub fn set_write_protected(&self, on: bool) {
        self.pci.host().regs().write_protected = on;
    }
}
