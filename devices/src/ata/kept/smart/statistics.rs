//! Counters as logs: device statistics, and those of the link.

use super::{Counters, Smart};
use crate::ata::identify::checksum;

/// Pages of the Device Statistics log that there are (ACS-3, 9.5): the list, general, general errors,
/// transport, solid state.
pub(in super::super::super) const STATISTICS_PAGES: [u8; 5] = [0x00, 0x01, 0x04, 0x06, 0x07];

/// Supported, valid.
const VALID: u64 = 0b11 << 62;
/// The same, of a value that is normalized.
const NORMALIZED: u64 = VALID | 1 << 61;

impl Smart {
    /// A page of the Device Statistics log.
    pub fn statistics(&self, page: u16, counters: &Counters) -> [u8; 512] {
        let mut data = [0; 512];
        let mut qword = |at: usize, value: u64| {
            data[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        qword(0, u64::from(page) << 16 | 1);
        match page {
            0 => {
                let pages = STATISTICS_PAGES;
                data[8] = pages.len() as u8;
                data[9..9 + pages.len()].copy_from_slice(&pages);
            }
            1 => {
                qword(8, VALID | u64::from(self.power_cycles));
                qword(16, VALID | u64::from(self.hours()));
                let mask = (1 << 48) - 1;
                qword(24, VALID | counters.sectors_written & mask);
                qword(32, VALID | counters.write_commands & mask);
                qword(40, VALID | counters.sectors_read & mask);
                qword(48, VALID | counters.read_commands & mask);
            }
            4 => qword(8, VALID | u64::from(self.errors)),
            6 => {
                qword(8, VALID | u64::from(self.hardware_resets));
                qword(24, VALID | u64::from(self.crc_errors));
            }
            // Percentage used: nothing wears.
            7 => qword(8, NORMALIZED),
            _ => qword(0, 0),
        }
        data
    }

    /// The SATA Phy Event Counters log (SATA 3.2, 13.9): commands that failed by a CRC error, and
    /// registers that were sent because of a COMRESET.
    pub fn link_counters(&self) -> [u8; 512] {
        /// A counter of 32 bits.
        const DWORD: u16 = 2 << 12;
        let mut data = [0; 512];
        let counters = [(0x001, self.crc_errors), (0x00a, self.hardware_resets)];
        for (entry, (id, value)) in data[4..].chunks_mut(6).zip(counters) {
            entry[..2].copy_from_slice(&(DWORD | id).to_le_bytes());
            entry[2..].copy_from_slice(&value.to_le_bytes());
        }
        data[511] = checksum(&data[..511]);
        data
    }
}
