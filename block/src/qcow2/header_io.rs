//! The sector of the file that holds the header's fields: changed in place, one change at a time.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use super::{
    Qcow2, be,
    header::{field, incompatible},
    sync::{Semaphore, lock},
};
use crate::{BlockError, Cx};

/// The first 512 bytes of the image, and no more: with small clusters, other things follow. A disk
/// writes a sector whole or not at all, and every field that changes is in the first.
pub(super) struct HeaderSector {
    bytes: Mutex<Vec<u8>>,
    one_at_a_time: Semaphore,
    dirty_bit: AtomicBool,
}

impl HeaderSector {
    pub fn new(bytes: Vec<u8>) -> Self {
        let set = be::u32_at(&bytes, 4) >= 3
            && be::u64_at(&bytes, field::INCOMPATIBLE) & incompatible::DIRTY != 0;
        Self {
            bytes: Mutex::new(bytes),
            one_at_a_time: Semaphore::new(1),
            dirty_bit: AtomicBool::new(set),
        }
    }
}

impl Qcow2 {
    /// Something that the header says now.
    pub(super) fn header_field<T>(&self, get: impl FnOnce(&[u8]) -> T) -> T {
        get(&lock(&self.header.bytes))
    }

    /// The first sector was written by somebody else.
    pub(super) fn header_is(&self, sector: Vec<u8>) {
        *lock(&self.header.bytes) = sector;
    }

    /// Changes fields of the header. Not durable before the next sync.
    pub(super) async fn change_header(
        &self,
        cx: &Cx,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), BlockError> {
        let _turn = self.header.one_at_a_time.take(1).await;
        let mut bytes = lock(&self.header.bytes).clone();
        change(&mut bytes);
        self.host.write_bytes(cx, 0, &bytes).await?;
        *lock(&self.header.bytes) = bytes;
        Ok(())
    }

    /// Sets and clears incompatible feature bits, durably. Version 3 only.
    pub(super) async fn set_incompatible(
        &self,
        cx: &Cx,
        set: u64,
        clear: u64,
    ) -> Result<(), BlockError> {
        self.change_header(cx, |bytes| {
            let bits = be::u64_at(bytes, field::INCOMPATIBLE) & !clear | set;
            be::put(bytes, field::INCOMPATIBLE, &bits.to_be_bytes());
        })
        .await?;
        self.host.sync(cx).await?;
        if (set | clear) & incompatible::DIRTY != 0 {
            self.header.dirty_bit.store(set & incompatible::DIRTY != 0, SeqCst);
        }
        Ok(())
    }

    /// Whether the file says that its refcounts may be wrong.
    pub(super) fn is_marked_dirty(&self) -> bool {
        self.header.dirty_bit.load(SeqCst)
    }
}
