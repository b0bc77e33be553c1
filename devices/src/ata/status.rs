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
        // What an answer that does not come is to a link: how its errors are injected.
        BlockError::TimedOut => error::ICRC | error::ABRT,
        BlockError::Misaligned
        | BlockError::ReadOnly
        | BlockError::NoSpace
        | BlockError::Unsupported
        | BlockError::Corrupt
        | BlockError::Aborted
        | BlockError::NoMemory
        | BlockError::Permission
        | BlockError::Gone => error::ABRT,
    }
}
