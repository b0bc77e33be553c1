//! The same load on an NVMe controller with shadow doorbells.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use spindle_block::{Cx, Root, ring::sim::World};

use super::{BLOCK, Guest, Random, RandomReads, serve};
use crate::{
    dma::Span,
    testkit::{Machine, driver::nvme::NvmeDriver},
};

struct NvmeGuest {
    sq: Span,
    cq: Span,
    /// Shadow doorbells: tail and head.
    doorbells: Span,
    /// A command for each slot.
    commands: Vec<[u8; 64]>,
    size: u32,
    tail: u32,
    head: u32,
    phase: u16,
    blocks: u64,
    random: Random,
    submitted: u64,
    completed: u64,
}

impl RandomReads {
    /// Does them on `root`, on this thread's iothread, through one pair of NVMe queues whose
    /// doorbells are in guest memory. `progress` is called with the number of completed requests
    /// after each pass.
    ///
    /// # Panics
    /// When a request fails, or the disk is smaller than a block.
    pub fn run_nvme(self, cx: &Cx, root: &Arc<Root>, mut progress: impl FnMut(u64)) {
        let machine = Machine::with_iothreads(World::new(self.seed), vec![Cx::clone(cx)]);
        let disk = machine.add_nvme("load", &[Arc::clone(root)], |_| ());
        machine.assign();
        let machine = Rc::new(machine);
        let mut driver = NvmeDriver::probe(&machine, disk.at);
        driver.enable_msix();
        // The test machine keeps a list of interrupts: it must not grow while allocations count.
        driver.set_vector(1, 0, true);
        driver.enable(32);
        driver.create_pair(1, u32::from(self.depth) + 1);
        driver.use_shadows();
        let mut guest = NvmeGuest::new(&driver, 1, root, self);
        serve(cx, &mut guest, self.count, &mut progress);
        machine.reset_turning(disk.at);
    }

    /// Guests of a controller's queue pairs with shadow doorbells, one each. They read from the first
    /// namespace, which is over `root`.
    ///
    /// # Panics
    /// When the disk is smaller than a block, or the driver does not use shadow doorbells.
    #[must_use]
    pub fn guests_of_nvme(self, driver: &NvmeDriver, root: &Root) -> Vec<Box<dyn Guest>> {
        (1..driver.sqs.len())
            .map(|i| Box::new(NvmeGuest::new(driver, i, root, self)) as _)
            .collect()
    }
}

impl NvmeGuest {
    fn new(driver: &NvmeDriver, pair: usize, root: &Root, load: RandomReads) -> Self {
        let machine = &driver.machine;
        let (sq, cq) = (&driver.sqs[pair], &driver.cqs[pair]);
        let span = |at, len| machine.memory.dma().span(at, len).expect("guest memory");
        let (doorbells, _) = driver.shadows.expect("shadow doorbells");
        let blocks = root.info().size / BLOCK;
        assert!(blocks > 0, "the disk is smaller than a block");
        let command = |slot: u16| {
            let mut bytes = [0; 64];
            bytes[0] = 0x02;
            bytes[2..4].copy_from_slice(&slot.to_le_bytes());
            bytes[4] = 1;
            bytes[24..32].copy_from_slice(&machine.memory.alloc(BLOCK, BLOCK).to_le_bytes());
            bytes[48..50].copy_from_slice(&(BLOCK as u16 / 512 - 1).to_le_bytes());
            bytes
        };
        Self {
            sq: span(sq.at, u64::from(sq.size) * 64),
            cq: span(cq.at, u64::from(cq.size) * 16),
            doorbells: span(doorbells + 8 * u64::from(sq.id), 8),
            commands: (0..load.depth).map(command).collect(),
            size: sq.size,
            tail: 0,
            head: 0,
            phase: 1,
            blocks,
            random: Random(load.seed | 1),
            submitted: 0,
            completed: 0,
        }
    }

    fn offer(&mut self, slot: u16) {
        let lba = self.random.below(self.blocks) * (BLOCK / 512);
        let command = &mut self.commands[usize::from(slot)];
        command[40..48].copy_from_slice(&lba.to_le_bytes());
        self.sq.write_bytes(u64::from(self.tail) * 64, command);
        self.tail = if self.tail + 1 == self.size { 0 } else { self.tail + 1 };
        self.submitted += 1;
    }

    fn publish(&self) {
        self.doorbells.store_u32(4, self.head, Ordering::Release);
        self.doorbells.store_u32(0, self.tail, Ordering::Release);
    }
}

impl Guest for NvmeGuest {
    fn start(&mut self) {
        (0..self.commands.len()).for_each(|slot| self.offer(slot as u16));
        self.publish();
    }

    fn completed(&self) -> u64 {
        self.completed
    }

    fn step(&mut self, count: u64) -> bool {
        let before = self.completed;
        loop {
            let at = u64::from(self.head) * 16;
            let word = self.cq.load_u16(at + 14, Ordering::Acquire);
            if word & 1 != self.phase {
                break;
            }
            assert_eq!(word >> 1, 0, "a read failed");
            let slot = self.cq.load_u16(at + 12, Ordering::Relaxed);
            self.head += 1;
            if self.head == self.size {
                self.head = 0;
                self.phase ^= 1;
            }
            self.completed += 1;
            if self.submitted < count {
                self.offer(slot);
            }
        }
        if self.completed == before {
            return false;
        }
        self.publish();
        true
    }
}
