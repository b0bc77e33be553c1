//! Constants and layouts: virtio 1.2, 5.6.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32, U64},
};

/// Device type (5.6.1).
pub const DEVICE_TYPE: u16 = 8;
/// The queues before the request queues (5.6.2).
pub const CONTROL_QUEUE: usize = 0;
/// See [`CONTROL_QUEUE`].
pub const EVENT_QUEUE: usize = 1;
/// The number of the first request queue.
pub const REQUEST_QUEUE: usize = 2;
/// Targets of a device: `max_target` + 1 (5.6.4).
pub const TARGETS: usize = 256;
/// Logical units of a target: `max_lun` + 1 (5.6.4).
pub const LUNS: u32 = 16384;
/// `sense_size` after a reset, in bytes (5.6.4).
pub const SENSE_SIZE: u32 = 96;
/// `cdb_size` after a reset, in bytes (5.6.4).
pub const CDB_SIZE: u32 = 32;

/// Feature bits (5.6.3).
pub mod feature {
    /// Units come and go, and the event queue tells of it.
    pub const HOTPLUG: u64 = 1 << 1;
    /// The event queue tells of changed parameters.
    pub const CHANGE: u64 = 1 << 2;
}

/// What a request starts with; the CDB follows (5.6.6.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    /// The unit.
    pub lun: [u8; 8],
    /// The command identifier.
    pub tag: U64,
    /// Task attribute.
    pub attribute: u8,
    /// Priority.
    pub priority: u8,
    /// Command reference number.
    pub crn: u8,
}

/// Task attributes (5.6.6.1).
pub mod attribute {
    /// It begins when all older commands have ended, and younger ones when it has.
    pub const ORDERED: u8 = 1;
    /// It begins at once.
    pub const HEAD_OF_QUEUE: u8 = 2;
}

/// Length of [`RequestHeader`].
pub const REQUEST_HEADER_LEN: usize = 19;
const _: () = assert!(size_of::<RequestHeader>() == REQUEST_HEADER_LEN);

/// What a response starts with; sense data follow (5.6.6.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseHeader {
    /// Bytes of sense data.
    pub sense_len: U32,
    /// Bytes that were not transferred.
    pub residual: U32,
    /// Status qualifier.
    pub qualifier: U16,
    /// SCSI status.
    pub status: u8,
    /// See [`response`].
    pub response: u8,
}

/// Length of [`ResponseHeader`].
pub const RESPONSE_HEADER_LEN: usize = 12;
const _: () = assert!(size_of::<ResponseHeader>() == RESPONSE_HEADER_LEN);

/// Response codes (5.6.6.1, 5.6.6.2).
pub mod response {
    /// The command was done, whatever its status; the function is complete.
    pub const OK: u8 = 0;
    /// The command needs more memory than it came with.
    pub const OVERRUN: u8 = 1;
    /// The command was cancelled by a task management function.
    pub const ABORTED: u8 = 2;
    /// There is no such target, or no such unit.
    pub const BAD_TARGET: u8 = 3;
    /// The command was cancelled by a reset.
    pub const RESET: u8 = 4;
    /// Something else is wrong.
    pub const FAILURE: u8 = 9;
    /// The function found what it asked about.
    pub const FUNCTION_SUCCEEDED: u8 = 10;
    /// The function is not supported.
    pub const FUNCTION_REJECTED: u8 = 11;
    /// The target has no such unit.
    pub const INCORRECT_LUN: u8 = 12;
}

/// Types of control requests (5.6.6.2).
pub mod control {
    /// Task management function.
    pub const TMF: u32 = 0;
    /// Which asynchronous notifications there are.
    pub const AN_QUERY: u32 = 1;
    /// Which of them are wanted.
    pub const AN_SUBSCRIBE: u32 = 2;
}

/// Task management functions (5.6.6.2).
pub mod tmf {
    /// ABORT TASK
    pub const ABORT_TASK: u32 = 0;
    /// ABORT TASK SET
    pub const ABORT_TASK_SET: u32 = 1;
    /// CLEAR ACA
    pub const CLEAR_ACA: u32 = 2;
    /// CLEAR TASK SET
    pub const CLEAR_TASK_SET: u32 = 3;
    /// I_T NEXUS RESET
    pub const I_T_NEXUS_RESET: u32 = 4;
    /// LOGICAL UNIT RESET
    pub const LOGICAL_UNIT_RESET: u32 = 5;
    /// QUERY TASK
    pub const QUERY_TASK: u32 = 6;
    /// QUERY TASK SET
    pub const QUERY_TASK_SET: u32 = 7;
}

/// A task management function (5.6.6.2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TmfRequest {
    /// [`control::TMF`]
    pub kind: U32,
    /// See [`tmf`].
    pub function: U32,
    /// The unit.
    pub lun: [u8; 8],
    /// The command, where one is meant.
    pub tag: U64,
}

/// A query of, or subscription to, asynchronous notifications (5.6.6.2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AnRequest {
    /// [`control::AN_QUERY`] or [`control::AN_SUBSCRIBE`]
    pub kind: U32,
    /// The unit.
    pub lun: [u8; 8],
    /// See [`notification`].
    pub events: U32,
}

/// Asynchronous notifications (5.6.6.2).
pub mod notification {
    /// The medium has changed.
    pub const MEDIA_CHANGE: u32 = 16;
}

/// Events (5.6.6.3).
pub mod event {
    /// Nothing but the flag that some were lost.
    pub const NO_EVENT: u32 = 0;
    /// A unit came, went or was reset.
    pub const TRANSPORT_RESET: u32 = 1;
    /// An asynchronous notification.
    pub const ASYNC_NOTIFY: u32 = 2;
    /// Parameters of a unit have changed.
    pub const PARAM_CHANGE: u32 = 3;
    /// Events were lost for want of buffers.
    pub const EVENTS_MISSED: u32 = 0x8000_0000;
    /// TRANSPORT_RESET: the unit came.
    pub const RESCAN: u32 = 1;
    /// TRANSPORT_RESET: the unit is gone.
    pub const REMOVED: u32 = 2;
}

/// An event (5.6.6.3).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Event {
    /// See [`event`].
    pub event: U32,
    /// The unit.
    pub lun: [u8; 8],
    /// Why, or what.
    pub reason: U32,
}

/// Length of [`Event`], `event_info_size` (5.6.4).
pub const EVENT_LEN: usize = 16;
const _: () = assert!(size_of::<Event>() == EVENT_LEN);

/// The fields of the configuration (5.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Field {
    NumQueues,
    SegMax,
    MaxSectors,
    CmdPerLun,
    EventInfoSize,
    SenseSize,
    CdbSize,
    MaxChannel,
    MaxTarget,
    MaxLun,
}
