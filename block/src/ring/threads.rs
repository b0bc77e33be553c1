//! The thread-pool engine, for hosts where io_uring is missing or forbidden.
//!
//! A few threads a ring, started when they are needed, make the blocking calls. The ring's own
//! thread blocks in exactly one place, an edge-triggered epoll set that holds every doorbell and
//! the pool's own eventfd.
//!
//! [`ThreadsEngine::blocking`] makes one without threads: the ring's own makes the calls. That is for
//! tools which do nothing but copy to and from the host's page cache: a call then costs what it
//! costs, and nobody has to be woken for it.
//!
//! UNSAFETY: a `Job` carries the address of a slot's memory to a worker. The slot owns this memory
//! and is removed only when the job's result has come back.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Done, Engine, Events, FileOp, Request, RingStats,
    doorbells::Doorbells,
    slots::{Outcome, Slots},
};
use crate::{
    BlockError,
    file::{File, FileId},
    iothread::inbox::Inbox,
};

/// Most threads of one ring.
const WORKERS_MAX: usize = 8;
/// The key of the pool's own eventfd.
const RESULTS_KEY: u32 = u32::MAX - 1;
/// How long a ring that is dropped waits for its requests.
const DROP_WAIT: Duration = Duration::from_secs(30);

/// One blocking call.
#[derive(Clone, Copy, Debug)]
enum Call {
    Read { iov: *const libc::iovec, count: i32, offset: i64 },
    Write { iov: *const libc::iovec, count: i32, offset: i64, fua: bool },
    Sync,
    Fallocate { mode: i32, offset: i64, len: i64 },
    SetLen(i64),
}

#[derive(Debug)]
struct Job {
    slot: u32,
    fd: RawFd,
    call: Call,
}

// SAFETY: the addresses in a call are valid until its result is back, on whatever thread it runs
// (module header).
unsafe impl Send for Job {}

/// Bytes, or a negative errno.
fn errno_result(value: isize) -> i32 {
    if value < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    // The kernel moves at most 2 GiB less a page at once.
    i32::try_from(value).unwrap_or(i32::MAX)
}

impl Job {
    fn run(&self) -> i32 {
        let fd = self.fd;
        let result = match self.call {
            Call::Read { iov, count, offset } => {
                // SAFETY: `count` segments at `iov`, kept by the slot (module header).
                unsafe { libc::preadv(fd, iov, count, offset) }
            }
            Call::Write { iov, count, offset, fua: false } => {
                // SAFETY: as above.
                unsafe { libc::pwritev(fd, iov, count, offset) }
            }
            Call::Write { iov, count, offset, fua: true } => {
                return write_through(fd, iov, count, offset);
            }
            // SAFETY: no memory is involved.
            Call::Sync => (unsafe { libc::fdatasync(fd) }) as isize,
            Call::Fallocate { mode, offset, len } => {
                // SAFETY: no memory is involved.
                (unsafe { libc::fallocate(fd, mode, offset, len) }) as isize
            }
            // SAFETY: no memory is involved.
            Call::SetLen(len) => (unsafe { libc::ftruncate(fd, len) }) as isize,
        };
        errno_result(result)
    }
}

/// A write that is durable when it returns; with a sync of its own where the file system knows no
/// `RWF_DSYNC`.
fn write_through(fd: RawFd, iov: *const libc::iovec, count: i32, offset: i64) -> i32 {
    // SAFETY: `count` segments at `iov`, kept by the slot (module header).
    let result = errno_result(unsafe { libc::pwritev2(fd, iov, count, offset, libc::RWF_DSYNC) });
    if !matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS) {
        return result;
    }
    // SAFETY: as above.
    let result = errno_result(unsafe { libc::pwritev(fd, iov, count, offset) });
    if result <= 0 {
        return result;
    }
    // SAFETY: no memory is involved.
    let synced = errno_result(unsafe { libc::fdatasync(fd) } as isize);
    if synced < 0 { synced } else { result }
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    /// Workers that wait for a job.
    idle: usize,
    stop: bool,
}

/// What a ring and its workers share.
struct Pool {
    work: Mutex<Work>,
    more: Condvar,
    results: Inbox<(u32, i32)>,
    /// Signalled when there are results and the ring sleeps.
    wake: OwnedFd,
}

impl Pool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut work = self.lock();
        loop {
            if let Some(job) = work.jobs.pop_front() {
                return Some(job);
            }
            if work.stop {
                return None;
            }
            work.idle += 1;
            work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
        }
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            let result = job.run();
            if self.results.push((job.slot, result)) == Ok(true) {
                let one = 1u64.to_ne_bytes();
                // SAFETY: an eventfd of ours and eight valid bytes.
                unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            }
        }
    }
}

/// See the module.
pub struct ThreadsEngine {
    pool: Arc<Pool>,
    workers: Vec<JoinHandle<()>>,
    slots: Slots,
    /// Submitted and not yet handed to the pool.
    fresh: Vec<Job>,
    results: VecDeque<(u32, i32)>,
    files: Vec<Option<Arc<File>>>,
    ended: Vec<Done>,
    doorbells: Doorbells,
    stats: RingStats,
    /// This thread makes the calls.
    blocking: bool,
}

impl ThreadsEngine {
    /// Makes a ring that makes every call on its own thread, one after the other.
    ///
    /// # Errors
    /// When there is no eventfd or epoll descriptor left.
    pub fn blocking() -> io::Result<Self> {
        let mut engine = Self::new()?;
        engine.blocking = true;
        Ok(engine)
    }

    /// Makes a ring without threads; they come with the first requests.
    ///
    /// # Errors
    /// When there is no eventfd or epoll descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let wake = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut doorbells = Doorbells::default();
        // At once: when the ring is dropped, descriptors it watched may be closed already, and the
        // kernel forgets those by itself.
        doorbells.open()?;
        doorbells.watch(wake.as_raw_fd(), RESULTS_KEY);
        let pool =
            Pool { work: Mutex::default(), more: Condvar::new(), results: Inbox::default(), wake };
        Ok(Self {
            pool: Arc::new(pool),
            workers: Vec::new(),
            slots: Slots::default(),
            fresh: Vec::new(),
            results: VecDeque::new(),
            files: vec![None; FileId::MAX],
            ended: Vec::new(),
            doorbells,
            stats: RingStats::default(),
            blocking: false,
        })
    }

    fn resolve(&mut self, id: FileId) -> Result<RawFd, BlockError> {
        let entry = &mut self.files[id.index()];
        if entry.is_none() {
            *entry = File::get(id);
        }
        let file = entry.as_ref().ok_or(BlockError::Gone)?;
        file.fd().ok_or(BlockError::Unsupported)
    }

    /// The call for what is left of a slot.
    fn call(&mut self, index: u32) -> Result<Call, BlockError> {
        let slot = self.slots.get_mut(index).ok_or(BlockError::Gone)?;
        let request = &slot.request;
        let too_far = |_| BlockError::NoSpace;
        let place = request.offset.checked_add(slot.done).ok_or(BlockError::NoSpace)?;
        let offset = i64::try_from(place).map_err(too_far)?;
        let iov = slot.memory().iovecs();
        let count = iov.len().min(libc::UIO_MAXIOV as usize) as i32;
        let fallocate = |mode| {
            let len = i64::try_from(request.len).map_err(too_far)?;
            Ok(Call::Fallocate { mode, offset, len })
        };
        match request.op {
            FileOp::Read => Ok(Call::Read { iov: iov.as_ptr(), count, offset }),
            FileOp::Write { fua } => Ok(Call::Write { iov: iov.as_ptr(), count, offset, fua }),
            FileOp::Sync => Ok(Call::Sync),
            FileOp::PunchHole => fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
            FileOp::ZeroRange => fallocate(libc::FALLOC_FL_ZERO_RANGE),
            FileOp::Allocate => fallocate(0),
            FileOp::SetLen => Ok(Call::SetLen(offset)),
        }
    }

    fn start(&mut self, slot: u32, fd: RawFd) {
        match self.call(slot) {
            Ok(call) => self.fresh.push(Job { slot, fd, call }),
            Err(error) => self.finish(slot, Err(error)),
        }
    }

    fn finish(&mut self, index: u32, result: Result<(), BlockError>) {
        if let Some(slot) = self.slots.remove(index) {
            let Request { owner, buf, .. } = slot.request;
            self.ended.push(Done { owner, buf, result });
        }
    }

    fn judge(&mut self, index: u32, result: i32) {
        self.stats.system_calls += 1;
        let Some(slot) = self.slots.get_mut(index) else {
            debug_assert!(false, "a result without a request");
            return;
        };
        let file = slot.request.file;
        match slot.judge(result) {
            Outcome::Complete => self.finish(index, Ok(())),
            Outcome::Failed(error) => self.finish(index, Err(error)),
            Outcome::Again => match self.resolve(file) {
                Ok(fd) => self.start(index, fd),
                Err(error) => self.finish(index, Err(error)),
            },
        }
    }

    /// Starts the threads that `waiting` jobs can use, beyond those that are idle.
    fn spawn(&mut self, waiting: usize) {
        for _ in 0..waiting.min(WORKERS_MAX - self.workers.len()) {
            let pool = Arc::clone(&self.pool);
            let builder = std::thread::Builder::new().name("spindle-aio".into());
            match builder.spawn(move || pool.serve()) {
                Ok(worker) => self.workers.push(worker),
                Err(e) if self.workers.is_empty() => {
                    // Nothing would ever run: better a loud end than a guest that waits for ever.
                    panic!("cannot start a thread for aio=threads: {e}");
                }
                Err(_) => break,
            }
        }
    }
}

impl Engine for ThreadsEngine {
    fn name(&self) -> &'static str {
        if self.blocking { "blocking" } else { "threads" }
    }

    fn submit(&mut self, request: Request) {
        self.stats.requests += 1;
        let nothing = request.len == 0 && !matches!(request.op, FileOp::Sync | FileOp::SetLen);
        let resolved = match self.resolve(request.file) {
            Ok(_) if nothing => Err(Ok(())),
            Ok(fd) => Ok(fd),
            Err(error) => Err(Err(error)),
        };
        match resolved {
            Ok(fd) => {
                let slot = self.slots.insert(request);
                self.start(slot, fd);
            }
            Err(result) => {
                let Request { owner, buf, .. } = request;
                self.ended.push(Done { owner, buf, result });
            }
        }
    }

    fn kick(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        if self.blocking {
            self.results.extend(self.fresh.drain(..).map(|job| (job.slot, job.run())));
            return;
        }
        let (waiting, idle) = {
            let mut work = self.pool.lock();
            work.jobs.extend(self.fresh.drain(..));
            (work.jobs.len(), work.idle)
        };
        for _ in 0..waiting.min(idle) {
            self.pool.more.notify_one();
        }
        self.spawn(waiting.saturating_sub(idle));
    }

    fn reap(&mut self, events: &mut Events) {
        let mut results = std::mem::take(&mut self.results);
        self.pool.results.take(&mut results);
        for (index, result) in results.drain(..) {
            self.judge(index, result);
        }
        self.results = results;
        events.done.append(&mut self.ended);
        let before = events.signalled.len();
        self.doorbells.take(&mut events.signalled);
        if events.signalled[before..].contains(&RESULTS_KEY) {
            events.signalled.retain(|key| *key != RESULTS_KEY);
        }
    }

    fn wait(&mut self, until: Option<Instant>) {
        self.kick();
        if self.ended.is_empty() && self.results.is_empty() && self.pool.results.prepare_sleep() {
            self.doorbells.block(until);
            self.pool.results.awake();
        }
    }

    fn has_news(&mut self) -> bool {
        let here = !self.fresh.is_empty() || !self.ended.is_empty() || !self.results.is_empty();
        here || self.pool.results.has_items()
    }

    fn watch(&mut self, fd: RawFd, key: u32) {
        self.doorbells.watch(fd, key);
    }

    fn unwatch(&mut self, key: u32) {
        self.doorbells.unwatch(key);
    }

    fn forget(&mut self, file: FileId) {
        self.files[file.index()] = None;
    }

    fn in_flight(&self) -> usize {
        self.slots.used() + self.ended.len()
    }

    fn stats(&self) -> RingStats {
        let RingStats { requests, system_calls } = self.stats;
        RingStats { requests, system_calls: system_calls + self.doorbells.system_calls }
    }
}

impl Drop for ThreadsEngine {
    /// Workers may still write into memory that slots own: wait for them, or leak the memory.
    fn drop(&mut self) {
        let deadline = Instant::now() + DROP_WAIT;
        let mut events = Events::default();
        while self.slots.used() > 0 && Instant::now() < deadline {
            self.wait(Some(deadline));
            self.reap(&mut events);
            events.done.clear();
        }
        self.pool.lock().stop = true;
        self.pool.more.notify_all();
        if self.slots.used() > 0 {
            log::error!("{} requests never came back; their memory is leaked", self.slots.used());
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.files));
            return;
        }
        for worker in self.workers.drain(..) {
            // A worker makes system calls and cannot panic.
            drop(worker.join());
        }
    }
}
