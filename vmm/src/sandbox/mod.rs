//! Confining the threads of a machine: each kind gets a seccomp filter with the system calls it
//! needs. Any other one ends the process with SIGSYS, the terminal restored.

mod calls;
#[cfg(test)]
mod tests;
pub mod tool;
mod trap;

use std::{collections::BTreeMap, io, sync::Arc};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs a virtual CPU.
    Vcpu,
    /// Serves queues, and opens and closes images.
    Iothread,
    /// The main loop.
    Main,
    /// Writes the serial console's output.
    Serial,
}

/// All kinds, in the order of [`Sandbox`]'s filters.
const KINDS: [Kind; 4] = [Kind::Vcpu, Kind::Iothread, Kind::Main, Kind::Serial];

/// The type byte of KVM's ioctls (`KVMIO`), and the mask that leaves it.
const KVM_IOCTLS: u64 = 0xAE00;
const IOCTL_TYPE: u64 = 0xFF00;
/// The type byte of terminal ioctls.
const TERMINAL_IOCTLS: u64 = 0x5400;
/// The type byte of block device ioctls.
const BLOCK_IOCTLS: u64 = 0x1200;
/// The type byte of the ioctls of the kernel's NBD client.
const NBD_IOCTLS: u64 = 0xab00;

/// The filters, compiled; or nothing, with `--sandbox off`.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(Option<Arc<[BpfProgram; 4]>>);

impl Sandbox {
    /// Filters for every kind of thread, or (`on` false) none.
    ///
    /// # Errors
    /// When a filter is too long, which would be a mistake here.
    pub fn new(on: bool) -> io::Result<Self> {
        if !on {
            return Ok(Self(None));
        }
        let [vcpu, iothread, main, serial] = KINDS.map(compile);
        Ok(Self(Some(Arc::new([vcpu?, iothread?, main?, serial?]))))
    }

    /// Confines the calling thread, and all that it starts, for ever.
    ///
    /// # Errors
    /// When the kernel refuses the filter.
    pub fn enter(&self, kind: Kind) -> io::Result<()> {
        match &self.0 {
            Some(filters) => apply_filter(&filters[kind as usize]).map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

fn compile(kind: Kind) -> io::Result<BpfProgram> {
    let (calls, ioctls): (&[&[libc::c_long]], &[u64]) = match kind {
        Kind::Vcpu => (&[calls::COMMON], &[KVM_IOCTLS, TERMINAL_IOCTLS]),
        Kind::Serial => (&[calls::COMMON], &[TERMINAL_IOCTLS]),
        Kind::Iothread => (
            &[calls::COMMON, calls::FILES, calls::THREADS, calls::RINGS],
            &[TERMINAL_IOCTLS, BLOCK_IOCTLS],
        ),
        Kind::Main => (
            &[calls::COMMON, calls::FILES, calls::THREADS, calls::MAIN],
            &[KVM_IOCTLS, TERMINAL_IOCTLS, BLOCK_IOCTLS],
        ),
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
    let ioctls: Result<Vec<_>, _> = ioctls.iter().map(|kind| ioctl(*kind)).collect();
    rules.insert(libc::SYS_ioctl, ioctls.map_err(io::Error::other)?);
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// ioctls of one type.
fn ioctl(kind: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    const REQUEST: u8 = 1;
    let (len, compare) = (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(IOCTL_TYPE));
    SeccompRule::new(vec![SeccompCondition::new(REQUEST, len, compare, kind)?])
}
