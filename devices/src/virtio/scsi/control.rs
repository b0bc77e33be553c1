//! The queue half of the control queue: task management, and queries of notifications (virtio 1.2,
//! 5.6.6.2).

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use spindle_block::{
    BlockError, IoBuf,
    iothread::{Port, Progress, Queue},
};
use zerocopy::FromBytes;

use super::{
    hba::{Action, FunctionDone, Hba, Seat, Selector},
    lun::LunAddress,
    spec::{AnRequest, TmfRequest, control, response, tmf},
};
use crate::{
    device::Countdown,
    virtio::{
        QueueEnv,
        ring::{Chain, Ring, RingError},
    },
};

/// The longest control request, in bytes.
const REQUEST_MAX: usize = size_of::<TmfRequest>();
const AN_LEN: usize = size_of::<AnRequest>();
/// The longest answer, in bytes: events, then the response.
const ANSWER_MAX: u64 = 5;

/// A place for one request, named by the head of its chain.
struct Slot {
    busy: bool,
    answer: IoBuf,
}

/// See the module.
pub(super) struct ControlQueue {
    env: QueueEnv,
    hba: Arc<Hba>,
    epoch: u64,
    ring: Ring,
    slots: Box<[Slot]>,
    dead: bool,
}

/// A request as it came off the ring.
struct Taken {
    head: u16,
    request: [u8; REQUEST_MAX],
    len: usize,
}

/// What is done about a request.
enum Outcome {
    /// Answer with this response.
    Respond(u8),
    /// It is answered later.
    Later,
}

impl ControlQueue {
    pub fn new(env: QueueEnv, hba: &Arc<Hba>) -> Result<Self, RingError> {
        let ring = Ring::new(&env.dma, &env.setup)?;
        let keep = env.dma.keep();
        let slot = |_| {
            let mut answer = IoBuf::with_capacity(1);
            answer.set_keep(Arc::clone(&keep));
            Slot { busy: false, answer }
        };
        let slots = (0..ring.size()).map(slot).collect();
        let epoch = hba.control.open(env.bell().event());
        Ok(Self { env, hba: Arc::clone(hba), epoch, ring, slots, dead: false })
    }

    fn die(&mut self, why: RingError) -> Progress {
        self.dead = true;
        self.env.needs_reset(why);
        Progress::Dead
    }

    fn begin(&mut self, taken: &Taken) -> Result<(), RingError> {
        let kind = taken.request.first_chunk().map_or(u32::MAX, |kind| u32::from_le_bytes(*kind));
        match kind {
            control::TMF => {
                let request = TmfRequest::read_from_bytes(&taken.request);
                let request = request.ok().filter(|_| taken.len >= REQUEST_MAX);
                let request = request.ok_or(RingError::Incomplete)?;
                match self.function(taken.head, request) {
                    Outcome::Respond(response) => self.answer(taken.head, &[response]),
                    Outcome::Later => Ok(()),
                }
            }
            control::AN_QUERY | control::AN_SUBSCRIBE => {
                let request = AnRequest::read_from_bytes(&taken.request[..AN_LEN]);
                let request = request.ok().filter(|_| taken.len >= AN_LEN);
                let request = request.ok_or(RingError::Incomplete)?;
                let (events, response) = self.notifications(request, kind);
                let [a, b, c, d] = events.to_le_bytes();
                self.answer(taken.head, &[a, b, c, d, response])
            }
            // Nobody knows where the response would be.
            _ => Err(RingError::Incomplete),
        }
    }

    fn answer(&mut self, head: u16, bytes: &[u8]) -> Result<(), RingError> {
        let slot = &mut self.slots[usize::from(head)];
        if slot.answer.len() < bytes.len() as u64 {
            return Err(RingError::Incomplete);
        }
        slot.busy = false;
        slot.answer.write_at(0, bytes);
        self.env.dma.wrote(&slot.answer);
        self.ring.push_used(head, bytes.len() as u32);
        Ok(())
    }

    /// The unit that a request names, or why there is none.
    fn find(&self, lun: [u8; 8]) -> Result<Arc<Seat>, u8> {
        match LunAddress::parse(lun) {
            LunAddress::Unit { target, lun } => match self.hba.seat(target, lun) {
                Some(seat) => Ok(seat),
                None if self.hba.of_target(target).is_empty() => Err(response::BAD_TARGET),
                None => Err(response::INCORRECT_LUN),
            },
            LunAddress::ReportLuns => Err(response::INCORRECT_LUN),
            LunAddress::Invalid => Err(response::BAD_TARGET),
        }
    }

    fn notifications(&self, request: AnRequest, kind: u32) -> (u32, u8) {
        let seat = match self.find(request.lun) {
            Ok(seat) => seat,
            Err(response) => return (0, response),
        };
        let actual = request.events.get() & seat.notifications();
        if kind == control::AN_SUBSCRIBE {
            seat.subscribed.store(actual, SeqCst);
        }
        (actual, response::OK)
    }

    fn function(&self, head: u16, request: TmfRequest) -> Outcome {
        if request.function.get() == tmf::CLEAR_ACA {
            // NORMACA is zero: there is no such condition to clear (SAM-5, 7.4).
            return Outcome::Respond(response::FUNCTION_REJECTED);
        }
        let seat = match self.find(request.lun) {
            Ok(seat) => seat,
            Err(response) => return Outcome::Respond(response),
        };
        let whole = seat.selector();
        let one = Selector { tag: Some(request.tag.get()), ..whole };
        let end = Action::End(response::ABORTED);
        match request.function.get() {
            tmf::ABORT_TASK => self.hba.broadcast(one, &end, &self.complete(head), false),
            tmf::ABORT_TASK_SET => self.hba.broadcast(whole, &end, &self.complete(head), false),
            tmf::CLEAR_TASK_SET => {
                let token = self.complete(head);
                self.hba.broadcast(whole, &end, &token, false);
                seat.unit.clear_task_set(seat.nexus, &token);
            }
            tmf::I_T_NEXUS_RESET => {
                let token = self.complete(head);
                let all = Selector { lun: None, ..whole };
                self.hba.broadcast(all, &end, &token, false);
                for seat in self.hba.of_target(seat.target) {
                    seat.unit.nexus_lost(seat.nexus);
                }
            }
            tmf::LOGICAL_UNIT_RESET => {
                let token = self.complete(head);
                self.hba.broadcast(whole, &Action::End(response::RESET), &token, false);
                seat.unit.reset(Some(seat.nexus), &token);
            }
            tmf::QUERY_TASK => self.count(head, one),
            tmf::QUERY_TASK_SET => self.count(head, whole),
            _ => return Outcome::Respond(response::FUNCTION_REJECTED),
        }
        Outcome::Later
    }

    /// Counts requests, and answers whether there are any.
    fn count(&self, head: u16, selector: Selector) {
        let count = Arc::new(AtomicU32::new(0));
        let result = Arc::clone(&count);
        let token = self.when_done(head, move || match result.load(SeqCst) {
            0 => response::OK,
            _ => response::FUNCTION_SUCCEEDED,
        });
        self.hba.broadcast(selector, &Action::Count(count), &token, false);
    }

    fn complete(&self, head: u16) -> Countdown {
        self.when_done(head, || response::OK)
    }

    /// Answers a function once all clones of the token are gone, unless the queue is.
    fn when_done(&self, slot: u16, response: impl FnOnce() -> u8 + Send + 'static) -> Countdown {
        let (hba, epoch) = (Arc::downgrade(&self.hba), self.epoch);
        Countdown::new(Box::new(move || {
            if let Some(hba) = hba.upgrade() {
                hba.control.post(Some(epoch), FunctionDone { slot, response: response() });
            }
        }))
    }

    fn pass(&mut self, budget: u32) -> Result<Progress, RingError> {
        for done in self.hba.control.take() {
            self.answer(done.slot, &[done.response])?;
        }
        for _ in 0..budget {
            let Some(mut chain) = self.ring.pop()? else { return Ok(Progress::Idle) };
            let taken = take(&self.env, &mut self.slots, &mut chain)?;
            self.begin(&taken)?;
        }
        Ok(Progress::More)
    }
}

/// Takes a chain apart, into the slot that its head names.
fn take(env: &QueueEnv, slots: &mut [Slot], chain: &mut Chain<'_>) -> Result<Taken, RingError> {
    let head = chain.head();
    let slot = slots.get_mut(usize::from(head)).ok_or(RingError::Chain)?;
    if slot.busy {
        return Err(RingError::Reused);
    }
    slot.answer.clear();
    let mut taken = Taken { head, request: [0; REQUEST_MAX], len: 0 };
    while let Some(buffer) = chain.next_buffer()? {
        if buffer.writable {
            let len = u64::from(buffer.len).min(ANSWER_MAX - slot.answer.len());
            env.dma
                .push(&mut slot.answer, buffer.address, len)
                .map_err(|_| RingError::Incomplete)?;
            continue;
        }
        if !slot.answer.is_empty() {
            // What the device reads comes before what it writes (2.7.4.2).
            return Err(RingError::Chain);
        }
        let len = (buffer.len as usize).min(REQUEST_MAX - taken.len);
        let part = &mut taken.request[taken.len..taken.len + len];
        env.dma.read_bytes(buffer.address, part).map_err(|_| RingError::Incomplete)?;
        taken.len += len;
    }
    if slot.answer.is_empty() {
        return Err(RingError::Incomplete);
    }
    slot.busy = true;
    Ok(taken)
}

impl Queue for ControlQueue {
    fn service(&mut self, _port: &mut Port<'_>, budget: u32) -> Progress {
        self.pass(budget).unwrap_or_else(|why| self.die(why))
    }

    fn complete(&mut self, _: &mut Port<'_>, _: u32, _: IoBuf, _: Result<(), BlockError>) {
        debug_assert!(false, "nothing is submitted here");
    }

    fn flush_irq(&mut self) {
        if self.ring.publish() {
            self.env.interrupt();
        }
    }

    fn pending(&mut self) -> bool {
        !self.dead
            && self.env.is_bus_master()
            && (self.ring.pending() || self.hba.control.has_items())
    }

    fn notify(&mut self, on: bool) {
        self.ring.notify(on);
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.env.bell().fd())
    }

    fn drained(&mut self) {}
}

impl Drop for ControlQueue {
    fn drop(&mut self) {
        self.hba.control.close(self.epoch);
    }
}
