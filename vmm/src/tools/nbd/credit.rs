//! How much one connection may have under way: requests, and the memory of their data.
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Most requests of one connection.
const REQUESTS_MAX: usize = 64;
/// Most bytes of data of one connection: as many as one request may have.
const BYTES_MAX: u64 = super::spec::DATA_MAX as u64;

#[derive(Default)]
struct Used {
    requests: usize,
    bytes: u64,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Credit {
    used: Mutex<Used>,
    changed: Condvar,
}

/// A request's share; given back when it is dropped, with the reply written or given up.
pub(super) struct Ticket {
    credit: Arc<Credit>,
    bytes: u64,
}

impl Credit {
    /// Waits until a request with so many bytes may begin.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Ticket {
        let bytes = bytes.min(BYTES_MAX);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.requests >= REQUESTS_MAX || used.bytes + bytes > BYTES_MAX {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        used.requests += 1;
        used.bytes += bytes;
        Ticket { credit: Arc::clone(self), bytes }
    }

    /// Waits until nothing is under way.
    pub fn wait_for_all(&self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.requests > 0 {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut used = self.credit.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.requests -= 1;
        used.bytes -= self.bytes;
        self.credit.changed.notify_all();
    }
}
