//! Commands that were accepted: their beginning and their end.

use spindle_block::{IoBuf, Op, Range};

use super::{
    super::{
        Command, Failure, Geometry, Job, Refused, Taskfile,
        cmd::ABORTED,
        error_of, features,
        identify::{self, Facts},
        job::Work,
        log::QueuedError,
        spec::{self, MULTIPLE_MAX, device, error, feature},
        trim,
    },
    Drive, Ending, ResetKind, Step, is_recovery,
};

impl Drive {
    /// Begins a command that was accepted. `data` is its memory; what the host sends is in it.
    #[inline]
    pub fn begin(&mut self, tf: &Taskfile, command: &Command, data: &IoBuf) -> Step {
        let sector = u64::from(self.sector);
        let range = |lba: u64, sectors: u32| Range::new(lba * sector, u64::from(sectors) * sector);
        if let Some(ending) = self.unreadable(tf, command) {
            return Step::Done(ending);
        }
        match *command {
            Command::Read { lba, sectors, .. } => {
                Step::Io { op: Op::Read, range: range(lba, sectors) }
            }
            Command::Write { lba, sectors, fua, .. } => {
                let fua = fua || !self.settings.write_cache;
                Step::Io { op: Op::Write { fua }, range: range(lba, sectors) }
            }
            Command::Flush => Step::Io { op: Op::Flush, range: Range::default() },
            Command::Verify { lba, sectors } => self.job(tf, Work::Verify(range(lba, sectors))),
            _ => match self.begin_rare(tf, command, data) {
                Ok(step) => step,
                Err(refused) => Step::Done(Ending::failed(tf, refused.0)),
            },
        }
    }

    pub(in crate::ata) fn job(&mut self, tf: &Taskfile, work: Work) -> Step {
        match self.root() {
            Some(root) => Step::Job(Box::new(Job::new(root.root().handle(), work))),
            None => Step::Done(Ending::failed(tf, error::ABRT)),
        }
    }

    pub(super) fn begin_rare(
        &mut self,
        tf: &Taskfile,
        command: &Command,
        data: &IoBuf,
    ) -> Result<Step, Refused> {
        match *command {
            Command::Identify => Ok(Step::Reply(identify::bytes(&self.identify()).to_vec())),
            Command::IdentifyPacket => {
                Ok(Step::Reply(identify::bytes(&identify::packet(&self.facts())).to_vec()))
            }
            Command::Trim { .. } => self.trim(tf, &data.to_vec()),
            Command::ReadLog { address, page, pages, .. } => {
                self.read_log(address, page, pages).map(Step::Reply)
            }
            Command::SetFeatures { feature, count, .. } => {
                let kind = (self.config.transport, self.is_packet());
                let cached = self.settings.write_cache;
                features::set(&mut self.settings, kind, feature, count)?;
                if feature == feature::DISABLE_WRITE_CACHE && cached {
                    // What is in the cache is written first (ACS-3, 7.45.4).
                    return Ok(Step::Io { op: Op::Flush, range: Range::default() });
                }
                Ok(Step::Done(Ending::good(tf)))
            }
            Command::SetMultiple { sectors } => {
                let valid = sectors == 0 || sectors.is_power_of_two() && sectors <= MULTIPLE_MAX;
                if !valid {
                    return Err(ABORTED);
                }
                self.settings.multiple = sectors;
                Ok(Step::Done(Ending::good(tf)))
            }
            Command::ReadBuffer { .. } => Ok(Step::Reply(self.buffer.to_vec())),
            Command::WriteBuffer { .. } => {
                data.read_at(0, &mut self.buffer[..]);
                Ok(Step::Done(Ending::good(tf)))
            }
            Command::InitializeParameters { heads, sectors } => {
                let all = self.sectors();
                self.settings.geometry =
                    Geometry::initialized(all, heads, sectors).ok_or(ABORTED)?;
                Ok(Step::Done(Ending::good(tf)))
            }
            Command::Recalibrate | Command::Seek { .. } => Ok(Step::Done(Ending::good(tf))),
            Command::Diagnostic => Ok(Step::Done(self.signature())),
            Command::DeviceReset => Ok(Step::Done(self.reset(ResetKind::Device))),
            Command::Rare(rare) => self.begin_kept(tf, rare, data),
            Command::WriteLog { address, page, .. } => {
                self.write_host_log(address, page, data)?;
                Ok(Step::Done(Ending::good(tf)))
            }
            Command::Packet { .. } => Err(ABORTED),
            Command::Read { .. }
            | Command::Write { .. }
            | Command::Verify { .. }
            | Command::Flush => Err(ABORTED),
        }
    }

    /// Ends a command: what came of it in the block layer, in a job, or in moving its data.
    #[inline]
    pub fn finish(
        &mut self,
        tf: &Taskfile,
        command: &Command,
        result: Result<(), Failure>,
    ) -> Ending {
        match result {
            Ok(()) => {
                if let Command::ReadLog { .. } = command
                    && is_recovery(command, tf)
                {
                    self.queued_error = None;
                }
                match *command {
                    Command::Write { lba, sectors, .. } => self.written(lba, sectors),
                    Command::Rare(rare) => return self.finish_kept(tf, rare, Ok(())),
                    _ => {}
                }
                Ending::good(tf)
            }
            Err(failure) => {
                self.note_failure(failure);
                if let Command::Rare(rare) = *command {
                    return self.finish_kept(tf, rare, Err(failure));
                }
                let mut ending = Ending::failed(tf, error_of(failure.error, failure.op));
                if ending.error & error::ICRC != 0 {
                    self.kept.smart.crc_failed();
                }
                if failure.op != Op::Flush {
                    self.place(tf, &mut ending, failure.offset / u64::from(self.sector));
                }
                ending
            }
        }
    }

    /// Puts the address of a sector that failed where the command had its own.
    pub(in crate::ata) fn place(&self, tf: &Taskfile, ending: &mut Ending, lba: u64) {
        if spec::is_48_bit(tf.command) {
            ending.lba = lba & 0xffff_ffff_ffff;
        } else if tf.device & device::LBA != 0 {
            ending.lba = lba & 0xff_ffff;
            ending.device = tf.device & 0xf0 | (lba >> 24) as u8 & 0x0f;
        } else if let Some((cylinder, head, sector)) = self.settings.geometry.address(lba) {
            ending.lba = u64::from(cylinder) << 8 | u64::from(sector);
            ending.device = tf.device & 0xf0 | head;
        }
    }

    /// A queued command has failed: all others are aborted, and commands are refused until the log
    /// was read (SATA 3.2, 13.6.4). `tag` is `None` where a command that is not queued came between.
    pub fn queue_failed(&mut self, tag: Option<u8>, ending: Ending) {
        self.queued_error.get_or_insert(QueuedError { tag, ending });
    }

    /// Whether what is trimmed reads as zeros, and its space is given back.
    pub(super) fn trims(&mut self) -> bool {
        self.root().is_some_and(|root| !root.policy().ignore_discard && !root.info().read_only)
    }

    pub(super) fn facts(&mut self) -> Facts<'_> {
        let (sectors, trim) = (self.sectors(), !self.is_packet() && self.trims());
        Facts { config: &self.config, settings: &self.settings, sectors, trim }
    }

    /// Its IDENTIFY DEVICE data.
    pub(super) fn identify(&mut self) -> identify::Words {
        let mut words = identify::device(&self.facts());
        self.kept.describe(&mut words);
        words
    }

    pub(super) fn trim(&mut self, tf: &Taskfile, list: &[u8]) -> Result<Step, Refused> {
        if !self.trims() {
            return Err(ABORTED);
        }
        let ranges = trim::ranges(list, self.sectors(), self.sector.into())?;
        Ok(self.job(tf, Work::Trim(ranges)))
    }
}
