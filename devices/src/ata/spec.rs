//! Registers, codes and bits: ATA/ATAPI Command Set - 3 (ACS-3, T13/2161-D revision 5), and where it
//! has no say any more, AT Attachment with Packet Interface - 6 (ATA-6).

/// Bytes of a logical sector, as commands without sectors of their own count them.
pub const SECTOR: u64 = 512;

/// What a host writes to issue a command, whatever way it comes: registers and their previous
/// contents (ATA-6, 5.3), or a Register Host to Device FIS (Serial ATA 3.2, 10.5.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taskfile {
    /// COMMAND.
    pub command: u8,
    /// FEATURES; the high byte is that of a 48-bit command.
    pub features: u16,
    /// COUNT, likewise.
    pub count: u16,
    /// LBA, 48 bits: bits 23:0 are what the registers hold, bits 47:24 what they held before.
    pub lba: u64,
    /// DEVICE.
    pub device: u8,
    /// ICC, of a queued command.
    pub icc: u8,
    /// AUXILIARY, of a queued command.
    pub auxiliary: u32,
}

impl Taskfile {
    /// The log of READ LOG EXT and its kin: LBA bits 7:0 (ACS-3, 7.24).
    #[must_use]
    pub fn log_address(&self) -> u8 {
        self.lba as u8
    }

    /// The first page of it: LBA bits 15:8 and 39:32 (ACS-3, 7.24).
    #[must_use]
    pub fn log_page(&self) -> u16 {
        (self.lba >> 8) as u8 as u16 | ((self.lba >> 32) as u8 as u16) << 8
    }

    /// The tag of a queued command: COUNT bits 7:3 (ACS-3, 7.17).
    #[must_use]
    pub fn tag(&self) -> u8 {
        (self.count >> 3) as u8 & 0x1f
    }
}

/// Bits of the STATUS field (ACS-3, 6.2).
pub mod status {
    /// ERROR, and CHECK CONDITION of a packet.
    pub const ERR: u8 = 0x01;
    /// DATA REQUEST.
    pub const DRQ: u8 = 0x08;
    /// DEFERRED WRITE ERROR; in old drives SEEK COMPLETE, which old drivers look for.
    pub const DSC: u8 = 0x10;
    /// DEVICE FAULT.
    pub const DF: u8 = 0x20;
    /// DEVICE READY.
    pub const DRDY: u8 = 0x40;
    /// BUSY.
    pub const BSY: u8 = 0x80;
}

/// Bits of the ERROR field (ACS-3, 6.3).
pub mod error {
    /// Nothing.
    pub const NONE: u8 = 0x00;
    /// ILLEGAL LENGTH INDICATOR, of a packet.
    pub const ILI: u8 = 0x01;
    /// END OF MEDIUM, of a packet.
    pub const EOM: u8 = 0x02;
    /// ABORT.
    pub const ABRT: u8 = 0x04;
    /// ID NOT FOUND.
    pub const IDNF: u8 = 0x10;
    /// UNCORRECTABLE ERROR.
    pub const UNC: u8 = 0x40;
    /// INTERFACE CRC.
    pub const ICRC: u8 = 0x80;
    /// The diagnostic code of a drive without faults (ACS-3, 7.9).
    pub const DIAGNOSTIC_PASSED: u8 = 0x01;
}

/// Bits of the DEVICE field (ACS-3, 6.1; ATA-6, 7.3).
pub mod device {
    /// The other drive of the cable.
    pub const DEV: u8 = 0x10;
    /// The address is an LBA.
    pub const LBA: u8 = 0x40;
    /// FUA, of a queued command (ACS-3, 7.64).
    pub const FUA: u8 = 0x80;
}

/// Bits of the interrupt reason: COUNT of a packet command (ACS-3, 7.18).
pub mod reason {
    /// It is the packet that is moved, or the status, not data.
    pub const CD: u8 = 0x01;
    /// The transfer goes to the host.
    pub const IO: u8 = 0x02;
}

/// Bits of FEATURES of PACKET (ACS-3, 7.18).
pub mod packet {
    /// Data go by DMA.
    pub const DMA: u8 = 0x01;
}

/// What LBA bits 23:8 hold in the signature of a drive without PACKET; COUNT and LBA bits 7:0 hold 1
/// (ACS-3, 9.12).
pub const SIGNATURE_DISK: u64 = 0x00_0001;
/// The same, with PACKET.
pub const SIGNATURE_PACKET: u64 = 0xeb_1401;

/// Commands (ACS-3, 7).
#[expect(missing_docs, reason = "the specification's names")]
pub mod op {
    pub const NOP: u8 = 0x00;
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const DEVICE_RESET: u8 = 0x08;
    /// ATA-3, 8.16; its low four bits are free.
    pub const RECALIBRATE: u8 = 0x10;
    pub const READ_SECTORS: u8 = 0x20;
    /// ATA-3: without retries.
    pub const READ_SECTORS_ONCE: u8 = 0x21;
    pub const READ_SECTORS_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    pub const READ_LOG_EXT: u8 = 0x2f;
    pub const WRITE_SECTORS: u8 = 0x30;
    /// ATA-3: without retries.
    pub const WRITE_SECTORS_ONCE: u8 = 0x31;
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub const WRITE_LOG_EXT: u8 = 0x3f;
    pub const READ_VERIFY: u8 = 0x40;
    /// ATA-3: without retries.
    pub const READ_VERIFY_ONCE: u8 = 0x41;
    pub const READ_VERIFY_EXT: u8 = 0x42;
    pub const READ_LOG_DMA_EXT: u8 = 0x47;
    pub const WRITE_LOG_DMA_EXT: u8 = 0x57;
    pub const READ_FPDMA_QUEUED: u8 = 0x60;
    pub const WRITE_FPDMA_QUEUED: u8 = 0x61;
    pub const SEND_FPDMA_QUEUED: u8 = 0x64;
    /// ATA-6, 8.35.
    pub const SEEK: u8 = 0x70;
    pub const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;
    /// ATA-5, 8.16.
    pub const INITIALIZE_DEVICE_PARAMETERS: u8 = 0x91;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
    pub const READ_MULTIPLE: u8 = 0xc4;
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    pub const SET_MULTIPLE_MODE: u8 = 0xc6;
    pub const READ_DMA: u8 = 0xc8;
    /// ATA-3: without retries.
    pub const READ_DMA_ONCE: u8 = 0xc9;
    pub const WRITE_DMA: u8 = 0xca;
    /// ATA-3: without retries.
    pub const WRITE_DMA_ONCE: u8 = 0xcb;
    pub const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    pub const READ_BUFFER: u8 = 0xe4;
    pub const FLUSH_CACHE: u8 = 0xe7;
    pub const WRITE_BUFFER: u8 = 0xe8;
    pub const READ_BUFFER_DMA: u8 = 0xe9;
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    pub const WRITE_BUFFER_DMA: u8 = 0xeb;
    pub const IDENTIFY_DEVICE: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
}

/// Commands about what a drive keeps (ACS-3, 7; where it has them no more, ATA-6, 8).
#[expect(missing_docs, reason = "the specification's names")]
pub mod rare {
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const SET_MAX_EXT: u8 = 0x37;
    pub const WRITE_UNCORRECTABLE: u8 = 0x45;
    pub const MAX_ADDRESS: u8 = 0x78;
    pub const DOWNLOAD_MICROCODE: u8 = 0x92;
    pub const DOWNLOAD_MICROCODE_DMA: u8 = 0x93;
    pub const SMART: u8 = 0xb0;
    pub const SANITIZE: u8 = 0xb4;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const SECURITY_SET_PASSWORD: u8 = 0xf1;
    pub const SECURITY_UNLOCK: u8 = 0xf2;
    pub const SECURITY_ERASE_PREPARE: u8 = 0xf3;
    pub const SECURITY_ERASE_UNIT: u8 = 0xf4;
    pub const SECURITY_FREEZE_LOCK: u8 = 0xf5;
    pub const SECURITY_DISABLE_PASSWORD: u8 = 0xf6;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
    pub const SET_MAX: u8 = 0xf9;
    /// WRITE UNCORRECTABLE EXT: a pseudo error, which is logged (ACS-3, 7.73).
    pub const PSEUDO_LOGGED: u8 = 0x55;
    /// WRITE UNCORRECTABLE EXT: a flagged error, which is not (ACS-3, 7.73).
    pub const FLAGGED: u8 = 0x5a;
}

/// Subcommands of SMART (ACS-3, 7.48), and what goes with them.
#[expect(missing_docs, reason = "the specification's names")]
pub mod smart {
    pub const READ_DATA: u8 = 0xd0;
    /// ATA-3, 7.25.
    pub const READ_THRESHOLDS: u8 = 0xd1;
    pub const ATTRIBUTE_AUTOSAVE: u8 = 0xd2;
    pub const EXECUTE_OFFLINE: u8 = 0xd4;
    pub const READ_LOG: u8 = 0xd5;
    pub const WRITE_LOG: u8 = 0xd6;
    pub const ENABLE: u8 = 0xd8;
    pub const DISABLE: u8 = 0xd9;
    pub const RETURN_STATUS: u8 = 0xda;
    /// LBA 23:8 of every subcommand, and of the status of a drive that is well (ACS-3, 7.48).
    pub const KEY: u16 = 0xc24f;
    /// EXECUTE OFF-LINE IMMEDIATE: tests (ACS-3, table 140).
    pub const SHORT_TEST: u8 = 0x01;
    pub const EXTENDED_TEST: u8 = 0x02;
    pub const SELECTIVE_TEST: u8 = 0x04;
    /// The same, as a collection of data that is no test.
    pub const OFFLINE: u8 = 0x00;
    pub const ABORT_TEST: u8 = 0x7f;
    /// Added to a test that the command waits for.
    pub const CAPTIVE: u8 = 0x80;
    /// Logs of SMART READ LOG (ACS-3, 9.1).
    pub const SUMMARY_LOG: u8 = 0x01;
    pub const TEST_LOG: u8 = 0x06;
    pub const SELECTIVE_LOG: u8 = 0x09;
}

/// Features of SET MAX (ATA-6, 8.47); 0 is SET MAX ADDRESS.
#[expect(missing_docs, reason = "the specification's names")]
pub mod set_max {
    pub const SET_PASSWORD: u8 = 0x01;
    pub const LOCK: u8 = 0x02;
    pub const UNLOCK: u8 = 0x03;
    pub const FREEZE_LOCK: u8 = 0x04;
}

/// Subcommands of DOWNLOAD MICROCODE (ACS-3, 7.7).
#[expect(missing_docs, reason = "the specification's names")]
pub mod microcode {
    pub const PIECES: u16 = 0x03;
    pub const WHOLE: u16 = 0x07;
    pub const PIECES_LATER: u16 = 0x0e;
    pub const ACTIVATE: u16 = 0x0f;
    /// The most blocks of a piece: word 235 of IDENTIFY DEVICE data.
    pub const PIECE_MAX: u16 = 0x0080;
}

/// Subcommands of SANITIZE DEVICE (ACS-3, 7.36), and the keys in their LBAs.
#[expect(missing_docs, reason = "the specification's names")]
pub mod sanitize {
    pub const STATUS: u16 = 0x0000;
    pub const CRYPTO_SCRAMBLE: u16 = 0x0011;
    pub const BLOCK_ERASE: u16 = 0x0012;
    pub const OVERWRITE: u16 = 0x0014;
    pub const FREEZE_LOCK: u16 = 0x0020;
    pub const ANTIFREEZE_LOCK: u16 = 0x0040;
    pub const CRYPTO_SCRAMBLE_KEY: u64 = 0x4372_7970;
    pub const BLOCK_ERASE_KEY: u64 = 0x426b_4572;
    /// In LBA 47:32; the others hold the pattern.
    pub const OVERWRITE_KEY: u64 = 0x4f57;
    pub const FREEZE_LOCK_KEY: u64 = 0x4672_4c6b;
    pub const ANTIFREEZE_LOCK_KEY: u64 = 0x416e_7469;
}

/// Subcommands of SET FEATURES (ACS-3, 7.45).
#[expect(missing_docs, reason = "the specification's names")]
pub mod feature {
    pub const ENABLE_WRITE_CACHE: u8 = 0x02;
    pub const TRANSFER_MODE: u8 = 0x03;
    pub const ENABLE_SATA: u8 = 0x10;
    pub const DISABLE_LOOK_AHEAD: u8 = 0x55;
    pub const KEEP_SETTINGS: u8 = 0x66;
    pub const DISABLE_WRITE_CACHE: u8 = 0x82;
    pub const DISABLE_SATA: u8 = 0x90;
    pub const ENABLE_LOOK_AHEAD: u8 = 0xaa;
    pub const REVERT_SETTINGS: u8 = 0xcc;
}

/// Serial ATA features, in COUNT of SET FEATURES (ACS-3, 7.45.18).
#[expect(missing_docs, reason = "the specification's names")]
pub mod sata_feature {
    pub const DMA_AUTO_ACTIVATE: u8 = 0x02;
    pub const DEVICE_INITIATED_POWER: u8 = 0x03;
    pub const SETTINGS_PRESERVATION: u8 = 0x06;
}

/// Logs (ACS-3, 9.1).
#[expect(missing_docs, reason = "the specification's names")]
pub mod log {
    pub const DIRECTORY: u8 = 0x00;
    pub const EXTENDED_ERRORS: u8 = 0x03;
    pub const DEVICE_STATISTICS: u8 = 0x04;
    pub const EXTENDED_TESTS: u8 = 0x07;
    pub const NCQ_ERROR: u8 = 0x10;
    pub const LINK_COUNTERS: u8 = 0x11;
    pub const NCQ_SEND_RECEIVE: u8 = 0x13;
    pub const IDENTIFY_DATA: u8 = 0x30;
    pub const HOST_FIRST: u8 = 0x80;
    pub const HOST_LAST: u8 = 0x9f;
}

/// Subcommands of SEND FPDMA QUEUED (ACS-3, 7.47).
pub mod send {
    /// DATA SET MANAGEMENT.
    pub const DATA_SET_MANAGEMENT: u8 = 0x00;
}

/// TRIM, in FEATURES of DATA SET MANAGEMENT and in AUXILIARY of the queued form (ACS-3, 7.5).
pub const TRIM: u8 = 0x01;

/// The most sectors of a DRQ data block: word 47 of IDENTIFY DEVICE data (ACS-3, 7.12.7.16).
pub const MULTIPLE_MAX: u8 = 16;
/// The most blocks of a range list: word 105 of IDENTIFY DEVICE data (ACS-3, 7.12.7.59).
pub const TRIM_BLOCKS_MAX: u16 = 64;
/// Commands that a drive has queued at most (ACS-3, 4.14).
pub const QUEUE_DEPTH: u8 = 32;
/// Pages of a host specific log (ACS-3, 9.1).
pub const HOST_LOG_PAGES: u16 = 16;

/// Whether a command has 48-bit addresses (ACS-3, 4.1.2).
#[must_use]
pub fn is_48_bit(command: u8) -> bool {
    matches!(
        command,
        op::READ_SECTORS_EXT
            | op::READ_DMA_EXT
            | op::READ_MULTIPLE_EXT
            | op::READ_LOG_EXT
            | op::READ_LOG_DMA_EXT
            | op::WRITE_SECTORS_EXT
            | op::WRITE_DMA_EXT
            | op::WRITE_MULTIPLE_EXT
            | op::WRITE_DMA_FUA_EXT
            | op::WRITE_MULTIPLE_FUA_EXT
            | op::WRITE_LOG_EXT
            | op::WRITE_LOG_DMA_EXT
            | op::READ_VERIFY_EXT
            | op::FLUSH_CACHE_EXT
            | op::DATA_SET_MANAGEMENT
            | op::READ_FPDMA_QUEUED
            | op::WRITE_FPDMA_QUEUED
            | op::SEND_FPDMA_QUEUED
            | rare::READ_NATIVE_MAX_EXT
            | rare::SET_MAX_EXT
            | rare::WRITE_UNCORRECTABLE
            | rare::MAX_ADDRESS
            | rare::SANITIZE
    )
}
