//! Interrupt lines: level-triggered inputs of the I/O APIC that several sources share.
//!
//! KVM asserts the input when the irqfd is written, and lowers it when the guest acknowledges the
//! interrupt; it then signals the resample eventfd, and the line is raised again if a source still
//! is.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

use kvm_ioctls::VmFd;
use spindle_devices::LineIrq;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// One input of the I/O APIC.
#[derive(Debug)]
pub struct Line {
    vm: Arc<VmFd>,
    gsi: u32,
    raise: EventFd,
    resample: EventFd,
    /// How many sources are up.
    up: Mutex<u32>,
}

impl Line {
    /// The input `gsi`, with nothing connected to it.
    ///
    /// # Errors
    /// When KVM refuses the irqfd.
    pub fn new(vm: Arc<VmFd>, gsi: u32) -> io::Result<Arc<Self>> {
        let (raise, resample) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
        vm.register_irqfd_with_resample(&raise, &resample, gsi)?;
        Ok(Arc::new(Self { vm, gsi, raise, resample, up: Mutex::new(0) }))
    }

    /// Its number.
    #[must_use]
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Connects a source, which is down.
    #[must_use]
    pub fn source(self: &Arc<Self>) -> Box<dyn LineIrq> {
        Box::new(Source { line: Arc::clone(self), level: Mutex::new(false) })
    }

    /// Becomes readable when the guest has acknowledged the interrupt: call [`Line::resampled`].
    #[must_use]
    pub fn resample_fd(&self) -> RawFd {
        self.resample.as_raw_fd()
    }

    /// Raises the line again if a source still is up.
    pub fn resampled(&self) {
        // Empty it first: a signal that comes after is for a later acknowledgement.
        let _ = self.resample.read();
        if *self.lock() > 0 {
            let _ = self.raise.write(1);
        }
    }

    /// Lowers the input whatever the guest has acknowledged, as a reset does. All sources must be
    /// down.
    ///
    /// # Errors
    /// When KVM refuses the irqfd.
    pub fn reset(&self) -> io::Result<()> {
        // The last resampling irqfd of an input takes the level with it when it goes.
        self.vm.unregister_irqfd(&self.raise, self.gsi)?;
        let _ = (self.raise.read(), self.resample.read());
        self.vm.register_irqfd_with_resample(&self.raise, &self.resample, self.gsi)?;
        if *self.lock() > 0 {
            let _ = self.raise.write(1);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u32> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Source {
    line: Arc<Line>,
    level: Mutex<bool>,
}

impl LineIrq for Source {
    fn set(&self, level: bool) {
        let mut mine = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        if *mine == level {
            return;
        }
        *mine = level;
        let mut up = self.line.lock();
        if level {
            *up += 1;
            let _ = self.line.raise.write(1);
        } else {
            *up -= 1;
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.set(false);
    }
}
