//! MSI-X: a table of messages and a bit array of pending ones, both in a BAR (PCI 6.8.2).

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering::SeqCst},
};

use crate::{
    Access, MsiIrq, MsiMessage,
    register::{Register, RegisterFile},
};

/// Bytes of one table entry.
pub const ENTRY_LEN: u64 = 16;
/// The most vectors a function can have.
pub const VECTORS_MAX: u16 = 2048;
/// Message control: MSI-X Enable.
pub(super) const ENABLE: u16 = 1 << 15;
/// Message control: Function Mask.
pub(super) const FUNCTION_MASK: u16 = 1 << 14;

const OPEN: u8 = 1;
const PENDING: u8 = 2;

const ENTRY: &[Register<&str>] = &[
    Register::read_write("message address", 0, 4, 0, 0xffff_fffc),
    Register::read_write("message upper address", 4, 4, 0, 0xffff_ffff),
    Register::read_write("message data", 8, 4, 0, 0xffff_ffff),
    Register::read_write("vector control", 12, 4, 1, 1),
];

struct Vector {
    irq: Arc<dyn MsiIrq>,
    /// `OPEN`: messages go out. `PENDING`: one waits for that.
    state: AtomicU8,
}

struct Table {
    file: RegisterFile,
    /// MSI-X is enabled, not masked as a whole, and the function may write to memory.
    deliver: bool,
    /// What each vector was configured with last.
    configured: Vec<Option<MsiMessage>>,
}

/// The vectors of one function.
pub struct Msix {
    vectors: Vec<Vector>,
    table: Mutex<Table>,
}

impl Msix {
    /// A table for these vectors, all masked, as after power-on.
    #[must_use]
    pub fn new(irqs: Vec<Arc<dyn MsiIrq>>) -> Self {
        let mut file = RegisterFile::new(irqs.len() * ENTRY_LEN as usize);
        for vector in 0..irqs.len() as u64 {
            for register in ENTRY {
                file.add(&Register { offset: register.offset + vector * ENTRY_LEN, ..*register });
            }
        }
        let configured = vec![None; irqs.len()];
        let vectors = irqs.into_iter().map(|irq| Vector { irq, state: AtomicU8::new(0) }).collect();
        Self { vectors, table: Mutex::new(Table { file, deliver: false, configured }) }
    }

    /// How many vectors there are.
    #[must_use]
    pub fn len(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Sends the vector's message, or marks it pending while it is masked. Takes no lock. A vector
    /// that does not exist is ignored.
    pub fn raise(&self, vector: u16) {
        let Some(vector) = self.vectors.get(usize::from(vector)) else { return };
        let before = vector
            .state
            .fetch_update(SeqCst, SeqCst, |state| (state & OPEN == 0).then_some(state | PENDING));
        if before.is_err() {
            vector.irq.raise();
        }
    }

    /// The function's enable bits have changed: `deliver` says whether unmasked vectors go out.
    pub(super) fn set_delivery(&self, deliver: bool) {
        let mut table = self.lock();
        table.deliver = deliver;
        for vector in 0..self.vectors.len() {
            self.apply(&mut table, vector);
        }
    }

    /// Everything masked and nothing pending, as after power-on.
    pub(super) fn reset(&self) {
        let mut table = self.lock();
        table.file.reset();
        table.deliver = false;
        for (index, vector) in self.vectors.iter().enumerate() {
            self.apply(&mut table, index);
            vector.state.store(0, SeqCst);
        }
    }

    /// A load from the table.
    #[must_use]
    pub fn table_read(&self, access: Access) -> u64 {
        self.lock().file.read(access)
    }

    /// A store to the table.
    pub fn table_write(&self, access: Access, value: u64) {
        let mut table = self.lock();
        table.file.write(access, value);
        let last = access.offset.saturating_add(u64::from(access.width.max(1)) - 1);
        for vector in access.offset / ENTRY_LEN..=last / ENTRY_LEN {
            if vector < self.vectors.len() as u64 {
                self.apply(&mut table, vector as usize);
            }
        }
    }

    /// A load from the pending bit array; stores to it are ignored.
    #[must_use]
    pub fn pending_read(&self, access: Access) -> u64 {
        let first = access.offset.saturating_mul(8);
        (0..u64::from(access.width.min(8)) * 8).fold(0, |bits, i| {
            let vector = first.saturating_add(i);
            let vector = usize::try_from(vector).ok().and_then(|v| self.vectors.get(v));
            let pending = vector.is_some_and(|v| v.state.load(SeqCst) & PENDING != 0);
            bits | u64::from(pending) << i
        })
    }

    /// Bytes of the pending bit array: whole quadwords.
    #[must_use]
    pub fn pending_len(&self) -> u64 {
        (self.vectors.len() as u64).div_ceil(64) * 8
    }

    /// Brings one vector in line with its entry: the message first, then the gate, then what waited.
    fn apply(&self, table: &mut Table, index: usize) {
        let at = index as u64 * ENTRY_LEN;
        let masked = table.file.get(at + 12, 4) & 1 != 0;
        let message =
            MsiMessage { address: table.file.get(at, 8), data: table.file.get(at + 8, 4) as u32 };
        let wanted = (table.deliver && !masked).then_some(message);
        let vector = &self.vectors[index];
        if wanted.is_none() {
            vector.state.fetch_and(!OPEN, SeqCst);
        }
        if table.configured[index] != wanted {
            vector.irq.configure(wanted);
            table.configured[index] = wanted;
        }
        if wanted.is_some() && vector.state.swap(OPEN, SeqCst) & PENDING != 0 {
            vector.irq.raise();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // Nothing in here panics half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
