//! From a command descriptor block to what is to be done: pure, no memory and no unit in sight.

use super::{
    sense::Sense,
    spec::{CDB_MAX, action, op},
    unit::UnitKind,
};

/// How VERIFY and WRITE AND VERIFY compare (SBC-4, 5.33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteCheck {
    /// The medium is read, nothing is compared.
    Medium,
    /// Every block is compared with its own data.
    Data,
    /// Every block is compared with the one block that is sent.
    OneBlock,
}

/// A command. LBAs and numbers of blocks are in logical blocks, lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specifications' names")]
pub enum Command {
    Read {
        lba: u64,
        blocks: u32,
    },
    Write {
        lba: u64,
        blocks: u32,
        fua: bool,
    },
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    ModeSense {
        ten: bool,
        long_lba: bool,
        no_blocks: bool,
        control: u8,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    ModeSelect {
        ten: bool,
        page_format: bool,
        save: bool,
        revert: bool,
        len: u32,
    },
    LogSelect {
        reset: bool,
        page: u8,
        subpage: u8,
        len: u32,
    },
    LogSense {
        control: u8,
        page: u8,
        subpage: u8,
        pointer: u16,
        allocation: u32,
    },
    ReportOpcodes {
        timeouts: bool,
        options: u8,
        opcode: u8,
        action: u16,
        allocation: u32,
    },
    ReportTmfs {
        extended: bool,
        allocation: u32,
    },
    Synchronize {
        lba: u64,
        blocks: u32,
    },
    Unmap {
        len: u32,
    },
    WriteSame {
        lba: u64,
        blocks: u32,
        unmap: bool,
        no_data: bool,
    },
    Verify {
        lba: u64,
        blocks: u32,
        check: ByteCheck,
    },
    WriteAndVerify {
        lba: u64,
        blocks: u32,
        check: ByteCheck,
    },
    CompareAndWrite {
        lba: u64,
        blocks: u8,
        fua: bool,
    },
    StartStop {
        condition: u8,
        load_eject: bool,
        start: bool,
        no_flush: bool,
    },
    PreventAllow {
        prevent: bool,
    },
    FormatUnit {
        long: bool,
        data: bool,
    },
    Sanitize {
        action: u8,
        immediate: bool,
        exit: bool,
        len: u32,
    },
    ReserveIn {
        action: u8,
        allocation: u32,
    },
    ReserveOut {
        action: u8,
        scope: u8,
        kind: u8,
        len: u32,
    },
    ReadToc {
        msf: bool,
        format: u8,
        track: u8,
        allocation: u32,
    },
    GetConfiguration {
        kind: u8,
        first: u16,
        allocation: u32,
    },
    GetEventStatus {
        classes: u8,
        allocation: u32,
    },
    ReadDiscInformation {
        kind: u8,
        allocation: u32,
    },
    ReadTrackInformation {
        address_kind: u8,
        address: u32,
        allocation: u32,
    },
    ReadDiscStructure {
        media: u8,
        layer: u8,
        format: u8,
        allocation: u32,
    },
    MechanismStatus {
        allocation: u32,
    },
    ReadCd {
        lba: u64,
        blocks: u32,
        sector_type: u8,
        flags: u8,
    },
}

/// The data that a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    None,
    /// So many bytes to the initiator, at most.
    In(u64),
    /// So many bytes from the initiator.
    Out(u64),
}

/// The bytes of a CDB; those beyond its length are zero.
pub type Cdb = [u8; CDB_MAX];

fn be16(cdb: &Cdb, at: usize) -> u16 {
    u16::from_be_bytes([cdb[at], cdb[at + 1]])
}

fn be32(cdb: &Cdb, at: usize) -> u32 {
    u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]])
}

fn be64(cdb: &Cdb, at: usize) -> u64 {
    u64::from(be32(cdb, at)) << 32 | u64::from(be32(cdb, at + 4))
}

/// LBA and number of blocks of the 6, 10, 12 and 16-byte forms.
#[derive(Clone, Copy)]
enum Form {
    Six,
    Ten,
    Twelve,
    Sixteen,
}

impl Form {
    #[inline]
    fn place(self, cdb: &Cdb) -> (u64, u32) {
        match self {
            Self::Six => {
                let lba = be32(cdb, 0) & 0x1f_ffff;
                // Zero is 256 here, and only here.
                (lba.into(), if cdb[4] == 0 { 256 } else { cdb[4].into() })
            }
            Self::Ten => (be32(cdb, 2).into(), be16(cdb, 7).into()),
            Self::Twelve => (be32(cdb, 2).into(), be32(cdb, 6)),
            Self::Sixteen => (be64(cdb, 2), be32(cdb, 10)),
        }
    }

    fn of(opcode: u8) -> Self {
        match opcode >> 5 {
            0 => Self::Six,
            4 => Self::Sixteen,
            5 => Self::Twelve,
            _ => Self::Ten,
        }
    }

    /// Where the CONTROL byte is.
    fn control(self) -> usize {
        match self {
            Self::Six => 5,
            Self::Ten => 9,
            Self::Twelve => 11,
            Self::Sixteen => 15,
        }
    }
}

/// Whether bit `bit` of byte `at` is set.
fn bit(cdb: &Cdb, at: usize, bit: u8) -> bool {
    cdb[at] >> bit & 1 != 0
}

const FIELD_PROTECT: Sense = Sense::cdb_field(1, Some(7));

/// What `cdb` asks a unit of this kind for.
///
/// # Errors
/// INVALID COMMAND OPERATION CODE or INVALID FIELD IN CDB.
#[inline]
pub fn parse(cdb: &Cdb, kind: UnitKind) -> Result<Command, Sense> {
    let opcode = cdb[0];
    let form = Form::of(opcode);
    // NACA asks for auto contingent allegiance, which is not supported (SAM-5, 5.2).
    if bit(cdb, form.control(), 2) {
        return Err(Sense::cdb_field(form.control() as u16, Some(2)));
    }
    match opcode {
        op::READ_10 | op::READ_12 | op::READ_16 | op::READ_6
            if kind == UnitKind::Disk || matches!(opcode, op::READ_10 | op::READ_12) =>
        {
            let (lba, blocks) = form.place(cdb);
            // The 6-byte form has LBA bits where the others have RDPROTECT.
            if cdb[1] & 0xe0 != 0 {
                return Err(FIELD_PROTECT);
            }
            Ok(Command::Read { lba, blocks })
        }
        op::WRITE_10 | op::WRITE_16 | op::WRITE_12 | op::WRITE_6 if kind == UnitKind::Disk => {
            let (lba, blocks) = form.place(cdb);
            if cdb[1] & 0xe0 != 0 {
                return Err(FIELD_PROTECT);
            }
            let fua = opcode != op::WRITE_6 && bit(cdb, 1, 3);
            Ok(Command::Write { lba, blocks, fua })
        }
        _ => parse_rare(cdb, kind, form),
    }
}

fn parse_rare(cdb: &Cdb, kind: UnitKind, form: Form) -> Result<Command, Sense> {
    match cdb[0] {
        op::TEST_UNIT_READY => Ok(Command::TestUnitReady),
        op::REQUEST_SENSE => {
            Ok(Command::RequestSense { descriptor: bit(cdb, 1, 0), allocation: cdb[4].into() })
        }
        op::INQUIRY => inquiry(cdb),
        op::REPORT_LUNS => {
            let allocation = be32(cdb, 6);
            if allocation < 16 {
                return Err(Sense::cdb_field(6, None));
            }
            Ok(Command::ReportLuns { select: cdb[2], allocation })
        }
        op::READ_CAPACITY_10 => read_capacity_10(cdb),
        op::MODE_SENSE_6 | op::MODE_SENSE_10 => {
            let ten = cdb[0] == op::MODE_SENSE_10;
            let allocation = if ten { be16(cdb, 7).into() } else { cdb[4].into() };
            Ok(Command::ModeSense {
                ten,
                long_lba: ten && bit(cdb, 1, 4),
                no_blocks: bit(cdb, 1, 3),
                control: cdb[2] >> 6,
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                allocation,
            })
        }
        op::MODE_SELECT_6 | op::MODE_SELECT_10 => {
            let ten = cdb[0] == op::MODE_SELECT_10;
            let len = if ten { be16(cdb, 7).into() } else { cdb[4].into() };
            let (page_format, save) = (bit(cdb, 1, 4), bit(cdb, 1, 0));
            Ok(Command::ModeSelect { ten, page_format, save, revert: bit(cdb, 1, 1), len })
        }
        op::LOG_SELECT if kind == UnitKind::Disk => {
            // SP: nothing can be saved.
            if bit(cdb, 1, 0) {
                return Err(Sense::cdb_field(1, Some(0)));
            }
            Ok(Command::LogSelect {
                reset: bit(cdb, 1, 1),
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                len: be16(cdb, 7).into(),
            })
        }
        op::LOG_SENSE if kind == UnitKind::Disk => {
            // PPC is obsolete; nothing can be saved.
            if cdb[1] & 0x03 != 0 {
                return Err(Sense::cdb_field(1, Some(if bit(cdb, 1, 1) { 1 } else { 0 })));
            }
            Ok(Command::LogSense {
                control: cdb[2] >> 6,
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                pointer: be16(cdb, 5),
                allocation: be16(cdb, 7).into(),
            })
        }
        op::START_STOP_UNIT => {
            let condition = cdb[4] >> 4;
            Ok(Command::StartStop {
                condition,
                load_eject: bit(cdb, 4, 1),
                start: bit(cdb, 4, 0),
                no_flush: bit(cdb, 4, 2),
            })
        }
        op::PREVENT_ALLOW_MEDIUM_REMOVAL => Ok(Command::PreventAllow { prevent: bit(cdb, 4, 0) }),
        op::SYNCHRONIZE_CACHE_10 => {
            let (lba, blocks) = form.place(cdb);
            Ok(Command::Synchronize { lba, blocks })
        }
        op::PERSISTENT_RESERVE_IN if kind == UnitKind::Disk => {
            Ok(Command::ReserveIn { action: cdb[1] & 0x1f, allocation: be16(cdb, 7).into() })
        }
        op::PERSISTENT_RESERVE_OUT if kind == UnitKind::Disk => Ok(Command::ReserveOut {
            action: cdb[1] & 0x1f,
            scope: cdb[2] >> 4,
            kind: cdb[2] & 0xf,
            len: be32(cdb, 5),
        }),
        op::MAINTENANCE_IN => maintenance_in(cdb),
        _ => match kind {
            UnitKind::Disk => disk(cdb, form),
            UnitKind::Cd => cd(cdb),
        },
    }
}

fn inquiry(cdb: &Cdb) -> Result<Command, Sense> {
    let vital = bit(cdb, 1, 0);
    // CMDDT is obsolete; a page without EVPD makes no sense (SPC-5, 6.7.1).
    if bit(cdb, 1, 1) {
        return Err(Sense::cdb_field(1, Some(1)));
    }
    if !vital && cdb[2] != 0 {
        return Err(Sense::cdb_field(2, None));
    }
    Ok(Command::Inquiry { page: vital.then_some(cdb[2]), allocation: be16(cdb, 3).into() })
}

fn read_capacity_10(cdb: &Cdb) -> Result<Command, Sense> {
    // PMI is obsolete, and so is an LBA without it.
    if bit(cdb, 8, 0) {
        return Err(Sense::cdb_field(8, Some(0)));
    }
    if be32(cdb, 2) != 0 {
        return Err(Sense::cdb_field(2, None));
    }
    Ok(Command::ReadCapacity10)
}

fn maintenance_in(cdb: &Cdb) -> Result<Command, Sense> {
    let allocation = be32(cdb, 6);
    match cdb[1] & 0x1f {
        action::REPORT_OPCODES => Ok(Command::ReportOpcodes {
            timeouts: bit(cdb, 2, 7),
            options: cdb[2] & 7,
            opcode: cdb[3],
            action: be16(cdb, 4),
            allocation,
        }),
        action::REPORT_TMFS => Ok(Command::ReportTmfs { extended: bit(cdb, 2, 7), allocation }),
        _ => Err(Sense::cdb_field(1, Some(4))),
    }
}

fn disk(cdb: &Cdb, form: Form) -> Result<Command, Sense> {
    let (lba, blocks) = form.place(cdb);
    let protect = cdb[1] & 0xe0 != 0;
    match cdb[0] {
        op::SYNCHRONIZE_CACHE_16 => Ok(Command::Synchronize { lba, blocks }),
        op::UNMAP if bit(cdb, 1, 0) => Err(Sense::cdb_field(1, Some(0))),
        op::UNMAP => Ok(Command::Unmap { len: be16(cdb, 7).into() }),
        op::WRITE_SAME_10 | op::WRITE_SAME_16 if protect => Err(FIELD_PROTECT),
        // Nothing can be anchored.
        op::WRITE_SAME_10 | op::WRITE_SAME_16 if bit(cdb, 1, 4) => {
            Err(Sense::cdb_field(1, Some(4)))
        }
        op::WRITE_SAME_10 | op::WRITE_SAME_16 => {
            let unmap = bit(cdb, 1, 3);
            let no_data = cdb[0] == op::WRITE_SAME_16 && bit(cdb, 1, 0);
            Ok(Command::WriteSame { lba, blocks, unmap, no_data })
        }
        op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => {
            let check = byte_check(cdb)?;
            Ok(Command::Verify { lba, blocks, check })
        }
        op::WRITE_AND_VERIFY_10 | op::WRITE_AND_VERIFY_12 | op::WRITE_AND_VERIFY_16 => {
            let check = byte_check(cdb)?;
            if check == ByteCheck::OneBlock {
                return Err(Sense::cdb_field(1, Some(2)));
            }
            Ok(Command::WriteAndVerify { lba, blocks, check })
        }
        op::COMPARE_AND_WRITE if protect => Err(FIELD_PROTECT),
        op::COMPARE_AND_WRITE => {
            Ok(Command::CompareAndWrite { lba, blocks: cdb[13], fua: bit(cdb, 1, 3) })
        }
        op::FORMAT_UNIT => {
            // No protection information (FMTPINFO), no defect list formats.
            if cdb[1] >> 6 != 0 {
                return Err(Sense::cdb_field(1, Some(7)));
            }
            if cdb[1] & 7 != 0 {
                return Err(Sense::cdb_field(1, Some(2)));
            }
            Ok(Command::FormatUnit { long: bit(cdb, 1, 5), data: bit(cdb, 1, 4) })
        }
        op::SANITIZE => {
            // ZNR is for zoned devices.
            if bit(cdb, 1, 6) {
                return Err(Sense::cdb_field(1, Some(6)));
            }
            if let Some(byte) = (2..7).find(|byte| cdb[*byte] != 0) {
                return Err(Sense::cdb_field(byte as u16, None));
            }
            Ok(Command::Sanitize {
                action: cdb[1] & 0x1f,
                immediate: bit(cdb, 1, 7),
                exit: bit(cdb, 1, 5),
                len: be16(cdb, 7).into(),
            })
        }
        op::SERVICE_ACTION_IN_16 => match cdb[1] & 0x1f {
            action::READ_CAPACITY_16 if lba != 0 => Err(Sense::cdb_field(2, None)),
            action::READ_CAPACITY_16 if bit(cdb, 14, 0) => Err(Sense::cdb_field(14, Some(0))),
            action::READ_CAPACITY_16 => Ok(Command::ReadCapacity16 { allocation: blocks }),
            action::GET_LBA_STATUS => Ok(Command::GetLbaStatus { lba, allocation: blocks }),
            _ => Err(Sense::cdb_field(1, Some(4))),
        },
        _ => Err(Sense::invalid_opcode()),
    }
}

fn byte_check(cdb: &Cdb) -> Result<ByteCheck, Sense> {
    if cdb[1] & 0xe0 != 0 {
        return Err(FIELD_PROTECT);
    }
    match cdb[1] >> 1 & 3 {
        0 => Ok(ByteCheck::Medium),
        1 => Ok(ByteCheck::Data),
        3 => Ok(ByteCheck::OneBlock),
        _ => Err(Sense::cdb_field(1, Some(2))),
    }
}

fn cd(cdb: &Cdb) -> Result<Command, Sense> {
    let allocation = be16(cdb, 7).into();
    match cdb[0] {
        op::READ_TOC => Ok(Command::ReadToc {
            msf: bit(cdb, 1, 1),
            // Old initiators put the format into the control byte (SFF-8020i).
            format: if cdb[2] & 0xf == 0 { cdb[9] >> 6 } else { cdb[2] & 0xf },
            track: cdb[6],
            allocation,
        }),
        op::GET_CONFIGURATION if cdb[1] & 3 == 3 => Err(Sense::cdb_field(1, Some(1))),
        op::GET_CONFIGURATION => {
            Ok(Command::GetConfiguration { kind: cdb[1] & 3, first: be16(cdb, 2), allocation })
        }
        // Asynchronous operation is not supported (MMC-6, 6.6.1.1).
        op::GET_EVENT_STATUS_NOTIFICATION if !bit(cdb, 1, 0) => Err(Sense::cdb_field(1, Some(0))),
        op::GET_EVENT_STATUS_NOTIFICATION => {
            Ok(Command::GetEventStatus { classes: cdb[4], allocation })
        }
        op::READ_DISC_INFORMATION => {
            Ok(Command::ReadDiscInformation { kind: cdb[1] & 7, allocation })
        }
        op::READ_TRACK_INFORMATION => Ok(Command::ReadTrackInformation {
            address_kind: cdb[1] & 3,
            address: be32(cdb, 2),
            allocation,
        }),
        op::READ_DISC_STRUCTURE => Ok(Command::ReadDiscStructure {
            media: cdb[1] & 0xf,
            layer: cdb[6],
            format: cdb[7],
            allocation: be16(cdb, 8).into(),
        }),
        op::MECHANISM_STATUS => Ok(Command::MechanismStatus { allocation: be16(cdb, 8).into() }),
        op::READ_CD => Ok(Command::ReadCd {
            lba: be32(cdb, 2).into(),
            blocks: be32(cdb, 5) & 0xff_ffff,
            sector_type: cdb[1] >> 2 & 7,
            // Which parts of a sector, with the sub-channel selection above them.
            flags: if cdb[10] & 7 == 0 { cdb[9] & 0xfe } else { 0xff },
        }),
        _ => Err(Sense::invalid_opcode()),
    }
}

impl Command {
    /// The data that the command moves, over blocks of `block` bytes.
    #[inline]
    #[must_use]
    pub fn transfer(&self, block: u32) -> Transfer {
        let bytes = |blocks: u32| u64::from(blocks) * u64::from(block);
        let checked = |blocks, check| match check {
            ByteCheck::OneBlock | ByteCheck::Medium if blocks == 0 => 0,
            ByteCheck::Medium => 0,
            ByteCheck::Data => bytes(blocks),
            ByteCheck::OneBlock => bytes(1),
        };
        let out = |len| if len == 0 { Transfer::None } else { Transfer::Out(len) };
        let reply = |len: u32| if len == 0 { Transfer::None } else { Transfer::In(len.into()) };
        match *self {
            Self::Read { blocks, .. } if blocks > 0 => Transfer::In(bytes(blocks)),
            Self::ReadCd { blocks, flags, .. } if blocks > 0 && flags == 0x10 => {
                Transfer::In(bytes(blocks))
            }
            Self::Write { blocks, .. } | Self::WriteAndVerify { blocks, .. } => out(bytes(blocks)),
            Self::Verify { blocks, check, .. } => out(checked(blocks, check)),
            Self::CompareAndWrite { blocks, .. } => out(2 * bytes(blocks.into())),
            Self::WriteSame { no_data, .. } => out(if no_data { 0 } else { bytes(1) }),
            Self::Unmap { len }
            | Self::ModeSelect { len, .. }
            | Self::LogSelect { len, .. }
            | Self::Sanitize { len, .. }
            | Self::ReserveOut { len, .. } => out(len.into()),
            Self::FormatUnit { long, data } => out(if data { if long { 8 } else { 4 } } else { 0 }),
            Self::ReadCapacity10 => Transfer::In(8),
            Self::RequestSense { allocation, .. }
            | Self::Inquiry { allocation, .. }
            | Self::ReportLuns { allocation, .. }
            | Self::ReadCapacity16 { allocation }
            | Self::GetLbaStatus { allocation, .. }
            | Self::ModeSense { allocation, .. }
            | Self::LogSense { allocation, .. }
            | Self::ReportOpcodes { allocation, .. }
            | Self::ReportTmfs { allocation, .. }
            | Self::ReserveIn { allocation, .. }
            | Self::ReadToc { allocation, .. }
            | Self::GetConfiguration { allocation, .. }
            | Self::GetEventStatus { allocation, .. }
            | Self::ReadDiscInformation { allocation, .. }
            | Self::ReadTrackInformation { allocation, .. }
            | Self::ReadDiscStructure { allocation, .. }
            | Self::MechanismStatus { allocation } => reply(allocation),
            Self::Read { .. }
            | Self::ReadCd { .. }
            | Self::TestUnitReady
            | Self::Synchronize { .. }
            | Self::StartStop { .. }
            | Self::PreventAllow { .. } => Transfer::None,
        }
    }
}
