//! SMART (ACS-3, 7.48).

use spindle_block::{BlockError, IoBuf, Range};

use super::block;
use crate::ata::{
    Drive, Ending, Failure, Refused, Step, Taskfile,
    cmd::ABORTED,
    job::Work,
    kept::{host_logs, smart::result},
    spec::{HOST_LOG_PAGES, error, log, smart},
};

/// Bytes that a short self-test reads at the start, in the middle and at the end.
const SHORT_TEST_PART: u64 = 1 << 20;

/// Logs that are read by SMART READ LOG, and how long they are.
const LOGS: [(u8, u8); 3] =
    [(smart::SUMMARY_LOG, 1), (smart::TEST_LOG, 1), (smart::SELECTIVE_LOG, 1)];

impl Drive {
    pub(super) fn smart(
        &mut self,
        tf: &Taskfile,
        (feature, address, pages): (u8, u8, u8),
        data: &IoBuf,
    ) -> Result<Step, Refused> {
        if feature == smart::ENABLE {
            self.kept.smart.set_enabled(true);
            self.kept.save_smart()?;
            return Ok(Step::Done(Ending::good(tf)));
        }
        if !self.kept.smart.enabled() {
            return Err(ABORTED);
        }
        let counters = self.counters();
        let smart = &mut self.kept.smart;
        match feature {
            smart::READ_DATA => return Ok(Step::Reply(smart.data(&counters).to_vec())),
            smart::READ_THRESHOLDS => return Ok(Step::Reply(smart.thresholds().to_vec())),
            smart::READ_LOG => return self.smart_log(address, pages),
            smart::WRITE_LOG => self.write_smart_log(address, data)?,
            smart::DISABLE => {
                smart.end_test(result::ABORTED, None);
                smart.set_enabled(false);
            }
            smart::ATTRIBUTE_AUTOSAVE => match tf.count as u8 {
                0x00 => smart.set_autosave(false),
                0xf1 => smart.set_autosave(true),
                _ => return Err(ABORTED),
            },
            // No attribute is beyond its threshold: the key comes back as it went.
            smart::RETURN_STATUS => return Ok(Step::Done(Ending::good(tf))),
            smart::EXECUTE_OFFLINE => return self.self_test(tf, address),
            _ => return Err(ABORTED),
        }
        self.kept.save_smart()?;
        Ok(Step::Done(Ending::good(tf)))
    }

    fn smart_log(&self, address: u8, pages: u8) -> Result<Step, Refused> {
        if host_logs::is_one(address) {
            return self.host_log(address, 0, pages.into()).map(Step::Reply);
        }
        let page = match address {
            // Which logs there are, and how long.
            log::DIRECTORY => {
                let mut page = [0; 512];
                page[0] = 1;
                for (log, pages) in LOGS {
                    page[usize::from(log) * 2] = pages;
                }
                for log in log::HOST_FIRST..=log::HOST_LAST {
                    page[usize::from(log) * 2] = HOST_LOG_PAGES as u8;
                }
                page
            }
            smart::SUMMARY_LOG => self.kept.smart.error_log(),
            smart::TEST_LOG => self.kept.smart.test_log(),
            smart::SELECTIVE_LOG => self.kept.smart.selective_log(),
            _ => return Err(ABORTED),
        };
        if pages == 1 { Ok(Step::Reply(page.to_vec())) } else { Err(ABORTED) }
    }

    /// Pages of a log that is the host's.
    pub(in crate::ata) fn host_log(
        &self,
        address: u8,
        page: u16,
        pages: u16,
    ) -> Result<Vec<u8>, Refused> {
        let end = page.checked_add(pages).filter(|end| *end <= HOST_LOG_PAGES).ok_or(ABORTED)?;
        Ok((page..end).flat_map(|page| self.kept.host_logs.page(address, page)).collect())
    }

    /// WRITE LOG EXT, and SMART WRITE LOG of the same logs.
    pub(in crate::ata) fn write_host_log(
        &mut self,
        address: u8,
        page: u16,
        data: &IoBuf,
    ) -> Result<(), Refused> {
        self.kept.host_logs.write(address, page, &data.to_vec())?;
        self.kept.save_host_logs()
    }

    fn write_smart_log(&mut self, address: u8, data: &IoBuf) -> Result<(), Refused> {
        match address {
            smart::SELECTIVE_LOG if data.len() == 512 => {
                self.kept.smart.set_selective_log(&block(data)?)
            }
            _ => self.write_host_log(address, 0, data),
        }
    }

    /// What a self-test reads; `None`: there is no such test, or not now.
    fn test_ranges(&mut self, test: u8) -> Option<Vec<(u16, Range)>> {
        let all = self.everything();
        let sector = u64::from(self.sector());
        match test {
            smart::SHORT_TEST => {
                let part = SHORT_TEST_PART.min(all.len);
                let middle = (all.len - part) / 2 / sector * sector;
                let parts = [0, middle, all.len - part];
                Some(parts.map(|offset| (0, Range::new(offset, part))).to_vec())
            }
            smart::EXTENDED_TEST | smart::OFFLINE => Some(vec![(0, all)]),
            smart::SELECTIVE_TEST => self.kept.smart.tests.spans(all.len / sector, sector),
            _ => None,
        }
    }

    /// EXECUTE OFF-LINE IMMEDIATE (ACS-3, 7.48.5).
    fn self_test(&mut self, tf: &Taskfile, subcommand: u8) -> Result<Step, Refused> {
        let good = Ok(Step::Done(Ending::good(tf)));
        if subcommand == smart::ABORT_TEST {
            self.end_background_test(result::ABORTED);
            return good;
        }
        let captive = subcommand & smart::CAPTIVE != 0;
        let test = subcommand & !smart::CAPTIVE;
        if captive && test == smart::OFFLINE {
            return Err(ABORTED);
        }
        let ranges = self.test_ranges(test).ok_or(ABORTED)?;
        // One that is under way ends.
        self.end_background_test(result::ABORTED);
        if !captive {
            let ranges: Vec<_> = ranges.into_iter().filter(|(_, range)| range.len > 0).collect();
            let nothing = ranges.is_empty();
            self.kept.smart.tests.begin(subcommand, ranges);
            if nothing {
                self.end_background_test(result::PASSED);
            }
            return good;
        }
        self.kept.smart.tests.begin(subcommand, Vec::new());
        let ranges: Vec<Range> = ranges.into_iter().map(|(_, range)| range).collect();
        let sector = u64::from(self.sector());
        let marked =
            ranges.iter().find_map(|range| self.marked(range.offset / sector, range.len / sector));
        if let Some((lba, _)) = marked {
            self.kept.smart.end_test(result::READ_FAILED, Some(lba));
            self.kept.save_smart()?;
            return Ok(Step::Done(failed_captive(tf)));
        }
        Ok(self.job(tf, Work::Test(ranges)))
    }

    /// A captive test is over.
    pub(super) fn end_captive(
        &mut self,
        tf: &Taskfile,
        subcommand: u8,
        result: Result<(), Failure>,
    ) -> Ending {
        let sector = u64::from(self.sector());
        let (code, lba) = match result {
            Ok(()) => (result::PASSED, None),
            Err(Failure { error: BlockError::Aborted, .. }) => (result::ABORTED, None),
            Err(failure) => (result::READ_FAILED, Some(failure.offset / sector)),
        };
        debug_assert_ne!(subcommand & smart::CAPTIVE, 0, "no command waits for others");
        self.kept.smart.end_test(code, lba);
        if self.kept.save_smart().is_err() {
            return Ending::failed(tf, error::ABRT);
        }
        if code == result::PASSED { Ending::good(tf) } else { failed_captive(tf) }
    }
}

/// A captive test tells at once that it failed (ACS-3, 7.48.5.4).
fn failed_captive(tf: &Taskfile) -> Ending {
    const FAILED: u64 = 0x2c_f400;
    let mut ending = Ending::failed(tf, error::ABRT);
    ending.lba = tf.lba & !0xff_ff00 | FAILED;
    ending
}
