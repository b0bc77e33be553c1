//! Ports, registers and bits: AT Attachment with Packet Interface - 7, volume 2 (ATA-7), Programming
//! Interface for Bus Master IDE Controller 1.0 (BMIDE), and the data sheet of Intel's 82371FB and
//! 82371SB (PIIX, 290550-002) with that of the 82371AB (PIIX4, 290562-001).

/// Intel.
pub const VENDOR: u16 = 0x8086;
/// PIIX3, function 0: the ISA bridge (PIIX, 2.1.2).
pub const PIIX3_ISA: u16 = 0x7000;
/// PIIX3, function 1: IDE (PIIX, 2.2.2).
pub const PIIX3_IDE: u16 = 0x7010;
/// PIIX4, function 0 (PIIX4, 4.1.2).
pub const PIIX4_ISA: u16 = 0x7110;
/// PIIX4, function 1 (PIIX4, 5.1.2).
pub const PIIX4_IDE: u16 = 0x7111;
/// Class code of the bridge (PIIX, 2.1.6).
pub const CLASS_ISA: u32 = 0x06_01_00;
/// Class code: IDE, bus master, both channels in legacy mode only (PIIX, 2.2.6).
pub const CLASS_IDE: u32 = 0x01_01_80;

/// The BAR of the bus master registers (PIIX, 2.2.9).
pub const BMIBA: u8 = 4;
/// Ports of the bus master registers.
pub const BMIBA_LEN: u64 = 16;
/// Ports of one channel's.
pub const BM_CHANNEL_LEN: u64 = 8;

/// First port of each channel's command block (PIIX, 2.2; PCI IDE 1.0, 2.1).
pub const COMMAND_BLOCK: [u64; 2] = [0x1f0, 0x170];
/// Port of each channel's DEVICE CONTROL and ALTERNATE STATUS (PCI IDE 1.0, 2.1).
pub const CONTROL_PORT: [u64; 2] = [0x3f6, 0x376];
/// ISA interrupt of each channel (PCI IDE 1.0, 2.2).
pub const IRQ: [u8; 2] = [14, 15];

/// IDE timing registers, one for each channel (PIIX, 2.2.11).
pub const IDETIM: [u64; 2] = [0x40, 0x42];
/// IDETIM: the channel's ports are decoded (PIIX, 2.2.11).
pub const IDE_DECODE: u64 = 1 << 15;

/// Offsets in the command block, and of the control port behind it, as a channel counts them
/// (ATA-7, 7.1).
pub mod port {
    /// DATA, 16 or 32 bits wide.
    pub const DATA: u64 = 0;
    /// ERROR (read), FEATURES (write).
    pub const ERROR: u64 = 1;
    /// SECTOR COUNT.
    pub const COUNT: u64 = 2;
    /// LBA LOW.
    pub const LBA_LOW: u64 = 3;
    /// LBA MID.
    pub const LBA_MID: u64 = 4;
    /// LBA HIGH.
    pub const LBA_HIGH: u64 = 5;
    /// DEVICE.
    pub const DEVICE: u64 = 6;
    /// STATUS (read), COMMAND (write).
    pub const COMMAND: u64 = 7;
    /// ALTERNATE STATUS (read), DEVICE CONTROL (write).
    pub const CONTROL: u64 = 8;
}

/// DEVICE CONTROL (ATA-7, 7.9).
pub mod control {
    /// No interrupts.
    pub const NIEN: u8 = 0x02;
    /// Software reset.
    pub const SRST: u8 = 0x04;
    /// Reads show the registers' previous contents.
    pub const HOB: u8 = 0x80;
}

/// Bus master IDE command (BMIDE, 2.1).
pub mod bm_command {
    /// Start/stop.
    pub const START: u8 = 0x01;
    /// The transfer writes memory.
    pub const TO_MEMORY: u8 = 0x08;
}

/// Bus master IDE status (BMIDE, 2.2).
pub mod bm_status {
    /// A transfer is under way.
    pub const ACTIVE: u8 = 0x01;
    /// Memory could not be reached.
    pub const ERROR: u8 = 0x02;
    /// The drive has interrupted.
    pub const INTERRUPT: u8 = 0x04;
    /// Somebody says that drive 0 can do DMA.
    pub const DRIVE_0: u8 = 0x20;
    /// The same of drive 1.
    pub const DRIVE_1: u8 = 0x40;
}

/// Bytes of a physical region descriptor (BMIDE, 1.2).
pub const PRD_LEN: u64 = 8;
/// End of table (BMIDE, 1.2).
pub const PRD_END: u16 = 0x8000;
/// A table does not cross a boundary of so many bytes, so it is not longer (BMIDE, 1.2).
pub const PRD_TABLE_MAX: u64 = 0x1_0000;

/// What nobody drives: the lines are pulled up, but for bit 7 (ATA-7, 4.2).
pub const FLOATING: u8 = 0x7f;
