//! What a host sets and a reset may set back.

use super::{Geometry, config::Transport, spec::MULTIPLE_MAX};

/// How data move between host and drive, as SET FEATURES sets it (ACS-3, table 110).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferMode {
    /// PIO, mode 0 to 4.
    Pio(u8),
    /// Multiword DMA, mode 0 to 2.
    Multiword(u8),
    /// Ultra DMA, mode 0 to 6.
    Ultra(u8),
}

/// The settings of a drive. Hardware and power-on bring back [`Settings::new`]; a software reset
/// only where the host asked for it ([`Settings::revert`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sectors of a DRQ data block of READ and WRITE MULTIPLE; 0: those are refused.
    pub multiple: u8,
    /// The volatile write cache is enabled.
    pub write_cache: bool,
    /// Read look-ahead is enabled.
    pub look_ahead: bool,
    /// The DMA mode in force; `None`: none was selected.
    pub dma: Option<TransferMode>,
    /// The translation in force.
    pub geometry: Geometry,
    /// A software reset sets these settings back (SET FEATURES CCh).
    pub revert: bool,
    /// Serial ATA features that are on, by number (ACS-3, 7.45.18).
    pub sata: u8,
}

impl Settings {
    /// As after power-on.
    #[must_use]
    pub fn new(transport: Transport, geometry: Geometry, write_cache: bool) -> Self {
        let dma = match transport {
            Transport::Serial => Some(TransferMode::Ultra(6)),
            Transport::Parallel { udma: Some(mode) } => Some(TransferMode::Ultra(mode)),
            Transport::Parallel { udma: None } => Some(TransferMode::Multiword(2)),
        };
        Self {
            multiple: MULTIPLE_MAX,
            write_cache,
            look_ahead: true,
            dma,
            geometry,
            revert: false,
            // Software settings preservation is on after power-on (ACS-3, 7.45.18.6).
            sata: 1 << 6,
        }
    }
}
