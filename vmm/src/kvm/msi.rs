//! Message-signalled vectors: an irqfd each, and a route that the guest's message decides.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kvm_ioctls::VmFd;
use spindle_devices::{MsiIrq, MsiMessage, machine::MsiSource};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::irq::Routes;

/// Makes vectors.
#[derive(Clone, Debug)]
pub struct KvmMsi {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
}

impl KvmMsi {
    /// A source of vectors for `vm`.
    #[must_use]
    pub fn new(vm: Arc<VmFd>, routes: Arc<Routes>) -> Self {
        Self { vm, routes }
    }
}

impl MsiSource for KvmMsi {
    fn vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiIrq>>> {
        // First what can fail: a GSI is given back by its vector only.
        let events =
            (0..count).map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<Vec<_>>>()?;
        let gsis = self.routes.allocate(count)?;
        let vector = |(gsi, event)| {
            Arc::new(Vector {
                vm: Arc::clone(&self.vm),
                routes: Arc::clone(&self.routes),
                gsi,
                event,
                open: AtomicBool::new(false),
                registered: Mutex::new(false),
            }) as Arc<dyn MsiIrq>
        };
        Ok(gsis.into_iter().zip(events).map(vector).collect())
    }
}

struct Vector {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
    gsi: u32,
    event: EventFd,
    /// There is a message to deliver.
    open: AtomicBool,
    /// The irqfd is registered; it is at the first message, since most vectors never get one.
    registered: Mutex<bool>,
}

impl Vector {
    fn route(&self, message: MsiMessage) -> io::Result<()> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        self.routes.set(self.gsi, message)?;
        if !*registered {
            self.vm.register_irqfd(&self.event, self.gsi)?;
            *registered = true;
        }
        Ok(())
    }
}

impl MsiIrq for Vector {
    fn raise(&self) {
        if self.open.load(Ordering::Acquire) {
            // Only an overflow could fail, and then the interrupt is pending anyway.
            let _ = self.event.write(1);
        }
    }

    fn configure(&self, message: Option<MsiMessage>) {
        // A masked vector keeps its route: unmasking it again as it was costs nothing.
        let Some(message) = message else {
            self.open.store(false, Ordering::Release);
            return;
        };
        match self.route(message) {
            Ok(()) => self.open.store(true, Ordering::Release),
            Err(e) => log::error!("cannot route interrupt vector {}: {e}", self.gsi),
        }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let registered = self.registered.get_mut().unwrap_or_else(PoisonError::into_inner);
        if *registered && let Err(e) = self.vm.unregister_irqfd(&self.event, self.gsi) {
            log::debug!("irqfd of GSI {}: {e}", self.gsi);
        }
        self.routes.release(self.gsi);
    }
}
