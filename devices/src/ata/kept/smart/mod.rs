//! SMART (ACS-3, 4.20): attributes, self-tests and their logs, and counters of what happened.

mod pages;
mod self_test;
mod statistics;

use std::time::Instant;

use crate::state_file::{Fields, Section, Truncated};
pub(in super::super) use self_test::{SelfTests, Tested, result};
pub(in super::super) use statistics::STATISTICS_PAGES;

pub(in super::super) const SECTION: &str = "ata/smart";
const VERSION: u16 = 1;

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
    pub tests: SelfTests,
    /// Since the drive was built: hardware resets, and CRC errors of the link.
    hardware_resets: u32,
    crc_errors: u32,
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
            tests: SelfTests::default(),
            hardware_resets: 0,
            crc_errors: 0,
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
        self.tests.read(&mut fields)
    }

    pub fn section(&self) -> Section {
        let mut bytes = vec![u8::from(self.enabled) | u8::from(self.autosave) << 1];
        bytes.extend(self.power_cycles.to_le_bytes());
        bytes.extend(self.seconds_on().to_le_bytes());
        bytes.extend(self.errors.to_le_bytes());
        self.tests.write(&mut bytes);
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

    /// The link was disturbed.
    pub fn crc_failed(&mut self) {
        self.crc_errors = self.crc_errors.saturating_add(1);
    }

    /// A reset; it ends a test.
    pub fn reset(&mut self, hardware: bool) {
        self.hardware_resets = self.hardware_resets.saturating_add(u32::from(hardware));
        self.end_test(result::INTERRUPTED, None);
    }

    /// A test is over, if there is one; `lba` is where it failed.
    pub fn end_test(&mut self, result: u8, lba: Option<u64>) -> bool {
        let hours = self.hours() as u16;
        self.tests.end(result, lba, hours)
    }
}
