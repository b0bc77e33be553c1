//! An iothread: one ring, a local executor, and the queues attached to it.
//!
//! The loop is a sequence of *turns*: take messages, run ready tasks, reap the ring, hand
//! completions to queues, let each queue take what is new, raise its interrupts. When a turn finds
//! nothing, the thread polls for a while where that has paid off, and then sleeps in the ring, which
//! also watches every doorbell.
//!
//! An [`Iothread`] is driven either by a thread of its own ([`Iothread::run`]), by a caller that
//! only wants one future done ([`Iothread::block_on`]: opening, creating and closing images), or
//! turn by turn by a test that owns the clock.

pub mod inbox;
mod moderation;
mod queue;
pub mod thread;
mod waits;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use async_task::Runnable;

pub use queue::{Port, Progress, Queue};
pub use waits::{RingWait, Sleep};

use crate::{
    BlockError, IoBuf, Lane, Pin,
    file::{File, FileId},
    ring::{Done, Engine, Events, FileOp, Owner, Request, RingStats},
};
use inbox::Inbox;
use moderation::{Moderation, Verdict};
use waits::{Timers, Waits};

/// What async code passes around: the iothread it runs on.
pub type Cx = Rc<Iothread>;

/// Most requests one queue takes in one turn, so that its neighbours are not starved.
const BUDGET: u32 = 64;
/// Turns in a row that may gather submissions before they are handed to the kernel.
const GATHER_TURNS: u32 = 4;
/// The key under which the inbox's eventfd is watched; queues use their slot number.
const INBOX_KEY: u32 = u32::MAX;

type Message = Box<dyn FnOnce(&Cx) + Send>;

enum Mail {
    Message(Message),
    Task(Runnable),
}

struct Shared {
    name: String,
    lane: Lane,
    inbox: Inbox<Mail>,
    wake: OwnedFd,
}

impl Shared {
    fn push(&self, mail: Mail) {
        let wake = match self.inbox.push(mail) {
            Ok(wake) => wake,
            // Only its own thread may drop a task, and that thread is gone.
            Err(Mail::Task(runnable)) => return std::mem::forget(runnable),
            Err(Mail::Message(message)) => return drop(message),
        };
        if wake {
            let one = 1u64.to_ne_bytes();
            // SAFETY: an eventfd of ours and eight valid bytes. It cannot fail but by overflow,
            // and then it is readable, which is all that is wanted.
            unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

/// A handle on an iothread, for other threads.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Runs `message` on the iothread, soon.
    pub fn post(&self, message: impl FnOnce(&Cx) + Send + 'static) {
        self.0.push(Mail::Message(Box::new(message)));
    }

    /// Runs `message` there and waits for its answer; `None` when the iothread is gone. Not for
    /// iothreads themselves, and not for the data path.
    pub fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(&Cx) -> T + Send + 'static,
    ) -> Option<T> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.post(move |cx| {
            // The caller may have given up; then nobody wants the answer.
            drop(tx.send(message(cx)));
        });
        rx.recv().ok()
    }

    /// The iothread's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The iothread's lane.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.0.lane
    }
}

/// Lanes in use, and the iothreads that hold them: those that must forget a file when it closes.
static LANES: Mutex<[Option<Weak<Shared>>; Lane::MAX]> = Mutex::new([const { None }; Lane::MAX]);

fn take_lane(make: impl FnOnce(Lane) -> Arc<Shared>) -> Option<Arc<Shared>> {
    let mut lanes = LANES.lock().unwrap_or_else(PoisonError::into_inner);
    let index = lanes.iter().position(Option::is_none)?;
    let shared = make(Lane::new(index));
    lanes[index] = Some(Arc::downgrade(&shared));
    Some(shared)
}

fn release_lane(lane: Lane) {
    let mut lanes = LANES.lock().unwrap_or_else(PoisonError::into_inner);
    lanes[lane.index()] = None;
}

/// Tells every ring to forget `file`, whose last user has closed it.
///
/// By the time a ring hears of it, the number may belong to another file: one that no ring had used
/// is gone at once. A ring that forgot that other file would fail what it has queued for it.
pub fn forget_everywhere(file: &Arc<File>) {
    let lanes = LANES.lock().unwrap_or_else(PoisonError::into_inner);
    for shared in lanes.iter().flatten().filter_map(Weak::upgrade) {
        let closed = Arc::downgrade(file);
        let id = file.id();
        shared.push(Mail::Message(Box::new(move |cx| {
            let now = File::get(id);
            if now.is_none_or(|now| std::ptr::eq(Arc::as_ptr(&now), closed.as_ptr())) {
                cx.ring.borrow_mut().forget(id);
            }
        })));
    }
}

/// A queue attached to an iothread.
struct Attached {
    /// Out while it is being called.
    queue: Option<Box<dyn Queue>>,
    in_flight: u32,
    /// How many pauses are on.
    paused: u32,
    /// Told [`Queue::drained`] since the last pause began.
    reported: bool,
    dead: bool,
    /// Something ended or was taken since the last [`Queue::flush_irq`].
    touched: bool,
    watched: bool,
    moderation: Moderation,
    /// Its interrupt waits until then for more completions.
    held_until: Option<Instant>,
    waiting: Vec<Message>,
}

/// The place of a queue on its iothread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueSlot(u16);

/// A moment, in nanoseconds of an iothread's clock: for how long requests take, where the arithmetic of
/// [`Instant`] is too dear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// Nanoseconds since `earlier`, none if it was later.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's monotonic clock.
    Real,
    /// A test's: nanoseconds since `base`.
    Manual {
        /// The beginning of time.
        base: Instant,
        /// Nanoseconds since.
        ns: Arc<std::sync::atomic::AtomicU64>,
    },
}

/// See the module.
pub struct Iothread {
    shared: Arc<Shared>,
    ring: RefCell<Box<dyn Engine>>,
    waits: RefCell<Waits>,
    timers: RefCell<Timers>,
    queues: RefCell<Vec<Option<Attached>>>,
    ended: RefCell<Vec<Done>>,
    events: RefCell<Events>,
    mail: RefCell<VecDeque<Mail>>,
    clock: Clock,
    /// When its clock began, for [`Stamp`].
    born: Instant,
    poll_max: Cell<Duration>,
    poll_now: Cell<Duration>,
    stop: Cell<bool>,
    shut: Cell<bool>,
    /// Tasks spawned and not finished.
    tasks: Rc<Cell<usize>>,
}

impl Iothread {
    /// An iothread on this thread, with a ring that was made on it.
    ///
    /// # Errors
    /// When there is no lane or no eventfd left.
    pub fn new(name: &str, mut ring: Box<dyn Engine>, clock: Clock) -> io::Result<Cx> {
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let wake = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = name.to_owned();
        let shared =
            take_lane(|lane| Arc::new(Shared { name, lane, inbox: Inbox::default(), wake }))
                .ok_or_else(|| io::Error::other(format!("more than {} iothreads", Lane::MAX)))?;
        ring.watch(shared.wake.as_raw_fd(), INBOX_KEY);
        let born = match &clock {
            Clock::Real => Instant::now(),
            Clock::Manual { base, .. } => *base,
        };
        Ok(Rc::new(Self {
            shared,
            ring: RefCell::new(ring),
            waits: RefCell::default(),
            timers: RefCell::default(),
            queues: RefCell::default(),
            ended: RefCell::default(),
            events: RefCell::default(),
            mail: RefCell::default(),
            clock,
            born,
            poll_max: Cell::new(Duration::ZERO),
            poll_now: Cell::new(Duration::ZERO),
            stop: Cell::new(false),
            shut: Cell::new(false),
            tasks: Rc::default(),
        }))
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Its lane.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.shared.lane
    }

    /// Its engine's name: `io_uring`, `threads` or `sim`.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.ring.borrow().name()
    }

    /// Counters of its ring.
    #[must_use]
    pub fn ring_stats(&self) -> RingStats {
        self.ring.borrow().stats()
    }

    /// Requests that the ring has and has not given back.
    #[must_use]
    pub fn ring_in_flight(&self) -> usize {
        self.ring.borrow().in_flight()
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.clock {
            Clock::Real => Instant::now(),
            Clock::Manual { base, ns } => {
                *base + Duration::from_nanos(ns.load(std::sync::atomic::Ordering::SeqCst))
            }
        }
    }

    /// The time, for [`Stamp::since`].
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let age = self.now().saturating_duration_since(self.born);
        Stamp(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long an idle iothread looks for work before it sleeps, at most; zero turns polling off, and
    /// with it interrupt moderation, which looks for work while an interrupt waits.
    pub fn set_poll_max(&self, max: Duration) {
        self.poll_max.set(max);
        self.poll_now.set(Duration::ZERO);
    }

    /// When the next sleeping task is to wake; for those who drive turns themselves.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.borrow().next_deadline()
    }

    /// Waits until `until`.
    pub fn sleep_until(self: &Rc<Self>, until: Instant) -> Sleep {
        Sleep::new(self, until)
    }

    /// Waits for `time`.
    pub fn sleep(self: &Rc<Self>, time: Duration) -> Sleep {
        Sleep::new(self, self.now() + time)
    }

    /// Starts a task here. It ends here; nobody waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        struct Count(Rc<Cell<usize>>);
        impl Drop for Count {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.tasks.set(self.tasks.get() + 1);
        let count = Count(Rc::clone(&self.tasks));
        let shared = Arc::downgrade(&self.shared);
        let (runnable, task) = async_task::spawn_local(
            async move {
                let _count = count;
                task.await;
            },
            move |runnable| {
                if let Some(shared) = shared.upgrade() {
                    shared.push(Mail::Task(runnable));
                } else {
                    // Only its own thread may drop a task; that thread is gone, and so is the
                    // process, soon.
                    std::mem::forget(runnable);
                }
            },
        );
        task.detach();
        runnable.schedule();
    }

    /// Tasks that have been spawned and have not ended.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.get()
    }

    /// Does one operation on a file and waits for it.
    pub fn file_op(
        self: &Rc<Self>,
        op: FileOp,
        file: FileId,
        (offset, len): (u64, u64),
        buf: IoBuf,
        pin: Pin,
    ) -> RingWait {
        let index = self.waits.borrow_mut().add();
        let owner = Owner::Task(index);
        self.submit(Request { op, file, offset, len, buf, pin, owner });
        RingWait::new(self, index)
    }

    /// Hands a request to the ring.
    pub(crate) fn submit(&self, request: Request) {
        self.ring.borrow_mut().submit(request);
    }

    /// Ends a request that never went to the ring.
    pub(crate) fn end_locally(&self, owner: Owner, buf: IoBuf, result: Result<(), BlockError>) {
        self.ended.borrow_mut().push(Done { owner, buf, result });
    }

    /// Attaches a queue and starts serving it.
    pub fn attach(&self, queue: Box<dyn Queue>) -> QueueSlot {
        let mut queues = self.queues.borrow_mut();
        let slot = queues.iter().position(Option::is_none).unwrap_or_else(|| {
            queues.push(None);
            queues.len() - 1
        });
        let doorbell = queue.doorbell();
        if let Some(fd) = doorbell {
            self.ring.borrow_mut().watch(fd, slot as u32);
        }
        queues[slot] = Some(Attached {
            queue: Some(queue),
            in_flight: 0,
            paused: 0,
            reported: false,
            dead: false,
            touched: false,
            watched: doorbell.is_some(),
            moderation: Moderation::default(),
            held_until: None,
            waiting: Vec::new(),
        });
        QueueSlot(slot as u16)
    }

    /// Takes a drained queue away. Returns `None` when it is not there or still has requests.
    pub fn detach(&self, slot: QueueSlot) -> Option<Box<dyn Queue>> {
        let mut queues = self.queues.borrow_mut();
        let entry = queues.get_mut(usize::from(slot.0))?;
        if entry.as_ref()?.in_flight > 0 || entry.as_ref()?.queue.is_none() {
            return None;
        }
        let attached = entry.take()?;
        if attached.watched {
            self.ring.borrow_mut().unwatch(u32::from(slot.0));
        }
        attached.queue
    }

    /// Stops taking requests from a queue. `then` runs here once nothing of it is in flight. Pauses
    /// nest.
    pub fn pause(self: &Rc<Self>, slot: QueueSlot, then: impl FnOnce(&Cx) + Send + 'static) {
        {
            let mut queues = self.queues.borrow_mut();
            let Some(Some(attached)) = queues.get_mut(usize::from(slot.0)) else {
                drop(queues);
                then(self);
                return;
            };
            attached.paused += 1;
            attached.reported = false;
            attached.waiting.push(Box::new(then));
        }
        self.report_drained(usize::from(slot.0));
    }

    /// Undoes one [`Iothread::pause`].
    pub fn resume(&self, slot: QueueSlot) {
        if let Some(Some(attached)) = self.queues.borrow_mut().get_mut(usize::from(slot.0)) {
            attached.paused = attached.paused.saturating_sub(1);
        }
    }

    /// Calls `f` with a queue of this iothread, between turns. `None` when there is none.
    pub fn with_queue<T>(
        self: &Rc<Self>,
        slot: QueueSlot,
        f: impl FnOnce(&mut dyn Queue, &mut Port<'_>) -> T,
    ) -> Option<T> {
        self.with_attached(usize::from(slot.0), f)
    }

    /// Requests of a queue that have not ended.
    #[must_use]
    pub fn in_flight(&self, slot: QueueSlot) -> u32 {
        let queues = self.queues.borrow();
        queues.get(usize::from(slot.0)).and_then(Option::as_ref).map_or(0, |a| a.in_flight)
    }

    /// Ends [`Iothread::run`] after this turn.
    pub fn stop(&self) {
        self.stop.set(true);
    }

    /// The loop, until [`Iothread::stop`].
    pub fn run(self: &Rc<Self>) {
        self.run_until(|| self.stop.get());
    }

    /// The loop, until `done` says so; it is asked after every turn.
    pub fn run_until(self: &Rc<Self>, mut done: impl FnMut() -> bool) {
        let mut gathered = 0;
        while !done() {
            if self.turn() {
                gathered += 1;
                if gathered >= GATHER_TURNS {
                    self.ring.borrow_mut().kick();
                    gathered = 0;
                }
                continue;
            }
            gathered = 0;
            self.idle();
        }
    }

    /// Runs the loop until `future` is done, and returns its result.
    pub fn block_on<T: 'static>(self: &Rc<Self>, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        self.run_until(|| result.borrow().is_some());
        let value = result.borrow_mut().take();
        value.expect("the loop ends when there is a value")
    }

    /// One turn. Returns whether anything was done.
    pub fn turn(self: &Rc<Self>) -> bool {
        let mut busy = self.read_mail();
        busy |= self.fire_timers();
        busy |= self.reap();
        busy |= self.serve();
        busy
    }

    /// Starts what turns have submitted; for those who drive turns themselves.
    pub fn kick(&self) {
        self.ring.borrow_mut().kick();
    }

    fn read_mail(self: &Rc<Self>) -> bool {
        let mut mail = std::mem::take(&mut *self.mail.borrow_mut());
        let any = self.shared.inbox.take(&mut mail);
        for item in mail.drain(..) {
            match item {
                Mail::Message(message) => message(self),
                Mail::Task(runnable) => {
                    runnable.run();
                }
            }
        }
        *self.mail.borrow_mut() = mail;
        any
    }

    fn fire_timers(&self) -> bool {
        if self.timers.borrow().next_deadline().is_none() {
            return false;
        }
        let now = self.now();
        self.timers.borrow_mut().fire(now)
    }

    fn reap(self: &Rc<Self>) -> bool {
        let mut events = std::mem::take(&mut *self.events.borrow_mut());
        self.ring.borrow_mut().reap(&mut events);
        let mut busy = self.dispatch(&mut events.done);
        events.signalled.clear();
        // A completion may end further requests on the spot; their number is bounded by the tokens.
        loop {
            std::mem::swap(&mut events.done, &mut self.ended.borrow_mut());
            if !self.dispatch(&mut events.done) {
                break;
            }
            busy = true;
        }
        *self.events.borrow_mut() = events;
        busy
    }

    fn dispatch(self: &Rc<Self>, done: &mut Vec<Done>) -> bool {
        let any = !done.is_empty();
        for done in done.drain(..) {
            match done.owner {
                Owner::Task(index) => self.waits.borrow_mut().end(index, done),
                Owner::Queue { slot, token } => {
                    self.complete(usize::from(slot), token, done.buf, done.result);
                }
            }
        }
        any
    }

    fn complete(
        self: &Rc<Self>,
        slot: usize,
        token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        if let Some(Some(attached)) = self.queues.borrow_mut().get_mut(slot) {
            debug_assert!(attached.in_flight > 0, "a completion that nobody waits for");
            attached.in_flight = attached.in_flight.saturating_sub(1);
            attached.touched = true;
            attached.moderation.ended();
        }
        self.with_attached(slot, |queue, port| queue.complete(port, token, buf, result));
    }

    /// Takes the queue out, calls `f`, puts it back, and accounts for what it submitted.
    fn with_attached<T>(
        self: &Rc<Self>,
        slot: usize,
        f: impl FnOnce(&mut dyn Queue, &mut Port<'_>) -> T,
    ) -> Option<T> {
        let mut queue = self.queues.borrow_mut().get_mut(slot)?.as_mut()?.queue.take()?;
        let mut port = Port { cx: self, slot: slot as u16, submitted: 0 };
        let value = f(&mut *queue, &mut port);
        let submitted = port.submitted;
        if let Some(Some(attached)) = self.queues.borrow_mut().get_mut(slot) {
            attached.queue = Some(queue);
            attached.in_flight += submitted;
        }
        Some(value)
    }

    fn serve(self: &Rc<Self>) -> bool {
        let count = self.queues.borrow().len();
        let mut busy = false;
        for slot in 0..count {
            let (open, touched) = match self.queues.borrow().get(slot) {
                Some(Some(a)) => (a.paused == 0 && !a.dead, a.touched),
                _ => continue,
            };
            if open {
                let progress = self.with_attached(slot, |queue, port| {
                    queue.pending().then(|| queue.service(port, BUDGET))
                });
                if let Some(Some(progress)) = progress {
                    busy = true;
                    self.after_service(slot, progress, true);
                    continue;
                }
            }
            if !open {
                busy |= self.attend(slot);
            }
            if touched {
                self.after_service(slot, Progress::Idle, false);
            }
        }
        busy
    }

    /// What a queue that is not served has to do all the same.
    fn attend(self: &Rc<Self>, slot: usize) -> bool {
        let attended = self.with_attached(slot, |queue, _| {
            let wanted = queue.wants_attention();
            if wanted {
                queue.attend();
            }
            wanted
        });
        attended == Some(true)
    }

    fn after_service(self: &Rc<Self>, slot: usize, progress: Progress, took: bool) {
        if self.poll_max.get() > Duration::ZERO && progress != Progress::Dead {
            let now = self.now();
            if took && let Some(Some(attached)) = self.queues.borrow_mut().get_mut(slot) {
                attached.moderation.arrived(now);
            }
            let may_wait = self.with_attached(slot, |queue, _| queue.publish());
            if may_wait == Some(true) && self.holds(slot, now) {
                return;
            }
        }
        self.with_attached(slot, |queue, _| queue.flush_irq());
        let mut check = false;
        if let Some(Some(attached)) = self.queues.borrow_mut().get_mut(slot) {
            attached.moderation.raised();
            attached.held_until = None;
            attached.touched = false;
            attached.dead |= progress == Progress::Dead;
            check = attached.paused > 0;
        }
        if check {
            self.report_drained(slot);
        }
    }

    /// Whether the interrupt of a queue waits for more completions.
    fn holds(&self, slot: usize, now: Instant) -> bool {
        let mut queues = self.queues.borrow_mut();
        let Some(Some(attached)) = queues.get_mut(slot) else { return false };
        if attached.paused > 0 || attached.dead {
            return false;
        }
        // What was submitted and not started yet may end as soon as it is.
        let unsettled = attached.in_flight > 0
            && (self.ring.borrow_mut().has_news() || !self.ended.borrow().is_empty());
        let until = match unsettled {
            true => now,
            false => match attached.moderation.judge(now, attached.in_flight) {
                Verdict::Hold(until) => until,
                Verdict::Raise => return false,
            },
        };
        attached.touched = true;
        attached.held_until = Some(until);
        true
    }

    /// When the first interrupt that waits is due.
    fn held_until(&self) -> Option<Instant> {
        self.queues.borrow().iter().flatten().filter_map(|a| a.held_until).min()
    }

    /// Tells those who wait for a paused queue, once nothing of it is in flight.
    fn report_drained(self: &Rc<Self>, slot: usize) {
        let (waiting, report) = {
            let mut queues = self.queues.borrow_mut();
            let Some(Some(attached)) = queues.get_mut(slot) else { return };
            if attached.paused == 0 || attached.in_flight > 0 || attached.queue.is_none() {
                return;
            }
            let report = !std::mem::replace(&mut attached.reported, true);
            (std::mem::take(&mut attached.waiting), report)
        };
        if report {
            self.with_attached(slot, |queue, _| {
                queue.flush_irq();
                queue.drained();
            });
        }
        for then in waiting {
            then(self);
        }
    }

    /// Nothing to do: poll where it pays, then sleep in the ring.
    fn idle(self: &Rc<Self>) {
        let deadline = self.timers.borrow().next_deadline();
        if let Some(until) = self.held_until() {
            self.poll(until.min(deadline.unwrap_or(until)));
            return;
        }
        let window = self.poll_now.get();
        if !window.is_zero() {
            let until = Instant::now() + window;
            if self.poll(until.min(deadline.unwrap_or(until))) {
                return;
            }
        }
        self.notify_all(true);
        let nothing = !self.any_pending() && self.ended.borrow().is_empty();
        if nothing && self.shared.inbox.prepare_sleep() {
            let slept = Instant::now();
            self.ring.borrow_mut().wait(deadline);
            self.shared.inbox.awake();
            self.learn(slept.elapsed());
        }
        self.notify_all(false);
    }

    /// Looks for work without sleeping, until `until`. Returns whether there is some.
    fn poll(&self, until: Instant) -> bool {
        self.ring.borrow_mut().kick();
        loop {
            let mut ring = self.ring.borrow_mut();
            if ring.has_news() {
                ring.kick();
                return true;
            }
            drop(ring);
            if self.shared.inbox.has_items() || self.any_pending() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            // Whoever wants this core may have the guest's next request.
            std::thread::yield_now();
        }
    }

    /// Adapts the polling window to how long the last sleep was: a wait that polling would have
    /// covered widens it, a long one closes it.
    fn learn(&self, slept: Duration) {
        let max = self.poll_max.get();
        if slept <= max {
            let grown = (self.poll_now.get() * 2).max(max / 16);
            self.poll_now.set(grown.min(max));
        } else if !self.poll_now.get().is_zero() {
            let shrunk = self.poll_now.get() / 2;
            self.poll_now.set(if shrunk < max / 16 { Duration::ZERO } else { shrunk });
        }
    }

    fn any_pending(&self) -> bool {
        self.queues.borrow_mut().iter_mut().flatten().any(|a| {
            a.paused == 0 && !a.dead && a.queue.as_mut().is_some_and(|queue| queue.pending())
        })
    }

    fn notify_all(&self, on: bool) {
        for a in self.queues.borrow_mut().iter_mut().flatten() {
            if a.paused == 0
                && !a.dead
                && let Some(queue) = &mut a.queue
            {
                queue.notify(on);
            }
        }
    }
}

impl Iothread {
    /// Ends it for other threads: messages are dropped from now on, and the lane is free.
    /// Idempotent.
    fn shut(&self) {
        if !self.shut.replace(true) {
            // Tasks that wait to run are dropped here, on the thread that owns them.
            drop(self.shared.inbox.close());
            release_lane(self.shared.lane);
        }
    }
}

impl Drop for Iothread {
    fn drop(&mut self) {
        self.shut();
    }
}

#[cfg(test)]
mod tests;
