//! One drive, as its controller's queue half owns it.

use std::{sync::Arc, time::Instant};

use spindle_block::{IoBuf, Op, Range, Root, RootHandle};

use super::{
    Cdb, Command, DriveConfig, Failure, Geometry, Job, PacketStep, Rare, Refused, Settings,
    Taskfile,
    cmd::{ABORTED, Context},
    error_of, features,
    identify::{self, Facts},
    job::Work,
    kept::{
        Kept, host_logs,
        smart::{Counters, STATISTICS_PAGES, Smart},
    },
    log::{self, QueuedError, Source},
    packet::PacketDrive,
    spec::{
        self, MULTIPLE_MAX, SIGNATURE_DISK, SIGNATURE_PACKET, device, error, feature, op, status,
    },
    trim,
};
use crate::scsi::{self, LogicalUnit, Nexus, cmd::Transfer as PacketTransfer};

/// What the registers hold once a command is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// STATUS.
    pub status: u8,
    /// ERROR.
    pub error: u8,
    /// COUNT.
    pub count: u16,
    /// LBA, as in [`Taskfile::lba`].
    pub lba: u64,
    /// DEVICE.
    pub device: u8,
}

impl Ending {
    /// A command that went well; the registers are as the host left them.
    #[inline]
    #[must_use]
    pub fn good(tf: &Taskfile) -> Self {
        Self {
            status: status::DRDY | status::DSC,
            error: error::NONE,
            count: tf.count,
            lba: tf.lba,
            device: tf.device,
        }
    }

    /// A command that failed with these ERROR bits.
    #[must_use]
    pub fn failed(tf: &Taskfile, error: u8) -> Self {
        Self { status: status::DRDY | status::DSC | status::ERR, error, ..Self::good(tf) }
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.status & (status::ERR | status::DF) != 0
    }
}

/// How a drive is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Power-on.
    PowerOn,
    /// RESET- of the cable, or COMRESET.
    Hardware,
    /// SRST.
    Software,
    /// DEVICE RESET, of a drive with PACKET.
    Device,
}

/// What is to be done next about a command.
pub enum Step {
    /// One request for the block layer; with [`Op::has_data`] over the command's own memory.
    Io {
        /// What to do.
        op: Op,
        /// Where.
        range: Range,
    },
    /// Move these bytes to the host, then call [`Drive::finish`].
    Reply(Vec<u8>),
    /// It is over.
    Done(Ending),
    /// Run this, then call [`Drive::finish`].
    Job(Box<Job>),
}

enum Kind {
    Disk(RootHandle),
    Packet(PacketDrive),
}

/// See the module.
pub struct Drive {
    config: DriveConfig,
    kind: Kind,
    settings: Settings,
    /// Logical sector size.
    sector: u32,
    /// A queued command has failed, and its log was not read yet.
    queued_error: Option<QueuedError>,
    /// What WRITE BUFFER left for READ BUFFER.
    buffer: Box<[u8; 512]>,
    pub(super) kept: Kept,
}

impl Drive {
    /// A disk.
    #[must_use]
    pub fn disk(config: DriveConfig, root: &Arc<Root>) -> Self {
        Self::new(config, Kind::Disk(root.handle()))
    }

    /// A drive with PACKET, over a unit to which its controller has attached itself.
    #[must_use]
    pub fn packet_drive(config: DriveConfig, unit: &Arc<LogicalUnit>, nexus: Nexus) -> Self {
        Self::new(config, Kind::Packet(PacketDrive::new(unit, nexus)))
    }

    fn new(config: DriveConfig, kind: Kind) -> Self {
        let sector = config.block_size();
        let geometry = Geometry::of_size(0);
        let settings = Settings::new(config.transport, geometry, config.write_cache);
        let buffer = Box::new([0; 512]);
        let kept = Kept::new(config.state.clone());
        let mut drive = Self { config, kind, settings, sector, queued_error: None, buffer, kept };
        drive.settings = drive.default_settings();
        drive
    }

    /// How it was built.
    #[must_use]
    pub fn config(&self) -> &DriveConfig {
        &self.config
    }

    /// How it is set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it has the PACKET feature set.
    #[must_use]
    pub fn is_packet(&self) -> bool {
        matches!(self.kind, Kind::Packet(_))
    }

    /// Bytes of a logical sector, of a disk.
    #[must_use]
    pub fn sector(&self) -> u32 {
        self.sector
    }

    /// Its medium, to submit to; `None` when there is none.
    #[inline]
    pub fn root(&mut self) -> Option<&mut RootHandle> {
        match &mut self.kind {
            Kind::Disk(root) => Some(root),
            Kind::Packet(packet) => packet.handle().root(),
        }
    }

    /// Lets go of a medium that was taken out.
    pub fn look_again(&mut self) {
        if let Kind::Packet(packet) = &mut self.kind {
            packet.handle().look_again();
        }
    }

    /// Logical sectors of a disk that hosts reach.
    #[inline]
    pub fn sectors(&mut self) -> u64 {
        let native = self.native_sectors();
        self.kept.max.limit(native)
    }

    /// Logical sectors of a disk.
    #[inline]
    pub(super) fn native_sectors(&mut self) -> u64 {
        match &mut self.kind {
            Kind::Disk(root) => root.info().size / u64::from(self.sector),
            Kind::Packet(_) => 0,
        }
    }

    fn default_settings(&mut self) -> Settings {
        let sectors = self.sectors();
        let geometry = self.config.geometry.unwrap_or_else(|| Geometry::of_size(sectors));
        Settings::new(self.config.transport, geometry, self.config.write_cache)
    }

    /// Resets it. Nothing of it is in flight. Returns its signature (ACS-3, 9.12; ATA-6, 9.2).
    pub fn reset(&mut self, kind: ResetKind) -> Ending {
        const SATA_PRESERVES: u8 = 1 << 6;
        let keep = match kind {
            ResetKind::PowerOn => false,
            ResetKind::Hardware => {
                self.config.is_serial() && self.settings.sata & SATA_PRESERVES != 0
            }
            ResetKind::Software | ResetKind::Device => !self.settings.revert,
        };
        if !keep {
            self.settings = self.default_settings();
        }
        self.queued_error = None;
        self.kept.reset(kind, keep);
        if let Kind::Packet(packet) = &mut self.kind {
            packet.reset();
        }
        self.signature()
    }

    /// What the registers hold after a reset.
    #[must_use]
    pub fn signature(&self) -> Ending {
        let (status, lba) = match self.kind {
            Kind::Disk(_) => (status::DRDY | status::DSC, SIGNATURE_DISK),
            Kind::Packet(_) => (0, SIGNATURE_PACKET),
        };
        Ending { status, error: error::DIAGNOSTIC_PASSED, count: 1, lba, device: 0 }
    }

    #[inline]
    fn context(&self) -> Context {
        Context {
            packet: self.is_packet(),
            queued: self.config.is_serial(),
            multiple: self.settings.multiple,
            geometry: self.settings.geometry,
        }
    }

    /// Takes a command that comes `now`.
    ///
    /// # Errors
    /// The registers of one that is refused.
    #[inline]
    pub fn accept(&mut self, tf: &Taskfile, now: Instant) -> Result<Command, Ending> {
        let command = match Command::parse(tf, &self.context()) {
            Ok(command) => command,
            Err(refused) => return Err(self.refused(tf, refused)),
        };
        if self.queued_error.is_some() && !is_recovery(&command, tf) {
            // SATA 3.2, 13.6.4.1: nothing but that log and a reset ends it.
            return Err(Ending::failed(tf, error::ABRT));
        }
        if let Err(refused) = self.kept.admit(&command, now) {
            return Err(Ending::failed(tf, refused.0));
        }
        let on_medium = match command {
            Command::Read { lba, sectors, .. }
            | Command::Write { lba, sectors, .. }
            | Command::Verify { lba, sectors }
            | Command::Rare(Rare::WriteUncorrectable { lba, sectors, .. }) => {
                lba.checked_add(sectors.into()).is_some_and(|end| end <= self.sectors())
            }
            Command::Seek { lba } => lba < self.sectors(),
            _ => true,
        };
        if on_medium { Ok(command) } else { Err(Ending::failed(tf, error::IDNF)) }
    }

    fn refused(&self, tf: &Taskfile, refused: Refused) -> Ending {
        let mut ending = Ending::failed(tf, refused.0);
        if self.is_packet() && matches!(tf.command, op::IDENTIFY_DEVICE | op::READ_SECTORS) {
            // What drivers tell drives apart by (ACS-3, 7.12.5 and 7.27.5).
            let signature = self.signature();
            (ending.count, ending.lba) = (signature.count, signature.lba);
        }
        ending
    }

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

    pub(super) fn job(&mut self, tf: &Taskfile, work: Work) -> Step {
        match self.root() {
            Some(root) => Step::Job(Box::new(Job::new(root.root().handle(), work))),
            None => Step::Done(Ending::failed(tf, error::ABRT)),
        }
    }

    fn begin_rare(
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
    pub(super) fn place(&self, tf: &Taskfile, ending: &mut Ending, lba: u64) {
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
    fn trims(&mut self) -> bool {
        self.root().is_some_and(|root| !root.policy().ignore_discard && !root.info().read_only)
    }

    fn facts(&mut self) -> Facts<'_> {
        let (sectors, trim) = (self.sectors(), !self.is_packet() && self.trims());
        Facts { config: &self.config, settings: &self.settings, sectors, trim }
    }

    /// Its IDENTIFY DEVICE data.
    fn identify(&mut self) -> identify::Words {
        let mut words = identify::device(&self.facts());
        self.kept.describe(&mut words);
        words
    }

    fn trim(&mut self, tf: &Taskfile, list: &[u8]) -> Result<Step, Refused> {
        if !self.trims() {
            return Err(ABORTED);
        }
        let ranges = trim::ranges(list, self.sectors(), self.sector.into())?;
        Ok(self.job(tf, Work::Trim(ranges)))
    }

    fn read_log(&mut self, address: u8, page: u16, pages: u16) -> Result<Vec<u8>, Refused> {
        if host_logs::is_one(address) {
            return self.host_log(address, page, pages);
        }
        let source = Logs {
            words: self.identify(),
            sector: self.sector,
            serial: self.config.is_serial(),
            queued_error: self.queued_error,
            counters: self.counters(),
            smart: &self.kept.smart,
        };
        let end = page.checked_add(pages).ok_or(ABORTED)?;
        if end > source.pages(address) {
            return Err(ABORTED);
        }
        Ok((page..end).flat_map(|page| source.page(address, page)).collect())
    }
}

/// A READ LOG of the log that tells how a queued command failed.
fn is_recovery(command: &Command, tf: &Taskfile) -> bool {
    matches!(command, Command::ReadLog { .. }) && log::is_recovery(tf)
}

/// The logs at one moment.
struct Logs<'a> {
    words: identify::Words,
    sector: u32,
    serial: bool,
    queued_error: Option<QueuedError>,
    smart: &'a Smart,
    counters: Counters,
}

impl Source for Logs<'_> {
    fn pages(&self, address: u8) -> u16 {
        match address {
            spec::log::DIRECTORY | spec::log::EXTENDED_ERRORS | spec::log::EXTENDED_TESTS => 1,
            spec::log::NCQ_ERROR | spec::log::NCQ_SEND_RECEIVE | spec::log::LINK_COUNTERS
                if self.serial =>
            {
                1
            }
            spec::log::DEVICE_STATISTICS => {
                STATISTICS_PAGES.iter().max().map_or(0, |last| u16::from(*last) + 1)
            }
            address if host_logs::is_one(address) => spec::HOST_LOG_PAGES,
            spec::log::IDENTIFY_DATA => log::IDENTIFY_PAGES.len() as u16,
            _ => 0,
        }
    }

    fn page(&self, address: u8, page: u16) -> log::Page {
        match address {
            spec::log::DIRECTORY => log::directory(self),
            spec::log::NCQ_ERROR => QueuedError::page(self.queued_error.as_ref()),
            spec::log::NCQ_SEND_RECEIVE => log::send_receive(),
            spec::log::LINK_COUNTERS => self.smart.link_counters(),
            spec::log::EXTENDED_ERRORS => self.smart.extended_error_log(),
            spec::log::EXTENDED_TESTS => self.smart.extended_test_log(),
            spec::log::DEVICE_STATISTICS => self.smart.statistics(page, &self.counters),
            spec::log::IDENTIFY_DATA => log::identify_data(page, &self.words, self.sector),
            _ => [0; 512],
        }
    }
}

impl Drive {
    /// Bytes of a logical block, behind a packet interface; else of a sector.
    #[must_use]
    pub fn packet_block(&self) -> u32 {
        match &self.kind {
            Kind::Packet(packet) => packet.block_size(),
            Kind::Disk(_) => self.sector,
        }
    }

    /// What a packet moves, at most; nothing, where it is not understood.
    #[must_use]
    pub fn packet(&self, cdb: &Cdb) -> PacketTransfer {
        match &self.kind {
            Kind::Packet(packet) => packet.transfer(cdb),
            Kind::Disk(_) => PacketTransfer::None,
        }
    }

    /// Begins a packet. `data` is its memory, filled where the host sends data; `phase` is that of a
    /// command that failed and is tried again.
    pub fn begin_packet(&mut self, cdb: &Cdb, data: &IoBuf, phase: Option<u8>) -> PacketStep {
        match &mut self.kind {
            Kind::Packet(packet) => packet.begin(cdb, data, phase),
            Kind::Disk(_) => PacketStep::Answer(scsi::Sense::invalid_opcode().into()),
        }
    }

    /// The answer to a packet that went to the block layer or was a job.
    #[must_use]
    pub fn packet_answer(&self, result: scsi::JobResult) -> scsi::Answer {
        match (&self.kind, result) {
            (Kind::Packet(packet), result) => packet.answer(result),
            (Kind::Disk(_), _) => scsi::Sense::invalid_opcode().into(),
        }
    }

    /// Ends a packet, its data having been moved: the registers as the host sees them.
    pub fn finish_packet(&mut self, tf: &Taskfile, answer: &scsi::Answer) -> Ending {
        let Kind::Packet(packet) = &mut self.kind else {
            return Ending::failed(tf, error::ABRT);
        };
        let (status, error, reason) = packet.registers(answer);
        Ending { status, error, count: reason.into(), ..Ending::good(tf) }
    }
}
