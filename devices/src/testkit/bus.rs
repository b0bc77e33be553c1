//! The address spaces of a test machine.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use crate::{Access, Registers, Space, Window, WindowSink, Windows, register::width_mask};

#[derive(Default)]
struct Map {
    devices: BTreeMap<u32, Windows>,
    /// Writes to coalesced windows that wait for the next access that traps.
    waiting: Vec<(Arc<dyn Registers>, Access, u64)>,
}

/// Honours what devices declare, as a machine does.
#[derive(Default)]
pub struct Bus {
    map: Mutex<Map>,
    traps: AtomicU64,
    rung: AtomicU64,
}

impl WindowSink for Bus {
    fn set(&self, device: u32, windows: Windows) {
        let mut map = self.lock();
        map.devices.remove(&device);
        for range in &windows.ranges {
            let taken =
                map.devices.values().flat_map(|w| &w.ranges).any(|other| overlap(range, other));
            assert!(!taken, "two devices claim {:#x}+{:#x}", range.base, range.len);
        }
        let own = &windows.ranges;
        for (i, range) in own.iter().enumerate() {
            assert!(range.len > 0, "an empty window at {:#x}", range.base);
            assert!(!own[..i].iter().any(|other| overlap(range, other)), "windows overlap");
        }
        map.devices.insert(device, windows);
    }
}

fn overlap(a: &Window, b: &Window) -> bool {
    a.space == b.space && a.base < b.base + b.len && b.base < a.base + a.len
}

impl Bus {
    /// Nothing anywhere.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Forgets everything: windows keep devices, and devices keep the bus.
    pub(super) fn clear(&self) {
        let map = std::mem::take(&mut *self.lock());
        drop(map);
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accesses that reached a register half.
    #[must_use]
    pub fn traps(&self) -> u64 {
        self.traps.load(SeqCst)
    }

    /// Writes that only signalled a doorbell.
    #[must_use]
    pub fn rung(&self) -> u64 {
        self.rung.load(SeqCst)
    }

    /// What a device has declared.
    #[must_use]
    pub fn windows(&self, device: u32) -> Windows {
        self.lock().devices.get(&device).cloned().unwrap_or_default()
    }

    fn find(map: &Map, space: Space, address: u64) -> Option<(Window, Access)> {
        let inside = |w: &&Window| w.space == space && (w.base..w.base + w.len).contains(&address);
        let window = map.devices.values().flat_map(|w| &w.ranges).find(inside)?;
        let offset = address - window.base + window.target_offset;
        Some((window.clone(), Access { offset, width: 0 }))
    }

    /// Delivers what waits in coalesced windows.
    fn drain(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        waiting.into_iter().for_each(|(target, access, value)| target.write(access, value));
    }

    /// A load by the guest; addresses that nobody claims read as ones.
    #[must_use]
    pub fn read(&self, space: Space, address: u64, width: u8) -> u64 {
        self.drain();
        let found = Self::find(&self.lock(), space, address);
        let Some((window, access)) = found else { return width_mask(width) };
        self.traps.fetch_add(1, SeqCst);
        window.target.read(Access { width, ..access }) & width_mask(width)
    }

    /// A store by the guest.
    pub fn write(&self, space: Space, address: u64, width: u8, value: u64) {
        if self.ring(space, address, width, value) {
            return;
        }
        let found = Self::find(&self.lock(), space, address);
        let Some((window, access)) = found else { return self.drain() };
        let access = Access { width, ..access };
        // As KVM does: only writes that lie in the window with all their bytes are collected.
        let inside = address + u64::from(width) <= window.base + window.len;
        if window.coalesce && inside {
            self.lock().waiting.push((window.target, access, value));
            return;
        }
        self.drain();
        self.traps.fetch_add(1, SeqCst);
        window.target.write(access, value & width_mask(width));
    }

    fn ring(&self, space: Space, address: u64, width: u8, value: u64) -> bool {
        let map = self.lock();
        let bell = map.devices.values().flat_map(|w| &w.doorbells).find(|bell| {
            bell.space == space
                && bell.address == address
                && (bell.width == 0 || bell.width == width)
                && bell.value.is_none_or(|wanted| wanted == value & width_mask(width))
        });
        if let Some(bell) = bell {
            bell.event.write(1).expect("a doorbell");
            self.rung.fetch_add(1, SeqCst);
        }
        bell.is_some()
    }
}
