//! Confining the image tools: an image that takes over the program while it is parsed can do no more
//! than the command that was typed needs.
use super::{BLOCK_IOCTLS, NBD_IOCTLS, TERMINAL_IOCTLS, calls, ioctl};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

/// What a tool needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// To open files for writing, and to make, cut and remove them.
    pub writes: bool,
    /// To be a server, or to speak to one.
    pub network: bool,
    /// To give a disk to a device of the kernel's.
    pub device: bool,
}

/// Address space of a tool at most, in bytes. Tables for counting the clusters of the largest image
/// that is checked are 4 GiB of it; memory that is never touched counts too.
const ADDRESS_SPACE: u64 = 16 << 30;

static NEEDS: OnceLock<Needs> = OnceLock::new();
static ENTERED: OnceLock<()> = OnceLock::new();

/// From the first [`enter`] on, this process is confined to what it needs. Without this call it never
/// is.
pub fn arm(needs: Needs) {
    let _ = NEEDS.set(needs);
}

/// Confines the process, all its threads and those to come, for ever. It has made its ring: it cannot
/// make another, because what a ring does no filter sees. Does nothing the second time.
///
/// # Errors
///
/// When the kernel refuses the filter.
pub fn enter() -> io::Result<()> {
    let Some(needs) = NEEDS.get() else { return Ok(()) };
    if cfg!(test) {
        // It would confine all tests of this crate; those of the program see it at work.
        return Ok(());
    }
    if ENTERED.set(()).is_err() {
        return Ok(());
    }
    limit_memory();
    // In this order: the second allows no further filter.
    let filters = [no_more_rings()?, compile(*needs)?];
    super::trap::explain();
    for filter in &filters {
        apply_filter_all_threads(filter).map_err(io::Error::other)?;
    }
    if log::log_enabled!(log::Level::Debug) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mode = status.lines().find(|line| line.starts_with("Seccomp:")).unwrap_or_default();
        log::debug!("sandbox: {needs:?}, {}", mode.replace('\t', " "));
    }
    Ok(())
}

/// A lower limit of the user's stays.
fn limit_memory() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills in a structure of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0 {
        limit.rlim_max = limit.rlim_max.min(ADDRESS_SPACE);
        limit.rlim_cur = limit.rlim_cur.min(limit.rlim_max);
        // SAFETY: the kernel reads a structure of ours. Without the limit the filter is still there.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    }
}

pub(super) fn compile(needs: Needs) -> io::Result<BpfProgram> {
    let mut lists: Vec<&[libc::c_long]> =
        vec![calls::COMMON, calls::FILES, calls::THREADS, calls::RINGS, calls::TOOLS];
    if needs.network {
        lists.push(calls::MAIN);
        lists.push(calls::NAMES);
    }
    let allowed = lists.into_iter().flatten().copied();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed
        .filter(|call| needs.writes || !calls::CHANGES.contains(call))
        .map(|call| (call, Vec::new()))
        .collect();
    let mut build = || -> Result<(), seccompiler::BackendError> {
        if !needs.writes {
            rules.insert(libc::SYS_openat, vec![to_read(2)?]);
            rules.insert(libc::SYS_open, vec![to_read(1)?]);
        }
        let mut ioctls = vec![ioctl(TERMINAL_IOCTLS)?, ioctl(BLOCK_IOCTLS)?];
        if needs.device {
            ioctls.push(ioctl(NBD_IOCTLS)?);
            // The kernel is given one end, the server has the other.
            rules.insert(libc::SYS_socketpair, Vec::new());
        }
        rules.insert(libc::SYS_ioctl, ioctls);
        Ok(())
    };
    build().map_err(io::Error::other)?;
    program(rules, SeccompAction::Trap, SeccompAction::Allow)
}

/// Opening for reading: `flags` is that argument.
fn to_read(flags: u8) -> Result<SeccompRule, seccompiler::BackendError> {
    let mask = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    let (len, compare) = (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask));
    SeccompRule::new(vec![SeccompCondition::new(flags, len, compare, libc::O_RDONLY as u64)?])
}

/// Another ring would not have the restrictions of ours. Who asks for one gets an error and uses
/// threads.
fn no_more_rings() -> io::Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    listed: SeccompAction,
) -> io::Result<BpfProgram> {
    SeccompFilter::new(rules, others, listed, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}
