//! The host bridge: a function without windows, at 00.0.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Bar, Identity, PciFunction, config::Config};
use crate::{Access, Device, device::Done, register::Register};

/// The host bridge of the machine: what Intel's 82G33 has at 00.0. Any other function that only
/// has to be there (a LPC bridge, an ISA bridge) is made of it too.
pub struct HostBridge {
    id: String,
    config: Mutex<Config>,
}

/// Host bridge (PCI Code and ID Assignment Specification 1.11, 1.7).
const CLASS_HOST_BRIDGE: u32 = 0x06_00_00;
/// Intel 82G33 host bridge.
const G33_HOST_BRIDGE: (u16, u16) = (0x8086, 0x29c0);
/// The subsystem by which firmware knows that it runs on QEMU's machine, or one like it, with a firmware
/// configuration device (Red Hat, QEMU virtual machine).
const EMULATED: (u16, u16) = (0x1af4, 0x1100);

impl HostBridge {
    /// The machine's host bridge.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let (vendor, device) = G33_HOST_BRIDGE;
        let (subsystem_vendor, subsystem) = EMULATED;
        let class = CLASS_HOST_BRIDGE;
        let identity = Identity { vendor, device, revision: 0, class, subsystem_vendor, subsystem };
        Self::bare("host-bridge", identity, false)
    }

    /// A function that has an identity and nothing else.
    #[must_use]
    pub fn bare(id: &str, identity: Identity, multifunction: bool) -> Arc<Self> {
        let config = Config::new(identity, multifunction, 0, &[], &[]);
        let config = config.expect("no capabilities always fit");
        Arc::new(Self { id: id.to_owned(), config: Mutex::new(config) })
    }

    /// The same with registers of its own, which do nothing but hold what was written.
    #[must_use]
    pub fn with_registers(
        id: &str,
        identity: Identity,
        multifunction: bool,
        registers: &[Register<&'static str>],
    ) -> Arc<Self> {
        let bridge = Self::bare(id, identity, multifunction);
        bridge.lock().add_own(registers);
        bridge
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, access: Access) -> u32 {
        self.lock().read(access, false)
    }

    fn config_write(&self, access: Access, value: u32) {
        self.lock().write(access, value);
    }

    fn bars(&self) -> Vec<Bar> {
        Vec::new()
    }
}

impl Device for HostBridge {
    fn id(&self) -> &str {
        &self.id
    }

    fn pause(&self, done: Done) {
        done();
    }

    fn resume(&self) {}

    fn reset(&self, done: Done) {
        self.lock().reset();
        done();
    }
}
