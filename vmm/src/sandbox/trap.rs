//! What a tool says when its filter stops it.

/// Has the process end with a sentence instead of a bare SIGSYS.
pub(super) fn explain() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = stopped;
    // SAFETY: all zeros is a valid sigaction, and the handler does only what signal handlers may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut());
    }
}

/// Where `siginfo_t` has the number of the call, in bytes (sigaction(2): after three integers and an
/// address, with padding).
const CALL_AT: usize = 24;

extern "C" fn stopped(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    const BEFORE: &[u8] = b"\nspindle: the sandbox stopped this command at system call ";
    const AFTER: &[u8] = b", which it should not need: the image may be hostile. \
        (--sandbox off runs without it; if you trust the image, please report this.)\n";
    let mut digits = [b'0'; 10];
    // SAFETY: the kernel hands a whole siginfo_t to handlers with SA_SIGINFO.
    let mut number = unsafe { info.cast::<u8>().add(CALL_AT).cast::<u32>().read_unaligned() };
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            break;
        }
    }
    for part in [BEFORE, &digits[at..], AFTER] {
        // SAFETY: write(2) and _exit(2) may be called in a signal handler; the buffers are ours.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: as above. Nothing is unwound: the program may not be its own master any more.
    unsafe { libc::_exit(STATUS) };
}

/// The exit status of a command that was stopped: that of a shell for SIGSYS.
pub const STATUS: i32 = 128 + libc::SIGSYS;
