//! The queue half of the admin queue.

use std::{
    collections::VecDeque,
    os::fd::RawFd,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use spindle_block::{
    BlockError, Cx, IoBuf,
    iothread::{Port, Progress, Queue},
};

use super::{
    features::{self, Features, Value},
    firmware::Firmware,
    format::Format,
    identify,
    keep_alive::KeepAlive,
    logs::{self, ErrorEntry, Sources},
    namespaces::{self, Manage},
    queues::{Bounds, Queues},
};
use crate::{
    device::Countdown,
    nvme::{
        background,
        controller::{Ctl, Home},
        doors::ShadowPages,
        io::{IoQueue, Mail},
        oneshot::channel,
        rings::{Rings, Submission},
        sg::gather,
        spec::{NSID_ALL, PAGE, Sqe, admin, feature},
        status::Status,
    },
};
use std::sync::atomic::Ordering::SeqCst;

/// Most admin commands under way at a time, parked event requests apart.
const SLOTS: usize = 64;

/// How a command that takes time ends.
type Outcome = Arc<Mutex<(Status, u32)>>;

/// What became of a command.
enum Reply {
    /// It is to be answered with this result.
    Done(u32),
    /// It is answered later, or was handed on.
    Later,
}

/// A command that takes time.
struct Slot {
    sq: u16,
    cid: u16,
    outcome: Outcome,
    then: Then,
}

/// What is done when such a command has ended.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    /// This submission queue is gone.
    NoSq(u16),
    /// This completion queue is gone.
    NoCq(u16),
}

/// See the module.
pub struct AdminQueue {
    ctl: Arc<Ctl>,
    home: Arc<Home>,
    rings: Rings,
    /// What its queues' links say when they belong to this life of the controller.
    epochs: Vec<u64>,
    features: Features,
    queues: Queues,
    slots: Vec<Option<Slot>>,
    /// Asynchronous event requests: submission queue index and command identifier. They hold no
    /// place in the completion queue while they wait.
    parked: VecDeque<(u16, u16)>,
    /// An event waits for a place in the completion queue.
    undelivered: bool,
    keep_alive: Option<Arc<KeepAlive>>,
    now: Option<Instant>,
}

impl AdminQueue {
    /// The admin queue of a controller that was enabled.
    #[must_use]
    pub fn new(ctl: &Arc<Ctl>, rings: Rings) -> Self {
        Self {
            ctl: Arc::clone(ctl),
            home: Arc::clone(&ctl.homes()[0]),
            rings,
            epochs: ctl.homes().iter().map(|home| home.place.epoch()).collect(),
            features: Features::new(ctl),
            queues: Queues::new(),
            slots: (0..SLOTS).map(|_| None).collect(),
            parked: VecDeque::new(),
            undelivered: false,
            keep_alive: None,
            now: None,
        }
    }

    fn time(&mut self, port: &Port<'_>) -> Instant {
        *self.now.get_or_insert_with(|| port.cx().now())
    }

    fn begin(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) {
        let cid = sqe.cid.get();
        match self.execute(port, sq, sqe) {
            Ok(Reply::Done(result)) => self.rings.post(sq, cid, Status::SUCCESS, result.into()),
            Ok(Reply::Later) => {}
            Err(status) => self.fail(sq, cid, sqe.nsid.get(), status),
        }
    }

    fn fail(&mut self, sq: u16, cid: u16, nsid: u32, status: Status) {
        let entry = ErrorEntry { cid, status: status.bits(), nsid, ..ErrorEntry::default() };
        self.ctl.errors().add(entry);
        self.rings.post(sq, cid, status, 0);
    }

    fn execute(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) -> Result<Reply, Status> {
        if sqe.fuse() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let now = self.time(port);
        match sqe.opcode {
            admin::IDENTIFY => {
                let page = identify::identify(&self.ctl, sqe)?;
                self.send(sqe, &page)
            }
            admin::GET_LOG_PAGE => {
                let sources = Sources {
                    ctl: &self.ctl,
                    hot: self.features.is_hot(),
                    minutes: self.ctl.minutes(now),
                };
                let errors = self.ctl.errors();
                let page = logs::get(&sources, &errors, sqe)?;
                drop(errors);
                let reply = self.send(sqe, &page)?;
                // An event of this page's kind may be reported again.
                self.deliver();
                Ok(reply)
            }
            admin::GET_FEATURES => {
                let Value { result, data } = self.features.get(&self.ctl, sqe, now)?;
                if let Some(data) = data {
                    self.send(sqe, &data)?;
                }
                Ok(Reply::Done(result))
            }
            admin::SET_FEATURES => {
                let data = self.receive(sqe, Features::set_len(sqe))?;
                let started = self.queues.any();
                let value = self.features.set(&self.ctl, sqe, &data, started, now)?;
                if sqe.dword::<10>() as u8 == feature::RESERVATION_PERSISTENCE {
                    let namespaces = features::meant(&self.ctl, sqe.nsid.get());
                    return self.later(port, sq, sqe, Then::Nothing, async move {
                        for ns in namespaces {
                            ns.save_reservations().await?;
                        }
                        Ok(0)
                    });
                }
                if sqe.dword::<10>() as u8 == feature::KEEP_ALIVE {
                    self.keep_alive =
                        KeepAlive::start(&self.ctl, port.cx(), self.features.keep_alive);
                }
                if sqe.dword::<10>() >> 31 != 0 {
                    let (ctl, section) = (Arc::clone(&self.ctl), self.features.section());
                    return self.later(port, sq, sqe, Then::Nothing, async move {
                        ctl.save(features::SECTION, section).await.map(|()| 0)
                    });
                }
                Ok(Reply::Done(value.result))
            }
            admin::KEEP_ALIVE => {
                if let Some(timer) = &self.keep_alive {
                    timer.restart(now);
                }
                Ok(Reply::Done(0))
            }
            admin::CREATE_CQ => self.create_cq(sqe),
            admin::CREATE_SQ => self.create_sq(port, sq, sqe),
            admin::DELETE_SQ => self.delete_sq(port, sq, sqe),
            admin::DELETE_CQ => self.delete_cq(port, sq, sqe),
            admin::ABORT => self.abort(port, sq, sqe),
            admin::ASYNC_EVENT => {
                if self.parked.len() > usize::from(self.ctl.config().event_requests_z) {
                    return Err(Status::EVENT_LIMIT);
                }
                self.rings.release(sq);
                self.parked.push_back((sq, sqe.cid.get()));
                self.deliver();
                Ok(Reply::Later)
            }
            admin::DOORBELL_BUFFER if self.ctl.config().shadow_doorbells => {
                self.doorbell_buffer(port, sq, sqe)
            }
            admin::NAMESPACE_MANAGEMENT => {
                self.not_while_sanitizing()?;
                let data = self.receive(sqe, Manage::data_len(sqe))?;
                let manage = Manage::parse(sqe, &data)?;
                let ctl = Arc::clone(&self.ctl);
                self.later(port, sq, sqe, Then::Nothing, manage.run(ctl))
            }
            admin::NAMESPACE_ATTACHMENT => {
                let data = self.receive(sqe, PAGE)?;
                let task = namespaces::attach(Arc::clone(&self.ctl), *sqe, data);
                self.later(port, sq, sqe, Then::Nothing, task)
            }
            admin::FIRMWARE_DOWNLOAD => {
                let len = Firmware::download_len(sqe);
                if len as u64 > self.ctl.config().transfer_max() {
                    return Err(Status::INVALID_FIELD);
                }
                let bytes = self.receive(sqe, len)?;
                self.ctl.firmware().download(sqe, &bytes)?;
                Ok(Reply::Done(0))
            }
            admin::FIRMWARE_COMMIT => {
                self.not_while_sanitizing()?;
                self.ctl.firmware().commit(sqe)?;
                let ctl = Arc::clone(&self.ctl);
                self.later(port, sq, sqe, Then::Nothing, async move {
                    ctl.save_firmware().await.map(|()| 0)
                })
            }
            admin::SELF_TEST => {
                self.not_while_sanitizing()?;
                background::self_test(&self.ctl, port.cx(), sqe)?;
                Ok(Reply::Done(0))
            }
            admin::SANITIZE => {
                let (ctl, cx, sqe_) = (Arc::clone(&self.ctl), Cx::clone(port.cx()), *sqe);
                self.later(port, sq, sqe, Then::Nothing, async move {
                    background::sanitize(&ctl, &cx, &sqe_).await.map(|()| 0)
                })
            }
            admin::FORMAT => {
                self.not_while_sanitizing()?;
                self.ctl.subsystem().background().abort_self_test(background::ABORTED_BY_FORMAT);
                let format = Format::parse(&self.ctl, sqe)?;
                let (ctl, cx) = (Arc::clone(&self.ctl), Cx::clone(port.cx()));
                self.later(port, sq, sqe, Then::Nothing, format.run(ctl, cx))
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Commands that a sanitize operation keeps out (Base figure 112).
    fn not_while_sanitizing(&self) -> Result<(), Status> {
        self.ctl.subsystem().background().sanitize_status()
    }

    /// Transfers `bytes` to the host.
    fn send(&self, sqe: &Sqe, bytes: &[u8]) -> Result<Reply, Status> {
        let mut buf = IoBuf::with_capacity(2);
        buf.set_keep(self.ctl.dma.keep());
        gather(&self.ctl.dma, self.ctl.page(), sqe, bytes.len() as u64, &mut buf)?;
        buf.write_at(0, bytes);
        self.ctl.dma.wrote(&buf);
        Ok(Reply::Done(0))
    }

    /// Transfers `len` bytes from the host.
    fn receive(&self, sqe: &Sqe, len: usize) -> Result<Vec<u8>, Status> {
        let mut buf = IoBuf::with_capacity(2);
        buf.set_keep(self.ctl.dma.keep());
        gather(&self.ctl.dma, self.ctl.page(), sqe, len as u64, &mut buf)?;
        Ok(buf.to_vec())
    }

    fn bounds(&self) -> Bounds {
        let most = self.ctl.config().max_ioqpairs;
        let queues = self.features.queues.unwrap_or((most, most));
        Bounds { queues, entry_sizes: self.ctl.entry_sizes() }
    }

    fn create_cq(&mut self, sqe: &Sqe) -> Result<Reply, Status> {
        let wanted = self.queues.parse_cq(&self.ctl, sqe, self.bounds())?;
        let id = wanted.place.id;
        let rings = Rings::new(&self.ctl, wanted.place).map_err(|_| Status::DATA_TRANSFER)?;
        let door = self.ctl.door(id);
        door.clear_cq();
        door.vector.store(wanted.vector, SeqCst);
        door.interrupts.store(wanted.interrupts, SeqCst);
        door.cq_size.store(wanted.place.entries, SeqCst);
        let home = &self.ctl.homes()[usize::from(id)];
        let queue = IoQueue::new(&self.ctl, home, rings);
        home.place.attach(self.epochs[usize::from(id)], Box::new(queue));
        self.queues.add_cq(id);
        Ok(Reply::Done(0))
    }

    fn create_sq(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) -> Result<Reply, Status> {
        let wanted = self.queues.parse_sq(&self.ctl, sqe, self.bounds())?;
        let (id, cq) = (wanted.place.id, wanted.cq);
        let submission = Submission::new(&self.ctl, wanted.place, wanted.priority)
            .map_err(|_| Status::DATA_TRANSFER)?;
        let door = self.ctl.door(id);
        door.clear_sq();
        door.sq_cq.store(cq, SeqCst);
        door.sq_size.store(wanted.place.entries, SeqCst);
        let (added, answer) = channel();
        let done = Countdown::new(Box::new(move || added.send(())));
        self.ctl.homes()[usize::from(cq)].post(Mail::Add(submission, done));
        self.queues.add_sq(id, cq);
        self.ctl.windows_changed();
        self.later(port, sq, sqe, Then::Nothing, async move {
            answer.await;
            Ok(0)
        })
    }

    fn delete_sq(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) -> Result<Reply, Status> {
        let (id, cq) = self.queues.delete_sq(sqe)?;
        let (reply, answer) = channel();
        self.ctl.homes()[usize::from(cq)].post(Mail::Delete { id, reply });
        self.later(port, sq, sqe, Then::NoSq(id), async move {
            // However it ends, nothing of the queue is left.
            answer.await;
            Ok(0)
        })
    }

    fn delete_cq(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) -> Result<Reply, Status> {
        let id = self.queues.delete_cq(sqe)?;
        let (reply, answer) = channel();
        let gone = Countdown::new(Box::new(move || reply.send(())));
        self.ctl.homes()[usize::from(id)].place.detach(gone);
        self.later(port, sq, sqe, Then::NoCq(id), async move {
            answer.await;
            Ok(0)
        })
    }

    /// Abort (Base 5.1): what only waits is aborted; what the storage has is not.
    fn abort(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) -> Result<Reply, Status> {
        const NOT_ABORTED: u32 = 1;
        let (id, cid) = (sqe.dword::<10>() as u16, (sqe.dword::<10>() >> 16) as u16);
        if id == 0 {
            let at = self.parked.iter().position(|(_, parked)| *parked == cid);
            let Some((index, _)) = at.and_then(|at| self.parked.remove(at)) else {
                return Ok(Reply::Done(NOT_ABORTED));
            };
            if self.rings.reserve(index) {
                self.rings.post(index, cid, Status::ABORT_REQUESTED, 0);
                return Ok(Reply::Done(0));
            }
            self.parked.push_front((index, cid));
            return Ok(Reply::Done(NOT_ABORTED));
        }
        let Some(cq) = self.queues.cq_of(id) else { return Ok(Reply::Done(NOT_ABORTED)) };
        let (reply, answer) = channel();
        self.ctl.homes()[usize::from(cq)].post(Mail::Abort { sq: id, cid, reply });
        self.later(port, sq, sqe, Then::Nothing, async move {
            let aborted = answer.await.unwrap_or(false);
            Ok(u32::from(!aborted))
        })
    }

    /// Doorbell Buffer Config (Base 5.8).
    fn doorbell_buffer(
        &mut self,
        port: &mut Port<'_>,
        sq: u16,
        sqe: &Sqe,
    ) -> Result<Reply, Status> {
        let (doorbells, events) = (sqe.dptr[0].get(), sqe.dptr[1].get());
        if (doorbells | events) & (self.ctl.page() - 1) != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let dma = &self.ctl.dma;
        if [doorbells, events].iter().any(|at| dma.span(*at, PAGE as u64).is_err()) {
            return Err(Status::INVALID_FIELD);
        }
        let pages = ShadowPages { doorbells, events };
        self.ctl.set_shadow_pages(Some(pages));
        self.rings.use_shadows(pages);
        let (heard, answer) = channel();
        let done = Countdown::new(Box::new(move || heard.send(())));
        for id in self.queues.cqs() {
            self.ctl.homes()[usize::from(id)].post(Mail::Shadows(pages, done.clone()));
        }
        drop(done);
        self.ctl.windows_changed();
        self.later(port, sq, sqe, Then::Nothing, async move {
            answer.await;
            Ok(0)
        })
    }

    /// Answers a command when `task` has ended.
    fn later(
        &mut self,
        port: &mut Port<'_>,
        sq: u16,
        sqe: &Sqe,
        then: Then,
        task: impl Future<Output = Result<u32, Status>> + 'static,
    ) -> Result<Reply, Status> {
        let token = self.slots.iter().position(Option::is_none).ok_or(Status::INTERNAL)?;
        let outcome: Outcome = Arc::new(Mutex::new((Status::INTERNAL, 0)));
        let (cid, filled) = (sqe.cid.get(), Arc::clone(&outcome));
        self.slots[token] = Some(Slot { sq, cid, outcome, then });
        port.spawn(token as u32, async move {
            let outcome = match task.await {
                Ok(result) => (Status::SUCCESS, result),
                Err(status) => (status, 0),
            };
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
            (IoBuf::empty(), Ok(()))
        });
        Ok(Reply::Later)
    }

    /// Answers parked requests with events that have happened.
    fn deliver(&mut self) {
        self.undelivered = false;
        while let Some((sq, cid)) = self.parked.front().copied() {
            if !self.ctl.events().is_due() {
                return;
            }
            if !self.rings.reserve(sq) {
                self.undelivered = true;
                return;
            }
            let Some(event) = self.ctl.events().take() else {
                self.rings.release(sq);
                return;
            };
            self.parked.pop_front();
            self.rings.post(sq, cid, Status::SUCCESS, event.into());
        }
    }
}

impl Queue for AdminQueue {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        if budget == 0 {
            while let Some(mail) = self.home.take() {
                // Nothing else is told to the admin queue.
                drop(mail);
            }
            self.deliver();
            return Progress::Idle;
        }
        let mut progress = Progress::More;
        for _ in 0..budget {
            if self.slots.iter().all(Option::is_some) {
                progress = Progress::Idle;
                break;
            }
            let Some((sq, sqe)) = self.rings.pop() else {
                progress = Progress::Idle;
                break;
            };
            self.begin(port, sq, &sqe);
        }
        self.deliver();
        progress
    }

    fn complete(
        &mut self,
        _port: &mut Port<'_>,
        token: u32,
        _buf: IoBuf,
        _result: Result<(), BlockError>,
    ) {
        let Some(slot) = self.slots.get_mut(token as usize).and_then(Option::take) else {
            debug_assert!(false, "a completion nobody waits for");
            return;
        };
        match slot.then {
            Then::Nothing => {}
            Then::NoSq(id) => {
                self.queues.remove_sq(id);
                self.ctl.door(id).clear_sq();
            }
            Then::NoCq(id) => {
                self.queues.remove_cq(id);
                self.ctl.door(id).clear_cq();
                self.ctl.update_wire();
            }
        }
        let (status, result) = *slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if status.is_success() {
            self.rings.post(slot.sq, slot.cid, status, result.into());
        } else {
            self.fail(slot.sq, slot.cid, NSID_ALL, status);
        }
    }

    fn flush_irq(&mut self) {
        self.now = None;
        self.rings.flush();
    }

    fn pending(&mut self) -> bool {
        self.ctl.is_bus_master()
            && !self.ctl.is_fatal()
            && self.slots.iter().any(Option::is_none)
            && (self.rings.pending() || self.undelivered && self.rings.has_room())
    }

    fn notify(&mut self, on: bool) {
        if on {
            self.rings.arm();
        }
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.home.bell.fd())
    }

    fn drained(&mut self) {}
}
