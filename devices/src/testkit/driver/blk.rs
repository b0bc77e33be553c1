//! A virtio-blk driver (virtio 1.2, 5.2).

use std::rc::Rc;

use super::{super::Machine, DriverRing, Function};
use crate::pci::Address;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status byte; 0xee if the device did not write it.
    pub status: u8,
    /// Bytes the device says it wrote.
    pub written: u32,
    /// What is in the data buffer.
    pub data: Vec<u8>,
}

/// A disk with one or more queues.
pub struct BlkDriver {
    /// The function.
    pub function: Function,
    /// Features agreed upon.
    pub features: u64,
    /// Its queues.
    pub rings: Vec<DriverRing>,
    /// Use indirect tables.
    pub indirect: bool,
}

/// A request that was offered.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    head: u16,
    status: u64,
    data: u64,
    len: u32,
}

impl Ticket {
    /// Guest address of the status byte.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.status
    }

    /// Guest address of the data.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.data
    }
}

impl BlkDriver {
    /// VIRTIO_F_VERSION_1 and nothing else.
    pub const PLAIN: u64 = 1 << 32;

    /// Brings up the disk at `at`, with all features it offers that are in `wanted`, and `queues`
    /// rings of `size` entries.
    ///
    /// # Panics
    /// When the device refuses.
    #[must_use]
    pub fn new(machine: &Rc<Machine>, at: Address, wanted: u64, queues: u16, size: u16) -> Self {
        let function = Function::probe(machine, at);
        let features = function.offered() & wanted | Self::PLAIN;
        assert!(function.negotiate(features), "features {features:#x} refused");
        let rings = (0..queues).map(|i| function.queue(i, size, features)).collect();
        function.ready();
        Self { function, features, rings, indirect: false }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.function.machine
    }

    /// Offers a request without notifying: `data` goes to the device, or `len` bytes come from it.
    pub fn offer(&mut self, queue: usize, kind: u32, sector: u64, data: &[u8], len: u32) -> Ticket {
        let memory = self.function.machine.memory.clone();
        let header = memory.alloc(16, 8);
        memory.set_number(header, 4, kind.into());
        memory.set_number(header + 4, 4, 0);
        memory.set_number(header + 8, 8, sector);
        let status = memory.alloc(1, 1);
        memory.write(status, &[0xee]);
        let total = data.len() as u32 + len;
        let at = memory.alloc(total.max(1).into(), 512);
        memory.write(at, data);
        let mut buffers = vec![(header, 16, false)];
        if total > 0 {
            buffers.push((at, total, data.is_empty()));
        }
        buffers.push((status, 1, true));
        let ring = &mut self.rings[queue];
        let head = if self.indirect { ring.indirect(&buffers) } else { ring.chain(&buffers) };
        ring.offer(head);
        Ticket { head, status, data: at, len: total }
    }

    /// How an offered request ended, if it has.
    #[must_use]
    pub fn reply(&mut self, queue: usize, ticket: &Ticket) -> Option<Reply> {
        let (head, written) = self.rings[queue].take()?;
        assert_eq!(head, ticket.head, "another request ended first");
        Some(self.look(ticket, written))
    }

    /// The reply of a request that is known to have ended.
    #[must_use]
    pub fn look(&self, ticket: &Ticket, written: u32) -> Reply {
        let memory = &self.function.machine.memory;
        Reply {
            status: memory.read(ticket.status, 1)[0],
            written,
            data: memory.read(ticket.data, ticket.len as usize),
        }
    }

    /// The head of an offered request.
    #[must_use]
    pub fn head(ticket: &Ticket) -> u16 {
        ticket.head
    }

    /// Does one request on queue 0.
    ///
    /// # Panics
    /// When it does not end.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[u8], len: u32) -> Reply {
        let ticket = self.offer(0, kind, sector, data, len);
        self.rings[0].notify();
        self.function.machine.run();
        self.reply(0, &ticket).expect("an answer")
    }

    /// Reads.
    pub fn read(&mut self, sector: u64, len: u32) -> Reply {
        self.request(0, sector, &[], len)
    }

    /// Writes.
    pub fn write(&mut self, sector: u64, data: &[u8]) -> Reply {
        self.request(1, sector, data, 0)
    }

    /// Flushes.
    pub fn flush(&mut self) -> Reply {
        self.request(4, 0, &[], 0)
    }

    /// A discard (11), write-zeroes (13) or secure erase (14).
    pub fn segment(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> Reply {
        let mut data = sector.to_le_bytes().to_vec();
        data.extend(sectors.to_le_bytes());
        data.extend(flags.to_le_bytes());
        self.request(kind, 0, &data, 0)
    }
}
