//! A machine without CPUs, driven over a socket by QEMU's qtest line protocol.
//!
//! A test writes a line, the access is made on the main thread, and a line comes back. Time stands
//! still but for `clock_step` and `clock_set`; iothreads run freely. Message-signalled interrupts are
//! written to guest memory where their address names RAM, as they would be on a bus with nobody to
//! take them; interrupt lines can be watched (`irq_intercept_in ioapic`). Doorbells that devices
//! declare are rung without a call of the device, as KVM does it.
//!
//! Nothing that only a CPU could see is there: no interrupt controllers and no PIT to program.

mod base64;
mod bells;
mod clock;
mod command;
mod engine;
mod lines;
mod log;
mod outbox;
mod session;
#[cfg(test)]
mod tests;
mod vectors;

use std::{path::Path, sync::Arc};

use spindle_boot::Entry;
use spindle_devices::{Dma, MsiSource};
use vm_memory::GuestMemoryMmap;

use crate::{
    accel::{Accelerator, Attached, Clocks, CpuStart, Host, InterruptLines, Watched},
    bus::Bus,
    machine::BuildError,
    monitor::socket::{Listener, connect},
    spec::UnixSpec,
    vcpu::ExitTotals,
};
use bells::Bells;
use clock::VirtualClock;
use engine::Engine;
use lines::Lines;
use log::Log;
use outbox::Outbox;
use session::Peer;
pub use session::Session;
use vectors::Vectors;

/// Physical address bits of a CPU that is not there: as QEMU's by default.
const PHYS_ADDR_BITS: u8 = 40;

/// A socket to be driven from.
pub struct QtestHost {
    peer: Peer,
    log: Option<Log>,
}

impl QtestHost {
    /// Connects to the socket, or listens on it.
    ///
    /// # Errors
    /// When that cannot be done, or the log's file not be made.
    pub fn open(socket: &UnixSpec, log: Option<&Path>) -> Result<Self, BuildError> {
        let log = log.map(Log::create).transpose()?.flatten();
        let peer = if socket.server {
            Peer::Awaited(Listener::new(&socket.path)?)
        } else {
            Peer::Here(connect(&socket.path)?)
        };
        Ok(Self { peer, log })
    }
}

impl Host for QtestHost {
    fn phys_addr_bits(&self) -> u8 {
        PHYS_ADDR_BITS
    }

    fn attach(self: Box<Self>, memory: &GuestMemoryMmap) -> Result<Attached, BuildError> {
        let outbox = Outbox::new(self.log)
            .map_err(|source| BuildError::Resources { what: "an eventfd", source })?;
        let bells = Bells::new();
        let bus = Bus::new(Box::new(Arc::clone(&bells)));
        let lines = Lines::new(Arc::clone(&outbox));
        let clock = VirtualClock::new();
        let engine = Engine {
            memory: memory.clone(),
            bus: bus.view(),
            bells,
            clock: Arc::clone(&clock),
            lines: Arc::clone(&lines),
        };
        let vectors = Arc::new(Vectors(Dma::new(memory.clone(), None)));
        let session = Some(Session::new(self.peer, engine, outbox));
        Ok(Attached { accelerator: Box::new(Qtest { bus, vectors, lines, clock }), session })
    }
}

/// The accelerator: nothing runs by itself, so there is little to pause or reset.
struct Qtest {
    bus: Arc<Bus>,
    vectors: Arc<Vectors>,
    lines: Arc<Lines>,
    clock: Arc<VirtualClock>,
}

impl Accelerator for Qtest {
    fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    fn vectors(&self) -> Arc<dyn MsiSource> {
        Arc::clone(&self.vectors) as _
    }

    fn lines(&self) -> Arc<dyn InterruptLines> {
        Arc::new(Arc::clone(&self.lines))
    }

    fn clocks(&self) -> Clocks {
        self.clock.clocks()
    }

    fn add_rom(&mut self, _address: u64, _content: &[u8]) -> Result<(), BuildError> {
        // Nothing runs from it, and a description with both is refused.
        Ok(())
    }

    fn watched(&self) -> Vec<Watched> {
        Vec::new()
    }

    fn make_cpus(&mut self, _start: CpuStart<'_>) -> Result<(), BuildError> {
        Ok(())
    }

    fn resume(&mut self) {}

    fn pause(&mut self) {}

    fn forget(&mut self) {}

    fn deliver(&self) {}

    fn reset(&mut self) -> Result<(), BuildError> {
        Ok(())
    }

    fn restart(&mut self, _entry: &Entry) -> Result<(), BuildError> {
        Ok(())
    }

    fn stop(&mut self) {}

    fn exits(&self) -> ExitTotals {
        ExitTotals::default()
    }
}
