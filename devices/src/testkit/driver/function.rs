//! Finding a virtio function's structures and bringing it up (virtio 1.2, 3.1 and 4.1).

use std::rc::Rc;

use super::{super::Machine, DriverRing};
use crate::pci::Address;

/// Where a structure lies in guest memory space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Guest address.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Offset of its capability in configuration space.
    pub capability: u64,
}

/// A virtio function as a driver sees it.
pub struct Function {
    /// The machine.
    pub machine: Rc<Machine>,
    /// Where the function sits.
    pub address: Address,
    /// Common configuration.
    pub common: Place,
    /// Notifications.
    pub notify: Place,
    /// ISR status.
    pub isr: Place,
    /// Device configuration.
    pub config: Place,
    /// The capability for access through configuration space.
    pub window: u64,
    /// Bytes between notification addresses.
    pub notify_step: u64,
    /// MSI-X table.
    pub table: Place,
    /// MSI-X pending bits.
    pub pending: Place,
}

impl Function {
    /// Looks at the capabilities of the function at `address`, whose BARs have addresses, and
    /// switches decoding and bus mastering on.
    ///
    /// # Panics
    /// When the function is not what a modern virtio function has to be.
    #[must_use]
    pub fn probe(machine: &Rc<Machine>, address: Address) -> Self {
        let read = |at, width| machine.pci_read(address, at, width);
        assert_eq!(read(0, 2), 0x1af4, "vendor");
        assert!((0x1040..=0x107f).contains(&read(2, 2)), "device");
        machine.pci_write(address, 4, 2, 0x0006);
        let mut function = Self {
            machine: Rc::clone(machine),
            address,
            common: Place::default(),
            notify: Place::default(),
            isr: Place::default(),
            config: Place::default(),
            window: 0,
            notify_step: 0,
            table: Place::default(),
            pending: Place::default(),
        };
        assert_eq!(read(6, 2) & 0x10, 0x10, "capability list");
        let mut at = read(0x34, 1);
        let mut count = 0;
        while at != 0 {
            function.look(at);
            at = read(at + 1, 1);
            count += 1;
            assert!(count < 48, "the capability list loops");
        }
        function
    }

    fn bar(&self, index: u64) -> u64 {
        let at = 0x10 + index * 4;
        let low = self.pci(at, 4);
        assert_eq!(low & 1, 0, "a memory BAR");
        let high = if low & 6 == 4 { self.pci(at + 4, 4) } else { 0 };
        (high << 32) | (low & !0xf)
    }

    /// A load from configuration space.
    #[must_use]
    pub fn pci(&self, at: u64, width: u8) -> u64 {
        self.machine.pci_read(self.address, at, width)
    }

    /// A store to configuration space.
    pub fn set_pci(&self, at: u64, width: u8, value: u64) {
        self.machine.pci_write(self.address, at, width, value);
    }

    fn look(&mut self, cap: u64) {
        match self.pci(cap, 1) {
            0x09 => {
                let place = Place {
                    at: self.bar(self.pci(cap + 4, 1)) + self.pci(cap + 8, 4),
                    len: self.pci(cap + 12, 4),
                    capability: cap,
                };
                match self.pci(cap + 3, 1) {
                    1 => self.common = place,
                    2 => {
                        self.notify = place;
                        self.notify_step = self.pci(cap + 16, 4);
                    }
                    3 => self.isr = place,
                    4 => self.config = place,
                    5 => self.window = cap,
                    other => panic!("virtio structure {other}"),
                }
            }
            0x11 => {
                let vectors = (self.pci(cap + 2, 2) & 0x7ff) + 1;
                let find = |at| {
                    let value = self.pci(at, 4);
                    self.bar(value & 7) + (value & !7)
                };
                let table = Place { at: find(cap + 4), len: vectors * 16, capability: cap };
                self.pending = Place { at: find(cap + 8), len: vectors.div_ceil(8), ..table };
                self.table = table;
            }
            _ => {}
        }
    }

    /// A load from the common configuration.
    #[must_use]
    pub fn get(&self, offset: u64, width: u8) -> u64 {
        self.machine.read(self.common.at + offset, width)
    }

    /// A store to the common configuration.
    pub fn set(&self, offset: u64, width: u8, value: u64) {
        self.machine.write(self.common.at + offset, width, value);
    }

    /// A load from the device configuration.
    #[must_use]
    pub fn config(&self, offset: u64, width: u8) -> u64 {
        self.machine.read(self.config.at + offset, width)
    }

    /// The device status.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.get(20, 1)
    }

    /// Whether the device says that it needs a reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.status() & 0x40 != 0
    }

    /// What the device offers.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.set(0, 4, 0);
        let low = self.get(4, 4);
        self.set(0, 4, 1);
        self.get(4, 4) << 32 | low
    }

    /// Writes the driver's choice of features.
    pub fn accept(&self, features: u64) {
        for half in 0..2 {
            self.set(8, 4, half);
            self.set(12, 4, features >> (32 * half) & 0xffff_ffff);
        }
    }

    /// Resets the device and waits until it says so.
    ///
    /// # Panics
    /// When it never does.
    pub fn reset(&self) {
        self.set(20, 1, 0);
        self.machine.run();
        assert_eq!(self.status(), 0, "the reset never ended");
    }

    /// From a reset to agreed features. Returns whether the device took them.
    pub fn negotiate(&self, features: u64) -> bool {
        self.reset();
        self.set(20, 1, 1);
        self.set(20, 1, 3);
        self.accept(features);
        self.set(20, 1, 11);
        self.status() & 8 != 0
    }

    /// Says that the driver is ready.
    pub fn ready(&self) {
        self.set(20, 1, 15);
        self.machine.turn();
    }

    /// Makes a ring for a queue, of `size` entries, and tells the device where it is.
    ///
    /// # Panics
    /// When the queue does not exist or refuses the size.
    #[must_use]
    pub fn queue(&self, index: u16, size: u16, features: u64) -> DriverRing {
        let mut ring = DriverRing::new(&self.machine, size, features & 1 << 29 != 0);
        self.place(index, &ring);
        self.set(28, 2, 1);
        ring.bell = self.bell(index);
        ring
    }

    /// Tells the device where a ring is, without enabling the queue.
    pub fn place(&self, index: u16, ring: &DriverRing) {
        self.set(22, 2, index.into());
        assert!(self.get(24, 2) >= u64::from(ring.size), "queue {index} is too small");
        self.set(24, 2, ring.size.into());
        for (at, address) in [(32, ring.desc), (40, ring.avail), (48, ring.used)] {
            self.set(at, 4, address & 0xffff_ffff);
            self.set(at + 4, 4, address >> 32);
        }
    }

    /// The notification address of a queue.
    #[must_use]
    pub fn bell(&self, index: u16) -> u64 {
        self.set(22, 2, index.into());
        self.notify.at + self.get(30, 2) * self.notify_step
    }

    /// Switches MSI-X on, with message `data` for each vector, all unmasked.
    pub fn enable_msix(&self) {
        self.set_pci(self.table.capability + 2, 2, 0x8000);
        for vector in 0..self.table.len / 16 {
            self.set_vector(vector, vector as u32 + 100, false);
        }
    }

    /// Writes an entry of the MSI-X table.
    pub fn set_vector(&self, vector: u64, data: u32, masked: bool) {
        let at = self.table.at + vector * 16;
        self.machine.write(at, 4, 0xfee0_0000);
        self.machine.write(at + 4, 4, 0);
        self.machine.write(at + 8, 4, data.into());
        self.machine.write(at + 12, 4, masked.into());
    }

    /// Names the vectors of the configuration and of a queue.
    pub fn use_vectors(&self, config: u16, queue: u16, vector: u16) {
        self.set(16, 2, config.into());
        self.set(22, 2, queue.into());
        self.set(26, 2, vector.into());
    }
}
