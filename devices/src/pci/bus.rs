//! Bus 0 and the functions on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{Address, endpoint::Bar};
use crate::{Access, Device};

/// A function on the bus: a device with a configuration space.
pub trait PciFunction: Device {
    /// A load of 1, 2 or 4 bytes inside one doubleword.
    fn config_read(&self, access: Access) -> u32;

    /// A store of 1, 2 or 4 bytes inside one doubleword. What it changes about windows has taken
    /// effect when it returns.
    fn config_write(&self, access: Access, value: u32);

    /// Its BARs, for whoever assigns addresses.
    fn bars(&self) -> Vec<Bar>;
}

/// Why a function could not be put on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The place is taken.
    #[error("PCI address {0} is taken by '{1}'; give one of the two another addr=")]
    Taken(Address, String),
    /// Slot or function number out of range.
    #[error("there is no PCI address {0}: slots are 0 to 1f, functions 0 to 7")]
    NoSuchAddress(Address),
    /// No slot is free.
    #[error("all 32 PCI slots are taken")]
    Full,
}

/// Bus 0. Functions may come and go while the machine runs.
#[derive(Default)]
pub struct PciBus {
    functions: RwLock<BTreeMap<Address, Arc<dyn PciFunction>>>,
}

impl PciBus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts a function at an address.
    ///
    /// # Errors
    /// When there is no such address, or something is there.
    pub fn add(&self, at: Address, function: Arc<dyn PciFunction>) -> Result<(), BusError> {
        if at.slot > 31 || at.function > 7 {
            return Err(BusError::NoSuchAddress(at));
        }
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = functions.get(&at) {
            return Err(BusError::Taken(at, there.id().to_owned()));
        }
        functions.insert(at, function);
        Ok(())
    }

    /// Takes a function away. It answers no configuration access any more; its windows are
    /// withdrawn by its own reset.
    pub fn remove(&self, at: Address) -> Option<Arc<dyn PciFunction>> {
        self.functions.write().unwrap_or_else(PoisonError::into_inner).remove(&at)
    }

    /// The function at an address.
    #[must_use]
    pub fn get(&self, at: Address) -> Option<Arc<dyn PciFunction>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&at).cloned()
    }

    /// The first slot from `from` on that has no function at all.
    ///
    /// # Errors
    /// When there is none.
    pub fn free_slot(&self, from: u8) -> Result<Address, BusError> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        (from..32)
            .find(|slot| !functions.keys().any(|at| at.slot == *slot))
            .map(|slot| Address { slot, function: 0 })
            .ok_or(BusError::Full)
    }

    /// Everything on the bus, by address.
    #[must_use]
    pub fn functions(&self) -> Vec<(Address, Arc<dyn PciFunction>)> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.iter().map(|(at, function)| (*at, Arc::clone(function))).collect()
    }

    /// A load from configuration space: absent functions read as all ones.
    #[must_use]
    pub fn config_read(&self, at: Address, access: Access) -> u32 {
        self.get(at).map_or(u32::MAX, |function| function.config_read(access))
    }

    /// A store to configuration space: absent functions ignore it.
    pub fn config_write(&self, at: Address, access: Access, value: u32) {
        if let Some(function) = self.get(at) {
            function.config_write(access, value);
        }
    }
}
