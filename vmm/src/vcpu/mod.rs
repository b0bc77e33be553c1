//! Virtual CPUs: a thread each, and one handle on all of them.
//!
//! To pause them, a flag is set that every thread looks at before it enters the guest, with
//! `immediate_exit` and a signal for those that are inside. A CPU that left the guest in the middle of
//! an access is entered once more, so that the instruction completes, before it counts as parked.

mod access;
mod control;
mod exits;
mod kick;
#[cfg(test)]
mod tests;
mod thread;

use std::{
    io,
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use kvm_ioctls::VcpuFd;
use spindle_block::iothread::thread::STACK;
use spindle_boot::Entry;

use crate::{
    bus::BusView,
    kvm::{KvmError, coalesced::CoalescedRing, state::CpuReset},
    machine::Mailbox,
};
use control::Control;
pub use exits::{ExitKind, ExitTotals};
use thread::Cpu;

/// What a virtual CPU's thread is made from.
pub struct CpuParts {
    /// KVM's end.
    pub fd: VcpuFd,
    /// Its state at the start and after a reset.
    pub reset: CpuReset,
    /// Where its accesses go.
    pub bus: BusView,
    /// Collected writes, which it delivers before anything else.
    pub ring: Option<Arc<CoalescedRing>>,
    /// Size of the structure shared with KVM, in bytes.
    pub run_size: usize,
}

/// All virtual CPUs of a machine.
pub struct Cpus {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl Cpus {
    /// Starts the threads. The CPUs are parked until [`Cpus::resume`]. `prepare` runs first on each
    /// thread (to confine it).
    ///
    /// # Errors
    /// When a thread or its signal handler cannot be made.
    pub fn spawn(
        parts: Vec<CpuParts>,
        mailbox: &Arc<Mailbox>,
        prepare: impl Fn() -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<Self> {
        kick::install_handler()?;
        let control = Control::new(parts.len());
        let mut cpus = Self { control, threads: Vec::with_capacity(parts.len()) };
        for (index, parts) in parts.into_iter().enumerate() {
            let (control, mailbox) = (Arc::clone(&cpus.control), Arc::clone(mailbox));
            let prepare = prepare.clone();
            let (ready, started) = std::sync::mpsc::sync_channel(1);
            let builder = Builder::new().name(format!("vcpu-{index}")).stack_size(STACK);
            let thread = builder.spawn(move || {
                let result = prepare();
                let ok = result.is_ok();
                // The receiver waits for exactly this message.
                let _ = ready.send(result);
                if ok {
                    Cpu::new(index, parts, control, mailbox).run();
                }
            })?;
            cpus.threads.push(thread);
            started.recv().map_err(|_| io::Error::other("a virtual CPU's thread ended"))??;
        }
        Ok(cpus)
    }

    /// Parks all CPUs and returns when they are, with their accesses completed.
    pub fn pause(&self) {
        self.control.pause();
    }

    /// Lets all CPUs go on.
    pub fn resume(&self) {
        self.control.resume();
    }

    /// Puts all (parked) CPUs back to their first instruction; they stay parked.
    ///
    /// # Errors
    /// When KVM refuses a part of a CPU's state.
    pub fn restart(&self, entry: &Entry) -> Result<(), KvmError> {
        self.control.restart(entry)
    }

    /// Ends all threads.
    pub fn stop(&mut self) {
        self.control.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a virtual CPU's thread panicked");
            }
        }
    }

    /// How often they left the guest, and why.
    #[must_use]
    pub fn exits(&self) -> ExitTotals {
        self.control.exits()
    }
}

impl Drop for Cpus {
    fn drop(&mut self) {
        self.stop();
    }
}
