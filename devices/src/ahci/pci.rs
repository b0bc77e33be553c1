//! The register half on PCI.

use std::sync::{
    Arc, Weak,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::{
    hba::{Action, Hba},
    spec::{ABAR, IDP_BAR, IDP_DATA, IDP_INDEX, IDP_LEN, PORT_BASE, PORT_LEN, PORT_SACT},
};
use crate::{
    Access, Registers,
    device::{Countdown, Done},
    pci::{BarDoorbell, BarRegion, Controller},
};

/// See the module.
pub(super) struct AhciPci {
    me: Weak<Self>,
    pub hba: Arc<Hba>,
    /// The index register of the index-data pair.
    index: Arc<IndexData>,
}

impl AhciPci {
    pub fn new(hba: Hba) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            let index = IndexData { target: Weak::clone(me), index: AtomicU32::new(0) };
            Self { me: Weak::clone(me), hba: Arc::new(hba), index: Arc::new(index) }
        })
    }

    /// Resets all ports; `all`: as after power-on.
    fn reset_ports(&self, all: bool, done: Done) {
        let me = Weak::clone(&self.me);
        let countdown = Countdown::new(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.hba.clear();
            }
            done();
        }));
        for port in &self.hba.ports {
            port.reset(all, countdown.clone());
        }
    }
}

impl Drop for AhciPci {
    /// Nobody is left who could ring: the queue halves leave their iothreads.
    fn drop(&mut self) {
        let nobody = Countdown::new(Box::new(|| ()));
        for port in &self.hba.ports {
            port.place.retire();
            port.place.detach(nobody.clone());
        }
    }
}

impl Registers for AhciPci {
    fn read(&self, access: Access) -> u64 {
        self.hba.read(access)
    }

    fn write(&self, access: Access, value: u64) {
        if self.hba.write(access, value) == Action::Reset && !self.hba.resetting.swap(true, SeqCst)
        {
            self.reset_ports(false, Box::new(|| ()));
        }
    }
}

/// The registers through an index and a data register (Serial ATA capability; AHCI 2.4).
struct IndexData {
    target: Weak<AhciPci>,
    index: AtomicU32,
}

impl Registers for IndexData {
    fn read(&self, access: Access) -> u64 {
        let index = self.index.load(Relaxed);
        match (access.offset, access.width) {
            (IDP_INDEX, 4) => index.into(),
            (IDP_DATA, 4) => self
                .target
                .upgrade()
                .map_or(0, |target| target.read(Access { offset: index.into(), width: 4 })),
            _ => 0,
        }
    }

    fn write(&self, access: Access, value: u64) {
        match (access.offset, access.width) {
            (IDP_INDEX, 4) => self.index.store(value as u32 & 0x1ffc, Relaxed),
            (IDP_DATA, 4) => {
                let offset = self.index.load(Relaxed).into();
                if let Some(target) = self.target.upgrade() {
                    target.write(Access { offset, width: 4 }, value);
                }
            }
            _ => {}
        }
    }
}

impl Controller for AhciPci {
    /// PxSACT does nothing until PxCI is written, which traps: its writes are coalesced.
    fn regions(self: Arc<Self>, bar: u8) -> Vec<BarRegion> {
        let region = |offset, len, coalesce| BarRegion {
            offset,
            len,
            coalesce,
            target: Arc::clone(&self) as Arc<dyn Registers>,
            target_offset: offset,
        };
        match bar {
            ABAR => {
                let mut regions = Vec::new();
                let mut from = 0;
                for port in &self.hba.ports {
                    let active = PORT_BASE + u64::from(port.number) * PORT_LEN + PORT_SACT;
                    regions.push(region(from, active - from, false));
                    regions.push(region(active, 4, true));
                    from = active + 4;
                }
                let end = PORT_BASE + self.hba.ports.len() as u64 * PORT_LEN;
                regions.push(region(from, end - from, false));
                regions
            }
            IDP_BAR => vec![BarRegion {
                offset: 0,
                len: IDP_LEN,
                coalesce: false,
                target: Arc::clone(&self.index) as Arc<dyn Registers>,
                target_offset: 0,
            }],
            _ => Vec::new(),
        }
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
            self.hba.ports.iter().for_each(|port| port.bell.ring());
        }
    }

    fn pause(&self, done: Done) {
        let countdown = Countdown::new(done);
        for port in &self.hba.ports {
            port.place.pause(countdown.clone());
        }
    }

    fn resume(&self) {
        self.hba.ports.iter().for_each(|port| port.place.resume());
    }

    fn reset(&self, done: Done) {
        self.index.index.store(0, Relaxed);
        self.hba.resetting.store(true, SeqCst);
        self.reset_ports(true, done);
    }
}
