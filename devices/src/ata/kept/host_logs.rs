//! Host specific logs (ACS-3, 9.1): 32 logs of 16 pages that belong to the host.

use std::collections::BTreeMap;

use super::super::{
    cmd::{ABORTED, Refused},
    log::Page,
    spec::{HOST_LOG_PAGES, log},
};
use crate::state_file::{Fields, Section, Truncated};

pub(in super::super) const SECTION: &str = "ata/host-logs";
const VERSION: u16 = 1;
/// Bytes of a log.
const LEN: usize = HOST_LOG_PAGES as usize * 512;

/// See the module. What was never written holds zeros.
#[derive(Default)]
pub(in super::super) struct HostLogs(BTreeMap<u8, Box<[u8; LEN]>>);

/// Whether there is such a log.
pub(in super::super) fn is_one(address: u8) -> bool {
    (log::HOST_FIRST..=log::HOST_LAST).contains(&address)
}

impl HostLogs {
    pub fn load(section: Option<&Section>) -> Self {
        let mut logs = Self::default();
        if let Some(section) = section.filter(|section| section.version == VERSION) {
            // What is cut short is as far as it goes.
            logs.read(&section.bytes).ok();
        }
        logs
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let mut fields = Fields::new(bytes);
        while !fields.is_empty() {
            let address = fields.u8()?;
            let bytes = Box::new(fields.array()?);
            if is_one(address) {
                self.0.insert(address, bytes);
            }
        }
        Ok(())
    }

    pub fn section(&self) -> Section {
        let bytes = self
            .0
            .iter()
            .flat_map(|(address, bytes)| std::iter::once(*address).chain(bytes.iter().copied()));
        Section { version: VERSION, bytes: bytes.collect() }
    }

    /// A page.
    pub fn page(&self, address: u8, page: u16) -> Page {
        let mut bytes = [0; 512];
        let at = usize::from(page) * 512;
        if let Some(log) = self.0.get(&address)
            && let Some(part) = log.get(at..at + 512)
        {
            bytes.copy_from_slice(part);
        }
        bytes
    }

    /// Writes whole pages from `page` on.
    pub fn write(&mut self, address: u8, page: u16, bytes: &[u8]) -> Result<(), Refused> {
        let at = usize::from(page) * 512;
        let end = at + bytes.len();
        if !is_one(address) || bytes.is_empty() || end > LEN {
            return Err(ABORTED);
        }
        let log = self.0.entry(address).or_insert_with(|| Box::new([0; LEN]));
        log[at..end].copy_from_slice(bytes);
        Ok(())
    }
}
