//! The same load on an AHCI port, with native command queuing. Its registers are called as a vCPU
//! thread calls them after an exit.

use std::{rc::Rc, sync::Arc};

use spindle_block::{Cx, Root, ring::sim::World};

use super::{BLOCK, Guest, Random, RandomReads, serve};
use crate::{
    Access, Registers, Space,
    ahci::Plug,
    ata::{DriveConfig, Transport},
    dma::Span,
    testkit::{AhciController, Machine},
};

/// Offsets in a port's registers.
const CLB: u64 = 0x00;
const FB: u64 = 0x08;
const CMD: u64 = 0x18;
const TFD: u64 = 0x20;
const SERR: u64 = 0x30;
const SACT: u64 = 0x34;
const CI: u64 = 0x38;
/// PxCMD: start, FIS receive.
const START: u64 = 1;
const RECEIVE: u64 = 0x10;

struct AhciGuest {
    registers: Arc<dyn Registers>,
    /// Where the port's registers begin.
    base: u64,
    /// Command tables.
    tables: Vec<Span>,
    outstanding: u32,
    blocks: u64,
    random: Random,
    submitted: u64,
    completed: u64,
}

impl RandomReads {
    /// Does them on `root`, on this thread's iothread, through an AHCI port, at most 32 at a time.
    /// `progress` is called with the number of completed requests after each pass.
    ///
    /// # Panics
    /// When a request fails, or the disk is smaller than a block.
    pub fn run_ahci(self, cx: &Cx, root: &Arc<Root>, mut progress: impl FnMut(u64)) {
        let machine = Machine::with_iothreads(World::new(self.seed), vec![Cx::clone(cx)]);
        let controller = machine.add_ahci("load", 1, |_| ());
        let config = DriveConfig::new("load-disk", Transport::Serial);
        let plug = Plug::Disk(config, Arc::clone(root));
        controller.device.plug(0, plug).expect("an empty port");
        machine.assign();
        let machine = Rc::new(machine);
        let mut guest = AhciGuest::new(&machine, &controller, 0, self, root);
        cx.run_until(|| guest.is_ready());
        guest.set(CMD, START | RECEIVE);
        serve(cx, &mut guest, self.count, &mut progress);
        assert_eq!(guest.get(TFD) & 1, 0, "a read failed");
        machine.reset_turning(controller.at);
    }

    /// Guests of a controller's ports, each of which has a disk over `root`; `wait` is called until
    /// what it is given is true.
    ///
    /// # Panics
    /// When the disk is smaller than a block.
    #[must_use]
    pub fn guests_of_ahci(
        self,
        machine: &Rc<Machine>,
        controller: &AhciController,
        root: &Root,
        mut wait: impl FnMut(&mut dyn FnMut() -> bool),
    ) -> Vec<Box<dyn Guest>> {
        (0..controller.device.ports())
            .map(|port| {
                let guest = AhciGuest::new(machine, controller, port.into(), self, root);
                wait(&mut || guest.is_ready());
                guest.set(CMD, START | RECEIVE);
                Box::new(guest) as _
            })
            .collect()
    }
}

impl AhciGuest {
    fn new(
        machine: &Rc<Machine>,
        controller: &AhciController,
        port: u64,
        load: RandomReads,
        root: &Root,
    ) -> Self {
        assert!((1..=32).contains(&load.depth), "a port has 32 slots");
        let at = controller.at;
        machine.pci_write(at, 4, 2, 0x7);
        let abar = machine.pci_read(at, 0x24, 4) & !0xf;
        // The machine's first device is the controller.
        let windows = machine.bus.windows(1);
        let memory = |window: &&crate::Window| window.space == Space::Memory;
        let window = windows.ranges.iter().find(memory).expect("registers");
        assert_eq!(window.base - window.target_offset, abar);
        let registers = Arc::clone(&window.target);
        let (list, area) = (machine.memory.alloc(1024, 1024), machine.memory.alloc(256, 256));
        let table = |slot: u64| {
            let (data, at) = (machine.memory.alloc(BLOCK, BLOCK), machine.memory.alloc(0x90, 128));
            // READ FPDMA QUEUED, eight sectors.
            let tag = (slot as u8) << 3;
            let sectors = (BLOCK / 512) as u8;
            machine.memory.write(at, &[0x27, 0x80, 0x60, sectors, 0, 0, 0, 0x40]);
            machine.memory.write(at + 12, &[tag]);
            machine.memory.set_number(at + 0x80, 8, data);
            machine.memory.set_number(at + 0x8c, 4, BLOCK - 1);
            machine.memory.set_number(list + slot * 32, 4, 5 | 1 << 16);
            machine.memory.set_number(list + slot * 32 + 8, 8, at);
            machine.memory.dma().span(at, 0x90).expect("guest memory")
        };
        let guest = Self {
            registers,
            base: 0x100 + port * 0x80,
            tables: (0..u64::from(load.depth)).map(table).collect(),
            outstanding: 0,
            blocks: root.info().size / BLOCK,
            random: Random(load.seed | 1),
            submitted: 0,
            completed: 0,
        };
        assert!(guest.blocks > 0, "the disk is smaller than a block");
        guest.set(CLB, list);
        guest.set(FB, area);
        guest.set(CMD, RECEIVE);
        guest
    }

    fn get(&self, offset: u64) -> u64 {
        self.registers.read(Access { offset: self.base + offset, width: 4 })
    }

    fn set(&self, offset: u64, value: u64) {
        self.registers.write(Access { offset: self.base + offset, width: 4 }, value);
    }

    /// Whether the drive has told who it is.
    fn is_ready(&self) -> bool {
        let ready = self.get(TFD) & 0x88 == 0;
        if ready {
            self.set(SERR, 0xffff_ffff);
        }
        ready
    }

    /// Issues a read in each of these slots, one by one, as a driver does.
    fn issue(&mut self, slots: u32, count: u64) {
        for slot in (0..32u32).filter(|slot| slots & 1 << slot != 0) {
            if self.submitted == count {
                return;
            }
            let lba = (self.random.below(self.blocks) * (BLOCK / 512)).to_le_bytes();
            let table = &self.tables[slot as usize];
            table.write_bytes(4, &lba[..3]);
            table.write_bytes(8, &lba[3..6]);
            self.submitted += 1;
            self.outstanding |= 1 << slot;
            self.set(SACT, 1 << slot);
            self.set(CI, 1 << slot);
        }
    }
}

impl Guest for AhciGuest {
    fn start(&mut self) {
        let slots = u32::MAX >> (32 - self.tables.len() as u32);
        self.issue(slots, u64::MAX);
    }

    fn completed(&self) -> u64 {
        self.completed
    }

    fn step(&mut self, count: u64) -> bool {
        let done = self.outstanding & !(self.get(SACT) as u32);
        if done == 0 {
            return false;
        }
        self.outstanding &= !done;
        self.completed += u64::from(done.count_ones());
        self.issue(done, count);
        true
    }
}
