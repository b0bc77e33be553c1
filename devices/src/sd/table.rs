//! Which commands there are, and where they are legal (SD 4.7.4 and table 4-35; eMMC 6.10.4).

use super::spec::State;

/// What a command does, whatever its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    GoIdle,
    SendOpCond,
    AllSendCid,
    RelativeAddress,
    SetDsr,
    SleepAwake,
    Switch,
    Select,
    SendIfCond,
    SendExtCsd,
    SendCsd,
    SendCid,
    VoltageSwitch,
    StopTransmission,
    SendStatus,
    BusTestRead,
    GoInactive,
    SetBlockLen,
    ReadSingle,
    ReadMultiple,
    BusTestWrite,
    Tuning,
    SpeedClass,
    SetBlockCount,
    WriteSingle,
    WriteMultiple,
    ProgramCid,
    ProgramCsd,
    SetWriteProtect,
    ClearWriteProtect,
    SendWriteProtect,
    SendWriteProtectType,
    EraseStart,
    EraseEnd,
    Erase,
    LockUnlock,
    AppCommand,
    GeneralCommand,
    QueuedTaskParams,
    QueuedTaskAddress,
    ExecuteReadTask,
    ExecuteWriteTask,
    ManageTasks,
    AppBusWidth,
    AppStatus,
    AppWrittenBlocks,
    AppEraseCount,
    AppOpCond,
    AppCardDetect,
    AppScr,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub index: u8,
    pub name: Name,
    /// States in which it is legal, one bit each.
    states: u16,
    /// It names the card it is for.
    pub addressed: bool,
    /// A locked card takes it.
    pub when_locked: bool,
}

impl Row {
    /// Whether it moves or erases data by itself: not legal while commands are queued (eMMC 6.6.39).
    pub fn is_unqueued(&self) -> bool {
        matches!(
            self.name,
            Name::SetBlockCount
                | Name::ReadSingle
                | Name::ReadMultiple
                | Name::WriteSingle
                | Name::WriteMultiple
                | Name::ProgramCid
                | Name::ProgramCsd
                | Name::SetWriteProtect
                | Name::ClearWriteProtect
                | Name::SendWriteProtect
                | Name::SendWriteProtectType
                | Name::EraseStart
                | Name::EraseEnd
                | Name::Erase
                | Name::LockUnlock
                | Name::GeneralCommand
        )
    }

    pub fn is_legal(&self, state: State) -> bool {
        self.states >> state as u8 & 1 != 0
    }
}

const IDLE: u16 = 1 << State::Idle as u8;
const READY: u16 = 1 << State::Ready as u8;
const IDENT: u16 = 1 << State::Ident as u8;
const STBY: u16 = 1 << State::Standby as u8;
const TRAN: u16 = 1 << State::Transfer as u8;
const DATA: u16 = 1 << State::Sending as u8;
const RCV: u16 = 1 << State::Receiving as u8;
const PRG: u16 = 1 << State::Programming as u8;
const DIS: u16 = 1 << State::Disconnect as u8;
const BTST: u16 = 1 << State::BusTest as u8;
const SLP: u16 = 1 << State::Sleep as u8;
const ADDRESSED: u16 = STBY | TRAN | DATA | RCV | PRG | DIS;
const ANY: u16 = 0x7fff;

const fn row(index: u8, name: Name, states: u16) -> Row {
    Row { index, name, states, addressed: false, when_locked: false }
}

/// Of class 0: a locked card takes it.
const fn basic(index: u8, name: Name, states: u16) -> Row {
    Row { when_locked: true, ..row(index, name, states) }
}

/// The same, with an address.
const fn to_one(index: u8, name: Name, states: u16) -> Row {
    Row { addressed: true, ..basic(index, name, states) }
}

/// Commands of both.
const BOTH: &[Row] = &[
    basic(0, Name::GoIdle, ANY),
    basic(2, Name::AllSendCid, READY),
    basic(4, Name::SetDsr, STBY),
    to_one(7, Name::Select, STBY | TRAN | DATA | PRG | DIS),
    to_one(9, Name::SendCsd, STBY),
    to_one(10, Name::SendCid, STBY),
    basic(12, Name::StopTransmission, DATA | RCV),
    to_one(13, Name::SendStatus, ADDRESSED),
    to_one(15, Name::GoInactive, ADDRESSED),
    basic(16, Name::SetBlockLen, TRAN),
    row(17, Name::ReadSingle, TRAN),
    row(18, Name::ReadMultiple, TRAN),
    row(23, Name::SetBlockCount, TRAN),
    row(24, Name::WriteSingle, TRAN),
    row(25, Name::WriteMultiple, TRAN),
    row(27, Name::ProgramCsd, TRAN),
    row(28, Name::SetWriteProtect, TRAN),
    row(29, Name::ClearWriteProtect, TRAN),
    row(30, Name::SendWriteProtect, TRAN),
    row(38, Name::Erase, TRAN),
    basic(42, Name::LockUnlock, TRAN),
    row(56, Name::GeneralCommand, TRAN),
];

const SD: &[Row] = &[
    basic(3, Name::RelativeAddress, IDENT | STBY),
    row(6, Name::Switch, TRAN),
    basic(8, Name::SendIfCond, IDLE),
    basic(11, Name::VoltageSwitch, READY),
    row(19, Name::Tuning, TRAN),
    row(20, Name::SpeedClass, TRAN),
    row(32, Name::EraseStart, TRAN),
    row(33, Name::EraseEnd, TRAN),
    to_one(55, Name::AppCommand, IDLE | ADDRESSED),
];

/// What follows CMD55 on an SD card.
const APP: &[Row] = &[
    row(6, Name::AppBusWidth, TRAN),
    row(13, Name::AppStatus, TRAN),
    row(22, Name::AppWrittenBlocks, TRAN),
    row(23, Name::AppEraseCount, TRAN),
    basic(41, Name::AppOpCond, IDLE),
    row(42, Name::AppCardDetect, TRAN),
    row(51, Name::AppScr, TRAN),
];

const EMMC: &[Row] = &[
    basic(1, Name::SendOpCond, IDLE | READY),
    to_one(3, Name::RelativeAddress, IDENT),
    to_one(5, Name::SleepAwake, STBY | SLP),
    row(6, Name::Switch, TRAN),
    basic(8, Name::SendExtCsd, TRAN),
    basic(14, Name::BusTestRead, BTST),
    basic(19, Name::BusTestWrite, TRAN),
    row(21, Name::Tuning, TRAN),
    row(26, Name::ProgramCid, TRAN),
    row(31, Name::SendWriteProtectType, TRAN),
    row(35, Name::EraseStart, TRAN),
    row(36, Name::EraseEnd, TRAN),
    row(44, Name::QueuedTaskParams, TRAN | DATA | RCV | PRG),
    row(45, Name::QueuedTaskAddress, TRAN | DATA | RCV | PRG),
    row(46, Name::ExecuteReadTask, TRAN),
    row(47, Name::ExecuteWriteTask, TRAN),
    row(48, Name::ManageTasks, TRAN | PRG),
];

/// The command that a card takes this number for.
pub(super) fn find(emmc: bool, index: u8, app: bool) -> Option<&'static Row> {
    let own = if emmc { EMMC } else { SD };
    let app = if app && !emmc { APP } else { &[] };
    app.iter().chain(own).chain(BOTH).find(|row| row.index == index)
}
