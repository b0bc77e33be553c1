//! Who answers at which address.
//!
//! Devices declare windows; the bus makes an immutable map of them, which every vCPU thread keeps a
//! reference to and fetches anew when its generation has moved. What devices declare as doorbells
//! and coalesced ranges is handed to an [`Offload`] (KVM), as a difference to what it had.

mod claims;
mod map;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use spindle_devices::{Doorbell, Space, WindowSink, Windows};

use claims::Claims;
pub use map::Map;
pub use view::BusView;

/// Who can take writes off the vCPU threads' hands.
pub trait Offload: Send + Sync {
    /// Signals a doorbell's eventfd without an exit from now on.
    ///
    /// # Errors
    /// When it cannot: the write then exits and goes to the device.
    fn add_doorbell(&self, doorbell: &Doorbell) -> io::Result<()>;
    /// Undoes [`Offload::add_doorbell`].
    ///
    /// # Errors
    /// When there was none.
    fn remove_doorbell(&self, doorbell: &Doorbell) -> io::Result<()>;
    /// Collects writes to these addresses from now on.
    ///
    /// # Errors
    /// When it cannot: the writes then exit one by one.
    fn add_zone(&self, space: Space, base: u64, len: u32) -> io::Result<()>;
    /// Undoes [`Offload::add_zone`].
    ///
    /// # Errors
    /// When there was none.
    fn remove_zone(&self, space: Space, base: u64, len: u32) -> io::Result<()>;
}

/// What identifies a doorbell to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BellKey {
    space: Space,
    address: u64,
    width: u8,
    value: Option<u64>,
    event: usize,
}

impl BellKey {
    fn of(bell: &Doorbell) -> Self {
        Self {
            space: bell.space,
            address: bell.address,
            width: bell.width,
            value: bell.value,
            event: Arc::as_ptr(&bell.event).addr(),
        }
    }
}

#[derive(Default)]
struct State {
    claims: Claims,
    bells: HashMap<BellKey, Doorbell>,
    zones: Vec<(Space, u64, u32)>,
}

/// The bus of one machine.
pub struct Bus {
    map: Mutex<Arc<Map>>,
    generation: AtomicU64,
    state: Mutex<State>,
    offload: Box<dyn Offload>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new(offload: Box<dyn Offload>) -> Arc<Self> {
        Arc::new(Self {
            map: Mutex::default(),
            generation: AtomicU64::new(0),
            state: Mutex::default(),
            offload,
        })
    }

    /// A view for one thread.
    #[must_use]
    pub fn view(self: &Arc<Self>) -> BusView {
        BusView::new(Arc::clone(self))
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, map: Map) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn update_bells(&self, bells: &mut HashMap<BellKey, Doorbell>, wanted: Vec<Doorbell>) {
        let wanted: HashMap<_, _> = wanted.into_iter().map(|b| (BellKey::of(&b), b)).collect();
        bells.retain(|key, bell| {
            let keep = wanted.contains_key(key);
            if !keep && let Err(e) = self.offload.remove_doorbell(bell) {
                log::debug!("doorbell at {:#x}: cannot be removed: {e}", bell.address);
            }
            keep
        });
        for (key, bell) in wanted {
            if bells.contains_key(&key) {
                continue;
            }
            match self.offload.add_doorbell(&bell) {
                Ok(()) => drop(bells.insert(key, bell)),
                Err(e) => log::debug!("doorbell at {:#x}: every write exits: {e}", bell.address),
            }
        }
    }

    fn update_zones(&self, zones: &mut Vec<(Space, u64, u32)>, wanted: Vec<(Space, u64, u32)>) {
        zones.retain(|zone| {
            let keep = wanted.contains(zone);
            if !keep && let Err(e) = self.offload.remove_zone(zone.0, zone.1, zone.2) {
                log::debug!("zone at {:#x}: cannot be removed: {e}", zone.1);
            }
            keep
        });
        for zone in wanted {
            if zones.contains(&zone) {
                continue;
            }
            match self.offload.add_zone(zone.0, zone.1, zone.2) {
                Ok(()) => zones.push(zone),
                Err(e) => log::debug!("zone at {:#x}: every write exits: {e}", zone.1),
            }
        }
    }
}

impl WindowSink for Bus {
    fn set(&self, device: u32, windows: Windows) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.claims.set(device, windows);
        let resolved = state.claims.resolve();
        self.publish(resolved.map);
        let State { bells, zones, .. } = &mut *state;
        self.update_bells(bells, resolved.bells);
        self.update_zones(zones, resolved.zones);
    }
}
