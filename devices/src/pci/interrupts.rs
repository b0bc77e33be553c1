//! How a function interrupts: MSI-X where the guest has enabled it, else MSI where it has, else the
//! INTx wire.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU16, Ordering::SeqCst},
};

use super::{config::command, msix, msix::Msix};
use crate::{LineIrq, MsiIrq, MsiMessage};

struct Wire {
    line: Option<Box<dyn LineIrq>>,
    /// What the controller asserts.
    asserted: bool,
    /// Command register: INTx Disable.
    disabled: bool,
    /// MSI or MSI-X is enabled: a function then never uses its wire (PCI 6.8.1.3, 6.8.3.3).
    replaced: bool,
}

impl Wire {
    /// One place applies the level, so that it is always asserted & enabled.
    fn apply(&self) {
        if let Some(line) = &self.line {
            line.set(self.asserted && !self.disabled && !self.replaced);
        }
    }
}

/// What a guest has set MSI to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRegisters {
    /// Message address.
    pub address: u64,
    /// Message data; its low bits are the vector.
    pub data: u32,
    /// Vectors allocated: a power of two.
    pub vectors: u16,
}

/// The interrupts of one function, shared by its configuration space and its controller.
pub struct Interrupts {
    msix: Msix,
    /// The same vectors, for MSI.
    vectors: Vec<Arc<dyn MsiIrq>>,
    /// What MSI was applied as last.
    msi: Mutex<Option<MsiRegisters>>,
    /// Vectors of MSI; 0: it is not enabled.
    msi_vectors: AtomicU16,
    msix_enabled: AtomicBool,
    bus_master: AtomicBool,
    wire: Mutex<Wire>,
}

impl Interrupts {
    /// Interrupts over these vectors and this wire.
    #[must_use]
    pub fn new(vectors: Vec<Arc<dyn MsiIrq>>, line: Option<Box<dyn LineIrq>>) -> Arc<Self> {
        Arc::new(Self {
            msix: Msix::new(vectors.clone()),
            vectors,
            msi: Mutex::new(None),
            msi_vectors: AtomicU16::new(0),
            msix_enabled: AtomicBool::new(false),
            bus_master: AtomicBool::new(false),
            wire: Mutex::new(Wire { line, asserted: false, disabled: false, replaced: false }),
        })
    }

    /// The vectors.
    #[must_use]
    pub fn msix(&self) -> &Msix {
        &self.msix
    }

    /// Whether the guest uses MSI-X: then vectors are to be raised, else the wire.
    #[must_use]
    pub fn uses_msix(&self) -> bool {
        self.msix_enabled.load(SeqCst)
    }

    /// How many vectors the guest uses by MSI; 0: it does not.
    #[must_use]
    pub fn msi_vectors(&self) -> u16 {
        self.msi_vectors.load(SeqCst)
    }

    /// Sends the message of an MSI vector; one that was not allocated is the last that was.
    pub fn raise_msi(&self, vector: u16) {
        let Some(last) = self.msi_vectors().checked_sub(1) else { return };
        if let Some(irq) = self.vectors.get(usize::from(vector.min(last))) {
            irq.raise();
        }
    }

    /// Whether the function may reach guest memory.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.bus_master.load(SeqCst)
    }

    /// Whether there is a wire.
    #[must_use]
    pub fn has_wire(&self) -> bool {
        self.lock().line.is_some()
    }

    /// What the controller wants of the wire; the command register decides what comes of it.
    pub fn set_wire(&self, asserted: bool) {
        let mut wire = self.lock();
        wire.asserted = asserted;
        wire.apply();
    }

    /// As [`Interrupts::set_wire`], with the level looked up under the wire's lock: for levels that
    /// both halves of a controller change.
    pub fn update_wire(&self, asserted: impl FnOnce() -> bool) {
        let mut wire = self.lock();
        wire.asserted = asserted();
        wire.apply();
    }

    /// Whether the controller asserts its wire, whatever becomes of it: the Interrupt Status bit.
    #[must_use]
    pub fn is_asserted(&self) -> bool {
        self.lock().asserted
    }

    /// Follows the command register and the MSI-X message control.
    pub(super) fn follow(&self, command: u16, msix_control: u16, msi: Option<MsiRegisters>) {
        let master = command & command::BUS_MASTER != 0;
        let enabled = msix_control & msix::ENABLE != 0;
        let replaced = enabled || msi.is_some();
        let msi = msi.filter(|_| !enabled && master);
        self.bus_master.store(master, SeqCst);
        self.msix_enabled.store(enabled, SeqCst);
        {
            let mut wire = self.lock();
            wire.disabled = command & command::INTX_DISABLE != 0;
            wire.replaced = replaced;
            wire.apply();
        }
        // The vectors are one kind's or the other's: taken back first, given out last.
        if msi.is_none() {
            self.apply_msi(None);
        }
        let deliver = enabled && msix_control & msix::FUNCTION_MASK == 0 && master;
        self.msix.set_delivery(deliver);
        if msi.is_some() {
            self.apply_msi(msi);
        }
    }

    fn apply_msi(&self, wanted: Option<MsiRegisters>) {
        let mut now = self.msi.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == wanted {
            return;
        }
        self.msi_vectors.store(0, SeqCst);
        let count = |registers: Option<MsiRegisters>| registers.map_or(0, |r| r.vectors);
        for (vector, irq) in (0..count(*now).max(count(wanted))).zip(&self.vectors) {
            irq.configure(wanted.filter(|registers| vector < registers.vectors).map(|registers| {
                let low = u32::from(registers.vectors - 1);
                let data = registers.data & !low | u32::from(vector);
                MsiMessage { address: registers.address, data }
            }));
        }
        self.msi_vectors.store(count(wanted), SeqCst);
        *now = wanted;
    }

    /// As after power-on.
    pub(super) fn reset(&self) {
        self.follow(0, 0, None);
        self.msix.reset();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
