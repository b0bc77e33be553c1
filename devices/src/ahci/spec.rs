//! Constants and layouts: Serial ATA Advanced Host Controller Interface 1.3.1 (AHCI), and of Serial
//! ATA 3.2 (SATA) the frame information structures.

/// The PCI class: mass storage, Serial ATA, AHCI 1.0 (AHCI 2.1.5).
pub const CLASS: u32 = 0x01_06_01;
/// Intel ICH9 in AHCI mode, as QEMU's `ich9-ahci`.
pub const PCI_IDS: (u16, u16) = (0x8086, 0x2922);
/// The BAR of the registers (AHCI 2.1.11).
pub const ABAR: u8 = 5;
/// The BAR of the index-data pair (SATA capability; AHCI 2.4).
pub const IDP_BAR: u8 = 4;
/// Its length in bytes, and where in it index and data lie.
pub const IDP_LEN: u64 = 32;
/// See [`IDP_LEN`].
pub const IDP_INDEX: u64 = 0x10;
/// See [`IDP_LEN`].
pub const IDP_DATA: u64 = 0x14;
/// Ports that a controller can have (AHCI 1.2).
pub const PORTS_MAX: u8 = 32;
/// Command slots of a port (AHCI 1.2).
pub const SLOTS: usize = 32;
/// Where the ports' registers begin (AHCI 3.3).
pub const PORT_BASE: u64 = 0x100;
/// Bytes of a port's registers (AHCI 3.3).
pub const PORT_LEN: u64 = 0x80;
/// The offset of PxSACT in them (AHCI 3.3.13).
pub const PORT_SACT: u64 = 0x34;
/// The offset of PxCI in them (AHCI 3.3.14).
pub const PORT_CI: u64 = 0x38;

/// CAP: HBA Capabilities (AHCI 3.1.1).
pub mod cap {
    /// Command completion coalescing.
    pub const CCCS: u32 = 1 << 7;
    /// Partial and slumber state capable.
    pub const PSC_SSC: u32 = 1 << 13 | 1 << 14;
    /// Several DRQ blocks of PIO.
    pub const PMD: u32 = 1 << 15;
    /// FIS-based switching.
    pub const FBSS: u32 = 1 << 16;
    /// Port multipliers.
    pub const SPM: u32 = 1 << 17;
    /// AHCI mode only.
    pub const SAM: u32 = 1 << 18;
    /// Interface speed: 6 Gb/s.
    pub const ISS: u32 = 3 << 20;
    /// Command list override.
    pub const SCLO: u32 = 1 << 24;
    /// Staggered spin-up.
    pub const SSS: u32 = 1 << 27;
    /// SNotification.
    pub const SSNTF: u32 = 1 << 29;
    /// Native command queuing.
    pub const SNCQ: u32 = 1 << 30;
    /// 64-bit addresses.
    pub const S64A: u32 = 1 << 31;
    /// Where the number of command slots, less one, lies.
    pub const NCS_SHIFT: u32 = 8;
}

/// CCC_CTL (AHCI 3.1.6).
pub mod ccc {
    /// Enable.
    pub const ENABLE: u32 = 1 << 0;
    /// Where the number of the interrupt lies.
    pub const INT_SHIFT: u32 = 3;
    /// Command completions.
    pub const COUNT_SHIFT: u32 = 8;
    /// See [`COUNT_SHIFT`].
    pub const COUNT: u32 = 0xff << COUNT_SHIFT;
    /// Timeout value, in milliseconds.
    pub const TIME_SHIFT: u32 = 16;
    /// See [`TIME_SHIFT`].
    pub const TIME: u32 = 0xffff << TIME_SHIFT;
    /// As after a reset: one completion, one millisecond.
    pub const RESET: u32 = 1 << TIME_SHIFT | 1 << COUNT_SHIFT;
}

/// GHC: Global HBA Control (AHCI 3.1.2).
pub mod ghc {
    /// HBA reset.
    pub const HR: u32 = 1 << 0;
    /// Interrupt enable.
    pub const IE: u32 = 1 << 1;
    /// AHCI enable.
    pub const AE: u32 = 1 << 31;
}

/// PxFBS (AHCI 3.3.16).
pub mod fbs {
    /// Enable.
    pub const EN: u32 = 1 << 0;
    /// Device error clear.
    pub const DEC: u32 = 1 << 1;
    /// Single device error.
    pub const SDE: u32 = 1 << 2;
    /// Where the device to issue lies.
    pub const DEV_SHIFT: u32 = 8;
    /// See [`DEV_SHIFT`].
    pub const DEV: u32 = 0x0f << DEV_SHIFT;
    /// Where the number of devices that are best active lies.
    pub const ADO_SHIFT: u32 = 12;
    /// Where the device with an error lies.
    pub const DWE_SHIFT: u32 = 16;
    /// See [`DWE_SHIFT`].
    pub const DWE: u32 = 0x0f << DWE_SHIFT;
}

/// Port multipliers (SATA 16.4): registers, and what is in them.
pub mod multiplier {
    /// READ PORT MULTIPLIER (SATA 16.4.3.2).
    pub const READ: u8 = 0xe4;
    /// WRITE PORT MULTIPLIER (SATA 16.4.3.3).
    pub const WRITE: u8 = 0xe8;
    /// The port that is the multiplier itself.
    pub const CONTROL_PORT: u8 = 15;
    /// GSCR: product.
    pub const PRODUCT: u16 = 0;
    /// Vendor and device, of nobody's hardware.
    pub const PRODUCT_ID: u32 = 0x0001_1af4;
    /// GSCR: revision.
    pub const REVISION: u16 = 1;
    /// Port Multiplier 1.0 to 1.2.
    pub const REVISIONS: u32 = 0x010e;
    /// GSCR: ports.
    pub const PORTS: u16 = 2;
    /// GSCR: ports with errors.
    pub const ERROR: u16 = 32;
    /// GSCR: which errors these are.
    pub const ERROR_ENABLES: u16 = 33;
    /// As after a reset.
    pub const ERROR_ENABLE: u32 = 0x0400_ffff;
    /// GSCR: features.
    pub const FEATURES: u16 = 64;
    /// GSCR: those that are on.
    pub const FEATURES_ON: u16 = 96;
    /// Asynchronous notification.
    pub const NOTIFICATION: u32 = 1 << 3;
    /// PSCR: SStatus.
    pub const STATUS: u16 = 0;
    /// PSCR: SError.
    pub const LINK_ERROR: u16 = 1;
    /// PSCR: SControl.
    pub const CONTROL: u16 = 2;
    /// LBA in its signature; COUNT holds 1 (SATA 16.4.5).
    pub const SIGNATURE: u64 = 0x96_6901;
}

/// VS (AHCI 3.1.5).
pub const VERSION: u32 = 0x0001_0301;

/// PxIS and PxIE (AHCI 3.3.5, 3.3.6).
pub mod is {
    /// Device to Host Register FIS.
    pub const DHRS: u32 = 1 << 0;
    /// PIO Setup FIS.
    pub const PSS: u32 = 1 << 1;
    /// DMA Setup FIS.
    pub const DSS: u32 = 1 << 2;
    /// Set Device Bits FIS.
    pub const SDBS: u32 = 1 << 3;
    /// Unknown FIS.
    pub const UFS: u32 = 1 << 4;
    /// Descriptor processed.
    pub const DPS: u32 = 1 << 5;
    /// Port connect change: PxSERR.DIAG.X.
    pub const PCS: u32 = 1 << 6;
    /// PhyRdy change: PxSERR.DIAG.N.
    pub const PRCS: u32 = 1 << 22;
    /// Overflow.
    pub const OFS: u32 = 1 << 24;
    /// Interface fatal error.
    pub const IFS: u32 = 1 << 27;
    /// Host bus data error.
    pub const HBDS: u32 = 1 << 28;
    /// Host bus fatal error.
    pub const HBFS: u32 = 1 << 29;
    /// Task file error.
    pub const TFES: u32 = 1 << 30;
    /// All bits that PxIE has.
    pub const ENABLE: u32 = 0xfdc0_00ff;
    /// Bits that are cleared by writing one.
    pub const CLEAR: u32 = ENABLE & !(PCS | PRCS);
}

/// PxCMD (AHCI 3.3.7).
pub mod cmd {
    /// Start.
    pub const ST: u32 = 1 << 0;
    /// Spin-up device.
    pub const SUD: u32 = 1 << 1;
    /// Power on device.
    pub const POD: u32 = 1 << 2;
    /// Command list override.
    pub const CLO: u32 = 1 << 3;
    /// FIS receive enable.
    pub const FRE: u32 = 1 << 4;
    /// Current command slot.
    pub const CCS_SHIFT: u32 = 8;
    /// See [`CCS_SHIFT`].
    pub const CCS: u32 = 0x1f << CCS_SHIFT;
    /// FIS receive running.
    pub const FR: u32 = 1 << 14;
    /// Command list running.
    pub const CR: u32 = 1 << 15;
    /// A port multiplier is attached.
    pub const PMA: u32 = 1 << 17;
    /// FIS-based switching capable port.
    pub const FBSCP: u32 = 1 << 22;
    /// Hot plug capable port.
    pub const HPCP: u32 = 1 << 18;
    /// The device is ATAPI: the LED follows DLAE.
    pub const ATAPI: u32 = 1 << 24;
    /// Drive LED on ATAPI enable.
    pub const DLAE: u32 = 1 << 25;
    /// Interface communication control.
    pub const ICC_SHIFT: u32 = 28;
    /// See [`ICC_SHIFT`].
    pub const ICC: u32 = 0x0f << ICC_SHIFT;
}

/// PxSSTS, PxSCTL (AHCI 3.3.10, 3.3.11).
pub mod link {
    /// DET: a device is there, and communication is established.
    pub const DET_UP: u32 = 3;
    /// DET: the interface is offline.
    pub const DET_OFFLINE: u32 = 4;
    /// PxSCTL.DET: COMRESET.
    pub const CONTROL_RESET: u32 = 1;
    /// PxSCTL.DET: offline.
    pub const CONTROL_OFFLINE: u32 = 4;
    /// The DET field.
    pub const DET: u32 = 0x0f;
    /// SPD: 6 Gb/s.
    pub const SPD_GEN3: u32 = 3;
    /// Where SPD lies.
    pub const SPD_SHIFT: u32 = 4;
    /// Where IPM lies.
    pub const IPM_SHIFT: u32 = 8;
    /// IPM, ICC: active.
    pub const ACTIVE: u32 = 1;
    /// IPM, ICC: partial.
    pub const PARTIAL: u32 = 2;
    /// IPM, ICC: slumber.
    pub const SLUMBER: u32 = 6;
    /// Bits of PxSCTL that can be written: IPM, SPD, DET.
    pub const CONTROL: u32 = 0x0fff;
}

/// PxSERR (AHCI 3.3.12).
pub mod serr {
    /// ERR.T: transient data integrity error.
    pub const TRANSIENT: u32 = 1 << 8;
    /// ERR.P: protocol error.
    pub const PROTOCOL: u32 = 1 << 10;
    /// DIAG.N: PhyRdy change.
    pub const PHY: u32 = 1 << 16;
    /// DIAG.C: CRC error.
    pub const CRC: u32 = 1 << 21;
    /// DIAG.X: exchanged.
    pub const EXCHANGED: u32 = 1 << 26;
    /// Bits that there are.
    pub const ALL: u32 = 0x07ff_0f03;
}

/// PxSIG while no device has said who it is (AHCI 3.3.9).
pub const NO_SIGNATURE: u32 = 0xffff_ffff;
/// PxTFD.STS of a port without a device, and before its first FIS (AHCI 3.3.8).
pub const NO_STATUS: u32 = 0x7f;

/// Bits of the first dword of a command header (AHCI 4.2.2).
pub mod header {
    /// Dwords of the command FIS.
    pub const CFL: u32 = 0x1f;
    /// The command is a packet.
    pub const ATAPI: u32 = 1 << 5;
    /// Clear busy upon R_OK.
    pub const CLEAR_BUSY: u32 = 1 << 10;
    /// Where the port multiplier port lies.
    pub const PMP_SHIFT: u32 = 12;
    /// See [`PMP_SHIFT`].
    pub const PMP: u32 = 0x0f;
    /// Where the number of PRDs lies.
    pub const PRDTL_SHIFT: u32 = 16;
    /// Bytes of a header.
    pub const LEN: u64 = 32;
    /// Where the count of transferred bytes lies.
    pub const PRDBC: u64 = 4;
}

/// Offsets in a command table (AHCI 4.2.3).
pub mod table {
    /// The packet.
    pub const ACMD: usize = 0x40;
    /// The PRD table.
    pub const PRDT: usize = 0x80;
    /// Bytes of a PRD.
    pub const PRD_LEN: usize = 16;
    /// Data byte count, less one.
    pub const DBC: u32 = 0x3f_ffff;
    /// Interrupt on completion.
    pub const INTERRUPT: u32 = 1 << 31;
}

/// Offsets in the area of received FISes (AHCI 4.2.1).
pub mod area {
    /// DMA Setup.
    pub const DMA_SETUP: u64 = 0x00;
    /// PIO Setup.
    pub const PIO_SETUP: u64 = 0x20;
    /// Device to Host Register.
    pub const REGISTER: u64 = 0x40;
    /// Set Device Bits.
    pub const DEVICE_BITS: u64 = 0x58;
    /// Bytes of an area: those of the devices behind a multiplier follow each other.
    pub const LEN: u64 = 0x100;
}

/// FIS types (SATA 10.5.2).
pub mod fis {
    /// Host to Device Register.
    pub const HOST_REGISTER: u8 = 0x27;
    /// Device to Host Register.
    pub const DEVICE_REGISTER: u8 = 0x34;
    /// DMA Setup.
    pub const DMA_SETUP: u8 = 0x41;
    /// PIO Setup.
    pub const PIO_SETUP: u8 = 0x5f;
    /// Set Device Bits.
    pub const DEVICE_BITS: u8 = 0xa1;
    /// The second byte: it is a command.
    pub const COMMAND: u8 = 1 << 7;
    /// The second byte: the data go to the host.
    pub const TO_HOST: u8 = 1 << 5;
    /// The second byte of Set Device Bits: notification.
    pub const NOTIFICATION: u8 = 1 << 7;
    /// The second byte: interrupt.
    pub const INTERRUPT: u8 = 1 << 6;
    /// SRST, in the control field (SATA 10.5.5).
    pub const SRST: u8 = 1 << 2;
}
