//! One thread's view of the bus.

use std::sync::Arc;

use spindle_devices::{Access, Space};

use super::{Bus, Map};

/// The addresses from one on. Bytes beyond the last address are at 0.
fn addresses(from: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |offset| from.wrapping_add(offset))
}

/// The map as one thread last saw it. Accesses go through here.
pub struct BusView {
    bus: Arc<Bus>,
    generation: u64,
    map: Arc<Map>,
    /// Where the last access to memory and to ports went: the next one often goes there too.
    last: [usize; 2],
}

impl BusView {
    pub(super) fn new(bus: Arc<Bus>) -> Self {
        let (generation, map) = (bus.generation(), bus.map());
        Self { bus, generation, map, last: [0; 2] }
    }

    /// A load of `data.len()` bytes. Where nobody answers it reads ones.
    pub fn read(&mut self, space: Space, address: u64, data: &mut [u8]) {
        self.refresh();
        if let Some((index, width)) = self.whole(space, address, data.len()) {
            let value = self.read_one(space, index, address, width);
            data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
            return;
        }
        for (byte, address) in data.iter_mut().zip(addresses(address)) {
            *byte = match self.find(space, address) {
                Some(index) => self.read_one(space, index, address, 1) as u8,
                None => u8::MAX,
            };
        }
    }

    /// A store. Where nobody answers it is lost.
    pub fn write(&mut self, space: Space, address: u64, data: &[u8]) {
        self.refresh();
        if let Some((index, width)) = self.whole(space, address, data.len()) {
            let mut value = [0; 8];
            value[..data.len()].copy_from_slice(data);
            self.write_one(space, index, address, width, u64::from_le_bytes(value));
            return;
        }
        for (byte, address) in data.iter().zip(addresses(address)) {
            // A write may have changed the map.
            self.refresh();
            if let Some(index) = self.find(space, address) {
                self.write_one(space, index, address, 1, u64::from(*byte));
            }
        }
    }

    /// Looks whether the map has changed, as every access does: the old one is let go of.
    pub fn refresh(&mut self) {
        let generation = self.bus.generation();
        if generation != self.generation {
            self.map = self.bus.map();
            self.generation = generation;
        }
    }

    /// The entry that has all of an access, if its width is one that registers know.
    fn whole(&mut self, space: Space, address: u64, len: usize) -> Option<(usize, u8)> {
        let width = match len {
            1 | 2 | 4 | 8 => len as u8,
            _ => return None,
        };
        let index = self.find(space, address)?;
        let last = address.checked_add(u64::from(width) - 1)?;
        (last <= self.map.entry(space, index)?.last).then_some((index, width))
    }

    fn find(&mut self, space: Space, address: u64) -> Option<usize> {
        let last = &mut self.last[space as usize];
        if self.map.entry(space, *last).is_some_and(|e| (e.base..=e.last).contains(&address)) {
            return Some(*last);
        }
        let index = self.map.find(space, address)?;
        *last = index;
        Some(index)
    }

    fn read_one(&self, space: Space, index: usize, address: u64, width: u8) -> u64 {
        self.map.entry(space, index).map_or(u64::MAX, |e| {
            let offset = e.offset.wrapping_add(address - e.base);
            e.target.read(Access { offset, width })
        })
    }

    fn write_one(&self, space: Space, index: usize, address: u64, width: u8, value: u64) {
        if let Some(e) = self.map.entry(space, index) {
            let offset = e.offset.wrapping_add(address - e.base);
            e.target.write(Access { offset, width }, value);
        }
    }
}
