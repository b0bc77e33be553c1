//! What only drives answer (MMC-6): a CD-ROM or DVD-ROM with one session of one data track, which
//! is what an ISO image is.

mod disc;
mod features;
mod toc;

use spindle_block::Op;

use super::{
    cmd::Command,
    exec::{Answer, Step},
    sense::Sense,
    spec::asc,
    tray::MediaEvent,
    unit::UnitHandle,
};

/// Blocks on the largest CD: 80 minutes. What has more is a DVD.
const CD_BLOCKS_MAX: u64 = 80 * 60 * 75;
/// User data, the one part of a sector that an image has (READ CD, MMC-6, 6.20).
const USER_DATA: u8 = 0x10;

/// Sector types of READ CD that a data track is (MMC-6, table 351).
mod sector_type {
    pub const ANY: u8 = 0;
    pub const MODE_1: u8 = 2;
}

/// What lies in the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disc {
    None,
    Cd { blocks: u64 },
    Dvd { blocks: u64 },
}

impl Disc {
    fn of(blocks: Option<u64>) -> Self {
        match blocks {
            None => Self::None,
            Some(blocks) if blocks > CD_BLOCKS_MAX => Self::Dvd { blocks },
            Some(blocks) => Self::Cd { blocks },
        }
    }

    fn blocks(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Cd { blocks } | Self::Dvd { blocks } => blocks,
        }
    }
}

impl UnitHandle {
    /// Commands of CD/DVD drives.
    pub(super) fn drive(&mut self, command: Command) -> Result<Step, Sense> {
        let disc = Disc::of(self.root().is_some().then(|| self.blocks()));
        let (data, allocation) = match command {
            Command::ReadCd { lba, blocks, sector_type, flags } => {
                return self.read_cd(lba, blocks, sector_type, flags);
            }
            Command::ReadToc { msf, format, track, allocation } => {
                (toc::read(msf, format, track, disc.blocks())?, allocation)
            }
            Command::GetConfiguration { kind, first, allocation } => {
                (features::configuration(disc, kind, first), allocation)
            }
            Command::GetEventStatus { classes, allocation } => {
                (self.event_status(classes), allocation)
            }
            Command::ReadDiscInformation { kind, allocation } => {
                (disc::information(kind)?, allocation)
            }
            Command::ReadTrackInformation { address_kind, address, allocation } => {
                (disc::track(address_kind, address, disc.blocks())?, allocation)
            }
            Command::ReadDiscStructure { media, layer, format, allocation } => {
                (disc::structure(disc, media, layer, format)?, allocation)
            }
            Command::MechanismStatus { allocation } => {
                // Door open; neither changer nor slots (MMC-6, 6.11).
                let open = u8::from(self.unit().tray_open()) << 4;
                (vec![0, open, 0, 0, 0, 0, 0, 0], allocation)
            }
            _ => return Err(Sense::invalid_opcode()),
        };
        Ok(Step::Answer(Answer::reply(data, allocation)))
    }

    fn read_cd(
        &mut self,
        lba: u64,
        blocks: u32,
        sector_type: u8,
        flags: u8,
    ) -> Result<Step, Sense> {
        let range = self.range(lba, blocks.into())?;
        if !matches!(sector_type, sector_type::ANY | sector_type::MODE_1) {
            return Err(Sense::illegal(asc::ILLEGAL_TRACK_MODE));
        }
        match flags {
            0 => Ok(Step::Answer(Answer::good())),
            USER_DATA => Ok(Step::Io { op: Op::Read, range }),
            _ => Err(Sense::cdb_field(9, None)),
        }
    }

    /// GET EVENT STATUS NOTIFICATION (MMC-6, 6.6): power management and media.
    fn event_status(&self, classes: u8) -> Vec<u8> {
        const POWER: u8 = 2;
        const MEDIA: u8 = 4;
        const SUPPORTED: u8 = 1 << POWER | 1 << MEDIA;
        let wants = |class: u8| classes >> class & 1 != 0;
        self.unit().change(|state| {
            let happened = state.tray.event != MediaEvent::None;
            if wants(MEDIA) && (happened || !wants(POWER)) {
                let event = match std::mem::take(&mut state.tray.event) {
                    MediaEvent::None => 0,
                    MediaEvent::EjectRequest => 1,
                    MediaEvent::NewMedia => 2,
                    MediaEvent::Removal => 3,
                };
                let status = u8::from(state.tray.open) | u8::from(state.root.is_some()) << 1;
                return vec![0, 6, MEDIA, SUPPORTED, event, status, 0, 0];
            }
            if wants(POWER) {
                // No change; active.
                return vec![0, 6, POWER, SUPPORTED, 0, 1, 0, 0];
            }
            // NEA: no such class.
            vec![0, 2, 0x80, SUPPORTED]
        })
    }
}
