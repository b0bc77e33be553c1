//! From an error of the block layer to bits of the card status.

use spindle_block::BlockError;

use super::spec::status;

/// What the card status says of a transfer that failed below.
#[must_use]
pub fn error_bits(error: BlockError) -> u32 {
    match error {
        BlockError::OutOfRange => status::OUT_OF_RANGE,
        BlockError::Misaligned => status::ADDRESS_ERROR,
        BlockError::ReadOnly => status::WP_VIOLATION,
        BlockError::Medium => status::CARD_ECC_FAILED,
        BlockError::Corrupt | BlockError::NoMemory => status::CC_ERROR,
        BlockError::NoSpace
        | BlockError::Unsupported
        | BlockError::Aborted
        | BlockError::TimedOut
        | BlockError::Permission
        | BlockError::Gone => status::ERROR,
    }
}
