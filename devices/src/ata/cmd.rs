//! From a taskfile to what is to be done: pure, no memory and no drive in sight.

use super::{
    Geometry,
    rare::Rare,
    spec::{SECTOR, TRIM, TRIM_BLOCKS_MAX, Taskfile, device, error, op, packet, send},
};

/// How a read or write moves its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// PIO, in DRQ data blocks of so many sectors.
    Pio(u8),
    /// DMA.
    Dma,
    /// First-party DMA, queued.
    Queued,
}

/// A command. LBAs and sectors are logical ones, lengths in blocks of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Command {
    Read {
        lba: u64,
        sectors: u32,
        access: Access,
    },
    Write {
        lba: u64,
        sectors: u32,
        access: Access,
        fua: bool,
    },
    Verify {
        lba: u64,
        sectors: u32,
    },
    Flush,
    /// DATA SET MANAGEMENT with TRIM, or the same as SEND FPDMA QUEUED.
    Trim {
        blocks: u16,
        access: Access,
    },
    Identify,
    IdentifyPacket,
    SetFeatures {
        feature: u8,
        count: u8,
        lba: u32,
    },
    SetMultiple {
        sectors: u8,
    },
    ReadLog {
        address: u8,
        page: u16,
        pages: u16,
        access: Access,
    },
    WriteLog {
        address: u8,
        page: u16,
        pages: u16,
        access: Access,
    },
    ReadBuffer {
        access: Access,
    },
    WriteBuffer {
        access: Access,
    },
    Diagnostic,
    DeviceReset,
    /// `heads` is the number of heads.
    InitializeParameters {
        heads: u8,
        sectors: u8,
    },
    Recalibrate,
    Seek {
        lba: u64,
    },
    /// `limit` is the byte count limit of a PIO data block.
    Packet {
        dma: bool,
        limit: u16,
    },
    /// About what the drive keeps.
    Rare(Rare),
}

/// A command is refused with these ERROR bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u8);

/// ABORT: the command is not known, or not with these fields.
pub const ABORTED: Refused = Refused(error::ABRT);

/// What parsing needs to know of the drive.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// It has the PACKET feature set, not the general one.
    pub packet: bool,
    /// It takes queued commands.
    pub queued: bool,
    /// Sectors of a DRQ data block of READ and WRITE MULTIPLE; 0: they are refused.
    pub multiple: u8,
    /// The translation in force.
    pub geometry: Geometry,
}

/// How a command moves data (ACS-3, 4.1; ATA-6, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// None.
    NonData,
    /// To the host, by PIO.
    PioIn,
    /// From the host, by PIO.
    PioOut,
    /// To the host, by DMA.
    DmaIn,
    /// From the host, by DMA.
    DmaOut,
    /// To the host, queued.
    QueuedIn,
    /// From the host, queued.
    QueuedOut,
    /// A packet comes first.
    Packet,
    /// EXECUTE DEVICE DIAGNOSTIC: both drives of a cable do it.
    Diagnostic,
    /// DEVICE RESET.
    Reset,
}

/// What a command moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// How.
    pub protocol: Protocol,
    /// Bytes.
    pub len: u64,
    /// Bytes of a DRQ data block (but the last one, which may be shorter), for PIO.
    pub block: u32,
}

impl Protocol {
    /// Whether data go to the host.
    #[must_use]
    pub fn is_in(self) -> bool {
        matches!(self, Self::PioIn | Self::DmaIn | Self::QueuedIn)
    }

    /// Whether data come from the host.
    #[must_use]
    pub fn is_out(self) -> bool {
        matches!(self, Self::PioOut | Self::DmaOut | Self::QueuedOut)
    }

    /// Whether the command is queued.
    #[must_use]
    pub fn is_queued(self) -> bool {
        matches!(self, Self::QueuedIn | Self::QueuedOut)
    }
}

impl Access {
    fn protocol(self, out: bool) -> Protocol {
        match (self, out) {
            (Self::Pio(_), false) => Protocol::PioIn,
            (Self::Pio(_), true) => Protocol::PioOut,
            (Self::Dma, false) => Protocol::DmaIn,
            (Self::Dma, true) => Protocol::DmaOut,
            (Self::Queued, false) => Protocol::QueuedIn,
            (Self::Queued, true) => Protocol::QueuedOut,
        }
    }
}

impl Command {
    /// Takes a taskfile apart.
    ///
    /// # Errors
    /// The ERROR bits of a command that is not supported, or not with these fields.
    #[inline]
    pub fn parse(tf: &Taskfile, cx: &Context) -> Result<Self, Refused> {
        if cx.packet {
            return parse_packet(tf);
        }
        match tf.command {
            op::READ_FPDMA_QUEUED if cx.queued => {
                let (lba, sectors) = (tf.lba, sectors_48(tf.features));
                Ok(Self::Read { lba, sectors, access: Access::Queued })
            }
            op::WRITE_FPDMA_QUEUED if cx.queued => {
                let (lba, sectors) = (tf.lba, sectors_48(tf.features));
                let fua = tf.device & device::FUA != 0;
                Ok(Self::Write { lba, sectors, access: Access::Queued, fua })
            }
            _ => parse_disk(tf, cx),
        }
    }

    /// What it moves, on a drive with these sectors.
    #[inline]
    #[must_use]
    pub fn transfer(&self, sector: u32) -> Transfer {
        let none = Transfer { protocol: Protocol::NonData, len: 0, block: 0 };
        let sectors = |count: u32, access: Access, out| Transfer {
            protocol: access.protocol(out),
            len: u64::from(count) * u64::from(sector),
            block: match access {
                Access::Pio(multiple) => u32::from(multiple) * sector,
                Access::Dma | Access::Queued => 0,
            },
        };
        let blocks = |count: u16, access: Access, out| Transfer {
            protocol: access.protocol(out),
            len: u64::from(count) * SECTOR,
            block: SECTOR as u32,
        };
        match *self {
            Self::Read { sectors: count, access, .. } => sectors(count, access, false),
            Self::Write { sectors: count, access, .. } => sectors(count, access, true),
            Self::Trim { blocks: count, access } => blocks(count, access, true),
            Self::Identify | Self::IdentifyPacket => blocks(1, Access::Pio(1), false),
            Self::ReadLog { pages, access, .. } => blocks(pages, access, false),
            Self::WriteLog { pages, access, .. } => blocks(pages, access, true),
            Self::ReadBuffer { access } => blocks(1, access, false),
            Self::WriteBuffer { access } => blocks(1, access, true),
            Self::Packet { .. } => Transfer { protocol: Protocol::Packet, ..none },
            Self::Rare(rare) => match rare.blocks() {
                (0, ..) => none,
                (count, access, out) => blocks(count, access, out),
            },
            Self::Diagnostic => Transfer { protocol: Protocol::Diagnostic, ..none },
            Self::DeviceReset => Transfer { protocol: Protocol::Reset, ..none },
            Self::Verify { .. }
            | Self::Flush
            | Self::SetFeatures { .. }
            | Self::SetMultiple { .. }
            | Self::InitializeParameters { .. }
            | Self::Recalibrate
            | Self::Seek { .. } => none,
        }
    }

    /// Whether its data are those of the medium, so that it can be done piece by piece.
    #[must_use]
    pub fn is_medium(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. })
    }

    /// The part of a read or write that starts `done` sectors after its start and is `sectors` long;
    /// of another command, the command.
    #[must_use]
    pub fn piece(&self, done: u32, sectors: u32) -> Self {
        match *self {
            Self::Read { lba, access, .. } => {
                Self::Read { lba: lba + u64::from(done), sectors, access }
            }
            Self::Write { lba, access, fua, .. } => {
                Self::Write { lba: lba + u64::from(done), sectors, access, fua }
            }
            other => other,
        }
    }
}

/// COUNT or FEATURES of a 28-bit command (ACS-3, 7.21).
fn sectors_28(field: u16) -> u32 {
    match field as u8 {
        0 => 256,
        count => count.into(),
    }
}

/// COUNT or FEATURES of a 48-bit command (ACS-3, 7.20).
#[inline]
fn sectors_48(field: u16) -> u32 {
    match field {
        0 => 0x1_0000,
        count => count.into(),
    }
}

/// The address of a 28-bit command, by LBA or by cylinder, head and sector.
fn address_28(tf: &Taskfile, geometry: &Geometry) -> Result<u64, Refused> {
    let low = tf.lba & 0xff_ffff;
    if tf.device & device::LBA != 0 {
        return Ok(low | u64::from(tf.device & 0x0f) << 24);
    }
    let (cylinder, head, sector) = ((low >> 8) as u16, tf.device & 0x0f, low as u8);
    geometry.lba(cylinder, head, sector).ok_or(Refused(error::IDNF))
}

fn multiple(cx: &Context) -> Result<Access, Refused> {
    if cx.multiple == 0 { Err(ABORTED) } else { Ok(Access::Pio(cx.multiple)) }
}

fn parse_disk(tf: &Taskfile, cx: &Context) -> Result<Command, Refused> {
    let read_28 = |access| {
        let (lba, sectors) = (address_28(tf, &cx.geometry)?, sectors_28(tf.count));
        Ok(Command::Read { lba, sectors, access })
    };
    let read_48 = |access| Ok(Command::Read { lba: tf.lba, sectors: sectors_48(tf.count), access });
    let write_28 = |access| {
        let (lba, sectors) = (address_28(tf, &cx.geometry)?, sectors_28(tf.count));
        Ok(Command::Write { lba, sectors, access, fua: false })
    };
    let write_48 = |access, fua| {
        Ok(Command::Write { lba: tf.lba, sectors: sectors_48(tf.count), access, fua })
    };
    match tf.command {
        op::READ_DMA | op::READ_DMA_ONCE => read_28(Access::Dma),
        op::READ_DMA_EXT => read_48(Access::Dma),
        op::READ_SECTORS | op::READ_SECTORS_ONCE => read_28(Access::Pio(1)),
        op::READ_SECTORS_EXT => read_48(Access::Pio(1)),
        op::READ_MULTIPLE => read_28(multiple(cx)?),
        op::READ_MULTIPLE_EXT => read_48(multiple(cx)?),
        op::WRITE_DMA | op::WRITE_DMA_ONCE => write_28(Access::Dma),
        op::WRITE_DMA_EXT => write_48(Access::Dma, false),
        op::WRITE_DMA_FUA_EXT => write_48(Access::Dma, true),
        op::WRITE_SECTORS | op::WRITE_SECTORS_ONCE => write_28(Access::Pio(1)),
        op::WRITE_SECTORS_EXT => write_48(Access::Pio(1), false),
        op::WRITE_MULTIPLE => write_28(multiple(cx)?),
        op::WRITE_MULTIPLE_EXT => write_48(multiple(cx)?, false),
        op::WRITE_MULTIPLE_FUA_EXT => write_48(multiple(cx)?, true),
        op::READ_VERIFY | op::READ_VERIFY_ONCE => Ok(Command::Verify {
            lba: address_28(tf, &cx.geometry)?,
            sectors: sectors_28(tf.count),
        }),
        op::READ_VERIFY_EXT => Ok(Command::Verify { lba: tf.lba, sectors: sectors_48(tf.count) }),
        op::FLUSH_CACHE | op::FLUSH_CACHE_EXT => Ok(Command::Flush),
        op::DATA_SET_MANAGEMENT if tf.features as u8 == TRIM => trim(tf.count, Access::Dma),
        op::SEND_FPDMA_QUEUED if cx.queued => {
            let subcommand = (tf.count >> 8) as u8 & 0x1f;
            if subcommand != send::DATA_SET_MANAGEMENT || tf.auxiliary & u32::from(TRIM) == 0 {
                return Err(ABORTED);
            }
            trim(tf.features, Access::Queued)
        }
        op::SEEK => Ok(Command::Seek { lba: address_28(tf, &cx.geometry)? }),
        recalibrate if recalibrate & 0xf0 == op::RECALIBRATE => Ok(Command::Recalibrate),
        op::INITIALIZE_DEVICE_PARAMETERS => Ok(Command::InitializeParameters {
            heads: (tf.device & 0x0f) + 1,
            sectors: tf.count as u8,
        }),
        op::SET_MULTIPLE_MODE => Ok(Command::SetMultiple { sectors: tf.count as u8 }),
        op::READ_BUFFER => Ok(Command::ReadBuffer { access: Access::Pio(1) }),
        op::READ_BUFFER_DMA => Ok(Command::ReadBuffer { access: Access::Dma }),
        op::WRITE_BUFFER => Ok(Command::WriteBuffer { access: Access::Pio(1) }),
        op::WRITE_BUFFER_DMA => Ok(Command::WriteBuffer { access: Access::Dma }),
        op::IDENTIFY_DEVICE => Ok(Command::Identify),
        op::READ_LOG_EXT => read_log(tf, Access::Pio(1)),
        op::READ_LOG_DMA_EXT => read_log(tf, Access::Dma),
        op::WRITE_LOG_EXT => write_log(tf, Access::Pio(1)),
        op::WRITE_LOG_DMA_EXT => write_log(tf, Access::Dma),
        _ => match Rare::parse(tf) {
            Some(rare) => rare.map(Command::Rare),
            None => parse_both(tf),
        },
    }
}

fn trim(blocks: u16, access: Access) -> Result<Command, Refused> {
    if (1..=TRIM_BLOCKS_MAX).contains(&blocks) {
        Ok(Command::Trim { blocks, access })
    } else {
        Err(ABORTED)
    }
}

/// Pages of a log that fit one command's buffer: no log is longer.
const LOG_PAGES_MAX: u16 = 256;

fn read_log(tf: &Taskfile, access: Access) -> Result<Command, Refused> {
    let (address, page, pages) = (tf.log_address(), tf.log_page(), tf.count);
    if !(1..=LOG_PAGES_MAX).contains(&pages) {
        return Err(ABORTED);
    }
    Ok(Command::ReadLog { address, page, pages, access })
}

fn write_log(tf: &Taskfile, access: Access) -> Result<Command, Refused> {
    let (address, page, pages) = (tf.log_address(), tf.log_page(), tf.count);
    if !(1..=LOG_PAGES_MAX).contains(&pages) {
        return Err(ABORTED);
    }
    Ok(Command::WriteLog { address, page, pages, access })
}

/// What drives with and without PACKET have in common.
fn parse_both(tf: &Taskfile) -> Result<Command, Refused> {
    match tf.command {
        op::EXECUTE_DEVICE_DIAGNOSTIC => Ok(Command::Diagnostic),
        op::SET_FEATURES => Ok(Command::SetFeatures {
            feature: tf.features as u8,
            count: tf.count as u8,
            lba: tf.lba as u32 & 0xff_ffff,
        }),
        _ => Err(ABORTED),
    }
}

fn parse_packet(tf: &Taskfile) -> Result<Command, Refused> {
    match tf.command {
        op::PACKET => Ok(Command::Packet {
            dma: tf.features as u8 & packet::DMA != 0,
            limit: (tf.lba >> 8) as u16,
        }),
        op::IDENTIFY_PACKET_DEVICE => Ok(Command::IdentifyPacket),
        op::DEVICE_RESET => Ok(Command::DeviceReset),
        _ => match Rare::parse(tf) {
            Some(Ok(rare)) if rare.is_power() => Ok(Command::Rare(rare)),
            _ => parse_both(tf),
        },
    }
}
