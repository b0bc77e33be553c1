//! Bits of the registers (SDHC 2.2).

/// Transfer mode (2.2.5).
pub mod mode {
    /// DMA enable
    pub const DMA: u16 = 1 << 0;
    /// Block count enable
    pub const COUNT: u16 = 1 << 1;
    /// Auto CMD enable: the field.
    pub const AUTO: u16 = 3 << 2;
    /// Auto CMD12
    pub const AUTO_12: u16 = 1 << 2;
    /// Auto CMD23
    pub const AUTO_23: u16 = 2 << 2;
    /// Data go to the host.
    pub const READ: u16 = 1 << 4;
    /// More than one block
    pub const MULTIPLE: u16 = 1 << 5;
}

/// Command (2.2.6).
pub mod command {
    /// Response type: the field.
    pub const RESPONSE: u16 = 3;
    /// No response
    pub const NONE: u16 = 0;
    /// 136 bits
    pub const LONG: u16 = 1;
    /// 48 bits, busy after it
    pub const BUSY: u16 = 3;
    /// Check the response's CRC
    pub const CHECK_CRC: u16 = 1 << 3;
    /// Check the response's command number
    pub const CHECK_INDEX: u16 = 1 << 4;
    /// Data follow
    pub const DATA: u16 = 1 << 5;
    /// Command type: the field. All ones is an abort.
    pub const ABORT: u16 = 3 << 6;
}

/// Present state (2.2.9).
pub mod present {
    /// Command inhibit (CMD)
    pub const COMMAND_INHIBIT: u32 = 1 << 0;
    /// Command inhibit (DAT)
    pub const DATA_INHIBIT: u32 = 1 << 1;
    /// DAT line active
    pub const DATA_ACTIVE: u32 = 1 << 2;
    /// Write transfer active
    pub const WRITING: u32 = 1 << 8;
    /// Read transfer active
    pub const READING: u32 = 1 << 9;
    /// Buffer write enable
    pub const BUFFER_WRITE: u32 = 1 << 10;
    /// Buffer read enable
    pub const BUFFER_READ: u32 = 1 << 11;
    /// Card inserted
    pub const INSERTED: u32 = 1 << 16;
    /// Card state stable
    pub const STABLE: u32 = 1 << 17;
    /// Card detect pin level
    pub const DETECT: u32 = 1 << 18;
    /// Write protect switch: writes are allowed.
    pub const WRITABLE: u32 = 1 << 19;
    /// Level of the line DAT 0
    pub const DATA_0: u32 = 1 << 20;
    /// Levels of the lines DAT 3 to DAT 0
    pub const DATA_LINES: u32 = 0xf << 20;
    /// CMD line level
    pub const COMMAND_LINE: u32 = 1 << 24;
}

/// Host control 1 (2.2.10).
pub mod control {
    /// Four data lines
    pub const WIDTH_4: u8 = 1 << 1;
    /// High speed enable
    pub const HIGH_SPEED: u8 = 1 << 2;
    /// DMA select: the field.
    pub const DMA: u8 = 3 << 3;
    /// ADMA1 (until version 2)
    pub const ADMA1: u8 = 1 << 3;
    /// ADMA2 with 32-bit addresses
    pub const ADMA2: u8 = 2 << 3;
    /// ADMA2 with 64-bit addresses
    pub const ADMA2_64: u8 = 3 << 3;
    /// Eight data lines
    pub const WIDTH_8: u8 = 1 << 5;
    /// Card detect test level
    pub const TEST_LEVEL: u8 = 1 << 6;
    /// Card detect signal selection
    pub const TEST: u8 = 1 << 7;
}

/// Block gap control (2.2.12).
pub mod gap {
    /// Stop at block gap request
    pub const STOP: u8 = 1 << 0;
    /// Continue request
    pub const CONTINUE: u8 = 1 << 1;
}

/// Clock control (2.2.14).
pub mod clock {
    /// Internal clock enable
    pub const INTERNAL: u16 = 1 << 0;
    /// Internal clock stable
    pub const STABLE: u16 = 1 << 1;
    /// SD clock enable
    pub const CARD: u16 = 1 << 2;
    /// The divider: its bits.
    pub const DIVIDER: u16 = 0xffc0;
}

/// Software reset (2.2.16).
pub mod reset {
    /// Everything
    pub const ALL: u8 = 1 << 0;
    /// The command line
    pub const COMMAND: u8 = 1 << 1;
    /// The data lines
    pub const DATA: u8 = 1 << 2;
}

/// Normal interrupt status (2.2.17).
pub mod normal {
    /// Command complete
    pub const COMMAND: u16 = 1 << 0;
    /// Transfer complete
    pub const TRANSFER: u16 = 1 << 1;
    /// Block gap event
    pub const GAP: u16 = 1 << 2;
    /// DMA interrupt
    pub const DMA: u16 = 1 << 3;
    /// Buffer write ready
    pub const WRITE_READY: u16 = 1 << 4;
    /// Buffer read ready
    pub const READ_READY: u16 = 1 << 5;
    /// Card insertion
    pub const INSERTION: u16 = 1 << 6;
    /// Card removal
    pub const REMOVAL: u16 = 1 << 7;
    /// Error interrupt: a bit of the error status is set.
    pub const ERROR: u16 = 1 << 15;
}

/// Error interrupt status (2.2.18).
pub mod error {
    /// Command timeout
    pub const COMMAND_TIMEOUT: u16 = 1 << 0;
    /// Command CRC
    pub const COMMAND_CRC: u16 = 1 << 1;
    /// Command end bit
    pub const COMMAND_END: u16 = 1 << 2;
    /// Command index
    pub const COMMAND_INDEX: u16 = 1 << 3;
    /// Data timeout
    pub const DATA_TIMEOUT: u16 = 1 << 4;
    /// Data CRC
    pub const DATA_CRC: u16 = 1 << 5;
    /// Auto CMD
    pub const AUTO: u16 = 1 << 8;
    /// ADMA
    pub const ADMA: u16 = 1 << 9;
    /// Vendor specific: an address of a DMA transfer is no memory.
    pub const TARGET: u16 = 1 << 12;
}

/// Auto CMD error status (2.2.23).
pub mod auto_error {
    /// Auto CMD12 was not executed.
    pub const NOT_EXECUTED: u16 = 1 << 0;
    /// Timeout
    pub const TIMEOUT: u16 = 1 << 1;
}

/// Host control 2 (2.2.24).
pub mod control2 {
    /// UHS mode: the field.
    pub const UHS_MODE: u16 = 7;
    /// 1.8 V signalling
    pub const LOW_VOLTAGE: u16 = 1 << 3;
    /// Execute tuning
    pub const TUNE: u16 = 1 << 6;
    /// Sampling clock select
    pub const TUNED: u16 = 1 << 7;
    /// Preset value enable
    pub const PRESET: u16 = 1 << 15;
}

/// ADMA error status (2.2.30).
pub mod adma_error {
    /// The state is ST_FDS: a descriptor was fetched.
    pub const FETCH: u8 = 1;
    /// The state is ST_TFR: data were transferred.
    pub const TRANSFER: u8 = 3;
    /// Length mismatch
    pub const LENGTH: u8 = 1 << 2;
}
