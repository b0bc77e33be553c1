//! The driver's side of a split ring (virtio 1.2, 2.7).

use std::rc::Rc;

use super::super::Machine;

/// Descriptor flag: there is a next one.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;

/// A descriptor, as wrong as a test wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

impl Descriptor {
    /// Sixteen bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A ring in guest memory.
pub struct DriverRing {
    /// The machine.
    pub machine: Rc<Machine>,
    /// Entries.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    /// Where to notify.
    pub bell: u64,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// Chains made available so far.
    pub avail_idx: u16,
    /// Used elements taken so far.
    pub used_idx: u16,
    next_desc: u16,
}

impl DriverRing {
    /// A ring of `size` entries in fresh memory.
    #[must_use]
    pub fn new(machine: &Rc<Machine>, size: u16, event_idx: bool) -> Self {
        let entries = u64::from(size);
        Self {
            machine: Rc::clone(machine),
            size,
            desc: machine.memory.alloc(entries * 16, 16),
            avail: machine.memory.alloc(6 + entries * 2, 2),
            used: machine.memory.alloc(6 + entries * 8, 4),
            bell: 0,
            event_idx,
            avail_idx: 0,
            used_idx: 0,
            next_desc: 0,
        }
    }

    /// Writes a descriptor.
    pub fn set(&self, index: u16, descriptor: Descriptor) {
        self.machine.memory.write(self.desc + u64::from(index) * 16, &descriptor.bytes());
    }

    /// Writes a chain of buffers (address, length, whether the device writes) into the next free
    /// descriptors, which wrap around. Returns its head.
    pub fn chain(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_desc;
        for (i, (address, len, write)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let index = self.next_desc;
            self.next_desc = (index + 1) % self.size;
            let flags = if last { 0 } else { NEXT } | if *write { WRITE } else { 0 };
            let next = if last { 0 } else { self.next_desc };
            self.set(index, Descriptor { address: *address, len: *len, flags, next });
        }
        head
    }

    /// Writes the buffers into an indirect table, and one descriptor that names it.
    pub fn indirect(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let table = self.machine.memory.alloc(buffers.len() as u64 * 16, 16);
        for (i, (address, len, write)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let flags = if last { 0 } else { NEXT } | if *write { WRITE } else { 0 };
            let descriptor = Descriptor { address: *address, len: *len, flags, next: i as u16 + 1 };
            self.machine.memory.write(table + i as u64 * 16, &descriptor.bytes());
        }
        let head = self.next_desc;
        self.next_desc = (head + 1) % self.size;
        let len = buffers.len() as u32 * 16;
        self.set(head, Descriptor { address: table, len, flags: INDIRECT, next: 0 });
        head
    }

    /// Puts a head into the available ring and publishes it.
    pub fn offer(&mut self, head: u16) {
        let at = self.avail + 4 + u64::from(self.avail_idx % self.size) * 2;
        self.machine.memory.set_number(at, 2, head.into());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.machine.memory.set_number(self.avail + 2, 2, self.avail_idx.into());
    }

    /// Whether the device wants to be notified of what was offered since `old`.
    #[must_use]
    pub fn wants_notification(&self, old: u16) -> bool {
        if self.event_idx {
            let at = self.used + 4 + u64::from(self.size) * 8;
            let event = self.machine.memory.number(at, 2) as u16;
            self.avail_idx.wrapping_sub(event).wrapping_sub(1) < self.avail_idx.wrapping_sub(old)
        } else {
            self.machine.memory.number(self.used, 2) & 1 == 0
        }
    }

    /// Notifies, whether wanted or not.
    pub fn notify(&self) {
        self.machine.write(self.bell, 2, 0);
    }

    /// The next used element: head and length.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        let memory = &self.machine.memory;
        if memory.number(self.used + 2, 2) as u16 == self.used_idx {
            return None;
        }
        let at = self.used + 4 + u64::from(self.used_idx % self.size) * 8;
        self.used_idx = self.used_idx.wrapping_add(1);
        Some((memory.number(at, 4) as u16, memory.number(at + 4, 4) as u32))
    }

    /// Asks for an interrupt once the used index passes `index`.
    pub fn set_used_event(&self, index: u16) {
        let at = self.avail + 4 + u64::from(self.size) * 2;
        self.machine.memory.set_number(at, 2, index.into());
    }
}
