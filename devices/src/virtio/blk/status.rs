//! What a request ends with.

use spindle_block::BlockError;

/// The status byte of a request (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR
    IoErr = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupp = 2,
}

impl From<BlockError> for Status {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Unsupported => Self::Unsupp,
            BlockError::OutOfRange
            | BlockError::Misaligned
            | BlockError::ReadOnly
            | BlockError::NoSpace
            | BlockError::Medium
            | BlockError::Corrupt
            | BlockError::Aborted
            | BlockError::TimedOut
            | BlockError::NoMemory
            | BlockError::Permission
            | BlockError::Gone => Self::IoErr,
        }
    }
}
