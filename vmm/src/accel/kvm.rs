//! KVM as an accelerator.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use kvm_ioctls::VmFd;
use spindle_boot::Entry;
use spindle_devices::{LineIrq, MsiSource};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Accelerator, Attached, Clock, Clocks, CpuStart, Host, InterruptLines, Watched};
use crate::{
    bus::Bus,
    kvm::{
        self, KvmError, Vm, coalesced::CoalescedRing, irq::Routes, line::Line, msi::KvmMsi,
        state::CpuReset,
    },
    machine::BuildError,
    sandbox::Kind,
    vcpu::{CpuParts, Cpus, ExitTotals},
};

/// The host's KVM, which can have so many CPUs.
pub(super) struct KvmHost {
    host: kvm::Host,
    cpus: u32,
}

impl KvmHost {
    pub(super) fn open(cpus: u32) -> Result<Self, BuildError> {
        let host = kvm::Host::open()?;
        if cpus > host.cpus_max() {
            return Err(KvmError::TooManyCpus { wanted: cpus, max: host.cpus_max() }.into());
        }
        Ok(Self { host, cpus })
    }
}

impl Host for KvmHost {
    fn phys_addr_bits(&self) -> u8 {
        self.host.phys_addr_bits()
    }

    fn attach(self: Box<Self>, memory: &GuestMemoryMmap) -> Result<Attached, BuildError> {
        let vm = Vm::new(&self.host, memory)?;
        let bus = Bus::new(Box::new(vm.offload()));
        let routes = Routes::new(Arc::clone(vm.fd()))
            .map_err(|source| BuildError::Resources { what: "interrupt routes", source })?;
        let vectors = Arc::new(KvmMsi::new(Arc::clone(vm.fd()), routes));
        let lines = Arc::new(KvmLines { vm: Arc::clone(vm.fd()), lines: Mutex::default() });
        let accelerator = Box::new(Kvm {
            host: self.host,
            count: self.cpus,
            bus,
            vectors,
            lines,
            ring: None,
            cpus: None,
            clock: None,
            vm,
        });
        Ok(Attached { accelerator, session: None })
    }
}

/// A machine in KVM.
struct Kvm {
    host: kvm::Host,
    count: u32,
    bus: Arc<Bus>,
    vectors: Arc<KvmMsi>,
    lines: Arc<KvmLines>,
    ring: Option<Arc<CoalescedRing>>,
    cpus: Option<Cpus>,
    /// The guest's clock when it was paused.
    clock: Option<u64>,
    vm: Vm,
}

impl Accelerator for Kvm {
    fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    fn vectors(&self) -> Arc<dyn MsiSource> {
        Arc::clone(&self.vectors) as _
    }

    fn lines(&self) -> Arc<dyn InterruptLines> {
        Arc::clone(&self.lines) as _
    }

    fn clocks(&self) -> Clocks {
        Clocks { monotonic: monotonic(), wall: Box::new(wall) }
    }

    fn add_rom(&mut self, address: u64, content: &[u8]) -> Result<(), BuildError> {
        Ok(self.vm.add_rom(address, content)?)
    }

    fn watched(&self) -> Vec<Watched> {
        let watch = |line: &Arc<Line>| {
            let line = Arc::clone(line);
            Watched { fd: line.resample_fd(), ready: Box::new(move || line.resampled()) }
        };
        self.lines.lock().values().map(watch).collect()
    }

    fn make_cpus(&mut self, start: CpuStart<'_>) -> Result<(), BuildError> {
        let mut parts = Vec::new();
        for index in 0..self.count {
            let fd = self.vm.create_cpu(&self.host, index, self.count)?;
            if self.ring.is_none() {
                self.ring = CoalescedRing::map(&fd).ok().map(Arc::new);
            }
            let reset = CpuReset::save(&self.host, index, &fd)?;
            reset.start(&fd, start.entry)?;
            let run_size = self.vm.fd().run_size();
            let (bus, ring) = (self.bus.view(), self.ring.clone());
            parts.push(CpuParts { fd, reset, bus, ring, run_size });
        }
        let sandbox = start.sandbox.clone();
        let cpus = Cpus::spawn(parts, start.mailbox, move || sandbox.enter(Kind::Vcpu))
            .map_err(|source| BuildError::Resources { what: "virtual CPU threads", source })?;
        self.cpus = Some(cpus);
        Ok(())
    }

    fn resume(&mut self) {
        if let Some(clock) = self.clock.take()
            && let Err(e) = self.vm.set_clock(clock)
        {
            log::warn!("the guest's clock jumps over the pause: {e}");
        }
        if let Some(cpus) = &self.cpus {
            cpus.resume();
        }
    }

    fn pause(&mut self) {
        if let Some(cpus) = &self.cpus {
            cpus.pause();
        }
        self.clock = self.vm.clock().ok();
    }

    fn forget(&mut self) {
        // A CPU that parks looks at the bus again; no time passes that the guest's clock must not count.
        if let Some(cpus) = &self.cpus {
            cpus.pause();
            cpus.resume();
        }
    }

    fn deliver(&self) {
        if let Some(ring) = &self.ring {
            let mut view = self.bus.view();
            ring.drain(|w| view.write(w.space, w.address, &w.data[..usize::from(w.width)]));
        }
    }

    fn reset(&mut self) -> Result<(), BuildError> {
        for line in self.lines.lock().values() {
            if let Err(e) = line.reset() {
                log::error!("cannot reset interrupt line {}: {e}", line.gsi());
            }
        }
        Ok(self.vm.reset_board()?)
    }

    fn restart(&mut self, entry: &Entry) -> Result<(), BuildError> {
        self.clock = None;
        self.cpus.as_ref().map_or(Ok(()), |cpus| Ok(cpus.restart(entry)?))
    }

    fn stop(&mut self) {
        if let Some(cpus) = &mut self.cpus {
            cpus.stop();
        }
    }

    fn exits(&self) -> ExitTotals {
        self.cpus.as_ref().map(Cpus::exits).unwrap_or_default()
    }
}

/// The inputs of the in-kernel interrupt controllers.
struct KvmLines {
    vm: Arc<VmFd>,
    lines: Mutex<BTreeMap<u32, Arc<Line>>>,
}

impl KvmLines {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterruptLines for KvmLines {
    fn source(&self, gsi: u32) -> io::Result<Box<dyn LineIrq>> {
        let mut lines = self.lock();
        let line = match lines.get(&gsi) {
            Some(line) => line,
            None => lines.entry(gsi).or_insert(Line::new(Arc::clone(&self.vm), gsi)?),
        };
        Ok(line.source())
    }

    fn isa(&self, irq: u8) -> io::Result<Box<dyn LineIrq>> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        self.vm.register_irqfd(&event, irq.into())?;
        Ok(Box::new(Edge { event, up: AtomicBool::new(false) }))
    }
}

/// An edge-triggered input: only its rising edges are told to KVM.
struct Edge {
    event: EventFd,
    up: AtomicBool,
}

impl LineIrq for Edge {
    fn set(&self, level: bool) {
        if !self.up.swap(level, Ordering::AcqRel) && level {
            // Only an overflow could fail, and then the interrupt is pending anyway.
            let _ = self.event.write(1);
        }
    }
}

fn monotonic() -> Clock {
    let start = Instant::now();
    Box::new(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
