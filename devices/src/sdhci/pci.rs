//! The register half on PCI.

use std::sync::{Arc, OnceLock, Weak};

use super::{
    device::BAR,
    host::{Host, Mail},
    regs::{LEN, is_inside},
};
use crate::{
    Access, Registers,
    device::{Countdown, Done},
    pci::{BarDoorbell, BarRegion, Controller, Endpoint},
    queue_link::QueueLink,
};

/// See the module.
pub(super) struct SdhciPci {
    host: Arc<Host>,
    place: Arc<QueueLink>,
    function: OnceLock<Weak<Endpoint>>,
}

/// Pieces of the window in which writes have no effect until another register is written: block size
/// to transfer mode, timeout control, ADMA address.
const COALESCED: [(u64, u64); 3] = [(0x04, 0x0e), (0x2e, 0x2f), (0x58, 0x60)];
/// With any DMA but SDMA the first register is only the argument of Auto CMD23.
const COALESCED_WITH_ARGUMENT: [(u64, u64); 3] = [(0x00, 0x0e), (0x2e, 0x2f), (0x58, 0x60)];

impl SdhciPci {
    pub fn new(host: Arc<Host>, place: Arc<QueueLink>) -> Arc<Self> {
        Arc::new(Self { host, place, function: OnceLock::new() })
    }

    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The function around the controller, to declare its windows anew.
    pub fn set_function(&self, function: &Arc<Endpoint>) {
        // It is set once, when the controller is built.
        drop(self.function.set(Arc::downgrade(function)));
    }

    fn redeclare(&self) {
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            function.redeclare();
        }
    }
}

impl Drop for SdhciPci {
    /// The queue half goes with the controller.
    fn drop(&mut self) {
        self.place.retire();
        self.place.detach(Countdown::new(Box::new(|| ())));
    }
}

impl Registers for SdhciPci {
    fn read(&self, access: Access) -> u64 {
        if !is_inside(access) {
            return 0;
        }
        let (value, effects) = self.host.regs().read(access);
        self.host.follow(effects);
        value
    }

    fn write(&self, access: Access, value: u64) {
        if !is_inside(access) {
            return;
        }
        let effects = self.host.regs().write(access, value);
        self.host.follow(effects);
        if effects.windows {
            self.redeclare();
        }
    }
}

impl Controller for SdhciPci {
    fn regions(self: Arc<Self>, bar: u8) -> Vec<BarRegion> {
        if bar != BAR {
            return Vec::new();
        }
        let sdma = self.host.regs().is_sdma();
        let pieces = if sdma { COALESCED } else { COALESCED_WITH_ARGUMENT };
        let target = self as Arc<dyn Registers>;
        let region = |(start, end), coalesce| BarRegion {
            offset: start,
            len: end - start,
            coalesce,
            target: Arc::clone(&target),
            target_offset: start,
        };
        let mut regions = Vec::new();
        let mut at = 0;
        for piece in pieces {
            if at < piece.0 {
                regions.push(region((at, piece.0), false));
            }
            regions.push(region(piece, true));
            at = piece.1;
        }
        regions.push(region((at, LEN), false));
        regions
    }

    fn doorbells(&self, _bar: u8) -> Vec<BarDoorbell> {
        Vec::new()
    }

    fn capability_read(&self, _capability: usize, _access: Access) -> u32 {
        0
    }

    fn capability_write(&self, _capability: usize, _access: Access, _value: u32) {}

    fn bus_master(&self, on: bool) {
        if on {
            self.host.ring();
        }
    }

    fn pause(&self, done: Done) {
        self.place.pause(Countdown::new(done));
    }

    fn resume(&self) {
        self.place.resume();
    }

    fn reset(&self, done: Done) {
        self.host.post(Mail::Reset(done));
    }
}
