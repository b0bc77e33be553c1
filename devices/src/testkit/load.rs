//! A load on a disk, by a guest that costs next to nothing: for counting what the device's
//! side of a request takes.

mod nvme;

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use spindle_block::{Cx, Root, ring::sim::World};

use super::{
    Machine,
    driver::{BlkDriver, Descriptor, INDIRECT, NEXT, WRITE},
};
use crate::dma::Span;

/// Random 4 KiB reads.
#[derive(Clone, Copy, Debug)]
pub struct RandomReads {
    /// Requests in flight.
    pub depth: u16,
    /// Requests in all.
    pub count: u64,
    /// Seed of the offsets.
    pub seed: u64,
}

const BLOCK: u64 = 4096;
/// Table of three descriptors, header, status.
const OVERHEAD: u64 = 128;

struct Guest {
    /// Available ring, used ring.
    rings: [Span; 2],
    /// Header of each request.
    headers: Vec<Span>,
    status: Vec<u64>,
    size: u16,
    blocks: u64,
    random: Random,
    offered: u16,
    taken: u16,
    submitted: u64,
    completed: u64,
}

impl RandomReads {
    /// Does them on `root`, on this thread's iothread, with indirect descriptors and an event
    /// index, as Linux does. `progress` is called with the number of completed requests after each
    /// pass.
    ///
    /// # Panics
    /// When a request fails, or the disk is smaller than a block.
    pub fn run(self, cx: &Cx, root: &Arc<Root>, mut progress: impl FnMut(u64)) {
        let machine = Machine::with_iothreads(World::new(self.seed), vec![Cx::clone(cx)]);
        let disk = machine.add_disk_on("load", Arc::clone(root), |_| ());
        machine.assign();
        let machine = Rc::new(machine);
        let size = self.depth.next_power_of_two().max(4);
        let driver = BlkDriver::new(&machine, disk.at, u64::MAX, 1, size);
        driver.function.enable_msix();
        let mut guest = Guest::new(&machine, &driver, self);
        (0..self.depth).for_each(|slot| guest.offer(slot));
        guest.publish();
        cx.run_until(|| {
            if guest.reap(self.count) {
                progress(guest.completed);
            }
            guest.completed == self.count
        });
        for status in &guest.status {
            assert_eq!(machine.memory.read(*status, 1), [0], "a read failed");
        }
        machine.reset_turning(disk.at);
    }
}

impl Guest {
    fn new(machine: &Rc<Machine>, driver: &BlkDriver, load: RandomReads) -> Self {
        let ring = &driver.rings[0];
        let entries = u64::from(ring.size);
        let span = |at, len| machine.memory.dma().span(at, len).expect("guest memory");
        let rings = [span(ring.avail, 6 + entries * 2), span(ring.used, 6 + entries * 8)];
        let mut guest = Self {
            rings,
            headers: Vec::new(),
            status: Vec::new(),
            size: ring.size,
            blocks: driver.function.config(0, 8) / (BLOCK / 512),
            random: Random(load.seed | 1),
            offered: 0,
            taken: 0,
            submitted: 0,
            completed: 0,
        };
        assert!(guest.blocks > 0, "the disk is smaller than a block");
        for slot in 0..load.depth {
            let data = machine.memory.alloc(BLOCK, BLOCK);
            let at = machine.memory.alloc(OVERHEAD, 16);
            let (header, status) = (at + 64, at + 96);
            let parts =
                [(header, 16, NEXT), (data, BLOCK as u32, NEXT | WRITE), (status, 1, WRITE)];
            for (i, (address, len, flags)) in parts.into_iter().enumerate() {
                let descriptor = Descriptor { address, len, flags, next: i as u16 + 1 };
                machine.memory.write(at + i as u64 * 16, &descriptor.bytes());
            }
            ring.set(slot, Descriptor { address: at, len: 48, flags: INDIRECT, next: 0 });
            guest.headers.push(span(header, 16));
            guest.status.push(status);
        }
        guest
    }

    fn offer(&mut self, slot: u16) {
        let sector = self.random.below(self.blocks) * (BLOCK / 512);
        self.headers[usize::from(slot)].write_bytes(8, &sector.to_le_bytes());
        let at = 4 + u64::from(self.offered % self.size) * 2;
        self.rings[0].store_u16(at, slot, Ordering::Relaxed);
        self.offered = self.offered.wrapping_add(1);
        self.submitted += 1;
    }

    fn publish(&self) {
        self.rings[0].store_u16(2, self.offered, Ordering::Release);
    }

    /// Takes answers, and offers as many requests again. Returns whether there were any.
    fn reap(&mut self, count: u64) -> bool {
        let used = self.rings[1].load_u16(2, Ordering::Acquire);
        if used == self.taken {
            return false;
        }
        while self.taken != used {
            let at = 4 + u64::from(self.taken % self.size) * 8;
            let slot = self.rings[1].load_u16(at, Ordering::Relaxed);
            self.taken = self.taken.wrapping_add(1);
            self.completed += 1;
            if self.submitted < count {
                self.offer(slot);
            }
        }
        // Interrupt at the next answer.
        self.rings[0].store_u16(4 + u64::from(self.size) * 2, self.taken, Ordering::Relaxed);
        self.publish();
        true
    }
}

/// A generator of a few instructions: the load must cost less than what it measures.
struct Random(u64);

impl Random {
    /// A number below `n`: the high half of a product (xorshift64*).
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(value) * u128::from(n)) >> 64) as u64
    }
}
