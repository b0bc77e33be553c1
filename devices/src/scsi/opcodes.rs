//! The commands there are, as REPORT SUPPORTED OPERATION CODES tells them (SPC-5, 6.35).

use super::{
    sense::Sense,
    spec::{action, op},
    unit::UnitKind,
};

/// Who knows a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    All,
    Disk,
    Cd,
}

/// One command: the operation code, the service action if there is one, and which bits of the CDB
/// are looked at (CDB usage data).
#[derive(Clone, Copy, Debug)]
struct Supported {
    action: Option<u16>,
    who: Who,
    usage: &'static [u8],
}

const fn plain(who: Who, usage: &'static [u8]) -> Supported {
    Supported { action: None, who, usage }
}

const fn with_action(who: Who, action: u8, usage: &'static [u8]) -> Supported {
    Supported { action: Some(action as u16), who, usage }
}

const NACA: u8 = 0x04;
const FF: u8 = 0xff;

/// 10-byte CDBs with LBA and length.
const fn ten(opcode: u8, flags: u8) -> [u8; 10] {
    [opcode, flags, FF, FF, FF, FF, 0, FF, FF, NACA]
}

const fn twelve(opcode: u8, flags: u8) -> [u8; 12] {
    [opcode, flags, FF, FF, FF, FF, FF, FF, FF, FF, 0, NACA]
}

const fn sixteen(opcode: u8, flags: u8) -> [u8; 16] {
    [opcode, flags, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, NACA]
}

/// CDBs with nothing but an allocation or parameter list length in bytes 7 and 8.
const fn length_only(opcode: u8, flags: u8) -> [u8; 10] {
    [opcode, flags, 0, 0, 0, 0, 0, FF, FF, NACA]
}

/// FUA and DPO, or the check of VERIFY.
const ACCESS: u8 = 0xf8;
const CHECK: u8 = 0xf6;

/// Every command, in the order of operation codes.
const SUPPORTED: &[Supported] = &[
    plain(Who::All, &[op::TEST_UNIT_READY, 0, 0, 0, 0, NACA]),
    plain(Who::All, &[op::REQUEST_SENSE, 0x01, 0, 0, FF, NACA]),
    plain(Who::Disk, &[op::FORMAT_UNIT, 0xff, 0, 0, 0, NACA]),
    plain(Who::Disk, &[op::READ_6, 0xff, FF, FF, FF, NACA]),
    plain(Who::Disk, &[op::WRITE_6, 0xff, FF, FF, FF, NACA]),
    plain(Who::All, &[op::INQUIRY, 0x03, FF, FF, FF, NACA]),
    plain(Who::All, &[op::MODE_SELECT_6, 0x13, 0, 0, FF, NACA]),
    plain(Who::All, &[op::MODE_SENSE_6, 0x08, FF, FF, FF, NACA]),
    plain(Who::All, &[op::START_STOP_UNIT, 0x01, 0, 0x0f, 0xf7, NACA]),
    plain(Who::All, &[op::PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 0x03, NACA]),
    plain(Who::All, &[op::READ_CAPACITY_10, 0, FF, FF, FF, FF, 0, 0, 0x01, NACA]),
    plain(Who::All, &ten(op::READ_10, ACCESS)),
    plain(Who::Disk, &ten(op::WRITE_10, ACCESS)),
    plain(Who::Disk, &ten(op::WRITE_AND_VERIFY_10, CHECK)),
    plain(Who::Disk, &ten(op::VERIFY_10, CHECK)),
    plain(Who::All, &ten(op::SYNCHRONIZE_CACHE_10, 0x02)),
    plain(Who::Disk, &ten(op::WRITE_SAME_10, 0xf8)),
    plain(Who::Disk, &length_only(op::UNMAP, 0x01)),
    plain(Who::Cd, &[op::READ_TOC, 0x02, 0x0f, 0, 0, 0, FF, FF, FF, 0xc4]),
    plain(Who::Cd, &[op::GET_CONFIGURATION, 0x03, FF, FF, 0, 0, 0, FF, FF, NACA]),
    with_action(Who::Disk, 0x01, &length_only(op::SANITIZE, 0xff)),
    with_action(Who::Disk, 0x02, &length_only(op::SANITIZE, 0xff)),
    with_action(Who::Disk, 0x1f, &length_only(op::SANITIZE, 0xff)),
    plain(Who::Cd, &[op::GET_EVENT_STATUS_NOTIFICATION, 0x01, 0, 0, FF, 0, 0, FF, FF, NACA]),
    plain(Who::Disk, &[op::LOG_SELECT, 0x03, FF, FF, 0, 0, 0, FF, FF, NACA]),
    plain(Who::Disk, &[op::LOG_SENSE, 0x03, FF, FF, 0, FF, FF, FF, FF, NACA]),
    plain(Who::Cd, &length_only(op::READ_DISC_INFORMATION, 0x07)),
    plain(Who::Cd, &ten(op::READ_TRACK_INFORMATION, 0x03)),
    plain(Who::All, &length_only(op::MODE_SELECT_10, 0x13)),
    plain(Who::All, &[op::MODE_SENSE_10, 0x18, FF, FF, 0, 0, 0, FF, FF, NACA]),
    with_action(Who::Disk, 0x00, &length_only(op::PERSISTENT_RESERVE_IN, 0x1f)),
    with_action(Who::Disk, 0x01, &length_only(op::PERSISTENT_RESERVE_IN, 0x1f)),
    with_action(Who::Disk, 0x02, &length_only(op::PERSISTENT_RESERVE_IN, 0x1f)),
    with_action(Who::Disk, 0x03, &length_only(op::PERSISTENT_RESERVE_IN, 0x1f)),
    with_action(Who::Disk, 0x00, &RESERVE_OUT),
    with_action(Who::Disk, 0x01, &RESERVE_OUT),
    with_action(Who::Disk, 0x02, &RESERVE_OUT),
    with_action(Who::Disk, 0x03, &RESERVE_OUT),
    with_action(Who::Disk, 0x04, &RESERVE_OUT),
    with_action(Who::Disk, 0x05, &RESERVE_OUT),
    with_action(Who::Disk, 0x06, &RESERVE_OUT),
    with_action(Who::Disk, 0x07, &RESERVE_OUT),
    plain(Who::Disk, &sixteen(op::READ_16, ACCESS)),
    plain(
        Who::Disk,
        &[op::COMPARE_AND_WRITE, ACCESS, FF, FF, FF, FF, FF, FF, FF, FF, 0, 0, 0, FF, 0, NACA],
    ),
    plain(Who::Disk, &sixteen(op::WRITE_16, ACCESS)),
    plain(Who::Disk, &sixteen(op::WRITE_AND_VERIFY_16, CHECK)),
    plain(Who::Disk, &sixteen(op::VERIFY_16, CHECK)),
    plain(Who::Disk, &sixteen(op::SYNCHRONIZE_CACHE_16, 0x02)),
    plain(Who::Disk, &sixteen(op::WRITE_SAME_16, 0xf9)),
    with_action(Who::Disk, action::READ_CAPACITY_16, &sixteen(op::SERVICE_ACTION_IN_16, 0x1f)),
    with_action(Who::Disk, action::GET_LBA_STATUS, &sixteen(op::SERVICE_ACTION_IN_16, 0x1f)),
    plain(Who::All, &[op::REPORT_LUNS, 0, FF, 0, 0, 0, FF, FF, FF, FF, 0, NACA]),
    with_action(
        Who::All,
        action::REPORT_OPCODES,
        &[op::MAINTENANCE_IN, 0x1f, 0x87, FF, FF, FF, FF, FF, FF, FF, 0, NACA],
    ),
    with_action(
        Who::All,
        action::REPORT_TMFS,
        &[op::MAINTENANCE_IN, 0x1f, 0x80, 0, 0, 0, FF, FF, FF, FF, 0, NACA],
    ),
    plain(Who::All, &twelve(op::READ_12, ACCESS)),
    plain(Who::Disk, &twelve(op::WRITE_12, ACCESS)),
    plain(Who::Cd, &[op::READ_DISC_STRUCTURE, 0x0f, FF, FF, FF, FF, FF, FF, FF, FF, 0, NACA]),
    plain(Who::Disk, &twelve(op::WRITE_AND_VERIFY_12, CHECK)),
    plain(Who::Disk, &twelve(op::VERIFY_12, CHECK)),
    plain(Who::Cd, &[op::MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, FF, FF, 0, NACA]),
    plain(Who::Cd, &[op::READ_CD, 0x1c, FF, FF, FF, FF, FF, FF, FF, 0xfe, 0x07, NACA]),
];

const RESERVE_OUT: [u8; 10] = [op::PERSISTENT_RESERVE_OUT, 0x1f, FF, 0, 0, FF, FF, FF, FF, NACA];

/// The timeouts descriptor: nothing is said about how long a command takes (SPC-5, 6.35.4).
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORTING OPTIONS (SPC-5, 6.35.1).
mod options {
    pub const ALL: u8 = 0;
    pub const ONE: u8 = 1;
    pub const ONE_WITH_ACTION: u8 = 2;
    pub const ONE_OR_WITH_ACTION: u8 = 3;
}

fn of(kind: UnitKind) -> impl Iterator<Item = &'static Supported> {
    SUPPORTED.iter().filter(move |command| match command.who {
        Who::All => true,
        Who::Disk => kind == UnitKind::Disk,
        Who::Cd => kind == UnitKind::Cd,
    })
}

/// The answer to REPORT SUPPORTED OPERATION CODES.
pub(super) fn report(
    kind: UnitKind,
    timeouts: bool,
    options: u8,
    opcode: u8,
    action: u16,
) -> Result<Vec<u8>, Sense> {
    let mut same = of(kind).filter(|command| command.usage[0] == opcode).peekable();
    let has_actions = same.peek().is_some_and(|command| command.action.is_some());
    let known = same.peek().is_some();
    let found = match options {
        options::ALL => return Ok(report_all(kind, timeouts)),
        options::ONE if has_actions => return Err(Sense::cdb_field(2, Some(2))),
        options::ONE => same.next(),
        options::ONE_WITH_ACTION if known && !has_actions => {
            return Err(Sense::cdb_field(2, Some(2)));
        }
        options::ONE_WITH_ACTION => same.find(|command| command.action == Some(action)),
        options::ONE_OR_WITH_ACTION => same.find(|command| command.action.unwrap_or(0) == action),
        _ => return Err(Sense::cdb_field(2, Some(2))),
    };
    // CTDP; SUPPORT: 001b not supported, 011b as the standard says.
    let flags = u8::from(timeouts) << 7;
    let Some(command) = found else { return Ok(vec![0, flags & !0x80 | 0x01, 0, 0]) };
    let mut data = vec![0, flags | 0x03];
    data.extend((command.usage.len() as u16).to_be_bytes());
    data.extend(command.usage);
    if timeouts {
        data.extend(TIMEOUTS);
    }
    Ok(data)
}

fn report_all(kind: UnitKind, timeouts: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for command in of(kind) {
        let flags = u8::from(timeouts) << 1 | u8::from(command.action.is_some());
        list.extend([command.usage[0], 0]);
        list.extend(command.action.unwrap_or(0).to_be_bytes());
        list.extend([0, flags]);
        list.extend((command.usage.len() as u16).to_be_bytes());
        if timeouts {
            list.extend(TIMEOUTS);
        }
    }
    let mut data = (list.len() as u32).to_be_bytes().to_vec();
    data.extend(list);
    data
}

/// The answer to REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-5, 6.36): ABORT TASK, ABORT TASK
/// SET, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK; QUERY TASK SET, I_T NEXUS RESET.
pub(super) fn report_tmfs(extended: bool) -> Vec<u8> {
    let mut data = vec![0x80 | 0x40 | 0x10 | 0x08 | 0x01, 0x02 | 0x01, 0, 0];
    if extended {
        // No timeouts are said.
        data[3] = 12;
        data.resize(16, 0);
    }
    data
}

/// Operation code, service action and kind of every command, for tests.
#[cfg(test)]
pub(super) fn all(kind: UnitKind) -> Vec<(u8, Option<u16>)> {
    of(kind).map(|command| (command.usage[0], command.action)).collect()
}
