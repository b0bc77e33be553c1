//! What is behind the lock, changed by either half.

use super::{
    super::spec::{NO_SIGNATURE, NO_STATUS, cmd, fbs, is, link, serr},
    PortState, TARGETS, tfd,
};
use crate::ata::Ending;

impl PortState {
    /// PxIS, with the bits that only show PxSERR (AHCI 3.3.5).
    pub(super) fn is(&self) -> u32 {
        let shown = |error: u32, bit| if self.serr & error == 0 { 0 } else { bit };
        self.is | shown(serr::EXCHANGED, is::PCS) | shown(serr::PHY, is::PRCS)
    }

    /// As after a reset; PxCLB and PxFB stay after one of the HBA (AHCI 10.4.3).
    pub(super) fn clear(&mut self, keep_bases: bool) {
        if !keep_bases {
            (self.clb, self.fb) = (0, 0);
        }
        (self.is, self.ie, self.sctl, self.serr, self.ssts) = (0, 0, 0, 0, 0);
        self.tfd = [NO_STATUS; TARGETS];
        (self.fbs, self.sntf) = (0, 0);
        self.sig = NO_SIGNATURE;
        let switching = if self.multiplier { cmd::FBSCP } else { 0 };
        self.cmd = switching | cmd::HPCP | cmd::POD | if self.staggered { 0 } else { cmd::SUD };
    }

    /// Which PxTFD is shown.
    pub(super) fn shown(&self) -> usize {
        if self.fbs & fbs::EN == 0 { 0 } else { ((self.fbs & fbs::DEV) >> fbs::DEV_SHIFT) as usize }
    }

    pub(super) fn sign(&mut self, ending: &Ending, target: u8) {
        self.tfd[usize::from(target)] = tfd(ending);
        self.sig = (ending.lba as u32) << 8 | u32::from(ending.count as u8);
    }

    /// PxCMD.ICC (AHCI 3.3.7): partial and slumber where PxSCTL.IPM allows them; the field reads as
    /// zero once it is done.
    pub(super) fn change_power(&mut self, wanted: u32) {
        if self.ssts & link::DET != link::DET_UP {
            return;
        }
        let forbidden = self.sctl >> link::IPM_SHIFT & 0x0f;
        let allowed = match wanted & 0x0f {
            link::ACTIVE => true,
            link::PARTIAL => forbidden & 1 == 0,
            link::SLUMBER => forbidden & 2 == 0,
            _ => false,
        };
        if allowed {
            self.set_power(wanted & 0x0f);
        }
    }

    pub(super) fn set_power(&mut self, power: u32) {
        self.ssts = self.ssts & !(0x0f << link::IPM_SHIFT) | power << link::IPM_SHIFT;
    }

    /// A link that sleeps wakes for what is sent over it (AHCI 8.3.1.2).
    pub(super) fn wake_link(&mut self) {
        if self.ssts & link::DET == link::DET_UP {
            self.set_power(link::ACTIVE);
        }
    }
}
