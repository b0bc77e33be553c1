//! The queue half of a request queue: from the available ring to the units, and back to the used
//! ring.

mod mail;

use std::{
    os::fd::RawFd,
    sync::{Arc, Mutex, PoisonError},
};

use spindle_block::{
    BlockError, Io, IoBuf, Op, Range,
    iothread::{Port, Progress, Queue, Stamp},
    root::Account,
};
use zerocopy::IntoBytes;

use super::{
    hba::Hba,
    locals::{Found, Locals},
    sg::{Sizes, Taken, take},
    slot::{Gate, Running, Slot, State},
    spec::{RESPONSE_HEADER_LEN, ResponseHeader, attribute, response},
};
use crate::{
    device::Countdown,
    policy::{ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation, is_drivers_fault},
    scsi::{
        AbortFlag, Answer, Arrival, Elsewhere, Failure, Job, JobEnd, LunSelect, Sense, Step,
        answer_elsewhere,
        cmd::Transfer,
        sense_of,
        spec::{SENSE_MAX, Status},
    },
    virtio::{
        QueueEnv,
        ring::{Chain, Ring, RingError},
    },
};

/// The token of a step of a format or sanitize.
const STEP: u32 = u32::MAX;

/// See the module.
pub(super) struct RequestQueue {
    env: QueueEnv,
    hba: Arc<Hba>,
    /// Which of the request queues it is.
    number: usize,
    epoch: u64,
    ring: Ring,
    sizes: Sizes,
    locals: Locals,
    slots: Box<[Slot]>,
    /// Requests in the block layer, and jobs.
    in_flight: u32,
    /// Heads of parked requests, in the order they failed.
    parked: Vec<u16>,
    /// Heads of requests that wait for the medium to be overwritten.
    overwriting: Vec<u16>,
    /// Heads of requests whose unit left while the queue could not answer.
    orphans: Vec<u16>,
    /// Those who wait for answers that the driver is about to see.
    released: Vec<Countdown>,
    /// A step of a format or sanitize is under way here.
    stepping: bool,
    /// There may be a step to do.
    look_for_steps: bool,
    /// The time, looked up once a pass.
    now: Option<Stamp>,
    dead: bool,
}

impl RequestQueue {
    pub fn new(env: QueueEnv, hba: &Arc<Hba>, number: usize) -> Result<Self, RingError> {
        let ring = Ring::new(&env.dma, &env.setup)?;
        let keep = env.dma.keep();
        let slots = (0..ring.size()).map(|_| Slot::new(&keep)).collect();
        let sizes = Sizes {
            cdb: hba.space.cdb_size(),
            response: RESPONSE_HEADER_LEN + hba.space.sense_size(),
        };
        let epoch = hba.requests[number].open(env.bell().event());
        Ok(Self {
            parked: Vec::with_capacity(ring.size().into()),
            hba: Arc::clone(hba),
            number,
            epoch,
            ring,
            sizes,
            locals: Locals::new(),
            slots,
            in_flight: 0,
            overwriting: Vec::new(),
            orphans: Vec::new(),
            released: Vec::new(),
            stepping: false,
            look_for_steps: true,
            now: None,
            dead: false,
            env,
        })
    }

    fn die(&mut self, why: RingError) -> Progress {
        self.dead = true;
        self.env.needs_reset(why);
        Progress::Dead
    }

    /// Takes the next chain into its slot. `None`: there is none.
    #[inline]
    fn take(&mut self) -> Result<Option<Taken>, RingError> {
        let Some(mut chain) = self.ring.pop()? else { return Ok(None) };
        take_into(&self.env, &mut self.slots, self.sizes, &mut chain).map(Some)
    }

    /// Finds the unit of a request. `None`: it was answered.
    #[inline]
    fn locate(&mut self, taken: &Taken) -> Option<u16> {
        let slot = &mut self.slots[usize::from(taken.head)];
        slot.tag = taken.header.tag.get();
        slot.attribute = taken.header.attribute;
        slot.cdb = taken.cdb;
        slot.out_len = taken.out_len;
        slot.in_len = taken.in_len;
        slot.phase = None;
        slot.leaving = false;
        if taken.wild || (taken.out_len > 0 && taken.in_len > 0) {
            self.respond(taken.head, response::FAILURE);
            return None;
        }
        match self.locals.find(taken.header.lun) {
            Found::Unit(index) => {
                if let Some(local) = self.locals.get(index) {
                    local.users += 1;
                    slot.unit = index;
                    slot.target = local.seat.target;
                    slot.lun = local.seat.lun;
                    return Some(index);
                }
                self.respond(taken.head, response::BAD_TARGET);
            }
            Found::NoUnit(target) => {
                let hba = Arc::clone(&self.hba);
                let luns = |select| hba.luns(target, select);
                self.answer_elsewhere(taken, Elsewhere::NoUnit, &luns);
            }
            Found::ReportLuns => {
                let hba = Arc::clone(&self.hba);
                self.answer_elsewhere(taken, Elsewhere::ReportLuns, &|_| hba.all_luns());
            }
            Found::Nobody => self.respond(taken.head, response::BAD_TARGET),
        }
        None
    }

    fn answer_elsewhere(
        &mut self,
        taken: &Taken,
        whom: Elsewhere,
        luns: &dyn Fn(LunSelect) -> Vec<[u8; 8]>,
    ) {
        let (answer, transfer) = answer_elsewhere(whom, &taken.cdb, luns);
        let overrun = match transfer {
            Transfer::None => false,
            Transfer::In(len) => len > taken.in_len,
            Transfer::Out(len) => len > taken.out_len,
        };
        if overrun {
            self.respond(taken.head, response::OVERRUN);
        } else {
            self.answer(taken.head, &answer, false);
        }
    }

    /// Begins the request in a slot, or begins it again, once it is its turn.
    #[inline]
    fn begin(&mut self, port: &mut Port<'_>, head: u16) {
        let slot = &self.slots[usize::from(head)];
        let Some(local) = self.locals.get(slot.unit) else { return };
        let lines_up = match slot.attribute {
            attribute::HEAD_OF_QUEUE => false,
            attribute::ORDERED => true,
            _ => local.seat.unit.is_ordered(),
        };
        if lines_up {
            return self.line_up(port, head);
        }
        self.begin_now(port, head);
    }

    #[cold]
    fn line_up(&mut self, port: &mut Port<'_>, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        let Some(local) = self.locals.get(slot.unit) else { return };
        let turn = local.seat.unit.line_up(slot.attribute == attribute::ORDERED);
        let gate = Gate { turn: Arc::default(), abort: AbortFlag::default() };
        let (given, abort) = (Arc::clone(&gate.turn), gate.abort.clone());
        slot.state = State::InFlight;
        slot.gate = Some(gate);
        self.in_flight += 1;
        let data = std::mem::take(&mut slot.data);
        port.spawn(head.into(), async move {
            turn.wait(&abort).await;
            *given.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
            (data, Ok(()))
        });
    }

    /// It is the turn of a request, unless it was ended before.
    #[cold]
    fn take_turn(&mut self, port: &mut Port<'_>, head: u16, gate: &Gate, buf: IoBuf) {
        let slot = &mut self.slots[usize::from(head)];
        slot.data = buf;
        slot.turn = gate.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(code) = slot.ended {
            self.respond(head, code);
            self.release(head);
            return;
        }
        self.begin_now(port, head);
        let slot = &mut self.slots[usize::from(head)];
        if slot.attribute != attribute::ORDERED {
            slot.turn = None;
        }
    }

    #[inline]
    fn begin_now(&mut self, port: &mut Port<'_>, head: u16) {
        let slot = &self.slots[usize::from(head)];
        let Some(local) = self.locals.get(slot.unit) else { return };
        let (hba, target) = (&self.hba, slot.target);
        let arrival = Arrival {
            nexus: local.seat.nexus,
            cdb: &slot.cdb,
            out_len: slot.out_len,
            in_len: slot.in_len,
            data: &slot.data,
            luns: &|select| hba.luns(target, select),
        };
        let step = match slot.phase {
            None => local.handle.begin(&arrival),
            Some(phase) => local.handle.resume(&arrival, phase),
        };
        match step {
            Step::Io { op, range } => self.submit(port, head, op, range),
            Step::Answer(answer) => {
                self.look_for_steps |= answer.sense.is_some();
                self.finish(head, &answer);
            }
            Step::Job(job) => self.spawn(port, head, *job),
            Step::Overrun => {
                self.respond(head, response::OVERRUN);
                self.release(head);
            }
        }
    }

    #[inline]
    fn submit(&mut self, port: &mut Port<'_>, head: u16, op: Op, range: Range) {
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        let slot = &mut self.slots[usize::from(head)];
        slot.state = State::InFlight;
        slot.op = op;
        slot.range = range;
        slot.started = now;
        let buf = match op.has_data() {
            // More memory than the command needs: the rest is not touched.
            true if slot.data.len() > range.len => slot.data.view(0, range.len),
            true => std::mem::take(&mut slot.data),
            false => IoBuf::empty(),
        };
        self.in_flight += 1;
        let token = head.into();
        match self.locals.get(slot.unit).and_then(|local| local.handle.root()) {
            Some(root) => port.submit(root, Io { op, range, buf }, token),
            None => port.complete_later(token, buf, Err(BlockError::Gone)),
        }
    }

    fn spawn(&mut self, port: &mut Port<'_>, head: u16, job: Job) {
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        let slot = &mut self.slots[usize::from(head)];
        let result = Arc::new(Mutex::new(None));
        slot.state = State::InFlight;
        slot.started = now;
        slot.op = if slot.in_len > 0 { Op::Read } else { Op::Write { fua: false } };
        slot.range = Range::default();
        slot.job = Some(Running {
            result: Arc::clone(&result),
            abort: job.abort_flag(),
            free_writer: job.is_free_writer(),
        });
        self.in_flight += 1;
        let data = std::mem::take(&mut slot.data);
        let cx = spindle_block::Cx::clone(port.cx());
        port.spawn(head.into(), async move {
            let (data, outcome) = job.run(cx, data).await;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            (data, Ok(()))
        });
    }

    /// A response without status: the request was not done.
    fn respond(&mut self, head: u16, response: u8) {
        let header = ResponseHeader { response, ..ResponseHeader::default() };
        self.push(head, &header, &[], 0);
    }

    /// Answers, and frees the slot.
    fn finish(&mut self, head: u16, answer: &Answer) {
        let slot = &self.slots[usize::from(head)];
        let Some(local) = self.locals.get(slot.unit) else { return };
        let descriptor = local.seat.unit.descriptor_sense();
        if slot.out_len > 0 && answer.status == Status::Good {
            let used = local.handle.out_len(&slot.cdb).min(slot.out_len);
            self.respond_status(head, answer, slot.out_len - used, 0, descriptor);
        } else {
            self.answer(head, answer, descriptor);
        }
        self.release(head);
    }

    /// The slot is free: its unit may go, and whoever waits may go on.
    #[inline]
    fn release(&mut self, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        self.locals.release(slot.unit);
        slot.turn = None;
        if slot.ended.take().is_some() | !slot.waiting.is_empty() {
            self.released.append(&mut slot.waiting);
        }
    }

    fn answer(&mut self, head: u16, answer: &Answer, descriptor: bool) {
        let slot = &mut self.slots[usize::from(head)];
        let len = slot.in_len.min(answer.data.len() as u64).min(slot.data.len());
        if len > 0 {
            slot.data.write_at(0, &answer.data[..len as usize]);
            self.env.dma.wrote(&slot.data);
        }
        let residual = slot.total() - len;
        self.respond_status(head, answer, residual, len, descriptor);
    }

    #[inline]
    fn respond_status(
        &mut self,
        head: u16,
        answer: &Answer,
        residual: u64,
        data_len: u64,
        descriptor: bool,
    ) {
        let sense = answer.sense.map(|sense| sense.encode(descriptor));
        let room = self.sizes.response - RESPONSE_HEADER_LEN;
        let sense =
            sense.as_ref().map_or(&[][..], |s| &s.as_slice()[..s.as_slice().len().min(room)]);
        let header = ResponseHeader {
            sense_len: (sense.len() as u32).into(),
            residual: u32::try_from(residual).unwrap_or(u32::MAX).into(),
            status: answer.status as u8,
            response: response::OK,
            ..ResponseHeader::default()
        };
        self.push(head, &header, sense, data_len);
    }

    /// Data, response, used element, in this order; the used index follows in `flush_irq`.
    #[inline]
    fn push(&mut self, head: u16, header: &ResponseHeader, sense: &[u8], data_len: u64) {
        let slot = &mut self.slots[usize::from(head)];
        slot.state = State::Free;
        slot.data.clear();
        let mut bytes = [0; RESPONSE_HEADER_LEN + SENSE_MAX];
        bytes[..RESPONSE_HEADER_LEN].copy_from_slice(header.as_bytes());
        bytes[RESPONSE_HEADER_LEN..][..sense.len()].copy_from_slice(sense);
        slot.response.write_at(0, &bytes[..self.sizes.response]);
        self.env.dma.wrote(&slot.response);
        let written = self.sizes.response as u64 + data_len;
        self.ring.push_used(head, u32::try_from(written).unwrap_or(u32::MAX));
    }

    /// A request has failed below: what comes of it. `None`: it waits for the machine to go on.
    fn failed(&mut self, head: u16, failure: Failure) -> Option<Result<Answer, Sense>> {
        let slot = &mut self.slots[usize::from(head)];
        let Failure { error, read, lba, phase } = failure;
        let local = self.locals.get(slot.unit)?;
        let config = local.seat.unit.config();
        let policy: ErrorPolicy = if read { config.rerror } else { config.werror };
        let drivers_fault = is_drivers_fault(error);
        let mut action = if drivers_fault { ErrorAction::Report } else { policy.action(error) };
        if action == ErrorAction::Stop && slot.leaving {
            action = ErrorAction::Report;
        }
        let device = config.id.clone();
        if action == ErrorAction::Stop {
            slot.state = State::Parked;
            slot.phase = Some(phase);
            // Others must not wait for a machine that is to stop: it lines up again.
            slot.turn = None;
            self.parked.push(head);
            // It is not in flight, which is all that they wait for.
            self.released.append(&mut slot.waiting);
        }
        if !drivers_fault {
            let node = local.handle.root().map(|root| root.root().name().to_owned());
            self.hba.block_events.io_error(IoErrorEvent {
                device,
                node: node.unwrap_or_default(),
                operation: if read { IoOperation::Read } else { IoOperation::Write },
                action,
                nospace: error == BlockError::NoSpace,
                reason: error,
            });
        }
        match action {
            ErrorAction::Report => Some(Err(sense_of(error, read, lba))),
            ErrorAction::Ignore => Some(Ok(Answer::good())),
            ErrorAction::Stop => None,
        }
    }

    /// Begins parked requests again, in the order they failed.
    fn replay(&mut self, port: &mut Port<'_>) {
        for _ in 0..self.parked.len() {
            let head = self.parked.remove(0);
            self.slots[usize::from(head)].state = State::Free;
            self.begin(port, head);
        }
    }

    fn account(&mut self, port: &Port<'_>, head: u16, result: Result<(), BlockError>) {
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        let slot = &self.slots[usize::from(head)];
        let kind = match slot.op {
            Op::Read => Account::Read,
            Op::Write { .. } => Account::Write,
            Op::Flush => Account::Flush,
            Op::Discard | Op::WriteZeroes { .. } => Account::Unmap,
        };
        let took = now.since(slot.started);
        if let Some(root) = self.locals.get(slot.unit).and_then(|local| local.handle.root()) {
            root.account_ns(port.cx().lane(), kind, slot.range.len, took, result);
        }
    }

    /// Answers those that waited for the medium to be overwritten.
    fn answer_overwritten(&mut self) {
        for _ in 0..self.overwriting.len() {
            let head = self.overwriting.remove(0);
            let slot = &self.slots[usize::from(head)];
            let unit = self.locals.get(slot.unit).map(|local| Arc::clone(&local.seat.unit));
            match unit.and_then(|unit| unit.overwritten()) {
                Some(answer) => self.finish(head, &answer),
                None => self.overwriting.push(head),
            }
        }
    }

    /// Does a step of a format or sanitize, if one waits.
    fn step(&mut self, port: &mut Port<'_>) {
        self.look_for_steps = false;
        for local in self.locals.all() {
            let Some(step) = local.seat.unit.claim_step() else { continue };
            self.stepping = true;
            let cx = spindle_block::Cx::clone(port.cx());
            port.spawn(STEP, async move {
                step.run(cx).await;
                (IoBuf::empty(), Ok(()))
            });
            return;
        }
    }

    fn check(&self) {
        debug_assert_eq!(
            self.in_flight as usize,
            self.slots.iter().filter(|slot| slot.state == State::InFlight).count(),
            "requests in flight and slots in use"
        );
    }
}

/// Takes a chain apart, into the slot that its head names.
#[inline]
fn take_into(
    env: &QueueEnv,
    slots: &mut [Slot],
    sizes: Sizes,
    chain: &mut Chain<'_>,
) -> Result<Taken, RingError> {
    let slot = slots.get_mut(usize::from(chain.head())).ok_or(RingError::Chain)?;
    if slot.state != State::Free {
        return Err(RingError::Reused);
    }
    take(&env.dma, (&mut slot.data, &mut slot.response), sizes, chain)
}

impl Queue for RequestQueue {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        if !self.env.is_bus_master() {
            // As in a pause: commands of other adapters may wait for those in flight here.
            self.attend_mail();
            return Progress::Idle;
        }
        self.locals.refresh(&self.hba);
        self.answer_orphans();
        if self.env.take_resumed() {
            self.replay(port);
        }
        if self.hba.requests[self.number].has_items()
            && let Err(why) = self.read_mail(port)
        {
            return self.die(why);
        }
        self.answer_overwritten();
        if self.look_for_steps && !self.stepping {
            self.step(port);
        }
        let mut progress = Progress::More;
        for _ in 0..budget {
            if !self.parked.is_empty() {
                progress = Progress::Idle;
                break;
            }
            match self.take() {
                Ok(Some(taken)) => {
                    if self.locate(&taken).is_some() {
                        self.begin(port, taken.head);
                    }
                }
                Ok(None) => {
                    progress = Progress::Idle;
                    break;
                }
                Err(why) => return self.die(why),
            }
        }
        self.check();
        progress
    }

    fn complete(
        &mut self,
        port: &mut Port<'_>,
        token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        if token == STEP {
            self.stepping = false;
            self.look_for_steps = true;
            return;
        }
        let head = token as u16;
        let slot = &mut self.slots[usize::from(head)];
        debug_assert_eq!(slot.state, State::InFlight, "a completion nobody waits for");
        self.in_flight -= 1;
        slot.state = State::Free;
        if let Some(gate) = slot.gate.take() {
            self.take_turn(port, head, &gate, buf);
            return self.check();
        }
        let job = slot.job.take();
        if job.is_some() || slot.op.has_data() {
            slot.data = buf;
        }
        let outcome = match job {
            Some(job) => {
                self.look_for_steps = true;
                job.take().unwrap_or(Ok(JobEnd::Answer(Answer::good())))
            }
            None => self.end_io(head, result).map(JobEnd::Answer),
        };
        let failed = outcome.as_ref().err().map(|failure| failure.error);
        self.account(port, head, failed.map_or(Ok(()), Err));
        if let Some(code) = self.slots[usize::from(head)].ended {
            self.respond(head, code);
            self.release(head);
            self.check();
            return;
        }
        let result = match outcome {
            Ok(JobEnd::Answer(answer)) => Some(Ok(answer)),
            Ok(JobEnd::Overwriting) => {
                let slot = &mut self.slots[usize::from(head)];
                slot.state = State::Overwriting;
                slot.turn = None;
                self.overwriting.push(head);
                None
            }
            Err(failure) => self.failed(head, failure),
        };
        match result {
            Some(Ok(answer)) => self.finish_moved(head, &answer),
            Some(Err(sense)) => self.finish(head, &sense.into()),
            None => {}
        }
        self.check();
    }

    fn publish(&mut self) -> bool {
        self.now = None;
        let owed = self.ring.show();
        // Only now does the driver see the answers that others wait for.
        self.released.clear();
        owed
    }

    fn flush_irq(&mut self) {
        self.now = None;
        if self.ring.publish() {
            self.env.interrupt();
        }
        // Only now does the driver see the answers that others wait for.
        self.released.clear();
    }

    fn pending(&mut self) -> bool {
        if self.dead {
            return false;
        }
        if !self.env.is_bus_master() {
            return self.hba.requests[self.number].has_news();
        }
        if !self.orphans.is_empty() {
            return true;
        }
        let more = if self.parked.is_empty() { self.ring.pending() } else { self.env.is_resumed() };
        more || (self.look_for_steps && !self.stepping)
            || self.hba.requests[self.number].has_items()
    }

    fn notify(&mut self, on: bool) {
        self.ring.notify(on);
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.env.bell().fd())
    }

    fn wants_attention(&self) -> bool {
        self.hba.requests[self.number].has_news()
    }

    fn attend(&mut self) {
        self.attend_mail();
    }

    fn drained(&mut self) {
        debug_assert_eq!(self.in_flight, 0, "drained with requests in flight");
    }
}

impl RequestQueue {
    /// What came of a request to the block layer.
    fn end_io(&mut self, head: u16, result: Result<(), BlockError>) -> Result<Answer, Failure> {
        let slot = &mut self.slots[usize::from(head)];
        let read = slot.op == Op::Read;
        match result {
            Ok(()) => {
                if read {
                    self.env.dma.wrote(&slot.data);
                }
                Ok(Answer::good())
            }
            Err(error) => {
                let block = self.locals.get(slot.unit).map(|l| l.seat.unit.config().block_size());
                let block = u64::from(block.unwrap_or(1));
                let lba = slot.op.has_data().then_some(slot.range.offset / block);
                Err(Failure { error, read, lba, phase: 0 })
            }
        }
    }

    /// Answers a request that went to the block layer, or a job.
    #[inline]
    fn finish_moved(&mut self, head: u16, answer: &Answer) {
        let slot = &self.slots[usize::from(head)];
        // A job has no range of its own.
        let moved = slot.range.len;
        if moved == 0 || !slot.op.has_data() {
            return self.finish(head, answer);
        }
        let read = if slot.op == Op::Read { moved } else { 0 };
        self.respond_status(head, answer, slot.total() - moved, read, false);
        self.release(head);
    }
}

impl Drop for RequestQueue {
    fn drop(&mut self) {
        self.hba.requests[self.number].close(self.epoch);
    }
}
