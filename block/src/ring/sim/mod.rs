//! The simulator: files in memory that lose, tear and reorder what a real disk may.
//!
//! A [`World`] holds files and the rings that work on them, all on one thread and in virtual time.
//! A request is under way until the test lets it complete ([`World::step`]); which one is next is
//! up to the world's seed. A completed write is seen by reads at once but is durable only after a
//! sync that was submitted later has completed, or if it was FUA itself. [`World::crash`] says what
//! a power loss at this moment leaves: every write that is not durable, completed or under way, is
//! kept, lost or torn at any 512-byte boundary, in any order.
//!
//! A world does the same again for the same seed and the same calls. It prints its seed when it is
//! dropped by a panic.

mod disk;
mod engine;
mod fault;
mod image;

use std::{
    cell::RefCell,
    io,
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

pub use engine::SimEngine;
pub use fault::{Fault, FaultAction, FaultOp};
pub use image::Image;

use super::{Done, FileOp, Request};
use crate::{
    BlockError, Cx, IoBuf, Iothread, Lane,
    file::{Backend, File},
    iothread::Clock,
};
use disk::{Change, Disk};

/// The shortest and the longest time that most requests take, in nanoseconds.
const LATENCY_NS: std::ops::Range<u64> = 5_000..500_000;
/// One request in so many takes up to [`SLOWER`] times as long: much happens around it meanwhile.
const SLOW_ONE_IN: u8 = 16;
const SLOWER: u64 = 40;

/// Something that changes what a power loss may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counted from 1 through the world's life.
    pub number: u64,
    /// A write or change of length was submitted (`false`), or it or a sync completed.
    pub completed: bool,
    /// What was done.
    pub op: FileOp,
}

type Observer = Box<dyn FnMut(&World, Event)>;

/// A request under way.
struct Flight {
    engine: usize,
    request: Request,
    disk: usize,
    /// When it was submitted, in the order of all that happens.
    submitted: u64,
    /// When it completes, in nanoseconds.
    due: u64,
    fault: Option<FaultAction>,
    /// Keeps the number of the file its own.
    _file: Arc<File>,
}

#[derive(Default)]
struct Port {
    done: Vec<Done>,
    in_flight: usize,
}

struct Inner {
    seed: u64,
    rng: fastrand::Rng,
    base: Instant,
    ns: Arc<AtomicU64>,
    /// Orders submissions and completions.
    sequence: u64,
    disks: Vec<Disk>,
    ports: Vec<Port>,
    flights: Vec<Flight>,
    faults: Vec<(u32, Fault)>,
    next_fault: u32,
    events: u64,
    observer: Option<Observer>,
    off: bool,
    /// The iothread that has its turn in [`World::run_until`].
    running: Option<Lane>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulated world: seed {:#x}, event {}", self.seed, self.events);
        }
    }
}

/// See the module. Clones name the same world.
#[derive(Clone)]
pub struct World(Rc<RefCell<Inner>>);

/// What a power loss left.
#[derive(Clone, Debug)]
pub struct CrashImage {
    /// Name and bytes of each file, in the order of their creation.
    pub files: Vec<(String, Image)>,
}

impl CrashImage {
    /// The file with this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Image> {
        self.files.iter().find(|f| f.0 == name).map(|f| &f.1)
    }
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            base: Instant::now(),
            ns: Arc::default(),
            sequence: 0,
            disks: Vec::new(),
            ports: Vec::new(),
            flights: Vec::new(),
            faults: Vec::new(),
            next_fault: 0,
            events: 0,
            observer: None,
            off: false,
            running: None,
        })))
    }

    /// The seed it was made with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.borrow().seed
    }

    /// The world's clock, for iothreads.
    #[must_use]
    pub fn clock(&self) -> Clock {
        let inner = self.0.borrow();
        Clock::Manual { base: inner.base, ns: Arc::clone(&inner.ns) }
    }

    /// A file that holds `image`, durably.
    ///
    /// # Panics
    /// When [`FileId::MAX`](crate::file::FileId::MAX) files are open.
    #[must_use]
    pub fn create(&self, name: &str, image: Image) -> Arc<File> {
        let mut inner = self.0.borrow_mut();
        let number = inner.disks.len() as u32;
        inner.disks.push(Disk::new(name, image));
        File::register(Path::new(name), Backend::Sim(number)).expect("a free file number")
    }

    /// A file of `len` bytes that begins with `initial`, durably.
    ///
    /// # Panics
    /// As [`World::create`].
    #[must_use]
    pub fn create_file(&self, name: &str, initial: &[u8], len: u64) -> Arc<File> {
        let mut image = Image::from(initial);
        image.set_len(len);
        self.create(name, image)
    }

    /// A ring of this world.
    #[must_use]
    pub fn engine(&self) -> SimEngine {
        let mut inner = self.0.borrow_mut();
        inner.ports.push(Port::default());
        SimEngine::new(self.clone(), inner.ports.len() - 1)
    }

    /// An iothread of this world, on this thread.
    ///
    /// # Errors
    /// As [`Iothread::new`].
    pub fn iothread(&self, name: &str) -> io::Result<Cx> {
        Iothread::new(name, Box::new(self.engine()), self.clock())
    }

    /// Adds a fault and returns its number. Of several that apply, the first one added wins.
    pub fn add_fault(&self, fault: Fault) -> u32 {
        let mut inner = self.0.borrow_mut();
        inner.next_fault += 1;
        let number = inner.next_fault;
        inner.faults.push((number, fault));
        number
    }

    /// Takes a fault away. Requests that it applies to already keep it.
    pub fn remove_fault(&self, number: u32) {
        self.0.borrow_mut().faults.retain(|f| f.0 != number);
    }

    /// Calls `observer` after every [`Event`], with nothing of the world borrowed. It may look at
    /// the world and at other worlds, but not at this world's iothreads, which may be the ones that
    /// are running.
    pub fn observe(&self, observer: impl FnMut(&World, Event) + 'static) {
        self.0.borrow_mut().observer = Some(Box::new(observer));
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.borrow().events
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.borrow().flights.len()
    }

    /// Completes the request whose time comes next. Returns whether there was one.
    pub fn step(&self) -> bool {
        let mut inner = self.0.borrow_mut();
        let Some(index) = inner.next_flight() else { return false };
        let flight = inner.flights.swap_remove(index);
        let now = inner.ns.load(SeqCst).max(flight.due);
        inner.ns.store(now, SeqCst);
        let op = flight.request.op;
        inner.complete(flight);
        drop(inner);
        if op != FileOp::Read {
            self.event(op, true);
        }
        true
    }

    /// Lets the time pass that nothing needs to happen in: completes the next request, or moves the
    /// clock to `until` if that is earlier. Returns `false` when there is neither.
    pub(super) fn pass_time(&self, until: Option<Instant>) -> bool {
        let inner = self.0.borrow();
        let timer = until.map(|at| {
            u64::try_from(at.saturating_duration_since(inner.base).as_nanos()).unwrap_or(u64::MAX)
        });
        let due = inner.next_flight().map(|index| inner.flights[index].due);
        match (due, timer) {
            (None, None) => return false,
            (Some(due), timer) if timer.is_none_or(|timer| due <= timer) => {
                drop(inner);
                return self.step();
            }
            (_, timer) => {
                inner.ns.fetch_max(timer.unwrap_or(0), SeqCst);
            }
        }
        true
    }

    /// Moves the clock.
    pub fn advance(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.borrow().ns.fetch_add(ns, SeqCst);
    }

    /// Runs `iothreads` turn by turn, in an order that the seed decides, and completes requests in
    /// between, until `finished` or nothing can happen any more. Returns whether it is finished.
    pub fn run_until(&self, iothreads: &[Cx], mut finished: impl FnMut() -> bool) -> bool {
        while !finished() {
            let mut busy = false;
            let first = self.0.borrow_mut().rng.usize(0..iothreads.len().max(1));
            for cx in iothreads.iter().cycle().skip(first).take(iothreads.len()) {
                // Not every iothread gets a turn every time.
                if self.0.borrow_mut().rng.u8(0..4) > 0 {
                    busy |= self.turn(cx);
                } else {
                    busy = true;
                }
            }
            // While somebody has work, time passes slowly.
            let may_pass = !busy || self.0.borrow_mut().rng.u8(0..4) == 0;
            if !may_pass {
                continue;
            }
            let deadline = iothreads.iter().filter_map(|cx| cx.next_deadline()).min();
            if !self.pass_time(deadline) && !busy {
                return finished();
            }
        }
        true
    }

    fn turn(&self, cx: &Cx) -> bool {
        let before = self.0.borrow_mut().running.replace(cx.lane());
        let busy = cx.turn();
        cx.kick();
        self.0.borrow_mut().running = before;
        busy
    }

    /// Interrupts the iothread that has its turn in [`World::run_until`]: the others go on, as if on
    /// threads of their own, and requests complete.
    pub fn interrupt(&self, iothreads: &[Cx]) {
        let (running, rounds) = {
            let mut inner = self.0.borrow_mut();
            (inner.running, inner.rng.u32(0..12))
        };
        let Some(running) = running else { return };
        for _ in 0..rounds {
            for cx in iothreads.iter().filter(|cx| cx.lane() != running) {
                self.turn(cx);
            }
            self.step();
        }
    }

    /// Runs `iothreads` until nothing can happen any more.
    pub fn run_until_idle(&self, iothreads: &[Cx]) {
        self.run_until(iothreads, || false);
    }

    /// What a power loss at this moment leaves. The world goes on as if nothing had happened.
    #[must_use]
    pub fn crash(&self, rng: &mut fastrand::Rng) -> CrashImage {
        let inner = self.0.borrow();
        let mut in_flight: Vec<Vec<Change>> = vec![Vec::new(); inner.disks.len()];
        for flight in &inner.flights {
            in_flight[flight.disk].extend(change_of(&flight.request));
        }
        let crash = |(disk, in_flight): (&Disk, Vec<Change>)| {
            (disk.name.clone(), disk.crash(&in_flight, rng))
        };
        CrashImage { files: inner.disks.iter().zip(in_flight).map(crash).collect() }
    }

    /// The power is off: what is under way ends with [`BlockError::Gone`] and no effect, and so
    /// does all that is submitted from now on. Lets tasks unwind after a cut.
    pub fn power_off(&self) {
        self.0.borrow_mut().off = true;
    }

    /// What reads of `file` see.
    ///
    /// # Panics
    /// When `file` is not a simulated file.
    #[must_use]
    pub fn contents(&self, file: &File) -> Image {
        self.0.borrow().disks[disk_of(file)].visible.clone()
    }

    /// What `file` holds after every power loss that loses all it may.
    ///
    /// # Panics
    /// When `file` is not a simulated file.
    #[must_use]
    pub fn durable(&self, file: &File) -> Image {
        self.0.borrow().disks[disk_of(file)].durable.clone()
    }

    pub(super) fn submit(&self, engine: usize, request: Request) {
        let op = request.op;
        let started = self.0.borrow_mut().start(engine, request);
        if started && !matches!(op, FileOp::Read | FileOp::Sync) {
            self.event(op, false);
        }
    }

    pub(super) fn has_done(&self, engine: usize) -> bool {
        !self.0.borrow().ports[engine].done.is_empty()
    }

    pub(super) fn take_done(&self, engine: usize, done: &mut Vec<Done>) {
        let mut inner = self.0.borrow_mut();
        let port = &mut inner.ports[engine];
        port.in_flight -= port.done.len();
        done.append(&mut port.done);
    }

    pub(super) fn in_flight_of(&self, engine: usize) -> usize {
        self.0.borrow().ports[engine].in_flight
    }

    /// A ring is dropped: what is under way on it ends first, as with any ring.
    pub(super) fn close_engine(&self, engine: usize) {
        while self.0.borrow().flights.iter().any(|f| f.engine == engine) {
            self.step();
        }
        let done = std::mem::take(&mut self.0.borrow_mut().ports[engine].done);
        drop(done);
    }

    fn event(&self, op: FileOp, completed: bool) {
        let (observer, number) = {
            let mut inner = self.0.borrow_mut();
            inner.events += 1;
            (inner.observer.take(), inner.events)
        };
        let Some(mut observer) = observer else { return };
        observer(self, Event { number, completed, op });
        let mut inner = self.0.borrow_mut();
        inner.observer.get_or_insert(observer);
    }
}

fn disk_of(file: &File) -> usize {
    match file.backend() {
        Backend::Sim(number) => *number as usize,
        Backend::Host(_) => panic!("{} is not a simulated file", file.path().display()),
    }
}

/// What a request does to its file, if it does something.
fn change_of(request: &Request) -> Option<Change> {
    let (offset, len) = (request.offset, request.len);
    match request.op {
        FileOp::Read | FileOp::Sync => None,
        FileOp::SetLen => Some(Change::SetLen(offset)),
        _ if len == 0 => None,
        FileOp::Write { .. } => Some(Change::Write { offset, data: request.buf.to_vec() }),
        FileOp::PunchHole => Some(Change::Zero { offset, len, grow: false }),
        FileOp::ZeroRange => Some(Change::Zero { offset, len, grow: true }),
        FileOp::Allocate => Some(Change::Grow(offset + len)),
    }
}

impl Inner {
    fn next_flight(&self) -> Option<usize> {
        (0..self.flights.len()).min_by_key(|i| (self.flights[*i].due, self.flights[*i].submitted))
    }

    /// Takes a request. Returns whether it is under way now.
    fn start(&mut self, engine: usize, request: Request) -> bool {
        self.ports[engine].in_flight += 1;
        let place = self.resolve(&request);
        let (file, disk) = match place {
            Ok(place) => place,
            Err(error) => {
                self.finish(engine, request, Err(error));
                return false;
            }
        };
        let fault = self.faults.iter_mut().find_map(|(_, fault)| fault.take(&request));
        let delay = match fault {
            Some(FaultAction::Delay(time)) => u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            _ => 0,
        };
        let slow = self.rng.u8(0..SLOW_ONE_IN) == 0;
        let factor = if slow { self.rng.u64(2..=SLOWER) } else { 1 };
        let latency = self.rng.u64(LATENCY_NS) * factor;
        let due = self.ns.load(SeqCst).saturating_add(latency).saturating_add(delay);
        self.sequence += 1;
        let submitted = self.sequence;
        self.flights.push(Flight { engine, request, disk, submitted, due, fault, _file: file });
        true
    }

    fn resolve(&self, request: &Request) -> Result<(Arc<File>, usize), BlockError> {
        if self.off {
            return Err(BlockError::Gone);
        }
        let file = File::get(request.file).ok_or(BlockError::Gone)?;
        let Backend::Sim(number) = file.backend() else { return Err(BlockError::Unsupported) };
        let disk = *number as usize;
        let end = request.offset.checked_add(request.len);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(BlockError::NoSpace);
        }
        if disk < self.disks.len() { Ok((file, disk)) } else { Err(BlockError::Gone) }
    }

    fn complete(&mut self, mut flight: Flight) {
        self.sequence += 1;
        let result = if self.off { Err(BlockError::Gone) } else { self.perform(&mut flight) };
        self.finish(flight.engine, flight.request, result);
    }

    fn perform(&mut self, flight: &mut Flight) -> Result<(), BlockError> {
        let (disk, at) = (&mut self.disks[flight.disk], self.sequence);
        let request = &mut flight.request;
        match flight.fault {
            Some(FaultAction::Fail(error)) => return Err(error),
            Some(FaultAction::FailAfterPart(error)) => {
                let change = change_of(request);
                let part = change.and_then(|c| c.first_sectors(self.rng.u64(0..=c.sectors())));
                if let Some(part) = part {
                    disk.complete(part, at, false);
                }
                return Err(error);
            }
            Some(FaultAction::Delay(_)) | None => {}
        }
        match request.op {
            FileOp::Read => read(&disk.visible, request.offset, &mut request.buf),
            FileOp::Sync => disk.sync(flight.submitted),
            op => {
                if let Some(change) = change_of(request) {
                    disk.complete(change, at, op == FileOp::Write { fua: true });
                }
            }
        }
        Ok(())
    }

    /// The pin goes here, the memory to whoever waits.
    fn finish(&mut self, engine: usize, request: Request, result: Result<(), BlockError>) {
        let Request { owner, buf, .. } = request;
        self.ports[engine].done.push(Done { owner, buf, result });
    }
}

fn read(image: &Image, offset: u64, buf: &mut IoBuf) {
    let mut bytes = vec![0; buf.len() as usize];
    image.read(offset, &mut bytes);
    buf.write_at(0, &bytes);
}

#[cfg(test)]
mod tests;
