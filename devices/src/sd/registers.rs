//! CID, CSD, SCR and SD status.

use super::{
    bits::Bits,
    config::SdVersion,
    size::{HIGH_UNIT, STANDARD_MAX, standard_fields},
};

/// A CID or CSD.
pub(super) type Register = Bits<16>;

/// Which of a CSD's bits a host has changed (SD 5.3.2: FILE_FORMAT_GRP, COPY, PERM_WRITE_PROTECT,
/// TMP_WRITE_PROTECT, FILE_FORMAT), as bits 15 to 10 of it.
pub(super) mod programmed {
    /// FILE_FORMAT_GRP
    pub const FORMAT_GROUP: u8 = 1 << 5;
    /// COPY
    pub const COPY: u8 = 1 << 4;
    /// PERM_WRITE_PROTECT
    pub const PERMANENT: u8 = 1 << 3;
    /// TMP_WRITE_PROTECT
    pub const TEMPORARY: u8 = 1 << 2;
}

/// Blocks of an erase sector, less one: CSD of version 1.
const SECTOR_SIZE: u64 = 31;
/// Sectors of a write protect group, less one.
const WP_GROUP_SIZE: u64 = 127;
/// Bytes of an erase group and of a write protect group of an eMMC device, by either definition.
pub(super) const MMC_GROUP: u64 = 512 << 10;

/// Bytes of a write protect group of an SDSC card of `size` bytes.
pub(super) fn wp_group(size: u64) -> u64 {
    let (_, _, block) = standard_fields(size);
    ((SECTOR_SIZE + 1) * (WP_GROUP_SIZE + 1)) << block
}

/// CID of an SD card (SD 5.2).
pub(super) fn sd_cid(serial: u32) -> Register {
    Bits::new()
        .put(127, 120, 0x73)
        .put(119, 104, u64::from(u16::from_be_bytes(*b"SP")))
        .put(103, 64, u64::from_be_bytes(*b"\0\0\0SPNDL"))
        .put(63, 56, 0x10)
        .put(55, 24, serial.into())
        // January 2025.
        .put(19, 8, 25 << 4 | 1)
        .sealed()
}

/// CID of an eMMC device (eMMC 7.2).
pub(super) fn mmc_cid(serial: u32) -> Register {
    Bits::new()
        .put(127, 120, 0x73)
        // CBX: BGA.
        .put(113, 112, 1)
        .put(111, 104, b'S'.into())
        .put(103, 56, u64::from_be_bytes(*b"\0\0SPNDLE"))
        .put(55, 48, 0x10)
        .put(47, 16, serial.into())
        // January 2025: with EXT_CSD_REV above 4 years count from 2013.
        .put(15, 8, 1 << 4 | 12)
        .sealed()
}

/// CSD of an SD card of `size` bytes (SD 5.3).
pub(super) fn sd_csd(size: u64, fast: bool, changed: u8) -> Register {
    let speed = if fast { 0x5a } else { 0x32 };
    let csd = if size <= STANDARD_MAX {
        let (c_size, multiplier, block) = standard_fields(size);
        Bits::new()
            .put(119, 112, 0x26)
            .put(103, 96, speed)
            // Classes 0, 2, 4, 5, 6, 7, 8, 10.
            .put(95, 84, 0x5f5)
            .put(83, 80, block)
            // READ_BL_PARTIAL
            .put(79, 79, 1)
            .put(73, 62, c_size)
            // VDD_R_CURR_MIN and the like: no limit.
            .put(61, 50, 0xfff)
            .put(49, 47, multiplier)
            // ERASE_BLK_EN
            .put(46, 46, 1)
            .put(45, 39, SECTOR_SIZE)
            .put(38, 32, WP_GROUP_SIZE)
            // WP_GRP_ENABLE
            .put(31, 31, 1)
            .put(28, 26, 2)
            .put(25, 22, block)
    } else {
        Bits::new()
            .put(127, 126, 1)
            .put(119, 112, 0x0e)
            .put(103, 96, speed)
            // Classes 0, 2, 4, 5, 7, 8, 10.
            .put(95, 84, 0x5b5)
            .put(83, 80, 9)
            .put(69, 48, size / HIGH_UNIT - 1)
            .put(46, 46, 1)
            .put(45, 39, 0x7f)
            .put(28, 26, 2)
            .put(25, 22, 9)
    };
    csd.put(15, 10, changed.into()).sealed()
}

/// CSD of an eMMC device with a user area of `size` bytes (eMMC 7.3).
pub(super) fn mmc_csd(size: u64, changed: u8) -> Register {
    let (c_size, multiplier, block) =
        if size > STANDARD_MAX { (0xfff, 7, 9) } else { standard_fields(size) };
    Bits::new()
        // Version and features are in EXT_CSD; version 4 of the specification or later.
        .put(127, 126, 3)
        .put(125, 122, 4)
        .put(119, 112, 0x27)
        .put(111, 104, 1)
        .put(103, 96, 0x32)
        // Classes 0, 2, 4, 5, 6, 7.
        // Classes 0, 2, 4 to 7, and command queuing.
        .put(95, 84, 0x8f5)
        .put(83, 80, block)
        .put(73, 62, c_size)
        .put(61, 50, 0xfff)
        .put(49, 47, multiplier)
        // ERASE_GRP_SIZE and ERASE_GRP_MULT: blocks of a group.
        .put(46, 42, 31)
        .put(41, 37, (MMC_GROUP >> block) / 32 - 1)
        // WP_GRP_SIZE: one erase group.
        .put(36, 32, 0)
        .put(31, 31, 1)
        .put(28, 26, 2)
        .put(25, 22, block)
        .put(15, 10, changed.into())
        .sealed()
}

/// What a host may write of a CSD (CMD27): the bits of [`programmed`], where nothing else changes.
/// The permanent ones stay once they are set.
pub(super) fn program_csd(now: &Register, written: &[u8; 16]) -> Option<u8> {
    let new = Bits(*written);
    let changed = new.get(15, 10) as u8;
    if now.put(15, 10, changed.into()).sealed() != new {
        return None;
    }
    let lasting = programmed::FORMAT_GROUP | programmed::COPY | programmed::PERMANENT;
    let old = now.get(15, 10) as u8;
    (old & lasting & !changed == 0).then_some(changed)
}

/// SCR (SD 5.6).
pub(super) fn scr(version: SdVersion) -> [u8; 8] {
    let (spec3, spec4, specx, commands) = match version {
        SdVersion::V2 => (0, 0, 0, 0),
        // CMD20 and CMD23.
        SdVersion::V3 => (1, 0, 0, 3),
        SdVersion::V6 => (1, 1, 2, 3),
    };
    Bits::new()
        .put(59, 56, 2)
        // Lines: 1 and 4.
        .put(51, 48, 5)
        .put(47, 47, spec3)
        .put(42, 42, spec4)
        .put(41, 38, specx)
        .put(33, 32, commands)
        .0
}

/// SD status (SD 4.10.2).
pub(super) fn sd_status(version: SdVersion, width: u8) -> [u8; 64] {
    let discard = u64::from(version >= SdVersion::V6);
    Bits::new()
        .put(511, 510, if width == 4 { 2 } else { 0 })
        // Class 10, allocation units of 4 MiB.
        .put(447, 440, 4)
        .put(431, 428, 9)
        // An erase of 8 allocation units takes a second.
        .put(423, 408, 8)
        .put(407, 402, 1)
        .put(399, 396, if version >= SdVersion::V3 { 3 } else { 0 })
        .put(395, 392, if version >= SdVersion::V3 { 9 } else { 0 })
        .put(313, 313, discard)
        .0
}
