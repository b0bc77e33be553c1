//! Self-tests (ACS-3, 4.20.5 and 7.48.5): what is read in them, their log, and the selective one.

use std::collections::VecDeque;

use spindle_block::Range;

use super::super::super::spec::smart;
use crate::state_file::{Fields, Truncated};

/// Descriptors of the log (ACS-3, 9.21).
const TESTS_MAX: usize = 21;
/// Bytes of a step.
const STEP: u64 = 256 << 10;
/// Spans of a selective self-test.
pub(super) const SPANS: usize = 5;

/// How a self-test went (ACS-3, table 163).
pub(in super::super::super) mod result {
    pub const PASSED: u8 = 0;
    pub const ABORTED: u8 = 1;
    pub const INTERRUPTED: u8 = 2;
    pub const READ_FAILED: u8 = 7;
}

/// Off-line data collection status (ACS-3, table 137).
mod collection {
    pub const COMPLETED: u8 = 0x02;
    pub const IN_PROGRESS: u8 = 0x03;
    pub const ABORTED: u8 = 0x05;
    pub const FAILED: u8 = 0x06;
}

/// A self-test that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub subcommand: u8,
    pub result: u8,
    pub hours: u16,
    pub lba: u32,
}

/// The selective self-test log (ACS-3, 9.20), as far as it is the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Selective {
    /// First and last LBA.
    pub spans: [(u64, u64); SPANS],
    pub flags: u16,
    pub pending: u16,
    /// What the last test looked at last: the span, from 1, and an LBA.
    pub span: u16,
    pub lba: u64,
}

/// The self-test that is under way.
#[derive(Debug)]
struct Running {
    subcommand: u8,
    /// What it has still to read: the span, if it is a selective test, and bytes.
    left: VecDeque<(u16, Range)>,
    /// The step that is being done.
    now: Option<Range>,
    /// Bytes read and in all.
    done: u64,
    all: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(in super::super::super) struct SelfTests {
    /// The oldest first.
    pub(super) log: VecDeque<Test>,
    pub(super) selective: Selective,
    running: Option<Running>,
    /// Off-line data collection status.
    pub(super) collection: u8,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super::super) enum Tested {
    /// There is more, or it was no step of the test under way.
    On,
    /// Everything was read.
    Passed,
}

impl SelfTests {
    pub fn read(&mut self, fields: &mut Fields<'_>) -> Result<(), Truncated> {
        for _ in 0..usize::from(fields.u8()?).min(TESTS_MAX) {
            let (subcommand, result) = (fields.u8()?, fields.u8()?);
            let (hours, lba) = (fields.u16()?, fields.u32()?);
            self.log.push_back(Test { subcommand, result: result & 0x0f, hours, lba });
        }
        // Older states end here.
        let mut selective = Selective::default();
        for span in &mut selective.spans {
            *span = (fields.u64()?, fields.u64()?);
        }
        (selective.flags, selective.pending) = (fields.u16()?, fields.u16()?);
        self.selective = selective;
        Ok(())
    }

    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.log.len() as u8);
        for test in &self.log {
            bytes.extend([test.subcommand, test.result]);
            bytes.extend(test.hours.to_le_bytes());
            bytes.extend(test.lba.to_le_bytes());
        }
        for (first, last) in self.selective.spans {
            bytes.extend(first.to_le_bytes());
            bytes.extend(last.to_le_bytes());
        }
        bytes.extend(self.selective.flags.to_le_bytes());
        bytes.extend(self.selective.pending.to_le_bytes());
    }

    /// The spans of a selective test of a drive with so many sectors; `None`: they make no sense.
    pub fn spans(&self, sectors: u64, sector: u64) -> Option<Vec<(u16, Range)>> {
        let mut all = Vec::new();
        for (number, (first, last)) in (1..).zip(self.selective.spans) {
            // Both 0: it is not used.
            if (first, last) == (0, 0) {
                continue;
            }
            if first > last || last >= sectors {
                return None;
            }
            all.push((number, Range::new(first * sector, (last - first + 1) * sector)));
        }
        Some(all).filter(|all| !all.is_empty())
    }

    /// A test begins. With `left` it goes on beside commands.
    pub fn begin(&mut self, subcommand: u8, left: Vec<(u16, Range)>) {
        let all = left.iter().map(|(_, range)| range.len).sum();
        let left = left.into();
        self.running = Some(Running { subcommand, left, now: None, done: 0, all });
        if subcommand == smart::OFFLINE {
            self.collection = collection::IN_PROGRESS;
        }
    }

    /// Whether a step can be done.
    #[inline]
    pub fn has_step(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.now.is_none() && running.all > 0)
    }

    /// What is to be read next; `sector` is how long a sector is.
    pub fn step(&mut self, sector: u64) -> Option<Range> {
        let running = self.running.as_mut()?;
        let (span, range) = running.left.front_mut()?;
        let step = Range::new(range.offset, range.len.min(STEP));
        if *span > 0 {
            (self.selective.span, self.selective.lba) = (*span, step.offset / sector);
        }
        *range = Range::new(range.offset + step.len, range.len - step.len);
        if range.len == 0 {
            running.left.pop_front();
        }
        running.now = Some(step);
        Some(step)
    }

    /// A step was read.
    pub fn stepped(&mut self, range: Range) -> Tested {
        let Some(running) = &mut self.running else { return Tested::On };
        if running.now != Some(range) {
            return Tested::On;
        }
        running.now = None;
        running.done += range.len;
        if running.left.is_empty() { Tested::Passed } else { Tested::On }
    }

    /// Whether this is the step that is being done.
    pub fn is_step(&self, range: Range) -> bool {
        self.running.as_ref().is_some_and(|running| running.now == Some(range))
    }

    /// The test is over, if there is one.
    pub fn end(&mut self, result: u8, lba: Option<u64>, hours: u16) -> bool {
        let Some(running) = self.running.take() else { return false };
        let subcommand = running.subcommand;
        if subcommand == smart::OFFLINE {
            self.collection = match result {
                result::PASSED => collection::COMPLETED,
                result::READ_FAILED => collection::FAILED,
                _ => collection::ABORTED,
            };
            return true;
        }
        if self.log.len() == TESTS_MAX {
            self.log.pop_front();
        }
        let lba = lba.map_or(u32::MAX, |lba| u32::try_from(lba).unwrap_or(u32::MAX));
        self.log.push_back(Test { subcommand, result, hours, lba });
        true
    }

    /// Self-test execution status (ACS-3, table 138): how the last one went, or how much is left of
    /// the one under way, in tenths.
    pub fn status(&self) -> u8 {
        const IN_PROGRESS: u8 = 0xf0;
        match &self.running {
            Some(running) if running.subcommand != smart::OFFLINE => {
                let left = running.all - running.done.min(running.all);
                let tenths = u128::from(left) * 10 / u128::from(running.all.max(1));
                IN_PROGRESS | tenths.min(9) as u8
            }
            _ => self.log.back().map_or(0, |test| test.result << 4),
        }
    }

    /// Whether one is under way.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }
}
