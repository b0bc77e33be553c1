//! Doorbells as KVM has them: the write signals an eventfd, and the device is not called.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use spindle_devices::{Doorbell, Space};

use crate::bus::Offload;

/// The doorbells that are reachable at this moment.
#[derive(Default)]
pub(super) struct Bells(Mutex<Vec<Doorbell>>);

impl Bells {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Doorbell>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings the doorbell that this write is for, if it is for one.
    pub(super) fn ring(&self, space: Space, address: u64, width: u8, value: u64) -> bool {
        let bells = self.lock();
        let bell = bells.iter().find(|bell| {
            bell.space == space
                && bell.address == address
                && (bell.width == 0 || bell.width == width)
                && bell.value.is_none_or(|wanted| wanted == value)
        });
        if let Some(bell) = bell {
            // Only an overflow could fail, and then it is readable anyway.
            let _ = bell.event.write(1);
        }
        bell.is_some()
    }
}

fn same(a: &Doorbell, b: &Doorbell) -> bool {
    (a.space, a.address, a.width, a.value) == (b.space, b.address, b.width, b.value)
        && Arc::ptr_eq(&a.event, &b.event)
}

impl Offload for Arc<Bells> {
    fn add_doorbell(&self, doorbell: &Doorbell) -> io::Result<()> {
        self.lock().push(doorbell.clone());
        Ok(())
    }

    fn remove_doorbell(&self, doorbell: &Doorbell) -> io::Result<()> {
        self.lock().retain(|bell| !same(bell, doorbell));
        Ok(())
    }

    // Writes may be collected, and need not be: here each is delivered when it is made.
    fn add_zone(&self, _space: Space, _base: u64, _len: u32) -> io::Result<()> {
        Ok(())
    }

    fn remove_zone(&self, _space: Space, _base: u64, _len: u32) -> io::Result<()> {
        Ok(())
    }
}
