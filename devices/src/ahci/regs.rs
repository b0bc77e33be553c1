//! The registers as data (AHCI 3.1, 3.3); what they do is in [`hba`](super::hba) and
//! [`port`](super::port).

use super::spec::{PORTS_MAX, VERSION, cap, ccc, fbs, ghc, is, link, serr};
use crate::register::Register;

/// The generic host control registers (AHCI 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Global {
    Cap,
    Ghc,
    Is,
    Pi,
    Vs,
    CccCtl,
    CccPorts,
    EmLoc,
    EmCtl,
    Cap2,
    Bohc,
}

const W1C: u64 = 0xffff_ffff;

const fn w1c<N>(name: N, offset: u64, bits: u32) -> Register<N> {
    Register { name, offset, width: 4, reset: 0, writable: 0, write_one_clear: bits as u64 }
}

/// What every controller has. CAP and PI are filled in by each.
pub const GLOBAL: &[Register<Global>] = &[
    Register::read_only(Global::Cap, 0x00, 4, 0),
    Register::read_write(Global::Ghc, 0x04, 4, ghc::AE as u64, ghc::IE as u64),
    w1c(Global::Is, 0x08, W1C as u32),
    Register::read_only(Global::Pi, 0x0c, 4, 0),
    Register::read_only(Global::Vs, 0x10, 4, VERSION as u64),
    Register::read_write(
        Global::CccCtl,
        0x14,
        4,
        ccc::RESET as u64,
        (ccc::ENABLE | ccc::COUNT | ccc::TIME) as u64,
    ),
    Register::read_write(Global::CccPorts, 0x18, 4, 0, 0xffff_ffff),
    Register::read_only(Global::EmLoc, 0x1c, 4, 0),
    Register::read_only(Global::EmCtl, 0x20, 4, 0),
    Register::read_only(Global::Cap2, 0x24, 4, 0),
    Register::read_only(Global::Bohc, 0x28, 4, 0),
];

/// The registers of a port (AHCI 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum PortName {
    Clb,
    Clbu,
    Fb,
    Fbu,
    Is,
    Ie,
    Cmd,
    Tfd,
    Sig,
    Ssts,
    Sctl,
    Serr,
    Sact,
    Ci,
    Sntf,
    Fbs,
    Devslp,
}

/// What every port has. PxCMD, PxSACT and PxCI have rules of their own beside these masks; what a
/// reset leaves in PxTFD, PxSIG and PxSSTS is up to the device.
pub const PORT: &[Register<PortName>] = &[
    Register::read_write(PortName::Clb, 0x00, 4, 0, 0xffff_fc00),
    Register::read_write(PortName::Clbu, 0x04, 4, 0, 0xffff_ffff),
    Register::read_write(PortName::Fb, 0x08, 4, 0, 0xffff_ff00),
    Register::read_write(PortName::Fbu, 0x0c, 4, 0, 0xffff_ffff),
    w1c(PortName::Is, 0x10, is::CLEAR),
    Register::read_write(PortName::Ie, 0x14, 4, 0, is::ENABLE as u64),
    Register::read_write(PortName::Cmd, 0x18, 4, 0, super::port::CMD_WRITABLE as u64),
    Register::read_only(PortName::Tfd, 0x20, 4, 0),
    Register::read_only(PortName::Sig, 0x24, 4, 0),
    Register::read_only(PortName::Ssts, 0x28, 4, 0),
    Register::read_write(PortName::Sctl, 0x2c, 4, 0, link::CONTROL as u64),
    w1c(PortName::Serr, 0x30, serr::ALL),
    // Written bits are set, never cleared.
    Register::read_only(PortName::Sact, 0x34, 4, 0),
    Register::read_only(PortName::Ci, 0x38, 4, 0),
    w1c(PortName::Sntf, 0x3c, 0xffff),
    Register::read_write(PortName::Fbs, 0x40, 4, 0, (fbs::EN | fbs::DEC | fbs::DEV) as u64),
    Register::read_only(PortName::Devslp, 0x44, 4, 0),
];

/// CAP of a controller (AHCI 3.1.1).
#[must_use]
pub fn capabilities(ports: usize, staggered: bool, multiplier: bool) -> u32 {
    let fixed = cap::S64A
        | cap::SNCQ
        | cap::SCLO
        | cap::ISS
        | cap::SAM
        | cap::PMD
        | cap::PSC_SSC
        | 31 << cap::NCS_SHIFT;
    // Coalescing needs a bit of IS for itself.
    let coalescing = if ports < usize::from(PORTS_MAX) { cap::CCCS } else { 0 };
    let switching = if multiplier { cap::SPM | cap::FBSS | cap::SSNTF } else { 0 };
    fixed | coalescing | switching | (ports as u32 - 1) | if staggered { cap::SSS } else { 0 }
}
