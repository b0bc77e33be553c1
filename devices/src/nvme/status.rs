//! What a command ends with (Base 3.3.3.2.1).

use spindle_block::{BlockError, Op};

/// Status code in bits 7:0, status code type in bits 10:8, Do Not Retry in bit 14: the status field
/// of a completion without its phase tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(u16);

const DNR: u16 = 1 << 14;

const fn generic(code: u16) -> Status {
    Status(code | DNR)
}

const fn specific(code: u16) -> Status {
    Status(1 << 8 | code | DNR)
}

const fn media(code: u16) -> Status {
    Status(2 << 8 | code | DNR)
}

#[expect(missing_docs, reason = "the specification's names, Base figures 94 to 98")]
impl Status {
    pub const SUCCESS: Self = Self(0);

    pub const INVALID_OPCODE: Self = generic(0x01);
    pub const INVALID_FIELD: Self = generic(0x02);
    pub const DATA_TRANSFER: Self = generic(0x04);
    pub const INTERNAL: Self = Self(0x06);
    pub const ABORT_REQUESTED: Self = Self(0x07);
    pub const SQ_DELETED: Self = Self(0x08);
    pub const FUSED_FAILED: Self = Self(0x09);
    pub const FUSED_MISSING: Self = generic(0x0a);
    pub const INVALID_NAMESPACE: Self = generic(0x0b);
    pub const SEQUENCE: Self = generic(0x0c);
    pub const SGL_SEGMENT: Self = generic(0x0d);
    pub const SGL_COUNT: Self = generic(0x0e);
    pub const SGL_LENGTH: Self = generic(0x0f);
    pub const SGL_TYPE: Self = generic(0x11);
    pub const PRP_OFFSET: Self = generic(0x13);
    pub const OPERATION_DENIED: Self = generic(0x15);
    pub const HOST_ID_INCONSISTENT: Self = generic(0x18);
    pub const PREEMPTED: Self = Self(0x1b);
    pub const SANITIZE_FAILED: Self = generic(0x1c);
    pub const SANITIZE_IN_PROGRESS: Self = Self(0x1d);
    pub const WRITE_PROTECTED: Self = generic(0x20);
    pub const INTERRUPTED: Self = Self(0x21);
    pub const LBA_RANGE: Self = generic(0x80);
    pub const CAPACITY: Self = generic(0x81);
    pub const NOT_READY: Self = generic(0x82);
    pub const RESERVATION_CONFLICT: Self = generic(0x83);
    pub const FORMAT_IN_PROGRESS: Self = Self(0x84);

    pub const INVALID_CQ: Self = specific(0x00);
    pub const INVALID_QID: Self = specific(0x01);
    pub const INVALID_QUEUE_SIZE: Self = specific(0x02);
    pub const EVENT_LIMIT: Self = specific(0x05);
    pub const INVALID_FIRMWARE_SLOT: Self = specific(0x06);
    pub const INVALID_FIRMWARE_IMAGE: Self = specific(0x07);
    pub const INVALID_VECTOR: Self = specific(0x08);
    pub const INVALID_LOG_PAGE: Self = specific(0x09);
    pub const INVALID_FORMAT: Self = specific(0x0a);
    pub const INVALID_QUEUE_DELETION: Self = specific(0x0c);
    pub const NOT_SAVEABLE: Self = specific(0x0d);
    pub const NOT_NAMESPACE_SPECIFIC: Self = specific(0x0f);
    pub const OVERLAPPING_RANGE: Self = specific(0x14);
    pub const INSUFFICIENT_CAPACITY: Self = specific(0x15);
    pub const NSID_UNAVAILABLE: Self = specific(0x16);
    pub const ALREADY_ATTACHED: Self = specific(0x18);
    pub const NAMESPACE_PRIVATE: Self = specific(0x19);
    pub const NOT_ATTACHED: Self = specific(0x1a);
    pub const THIN_PROVISIONING: Self = specific(0x1b);
    pub const CONTROLLER_LIST: Self = specific(0x1c);
    pub const SELF_TEST_IN_PROGRESS: Self = specific(0x1d);
    pub const COMMAND_SIZE_LIMIT: Self = specific(0x83);

    pub const WRITE_FAULT: Self = media(0x80);
    pub const READ_ERROR: Self = media(0x81);
    pub const COMPARE_FAILURE: Self = media(0x85);
    pub const ACCESS_DENIED: Self = media(0x86);
}

impl Status {
    /// The bits, as they lie above the phase tag.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The status that these bits are: what a task left.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// Whether the command went well.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.0 == 0
    }

    /// What a failure of the block layer is to the host.
    #[must_use]
    pub fn of(error: BlockError, op: Op) -> Self {
        match error {
            BlockError::OutOfRange => Self::LBA_RANGE,
            BlockError::Misaligned => Self::INVALID_FIELD,
            BlockError::ReadOnly => Self::WRITE_PROTECTED,
            BlockError::NoSpace => Self::CAPACITY,
            BlockError::Medium if op == Op::Read => Self::READ_ERROR,
            BlockError::Medium => Self::WRITE_FAULT,
            BlockError::Unsupported => Self::INVALID_OPCODE,
            BlockError::Corrupt | BlockError::TimedOut | BlockError::NoMemory => Self::INTERNAL,
            BlockError::Aborted => Self::ABORT_REQUESTED,
            BlockError::Permission => Self::ACCESS_DENIED,
            BlockError::Gone => Self::NOT_READY,
        }
    }
}
