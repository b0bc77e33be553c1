//! The io_uring engine: `SINGLE_ISSUER | DEFER_TASKRUN`, registered files, doorbells as multishot
//! polls on the same ring, so that the thread blocks in exactly one place.
//!
//! UNSAFETY: submission entries carry addresses. Every entry that names memory belongs to a
//! `Slot` that owns this memory and is removed only by its completion.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Instant,
};

use io_uring::{IoUring, Probe, cqueue, opcode, register::Restriction, squeue, types};

use super::{
    Done, Engine, Events, FileOp, Request, RingStats,
    slots::{Outcome, Slots},
};
use crate::{
    BlockError,
    file::{File, FileId},
};

/// How many entries a turn gathers before the first go to the kernel, see
/// [`UringEngine::head_start`].
const FIRST_GATHERED: u32 = 2;

/// Kinds of user data, in its top byte.
const KIND_REQUEST: u64 = 0;
const KIND_WATCH: u64 = 1 << 56;
const KIND_IGNORE: u64 = 2 << 56;
const KIND_MASK: u64 = 0xff << 56;

/// The largest single transfer: the kernel cuts at just below 2 GiB anyway.
const TRANSFER_MAX: u64 = 1 << 30;

const IORING_ENTER_GETEVENTS: u32 = 1;
/// `io_uring_register` opcodes that a running ring needs: `FILES_UPDATE`.
const IORING_REGISTER_FILES_UPDATE: u8 = 6;
/// `IOSQE_FIXED_FILE`.
const SQE_FIXED_FILE: u8 = 1;

/// Operations a running ring may submit; the kernel refuses every other.
const ALLOWED: [u8; 9] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::PollAdd::CODE,
    opcode::PollRemove::CODE,
    opcode::Nop::CODE,
];

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Submission queue entries; the completion queue is eight times that.
    pub entries: u32,
    /// Let the kernel refuse operations and registrations that are not used.
    pub restrict: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { entries: 256, restrict: true }
    }
}

/// See the module.
pub struct UringEngine {
    ring: IoUring,
    slots: Slots,
    /// Files by number, as far as this ring has used them; the table is registered.
    files: Vec<Option<Arc<File>>>,
    /// Watched descriptors by key.
    watches: Vec<(u32, RawFd)>,
    /// Entries that found the submission queue full.
    refused: Vec<Done>,
    /// Entries of this turn that the kernel has not been given.
    gathered: u32,
    /// At how many of them it is.
    gather: u32,
    stats: RingStats,
}

impl UringEngine {
    /// Makes a ring; call it on the thread that will use it.
    ///
    /// # Errors
    /// Where io_uring is missing, forbidden, or older than Linux 6.1 in what it offers.
    pub fn new(options: Options) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(options.entries * 8)
            .dontfork();
        if options.restrict {
            builder.setup_r_disabled();
        }
        let ring: IoUring = builder.build(options.entries)?;
        let params = ring.params();
        if !(params.is_feature_nodrop()
            && params.is_feature_ext_arg()
            && params.is_feature_submit_stable())
        {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !ALLOWED.iter().all(|op| probe.is_supported(*op)) {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        ring.submitter().register_files_sparse(FileId::MAX as u32)?;
        if options.restrict {
            let mut rules: Vec<_> = ALLOWED.iter().map(|op| Restriction::sqe_op(*op)).collect();
            rules.push(Restriction::sqe_flags_allowed(SQE_FIXED_FILE));
            rules.push(Restriction::register_op(IORING_REGISTER_FILES_UPDATE));
            ring.submitter().register_restrictions(&mut rules)?;
            ring.submitter().register_enable_rings()?;
        }
        Ok(Self {
            ring,
            slots: Slots::default(),
            files: vec![None; FileId::MAX],
            watches: Vec::new(),
            refused: Vec::new(),
            gathered: 0,
            gather: FIRST_GATHERED,
            stats: RingStats::default(),
        })
    }

    /// Makes sure that the file is in the registered table.
    fn resolve(&mut self, id: FileId) -> Result<&Arc<File>, BlockError> {
        let index = id.index();
        if self.files[index].is_none() {
            let file = File::get(id).ok_or(BlockError::Gone)?;
            let fd = file.fd().ok_or(BlockError::Unsupported)?;
            self.stats.system_calls += 1;
            self.ring.submitter().register_files_update(index as u32, &[fd])?;
            self.files[index] = Some(file);
        }
        self.files[index].as_ref().ok_or(BlockError::Gone)
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), BlockError> {
        for _ in 0..2 {
            // SAFETY: module header: the entry's memory is owned by a slot until it completes.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.gathered += 1;
                return Ok(());
            }
            self.enter(0, None);
        }
        Err(BlockError::NoMemory)
    }

    /// The entry for what is left of a slot.
    fn entry(&mut self, index: u32) -> Option<squeue::Entry> {
        let slot = self.slots.get_mut(index)?;
        let request = &slot.request;
        let fd = types::Fixed(request.file.index() as u32);
        let offset = request.offset + slot.done;
        let memory = slot.memory();
        let iov = memory.iovecs();
        let one = iov.len() == 1 && memory.len() <= TRANSFER_MAX;
        let count = iov.len().min(libc::UIO_MAXIOV as usize) as u32;
        let dsync = |fua: bool| if fua { libc::RWF_DSYNC } else { 0 };
        Some(match request.op {
            FileOp::Read if one => {
                opcode::Read::new(fd, iov[0].iov_base.cast(), iov[0].iov_len as u32)
                    .offset(offset)
                    .build()
            }
            FileOp::Read => opcode::Readv::new(fd, iov.as_ptr(), count).offset(offset).build(),
            FileOp::Write { fua } if one => {
                opcode::Write::new(fd, iov[0].iov_base.cast(), iov[0].iov_len as u32)
                    .offset(offset)
                    .rw_flags(dsync(fua))
                    .build()
            }
            FileOp::Write { fua } => opcode::Writev::new(fd, iov.as_ptr(), count)
                .offset(offset)
                .rw_flags(dsync(fua))
                .build(),
            FileOp::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            FileOp::PunchHole => opcode::Fallocate::new(fd, request.len)
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            FileOp::ZeroRange => opcode::Fallocate::new(fd, request.len)
                .offset(offset)
                .mode(libc::FALLOC_FL_ZERO_RANGE)
                .build(),
            FileOp::Allocate => {
                opcode::Fallocate::new(fd, request.len).offset(offset).mode(0).build()
            }
            FileOp::SetLen => return None,
        })
    }

    /// Puts slot `index` on the submission queue, or ends it with an error.
    fn start(&mut self, index: u32) {
        let pushed = match self.entry(index) {
            Some(entry) => {
                let entry = entry.user_data(KIND_REQUEST | u64::from(index));
                self.push(&entry)
            }
            None => Err(BlockError::Unsupported),
        };
        if let Err(error) = pushed {
            self.finish(index, Err(error));
        }
    }

    fn finish(&mut self, index: u32, result: Result<(), BlockError>) {
        if let Some(slot) = self.slots.remove(index) {
            let Request { owner, buf, .. } = slot.request;
            self.refused.push(Done { owner, buf, result });
        }
    }

    /// One `io_uring_enter`: submits, runs deferred completions, waits for `want` of them.
    fn enter(&mut self, want: u32, until: Option<Instant>) {
        let pending = {
            let mut sq = self.ring.submission();
            sq.sync();
            sq.len() as u32
        };
        self.stats.system_calls += 1;
        (self.gathered, self.gather) = (0, FIRST_GATHERED);
        let result = match until {
            Some(until) if want > 0 => {
                let left = until.saturating_duration_since(Instant::now());
                let timeout = types::Timespec::from(left);
                let args = types::SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(want as usize, &args)
            }
            _ => {
                let submitter = self.ring.submitter();
                // SAFETY: no argument is passed; the entries are valid (module header).
                unsafe {
                    submitter.enter::<libc::sigset_t>(pending, want, IORING_ENTER_GETEVENTS, None)
                }
            }
        };
        Self::must(result);
    }

    /// Gives the kernel what has been gathered, in the middle of a turn: the device works on the first
    /// requests while the others are prepared. It has more and more to do, so the pieces double, and a
    /// turn costs a few system calls at most. Nothing completes meanwhile.
    #[inline]
    fn head_start(&mut self) {
        if self.gathered >= self.gather {
            self.submit_gathered();
        }
    }

    #[inline(never)]
    fn submit_gathered(&mut self) {
        self.stats.system_calls += 1;
        let submitter = self.ring.submitter();
        // SAFETY: no argument is passed; the entries are valid (module header).
        Self::must(unsafe { submitter.enter::<libc::sigset_t>(self.gathered, 0, 0, None) });
        self.gathered = 0;
        // Where requests end as they are submitted (the page cache has it), there is nothing to gain.
        let at_once = !self.ring.completion().is_empty();
        self.gather = if at_once { u32::MAX } else { self.gather.saturating_mul(2) };
    }

    fn must(result: io::Result<usize>) {
        if let Err(e) = result
            && !matches!(
                e.raw_os_error(),
                Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY)
            )
        {
            // Nothing submits any more: better a loud end than a guest that waits for ever.
            panic!("io_uring_enter failed: {e}");
        }
    }

    fn arm(&mut self, fd: RawFd, key: u32) {
        let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(KIND_WATCH | u64::from(key));
        if self.push(&entry).is_err() {
            panic!("io_uring has no room to watch a doorbell");
        }
    }
}

/// `ftruncate` is short and has no io_uring operation before Linux 6.9.
fn set_len(file: &File, len: u64) -> Result<(), BlockError> {
    let fd = file.fd().ok_or(BlockError::Unsupported)?;
    let len = i64::try_from(len).map_err(|_| BlockError::NoSpace)?;
    // SAFETY: plain system call on a descriptor that `file` keeps open.
    if unsafe { libc::ftruncate(fd, len) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error().into())
    }
}

impl Engine for UringEngine {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn submit(&mut self, request: Request) {
        self.stats.requests += 1;
        let resolved = match self.resolve(request.file) {
            Ok(file) if request.op == FileOp::SetLen => Some(set_len(file, request.offset)),
            Ok(_) if request.len == 0 && request.op != FileOp::Sync => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        if let Some(result) = resolved {
            let Request { owner, buf, .. } = request;
            self.refused.push(Done { owner, buf, result });
            return;
        }
        let index = self.slots.insert(request);
        self.start(index);
        self.head_start();
    }

    fn kick(&mut self) {
        if !self.ring.submission().is_empty() || self.ring.submission().taskrun() {
            self.enter(0, None);
        }
    }

    fn has_news(&mut self) -> bool {
        let sq = self.ring.submission();
        let entering_helps = !sq.is_empty() || sq.taskrun() || sq.cq_overflow();
        drop(sq);
        // What ends while it is submitted is there at once, without a flag.
        entering_helps || !self.refused.is_empty() || !self.ring.completion().is_empty()
    }

    fn reap(&mut self, events: &mut Events) {
        loop {
            let Some(cqe) = self.ring.completion().next() else { break };
            let data = cqe.user_data();
            match data & KIND_MASK {
                KIND_REQUEST => {
                    let index = data as u32;
                    let Some(slot) = self.slots.get_mut(index) else {
                        debug_assert!(false, "a completion without a request");
                        continue;
                    };
                    match slot.judge(cqe.result()) {
                        Outcome::Complete => self.finish(index, Ok(())),
                        Outcome::Again => self.start(index),
                        Outcome::Failed(error) => self.finish(index, Err(error)),
                    }
                }
                KIND_WATCH => {
                    let key = data as u32;
                    let Some(&(_, fd)) = self.watches.iter().find(|w| w.0 == key) else {
                        continue;
                    };
                    events.signalled.push(key);
                    if !cqueue::more(cqe.flags()) {
                        self.arm(fd, key);
                    }
                }
                _ => {}
            }
        }
        events.done.append(&mut self.refused);
    }

    fn wait(&mut self, until: Option<Instant>) {
        let ready = !self.refused.is_empty() || !self.ring.completion().is_empty();
        self.enter(u32::from(!ready), until);
    }

    fn watch(&mut self, fd: RawFd, key: u32) {
        self.watches.push((key, fd));
        self.arm(fd, key);
    }

    fn unwatch(&mut self, key: u32) {
        self.watches.retain(|w| w.0 != key);
        let entry =
            opcode::PollRemove::new(KIND_WATCH | u64::from(key)).build().user_data(KIND_IGNORE);
        if self.push(&entry).is_err() {
            panic!("io_uring has no room to stop watching a doorbell");
        }
    }

    fn forget(&mut self, file: FileId) {
        if self.files[file.index()].take().is_some() {
            self.stats.system_calls += 1;
            // A failure leaves the descriptor in the table: the file stays open a little longer.
            if let Err(e) = self.ring.submitter().register_files_update(file.0, &[-1]) {
                log::warn!("cannot take file {} out of a ring: {e}", file.index());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.used() + self.refused.len()
    }

    fn stats(&self) -> RingStats {
        self.stats
    }
}

impl Drop for UringEngine {
    /// The kernel may still write into memory that slots own: wait for it, or leak the memory.
    fn drop(&mut self) {
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        let mut events = Events::default();
        while self.slots.used() > 0 && Instant::now() < deadline {
            self.wait(Some(deadline));
            self.reap(&mut events);
            events.done.clear();
        }
        if self.slots.used() > 0 {
            log::error!(
                "{} requests never came back from {:?}; their memory is leaked",
                self.slots.used(),
                self.ring.as_raw_fd()
            );
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_refuses_what_the_ring_does_not_use() {
        let mut engine = UringEngine::new(Options::default()).expect("io_uring");
        let entry = opcode::Close::new(types::Fd(0)).build().user_data(KIND_REQUEST);
        engine.push(&entry).expect("room");
        engine.enter(1, None);
        let cqe = engine.ring.completion().next().expect("a completion");
        assert_eq!(cqe.result(), -libc::EACCES);
    }

    /// Nops stand for requests: what counts is when the kernel is given them.
    #[test]
    fn a_turn_hands_over_in_pieces_that_double() {
        let mut engine = UringEngine::new(Options::default()).expect("io_uring");
        let entry = opcode::Nop::new().build().user_data(KIND_IGNORE);
        let mut handed = Vec::new();
        for n in 1..=14 {
            engine.push(&entry).expect("room");
            // As if none of them ended at once.
            while engine.ring.completion().next().is_some() {}
            let before = engine.gather;
            engine.head_start();
            if engine.gathered == 0 {
                handed.push(n);
                assert_eq!(engine.gather, u32::MAX, "they did end at once");
                engine.gather = before * 2;
            }
        }
        assert_eq!(handed, [2, 6, 14]);
        engine.push(&entry).expect("room");
        engine.enter(0, None);
        assert_eq!((engine.gathered, engine.gather), (0, FIRST_GATHERED));
    }
}
