//! Where a unit keeps what must outlive the machine.

use std::sync::{Mutex, PoisonError};

use spindle_block::BlockError;

/// A place for the few bytes of a unit that survive a power loss. Called with the unit locked: an
/// implementation that writes a file makes the command that changed a reservation wait for it, as
/// APTPL asks (SPC-5, 5.14.5).
pub trait Persist: Send + Sync {
    /// What was stored last; `None` if nothing was.
    fn load(&self) -> Option<Vec<u8>>;

    /// Stores `bytes`, durably before it returns.
    ///
    /// # Errors
    /// When they could not be stored; what was stored before is still there.
    fn store(&self, bytes: &[u8]) -> Result<(), BlockError>;
}

/// Keeps the bytes in memory: they survive the unit, not the process.
#[derive(Debug, Default)]
pub struct InMemory(Mutex<Option<Vec<u8>>>);

impl Persist for InMemory {
    fn load(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn store(&self, bytes: &[u8]) -> Result<(), BlockError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_vec());
        Ok(())
    }
}
