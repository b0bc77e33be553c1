//! The registers as data.

use crate::register::Register;

/// All registers (SDHC 2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(in crate::sdhci) enum Name {
    SdmaAddress,
    BlockSize,
    BlockCount,
    Argument,
    TransferMode,
    Command,
    Response0,
    Response1,
    Response2,
    Response3,
    BufferPort,
    PresentState,
    HostControl,
    PowerControl,
    BlockGap,
    Wakeup,
    Clock,
    Timeout,
    SoftwareReset,
    NormalStatus,
    ErrorStatus,
    NormalEnable,
    ErrorEnable,
    NormalSignal,
    ErrorSignal,
    AutoError,
    HostControl2,
    Capabilities,
    MaxCurrent,
    ForceAutoError,
    ForceError,
    AdmaError,
    AdmaAddress,
    PresetInit,
    PresetDefault,
    PresetHighSpeed,
    PresetSdr12,
    PresetSdr25,
    PresetSdr50,
    PresetSdr104,
    PresetDdr50,
    SlotInterrupt,
    Version,
}

pub(super) const COUNT: usize = Name::Version as usize + 1;
/// Bytes of the register window.
pub(in crate::sdhci) const LEN: u64 = 0x100;

const fn ro(name: Name, offset: u64, width: u8) -> Register<Name> {
    Register::read_only(name, offset, width, 0)
}

const fn rw(name: Name, offset: u64, width: u8, writable: u64) -> Register<Name> {
    Register::read_write(name, offset, width, 0, writable)
}

const fn w1c(name: Name, offset: u64, mask: u64) -> Register<Name> {
    Register { name, offset, width: 2, reset: 0, writable: 0, write_one_clear: mask }
}

/// Bits of the normal interrupt status that are there: no SDIO, no re-tuning events.
const NORMAL_BITS: u64 = 0x00ff;
/// Bits of the error interrupt status that are there.
pub(super) const ERROR_BITS: u64 = 0x17ff;

/// The table of version 3; in the order of [`Name`].
pub(super) const TABLE: [Register<Name>; COUNT] = [
    rw(Name::SdmaAddress, 0x00, 4, 0xffff_ffff),
    rw(Name::BlockSize, 0x04, 2, 0x7fff),
    rw(Name::BlockCount, 0x06, 2, 0xffff),
    rw(Name::Argument, 0x08, 4, 0xffff_ffff),
    rw(Name::TransferMode, 0x0c, 2, 0x003f),
    rw(Name::Command, 0x0e, 2, 0x3ffb),
    ro(Name::Response0, 0x10, 4),
    ro(Name::Response1, 0x14, 4),
    ro(Name::Response2, 0x18, 4),
    ro(Name::Response3, 0x1c, 4),
    rw(Name::BufferPort, 0x20, 4, 0),
    ro(Name::PresentState, 0x24, 4),
    rw(Name::HostControl, 0x28, 1, 0xff),
    rw(Name::PowerControl, 0x29, 1, 0x0f),
    rw(Name::BlockGap, 0x2a, 1, 0x0b),
    rw(Name::Wakeup, 0x2b, 1, 0x07),
    rw(Name::Clock, 0x2c, 2, 0xffc5),
    rw(Name::Timeout, 0x2e, 1, 0x0f),
    rw(Name::SoftwareReset, 0x2f, 1, 0),
    w1c(Name::NormalStatus, 0x30, NORMAL_BITS),
    w1c(Name::ErrorStatus, 0x32, ERROR_BITS),
    rw(Name::NormalEnable, 0x34, 2, NORMAL_BITS),
    rw(Name::ErrorEnable, 0x36, 2, ERROR_BITS),
    rw(Name::NormalSignal, 0x38, 2, NORMAL_BITS),
    rw(Name::ErrorSignal, 0x3a, 2, ERROR_BITS),
    ro(Name::AutoError, 0x3c, 2),
    rw(Name::HostControl2, 0x3e, 2, 0x80ff),
    ro(Name::Capabilities, 0x40, 8),
    ro(Name::MaxCurrent, 0x48, 8),
    rw(Name::ForceAutoError, 0x50, 2, 0),
    rw(Name::ForceError, 0x52, 2, 0),
    ro(Name::AdmaError, 0x54, 1),
    rw(Name::AdmaAddress, 0x58, 8, u64::MAX),
    ro(Name::PresetInit, 0x60, 2),
    ro(Name::PresetDefault, 0x62, 2),
    ro(Name::PresetHighSpeed, 0x64, 2),
    ro(Name::PresetSdr12, 0x66, 2),
    ro(Name::PresetSdr25, 0x68, 2),
    ro(Name::PresetSdr50, 0x6a, 2),
    ro(Name::PresetSdr104, 0x6c, 2),
    ro(Name::PresetDdr50, 0x6e, 2),
    ro(Name::SlotInterrupt, 0xfc, 2),
    ro(Name::Version, 0xfe, 2),
];
