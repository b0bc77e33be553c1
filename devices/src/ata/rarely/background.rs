//! What a drive does beside commands: self-tests and sanitize operations. Its controller does one
//! step after the other, so that a pause of the machine and a reset wait for one step at most.

use spindle_block::{BlockError, Range};

use crate::ata::{
    Drive, Ending, Failure, Job, JobEnd, Refused, Step, Taskfile,
    cmd::ABORTED,
    job::Work,
    kept::{
        sanitize::Stepped,
        smart::{Tested, result},
    },
    spec::sanitize,
};

/// A step that is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackgroundStep {
    /// These bytes are read for a test.
    Test(Range),
    /// So many bytes are sanitized; `None`: everything is made durable.
    Sanitize(Option<u64>),
}

impl Drive {
    /// Whether there is a step to be done beside commands.
    #[inline]
    #[must_use]
    pub fn has_background(&self) -> bool {
        self.kept.sanitize.is_active() || self.kept.smart.tests.has_step()
    }

    /// The next step that is to be done beside commands. Its end goes to
    /// [`Drive::end_background`], before another one is asked for.
    pub fn begin_background(&mut self) -> Option<(BackgroundStep, Job)> {
        let size = self.everything().len;
        if let Some(work) = self.kept.sanitize.next(size) {
            let bytes = match &work {
                Work::Erase(range) | Work::Overwrite(range, _) => Some(range.len),
                _ => None,
            };
            let root = self.root()?.root().handle();
            return Some((BackgroundStep::Sanitize(bytes), Job::new(root, work)));
        }
        let sector = u64::from(self.sector());
        let range = self.kept.smart.tests.step(sector)?;
        if let Some((lba, _)) = self.marked(range.offset / sector, range.len / sector) {
            self.end_test(result::READ_FAILED, Some(lba));
            return None;
        }
        let root = self.root()?.root().handle();
        Some((BackgroundStep::Test(range), Job::new(root, Work::Verify(range))))
    }

    /// A step has ended.
    pub fn end_background(&mut self, step: BackgroundStep, end: JobEnd) {
        match step {
            BackgroundStep::Test(range) => self.tested(range, end),
            BackgroundStep::Sanitize(bytes) => self.sanitized_step(bytes, end),
        }
    }

    fn tested(&mut self, range: Range, end: JobEnd) {
        match end {
            Ok(()) => {
                if self.kept.smart.tests.stepped(range) == Tested::Passed {
                    self.end_test(result::PASSED, None);
                }
            }
            Err(failure) if self.kept.smart.tests.is_step(range) => {
                self.note_failure(failure);
                let lba = failure.offset / u64::from(self.sector());
                match failure.error {
                    BlockError::Aborted => self.end_test(result::INTERRUPTED, None),
                    _ => self.end_test(result::READ_FAILED, Some(lba)),
                }
            }
            Err(_) => {}
        }
    }

    fn sanitized_step(&mut self, bytes: Option<u64>, end: JobEnd) {
        let size = self.everything().len;
        let stepped = match end {
            Ok(()) => self.kept.sanitize.stepped(bytes, size),
            // It is done again.
            Err(Failure { error: BlockError::Aborted, .. }) => return,
            Err(Failure { error, .. }) => {
                log::warn!("disk {}: sanitize failed: {error}", self.config().id);
                self.kept.sanitize.fail();
                Stepped::Over
            }
        };
        if stepped == Stepped::On {
            return;
        }
        if !self.kept.sanitize.is_shut() {
            self.forget_marks();
        }
        // What is not kept is done again after a power loss.
        self.kept.save_sanitize().ok();
    }

    /// A test is over, if there is one.
    fn end_test(&mut self, result: u8, lba: Option<u64>) {
        if self.kept.smart.end_test(result, lba) {
            // The drive has said it; at worst the log forgets it with a power loss.
            self.kept.save_smart().ok();
        }
    }

    /// The test that goes on beside commands ends, if there is one.
    pub(super) fn end_background_test(&mut self, result: u8) {
        self.end_test(result, None);
    }

    fn sanitize_registers(&mut self, tf: &Taskfile) -> Ending {
        let size = self.everything().len;
        let (count, lba) = self.kept.sanitize.registers(size);
        Ending { count, lba, ..Ending::good(tf) }
    }

    /// SANITIZE DEVICE (ACS-3, 7.36). The command does not wait for the operation's end.
    pub(super) fn sanitize(
        &mut self,
        tf: &Taskfile,
        feature: u16,
        options: u16,
        lba: u64,
    ) -> Result<Step, Refused> {
        let keyed = |key| lba & 0xffff_ffff == key;
        let begins = match feature {
            sanitize::BLOCK_ERASE => keyed(sanitize::BLOCK_ERASE_KEY),
            sanitize::CRYPTO_SCRAMBLE => keyed(sanitize::CRYPTO_SCRAMBLE_KEY),
            sanitize::OVERWRITE => lba >> 32 == sanitize::OVERWRITE_KEY,
            _ => false,
        };
        match feature {
            _ if begins => {
                self.kept.sanitize.begin(feature, options, lba as u32)?;
                self.end_background_test(result::ABORTED);
                self.kept.save_sanitize()?;
            }
            sanitize::STATUS => {
                if self.kept.sanitize.ask(options) {
                    self.kept.save_sanitize()?;
                }
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
        Ok(Step::Done(self.sanitize_registers(tf)))
    }
}
