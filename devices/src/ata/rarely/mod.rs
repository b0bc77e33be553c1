//! A drive does what it rarely has to: see [`Rare`].

mod background;
mod smart;

pub use background::BackgroundStep;

use spindle_block::{BlockError, IoBuf, Op, Range, root::Account};

use super::{
    Command, Drive, Ending, Failure, Rare, Refused, Step, Taskfile,
    cmd::ABORTED,
    error_of,
    job::Work,
    kept::{
        power::Mode,
        smart::{Counters, result},
    },
    spec::{error, microcode, set_max, smart as smart_codes},
};

/// COUNT of CHECK POWER MODE (ACS-3, table 24).
mod mode {
    pub const STANDBY: u16 = 0x00;
    pub const IDLE: u16 = 0x80;
    pub const ACTIVE: u16 = 0xff;
}

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
            || kept.sanitize.is_shut()
            || kept.power.mode == Mode::Sleep
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

    /// The first of these sectors that WRITE UNCORRECTABLE EXT made unreadable, and whether that is to
    /// be logged.
    fn marked(&self, lba: u64, sectors: u64) -> Option<(u64, bool)> {
        if !self.kept.marks.any() && !self.kept.flagged.any() {
            return None;
        }
        let bad = |at: &u64| {
            let range = self.bytes_of(*at, 1);
            self.kept.marks.overlap(range) || self.kept.flagged.overlap(range)
        };
        let first = (lba..lba.saturating_add(sectors)).find(bad)?;
        Some((first, self.kept.marks.overlap(self.bytes_of(first, 1))))
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
        let (first, logged) = self.marked(lba, sectors.into())?;
        if logged {
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
            Rare::Idle { timer } => {
                if let Some(count) = timer {
                    self.kept.power.set_timer(count);
                }
                self.kept.power.mode = Mode::Idle;
                good
            }
            // What is in the cache is written first (ACS-3, 7.54).
            Rare::Standby { .. } | Rare::Sleep => flush,
            Rare::CheckPower => {
                let count = match self.kept.power.mode {
                    Mode::Active => mode::ACTIVE,
                    Mode::Idle => mode::IDLE,
                    Mode::Standby | Mode::Sleep => mode::STANDBY,
                };
                Ok(Step::Done(Ending { count, ..Ending::good(tf) }))
            }
            Rare::Smart { feature, address, pages } => {
                self.smart(tf, (feature, address, pages), data)
            }
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
                self.end_background_test(result::ABORTED);
                let all = self.everything();
                Ok(self.job(tf, Work::EraseAll(all)))
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
            Rare::SetMax { .. } if !self.kept.max_lock.is_open() => Err(ABORTED),
            Rare::SetMaxLock { feature } => {
                let data = match feature {
                    set_max::SET_PASSWORD | set_max::UNLOCK => block(data)?,
                    _ => [0; 512],
                };
                self.kept.max_lock.command(feature, &data)?;
                good
            }
            Rare::SetMax { lba, keep } => {
                let native = self.native_sectors();
                if self.kept.max.set_max(lba, keep, native)? {
                    self.kept.save_max()?;
                }
                good
            }
            Rare::MaxAddress { feature, lba } => self.max_address(tf, feature, lba),
            Rare::Sanitize { feature, options, lba } => self.sanitize(tf, feature, options, lba),
            Rare::Microcode { mode, offset, .. } => self.download(tf, mode, offset, data),
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

    /// DOWNLOAD MICROCODE (ACS-3, 7.7).
    fn download(
        &mut self,
        tf: &Taskfile,
        mode: u16,
        offset: u16,
        data: &IoBuf,
    ) -> Result<Step, Refused> {
        if mode == microcode::ACTIVATE {
            self.kept.microcode.activate()?;
            self.kept.save_microcode()?;
            return Ok(Step::Done(Ending::good(tf)));
        }
        let (count, whole) = self.kept.microcode.download(mode, offset, &data.to_vec())?;
        if whole {
            self.kept.save_microcode()?;
        }
        let count = if mode == microcode::WHOLE { tf.count } else { count };
        Ok(Step::Done(Ending { count, ..Ending::good(tf) }))
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
            (Rare::Standby { .. } | Rare::Sleep, Ok(())) => {
                // A test does not go on without a medium that turns (ACS-3, 7.48.5.2).
                self.end_background_test(result::ABORTED);
                if let Rare::Standby { timer: Some(count) } = rare {
                    self.kept.power.set_timer(count);
                }
                let sleeps = rare == Rare::Sleep;
                self.kept.power.mode = if sleeps { Mode::Sleep } else { Mode::Standby };
                Ending::good(tf)
            }
            (Rare::Smart { feature: smart_codes::EXECUTE_OFFLINE, address, .. }, result) => {
                self.end_captive(tf, address, result)
            }
            (Rare::SecurityEraseUnit, Ok(())) => {
                self.kept.security.forget();
                self.forget_marks();
                self.kept.save_security().map_or_else(aborted, |()| Ending::good(tf))
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
}
