//! Rings: what carries requests on files to whoever does them.
//!
//! One ring per iothread, three engines behind one interface: [`uring`] (the kernel's io_uring),
//! [`threads`] (a pool of threads, where io_uring is forbidden) and [`sim`] (files in memory that
//! lose, tear and reorder what a real disk may). A ring is created, fed and dropped on its own
//! thread.

mod doorbells;
pub mod sim;
mod slots;
pub mod threads;
pub mod uring;

#[cfg(test)]
mod tests;

use std::{io, os::fd::RawFd, time::Instant};

use crate::{BlockError, IoBuf, Pin, file::FileId};

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Read `buf.len()` bytes; what lies beyond the end of the file reads as zeros.
    Read,
    /// Write the buffer; with `fua` it is durable before it completes.
    Write {
        /// `RWF_DSYNC`.
        fua: bool,
    },
    /// `fdatasync`: every write that completed before this was submitted becomes durable.
    Sync,
    /// Give the range back; it reads as zeros. Fails with `Unsupported` where the file system
    /// cannot.
    PunchHole,
    /// The range reads as zeros; blocks stay allocated where the file system can.
    ZeroRange,
    /// Reserve blocks for the range, growing the file; new bytes read as zeros.
    Allocate,
    /// Set the file's length to `offset`. Ordered like a write.
    SetLen,
}

/// Who gets the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A queue attached to the iothread.
    Queue {
        /// Its place in the iothread.
        slot: u16,
        /// What the queue called the request.
        token: u32,
    },
    /// A task waiting in [`Cx`](crate::Cx).
    Task(u32),
}

/// A request on a file. It owns everything the kernel will touch until it is [`Done`].
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub op: FileOp,
    /// To which file.
    pub file: FileId,
    /// First byte.
    pub offset: u64,
    /// Number of bytes; `buf.len()` for reads and writes.
    pub len: u64,
    /// The memory.
    pub buf: IoBuf,
    /// Keeps the translation true that led here.
    pub pin: Pin,
    /// Who waits.
    pub owner: Owner,
}

/// A request that has ended; its pin is released.
#[derive(Debug)]
pub struct Done {
    /// Who waits.
    pub owner: Owner,
    /// The memory, whole again.
    pub buf: IoBuf,
    /// How it went: all of it, or an error.
    pub result: Result<(), BlockError>,
}

/// What a ring found.
#[derive(Debug, Default)]
pub struct Events {
    /// Requests that ended. Their order means nothing.
    pub done: Vec<Done>,
    /// Keys of watched descriptors that were signalled.
    pub signalled: Vec<u32>,
}

/// Counters of one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Requests submitted.
    pub requests: u64,
    /// System calls made, waiting included.
    pub system_calls: u64,
}

/// The interface of the three engines.
pub trait Engine {
    /// `io_uring`, `threads`, `blocking` or `sim`.
    fn name(&self) -> &'static str;

    /// Takes a request; it starts at the next [`Engine::kick`] at the latest.
    fn submit(&mut self, request: Request);

    /// Starts what was submitted, without waiting.
    fn kick(&mut self);

    /// Moves what has happened into `events`, without waiting and without a system call.
    fn reap(&mut self, events: &mut Events);

    /// Starts what was submitted and waits until something happens or `until` has come.
    fn wait(&mut self, until: Option<Instant>);

    /// Whether there is something to reap, or entering the kernel now would bring it: the poller's
    /// question.
    fn has_news(&mut self) -> bool;

    /// Reports signals of an eventfd as `key` from now on. The eventfd is never read.
    fn watch(&mut self, fd: RawFd, key: u32);

    /// Stops that; a signal on its way may still be reported.
    fn unwatch(&mut self, key: u32);

    /// Forgets a file that is about to be closed; no request on it is in flight.
    fn forget(&mut self, file: FileId);

    /// Requests submitted and not yet reaped.
    fn in_flight(&self) -> usize;

    /// Counters since the ring was made.
    fn stats(&self) -> RingStats;
}

/// Which engine carries the requests of a host's files: `aio=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aio {
    /// The kernel's io_uring; threads where it cannot be had.
    #[default]
    IoUring,
    /// A pool of threads.
    Threads,
    /// The ring's own thread: for tools, whose threads have nothing else to do.
    Blocking,
}

/// Makes a ring for this thread. Where io_uring is asked for and missing or forbidden, it is a ring
/// of threads, and a sentence for the user comes with it.
///
/// # Errors
/// When the kernel has no descriptors or memory left for a ring.
pub fn open(aio: Aio) -> io::Result<(Box<dyn Engine>, Option<String>)> {
    let refused = match aio {
        Aio::Blocking => return Ok((Box::new(threads::ThreadsEngine::blocking()?), None)),
        Aio::Threads => None,
        Aio::IoUring => match uring::UringEngine::new(uring::Options::default()) {
            Ok(ring) => return Ok((Box::new(ring), None)),
            Err(e) if falls_back(&e) => Some(e),
            Err(e) => return Err(e),
        },
    };
    let notice = refused
        .map(|e| format!("io_uring cannot be used here ({e}); using aio=threads, which is slower"));
    Ok((Box::new(threads::ThreadsEngine::new()?), notice))
}

/// Whether an error of io_uring says that it is missing, too old, forbidden or kept from its memory.
fn falls_back(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOSYS
                | libc::EPERM
                | libc::EACCES
                | libc::EINVAL
                | libc::EOPNOTSUPP
                | libc::ENOMEM
        )
    )
}
