//! Guest memory on the heap, and who may use which of it.

use std::{cell::Cell, rc::Rc, sync::Arc};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Log;
use crate::{
    Dma, GuestRam,
    dma::{DirtySink, FailedRam},
};

/// Guest RAM: 16 MiB from 0 on, less a hole for devices, and 4 MiB above 4 GiB.
#[derive(Clone)]
pub struct Memory {
    ram: GuestRam,
    dma: Dma,
    failed: Arc<FailedRam>,
    next: Rc<Cell<u64>>,
}

impl Memory {
    /// Bytes of RAM from address 0 on.
    pub const LOW: u64 = 16 << 20;
    /// Where RAM goes on.
    pub const HIGH_START: u64 = 4 << 30;
    /// How much there is of it.
    pub const HIGH: u64 = 4 << 20;

    /// Fresh memory, all zero.
    ///
    /// # Panics
    /// When the host has none.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None)
    }

    /// Fresh memory that notes in `log` what devices write.
    ///
    /// # Panics
    /// When the host has none.
    #[must_use]
    pub fn logged(log: Arc<Log>) -> Self {
        Self::with(Some(log))
    }

    fn with(log: Option<Arc<Log>>) -> Self {
        let ranges = [
            (GuestAddress(0), Self::LOW as usize),
            (GuestAddress(Self::HIGH_START), Self::HIGH as usize),
        ];
        let ram = GuestMemoryMmap::from_ranges(&ranges).expect("20 MiB of memory");
        let failed = Arc::new(FailedRam::default());
        let log = log.map(|log| log as Arc<dyn DirtySink>);
        let dma = Dma::failing(ram.clone(), log, Arc::clone(&failed));
        Self { ram, dma, failed, next: Rc::new(Cell::new(0x1_0000)) }
    }

    /// The devices' view of it.
    #[must_use]
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// Hides `len` bytes at `at` from devices: they find no RAM there. The guest still does.
    pub fn fail(&self, at: u64, len: u64) {
        self.failed.fail(at, len);
    }

    /// Undoes every [`Memory::fail`].
    pub fn heal(&self) {
        self.failed.heal();
    }

    /// The memory itself.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// `len` bytes that nobody else uses, aligned to `align` (a power of two). They are not given
    /// back.
    ///
    /// # Panics
    /// When low memory is used up.
    #[must_use]
    pub fn alloc(&self, len: u64, align: u64) -> u64 {
        let at = self.next.get().next_multiple_of(align);
        assert!(at + len <= Self::LOW, "the test used up its memory");
        self.next.set(at + len);
        at
    }

    /// Writes bytes as the guest does.
    ///
    /// # Panics
    /// When they are not in RAM.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).expect("guest memory");
    }

    /// Reads bytes as the guest does.
    ///
    /// # Panics
    /// When they are not in RAM.
    #[must_use]
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).expect("guest memory");
        bytes
    }

    /// Reads a little-endian number of up to 8 bytes.
    ///
    /// # Panics
    /// When it is not in RAM.
    #[must_use]
    pub fn number(&self, at: u64, width: usize) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read_slice(&mut bytes[..width], GuestAddress(at)).expect("guest memory");
        u64::from_le_bytes(bytes)
    }

    /// Writes a little-endian number of up to 8 bytes.
    ///
    /// # Panics
    /// When it is not in RAM.
    pub fn set_number(&self, at: u64, width: usize, value: u64) {
        self.write(at, &value.to_le_bytes()[..width]);
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}
