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

fn is_inside(window: &Window, address: u64, width: u8) -> bool {
    address + u64::from(width) <= window.base + window.len
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
    pub(super) fn drain(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        waiting.into_iter().for_each(|(target, access, value)| target.write(access, value));
    }

    /// The device that an access begins at; whether all its bytes are that device's. Windows that
    /// continue each other are one, as in a machine.
    fn find_whole(&self, space: Space, address: u64, width: u8) -> Option<(Window, Access, bool)> {
        let map = self.lock();
        let (window, access) = Self::find(&map, space, address)?;
        let target = Arc::as_ptr(&window.target).addr();
        let is_own = |i: u64| {
            Self::find(&map, space, address + i).is_some_and(|(other, at)| {
                Arc::as_ptr(&other.target).addr() == target && at.offset == access.offset + i
            })
        };
        let whole = is_inside(&window, address, width) || (1..u64::from(width)).all(is_own);
        Some((window, Access { width, ..access }, whole))
    }

    /// A load by the guest; addresses that nobody claims read as ones. One that goes beyond a device
    /// goes byte by byte.
    #[must_use]
    pub fn read(&self, space: Space, address: u64, width: u8) -> u64 {
        self.drain();
        match self.find_whole(space, address, width) {
            Some((window, access, true)) => {
                self.traps.fetch_add(1, SeqCst);
                window.target.read(access) & width_mask(width)
            }
            _ if width > 1 => (0..width.into())
                .fold(0, |value, i| value | self.read(space, address + i, 1) << (i * 8)),
            _ => width_mask(width),
        }
    }

    /// A store by the guest. One that goes beyond a device goes byte by byte.
    pub fn write(&self, space: Space, address: u64, width: u8, value: u64) {
        if self.ring(space, address, width, value) {
            return;
        }
        let found = self.find_whole(space, address, width);
        // As KVM does: only writes that lie in the window with all their bytes are collected.
        let inside = |window: &Window| window.coalesce && is_inside(window, address, width);
        match found {
            Some((window, access, _)) if inside(&window) => {
                self.lock().waiting.push((window.target, access, value));
            }
            Some((window, access, true)) => {
                self.drain();
                self.traps.fetch_add(1, SeqCst);
                window.target.write(access, value & width_mask(width));
            }
            _ => {
                self.drain();
                for i in 0..width.into() {
                    if let Some((window, access, _)) = self.find_whole(space, address + i, 1) {
                        self.traps.fetch_add(1, SeqCst);
                        window.target.write(access, value >> (i * 8) & 0xff);
                    }
                }
            }
        }
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
