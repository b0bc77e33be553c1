//! Why the host's KVM could not do something.

use vmm_sys_util::errno;

/// A KVM call that failed.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm ({}); 'spindle doctor' says what is missing", open_hint(.0))]
    Open(#[source] errno::Error),
    /// The kernel's KVM interface is not the one known since Linux 2.6.22.
    #[error("/dev/kvm speaks API version {0}, not 12")]
    ApiVersion(i32),
    /// Something this program cannot do without.
    #[error("this host's KVM lacks {0}; 'spindle doctor' says what is missing")]
    Missing(&'static str),
    /// More virtual CPUs than the host allows.
    #[error("this host's KVM allows {max} virtual CPUs, not {wanted}")]
    TooManyCpus {
        /// Asked for.
        wanted: u32,
        /// The host's limit.
        max: u32,
    },
    /// The host has no memory for something that KVM is to be given.
    #[error("cannot map memory for {what}: {reason}")]
    Memory {
        /// What was to be there.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// Any other call.
    #[error("KVM: cannot {what}")]
    Call {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: errno::Error,
    },
    /// MSRs that the guest cannot start without were refused.
    #[error("KVM took only {set} of {wanted} model-specific registers")]
    Msrs {
        /// How many were to be set.
        wanted: usize,
        /// How many were.
        set: usize,
    },
}

impl KvmError {
    /// For `map_err`: names what was being done.
    pub(crate) fn call(what: impl Into<String>) -> impl FnOnce(errno::Error) -> Self {
        let what = what.into();
        move |source| Self::Call { what, source }
    }
}

fn open_hint(error: &errno::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT => "is the kvm-intel or kvm-amd module loaded?",
        libc::EACCES | libc::EPERM => "this user may not: is it in the group 'kvm'?",
        libc::ENXIO | libc::ENODEV => "virtualization is off in the firmware or not there",
        _ => "unexpected",
    }
}
