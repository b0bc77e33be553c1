//! SMART (ACS-3, 4.20): attributes, the log of self-tests, and counters of what happened.

use std::{collections::VecDeque, time::Instant};

use super::super::identify::checksum;
use crate::state_file::{Fields, Section, Truncated};

pub(in super::super) const SECTION: &str = "ata/smart";
const VERSION: u16 = 1;
/// Descriptors of the self-test log (ACS-3, 9.21).
const TESTS_MAX: usize = 21;

/// How a self-test went (ACS-3, table 163).
pub(in super::super) mod result {
    pub const PASSED: u8 = 0;
    pub const ABORTED: u8 = 1;
    pub const INTERRUPTED: u8 = 2;
    pub const READ_FAILED: u8 = 7;
}

/// A self-test that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    subcommand: u8,
    result: u8,
    hours: u16,
    lba: u32,
}

/// What the drive knows of its medium at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Counters {
    pub read_commands: u64,
    pub sectors_read: u64,
    pub write_commands: u64,
    pub sectors_written: u64,
    /// Something is marked as unreadable.
    pub pending: bool,
}

/// See the module.
pub(in super::super) struct Smart {
    enabled: bool,
    autosave: bool,
    power_cycles: u32,
    /// Seconds before the last power-on.
    seconds: u64,
    since: Instant,
    /// Reads that met an unreadable medium.
    errors: u32,
    /// The oldest first.
    tests: VecDeque<Test>,
    /// The subcommand of the test that is under way.
    testing: Option<u8>,
}

impl Smart {
    pub fn load(section: Option<&Section>) -> Self {
        let mut smart = Self {
            enabled: true,
            autosave: true,
            power_cycles: 0,
            seconds: 0,
            since: Instant::now(),
            errors: 0,
            tests: VecDeque::with_capacity(TESTS_MAX),
            testing: None,
        };
        if let Some(section) = section.filter(|section| section.version == VERSION) {
            // What is cut short is as far as it goes.
            smart.read(&section.bytes).ok();
        }
        smart
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let mut fields = Fields::new(bytes);
        let flags = fields.u8()?;
        (self.enabled, self.autosave) = (flags & 1 != 0, flags & 2 != 0);
        self.power_cycles = fields.u32()?;
        self.seconds = fields.u64()?;
        self.errors = fields.u32()?;
        for _ in 0..usize::from(fields.u8()?).min(TESTS_MAX) {
            let (subcommand, result) = (fields.u8()?, fields.u8()?);
            let (hours, lba) = (fields.u16()?, fields.u32()?);
            self.tests.push_back(Test { subcommand, result: result & 0x0f, hours, lba });
        }
        Ok(())
    }

    pub fn section(&self) -> Section {
        let mut bytes = vec![u8::from(self.enabled) | u8::from(self.autosave) << 1];
        bytes.extend(self.power_cycles.to_le_bytes());
        bytes.extend(self.seconds_on().to_le_bytes());
        bytes.extend(self.errors.to_le_bytes());
        bytes.push(self.tests.len() as u8);
        for test in &self.tests {
            bytes.extend([test.subcommand, test.result]);
            bytes.extend(test.hours.to_le_bytes());
            bytes.extend(test.lba.to_le_bytes());
        }
        Section { version: VERSION, bytes }
    }

    pub fn power_on(&mut self) {
        self.power_cycles = self.power_cycles.saturating_add(1);
    }

    pub fn enabled(&self) -> bool {
        self.enabled
    }

    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub fn set_autosave(&mut self, autosave: bool) {
        self.autosave = autosave;
    }

    fn seconds_on(&self) -> u64 {
        self.seconds.saturating_add(self.since.elapsed().as_secs())
    }

    pub fn hours(&self) -> u32 {
        (self.seconds_on() / 3600) as u32
    }

    /// A read met an unreadable medium.
    pub fn read_failed(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    pub fn begin_test(&mut self, subcommand: u8) {
        self.testing = Some(subcommand);
    }

    /// A test is over; `lba` is where it failed.
    pub fn end_test(&mut self, result: u8, lba: Option<u64>) {
        let Some(subcommand) = self.testing.take() else { return };
        if self.tests.len() == TESTS_MAX {
            self.tests.pop_front();
        }
        let lba = lba.map_or(u32::MAX, |lba| u32::try_from(lba).unwrap_or(u32::MAX));
        self.tests.push_back(Test { subcommand, result, hours: self.hours() as u16, lba });
    }

    /// A reset ends a test.
    pub fn aborted_by_reset(&mut self) {
        self.end_test(result::INTERRUPTED, None);
    }

    /// Attributes: number, flags, raw value, threshold.
    fn attributes(&self, counters: &Counters) -> [(u8, u16, u64, u8); 8] {
        // What is not pre-failure has no threshold. Values are normalized to 100: nothing wears.
        [
            (1, 0x000f, self.errors.into(), 6),
            (5, 0x0033, 0, 36),
            (9, 0x0032, self.hours().into(), 0),
            (12, 0x0032, self.power_cycles.into(), 0),
            (197, 0x0012, counters.pending.into(), 0),
            (198, 0x0010, counters.pending.into(), 0),
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
        // The last self-test.
        data[363] = self.tests.back().map_or(0, |test| test.result << 4);
        // EXECUTE OFF-LINE IMMEDIATE, self-tests.
        data[367] = 0x01 | 0x10;
        // Attributes are saved; error logging.
        data[368] = 0x03;
        data[370] = 0x01;
        // Minutes of a short and an extended test.
        (data[372], data[373]) = (1, 1);
        data[511] = checksum(&data[..511]);
        data
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
        data[511] = checksum(&data[..511]);
        data
    }

    /// The SMART self-test log (ACS-3, 9.21).
    pub fn test_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[..2].copy_from_slice(&1u16.to_le_bytes());
        for (i, test) in self.tests.iter().enumerate() {
            let entry = &mut page[2 + i * 24..][..24];
            (entry[0], entry[1]) = (test.subcommand, test.result << 4);
            entry[2..4].copy_from_slice(&test.hours.to_le_bytes());
            entry[5..9].copy_from_slice(&test.lba.to_le_bytes());
        }
        page[508] = self.tests.len() as u8;
        page[511] = checksum(&page[..511]);
        page
    }

    /// The summary SMART error log (ACS-3, 9.22): how many errors there were. It holds no commands.
    pub fn error_log(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[0] = 1;
        page[452..454].copy_from_slice(&(self.errors.min(0xffff) as u16).to_le_bytes());
        page[511] = checksum(&page[..511]);
        page
    }

    /// Pages of the Device Statistics log (ACS-3, 9.5).
    pub const STATISTICS_PAGES: [u8; 3] = [0x00, 0x01, 0x04];

    /// One of them.
    pub fn statistics(&self, page: u16, counters: &Counters) -> [u8; 512] {
        /// Supported, valid.
        const FLAGS: u64 = 0b11 << 62;
        let mut data = [0; 512];
        let mut qword = |at: usize, value: u64| {
            data[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        match page {
            0 => {
                qword(0, 1);
                let pages = Self::STATISTICS_PAGES;
                data[8] = pages.len() as u8;
                data[9..9 + pages.len()].copy_from_slice(&pages);
            }
            1 => {
                qword(0, 1 << 16 | 1);
                qword(8, FLAGS | u64::from(self.power_cycles));
                qword(16, FLAGS | u64::from(self.hours()));
                let mask = (1 << 48) - 1;
                qword(24, FLAGS | counters.sectors_written & mask);
                qword(32, FLAGS | counters.write_commands & mask);
                qword(40, FLAGS | counters.sectors_read & mask);
                qword(48, FLAGS | counters.read_commands & mask);
            }
            4 => {
                qword(0, 4 << 16 | 1);
                qword(8, FLAGS | u64::from(self.errors));
            }
            _ => {}
        }
        data
    }
}
