//! What a guest could see, in the order it could see it.

use std::sync::{Mutex, PoisonError};

use crate::dma::DirtySink;

/// Something a guest can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device wrote to memory.
    Wrote {
        /// Guest address.
        address: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A message-signalled interrupt arrived.
    Interrupt {
        /// Its data.
        data: u32,
    },
}

/// A list of [`Event`]s.
#[derive(Debug, Default)]
pub struct Log(Mutex<Vec<Event>>);

impl Log {
    pub(super) fn push(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// What happened since the last call.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl DirtySink for Log {
    fn wrote(&self, address: u64, len: u64) {
        self.push(Event::Wrote { address, len });
    }
}
