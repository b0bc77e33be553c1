//! A drive does what it rarely has to: see [`Rare`].

use spindle_block::{BlockError, IoBuf, Op, Range, root::Account};

use super::{
    Command, Drive, Ending, Failure, Rare, Refused, Step, Taskfile,
    cmd::ABORTED,
    error_of,
    identify::checksum,
    job::Work,
    kept::{
        Power,
        smart::{Counters, result},
    },
    spec::{error, sanitize, smart},
};

/// COUNT of CHECK POWER MODE (ACS-3, table 24).
mod mode {
    pub const STANDBY: u16 = 0x00;
    pub const IDLE: u16 = 0x80;
    pub const ACTIVE: u16 = 0xff;
}

/// Bytes that a short self-test reads at the start, in the middle and at the end.
const SHORT_TEST_PART: u64 = 1 << 20;

/// The 512 bytes that came from the host.
fn block(data: &IoBuf) -> Result<[u8; 512], Refused> {
    let mut bytes = [0; 512];
    if data.len() < 512 {
        return Err(ABORTED);
    }
    data.read_at(0, &mut bytes);
    Ok(bytes)
}

impl Drive {
    /// Where all of the medium is.
    fn everything(&mut self) -> Range {
        Range::new(0, self.native_sectors() * u64::from(self.sector()))
    }

    /// Sectors that commands can reach at this moment: none while the drive gives out no data.
    pub fn open_sectors(&mut self) -> u64 {
        let kept = &self.kept;
        let shut = kept.security.locked()
            || kept.sanitize.has_failed()
            || kept.power == Power::Sleep
            || kept.marks.any()
            || kept.flagged.any();
        if shut { 0 } else { self.sectors() }
    }

    fn bytes_of(&self, lba: u64, sectors: u32) -> Range {
        let sector = u64::from(self.sector());
        Range::new(lba * sector, u64::from(sectors) * sector)
    }

    pub(super) fn counters(&mut self) -> Counters {
        let pending = self.kept.marks.any() || self.kept.flagged.any();
        let sector = u64::from(self.sector());
        let Some(root) = self.root() else { return Counters { pending, ..Counters::default() } };
        let stats = root.root().stats();
        let (reads, writes) = (stats[Account::Read as usize], stats[Account::Write as usize]);
        Counters {
            read_commands: reads.operations,
            sectors_read: reads.bytes / sector,
            write_commands: writes.operations,
            sectors_written: writes.bytes / sector,
            pending,
        }
    }

    /// The end of a read of what WRITE UNCORRECTABLE EXT made unreadable.
    #[inline]
    pub(super) fn unreadable(&mut self, tf: &Taskfile, command: &Command) -> Option<Ending> {
        if !self.kept.marks.any() && !self.kept.flagged.any() {
            return None;
        }
        let (Command::Read { lba, sectors, .. } | Command::Verify { lba, sectors }) = *command
        else {
            return None;
        };
        let bad = |at: u64| {
            let range = self.bytes_of(at, 1);
            (self.kept.marks.overlap(range), self.kept.flagged.overlap(range))
        };
        let first = (lba..lba + u64::from(sectors)).find(|at| bad(*at) != (false, false))?;
        if bad(first).0 {
            self.kept.smart.read_failed();
        }
        let mut ending = Ending::failed(tf, error::UNC);
        self.place(tf, &mut ending, first);
        Some(ending)
    }

    /// Sectors were written: they can be read.
    #[inline]
    pub(super) fn written(&mut self, lba: u64, sectors: u32) {
        if !self.kept.marks.any() && !self.kept.flagged.any() {
            return;
        }
        let range = self.bytes_of(lba, sectors);
        if self.kept.marks.remove(range) | self.kept.flagged.remove(range) {
            // The data are there; at worst the marks come back after a power loss.
            self.kept.save_marks().ok();
        }
    }

    /// A request to the block layer has failed.
    pub(super) fn note_failure(&mut self, failure: Failure) {
        if failure.op == Op::Read && failure.error == BlockError::Medium {
            self.kept.smart.read_failed();
        }
    }

    pub(super) fn begin_kept(
        &mut self,
        tf: &Taskfile,
        rare: Rare,
        data: &IoBuf,
    ) -> Result<Step, Refused> {
        let good = Ok(Step::Done(Ending::good(tf)));
        let flush = Ok(Step::Io { op: Op::Flush, range: Range::default() });
        match rare {
            Rare::Idle => {
                self.kept.power = Power::Idle;
                good
            }
            // What is in the cache is written first (ACS-3, 7.54).
            Rare::Standby | Rare::Sleep => flush,
            Rare::CheckPower => {
                let count = match self.kept.power {
                    Power::Active => mode::ACTIVE,
                    Power::Idle => mode::IDLE,
                    Power::Standby | Power::Sleep => mode::STANDBY,
                };
                Ok(Step::Done(Ending { count, ..Ending::good(tf) }))
            }
            Rare::Smart { feature, address, pages } => self.smart(tf, feature, address, pages),
            Rare::SecuritySetPassword => {
                self.kept.security.set_password(&block(data)?)?;
                self.kept.save_security()?;
                good
            }
            Rare::SecurityUnlock => {
                self.kept.security.unlock(&block(data)?)?;
                good
            }
            Rare::SecurityErasePrepare => {
                self.kept.security.prepare()?;
                good
            }
            Rare::SecurityEraseUnit => {
                self.kept.security.erase(&block(data)?)?;
                let all = self.everything();
                Ok(self.job(tf, Work::Erase(all)))
            }
            Rare::SecurityFreeze => {
                self.kept.security.freeze()?;
                good
            }
            Rare::SecurityDisable => {
                self.kept.security.disable(&block(data)?)?;
                self.kept.save_security()?;
                good
            }
            Rare::ReadNativeMax => {
                self.kept.max.asked();
                let last = self.native_sectors().saturating_sub(1);
                let mut ending = Ending::good(tf);
                self.place(tf, &mut ending, last);
                Ok(Step::Done(ending))
            }
            Rare::SetMax { lba, keep } => {
                let native = self.native_sectors();
                if self.kept.max.set_max(lba, keep, native)? {
                    self.kept.save_max()?;
                }
                good
            }
            Rare::MaxAddress { feature, lba } => self.max_address(tf, feature, lba),
            Rare::Sanitize { feature, lba } => self.sanitize(tf, feature, lba),
            Rare::WriteUncorrectable { lba, sectors, logged } => {
                let range = self.bytes_of(lba, sectors);
                let kept = &mut self.kept;
                let (to, other) = match logged {
                    true => (&kept.marks, &kept.flagged),
                    false => (&kept.flagged, &kept.marks),
                };
                other.remove(range);
                if !to.add(range) {
                    return Err(ABORTED);
                }
                kept.save_marks()?;
                good
            }
        }
    }

    /// ACCESSIBLE MAX ADDRESS CONFIGURATION (ACS-3, 7.2).
    fn max_address(&mut self, tf: &Taskfile, feature: u16, lba: u64) -> Result<Step, Refused> {
        let native = self.native_sectors();
        let mut ending = Ending::good(tf);
        match feature {
            0 => ending.lba = native.saturating_sub(1),
            1 => {
                self.kept.max.set_accessible(lba, native)?;
                self.kept.save_max()?;
            }
            2 => self.kept.max.freeze(),
            _ => return Err(ABORTED),
        }
        Ok(Step::Done(ending))
    }

    fn sanitized(&self, tf: &Taskfile) -> Ending {
        let (count, lba) = self.kept.sanitize.registers();
        Ending { count, lba, ..Ending::good(tf) }
    }

    /// SANITIZE DEVICE (ACS-3, 7.36).
    fn sanitize(&mut self, tf: &Taskfile, feature: u16, lba: u64) -> Result<Step, Refused> {
        let keyed = |key| lba & 0xffff_ffff == key;
        match feature {
            sanitize::STATUS => {}
            sanitize::BLOCK_ERASE if keyed(sanitize::BLOCK_ERASE_KEY) => {
                if self.kept.sanitize.is_frozen() {
                    return Err(ABORTED);
                }
                self.kept.sanitize.begin();
                self.kept.save_sanitize()?;
                let all = self.everything();
                return Ok(self.job(tf, Work::Erase(all)));
            }
            sanitize::FREEZE_LOCK if keyed(sanitize::FREEZE_LOCK_KEY) => {
                if !self.kept.sanitize.freeze() {
                    return Err(ABORTED);
                }
            }
            sanitize::ANTIFREEZE_LOCK if keyed(sanitize::ANTIFREEZE_LOCK_KEY) => {
                if !self.kept.sanitize.antifreeze() {
                    return Err(ABORTED);
                }
            }
            _ => return Err(ABORTED),
        }
        Ok(Step::Done(self.sanitized(tf)))
    }

    /// SMART (ACS-3, 7.48).
    fn smart(
        &mut self,
        tf: &Taskfile,
        feature: u8,
        address: u8,
        pages: u8,
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
            smart::DISABLE => smart.set_enabled(false),
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
        let page = match address {
            // Which logs there are, and how long.
            0 => {
                let mut page = [0; 512];
                page[0] = 1;
                for log in [smart::SUMMARY_LOG, smart::TEST_LOG] {
                    page[usize::from(log) * 2] = 1;
                }
                page
            }
            smart::SUMMARY_LOG => self.kept.smart.error_log(),
            smart::TEST_LOG => self.kept.smart.test_log(),
            _ => return Err(ABORTED),
        };
        debug_assert!(
            address == 0 || page.iter().fold(0u8, |s, b| s.wrapping_add(*b)) == 0,
            "checksum {}",
            checksum(&page)
        );
        if pages == 1 { Ok(Step::Reply(page.to_vec())) } else { Err(ABORTED) }
    }

    /// EXECUTE OFF-LINE IMMEDIATE (ACS-3, 7.48.5). A test is done before the command is, captive or
    /// not.
    fn self_test(&mut self, tf: &Taskfile, subcommand: u8) -> Result<Step, Refused> {
        let all = self.everything();
        let ranges = match subcommand & !smart::CAPTIVE {
            smart::SHORT_TEST => {
                let part = SHORT_TEST_PART.min(all.len);
                let sector = u64::from(self.sector());
                let middle = (all.len - part) / 2 / sector * sector;
                [0, middle, all.len - part].map(|offset| Range::new(offset, part)).to_vec()
            }
            smart::EXTENDED_TEST => vec![all],
            // There is none under way: a command would wait for it.
            smart::ABORT_TEST if subcommand == smart::ABORT_TEST => {
                return Ok(Step::Done(Ending::good(tf)));
            }
            _ => return Err(ABORTED),
        };
        self.kept.smart.begin_test(subcommand);
        Ok(self.job(tf, Work::Test(ranges)))
    }

    /// What came of it in the block layer or in a job.
    pub(super) fn finish_kept(
        &mut self,
        tf: &Taskfile,
        rare: Rare,
        result: Result<(), Failure>,
    ) -> Ending {
        let failed = |failure: Failure| Ending::failed(tf, error_of(failure.error, failure.op));
        let aborted = |refused: Refused| Ending::failed(tf, refused.0);
        match (rare, result) {
            (Rare::Standby | Rare::Sleep, Ok(())) => {
                let sleeps = rare == Rare::Sleep;
                self.kept.power = if sleeps { Power::Sleep } else { Power::Standby };
                Ending::good(tf)
            }
            (Rare::Smart { feature: smart::EXECUTE_OFFLINE, address, .. }, result) => {
                self.end_test(tf, address, result)
            }
            (Rare::SecurityEraseUnit, Ok(())) => {
                self.kept.security.forget();
                self.forget_marks();
                self.kept.save_security().map_or_else(aborted, |()| Ending::good(tf))
            }
            (Rare::Sanitize { .. }, Ok(())) => {
                self.kept.sanitize.end();
                self.forget_marks();
                self.kept.save_sanitize().map_or_else(aborted, |()| self.sanitized(tf))
            }
            (_, Ok(())) => Ending::good(tf),
            (_, Err(failure)) => failed(failure),
        }
    }

    /// Everything was written.
    fn forget_marks(&mut self) {
        let sectors = self.native_sectors();
        let mut at = 0;
        while at < sectors {
            let n = (sectors - at).min(u64::from(u32::MAX));
            self.written(at, n as u32);
            at += n;
        }
    }

    fn end_test(&mut self, tf: &Taskfile, subcommand: u8, result: Result<(), Failure>) -> Ending {
        let sector = u64::from(self.sector());
        let (code, lba) = match result {
            Ok(()) => (result::PASSED, None),
            Err(Failure { error: BlockError::Aborted, .. }) => (result::ABORTED, None),
            Err(failure) => (result::READ_FAILED, Some(failure.offset / sector)),
        };
        self.kept.smart.end_test(code, lba);
        if self.kept.save_smart().is_err() {
            return Ending::failed(tf, error::ABRT);
        }
        if code == result::PASSED || subcommand & smart::CAPTIVE == 0 {
            return Ending::good(tf);
        }
        // A captive test tells at once (ACS-3, 7.48.5.4).
        const FAILED: u64 = 0x2c_f400;
        let mut ending = Ending::failed(tf, error::ABRT);
        ending.lba = tf.lba & !0xff_ff00 | FAILED;
        ending
    }
}
