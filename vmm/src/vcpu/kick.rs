//! Getting a thread out of the guest.

use std::{
    io,
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// A pointer to `immediate_exit` in the structure that a vCPU shares with KVM.
struct Inside {
    immediate_exit: NonNull<u8>,
    thread: libc::pid_t,
}

// SAFETY: the byte is only touched as an atomic, and only while the CPU is registered, which its
// thread undoes before the mapping goes.
unsafe impl Send for Inside {}

/// One CPU's bell.
#[derive(Default)]
pub(super) struct Kick {
    wanted: AtomicBool,
    inside: Mutex<Option<Inside>>,
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// The signal interrupts a system call and does nothing else.
pub(super) fn install_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), nothing).map_err(io::Error::from)
}

impl Kick {
    /// This thread now runs `vcpu`.
    pub(super) fn enter(&self, vcpu: &mut VcpuFd) {
        // SAFETY: no pointers; the calling thread's id.
        let thread = unsafe { libc::gettid() };
        let immediate_exit = NonNull::from(&mut vcpu.get_kvm_run().immediate_exit);
        *self.lock() = Some(Inside { immediate_exit, thread });
    }

    /// The thread ends; the structure shared with KVM goes away.
    pub(super) fn leave(&self) {
        *self.lock() = None;
    }

    /// Makes the CPU leave the guest, or not enter it.
    pub(super) fn ring(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// Whether the bell was rung.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// The CPU may enter the guest again.
    pub(super) fn clear(&self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.set_immediate_exit(0);
    }

    /// From now on KVM_RUN completes what is unfinished and returns.
    pub(super) fn only_complete(&self) {
        self.set_immediate_exit(1);
    }

    fn set_immediate_exit(&self, value: u8) {
        if let Some(inside) = &*self.lock() {
            inside.store(value);
        }
    }

    fn interrupt(&self) {
        let slot = self.lock();
        let Some(inside) = &*slot else { return };
        inside.store(1);
        // SAFETY: a thread of this process that exists as long as it is registered, and a signal
        // with a handler.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), inside.thread, SIGRTMIN()) };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Inside>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn store(&self, value: u8) {
        // SAFETY: the byte is mapped while the CPU is registered, and shared with the kernel, which
        // only reads it.
        unsafe { AtomicU8::from_ptr(self.immediate_exit.as_ptr()) }.store(value, Ordering::SeqCst);
    }
}
