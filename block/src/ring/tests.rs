//! What every engine must do, run over all three.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use super::{
    sim::World,
    threads::ThreadsEngine,
    uring::{Options, UringEngine},
    *,
};
use crate::{
    Cx, Iothread,
    file::{Backend, File},
    iothread::{Clock, Port, Progress, Queue},
};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Uring,
    Threads,
    Sim,
}

const KINDS: [Kind; 3] = [Kind::Uring, Kind::Threads, Kind::Sim];

/// An iothread, and where its files come from.
struct Rig {
    cx: Cx,
    world: Option<World>,
}

impl Rig {
    fn new(kind: Kind) -> Self {
        let host = |ring| Iothread::new("test", ring, Clock::Real).expect("iothread");
        let (cx, world) = match kind {
            Kind::Uring => {
                (host(Box::new(UringEngine::new(Options::default()).expect("io_uring"))), None)
            }
            Kind::Threads => (host(Box::new(ThreadsEngine::new().expect("threads"))), None),
            Kind::Sim => {
                let world = World::new(fastrand::u64(..));
                (world.iothread("test").expect("iothread"), Some(world))
            }
        };
        Self { cx, world }
    }

    fn file(&self) -> Arc<File> {
        match &self.world {
            Some(world) => world.create_file("test", &[], 0),
            None => {
                let file = tempfile::tempfile().expect("a temporary file");
                File::register("test".as_ref(), Backend::Host(file.into())).expect("a number")
            }
        }
    }

    fn op(&self, op: FileOp, file: &File, range: (u64, u64)) -> Result<(), BlockError> {
        self.with_buf(op, file, range, IoBuf::empty()).1
    }

    fn with_buf(
        &self,
        op: FileOp,
        file: &File,
        range: (u64, u64),
        buf: IoBuf,
    ) -> (IoBuf, Result<(), BlockError>) {
        self.cx.block_on(self.cx.file_op(op, file.id(), range, buf, Pin::NONE))
    }

    fn write(&self, file: &File, at: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let op = FileOp::Write { fua: false };
        self.with_buf(op, file, (at, bytes.len() as u64), IoBuf::from_slice(bytes)).1
    }

    fn read(&self, file: &File, at: u64, len: u64) -> Vec<u8> {
        let mut dirty = IoBuf::zeroed(len as usize);
        dirty.write_at(0, &vec![0xee; len as usize]);
        let (buf, result) = self.with_buf(FileOp::Read, file, (at, len), dirty);
        result.expect("read");
        buf.to_vec()
    }

    fn drain(&self) {
        while self.cx.ring_in_flight() > 0 {
            self.cx.turn();
            self.cx.kick();
            if let Some(world) = &self.world {
                world.step();
            }
        }
        while self.cx.turn() {}
    }
}

/// `parts` segments of `n` bytes in descending order of address, so that none can be joined.
fn scattered(parts: u64, n: u64) -> IoBuf {
    let whole = IoBuf::zeroed((parts * n) as usize);
    let mut buf = IoBuf::with_capacity(parts as usize);
    for part in (0..parts).rev() {
        let base = whole.view(part * n, n).iovecs()[0].iov_base.cast();
        // SAFETY: `whole` is kept below.
        unsafe { buf.push(base, n as usize) };
    }
    struct KeepBuf(#[expect(dead_code, reason = "kept, not used")] std::sync::Mutex<IoBuf>);
    buf.set_keep(Arc::new(KeepBuf(std::sync::Mutex::new(whole))));
    buf
}

#[test]
fn scattered_writes_are_read_back_and_the_rest_of_the_file_is_zeros() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let file = rig.file();
        // More segments than one system call takes.
        let (parts, n) = (3000, 700);
        let data: Vec<u8> = (0..parts * n).map(|i| (i / 97) as u8).collect();
        for fua in [false, true] {
            let mut buf = scattered(parts, n);
            buf.write_at(0, &data);
            let at = 512 + u64::from(fua) * parts * n;
            let (_, result) = rig.with_buf(FileOp::Write { fua }, &file, (at, parts * n), buf);
            assert_eq!(result, Ok(()), "{kind:?}");
        }
        let (buf, result) =
            rig.with_buf(FileOp::Read, &file, (0, 4 * parts * n), scattered(2 * parts, 2 * n));
        assert_eq!(result, Ok(()), "{kind:?}");
        let mut expected = vec![0; 512];
        expected.extend_from_slice(&data);
        expected.extend_from_slice(&data);
        expected.resize((4 * parts * n) as usize, 0);
        assert!(buf.to_vec() == expected, "{kind:?}");
    }
}

#[test]
fn reads_beyond_the_end_are_zeros() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let file = rig.file();
        rig.write(&file, 0, &[7; 1000]).expect("write");
        let mut expected = vec![7; 600];
        expected.resize(2000, 0);
        assert_eq!(rig.read(&file, 400, 2000), expected, "{kind:?}");
        assert_eq!(rig.read(&file, 1000, 10), [0; 10], "{kind:?}");
        assert_eq!(rig.read(&file, 1 << 40, 10), [0; 10], "{kind:?}");
    }
}

#[test]
fn holes_zeroed_ranges_and_lengths_read_as_they_should() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let file = rig.file();
        rig.write(&file, 0, &[7; 20_000]).expect("write");
        let mut model = vec![7u8; 20_000];
        assert_eq!(rig.op(FileOp::PunchHole, &file, (3000, 6000)), Ok(()), "{kind:?}");
        model[3000..9000].fill(0);
        // Punching never grows a file.
        assert_eq!(rig.op(FileOp::PunchHole, &file, (19_000, 6000)), Ok(()), "{kind:?}");
        model[19_000..].fill(0);
        match rig.op(FileOp::ZeroRange, &file, (10_000, 1000)) {
            Ok(()) => model[10_000..11_000].fill(0),
            // A file system that cannot says so; the simulator always can.
            error => {
                assert_eq!(error, Err(BlockError::Unsupported), "{kind:?}");
                assert!(!matches!(kind, Kind::Sim));
            }
        }
        assert_eq!(rig.op(FileOp::Allocate, &file, (30_000, 10_000)), Ok(()), "{kind:?}");
        model.resize(40_000, 0);
        assert_eq!(rig.read(&file, 0, 40_000), model, "{kind:?}");
        assert_eq!(rig.op(FileOp::SetLen, &file, (12_000, 0)), Ok(()), "{kind:?}");
        assert_eq!(rig.op(FileOp::SetLen, &file, (20_000, 0)), Ok(()), "{kind:?}");
        model.truncate(12_000);
        model.resize(20_000, 0);
        assert_eq!(rig.read(&file, 0, 20_000), model, "{kind:?}");
        assert_eq!(rig.op(FileOp::Sync, &file, (0, 0)), Ok(()), "{kind:?}");
        let len = match &rig.world {
            Some(world) => world.contents(&file).len(),
            None => {
                let fd = file.fd().expect("a host file");
                std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("metadata").len()
            }
        };
        assert_eq!(len, 20_000, "{kind:?}");
    }
}

#[test]
fn impossible_requests_end_with_an_error() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let file = rig.file();
        assert!(rig.write(&file, i64::MAX as u64, &[1; 10]).is_err(), "{kind:?}");
        assert!(rig.op(FileOp::SetLen, &file, (u64::MAX, 0)).is_err(), "{kind:?}");
        // Nothing to do is nothing to wait for.
        assert_eq!(rig.write(&file, 5, &[]), Ok(()), "{kind:?}");
        assert_eq!(rig.op(FileOp::PunchHole, &file, (5, 0)), Ok(()), "{kind:?}");
        assert_eq!(rig.cx.ring_in_flight(), 0, "{kind:?}");
    }
}

#[test]
fn a_dropped_wait_leaves_memory_and_pin_to_the_ring() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let file = rig.file();
        let pins = crate::PinDomain::default();
        for n in 0..20u64 {
            let (buf, pin) = (IoBuf::from_slice(&[n as u8 + 1; 4096]), pins.pin(rig.cx.lane()));
            let op = FileOp::Write { fua: false };
            drop(rig.cx.file_op(op, file.id(), (n * 4096, 4096), buf, pin));
        }
        assert_eq!((pins.held(), rig.cx.ring_in_flight()), (20, 20), "{kind:?}");
        rig.drain();
        assert_eq!(pins.held(), 0, "{kind:?}");
        for n in 0..20u64 {
            assert_eq!(rig.read(&file, n * 4096, 4096), [n as u8 + 1; 4096], "{kind:?}");
        }
    }
}

#[test]
fn dropping_a_ring_waits_for_what_is_in_flight() {
    for kind in KINDS {
        let mut rig = Rig::new(kind);
        let file = rig.file();
        let pins = crate::PinDomain::default();
        for n in 0..20u64 {
            let (buf, pin) = (IoBuf::from_slice(&[1; 4096]), pins.pin(rig.cx.lane()));
            let op = FileOp::Write { fua: false };
            drop(rig.cx.file_op(op, file.id(), (n * 4096, 4096), buf, pin));
        }
        rig.cx.kick();
        let world = rig.world.take();
        drop(rig);
        assert_eq!(pins.held(), 0, "{kind:?}");
        let again = match world {
            Some(world) => {
                Rig { cx: world.iothread("again").expect("iothread"), world: Some(world) }
            }
            None => Rig::new(kind),
        };
        assert_eq!(again.read(&file, 0, 20 * 4096), vec![1; 20 * 4096], "{kind:?}");
    }
}

#[test]
fn many_requests_at_once_all_end_with_their_own_memory() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let (file, cx) = (rig.file(), &rig.cx);
        let id = file.id();
        let ended = std::rc::Rc::new(std::cell::Cell::new(0));
        for n in 0..2000u64 {
            let (task_cx, ended) = (Cx::clone(cx), std::rc::Rc::clone(&ended));
            cx.spawn(async move {
                let value = (n % 251) as u8;
                let buf = IoBuf::from_slice(&[value; 512]);
                let op = FileOp::Write { fua: false };
                let (_, result) = task_cx.file_op(op, id, (n * 512, 512), buf, Pin::NONE).await;
                result.expect("write");
                let buf = IoBuf::zeroed(512);
                let (buf, result) =
                    task_cx.file_op(FileOp::Read, id, (n * 512, 512), buf, Pin::NONE).await;
                result.expect("read");
                assert_eq!(buf.to_vec(), [value; 512]);
                ended.set(ended.get() + 1);
            });
        }
        while cx.tasks() > 0 {
            cx.turn();
            cx.kick();
            if let Some(world) = &rig.world {
                world.step();
            }
        }
        assert_eq!((ended.get(), cx.ring_in_flight()), (2000, 0), "{kind:?}");
        assert_eq!(cx.ring_stats().requests, 4000, "{kind:?}");
    }
}

/// Runs an iothread on a thread of its own and returns its handle.
fn running(kind: Kind) -> (crate::iothread::Handle, std::thread::JoinHandle<()>) {
    let (tx, rx) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let rig = Rig::new(kind);
        tx.send(rig.cx.handle()).expect("receiver");
        rig.cx.run();
    });
    (rx.recv().expect("handle"), thread)
}

#[test]
fn messages_from_other_threads_wake_a_sleeping_iothread() {
    for kind in KINDS {
        let (handle, thread) = running(kind);
        for n in 0..1000u32 {
            assert_eq!(handle.call(move |_| n + 1), Some(n + 1), "{kind:?}");
        }
        handle.post(|cx| cx.stop());
        thread.join().expect("iothread");
        assert_eq!(handle.call(|_| ()), None, "{kind:?}");
    }
}

#[test]
fn sleeping_tasks_wake_in_time_while_nothing_else_happens() {
    for kind in [Kind::Uring, Kind::Threads] {
        let rig = Rig::new(kind);
        let cx = Cx::clone(&rig.cx);
        let start = Instant::now();
        rig.cx.block_on(async move { cx.sleep(Duration::from_millis(30)).await });
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(30), "{kind:?}: {took:?}");
    }
}

/// A queue whose doorbell counts: every ring is answered once the queue has seen it.
struct Bell {
    fd: OwnedFd,
    rung: Arc<AtomicU32>,
    seen: u32,
    answer: mpsc::Sender<u32>,
    detached: Arc<AtomicBool>,
}

impl Queue for Bell {
    fn service(&mut self, _: &mut Port<'_>, _: u32) -> Progress {
        self.seen = self.rung.load(SeqCst);
        self.answer.send(self.seen).expect("somebody listens");
        Progress::Idle
    }
    fn complete(&mut self, _: &mut Port<'_>, _: u32, _: IoBuf, _: Result<(), BlockError>) {}
    fn flush_irq(&mut self) {}
    fn pending(&mut self) -> bool {
        self.rung.load(SeqCst) != self.seen
    }
    fn notify(&mut self, _: bool) {}
    fn doorbell(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }
    fn drained(&mut self) {}
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.detached.store(true, SeqCst);
    }
}

fn ring_bell(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight valid bytes.
    let n = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), 8) };
    assert_eq!(n, 8);
}

#[test]
fn every_doorbell_wakes_a_sleeping_iothread_though_nobody_reads_it() {
    for kind in KINDS {
        let (handle, thread) = running(kind);
        // SAFETY: a plain system call; checked below.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: just made.
        let bell = unsafe { OwnedFd::from_raw_fd(fd) };
        let (rung, detached) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (answer, answers) = mpsc::channel();
        let queue = Bell {
            fd: bell.try_clone().expect("a descriptor"),
            rung: Arc::clone(&rung),
            seen: 0,
            answer,
            detached: Arc::clone(&detached),
        };
        let slot = handle.call(move |cx| cx.attach(Box::new(queue))).expect("attached");
        for n in 1..=500 {
            rung.store(n, SeqCst);
            ring_bell(&bell);
            let answered = answers.recv_timeout(Duration::from_secs(10));
            assert_eq!(answered, Ok(n), "{kind:?}: a doorbell was not heard");
        }
        // Signalled and never read, the descriptor must not keep the iothread awake. Other tests of
        // this process may: every iothread hears of every file that closes.
        let calls = || handle.call(|cx| cx.ring_stats().system_calls).expect("calls");
        let is_calm = || {
            let before = calls();
            std::thread::sleep(Duration::from_millis(100));
            calls() - before < 20
        };
        assert!((0..100).any(|_| is_calm()), "{kind:?}: it never sleeps");
        handle.call(move |cx| drop(cx.detach(slot))).expect("detached");
        assert!(detached.load(SeqCst), "{kind:?}");
        ring_bell(&bell);
        assert_eq!(handle.call(|_| 1), Some(1), "{kind:?}");
        handle.post(|cx| cx.stop());
        thread.join().expect("iothread");
    }
}

#[test]
fn two_queues_may_share_a_doorbell() {
    for kind in KINDS {
        let (handle, thread) = running(kind);
        // SAFETY: a plain system call; checked below.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: just made, and closed by `bell` alone: both queues watch the same number.
        let bell = unsafe { OwnedFd::from_raw_fd(fd) };
        let rung = Arc::new(AtomicU32::new(0));
        let mut slots = Vec::new();
        let mut answers = Vec::new();
        for _ in 0..2 {
            let (answer, receiver) = mpsc::channel();
            let queue = Shared(
                Bell {
                    fd: bell.try_clone().expect("a descriptor"),
                    rung: Arc::clone(&rung),
                    seen: 0,
                    answer,
                    detached: Arc::default(),
                },
                fd,
            );
            slots.push(handle.call(move |cx| cx.attach(Box::new(queue))).expect("attached"));
            answers.push(receiver);
        }
        let expect = |n: u32, answers: &[mpsc::Receiver<u32>]| {
            rung.store(n, SeqCst);
            ring_bell(&bell);
            for answer in answers {
                assert_eq!(answer.recv_timeout(Duration::from_secs(10)), Ok(n), "{kind:?}");
            }
        };
        expect(1, &answers);
        let gone = slots.remove(0);
        answers.remove(0);
        handle.call(move |cx| drop(cx.detach(gone))).expect("detached");
        expect(2, &answers);
        handle.post(|cx| cx.stop());
        thread.join().expect("iothread");
    }
}

/// A [`Bell`] under another descriptor.
struct Shared(Bell, RawFd);

impl Queue for Shared {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        self.0.service(port, budget)
    }
    fn complete(&mut self, _: &mut Port<'_>, _: u32, _: IoBuf, _: Result<(), BlockError>) {}
    fn flush_irq(&mut self) {}
    fn pending(&mut self) -> bool {
        self.0.pending()
    }
    fn notify(&mut self, _: bool) {}
    fn doorbell(&self) -> Option<RawFd> {
        Some(self.1)
    }
    fn drained(&mut self) {}
}

#[test]
fn open_gives_what_was_asked_for_and_falls_back_only_where_it_must() {
    let (ring, notice) = open(Aio::Threads).expect("a ring");
    assert_eq!((ring.name(), notice), ("threads", None));
    let (ring, notice) = open(Aio::IoUring).expect("a ring");
    assert_eq!((ring.name() == "io_uring"), notice.is_none());
    for (errno, expected) in [(libc::EPERM, true), (libc::ENOSYS, true), (libc::EMFILE, false)] {
        assert_eq!(falls_back(&io::Error::from_raw_os_error(errno)), expected);
    }
}

#[test]
fn forgetting_a_closed_file_spares_the_next_one_with_its_number() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let first = rig.file();
        crate::iothread::forget_everywhere(&first);
        drop(first);
        let next = rig.file();
        // On its way to the ring, but not in the kernel, when the message is read.
        let range = (0, 512);
        let write = FileOp::Write { fua: false };
        let wait = rig.cx.file_op(write, next.id(), range, IoBuf::zeroed(512), Pin::NONE);
        let (_, result) = rig.cx.block_on(wait);
        assert_eq!(result, Ok(()), "{kind:?}");
    }
}
