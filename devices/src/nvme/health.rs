//! What a controller has counted over its life (SMART / Health Information, Base figure 207): what
//! earlier machines have left in its state, and what this one adds. It is saved when the host shuts the
//! controller down.

use spindle_block::root::{Account, Counters};

use super::controller::Ctl;
use crate::state_file::{Fields, Section, Truncated};

/// The section of the state, and the version of its layout: the fields of [`Health`], 8 bytes each.
pub const SECTION: &str = "nvme/health";
const VERSION: u16 = 1;

/// Totals since the controller was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Nanoseconds that commands took.
    pub busy_ns: u64,
    /// Times that it was started.
    pub power_cycles: u64,
    /// Minutes that it has run.
    pub minutes: u64,
    /// Commands that failed.
    pub errors: u64,
}

impl Health {
    /// What was saved, if anything was and it makes sense.
    #[must_use]
    pub fn load(section: Option<&Section>) -> Self {
        let known = section.filter(|section| section.version == VERSION);
        known.and_then(|section| Self::decode(&section.bytes).ok().flatten()).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut fields = Fields::new(bytes);
        let health = Self {
            read_bytes: fields.u64()?,
            written_bytes: fields.u64()?,
            reads: fields.u64()?,
            writes: fields.u64()?,
            busy_ns: fields.u64()?,
            power_cycles: fields.u64()?,
            minutes: fields.u64()?,
            errors: fields.u64()?,
        };
        Ok(fields.is_empty().then_some(health))
    }

    /// The form in which it is saved.
    #[must_use]
    pub fn section(&self) -> Section {
        let fields = [
            self.read_bytes,
            self.written_bytes,
            self.reads,
            self.writes,
            self.busy_ns,
            self.power_cycles,
            self.minutes,
            self.errors,
        ];
        let bytes = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        Section { version: VERSION, bytes }
    }

    /// The totals now: these are those that were left to a controller which has run for so many
    /// minutes since, and has had so many errors in all.
    #[must_use]
    pub fn with(&self, ctl: &Ctl, minutes: u64, errors: u64) -> Self {
        let mut sum = [Counters::default(); 4];
        for ns in ctl.subsystem().namespaces(Some(ctl.cntlid())) {
            for (sum, of) in sum.iter_mut().zip(ns.root().stats()) {
                sum.operations += of.operations;
                sum.bytes += of.bytes;
                sum.total_time_ns += of.total_time_ns;
            }
        }
        let (reads, writes) = (sum[Account::Read as usize], sum[Account::Write as usize]);
        let busy_ns = reads.total_time_ns.saturating_add(writes.total_time_ns);
        Self {
            read_bytes: self.read_bytes.saturating_add(reads.bytes),
            written_bytes: self.written_bytes.saturating_add(writes.bytes),
            reads: self.reads.saturating_add(reads.operations),
            writes: self.writes.saturating_add(writes.operations),
            busy_ns: self.busy_ns.saturating_add(busy_ns),
            power_cycles: self.power_cycles.saturating_add(1),
            minutes: self.minutes.saturating_add(minutes),
            errors,
        }
    }
}
