//! Signals that end the process: read from a file descriptor by its main loop.

use std::{
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, RawFd},
};

const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The signals that are waited for. Made before any other thread is, because threads inherit what is
/// blocked.
pub(crate) struct Signals(File);

fn set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set in; the others only change it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn mask(how: libc::c_int) -> io::Result<()> {
    let set = set();
    // SAFETY: a complete set, and nothing is written back.
    match unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Signals {
    /// Takes the signals over from this thread on.
    pub(crate) fn take_over() -> io::Result<Self> {
        mask(libc::SIG_BLOCK)?;
        let set = set();
        // SAFETY: a complete set; the result is checked and owned by nobody else.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The signal that came, if one did. From now on the next one ends the process at once, with the
    /// terminal restored by whoever made it raw.
    pub(crate) fn read(&mut self) -> Option<u32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.0.read_exact(&mut info).ok()?;
        let number = u32::from_ne_bytes(*info.first_chunk()?);
        if let Err(e) = mask(libc::SIG_UNBLOCK) {
            log::debug!("a second signal will wait: {e}");
        }
        Some(number)
    }
}
