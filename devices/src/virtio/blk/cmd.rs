//! From a request's bytes to what is to be done: pure, no guest memory in sight.

use spindle_block::{Op, Range};

use super::{
    spec::{
        Header, ID_LEN, LIFETIME_LEN, SECTOR, SEGMENT_LEN, SEGMENT_UNMAP, Segment, feature, request,
    },
    status::Status,
};

/// A request as it came off the ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// Its first bytes.
    pub header: Header,
    /// Bytes that the device reads, behind the header.
    pub out_len: u64,
    /// Bytes that the device writes, before the status byte.
    pub in_len: u64,
}

/// What the device is like, as far as parsing needs it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The features that the driver accepted.
    pub features: u64,
    /// The sector size the guest sees, in bytes.
    pub block_size: u64,
    /// Largest discard and secure erase, in sectors of 512 bytes.
    pub max_discard_sectors: u32,
    /// Largest write-zeroes, in sectors of 512 bytes.
    pub max_write_zeroes_sectors: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Something for the block layer; reads and writes use the request's own memory.
    Block(Op, Range),
    /// Something of which the bytes behind the header have to be known first: exactly one
    /// [`Segment`]; see [`SegmentOp::with_segment`].
    Segment(SegmentOp),
    /// Answer with the serial number.
    Id,
    /// Answer with the state of wear.
    Lifetime,
}

/// What is done to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentOp {
    /// Discard.
    Discard,
    /// Write zeroes.
    WriteZeroes,
    /// Secure erase.
    SecureErase,
}

impl Request {
    /// What the request asks for.
    ///
    /// # Errors
    /// The status of a request that makes no sense.
    pub fn parse(&self, limits: &Limits) -> Result<Command, Status> {
        let if_offered = |bit, op| {
            if limits.features & bit == 0 {
                return Err(Status::Unsupp);
            }
            // `max_…_seg` is 1.
            let one = self.out_len == SEGMENT_LEN as u64;
            if one { Ok(Command::Segment(op)) } else { Err(Status::IoErr) }
        };
        match self.header.kind.get() {
            request::IN if self.out_len == 0 => self.transfer(limits, Op::Read, self.in_len),
            request::OUT if self.in_len == 0 => {
                self.transfer(limits, Op::Write { fua: false }, self.out_len)
            }
            // Data in the wrong direction.
            request::IN | request::OUT => Err(Status::IoErr),
            request::FLUSH => Ok(Command::Block(Op::Flush, Range::default())),
            request::GET_ID if self.out_len == 0 && self.in_len > 0 => Ok(Command::Id),
            request::GET_LIFETIME if limits.features & feature::LIFETIME == 0 => {
                Err(Status::Unsupp)
            }
            request::GET_LIFETIME if self.out_len == 0 && self.in_len >= LIFETIME_LEN as u64 => {
                Ok(Command::Lifetime)
            }
            request::GET_ID | request::GET_LIFETIME => Err(Status::IoErr),
            request::DISCARD => if_offered(feature::DISCARD, SegmentOp::Discard),
            request::WRITE_ZEROES => if_offered(feature::WRITE_ZEROES, SegmentOp::WriteZeroes),
            request::SECURE_ERASE => if_offered(feature::SECURE_ERASE, SegmentOp::SecureErase),
            _ => Err(Status::Unsupp),
        }
    }

    fn transfer(&self, limits: &Limits, op: Op, len: u64) -> Result<Command, Status> {
        let offset = byte_offset(self.header.sector.get())?;
        if (offset | len) & (limits.block_size - 1) != 0 {
            return Err(Status::IoErr);
        }
        Ok(Command::Block(op, Range::new(offset, len)))
    }
}

impl SegmentOp {
    /// What is done to `segment`.
    ///
    /// # Errors
    /// The status of a segment that makes no sense (5.2.6.2).
    pub fn with_segment(self, segment: Segment, limits: &Limits) -> Result<(Op, Range), Status> {
        let flags = segment.flags.get();
        let unmap = flags & SEGMENT_UNMAP != 0;
        if flags & !SEGMENT_UNMAP != 0 || (unmap && self != Self::WriteZeroes) {
            return Err(Status::Unsupp);
        }
        let max = match self {
            Self::Discard | Self::SecureErase => limits.max_discard_sectors,
            Self::WriteZeroes => limits.max_write_zeroes_sectors,
        };
        let offset = byte_offset(segment.sector.get())?;
        let len = u64::from(segment.sectors.get()) * SECTOR;
        if segment.sectors.get() > max || (offset | len) & (limits.block_size - 1) != 0 {
            return Err(Status::IoErr);
        }
        let op = match self {
            Self::Discard => Op::Discard,
            Self::WriteZeroes => Op::WriteZeroes { unmap, fua: false },
            // Zeros over the old data, on the medium before the answer.
            Self::SecureErase => Op::WriteZeroes { unmap: false, fua: true },
        };
        Ok((op, Range::new(offset, len)))
    }
}

fn byte_offset(sector: u64) -> Result<u64, Status> {
    sector.checked_mul(SECTOR).ok_or(Status::IoErr)
}

/// The serial number as GET_ID answers it: padded with zeros, without a terminator where it is
/// full.
#[must_use]
pub fn id_bytes(serial: &str) -> [u8; ID_LEN] {
    let mut id = [0; ID_LEN];
    id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
    id
}
