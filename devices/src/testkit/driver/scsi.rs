//! A virtio-scsi driver (virtio 1.2, 5.6).

use std::rc::Rc;

use super::{super::Machine, DriverRing, Function};
use crate::pci::Address;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiReply {
    /// The response; 0xee if the device did not write it.
    pub response: u8,
    /// The SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Vec<u8>,
    /// Bytes that the device says were not transferred.
    pub residual: u32,
    /// Bytes the device says it wrote.
    pub written: u32,
    /// What is in the data buffer.
    pub data: Vec<u8>,
}

impl ScsiReply {
    /// Whether the command was done, with status GOOD.
    #[must_use]
    pub fn is_good(&self) -> bool {
        (self.response, self.status) == (0, 0)
    }

    /// Sense key, additional sense code and qualifier, in either format; zeros without sense data.
    #[must_use]
    pub fn key(&self) -> (u8, u8, u8) {
        match self.sense.first() {
            Some(0x70 | 0xf0) => (self.sense[2] & 0xf, self.sense[12], self.sense[13]),
            Some(0x72) => (self.sense[1] & 0xf, self.sense[2], self.sense[3]),
            _ => (0, 0, 0),
        }
    }
}

/// A command that was offered.
#[derive(Clone, Copy, Debug)]
pub struct ScsiTicket {
    /// Its head in the ring.
    pub head: u16,
    /// Its command identifier.
    pub tag: u64,
    /// Guest address of the response.
    pub response: u64,
    /// Guest address of the data.
    pub data: u64,
    /// Length of the data in bytes.
    pub len: u32,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiEvent {
    /// Its type and the flag that some were lost.
    pub event: u32,
    /// The unit.
    pub lun: [u8; 8],
    /// Why.
    pub reason: u32,
}

/// An adapter with one or more request queues.
pub struct ScsiDriver {
    /// The function.
    pub function: Function,
    /// Features agreed upon.
    pub features: u64,
    /// The control queue.
    pub control: DriverRing,
    /// The event queue.
    pub events: DriverRing,
    /// The request queues.
    pub rings: Vec<DriverRing>,
    /// Use indirect tables.
    pub indirect: bool,
    /// Task attribute of commands.
    pub attribute: u8,
    next_tag: u64,
    event_buffers: Vec<(u16, u64)>,
}

const REQUEST_LEN: u64 = 51;
const RESPONSE_LEN: u64 = 108;

impl ScsiDriver {
    /// Brings up the adapter at `at`, with all features it offers that are in `wanted`, and `queues`
    /// request rings of `size` entries. Events have four buffers.
    ///
    /// # Panics
    /// When the device refuses.
    #[must_use]
    pub fn new(machine: &Rc<Machine>, at: Address, wanted: u64, queues: u16, size: u16) -> Self {
        let function = Function::probe(machine, at);
        let features = function.offered() & wanted | 1 << 32;
        assert!(function.negotiate(features), "features {features:#x} refused");
        let control = function.queue(0, size, features);
        let events = function.queue(1, size, features);
        let rings = (0..queues).map(|i| function.queue(i + 2, size, features)).collect();
        function.ready();
        let mut driver = Self {
            function,
            features,
            control,
            events,
            rings,
            indirect: false,
            attribute: 0,
            next_tag: 1,
            event_buffers: Vec::new(),
        };
        (0..4).for_each(|_| driver.offer_event_buffer());
        driver
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.function.machine
    }

    /// The address of a unit: flat space for large numbers.
    #[must_use]
    pub fn lun(target: u8, lun: u16) -> [u8; 8] {
        let high = (lun >> 8) as u8 | if lun > 255 { 0x40 } else { 0 };
        [1, target, high, lun as u8, 0, 0, 0, 0]
    }

    /// Offers a command without notifying: `data` goes to the device, or `len` bytes come from it.
    pub fn offer(
        &mut self,
        queue: usize,
        lun: [u8; 8],
        cdb: &[u8],
        data: &[u8],
        len: u32,
    ) -> ScsiTicket {
        let memory = self.function.machine.memory.clone();
        let tag = self.next_tag;
        self.next_tag += 1;
        let request = memory.alloc(REQUEST_LEN, 8);
        memory.write(request, &[0; REQUEST_LEN as usize]);
        memory.write(request, &lun);
        memory.set_number(request + 8, 8, tag);
        memory.write(request + 16, &[self.attribute]);
        memory.write(request + 19, cdb);
        let response = memory.alloc(RESPONSE_LEN, 8);
        memory.write(response, &[0xee; RESPONSE_LEN as usize]);
        let total = data.len() as u32 + len;
        let at = memory.alloc(total.max(1).into(), 512);
        memory.write(at, data);
        let mut buffers = vec![(request, REQUEST_LEN as u32, false)];
        if !data.is_empty() {
            buffers.push((at, data.len() as u32, false));
        }
        buffers.push((response, RESPONSE_LEN as u32, true));
        if len > 0 {
            buffers.push((at + data.len() as u64, len, true));
        }
        let ring = &mut self.rings[queue];
        let head = if self.indirect { ring.indirect(&buffers) } else { ring.chain(&buffers) };
        ring.offer(head);
        ScsiTicket { head, tag, response, data: at, len: total }
    }

    /// The reply of a command that is known to have ended.
    ///
    /// # Panics
    /// When the device says that there are more sense data than there is room.
    #[must_use]
    pub fn look(&self, ticket: &ScsiTicket, written: u32) -> ScsiReply {
        let memory = &self.function.machine.memory;
        let response = memory.read(ticket.response + 11, 1)[0];
        let sense_len = if response == 0xee { 0 } else { memory.number(ticket.response, 4) };
        assert!(sense_len <= 96, "{sense_len} bytes of sense data");
        ScsiReply {
            response,
            status: memory.read(ticket.response + 10, 1)[0],
            sense: memory.read(ticket.response + 12, sense_len as usize),
            residual: memory.number(ticket.response + 4, 4) as u32,
            written,
            data: memory.read(ticket.data, ticket.len as usize),
        }
    }

    /// How an offered command ended, if it has.
    #[must_use]
    pub fn reply(&mut self, queue: usize, ticket: &ScsiTicket) -> Option<ScsiReply> {
        let (head, written) = self.rings[queue].take()?;
        assert_eq!(head, ticket.head, "another command ended first");
        Some(self.look(ticket, written))
    }

    /// Does one command on the first request queue.
    ///
    /// # Panics
    /// When it does not end.
    pub fn send(&mut self, lun: [u8; 8], cdb: &[u8], data: &[u8], len: u32) -> ScsiReply {
        let ticket = self.offer(0, lun, cdb, data, len);
        self.rings[0].notify();
        self.function.machine.run();
        self.reply(0, &ticket).expect("an answer")
    }

    /// [`ScsiDriver::send`] to target 0, lun 0.
    pub fn command(&mut self, cdb: &[u8], data: &[u8], len: u32) -> ScsiReply {
        self.send(Self::lun(0, 0), cdb, data, len)
    }

    /// Offers a task management function, and notifies. Returns its head and where the response is
    /// going to be.
    pub fn offer_tmf(&mut self, function: u32, lun: [u8; 8], tag: u64) -> (u16, u64) {
        let memory = self.function.machine.memory.clone();
        let at = memory.alloc(32, 8);
        memory.set_number(at, 4, 0);
        memory.set_number(at + 4, 4, function.into());
        memory.write(at + 8, &lun);
        memory.set_number(at + 16, 8, tag);
        memory.write(at + 24, &[0xee]);
        let head = self.control.chain(&[(at, 24, false), (at + 24, 1, true)]);
        self.control.offer(head);
        self.control.notify();
        (head, at + 24)
    }

    /// Does a task management function: its response.
    ///
    /// # Panics
    /// When it does not end.
    pub fn tmf(&mut self, function: u32, lun: [u8; 8], tag: u64) -> u8 {
        let (head, at) = self.offer_tmf(function, lun, tag);
        // The device sees it before anything that is under way ends.
        self.function.machine.turn();
        self.function.machine.run();
        assert_eq!(self.control.take(), Some((head, 1)));
        self.function.machine.memory.read(at, 1)[0]
    }

    /// Asks for (`subscribe`: subscribes to) asynchronous notifications. Returns which there are,
    /// and the response.
    ///
    /// # Panics
    /// When it does not end.
    pub fn notifications(&mut self, subscribe: bool, lun: [u8; 8], events: u32) -> (u32, u8) {
        let memory = self.function.machine.memory.clone();
        let at = memory.alloc(32, 8);
        memory.set_number(at, 4, 1 + u64::from(subscribe));
        memory.write(at + 4, &lun);
        memory.set_number(at + 12, 4, events.into());
        memory.write(at + 16, &[0xee; 5]);
        let head = self.control.chain(&[(at, 16, false), (at + 16, 5, true)]);
        self.control.offer(head);
        self.control.notify();
        self.function.machine.run();
        assert_eq!(self.control.take(), Some((head, 5)));
        (memory.number(at + 16, 4) as u32, memory.read(at + 20, 1)[0])
    }

    /// Gives the device one more buffer for events.
    pub fn offer_event_buffer(&mut self) {
        let at = self.function.machine.memory.alloc(16, 8);
        let head = self.events.chain(&[(at, 16, true)]);
        self.event_buffers.push((head, at));
        self.events.offer(head);
        self.events.notify();
    }

    /// The next event; its buffer is not given back.
    pub fn event(&mut self) -> Option<ScsiEvent> {
        self.function.machine.run();
        let (head, written) = self.events.take()?;
        assert_eq!(written, 16, "an event's length");
        let place = self.event_buffers.iter().position(|(mine, _)| *mine == head);
        let (_, at) = self.event_buffers.remove(place.expect("a buffer of ours"));
        let memory = &self.function.machine.memory;
        let lun = memory.read(at + 4, 8).try_into().expect("eight bytes");
        Some(ScsiEvent {
            event: memory.number(at, 4) as u32,
            lun,
            reason: memory.number(at + 12, 4) as u32,
        })
    }
}
