//! One drive, as its controller's queue half owns it.

mod execute;
mod packets;

use std::{sync::Arc, time::Instant};

use spindle_block::{Op, Range, Root, RootHandle};

use super::{
    Command, DriveConfig, Geometry, Job, Rare, Refused, Settings, Taskfile,
    cmd::{ABORTED, Context},
    identify,
    kept::{
        Kept, host_logs,
        smart::{Counters, STATISTICS_PAGES, Smart},
    },
    log::{self, QueuedError, Source},
    packet::PacketDrive,
    spec::{self, SIGNATURE_DISK, SIGNATURE_PACKET, error, op, status},
};
use crate::scsi::{LogicalUnit, Nexus};

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
