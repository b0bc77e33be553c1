//! Commands about what a drive keeps: power, SMART, passwords, its size, its end.

use super::{
    cmd::{ABORTED, Access, Refused},
    spec::{SECTOR, Taskfile, microcode, rare, set_max, smart},
};
use crate::firmware::IMAGE_MAX;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Rare {
    /// With what the standby timer is set to, unless it stays.
    Idle {
        timer: Option<u8>,
    },
    Standby {
        timer: Option<u8>,
    },
    CheckPower,
    Sleep,
    /// SMART: the subcommand, its LBA 7:0 and its COUNT.
    Smart {
        feature: u8,
        address: u8,
        pages: u8,
    },
    SecuritySetPassword,
    SecurityUnlock,
    SecurityErasePrepare,
    SecurityEraseUnit,
    SecurityFreeze,
    SecurityDisable,
    ReadNativeMax,
    SetMax {
        lba: u64,
        keep: bool,
    },
    /// SET MAX with a feature.
    SetMaxLock {
        feature: u8,
    },
    /// ACCESSIBLE MAX ADDRESS CONFIGURATION.
    MaxAddress {
        feature: u16,
        lba: u64,
    },
    Sanitize {
        feature: u16,
        options: u16,
        lba: u64,
    },
    /// DOWNLOAD MICROCODE: blocks, and how many blocks behind the image's start.
    Microcode {
        mode: u16,
        blocks: u16,
        offset: u16,
        access: Access,
    },
    WriteUncorrectable {
        lba: u64,
        sectors: u32,
        /// Reads of it are errors that are logged.
        logged: bool,
    },
}

impl Rare {
    /// Takes a taskfile apart; `None`: it is none of these.
    pub(super) fn parse(tf: &Taskfile) -> Option<Result<Self, Refused>> {
        let low = tf.lba & 0xff_ffff | u64::from(tf.device & 0x0f) << 24;
        Some(Ok(match tf.command {
            rare::IDLE_IMMEDIATE => Self::Idle { timer: None },
            rare::IDLE => Self::Idle { timer: Some(tf.count as u8) },
            rare::STANDBY_IMMEDIATE => Self::Standby { timer: None },
            rare::STANDBY => Self::Standby { timer: Some(tf.count as u8) },
            rare::CHECK_POWER_MODE => Self::CheckPower,
            rare::SLEEP => Self::Sleep,
            rare::SMART if (tf.lba >> 8) as u16 == smart::KEY => {
                let (address, pages) = (tf.lba as u8, tf.count as u8);
                let feature = tf.features as u8;
                let logs = matches!(feature, smart::READ_LOG | smart::WRITE_LOG);
                if logs && pages == 0 {
                    return Some(Err(ABORTED));
                }
                Self::Smart { feature, address, pages }
            }
            rare::SMART => return Some(Err(ABORTED)),
            rare::SECURITY_SET_PASSWORD => Self::SecuritySetPassword,
            rare::SECURITY_UNLOCK => Self::SecurityUnlock,
            rare::SECURITY_ERASE_PREPARE => Self::SecurityErasePrepare,
            rare::SECURITY_ERASE_UNIT => Self::SecurityEraseUnit,
            rare::SECURITY_FREEZE_LOCK => Self::SecurityFreeze,
            rare::SECURITY_DISABLE_PASSWORD => Self::SecurityDisable,
            rare::READ_NATIVE_MAX | rare::READ_NATIVE_MAX_EXT => Self::ReadNativeMax,
            rare::SET_MAX if tf.features as u8 == 0 => {
                Self::SetMax { lba: low, keep: tf.count & 1 != 0 }
            }
            rare::SET_MAX if (tf.features as u8) <= set_max::FREEZE_LOCK => {
                Self::SetMaxLock { feature: tf.features as u8 }
            }
            rare::SET_MAX_EXT => Self::SetMax { lba: tf.lba, keep: tf.count & 1 != 0 },
            rare::MAX_ADDRESS => Self::MaxAddress { feature: tf.features, lba: tf.lba },
            rare::SANITIZE => {
                Self::Sanitize { feature: tf.features, options: tf.count, lba: tf.lba }
            }
            rare::DOWNLOAD_MICROCODE => return Some(Self::microcode(tf, Access::Pio(1))),
            rare::DOWNLOAD_MICROCODE_DMA => return Some(Self::microcode(tf, Access::Dma)),
            rare::WRITE_UNCORRECTABLE => {
                let logged = match tf.features as u8 {
                    rare::PSEUDO_LOGGED => true,
                    rare::FLAGGED => false,
                    _ => return Some(Err(ABORTED)),
                };
                let sectors = if tf.count == 0 { 0x1_0000 } else { tf.count.into() };
                Self::WriteUncorrectable { lba: tf.lba, sectors, logged }
            }
            _ => return None,
        }))
    }

    fn microcode(tf: &Taskfile, access: Access) -> Result<Self, Refused> {
        let mode = tf.features & 0xff;
        let blocks = tf.count & 0xff | (tf.lba as u16 & 0xff) << 8;
        let offset = (tf.lba >> 8) as u16;
        let most = (IMAGE_MAX as u64 / SECTOR) as u16;
        let pieces = 1..=microcode::PIECE_MAX;
        let sound = match mode {
            microcode::PIECES | microcode::PIECES_LATER => pieces.contains(&blocks),
            microcode::WHOLE => (1..=most).contains(&blocks),
            microcode::ACTIVATE => true,
            _ => false,
        };
        let blocks = if mode == microcode::ACTIVATE { 0 } else { blocks };
        if sound { Ok(Self::Microcode { mode, blocks, offset, access }) } else { Err(ABORTED) }
    }

    /// The power management commands, which drives with PACKET have too.
    pub(super) fn is_power(self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Standby { .. } | Self::CheckPower | Self::Sleep)
    }

    /// Blocks of 512 bytes that it moves, how, and whether they come from the host.
    pub(super) fn blocks(self) -> (u16, Access, bool) {
        let pio = Access::Pio(1);
        match self {
            Self::Smart { feature: smart::READ_DATA | smart::READ_THRESHOLDS, .. } => {
                (1, pio, false)
            }
            Self::Smart { feature: smart::READ_LOG, pages, .. } => (pages.into(), pio, false),
            Self::Smart { feature: smart::WRITE_LOG, pages, .. } => (pages.into(), pio, true),
            Self::Microcode { blocks, access, .. } => (blocks, access, true),
            Self::SecuritySetPassword
            | Self::SecurityUnlock
            | Self::SecurityEraseUnit
            | Self::SecurityDisable
            | Self::SetMaxLock { feature: set_max::SET_PASSWORD | set_max::UNLOCK } => {
                (1, pio, true)
            }
            _ => (0, pio, false),
        }
    }
}
