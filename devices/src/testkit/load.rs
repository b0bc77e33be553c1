//! A load on a disk, by a guest that costs next to nothing: for counting what the device's
//! side of a request takes.

mod ahci;
mod nvme;

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use spindle_block::{Cx, Root, ring::sim::World};

use super::{
    Machine,
    driver::{BlkDriver, Descriptor, DriverRing, INDIRECT, NEXT, ScsiDriver, WRITE},
};
use crate::{
    dma::Span,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
};

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
/// Table of three descriptors, header, status or response.
const OVERHEAD: u64 = 256;
/// Where the header is, behind the table, and where the status or response.
const HEADER: u64 = 64;
const STATUS: u64 = 128;

/// The guest of one queue.
pub trait Guest: Send {
    /// Submits as many requests as it keeps in flight.
    fn start(&mut self);
    /// Takes answers, and submits as many requests again until `count` were made. Returns whether
    /// there were any.
    fn step(&mut self, count: u64) -> bool;
    /// Requests that were answered.
    fn completed(&self) -> u64;
}

/// How a request looks, and how one says where it reads.
struct Shape {
    header: Vec<u8>,
    status_len: u32,
    /// The status comes before the data.
    status_first: bool,
    /// Writes the number of the first sector into a header.
    place: fn(&Span, u64),
}

struct VirtioGuest {
    /// Available ring, used ring.
    rings: [Span; 2],
    /// Header of each request.
    headers: Vec<Span>,
    status: Vec<u64>,
    place: fn(&Span, u64),
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
        let driver = BlkDriver::new(&machine, disk.at, u64::MAX, 1, self.ring_size());
        driver.function.enable_msix();
        let mut guest = self.on_blk(&driver, 0);
        serve(cx, &mut guest, self.count, &mut progress);
        for status in &guest.status {
            assert_eq!(machine.memory.read(*status, 1), [0], "a read failed");
        }
        machine.reset_turning(disk.at);
    }

    /// The same on a SCSI disk over `root`, with READ(10).
    ///
    /// # Panics
    /// As [`RandomReads::run`].
    pub fn run_scsi(self, cx: &Cx, root: &Arc<Root>, mut progress: impl FnMut(u64)) {
        let machine = Machine::with_iothreads(World::new(self.seed), vec![Cx::clone(cx)]);
        let adapter = machine.add_scsi("load", |_| ());
        let config = UnitConfig::new("load-disk", UnitKind::Disk);
        let unit = LogicalUnit::new(config, Some(Arc::clone(root)));
        adapter.device.add_lun(0, 0, unit).expect("a free address");
        machine.assign();
        let machine = Rc::new(machine);
        let mut driver = ScsiDriver::new(&machine, adapter.at, u64::MAX, 1, self.ring_size());
        driver.function.enable_msix();
        // The first command learns of the power-on.
        driver.offer(0, ScsiDriver::lun(0, 0), &[0; 6], &[], 0);
        driver.rings[0].notify();
        cx.run_until(|| driver.rings[0].take().is_some());
        let mut guest = self.on_scsi(&driver, 0, root);
        serve(cx, &mut guest, self.count, &mut progress);
        for response in &guest.status {
            assert_eq!(machine.memory.read(*response + 10, 2), [0, 0], "a read failed");
        }
        machine.reset_turning(adapter.at);
    }

    /// The guest of a queue of a virtio disk.
    fn on_blk(self, driver: &BlkDriver, queue: usize) -> VirtioGuest {
        let shape = Shape {
            header: vec![0; 16],
            status_len: 1,
            status_first: false,
            place: |header, sector| header.write_bytes(8, &sector.to_le_bytes()),
        };
        let blocks = driver.function.config(0, 8) / (BLOCK / 512);
        VirtioGuest::new(&driver.function.machine, &driver.rings[queue], self, blocks, &shape)
    }

    /// The guest of a request queue of a SCSI adapter: it reads from the first unit, over `root`.
    fn on_scsi(self, driver: &ScsiDriver, queue: usize, root: &Root) -> VirtioGuest {
        let mut header = vec![0; 51];
        header[..8].copy_from_slice(&ScsiDriver::lun(0, 0));
        // READ(10), eight sectors.
        header[19] = 0x28;
        header[27] = 8;
        let shape = Shape {
            header,
            status_len: 108,
            status_first: true,
            place: |header, sector| header.write_bytes(21, &(sector as u32).to_be_bytes()),
        };
        let blocks = root.info().size.min(1 << 40) / BLOCK;
        VirtioGuest::new(&driver.function.machine, &driver.rings[queue], self, blocks, &shape)
    }

    /// Guests of a virtio disk's queues, one each.
    #[must_use]
    pub fn guests_of_blk(self, driver: &BlkDriver) -> Vec<Box<dyn Guest>> {
        (0..driver.rings.len()).map(|queue| Box::new(self.on_blk(driver, queue)) as _).collect()
    }

    /// Guests of a SCSI adapter's request queues, one each. They read from the first unit, which is
    /// over `root` and has no unit attention left to tell.
    #[must_use]
    pub fn guests_of_scsi(self, driver: &ScsiDriver, root: &Root) -> Vec<Box<dyn Guest>> {
        let guest = |queue| Box::new(self.on_scsi(driver, queue, root)) as _;
        (0..driver.rings.len()).map(guest).collect()
    }

    /// Entries of a ring for this load.
    #[must_use]
    pub fn ring_size(self) -> u16 {
        self.depth.next_power_of_two().max(4)
    }
}

impl VirtioGuest {
    fn new(
        machine: &Rc<Machine>,
        ring: &DriverRing,
        load: RandomReads,
        blocks: u64,
        shape: &Shape,
    ) -> Self {
        let entries = u64::from(ring.size);
        let span = |at, len| machine.memory.dma().span(at, len).expect("guest memory");
        let rings = [span(ring.avail, 6 + entries * 2), span(ring.used, 6 + entries * 8)];
        let mut guest = Self {
            rings,
            headers: Vec::new(),
            status: Vec::new(),
            place: shape.place,
            size: ring.size,
            blocks,
            random: Random(load.seed | 1),
            offered: ring.avail_idx,
            taken: ring.used_idx,
            submitted: 0,
            completed: 0,
        };
        assert!(guest.blocks > 0, "the disk is smaller than a block");
        for slot in 0..load.depth {
            let data = machine.memory.alloc(BLOCK, BLOCK);
            let at = machine.memory.alloc(OVERHEAD, 16);
            let (header, status) = (at + HEADER, at + STATUS);
            machine.memory.write(header, &shape.header);
            let data = (data, BLOCK as u32, WRITE);
            let answer = (status, shape.status_len, WRITE);
            let (second, third) = if shape.status_first { (answer, data) } else { (data, answer) };
            let parts = [(header, shape.header.len() as u32, 0), second, third];
            for (i, (address, len, flags)) in parts.into_iter().enumerate() {
                let flags = if i < 2 { flags | NEXT } else { flags };
                let descriptor = Descriptor { address, len, flags, next: i as u16 + 1 };
                machine.memory.write(at + i as u64 * 16, &descriptor.bytes());
            }
            ring.set(slot, Descriptor { address: at, len: 48, flags: INDIRECT, next: 0 });
            guest.headers.push(span(header, shape.header.len() as u64));
            guest.status.push(status);
        }
        guest
    }

    fn offer(&mut self, slot: u16) {
        let sector = self.random.below(self.blocks) * (BLOCK / 512);
        (self.place)(&self.headers[usize::from(slot)], sector);
        let at = 4 + u64::from(self.offered % self.size) * 2;
        self.rings[0].store_u16(at, slot, Ordering::Relaxed);
        self.offered = self.offered.wrapping_add(1);
        self.submitted += 1;
    }

    fn publish(&self) {
        self.rings[0].store_u16(2, self.offered, Ordering::Release);
    }
}

impl Guest for VirtioGuest {
    fn start(&mut self) {
        (0..self.headers.len()).for_each(|slot| self.offer(slot as u16));
        self.publish();
    }

    fn completed(&self) -> u64 {
        self.completed
    }

    fn step(&mut self, count: u64) -> bool {
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

/// Runs a guest and the iothread that serves it in turn, until `count` requests were answered.
fn serve(cx: &Cx, guest: &mut impl Guest, count: u64, progress: &mut dyn FnMut(u64)) {
    guest.start();
    cx.run_until(|| {
        if guest.step(count) {
            progress(guest.completed());
        }
        guest.completed() == count
    });
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
