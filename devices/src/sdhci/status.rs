//! From an error of the block layer, and from a card's response, to what the host controller sees.

use spindle_block::BlockError;

use super::spec::{command, error};
use crate::sd::Response;

/// What of a transfer that failed below shows on the data lines: a card that cannot read does not
/// send, one that cannot write answers with a negative CRC status. The reason is in the card status.
pub(super) fn data_error(reason: BlockError, write: bool) -> u16 {
    match reason {
        BlockError::OutOfRange
        | BlockError::Misaligned
        | BlockError::ReadOnly
        | BlockError::NoSpace
        | BlockError::Medium
        | BlockError::Unsupported
        | BlockError::Corrupt
        | BlockError::Aborted
        | BlockError::TimedOut
        | BlockError::NoMemory
        | BlockError::Permission
        | BlockError::Gone => {
            if write {
                error::DATA_CRC
            } else {
                error::DATA_TIMEOUT
            }
        }
    }
}

/// What is left in the response registers (SDHC table 2-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Nothing.
    None,
    /// Bits 39 to 8 of a response of 48 bits.
    Short(u32),
    /// Bits 127 to 8 of one of 136 bits, the lowest first.
    Long([u32; 4]),
}

/// Receives a response as the command register wants it, or fails with bits of the error status.
pub(super) fn receive(response: Response, flags: u16) -> Result<Words, u16> {
    let kind = flags & command::RESPONSE;
    match (kind, response) {
        (command::NONE, _) => Ok(Words::None),
        (_, Response::None) => Err(error::COMMAND_TIMEOUT),
        (command::LONG, Response::Long(bytes)) => {
            if flags & command::CHECK_INDEX != 0 {
                return Err(error::COMMAND_INDEX);
            }
            let all = u128::from_be_bytes(bytes) >> 8;
            Ok(Words::Long([0, 32, 64, 96].map(|at| (all >> at) as u32)))
        }
        // It ends before the host thinks so, or goes on after.
        (command::LONG, _) => Err(error::COMMAND_CRC),
        (_, Response::Long(_)) => Err(error::COMMAND_END),
        (_, Response::Ocr(bits)) => {
            let crc = if flags & command::CHECK_CRC != 0 { error::COMMAND_CRC } else { 0 };
            let index = if flags & command::CHECK_INDEX != 0 { error::COMMAND_INDEX } else { 0 };
            if crc | index == 0 { Ok(Words::Short(bits)) } else { Err(crc | index) }
        }
        (_, Response::Normal(bits)) => Ok(Words::Short(bits)),
    }
}
