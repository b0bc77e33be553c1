//! What a host controller is made with.

use spindle_block::iothread::Handle;

use crate::policy::ErrorPolicy;

/// Which version of the specification the registers follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SdhciVersion {
    /// 1.00: SDMA and ADMA1.
    V1,
    /// 2.00: ADMA2 too.
    V2,
    /// 3.00: UHS-I, Auto CMD23, preset values.
    #[default]
    V3,
}

/// What the slot is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotKind {
    /// Cards come and go.
    #[default]
    Removable,
    /// A device that stays.
    Embedded,
}

/// A host controller to be made.
#[derive(Clone)]
pub struct SdhciConfig {
    /// The device's id, unique on its machine.
    pub id: String,
    /// Vendor and device ID.
    pub pci_ids: (u16, u16),
    /// See [`SdhciVersion`].
    pub version: SdhciVersion,
    /// 1.8 V signalling with its modes and tuning are there (with version 3).
    pub uhs: bool,
    /// See [`SlotKind`].
    pub slot: SlotKind,
    /// The capabilities register, if it is to be another one.
    pub capabilities: Option<u64>,
    /// The maximum current capabilities register.
    pub max_current: u64,
    /// The iothread that its queue half lives on.
    pub iothread: Handle,
    /// What a failed write does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
}

/// Vendor and device ID: Red Hat's generic SD host controller.
const DEFAULT_IDS: (u16, u16) = (0x1b36, 0x0007);
/// The base clock, in MHz: divided by 1, 2, 4 and 8 it gives what the modes want.
const BASE_CLOCK: u64 = 200;
const BASE_CLOCK_OLD: u64 = 50;

impl SdhciConfig {
    /// A controller of version 3 with UHS-I and a slot for cards.
    #[must_use]
    pub fn new(id: &str, iothread: Handle) -> Self {
        Self {
            id: id.to_owned(),
            pci_ids: DEFAULT_IDS,
            version: SdhciVersion::default(),
            uhs: true,
            slot: SlotKind::default(),
            capabilities: None,
            max_current: 0,
            iothread,
            werror: ErrorPolicy::Enospc,
            rerror: ErrorPolicy::Report,
        }
    }

    /// The capabilities register (SDHC 2.2.25).
    #[must_use]
    pub fn capabilities_register(&self) -> u64 {
        if let Some(given) = self.capabilities {
            return given;
        }
        // Timeout clock of 50 MHz; blocks of up to 2048 bytes; high speed, SDMA, 3.3 V and 1.8 V.
        let common = 50 | 1 << 7 | 2 << 16 | 1 << 21 | 1 << 22 | 1 << 24 | 1 << 26;
        let (adma2, adma1, wide) = (1 << 19, 1 << 20, 1 << 28);
        match self.version {
            SdhciVersion::V1 => common | BASE_CLOCK_OLD << 8 | adma1,
            SdhciVersion::V2 => common | BASE_CLOCK_OLD << 8 | adma1 | adma2 | wide,
            SdhciVersion::V3 => {
                let slot = u64::from(self.slot == SlotKind::Embedded) << 30;
                // SDR50, SDR104, DDR50, driver types A, C and D.
                let uhs = if self.uhs { 0x77 << 32 } else { 0 };
                // 8 lines.
                common | BASE_CLOCK << 8 | 1 << 18 | adma2 | wide | slot | uhs
            }
        }
    }
}
