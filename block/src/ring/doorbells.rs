//! Watched eventfds of the engines that do not have the kernel's ring for it.
//!
//! Nobody reads a doorbell, so that a level would stay up for ever: the descriptors are watched for
//! *edges*. Every write to an eventfd is one, whether or not its count was zero before.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Instant,
};

/// Events taken from the kernel at once.
const BATCH: usize = 32;

/// Watched descriptors, and those that were signalled.
#[derive(Debug, Default)]
pub(super) struct Doorbells {
    /// Made at the first wait, or by [`Doorbells::open`]: simulated rings rarely block.
    epoll: Option<OwnedFd>,
    watched: Vec<(RawFd, u32)>,
    signalled: Vec<u32>,
    /// System calls made.
    pub system_calls: u64,
}

impl Doorbells {
    pub fn watch(&mut self, fd: RawFd, key: u32) {
        let known = self.watched.iter().any(|w| w.0 == fd);
        self.watched.push((fd, key));
        if known {
            // Its next edge is reported under both keys; the one that may be behind us, here.
            self.signalled.push(key);
        } else {
            self.control(libc::EPOLL_CTL_ADD, fd);
        }
    }

    pub fn unwatch(&mut self, key: u32) {
        let Some(index) = self.watched.iter().position(|w| w.1 == key) else { return };
        let (fd, _) = self.watched.swap_remove(index);
        if !self.watched.iter().any(|w| w.0 == fd) {
            self.control(libc::EPOLL_CTL_DEL, fd);
        }
    }

    /// Moves the keys that were signalled to `out`. No system call.
    pub fn take(&mut self, out: &mut Vec<u32>) {
        out.append(&mut self.signalled);
    }

    /// Waits for a doorbell, at most until `until`.
    pub fn block(&mut self, until: Option<Instant>) {
        if let Err(e) = self.open() {
            panic!("no epoll descriptor for doorbells: {e}");
        }
        let Some(epoll) = self.epoll.as_ref().map(AsRawFd::as_raw_fd) else { return };
        if !self.signalled.is_empty() {
            return self.collect(epoll, 0);
        }
        match until {
            None => self.collect(epoll, -1),
            Some(until) => {
                self.sleep(epoll, until);
                self.collect(epoll, 0);
            }
        }
    }

    /// Waits with the resolution of the clock; `epoll_wait` counts in milliseconds.
    fn sleep(&mut self, epoll: RawFd, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(left.subsec_nanos()),
        };
        let mut poll = libc::pollfd { fd: epoll, events: libc::POLLIN, revents: 0 };
        self.system_calls += 1;
        // SAFETY: one valid pollfd, a valid timespec, no signal mask. A failure is an early return.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
    }

    fn collect(&mut self, epoll: RawFd, timeout_ms: i32) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        self.system_calls += 1;
        // SAFETY: room for `BATCH` events. A failure (a signal) is no events.
        let n = unsafe {
            libc::epoll_wait(epoll, events.as_mut_ptr(), BATCH as libc::c_int, timeout_ms)
        };
        for event in &events[..usize::try_from(n).unwrap_or(0)] {
            let fd = event.u64;
            let keys = self.watched.iter().filter(|w| w.0 as u64 == fd).map(|w| w.1);
            self.signalled.extend(keys);
        }
    }

    /// Has the kernel watch from now on.
    pub fn open(&mut self) -> io::Result<()> {
        if self.epoll.is_some() {
            return Ok(());
        }
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        self.epoll = Some(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut fds: Vec<RawFd> = self.watched.iter().map(|w| w.0).collect();
        fds.sort_unstable();
        fds.dedup();
        for fd in fds {
            self.control(libc::EPOLL_CTL_ADD, fd);
        }
        Ok(())
    }

    fn control(&mut self, operation: libc::c_int, fd: RawFd) {
        let Some(epoll) = &self.epoll else { return };
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: fd as u64 };
        self.system_calls += 1;
        // SAFETY: a valid event; the kernel checks the descriptors.
        let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &raw mut event) };
        // What cannot be watched would be a doorbell that nobody hears; what cannot be unwatched
        // is closed already.
        assert!(
            result == 0 || operation == libc::EPOLL_CTL_DEL,
            "cannot watch a doorbell: {}",
            io::Error::last_os_error()
        );
    }
}
