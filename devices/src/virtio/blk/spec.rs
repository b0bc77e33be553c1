//! Constants and layouts: virtio 1.2, 5.2.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32, U64},
};

/// Device type (5.2.1).
pub const DEVICE_TYPE: u16 = 2;
/// The unit of capacity, request sectors and limits, whatever the block size (5.2.4).
pub const SECTOR: u64 = 512;
/// Length of what GET_ID answers (5.2.6).
pub const ID_LEN: usize = 20;

/// Feature bits (5.2.3).
pub mod feature {
    /// `size_max` is valid.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// `geometry` is valid.
    pub const GEOMETRY: u64 = 1 << 4;
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Flush requests are understood.
    pub const FLUSH: u64 = 1 << 9;
    /// `topology` is valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// `writeback` can be written.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// `num_queues` is valid.
    pub const MQ: u64 = 1 << 12;
    /// Discards are understood.
    pub const DISCARD: u64 = 1 << 13;
    /// Write-zeroes are understood.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// Requests for the state of wear are understood.
    pub const LIFETIME: u64 = 1 << 15;
    /// Secure erases are understood.
    pub const SECURE_ERASE: u64 = 1 << 16;
}

/// Request types (5.2.6).
pub mod request {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Flush.
    pub const FLUSH: u32 = 4;
    /// Read the serial number.
    pub const GET_ID: u32 = 8;
    /// Read the state of wear.
    pub const GET_LIFETIME: u32 = 10;
    /// Discard.
    pub const DISCARD: u32 = 11;
    /// Write zeroes.
    pub const WRITE_ZEROES: u32 = 13;
    /// Erase so that nothing can be recovered.
    pub const SECURE_ERASE: u32 = 14;
}

/// What a request starts with (5.2.6).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// See [`request`].
    pub kind: U32,
    /// Once a priority.
    pub reserved: U32,
    /// First sector of 512 bytes.
    pub sector: U64,
}

/// Length of [`Header`].
pub const HEADER_LEN: usize = 16;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// What discard, write-zeroes and secure erase carry (5.2.6).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// First sector of 512 bytes.
    pub sector: U64,
    /// How many.
    pub sectors: U32,
    /// Bit 0: unmap.
    pub flags: U32,
}

/// Length of [`Segment`].
pub const SEGMENT_LEN: usize = 16;
const _: () = assert!(size_of::<Segment>() == SEGMENT_LEN);
/// [`Segment::flags`]: the space may be given back.
pub const SEGMENT_UNMAP: u32 = 1;

/// What GET_LIFETIME answers (5.2.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Lifetime {
    /// 0: undefined, 1: normal, 2: 80 % of the reserved blocks are used, 3: 90 %.
    pub pre_eol_info: U16,
    /// Wear of type A cells in steps of 10 %, 1: 0 to 10 %, 0: undefined, 11: exceeded.
    pub typ_a: U16,
    /// The same of type B cells.
    pub typ_b: U16,
}

/// Length of [`Lifetime`].
pub const LIFETIME_LEN: usize = 6;
const _: () = assert!(size_of::<Lifetime>() == LIFETIME_LEN);

/// The fields of the configuration (5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Field {
    Capacity,
    SizeMax,
    SegMax,
    Cylinders,
    Heads,
    Sectors,
    BlkSize,
    PhysicalBlockExp,
    AlignmentOffset,
    MinIoSize,
    OptIoSize,
    Writeback,
    NumQueues,
    MaxDiscardSectors,
    MaxDiscardSeg,
    DiscardSectorAlignment,
    MaxWriteZeroesSectors,
    MaxWriteZeroesSeg,
    WriteZeroesMayUnmap,
    MaxSecureEraseSectors,
    MaxSecureEraseSeg,
    SecureEraseSectorAlignment,
}
