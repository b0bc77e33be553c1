//! The controller as all its parts see it: ports, global registers, the interrupt.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::{
    ccc::Coalescing,
    port::{Interrupt, Port},
    regs::{self, GLOBAL, Global, PORT},
    spec::{PORT_BASE, PORT_CI, PORT_LEN, PORT_SACT, PORTS_MAX, ccc, ghc},
};
use crate::{
    Access, Dma,
    pci::Interrupts,
    policy::BlockEvents,
    register::{Part, parts},
};

/// See the module.
pub(super) struct Hba {
    pub id: String,
    pub dma: Dma,
    pub ports: Vec<Arc<Port>>,
    pub interrupts: Arc<Interrupts>,
    pub events: Arc<dyn BlockEvents>,
    pub coalescing: Coalescing,
    staggered: bool,
    multiplier: bool,
    /// GHC.IE
    enabled: AtomicBool,
    /// GHC.HR: a reset is under way.
    pub resetting: AtomicBool,
    /// IS
    is: AtomicU32,
}

/// What a write asks of the controller as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// GHC.HR
    Reset,
}

impl Hba {
    pub fn new(
        id: &str,
        dma: Dma,
        ports: Vec<Arc<Port>>,
        interrupts: Arc<Interrupts>,
        events: Arc<dyn BlockEvents>,
        coalescing: Coalescing,
        (staggered, multiplier): (bool, bool),
    ) -> Self {
        Self {
            id: id.to_owned(),
            dma,
            ports,
            interrupts,
            events,
            coalescing,
            staggered,
            multiplier,
            enabled: AtomicBool::new(false),
            resetting: AtomicBool::new(false),
            is: AtomicU32::new(0),
        }
    }

    /// Whether it coalesces: a controller with all ports has no bit of IS left.
    fn coalesces(&self) -> bool {
        self.ports.len() < usize::from(PORTS_MAX)
    }

    /// The coalesced interrupt: its bit in IS is the first that is no port's.
    pub fn interrupt_coalesced(&self) {
        let number = self.ports.len() as u32;
        self.is.fetch_or(1 << number, SeqCst);
        if !self.enabled.load(SeqCst) {
            return;
        }
        if self.interrupts.msi_vectors() > 0 {
            self.interrupts.raise_msi(number as u16);
        } else {
            self.update_wire();
        }
    }

    /// Applies what became of a port's interrupt (AHCI 10.7.2). Not under a port's lock.
    #[inline]
    pub fn interrupt(&self, port: &Port, change: Interrupt) {
        if !change.pending {
            return;
        }
        let bit = 1 << port.number;
        let before = self.is.fetch_or(bit, SeqCst);
        if !self.enabled.load(SeqCst) {
            return;
        }
        if self.interrupts.msi_vectors() > 0 {
            if change.rose {
                self.interrupts.raise_msi(port.number.into());
            }
        } else if before & bit == 0 {
            self.update_wire();
        }
    }

    fn update_wire(&self) {
        self.interrupts.update_wire(|| self.enabled.load(SeqCst) && self.is.load(SeqCst) != 0);
    }

    fn global(&self, name: Global) -> u32 {
        match name {
            Global::Cap => regs::capabilities(self.ports.len(), self.staggered, self.multiplier),
            Global::Ghc => {
                let bit = |set: bool, bit: u32| if set { bit } else { 0 };
                ghc::AE
                    | bit(self.enabled.load(SeqCst), ghc::IE)
                    | bit(self.resetting.load(SeqCst), ghc::HR)
            }
            Global::Is => self.is.load(SeqCst),
            Global::CccCtl if self.coalesces() => {
                self.coalescing.control() | (self.ports.len() as u32) << ccc::INT_SHIFT
            }
            Global::CccPorts if self.coalesces() => self.coalescing.ports(),
            Global::CccCtl | Global::CccPorts => 0,
            Global::Pi => u32::MAX >> (32 - self.ports.len() as u32),
            _ => GLOBAL.iter().find(|r| r.name == name).map_or(0, |r| r.reset as u32),
        }
    }

    fn write_global(&self, part: &Part<'_, Global>, value: u64) -> Action {
        let name = part.register.name;
        let raw = part.insert(value) as u32;
        match name {
            Global::Ghc => {
                let old = u64::from(self.global(name));
                let new = part.register.merge(old, raw.into(), part.mask) as u32;
                let on = new & ghc::IE != 0;
                let was = self.enabled.swap(on, SeqCst);
                self.update_wire();
                if on && !was && self.interrupts.msi_vectors() > 0 {
                    self.raise_all();
                }
                if raw & ghc::HR != 0 { Action::Reset } else { Action::None }
            }
            Global::Is => {
                self.is.fetch_and(!raw, SeqCst);
                // A port that is still pending shows again.
                for port in self.ports.iter().filter(|port| raw & 1 << port.number != 0) {
                    if port.is_pending() {
                        self.is.fetch_or(1 << port.number, SeqCst);
                    }
                }
                if self.interrupts.msi_vectors() == 0 {
                    self.update_wire();
                }
                Action::None
            }
            Global::CccCtl | Global::CccPorts if self.coalesces() => {
                let old = u64::from(self.global(name));
                let new = part.register.merge(old, raw.into(), part.mask) as u32;
                if name == Global::CccCtl {
                    self.coalescing.set_control(new);
                } else {
                    self.coalescing.set_ports(new & self.global(Global::Pi));
                }
                Action::None
            }
            _ => Action::None,
        }
    }

    /// A message for each port that is pending.
    fn raise_all(&self) {
        for port in self.ports.iter().filter(|port| port.is_pending()) {
            self.interrupts.raise_msi(port.number.into());
        }
        let number = self.ports.len() as u32;
        if self.coalesces() && self.is.load(SeqCst) >> number & 1 != 0 {
            self.interrupts.raise_msi(number as u16);
        }
    }

    /// The port that an offset is in, and the offset there.
    #[inline]
    fn port(&self, offset: u64) -> Option<(&Arc<Port>, u64)> {
        let at = offset.checked_sub(PORT_BASE)?;
        Some((self.ports.get((at / PORT_LEN) as usize)?, at % PORT_LEN))
    }

    pub fn read(&self, access: Access) -> u64 {
        if let Some((port, offset)) = self.port(access.offset) {
            // What drivers read for every command.
            match (offset, access.width) {
                (PORT_SACT, 4) => return port.sact.load(SeqCst).into(),
                (PORT_CI, 4) => return port.ci.load(SeqCst).into(),
                _ => {}
            }
            return parts(PORT, Access { offset, ..access })
                .fold(0, |value, part| value | part.extract(port.read(part.register.name).into()));
        }
        parts(GLOBAL, access)
            .fold(0, |value, part| value | part.extract(self.global(part.register.name).into()))
    }

    pub fn write(&self, access: Access, value: u64) -> Action {
        if let Some((port, offset)) = self.port(access.offset) {
            match (offset, access.width) {
                (PORT_SACT, 4) => port.activate(value as u32),
                (PORT_CI, 4) => port.issue(value as u32),
                _ => self.write_port(port, Access { offset, ..access }, value),
            }
            return Action::None;
        }
        let mut action = Action::None;
        for part in parts(GLOBAL, access) {
            if self.write_global(&part, value) == Action::Reset {
                action = Action::Reset;
            }
        }
        action
    }

    fn write_port(&self, port: &Port, access: Access, value: u64) {
        for part in parts(PORT, access) {
            let raw = part.insert(value);
            let old = port.read(part.register.name);
            let new = part.register.merge(old.into(), raw, part.mask) as u32;
            // Bits that are not covered are written as they are, where a one does nothing.
            let kept = part.register.writable | u64::from(super::port::CMD_ACTS);
            let raw = match part.register.name {
                regs::PortName::Cmd => (raw | u64::from(old) & kept & !part.mask) as u32,
                _ => raw as u32,
            };
            let change = port.write(part.register.name, new, raw);
            self.interrupt(port, change);
        }
        if self.interrupts.msi_vectors() == 0 {
            self.update_wire();
        }
    }

    /// As after a reset.
    pub fn clear(&self) {
        self.coalescing.clear();
        self.enabled.store(false, SeqCst);
        self.is.store(0, SeqCst);
        self.resetting.store(false, Relaxed);
        self.update_wire();
    }
}
