//! What drives a machine: virtual CPUs in KVM, or a test at the other end of a socket.
//!
//! The machine is the same on both: it takes its bus, its interrupts and its clocks from an
//! [`Accelerator`], and tells it when to run, to pause and to start afresh.

mod kvm;

use std::{io, os::fd::RawFd, sync::Arc};

use spindle_boot::Entry;
use spindle_devices::{LineIrq, MsiSource};
use vm_memory::GuestMemoryMmap;

use crate::{
    bus::Bus,
    machine::{BuildError, Mailbox},
    qtest,
    sandbox::Sandbox,
    spec::{AccelSpec, MachineSpec},
    vcpu::ExitTotals,
};

/// The inputs of the interrupt controllers.
pub trait InterruptLines: Send + Sync {
    /// Connects a source to the level-triggered input `gsi`, which others may share.
    ///
    /// # Errors
    /// When the host has no more descriptors or routes.
    fn source(&self, gsi: u32) -> io::Result<Box<dyn LineIrq>>;

    /// Connects the one source of the edge-triggered ISA interrupt `irq`.
    ///
    /// # Errors
    /// As [`InterruptLines::source`].
    fn isa(&self, irq: u8) -> io::Result<Box<dyn LineIrq>>;
}

/// A clock that devices read.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// The clocks that devices read.
pub struct Clocks {
    /// Nanoseconds that never go back.
    pub monotonic: Clock,
    /// Seconds since 1970, UTC.
    pub wall: Clock,
}

/// What virtual CPUs are started with.
pub struct CpuStart<'a> {
    /// Where the boot CPU starts.
    pub entry: &'a Entry,
    /// Where CPUs tell of what happens to them.
    pub mailbox: &'a Arc<Mailbox>,
    /// What confines their threads.
    pub sandbox: &'a Sandbox,
}

/// Something the main loop looks after for the accelerator.
pub struct Watched {
    /// Becomes readable.
    pub fd: RawFd,
    /// What is to be done then.
    pub ready: Box<dyn Fn()>,
}

/// See the module.
pub trait Accelerator {
    /// The bus that accesses go through, with what the accelerator takes off its hands.
    fn bus(&self) -> &Arc<Bus>;

    /// Where message-signalled interrupts come from.
    fn vectors(&self) -> Arc<dyn MsiSource>;

    /// Where interrupt lines lead.
    fn lines(&self) -> Arc<dyn InterruptLines>;

    /// The clocks of the machine.
    fn clocks(&self) -> Clocks;

    /// Puts a ROM at `address`, a multiple of 4096 as its length is; there is one at most.
    ///
    /// # Errors
    /// When the host refuses it.
    fn add_rom(&mut self, address: u64, content: &[u8]) -> Result<(), BuildError>;

    /// What the main loop has to look after.
    fn watched(&self) -> Vec<Watched>;

    /// Makes the virtual CPUs, if there are any; they do not run yet.
    ///
    /// # Errors
    /// When they cannot be made.
    fn make_cpus(&mut self, start: CpuStart<'_>) -> Result<(), BuildError>;

    /// Lets the CPUs run.
    fn resume(&mut self);

    /// Stops the CPUs, with their accesses completed; returns when they have.
    fn pause(&mut self);

    /// Lets the CPUs (running ones, which go on) forget what of the bus is no more.
    fn forget(&mut self);

    /// Delivers accesses that were collected.
    fn deliver(&self);

    /// Interrupt controllers and timers of the accelerator as at power-on; CPUs are paused.
    ///
    /// # Errors
    /// When the host refuses it.
    fn reset(&mut self) -> Result<(), BuildError>;

    /// Puts the (paused) CPUs back to their first instruction.
    ///
    /// # Errors
    /// When the host refuses a part of a CPU's state.
    fn restart(&mut self, entry: &Entry) -> Result<(), BuildError>;

    /// Ends the CPUs' threads.
    fn stop(&mut self);

    /// How often CPUs left the guest, and why.
    fn exits(&self) -> ExitTotals;
}

/// An accelerator before the machine has memory.
pub trait Host {
    /// How many bits a guest-physical address has.
    fn phys_addr_bits(&self) -> u8;

    /// Makes a machine's accelerator, with its memory.
    ///
    /// # Errors
    /// When the host refuses a part of it.
    fn attach(self: Box<Self>, memory: &GuestMemoryMmap) -> Result<Attached, BuildError>;
}

/// An accelerator, and who drives it from the main loop.
pub struct Attached {
    /// The accelerator.
    pub accelerator: Box<dyn Accelerator>,
    /// The peer that makes the accesses, where no CPU does.
    pub session: Option<qtest::Session>,
}

/// The accelerator that `spec` asks for.
///
/// # Errors
/// When the host does not have it.
pub fn open(spec: &MachineSpec) -> Result<Box<dyn Host>, BuildError> {
    Ok(match (spec.accel, &spec.qtest) {
        (AccelSpec::Kvm, _) => Box::new(kvm::KvmHost::open(spec.cpus)?),
        (AccelSpec::Qtest, Some(qtest)) => {
            Box::new(qtest::QtestHost::open(&qtest.socket, spec.qtest_log.as_deref())?)
        }
        (AccelSpec::Qtest, None) => return Err(BuildError::NoQtest),
    })
}
