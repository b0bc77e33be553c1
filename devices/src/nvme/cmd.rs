//! From a command's bytes to what is to be done: pure, no guest memory in sight.

use spindle_block::{Op, Range};

use super::{
    spec::{Sqe, nvm},
    status::Status,
};

/// What a namespace is like, as far as parsing needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logical block size as a power of two.
    pub shift: u8,
    /// Logical blocks.
    pub blocks: u64,
    /// Largest data transfer in bytes.
    pub transfer_max: u64,
    /// No writes.
    pub read_only: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// One request of the block layer; reads and writes transfer what their range has.
    Block(Op, Range),
    /// Reads and compares: the range's data is transferred from the host.
    Compare(Range),
    /// Reads without a transfer.
    Verify(Range),
    /// Makes blocks unreadable until they are written.
    WriteUncorrectable(Range),
    /// Copies source ranges, of which the list is transferred, one behind the other.
    Copy {
        /// Source ranges, 1 to [`COPY_RANGES_MAX`].
        ranges: u32,
        /// First byte of the destination.
        to: u64,
        /// Force unit access.
        fua: bool,
    },
    /// Something about reservations; what it is, is in dword 10.
    Reservation(Reserve),
    /// Deallocates ranges, of which the list is transferred.
    Dataset {
        /// Ranges, 1 to 256.
        ranges: u32,
        /// Attribute: deallocate. Without it there is nothing to do.
        deallocate: bool,
    },
}

/// A reservation command: its dwords 10 and 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Reservation Register.
    Register(u32),
    /// Reservation Acquire.
    Acquire(u32),
    /// Reservation Release.
    Release(u32),
    /// Reservation Report: dwords less one, extended.
    Report(u32, bool),
}

/// Most source ranges of a copy (MSRC is one less).
pub const COPY_RANGES_MAX: u32 = 128;
/// Most blocks of a source range, and of a copy (MSSRL, MCL).
pub const COPY_BLOCKS_MAX: u32 = 0x8000;

/// Command dword 12 (NVM 3.2).
const FUA: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;

impl Command {
    /// What `sqe` asks of a namespace.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    #[inline]
    pub fn parse(sqe: &Sqe, limits: &Limits) -> Result<Self, Status> {
        let fua = sqe.dword::<12>() & FUA != 0;
        match sqe.opcode {
            nvm::READ => Ok(Self::Block(Op::Read, transfer(sqe, limits)?)),
            nvm::WRITE => writable(limits)
                .and(transfer(sqe, limits))
                .map(|range| Self::Block(Op::Write { fua }, range)),
            nvm::FLUSH => Ok(Self::Block(Op::Flush, Range::default())),
            nvm::WRITE_ZEROES => {
                writable(limits)?;
                let unmap = sqe.dword::<12>() & DEALLOCATE != 0;
                Ok(Self::Block(Op::WriteZeroes { unmap, fua }, range(sqe, limits)?))
            }
            nvm::COMPARE => Ok(Self::Compare(transfer(sqe, limits)?)),
            nvm::VERIFY => Ok(Self::Verify(range(sqe, limits)?)),
            nvm::DATASET => {
                let deallocate = sqe.dword::<11>() & 4 != 0;
                if deallocate {
                    writable(limits)?;
                }
                Ok(Self::Dataset { ranges: (sqe.dword::<10>() & 0xff) + 1, deallocate })
            }
            nvm::WRITE_UNCORRECTABLE => {
                writable(limits).and(range(sqe, limits)).map(Self::WriteUncorrectable)
            }
            nvm::COPY => {
                writable(limits)?;
                let dword = sqe.dword::<12>();
                let ranges = (dword & 0xff) + 1;
                // One descriptor format, no protection information.
                if dword >> 8 & 0xf != 0 {
                    return Err(Status::INVALID_FIELD);
                }
                if ranges > COPY_RANGES_MAX {
                    return Err(Status::COMMAND_SIZE_LIMIT);
                }
                let lba = u64::from(sqe.dword::<10>()) | u64::from(sqe.dword::<11>()) << 32;
                let to = byte_range(lba, 0, limits)?.offset;
                Ok(Self::Copy { ranges, to, fua })
            }
            nvm::RESERVATION_REGISTER => {
                Ok(Self::Reservation(Reserve::Register(sqe.dword::<10>())))
            }
            nvm::RESERVATION_ACQUIRE => Ok(Self::Reservation(Reserve::Acquire(sqe.dword::<10>()))),
            nvm::RESERVATION_RELEASE => Ok(Self::Reservation(Reserve::Release(sqe.dword::<10>()))),
            nvm::RESERVATION_REPORT => {
                let extended = sqe.dword::<11>() & 1 != 0;
                let dwords = sqe.dword::<10>();
                if (u64::from(dwords) + 1) * 4 > limits.transfer_max {
                    return Err(Status::INVALID_FIELD);
                }
                Ok(Self::Reservation(Reserve::Report(dwords, extended)))
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Bytes that are transferred between host and controller.
    #[must_use]
    pub fn transfer_len(&self) -> u64 {
        match self {
            Self::Block(op, range) if op.has_data() => range.len,
            Self::Compare(range) => range.len,
            Self::Copy { ranges, .. } => u64::from(*ranges) * COPY_RANGE_LEN,
            Self::Dataset { ranges, .. } => u64::from(*ranges) * 16,
            Self::Reservation(Reserve::Register(_) | Reserve::Acquire(_)) => 16,
            Self::Reservation(Reserve::Release(_)) => 8,
            Self::Reservation(Reserve::Report(dwords, _)) => (u64::from(*dwords) + 1) * 4,
            Self::Block(..) | Self::Verify(_) | Self::WriteUncorrectable(_) => 0,
        }
    }

    /// What reservations keep hosts from: reading (`false`) or writing (`true`) (Base figure 465).
    #[must_use]
    pub fn is_guarded(&self) -> Option<bool> {
        match self {
            Self::Block(Op::Read, _) | Self::Compare(_) | Self::Verify(_) => Some(false),
            Self::Block(..)
            | Self::WriteUncorrectable(_)
            | Self::Copy { .. }
            | Self::Dataset { .. } => Some(true),
            Self::Reservation(_) => None,
        }
    }
}

/// Bytes of a source range of a copy (NVM figure 36).
pub const COPY_RANGE_LEN: u64 = 32;

fn writable(limits: &Limits) -> Result<(), Status> {
    if limits.read_only { Err(Status::WRITE_PROTECTED) } else { Ok(()) }
}

/// The range of bytes that dwords 10 to 12 name.
#[inline]
fn range(sqe: &Sqe, limits: &Limits) -> Result<Range, Status> {
    let lba = u64::from(sqe.dword::<10>()) | u64::from(sqe.dword::<11>()) << 32;
    let blocks = u64::from(sqe.dword::<12>() & 0xffff) + 1;
    byte_range(lba, blocks, limits)
}

/// Blocks as a range of bytes.
///
/// # Errors
/// When they do not lie in the namespace.
#[inline]
pub fn byte_range(lba: u64, blocks: u64, limits: &Limits) -> Result<Range, Status> {
    let end = lba.checked_add(blocks).ok_or(Status::LBA_RANGE)?;
    if end > limits.blocks {
        return Err(Status::LBA_RANGE);
    }
    Ok(Range::new(lba << limits.shift, blocks << limits.shift))
}

/// The same, of a command that transfers the data.
#[inline]
fn transfer(sqe: &Sqe, limits: &Limits) -> Result<Range, Status> {
    let blocks = u64::from(sqe.dword::<12>() & 0xffff) + 1;
    if blocks << limits.shift > limits.transfer_max {
        return Err(Status::INVALID_FIELD);
    }
    range(sqe, limits)
}
