//! Constants and layouts. Section numbers are those of the NVM Express Base Specification 2.0
//! (Base) and of the NVM Command Set Specification 1.0 (NVM).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32, U64},
};

/// PCI class code: mass storage, non-volatile memory, NVM Express I/O controller (PCIe transport
/// 1.0, 3.1.2).
pub const CLASS: u32 = 0x01_08_02;
/// Specification version 2.0 (Base 3.1.3.2).
pub const VERSION: u32 = 0x0002_0000;
/// The nsid that means every namespace (Base 3.2.1).
pub const NSID_ALL: u32 = 0xffff_ffff;
/// Length of a submission queue entry (Base 3.3.3.1).
pub const SQE_LEN: u64 = 64;
/// Length of a completion queue entry (Base 3.3.3.2).
pub const CQE_LEN: u64 = 16;
/// Length of most data structures (Base 5.17).
pub const PAGE: usize = 4096;
/// What NSSR takes: "NVMe" (Base 3.1.3.7).
pub const NSSR_MAGIC: u32 = 0x4e56_4d65;

/// A command (Base 3.3.3.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sqe {
    /// What to do.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// Namespace.
    pub nsid: U32,
    /// Command dwords 2 and 3.
    pub cdw2: [U32; 2],
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer: two PRP entries or one SGL descriptor.
    pub dptr: [U64; 2],
    /// Command dwords 10 to 15.
    pub cdw: [U32; 6],
}

const _: () = assert!(size_of::<Sqe>() as u64 == SQE_LEN);

impl Sqe {
    /// A command from its quadwords.
    #[inline]
    #[must_use]
    pub fn from_words(words: [u64; SQE_LEN as usize / 8]) -> Self {
        zerocopy::transmute!(words.map(u64::to_le))
    }

    /// Command dword `n`, 10 to 15.
    #[inline]
    #[must_use]
    pub fn dword<const N: usize>(&self) -> u32 {
        self.cdw[N - 10].get()
    }

    /// FUSE: 0 alone, 1 first, 2 second command of a fused operation.
    #[inline]
    #[must_use]
    pub fn fuse(&self) -> u8 {
        self.flags & 3
    }

    /// PSDT: 0 PRP, 1 SGL with a contiguous metadata buffer, 2 SGL with an SGL for metadata.
    #[inline]
    #[must_use]
    pub fn psdt(&self) -> u8 {
        self.flags >> 6
    }
}

/// Admin opcodes (Base 5).
pub mod admin {
    /// Delete I/O Submission Queue (5.7).
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue (5.5).
    pub const CREATE_SQ: u8 = 0x01;
    /// Get Log Page (5.16).
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue (5.6).
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue (5.4).
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify (5.17).
    pub const IDENTIFY: u8 = 0x06;
    /// Abort (5.1).
    pub const ABORT: u8 = 0x08;
    /// Set Features (5.27).
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features (5.15).
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request (5.2).
    pub const ASYNC_EVENT: u8 = 0x0c;
    /// Namespace Management (5.23).
    pub const NAMESPACE_MANAGEMENT: u8 = 0x0d;
    /// Firmware Commit (5.12).
    pub const FIRMWARE_COMMIT: u8 = 0x10;
    /// Firmware Image Download (5.13).
    pub const FIRMWARE_DOWNLOAD: u8 = 0x11;
    /// Device Self-test (5.9).
    pub const SELF_TEST: u8 = 0x14;
    /// Namespace Attachment (5.22).
    pub const NAMESPACE_ATTACHMENT: u8 = 0x15;
    /// Keep Alive (5.18).
    pub const KEEP_ALIVE: u8 = 0x18;
    /// Doorbell Buffer Config (5.8).
    pub const DOORBELL_BUFFER: u8 = 0x7c;
    /// Format NVM (5.14).
    pub const FORMAT: u8 = 0x80;
    /// Sanitize (5.24).
    pub const SANITIZE: u8 = 0x84;
}

/// I/O opcodes (NVM 3, Base 7).
pub mod nvm {
    /// Flush (Base 7.1).
    pub const FLUSH: u8 = 0x00;
    /// Write (NVM 3.2.6).
    pub const WRITE: u8 = 0x01;
    /// Read (NVM 3.2.4).
    pub const READ: u8 = 0x02;
    /// Write Uncorrectable (NVM 3.2.7).
    pub const WRITE_UNCORRECTABLE: u8 = 0x04;
    /// Compare (NVM 3.2.1).
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes (NVM 3.2.8).
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management (NVM 3.2.3).
    pub const DATASET: u8 = 0x09;
    /// Verify (NVM 3.2.5).
    pub const VERIFY: u8 = 0x0c;
    /// Reservation Register (Base 7.3).
    pub const RESERVATION_REGISTER: u8 = 0x0d;
    /// Reservation Report (Base 7.5).
    pub const RESERVATION_REPORT: u8 = 0x0e;
    /// Reservation Acquire (Base 7.2).
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    /// Reservation Release (Base 7.4).
    pub const RESERVATION_RELEASE: u8 = 0x15;
    /// Copy (NVM 3.2.2).
    pub const COPY: u8 = 0x19;
}

/// Feature identifiers (Base 5.27.1, NVM 4.1.3).
pub mod feature {
    /// Arbitration (Base 5.27.1.1).
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management (Base 5.27.1.2).
    pub const POWER: u8 = 0x02;
    /// Temperature Threshold (Base 5.27.1.3).
    pub const TEMPERATURE: u8 = 0x04;
    /// Error Recovery (NVM 4.1.3.2).
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache (Base 5.27.1.4).
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of Queues (Base 5.27.1.5).
    pub const QUEUES: u8 = 0x07;
    /// Interrupt Coalescing (Base 5.27.1.6).
    pub const COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration (Base 5.27.1.7).
    pub const VECTOR: u8 = 0x09;
    /// Write Atomicity Normal (NVM 4.1.3.3).
    pub const ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration (Base 5.27.1.8).
    pub const ASYNC_EVENTS: u8 = 0x0b;
    /// Timestamp (Base 5.27.1.10).
    pub const TIMESTAMP: u8 = 0x0e;
    /// Keep Alive Timer (Base 5.27.1.12).
    pub const KEEP_ALIVE: u8 = 0x0f;
    /// Host Identifier (Base 5.27.1.25).
    pub const HOST_IDENTIFIER: u8 = 0x81;
    /// Reservation Notification Mask (Base 5.27.1.26).
    pub const RESERVATION_MASK: u8 = 0x82;
    /// Reservation Persistence (Base 5.27.1.27).
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
}

/// Log pages (Base 5.16.1).
pub mod log_page {
    /// Supported Log Pages (5.16.1.1).
    pub const SUPPORTED: u8 = 0x00;
    /// Error Information (5.16.1.2).
    pub const ERRORS: u8 = 0x01;
    /// SMART / Health Information (5.16.1.3).
    pub const HEALTH: u8 = 0x02;
    /// Firmware Slot Information (5.16.1.4).
    pub const FIRMWARE: u8 = 0x03;
    /// Changed Namespace List (5.16.1.5).
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects (5.16.1.6).
    pub const EFFECTS: u8 = 0x05;
    /// Device Self-test (5.16.1.7).
    pub const SELF_TEST: u8 = 0x06;
    /// Feature Identifiers Supported and Effects (5.16.1.19).
    pub const FEATURES: u8 = 0x12;
    /// Reservation Notification (5.16.1.24).
    pub const RESERVATIONS: u8 = 0x80;
    /// Sanitize Status (5.16.1.25).
    pub const SANITIZE: u8 = 0x81;
}

/// Controller or Namespace Structure values of Identify (Base 5.17.1, figure 273).
pub mod cns {
    /// Identify Namespace (NVM 4.1.5.1).
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller (Base 5.17.2.1).
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list (Base 5.17.2.2).
    pub const ACTIVE_LIST: u8 = 0x02;
    /// Namespace Identification Descriptor list (Base 5.17.2.3).
    pub const DESCRIPTORS: u8 = 0x03;
    /// Identify Namespace of an I/O command set (Base 5.17.2.5).
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Identify Controller of an I/O command set (Base 5.17.2.6).
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// Active Namespace ID list of an I/O command set (Base 5.17.2.7).
    pub const CSI_ACTIVE_LIST: u8 = 0x07;
    /// I/O command set independent Identify Namespace (Base 5.17.2.8).
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Allocated Namespace ID list (Base 5.17.2.9).
    pub const ALLOCATED_LIST: u8 = 0x10;
    /// Identify Namespace of an allocated namespace (Base 5.17.2.10).
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers attached to a namespace (Base 5.17.2.11).
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    /// Controllers of the subsystem (Base 5.17.2.12).
    pub const CONTROLLERS: u8 = 0x13;
    /// Allocated Namespace ID list of an I/O command set (Base 5.17.2.19).
    pub const CSI_ALLOCATED_LIST: u8 = 0x1a;
    /// Identify allocated Namespace of an I/O command set (Base 5.17.2.20).
    pub const CSI_ALLOCATED_NAMESPACE: u8 = 0x1b;
    /// I/O command sets (Base 5.17.2.21).
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// SGL descriptor types and subtypes (Base 4.1.2.1): the identifier byte's high and low half.
pub mod sgl {
    /// Data block, an address.
    pub const DATA_BLOCK: u8 = 0x00;
    /// Bit bucket: bytes for the host that it does not want.
    pub const BIT_BUCKET: u8 = 0x10;
    /// Segment: more descriptors follow there.
    pub const SEGMENT: u8 = 0x20;
    /// The last segment.
    pub const LAST_SEGMENT: u8 = 0x30;
}

/// A scatter-gather descriptor (Base 4.1.2.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SglDescriptor {
    /// Guest address.
    pub address: U64,
    /// Length in bytes.
    pub len: U32,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Type and subtype.
    pub kind: u8,
}

/// Length of [`SglDescriptor`].
pub const SGL_LEN: usize = 16;
const _: () = assert!(size_of::<SglDescriptor>() == SGL_LEN);

/// A range of Dataset Management (NVM 3.2.3, figure 38).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DatasetRange {
    /// Hints.
    pub attributes: U32,
    /// Logical blocks.
    pub blocks: U32,
    /// First of them.
    pub lba: U64,
}

/// Asynchronous events (Base 5.2.1): type in bits 2:0, information in bits 15:8, log page in bits
/// 23:16.
pub mod event {
    use super::log_page;

    const fn event(kind: u32, info: u32, log: u8) -> u32 {
        kind | info << 8 | (log as u32) << 16
    }
    /// Error: write to an invalid doorbell register.
    pub const INVALID_DOORBELL: u32 = event(0, 0, log_page::ERRORS);
    /// Error: invalid doorbell write value.
    pub const INVALID_DOORBELL_VALUE: u32 = event(0, 1, log_page::ERRORS);
    /// Health: temperature threshold crossed.
    pub const TEMPERATURE: u32 = event(1, 1, log_page::HEALTH);
    /// Notice: namespace attribute changed.
    pub const NAMESPACES: u32 = event(2, 0, log_page::CHANGED_NAMESPACES);
    /// I/O command set specific: reservation log page available.
    pub const RESERVATION: u32 = event(6, 0, log_page::RESERVATIONS);
    /// I/O command set specific: sanitize operation completed.
    pub const SANITIZE: u32 = event(6, 1, log_page::SANITIZE);
}
