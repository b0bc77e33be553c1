//! How a function interrupts: MSI-X where the guest has enabled it, else the INTx wire.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use super::{config::command, msix, msix::Msix};
use crate::{LineIrq, MsiIrq};

struct Wire {
    line: Option<Box<dyn LineIrq>>,
    /// What the controller asserts.
    asserted: bool,
    /// Command register: INTx Disable.
    disabled: bool,
    /// MSI-X is enabled: a function then never uses its wire (PCI 6.8.3.3).
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

/// The interrupts of one function, shared by its configuration space and its controller.
pub struct Interrupts {
    msix: Msix,
    msix_enabled: AtomicBool,
    bus_master: AtomicBool,
    wire: Mutex<Wire>,
}

impl Interrupts {
    /// Interrupts over these vectors and this wire.
    #[must_use]
    pub fn new(vectors: Vec<Arc<dyn MsiIrq>>, line: Option<Box<dyn LineIrq>>) -> Arc<Self> {
        Arc::new(Self {
            msix: Msix::new(vectors),
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
    pub(super) fn follow(&self, command: u16, msix_control: u16) {
        let master = command & command::BUS_MASTER != 0;
        let enabled = msix_control & msix::ENABLE != 0;
        self.bus_master.store(master, SeqCst);
        self.msix_enabled.store(enabled, SeqCst);
        {
            let mut wire = self.lock();
            wire.disabled = command & command::INTX_DISABLE != 0;
            wire.replaced = enabled;
            wire.apply();
        }
        let deliver = enabled && msix_control & msix::FUNCTION_MASK == 0 && master;
        self.msix.set_delivery(deliver);
    }

    /// As after power-on.
    pub(super) fn reset(&self) {
        self.follow(0, 0);
        self.msix.reset();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
