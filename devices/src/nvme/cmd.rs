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
    /// Write zeroes that the host lets be deallocated.
    Dataset {
        /// Ranges, 1 to 256.
        ranges: u32,
        /// Attribute: deallocate. Without it there is nothing to do.
        deallocate: bool,
    },
}

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
            _ => Err(Status::INVALID_OPCODE),
        }
    }
}

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
