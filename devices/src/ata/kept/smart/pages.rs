//! What SMART READ DATA and the SMART logs hold.

use super::{Counters, Smart, self_test::SPANS};
use crate::ata::{
    cmd::{ABORTED, Refused},
    identify::checksum,
};

/// A page whose last byte makes the sum of all zero.
fn closed(mut page: [u8; 512]) -> [u8; 512] {
    page[511] = checksum(&page[..511]);
    page
}

/// Descriptors of a page of the extended self-test log (ACS-3, 9.8).
const EXTENDED_TESTS: usize = 19;

impl Smart {
    /// Attributes: number, flags, raw value, threshold.
    fn attributes(&self, counters: &Counters) -> [(u8, u16, u64, u8); 9] {
        // What is not pre-failure has no threshold. Values are normalized to 100: nothing wears.
        [
            (1, 0x000f, self.errors.into(), 6),
            (5, 0x0033, 0, 36),
            (9, 0x0032, self.hours().into(), 0),
            (12, 0x0032, self.power_cycles.into(), 0),
            (197, 0x0012, counters.pending.into(), 0),
            (198, 0x0010, counters.pending.into(), 0),
            (199, 0x003e, self.crc_errors.into(), 0),
            (241, 0x0032, counters.sectors_written, 0),
            (242, 0x0032, counters.sectors_read, 0),
        ]
    }

    /// SMART READ DATA (ACS-3, 7.48.6; attributes as all drives have them).
    pub fn data(&self, counters: &Counters) -> [u8; 512] {
        let mut data = [0; 512];
        data[..2].copy_from_slice(&0x0010u16.to_le_bytes());
        for (i, (id, flags, raw, _)) in self.attributes(counters).into_iter().enumerate() {
            let entry = &mut data[2 + i * 12..][..12];
            entry[0] = id;
            entry[1..3].copy_from_slice(&flags.to_le_bytes());
            (entry[3], entry[4]) = (100, 100);
            entry[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
        data[362] = self.tests.collection;
        data[363] = self.tests.status();
        // EXECUTE OFF-LINE IMMEDIATE, self-tests, selective self-tests.
        data[367] = 0x01 | 0x10 | 0x40;
        // Attributes are saved; error logging.
        data[368] = 0x03;
        data[370] = 0x01;
        // Minutes of a short and an extended test.
        (data[372], data[373]) = (1, 1);
        closed(data)
    }

    /// SMART READ THRESHOLDS (ATA-3, 7.25).
    pub fn thresholds(&self) -> [u8; 512] {
        let mut data = [0; 512];
        data[..2].copy_from_slice(&0x0010u16.to_le_bytes());
        for (i, (id, _, _, threshold)) in
            self.attributes(&Counters::default()).into_iter().enumerate()
        {
            (data[2 + i * 12], data[3 + i * 12]) = (id, threshold);
        }
        closed(data)
    }

    /// The SMART self-test log (ACS-3, 9.21).
    pub fn test_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[..2].copy_from_slice(&1u16.to_le_bytes());
        for (i, test) in self.tests.log.iter().enumerate() {
            let entry = &mut page[2 + i * 24..][..24];
            (entry[0], entry[1]) = (test.subcommand, test.result << 4);
            entry[2..4].copy_from_slice(&test.hours.to_le_bytes());
            entry[5..9].copy_from_slice(&test.lba.to_le_bytes());
        }
        page[508] = self.tests.log.len() as u8;
        closed(page)
    }

    /// The extended SMART self-test log (ACS-3, 9.8).
    pub fn extended_test_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[0] = 1;
        let log = &self.tests.log;
        let kept = log.len().min(EXTENDED_TESTS);
        page[2..4].copy_from_slice(&(kept as u16).to_le_bytes());
        for (i, test) in log.iter().skip(log.len() - kept).enumerate() {
            let entry = &mut page[4 + i * 26..][..26];
            (entry[0], entry[1]) = (test.subcommand, test.result << 4);
            entry[2..4].copy_from_slice(&test.hours.to_le_bytes());
            entry[5..9].copy_from_slice(&test.lba.to_le_bytes());
            if test.lba == u32::MAX {
                entry[9..11].fill(0xff);
            }
        }
        closed(page)
    }

    /// The summary SMART error log (ACS-3, 9.22): how many errors there were. It holds no commands.
    pub fn error_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[0] = 1;
        page[452..454].copy_from_slice(&(self.errors.min(0xffff) as u16).to_le_bytes());
        closed(page)
    }

    /// The extended comprehensive SMART error log (ACS-3, 9.7), likewise.
    pub fn extended_error_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[0] = 1;
        page[500..502].copy_from_slice(&(self.errors.min(0xffff) as u16).to_le_bytes());
        closed(page)
    }

    /// The selective self-test log (ACS-3, 9.20).
    pub fn selective_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        let log = &self.tests.selective;
        page[..2].copy_from_slice(&1u16.to_le_bytes());
        for (i, (first, last)) in log.spans.into_iter().enumerate() {
            page[2 + i * 16..][..8].copy_from_slice(&first.to_le_bytes());
            page[10 + i * 16..][..8].copy_from_slice(&last.to_le_bytes());
        }
        page[492..500].copy_from_slice(&log.lba.to_le_bytes());
        page[500..502].copy_from_slice(&log.span.to_le_bytes());
        page[502..504].copy_from_slice(&log.flags.to_le_bytes());
        page[508..510].copy_from_slice(&log.pending.to_le_bytes());
        closed(page)
    }

    /// A host writes the selective self-test log: spans, flags and the time that it may wait.
    pub fn set_selective_log(&mut self, page: &[u8; 512]) -> Result<(), Refused> {
        // Off-line scan after the selective test; whether it waits or runs is not the host's to say.
        const WRITABLE: u16 = 1 << 1;
        let sum = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if self.tests.is_running() || sum != 0 || page[..2] != 1u16.to_le_bytes() {
            return Err(ABORTED);
        }
        let mut log = super::self_test::Selective::default();
        let mut fields = crate::state_file::Fields::new(&page[2..2 + SPANS * 16]);
        for span in &mut log.spans {
            let cut_short = |_| ABORTED;
            *span = (fields.u64().map_err(cut_short)?, fields.u64().map_err(cut_short)?);
        }
        log.flags = u16::from_le_bytes([page[502], page[503]]) & WRITABLE;
        log.pending = u16::from_le_bytes([page[508], page[509]]);
        self.tests.selective = log;
        Ok(())
    }
}
