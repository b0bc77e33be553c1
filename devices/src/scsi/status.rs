//! From an error of the block layer to sense data.

use spindle_block::BlockError;

use super::{
    sense::Sense,
    spec::{asc, key},
};

/// I/O PROCESS TERMINATED
const IO_PROCESS_TERMINATED: u16 = 0x0006;
/// LOGICAL UNIT COMMUNICATION FAILURE
const COMMUNICATION_FAILURE: u16 = 0x0800;
/// COMMAND TIMEOUT DURING PROCESSING
const COMMAND_TIMEOUT: u16 = 0x2e02;
/// SYSTEM RESOURCE FAILURE
const SYSTEM_RESOURCE_FAILURE: u16 = 0x5500;

/// The sense data of a command that failed below. `lba` is the first block of what failed.
#[must_use]
pub fn sense_of(error: BlockError, read: bool, lba: Option<u64>) -> Sense {
    let medium = if read { asc::UNRECOVERED_READ_ERROR } else { asc::WRITE_ERROR };
    let mut sense = match error {
        BlockError::OutOfRange => Sense::illegal(asc::LBA_OUT_OF_RANGE),
        BlockError::Misaligned => Sense::illegal(asc::INVALID_FIELD_IN_CDB),
        BlockError::ReadOnly => Sense::new(key::DATA_PROTECT, asc::WRITE_PROTECTED),
        BlockError::NoSpace => Sense::new(key::DATA_PROTECT, asc::SPACE_ALLOCATION_FAILED),
        BlockError::Medium => Sense::new(key::MEDIUM_ERROR, medium),
        BlockError::Unsupported => Sense::illegal(asc::INVALID_OPCODE),
        BlockError::Corrupt | BlockError::Permission => {
            Sense::new(key::HARDWARE_ERROR, asc::INTERNAL_FAILURE)
        }
        BlockError::Aborted => Sense::new(key::ABORTED_COMMAND, IO_PROCESS_TERMINATED),
        BlockError::TimedOut => Sense::new(key::ABORTED_COMMAND, COMMAND_TIMEOUT),
        BlockError::NoMemory => Sense::new(key::HARDWARE_ERROR, SYSTEM_RESOURCE_FAILURE),
        BlockError::Gone => Sense::new(key::NOT_READY, COMMUNICATION_FAILURE),
    };
    if matches!(sense.key, key::MEDIUM_ERROR | key::HARDWARE_ERROR) {
        sense.info = lba;
    }
    sense
}
