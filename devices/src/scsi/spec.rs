//! Constants: SAM-5, SPC-5, SBC-4 and MMC-6.

/// Longest command descriptor block that is understood, in bytes.
pub const CDB_MAX: usize = 32;
/// Longest sense data that is returned, in bytes.
pub const SENSE_MAX: usize = 252;

/// Status codes (SAM-5, 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// GOOD
    Good = 0x00,
    /// CHECK CONDITION
    CheckCondition = 0x02,
    /// RESERVATION CONFLICT
    ReservationConflict = 0x18,
}

/// Operation codes (SPC-5, SBC-4, MMC-6: annexes of numeric order).
pub mod op {
    /// TEST UNIT READY (SPC-5, 6.47)
    pub const TEST_UNIT_READY: u8 = 0x00;
    /// REQUEST SENSE (SPC-5, 6.39)
    pub const REQUEST_SENSE: u8 = 0x03;
    /// FORMAT UNIT (SBC-4, 5.4)
    pub const FORMAT_UNIT: u8 = 0x04;
    /// READ(6) (SBC-2, 5.5)
    pub const READ_6: u8 = 0x08;
    /// WRITE(6) (SBC-2, 5.24)
    pub const WRITE_6: u8 = 0x0a;
    /// INQUIRY (SPC-5, 6.7)
    pub const INQUIRY: u8 = 0x12;
    /// MODE SELECT(6) (SPC-5, 6.9)
    pub const MODE_SELECT_6: u8 = 0x15;
    /// MODE SENSE(6) (SPC-5, 6.11)
    pub const MODE_SENSE_6: u8 = 0x1a;
    /// START STOP UNIT (SBC-4, 5.31)
    pub const START_STOP_UNIT: u8 = 0x1b;
    /// PREVENT ALLOW MEDIUM REMOVAL (SBC-4, 5.17)
    pub const PREVENT_ALLOW_MEDIUM_REMOVAL: u8 = 0x1e;
    /// READ CAPACITY(10) (SBC-4, 5.20)
    pub const READ_CAPACITY_10: u8 = 0x25;
    /// READ(10) (SBC-4, 5.18)
    pub const READ_10: u8 = 0x28;
    /// WRITE(10) (SBC-4, 5.37)
    pub const WRITE_10: u8 = 0x2a;
    /// WRITE AND VERIFY(10) (SBC-4, 5.41)
    pub const WRITE_AND_VERIFY_10: u8 = 0x2e;
    /// VERIFY(10) (SBC-4, 5.33)
    pub const VERIFY_10: u8 = 0x2f;
    /// SYNCHRONIZE CACHE(10) (SBC-4, 5.32)
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    /// WRITE SAME(10) (SBC-4, 5.45)
    pub const WRITE_SAME_10: u8 = 0x41;
    /// UNMAP (SBC-4, 5.35)
    pub const UNMAP: u8 = 0x42;
    /// READ TOC/PMA/ATIP (MMC-6, 6.25)
    pub const READ_TOC: u8 = 0x43;
    /// GET CONFIGURATION (MMC-6, 6.5)
    pub const GET_CONFIGURATION: u8 = 0x46;
    /// SANITIZE (SBC-4, 5.30)
    pub const SANITIZE: u8 = 0x48;
    /// GET EVENT STATUS NOTIFICATION (MMC-6, 6.6)
    pub const GET_EVENT_STATUS_NOTIFICATION: u8 = 0x4a;
    /// LOG SELECT (SPC-5, 6.7)
    pub const LOG_SELECT: u8 = 0x4c;
    /// LOG SENSE (SPC-5, 6.8)
    pub const LOG_SENSE: u8 = 0x4d;
    /// READ DISC INFORMATION (MMC-6, 6.21)
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    /// READ TRACK INFORMATION (MMC-6, 6.26)
    pub const READ_TRACK_INFORMATION: u8 = 0x52;
    /// MODE SELECT(10) (SPC-5, 6.10)
    pub const MODE_SELECT_10: u8 = 0x55;
    /// MODE SENSE(10) (SPC-5, 6.12)
    pub const MODE_SENSE_10: u8 = 0x5a;
    /// PERSISTENT RESERVE IN (SPC-5, 6.15)
    pub const PERSISTENT_RESERVE_IN: u8 = 0x5e;
    /// PERSISTENT RESERVE OUT (SPC-5, 6.16)
    pub const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
    /// READ(16) (SBC-4, 5.19)
    pub const READ_16: u8 = 0x88;
    /// COMPARE AND WRITE (SBC-4, 5.3)
    pub const COMPARE_AND_WRITE: u8 = 0x89;
    /// WRITE(16) (SBC-4, 5.39)
    pub const WRITE_16: u8 = 0x8a;
    /// WRITE AND VERIFY(16) (SBC-4, 5.43)
    pub const WRITE_AND_VERIFY_16: u8 = 0x8e;
    /// VERIFY(16) (SBC-4, 5.35)
    pub const VERIFY_16: u8 = 0x8f;
    /// SYNCHRONIZE CACHE(16) (SBC-4, 5.33)
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    /// WRITE SAME(16) (SBC-4, 5.46)
    pub const WRITE_SAME_16: u8 = 0x93;
    /// SERVICE ACTION IN(16) (SBC-4, 4.2.2)
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    /// REPORT LUNS (SPC-5, 6.33)
    pub const REPORT_LUNS: u8 = 0xa0;
    /// MAINTENANCE IN (SPC-5, 4.2.2)
    pub const MAINTENANCE_IN: u8 = 0xa3;
    /// READ(12) (SBC-4, 5.17)
    pub const READ_12: u8 = 0xa8;
    /// WRITE(12) (SBC-4, 5.38)
    pub const WRITE_12: u8 = 0xaa;
    /// READ DISC STRUCTURE (MMC-6, 6.22), once READ DVD STRUCTURE
    pub const READ_DISC_STRUCTURE: u8 = 0xad;
    /// WRITE AND VERIFY(12) (SBC-4, 5.42)
    pub const WRITE_AND_VERIFY_12: u8 = 0xae;
    /// VERIFY(12) (SBC-4, 5.34)
    pub const VERIFY_12: u8 = 0xaf;
    /// MECHANISM STATUS (MMC-6, 6.11)
    pub const MECHANISM_STATUS: u8 = 0xbd;
    /// READ CD (MMC-6, 6.20)
    pub const READ_CD: u8 = 0xbe;
}

/// Service actions.
pub mod action {
    /// READ CAPACITY(16) (SBC-4, 5.21)
    pub const READ_CAPACITY_16: u8 = 0x10;
    /// GET LBA STATUS(16) (SBC-4, 5.5)
    pub const GET_LBA_STATUS: u8 = 0x12;
    /// REPORT SUPPORTED OPERATION CODES (SPC-5, 6.35)
    pub const REPORT_OPCODES: u8 = 0x0c;
    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-5, 6.36)
    pub const REPORT_TMFS: u8 = 0x0d;
}

/// Sense keys (SPC-5, 4.4.8).
pub mod key {
    /// NO SENSE
    pub const NO_SENSE: u8 = 0x0;
    /// NOT READY
    pub const NOT_READY: u8 = 0x2;
    /// MEDIUM ERROR
    pub const MEDIUM_ERROR: u8 = 0x3;
    /// HARDWARE ERROR
    pub const HARDWARE_ERROR: u8 = 0x4;
    /// ILLEGAL REQUEST
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    /// UNIT ATTENTION
    pub const UNIT_ATTENTION: u8 = 0x6;
    /// DATA PROTECT
    pub const DATA_PROTECT: u8 = 0x7;
    /// ABORTED COMMAND
    pub const ABORTED_COMMAND: u8 = 0xb;
    /// MISCOMPARE
    pub const MISCOMPARE: u8 = 0xe;
}

/// Additional sense code in the high byte, its qualifier in the low one (SPC-5, annex F.2).
pub mod asc {
    /// NO ADDITIONAL SENSE INFORMATION
    pub const NONE: u16 = 0x0000;
    /// LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED
    pub const NOT_READY_INITIALIZING_REQUIRED: u16 = 0x0402;
    /// LOGICAL UNIT NOT READY, FORMAT IN PROGRESS
    pub const NOT_READY_FORMAT: u16 = 0x0404;
    /// LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS
    pub const NOT_READY_SANITIZE: u16 = 0x041b;
    /// WRITE ERROR
    pub const WRITE_ERROR: u16 = 0x0c00;
    /// UNRECOVERED READ ERROR
    pub const UNRECOVERED_READ_ERROR: u16 = 0x1100;
    /// PARAMETER LIST LENGTH ERROR
    pub const PARAMETER_LIST_LENGTH: u16 = 0x1a00;
    /// MISCOMPARE DURING VERIFY OPERATION
    pub const MISCOMPARE: u16 = 0x1d00;
    /// INVALID COMMAND OPERATION CODE
    pub const INVALID_OPCODE: u16 = 0x2000;
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE
    pub const LBA_OUT_OF_RANGE: u16 = 0x2100;
    /// INVALID FIELD IN CDB
    pub const INVALID_FIELD_IN_CDB: u16 = 0x2400;
    /// LOGICAL UNIT NOT SUPPORTED
    pub const LUN_NOT_SUPPORTED: u16 = 0x2500;
    /// INVALID FIELD IN PARAMETER LIST
    pub const INVALID_FIELD_IN_PARAMETERS: u16 = 0x2600;
    /// INVALID RELEASE OF PERSISTENT RESERVATION
    pub const INVALID_RELEASE: u16 = 0x2604;
    /// WRITE PROTECTED
    pub const WRITE_PROTECTED: u16 = 0x2700;
    /// SPACE ALLOCATION FAILED WRITE PROTECT
    pub const SPACE_ALLOCATION_FAILED: u16 = 0x2707;
    /// NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED
    pub const MEDIUM_CHANGED: u16 = 0x2800;
    /// POWER ON OCCURRED
    pub const POWER_ON: u16 = 0x2901;
    /// BUS DEVICE RESET FUNCTION OCCURRED
    pub const DEVICE_RESET: u16 = 0x2903;
    /// I_T NEXUS LOSS OCCURRED
    pub const NEXUS_LOSS: u16 = 0x2907;
    /// MODE PARAMETERS CHANGED
    pub const MODE_CHANGED: u16 = 0x2a01;
    /// LOG PARAMETERS CHANGED
    pub const LOG_CHANGED: u16 = 0x2a02;
    /// RESERVATIONS PREEMPTED
    pub const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    /// RESERVATIONS RELEASED
    pub const RESERVATIONS_RELEASED: u16 = 0x2a04;
    /// REGISTRATIONS PREEMPTED
    pub const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    /// CAPACITY DATA HAS CHANGED
    pub const CAPACITY_CHANGED: u16 = 0x2a09;
    /// COMMANDS CLEARED BY ANOTHER INITIATOR
    pub const COMMANDS_CLEARED: u16 = 0x2f00;
    /// INCOMPATIBLE MEDIUM INSTALLED
    pub const INCOMPATIBLE_MEDIUM: u16 = 0x3000;
    /// SANITIZE COMMAND FAILED
    pub const SANITIZE_FAILED: u16 = 0x3103;
    /// FORMAT COMMAND FAILED
    pub const FORMAT_FAILED: u16 = 0x3101;
    /// SAVING PARAMETERS NOT SUPPORTED
    pub const SAVING_NOT_SUPPORTED: u16 = 0x3900;
    /// MEDIUM NOT PRESENT
    pub const NO_MEDIUM: u16 = 0x3a00;
    /// MEDIUM NOT PRESENT - TRAY OPEN
    pub const NO_MEDIUM_TRAY_OPEN: u16 = 0x3a02;
    /// REPORTED LUNS DATA HAS CHANGED
    pub const LUNS_CHANGED: u16 = 0x3f0e;
    /// INTERNAL TARGET FAILURE
    pub const INTERNAL_FAILURE: u16 = 0x4400;
    /// MEDIUM REMOVAL PREVENTED
    pub const REMOVAL_PREVENTED: u16 = 0x5302;
    /// INSUFFICIENT REGISTRATION RESOURCES
    pub const INSUFFICIENT_REGISTRATIONS: u16 = 0x5504;
    /// OPERATOR MEDIUM REMOVAL REQUEST
    pub const OPERATOR_REMOVAL_REQUEST: u16 = 0x5a01;
    /// ILLEGAL MODE FOR THIS TRACK
    pub const ILLEGAL_TRACK_MODE: u16 = 0x6400;
}
