//! The controller's registers (Base 3.1.3), and what has to be done about a write to them.

use super::spec::{NSSR_MAGIC, VERSION};
use crate::{
    Access,
    register::{Part, Register, parts},
};

/// The registers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Name {
    Cap,
    Vs,
    Intms,
    Intmc,
    Cc,
    Csts,
    Nssr,
    Aqa,
    Asq,
    Acq,
    CmbLoc,
    CmbSz,
    BpInfo,
    BpRSel,
    BpMbl,
    CmbMsc,
    CmbSts,
    CmbEbs,
    CmbSwtp,
    Nssd,
    Crto,
}

/// CAP fields (Base 3.1.3.1).
mod cap {
    /// Queues are physically contiguous.
    pub const CQR: u64 = 1 << 16;
    /// Weighted round robin with urgent priority class.
    pub const AMS_WRR: u64 = 1 << 17;
    /// Worst case time to become ready, in units of 500 ms: a drain of slow storage takes time.
    pub const TO: u64 = 0xf0 << 24;
    /// NSSR is supported.
    pub const NSSRS: u64 = 1 << 36;
    /// The NVM command set.
    pub const CSS_NVM: u64 = 1 << 37;
    /// Largest memory page: 2 to the power of 12 + 4.
    pub const MPSMAX: u64 = 4 << 52;
    /// Ready with media only.
    pub const CRMS_WITH_MEDIA: u64 = 1 << 59;
}

/// The largest CC.MPS.
const MPS_MAX: u32 = 4;

/// CAP for queues of up to `entries` entries.
#[must_use]
pub const fn cap(entries: u32) -> u64 {
    (entries as u64 - 1)
        | cap::CQR
        | cap::AMS_WRR
        | cap::TO
        | cap::NSSRS
        | cap::CSS_NVM
        | cap::MPSMAX
        | cap::CRMS_WITH_MEDIA
}

/// CC fields (Base 3.1.3.5).
pub mod cc {
    /// Enable.
    pub const EN: u32 = 1;
    /// I/O command set selected.
    pub const CSS: u32 = 7 << 4;
    /// Shutdown notification.
    pub const SHN: u32 = 3 << 14;
    /// Everything that a host can write without CRIME.
    pub const WRITABLE: u32 = 0x00ff_fff1;
}

/// CSTS bits (Base 3.1.3.6).
pub mod csts {
    /// Ready.
    pub const RDY: u32 = 1;
    /// Controller fatal status.
    pub const CFS: u32 = 1 << 1;
    /// Shutdown processing occurs.
    pub const SHST_OCCURRING: u32 = 1 << 2;
    /// Shutdown processing is complete.
    pub const SHST_COMPLETE: u32 = 2 << 2;
    /// Both shutdown bits.
    pub const SHST: u32 = 3 << 2;
    /// NVM subsystem reset occurred.
    pub const NSSRO: u32 = 1 << 4;
}

/// The registers. Reset values that depend on the configuration are filled in when read.
pub const REGISTERS: &[Register<Name>] = &[
    Register::read_only(Name::Cap, 0x00, 8, 0),
    Register::read_only(Name::Vs, 0x08, 4, VERSION as u64),
    Register::read_write(Name::Intms, 0x0c, 4, 0, 0xffff_ffff),
    Register::read_write(Name::Intmc, 0x10, 4, 0, 0xffff_ffff),
    Register::read_write(Name::Cc, 0x14, 4, 0, cc::WRITABLE as u64),
    Register {
        name: Name::Csts,
        offset: 0x1c,
        width: 4,
        reset: 0,
        writable: 0,
        write_one_clear: csts::NSSRO as u64,
    },
    Register::read_write(Name::Nssr, 0x20, 4, 0, 0xffff_ffff),
    Register::read_write(Name::Aqa, 0x24, 4, 0, 0x0fff_0fff),
    Register::read_write(Name::Asq, 0x28, 8, 0, !0xfff),
    Register::read_write(Name::Acq, 0x30, 8, 0, !0xfff),
    Register::read_only(Name::CmbLoc, 0x38, 4, 0),
    Register::read_only(Name::CmbSz, 0x3c, 4, 0),
    Register::read_only(Name::BpInfo, 0x40, 4, 0),
    Register::read_only(Name::BpRSel, 0x44, 4, 0),
    Register::read_only(Name::BpMbl, 0x48, 8, 0),
    Register::read_only(Name::CmbMsc, 0x50, 8, 0),
    Register::read_only(Name::CmbSts, 0x58, 4, 0),
    Register::read_only(Name::CmbEbs, 0x5c, 4, 0),
    Register::read_only(Name::CmbSwtp, 0x60, 4, 0),
    Register::read_only(Name::Nssd, 0x64, 4, 0),
    // CRWMT: the same as CAP.TO.
    Register::read_only(Name::Crto, 0x68, 4, 0xf0),
];

/// What a driver has set when it enables the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enable {
    /// Size of a memory page in bytes.
    pub page: u64,
    /// Weighted round robin was chosen.
    pub weighted: bool,
    /// Admin submission queue: guest address and entries.
    pub asq: (u64, u32),
    /// Admin completion queue: guest address and entries.
    pub acq: (u64, u32),
}

/// What a write asks for beyond changing registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// CC.EN went from 0 to 1.
    Enable(Enable),
    /// It did, with settings that the controller does not support.
    Fatal,
    /// CC.EN went from 1 to 0.
    Disable,
    /// CC.SHN asks for a shutdown.
    Shutdown,
    /// NSSR was written with its magic.
    SubsystemReset,
    /// CSTS.NSSRO is to be cleared.
    ClearSubsystemReset,
    /// The interrupt mask has changed: these bits are masked now.
    Mask(u32),
}

/// What a register half keeps under its lock.
#[derive(Clone, Debug)]
pub struct Regs {
    cap: u64,
    cc: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// INTMS and INTMC are two views of it.
    mask: u32,
    /// A reset is under way: CC cannot be written.
    pub resetting: bool,
    /// A shutdown was asked for since the last reset.
    shutdown: bool,
}

impl Regs {
    /// As after power-on, for queues of up to `entries` entries.
    #[must_use]
    pub fn new(entries: u32) -> Self {
        Self {
            cap: cap(entries),
            cc: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            mask: 0,
            resetting: false,
            shutdown: false,
        }
    }

    /// A controller level reset: by CC.EN the admin queue registers stay (Base 3.7.2).
    pub fn reset(&mut self, keep_admin_queue: bool) {
        let (aqa, asq, acq) = (self.aqa, self.asq, self.acq);
        *self = Self { cap: self.cap, ..Self::new(1) };
        if keep_admin_queue {
            (self.aqa, self.asq, self.acq) = (aqa, asq, acq);
        }
    }

    fn load(&self, csts: u32, name: Name) -> u64 {
        match name {
            Name::Cap => self.cap,
            Name::Intms | Name::Intmc => self.mask.into(),
            Name::Cc => self.cc.into(),
            Name::Csts => csts.into(),
            Name::Nssr => 0,
            Name::Aqa => self.aqa.into(),
            Name::Asq => self.asq,
            Name::Acq => self.acq,
            Name::Vs
            | Name::CmbLoc
            | Name::CmbSz
            | Name::BpInfo
            | Name::BpRSel
            | Name::BpMbl
            | Name::CmbMsc
            | Name::CmbSts
            | Name::CmbEbs
            | Name::CmbSwtp
            | Name::Nssd
            | Name::Crto => {
                REGISTERS.iter().find(|r| r.name == name).map_or(0, |register| register.reset)
            }
        }
    }

    /// A load, with CSTS as it is.
    #[must_use]
    pub fn read(&self, csts: u32, access: Access) -> u64 {
        parts(REGISTERS, access)
            .fold(0, |value, part| value | part.extract(self.load(csts, part.register.name)))
    }

    /// A store; what it asks for is done by the caller, outside the lock.
    pub fn write(&mut self, csts: u32, access: Access, value: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for part in parts(REGISTERS, access) {
            let written = part.insert(value);
            self.store(csts, &part, written, &mut actions);
        }
        actions
    }

    fn store(&mut self, csts: u32, part: &Part<'_, Name>, value: u64, actions: &mut Vec<Action>) {
        let merged = |old: u64| part.register.merge(old, value, part.mask);
        match part.register.name {
            Name::Intms | Name::Intmc => {
                let bits = value as u32;
                let set = part.register.name == Name::Intms;
                self.mask = if set { self.mask | bits } else { self.mask & !bits };
                actions.push(Action::Mask(self.mask));
            }
            Name::Cc => {
                let new = merged(self.cc.into()) as u32;
                self.control(new, actions);
            }
            Name::Csts if value as u32 & csts & csts::NSSRO != 0 => {
                actions.push(Action::ClearSubsystemReset);
            }
            // Where the admin queue lies is fixed while it is enabled (Base 3.1.3.8).
            Name::Aqa if self.cc & cc::EN == 0 => self.aqa = merged(self.aqa.into()) as u32,
            Name::Asq if self.cc & cc::EN == 0 => self.asq = merged(self.asq),
            Name::Acq if self.cc & cc::EN == 0 => self.acq = merged(self.acq),
            Name::Nssr if part.is_whole() && value as u32 == NSSR_MAGIC => {
                actions.push(Action::SubsystemReset);
            }
            Name::Aqa
            | Name::Asq
            | Name::Acq
            | Name::Csts
            | Name::Nssr
            | Name::Cap
            | Name::Vs
            | Name::CmbLoc
            | Name::CmbSz
            | Name::BpInfo
            | Name::BpRSel
            | Name::BpMbl
            | Name::CmbMsc
            | Name::CmbSts
            | Name::CmbEbs
            | Name::CmbSwtp
            | Name::Nssd
            | Name::Crto => {}
        }
    }

    fn control(&mut self, new: u32, actions: &mut Vec<Action>) {
        if self.resetting {
            return;
        }
        let old = std::mem::replace(&mut self.cc, new);
        match (old & cc::EN != 0, new & cc::EN != 0) {
            (false, true) => {
                actions.push(self.enable().map_or(Action::Fatal, Action::Enable));
            }
            (true, false) => actions.push(Action::Disable),
            _ => {}
        }
        if new & cc::SHN != 0 && !self.shutdown {
            self.shutdown = true;
            actions.push(Action::Shutdown);
        }
    }

    /// The settings, if the controller supports them.
    fn enable(&self) -> Option<Enable> {
        let field = |low: u32, bits: u32| self.cc >> low & ((1 << bits) - 1);
        let (css, mps, ams) = (field(4, 3), field(7, 4), field(11, 3));
        let entries = |low: u32| (self.aqa >> low & 0xfff) + 1;
        let (asqs, acqs) = (entries(0), entries(16));
        let page = 4096u64 << mps.min(MPS_MAX);
        let fits = css == 0 && mps <= MPS_MAX && ams <= 1 && asqs >= 2 && acqs >= 2;
        let placed = (self.asq | self.acq) & (page - 1) == 0;
        (fits && placed).then_some(Enable {
            page,
            weighted: ams == 1,
            asq: (self.asq, asqs),
            acq: (self.acq, acqs),
        })
    }

    /// Entry sizes of I/O queues as the host set them: submission, completion, as powers of two.
    #[must_use]
    pub fn entry_sizes(&self) -> (u32, u32) {
        (self.cc >> 16 & 0xf, self.cc >> 20 & 0xf)
    }
}
