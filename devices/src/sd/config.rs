//! What a card is made with.

use std::sync::Arc;

use super::size::{SizeError, check_size};
use crate::state_file::DiskState;

/// Which physical layer specification an SD card follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SdVersion {
    /// 2.00: no UHS-I, no CMD23.
    V2,
    /// 3.0x.
    V3,
    /// 6.0x: discard.
    #[default]
    V6,
}

/// What kind of card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardKind {
    /// SDSC, SDHC or SDXC, by its size.
    Sd(SdVersion),
    /// An eMMC device. The image holds, in this order, both boot partitions, the replay protected
    /// memory block and the user area.
    Emmc {
        /// Bytes of each boot partition: a multiple of 128 KiB, at most 32640 KiB.
        boot: u64,
        /// Bytes of the replay protected memory block: a multiple of 128 KiB, at most 16 MiB.
        rpmb: u64,
    },
}

/// A card to be made.
#[derive(Clone)]
pub struct CardConfig {
    /// Its kind.
    pub kind: CardKind,
    /// Bytes of the image.
    pub size: u64,
    /// Product serial number.
    pub serial: u32,
    /// The image takes no writes.
    pub read_only: bool,
    /// What of it survives power loss beside its data.
    pub state: Arc<DiskState>,
}

/// An image that holds no such card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardLayoutError {
    /// The data area has a size that no card has.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The boot partitions and the RPMB take all of the image.
    #[error("an image of {0} bytes has no room for a user area beside its other partitions")]
    NoRoom(u64),
    /// A partition is no multiple of 128 KiB, or too large.
    #[error(
        "a {what} partition cannot have {size} bytes: give a multiple of 128 KiB, at most {max}"
    )]
    Partition {
        /// Which.
        what: &'static str,
        /// Bytes asked for.
        size: u64,
        /// The most bytes.
        max: u64,
    },
}

/// What boot partitions and RPMB are multiples of, in bytes (eMMC 7.4.40, 7.4.45).
pub(super) const PARTITION_UNIT: u64 = 128 << 10;
const BOOT_MAX: u64 = 255 * PARTITION_UNIT;
const RPMB_MAX: u64 = 128 * PARTITION_UNIT;

impl CardConfig {
    /// An SD card of `size` bytes.
    #[must_use]
    pub fn sd(size: u64) -> Self {
        let kind = CardKind::Sd(SdVersion::default());
        Self { kind, size, serial: 1, read_only: false, state: DiskState::volatile() }
    }

    /// An eMMC device with a user area of `size` bytes and no other partitions.
    #[must_use]
    pub fn emmc(size: u64) -> Self {
        Self { kind: CardKind::Emmc { boot: 0, rpmb: 0 }, ..Self::sd(size) }
    }

    /// Where the data area begins in the image.
    pub(super) fn user_start(&self) -> u64 {
        match self.kind {
            CardKind::Sd(_) => 0,
            CardKind::Emmc { boot, rpmb } => boot.saturating_mul(2).saturating_add(rpmb),
        }
    }

    /// Whether there can be such a card.
    ///
    /// # Errors
    /// When there cannot.
    pub fn check(&self) -> Result<(), CardLayoutError> {
        if let CardKind::Emmc { boot, rpmb } = self.kind {
            for (what, size, max) in [("boot", boot, BOOT_MAX), ("rpmb", rpmb, RPMB_MAX)] {
                if size > max || !size.is_multiple_of(PARTITION_UNIT) {
                    return Err(CardLayoutError::Partition { what, size, max });
                }
            }
        }
        match self.size.checked_sub(self.user_start()) {
            None | Some(0) if self.size > 0 => Err(CardLayoutError::NoRoom(self.size)),
            user => Ok(check_size(user.unwrap_or(0))?),
        }
    }
}
