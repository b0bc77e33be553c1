//! A PCI function around a controller.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Capability, Identity, Interrupts, PciFunction,
    capability::id,
    config::{Config, Effect, command},
    interrupts::MsiRegisters,
    msix::ENTRY_LEN,
};
use crate::{
    Access, Device, Doorbell, LineIrq, MsiSource, Registers, Space, Window, WindowSink, Windows,
    device::Done, register::Register,
};

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes this BAR and the next.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    /// Whether it takes two BARs.
    #[must_use]
    pub fn is_64(self) -> bool {
        matches!(self, Self::Memory64 { .. })
    }
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// 0 to 5.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes: a power of two, at least 16 (memory) or 4 (I/O).
    pub size: u64,
}

/// A part of a BAR that answers.
#[derive(Clone)]
pub struct BarRegion {
    /// Byte offset in the BAR.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// See [`Window::coalesce`].
    pub coalesce: bool,
    /// Who answers.
    pub target: Arc<dyn Registers>,
    /// Added to the offset inside the region.
    pub target_offset: u64,
}

/// A doorbell in a BAR: see [`Doorbell`].
#[derive(Clone)]
pub struct BarDoorbell {
    /// Byte offset in the BAR.
    pub offset: u64,
    /// Width in bytes, 0: any.
    pub width: u8,
    /// Only this value rings it; `None`: any.
    pub value: Option<u64>,
    /// What is signalled.
    pub event: Arc<vmm_sys_util::eventfd::EventFd>,
}

/// What a PCI controller is to its [`Endpoint`].
pub trait Controller: Send + Sync {
    /// The parts of a BAR that answer at this moment, MSI-X structures apart.
    fn regions(self: Arc<Self>, bar: u8) -> Vec<BarRegion>;

    /// The doorbells of a BAR at this moment.
    fn doorbells(&self, bar: u8) -> Vec<BarDoorbell>;

    /// A load from the live part of a capability; the offset counts from the capability's start.
    fn capability_read(&self, capability: usize, access: Access) -> u32;

    /// A store to the live part of a capability.
    fn capability_write(&self, capability: usize, access: Access, value: u32);

    /// The guest has allowed (or forbidden) the function to reach memory. A forbidden function
    /// takes no new requests; what is in flight may end.
    fn bus_master(&self, on: bool);

    /// As [`Device::pause`].
    fn pause(&self, done: Done);
    /// As [`Device::resume`].
    fn resume(&self);
    /// As [`Device::reset`].
    fn reset(&self, done: Done);
}

/// Where a function sits, and what its machine gives it there.
pub struct Slot {
    /// The number under which it declares windows.
    pub device: u32,
    /// Where it declares them.
    pub sink: Arc<dyn WindowSink>,
    /// Where its MSI-X vectors come from.
    pub vectors: Arc<dyn MsiSource>,
    /// Its INTx pin (1 is INTA) and wire; `None`: it has only MSI-X.
    pub wire: Option<(u8, Box<dyn LineIrq>)>,
    /// Other functions share its slot.
    pub multifunction: bool,
}

/// Where the MSI-X structures of a function lie.
#[derive(Clone, Copy, Debug)]
pub struct MsixPlace {
    /// The BAR.
    pub bar: u8,
    /// Offset of the table.
    pub table: u32,
    /// Offset of the pending bit array.
    pub pending: u32,
}

/// Why a function could not be built.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The machine gave no interrupt vectors or descriptors.
    #[error("cannot get {what} for device '{id}'")]
    Resources {
        /// The device's id.
        id: String,
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// More queues than the device's BAR has room for.
    #[error("device '{id}' cannot have {queues} queues: {max} is the most; give it fewer")]
    TooManyQueues {
        /// The device's id.
        id: String,
        /// How many were asked for.
        queues: usize,
        /// How many there can be.
        max: usize,
    },
    /// The capabilities do not fit configuration space.
    #[error("the PCI capabilities of device '{0}' do not fit 192 bytes")]
    Capabilities(String),
}

struct TableRegisters(Arc<Interrupts>);

impl Registers for TableRegisters {
    fn read(&self, access: Access) -> u64 {
        self.0.msix().table_read(access)
    }
    fn write(&self, access: Access, value: u64) {
        self.0.msix().table_write(access, value);
    }
}

struct PendingRegisters(Arc<Interrupts>);

impl Registers for PendingRegisters {
    fn read(&self, access: Access) -> u64 {
        self.0.msix().pending_read(access)
    }
    fn write(&self, _access: Access, _value: u64) {}
}

/// What a function is made of.
pub struct Parts {
    /// The device's id.
    pub id: String,
    /// Who it says it is.
    pub identity: Identity,
    /// Its BARs.
    pub bars: Vec<Bar>,
    /// Its capabilities, MSI-X apart.
    pub capabilities: Vec<Capability>,
    /// Where MSI-X lies, if it has vectors.
    pub msix: Option<MsixPlace>,
    /// Its INTx pin, 0: none.
    pub pin: u8,
    /// Its interrupts.
    pub interrupts: Arc<Interrupts>,
    /// The controller.
    pub controller: Arc<dyn Controller>,
}

/// What a function has that is neither BAR nor capability: registers of its own in configuration
/// space, and addresses that no BAR says (the ports that a PC has always had).
#[derive(Clone)]
pub struct Legacy {
    /// Registers from 40h on. The function has no capabilities.
    pub registers: &'static [Register<&'static str>],
    /// Who knows the windows. They are declared while the function decodes ports.
    pub windows: Arc<dyn LegacyWindows>,
}

/// See [`Legacy`].
pub trait LegacyWindows: Send + Sync {
    /// The windows at this moment. `config` loads bytes at an offset of configuration space.
    fn windows(&self, config: &dyn Fn(u64, u8) -> u64) -> Vec<Window>;
}

/// See the module.
pub struct Endpoint {
    id: String,
    device: u32,
    sink: Arc<dyn WindowSink>,
    interrupts: Arc<Interrupts>,
    controller: Arc<dyn Controller>,
    msix: Option<MsixPlace>,
    legacy: Option<Arc<dyn LegacyWindows>>,
    config: Mutex<Config>,
    /// Held while windows are computed and declared, so that declarations keep their order.
    declaring: Mutex<()>,
}

impl Endpoint {
    /// Builds a function. Its windows are declared when the guest enables decoding.
    ///
    /// # Errors
    /// When its capabilities do not fit.
    pub fn new(
        parts: Parts,
        device: u32,
        sink: Arc<dyn WindowSink>,
        multifunction: bool,
    ) -> Result<Arc<Self>, EndpointError> {
        Self::with_legacy(parts, device, sink, multifunction, None)
    }

    /// The same for a function that also has what is `legacy`.
    ///
    /// # Errors
    /// As [`Endpoint::new`].
    pub fn with_legacy(
        parts: Parts,
        device: u32,
        sink: Arc<dyn WindowSink>,
        multifunction: bool,
        legacy: Option<Legacy>,
    ) -> Result<Arc<Self>, EndpointError> {
        let mut capabilities = parts.capabilities;
        // Last, so that the controller's keep the numbers it knows them by.
        capabilities.extend(parts.msix.map(|place| msix_capability(place, &parts.interrupts)));
        let mut config =
            Config::new(parts.identity, multifunction, parts.pin, &parts.bars, &capabilities)
                .map_err(|_| EndpointError::Capabilities(parts.id.clone()))?;
        if let Some(legacy) = &legacy {
            config.add_own(legacy.registers);
        }
        Ok(Arc::new(Self {
            id: parts.id,
            device,
            sink,
            interrupts: parts.interrupts,
            controller: parts.controller,
            msix: parts.msix,
            legacy: legacy.map(|legacy| legacy.windows),
            config: Mutex::new(config),
            declaring: Mutex::new(()),
        }))
    }

    /// Its interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    /// Declares the windows again: the controller's regions or doorbells have changed.
    pub fn redeclare(&self) {
        let _order = self.declaring.lock().unwrap_or_else(PoisonError::into_inner);
        let bases: Vec<(Bar, u64)> = {
            let config = self.lock();
            let decoded = |bar: &Bar| config.bar_base(bar).map(|base| (*bar, base));
            config.bars().iter().filter_map(decoded).collect()
        };
        let mut windows = Windows::default();
        for (bar, base) in bases {
            self.declare_bar(&mut windows, bar, base);
        }
        if let Some(legacy) = &self.legacy {
            let config = self.lock();
            if config.command() & command::IO != 0 {
                windows.ranges.extend(legacy.windows(&|offset, width| config.get(offset, width)));
            }
        }
        self.sink.set(self.device, windows);
    }

    fn declare_bar(&self, windows: &mut Windows, bar: Bar, base: u64) {
        let space = if bar.kind == BarKind::Io { Space::Port } else { Space::Memory };
        let mut regions = Arc::clone(&self.controller).regions(bar.index);
        regions.extend(self.msix_regions(bar.index));
        windows.ranges.extend(regions.into_iter().map(|region| Window {
            space,
            base: base + region.offset,
            len: region.len,
            coalesce: region.coalesce,
            target: region.target,
            target_offset: region.target_offset,
        }));
        let doorbells = self.controller.doorbells(bar.index);
        windows.doorbells.extend(doorbells.into_iter().map(|bell| Doorbell {
            space,
            address: base + bell.offset,
            width: bell.width,
            value: bell.value,
            event: bell.event,
        }));
    }

    fn msix_regions(&self, bar: u8) -> Vec<BarRegion> {
        let Some(place) = self.msix.filter(|place| place.bar == bar) else { return Vec::new() };
        let msix = self.interrupts.msix();
        let region = |offset: u32, len, target| BarRegion {
            offset: offset.into(),
            len,
            coalesce: false,
            target,
            target_offset: 0,
        };
        vec![
            region(
                place.table,
                u64::from(msix.len()) * ENTRY_LEN,
                Arc::new(TableRegisters(Arc::clone(&self.interrupts))) as Arc<dyn Registers>,
            ),
            region(
                place.pending,
                msix.pending_len(),
                Arc::new(PendingRegisters(Arc::clone(&self.interrupts))),
            ),
        ]
    }

    fn act(&self, effect: Effect, command: u16, msix_control: u16, msi: Option<MsiRegisters>) {
        if effect.interrupts {
            let before = self.interrupts.is_bus_master();
            self.interrupts.follow(command, msix_control, msi);
            let now = self.interrupts.is_bus_master();
            if before != now {
                self.controller.bus_master(now);
            }
        }
        if effect.decode {
            self.redeclare();
        }
        if effect.reset {
            self.reset(Box::new(|| ()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn msix_capability(place: MsixPlace, interrupts: &Interrupts) -> Capability {
    let control = interrupts.msix().len().saturating_sub(1);
    let mut body = control.to_le_bytes().to_vec();
    body.extend((place.table | u32::from(place.bar)).to_le_bytes());
    body.extend((place.pending | u32::from(place.bar)).to_le_bytes());
    // Enable and Function Mask.
    Capability { id: id::MSIX, body, writable: vec![0, 0xc0], live_from: None }
}

impl PciFunction for Endpoint {
    fn config_read(&self, access: Access) -> u32 {
        let live = self.lock().live(access);
        if let Some(live) = live {
            let offset = access.offset - live.base as u64;
            return self.controller.capability_read(live.capability, Access { offset, ..access });
        }
        let asserted = self.interrupts.is_asserted();
        self.lock().read(access, asserted)
    }

    fn config_write(&self, access: Access, value: u32) {
        let live = self.lock().live(access);
        if let Some(live) = live {
            let offset = access.offset - live.base as u64;
            let access = Access { offset, ..access };
            return self.controller.capability_write(live.capability, access, value);
        }
        let (effect, command, msix_control, msi) = {
            let mut config = self.lock();
            let effect = config.write(access, value);
            (effect, config.command(), config.msix_control(), config.msi())
        };
        self.act(effect, command, msix_control, msi);
    }

    fn bars(&self) -> Vec<Bar> {
        self.lock().bars().to_vec()
    }
}

impl Device for Endpoint {
    fn id(&self) -> &str {
        &self.id
    }

    fn pause(&self, done: Done) {
        self.controller.pause(done);
    }

    fn resume(&self) {
        self.controller.resume();
    }

    fn reset(&self, done: Done) {
        self.lock().reset();
        self.interrupts.reset();
        self.redeclare();
        self.controller.reset(done);
    }
}
