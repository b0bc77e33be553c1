//! From an error of the block layer to the ERROR field.

use spindle_block::{BlockError, Op};

use super::spec::error;

/// The ERROR bits of a command that failed below (ACS-3, 6.3).
#[must_use]
pub fn error_of(error: BlockError, op: Op) -> u8 {
    match error {
        BlockError::OutOfRange => error::IDNF,
        // UNC is about reading; a write fails by ID NOT FOUND where nothing was written
        // (ACS-3, table 163).
        BlockError::Medium if op == Op::Read => error::UNC,
        BlockError::Medium => error::IDNF,
        BlockError::Misaligned
        | BlockError::ReadOnly
        | BlockError::NoSpace
        | BlockError::Unsupported
        | BlockError::Corrupt
        | BlockError::Aborted
        | BlockError::TimedOut
        | BlockError::NoMemory
        | BlockError::Permission
        | BlockError::Gone => error::ABRT,
    }
}
