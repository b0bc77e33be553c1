//! The queue half of a disk: from the available ring to the block layer, and back to the used ring.

use std::{os::fd::RawFd, sync::Arc};

use spindle_block::{
    BlockError, Io, IoBuf, Op, Range, RootHandle,
    iothread::{Port, Progress, Queue, Stamp},
    root::Account,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    cmd::{Command, Limits, SegmentOp, id_bytes},
    config::{BlockEvents, ErrorAction, VirtioBlkConfig},
    sg::{Taken, take},
    spec::{ID_LEN, Lifetime, SEGMENT_LEN, Segment},
    status::Status,
};
use crate::{
    Dma,
    policy::Failures,
    virtio::{
        QueueEnv,
        ring::{Chain, Ring, RingError},
    },
};

/// What a slot's request is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    /// It failed and waits for the machine to go on.
    Parked,
}

/// A place for one request, named by the head of its chain.
struct Slot {
    state: State,
    op: Op,
    range: Range,
    /// Guest address of the status byte.
    status_at: u64,
    /// The status byte is all that the device writes.
    only_status: bool,
    started: Stamp,
    /// The request's memory while it is not in the block layer; its capacity is kept.
    buf: IoBuf,
}

/// See the module.
pub(super) struct BlkQueue {
    env: QueueEnv,
    ring: Ring,
    root: RootHandle,
    limits: Limits,
    id: [u8; ID_LEN],
    failures: Failures,
    slots: Box<[Slot]>,
    /// Requests in the block layer.
    in_flight: u32,
    /// Heads of parked requests, in the order they failed.
    parked: Vec<u16>,
    /// The time, looked up once a pass.
    now: Option<Stamp>,
    dead: bool,
}

impl BlkQueue {
    pub fn new(
        env: QueueEnv,
        root: RootHandle,
        limits: Limits,
        config: &VirtioBlkConfig,
        events: Arc<dyn BlockEvents>,
    ) -> Result<Self, RingError> {
        let ring = Ring::new(&env.dma, &env.setup)?;
        let keep = env.dma.keep();
        let slot = |_| {
            let mut buf = IoBuf::with_capacity(2);
            buf.set_keep(Arc::clone(&keep));
            Slot {
                state: State::Free,
                op: Op::Flush,
                range: Range::default(),
                status_at: 0,
                only_status: false,
                started: Stamp::default(),
                buf,
            }
        };
        let slots = (0..ring.size()).map(slot).collect();
        Ok(Self {
            parked: Vec::with_capacity(ring.size().into()),
            ring,
            root,
            limits,
            id: id_bytes(&config.serial),
            failures: Failures {
                device: config.id.clone(),
                werror: config.werror,
                rerror: config.rerror,
                events,
            },
            slots,
            in_flight: 0,
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

    /// Parses and submits one request, or answers it on the spot.
    fn begin(&mut self, port: &mut Port<'_>, taken: &Taken) {
        let slot = &mut self.slots[usize::from(taken.head)];
        slot.status_at = taken.status_at;
        slot.only_status = taken.request.in_len == 0;
        let command = match taken.request.parse(&self.limits) {
            Ok(_) if taken.wild => Err(Status::IoErr),
            other => other,
        };
        match command {
            Ok(Command::Block(op, range)) => self.submit(port, taken.head, op, range),
            Ok(Command::Segment(op)) => match self.segment(taken.head, op) {
                Ok((op, range)) => self.submit(port, taken.head, op, range),
                Err(status) => self.refuse(taken.head, status),
            },
            Ok(Command::Id) => {
                let id = self.id;
                self.answer_with(taken, &id);
            }
            Ok(Command::Lifetime) => self.answer_with(taken, Lifetime::default().as_bytes()),
            Err(status) => self.refuse(taken.head, status),
        }
    }

    fn segment(&self, head: u16, op: SegmentOp) -> Result<(Op, Range), Status> {
        let mut bytes = [0; SEGMENT_LEN];
        self.slots[usize::from(head)].buf.read_at(0, &mut bytes);
        let segment = Segment::read_from_bytes(&bytes).map_err(|_| Status::IoErr)?;
        op.with_segment(segment, &self.limits)
    }

    /// Answers with as much of `bytes` as the request has room for.
    fn answer_with(&mut self, taken: &Taken, bytes: &[u8]) {
        let slot = &mut self.slots[usize::from(taken.head)];
        let len = slot.buf.len().min(bytes.len() as u64);
        slot.buf.write_at(0, &bytes[..len as usize]);
        self.env.dma.wrote(&slot.buf);
        // The status byte only counts where the data before it is complete.
        let whole = len == taken.request.in_len;
        self.answer(taken.head, Status::Ok, len as u32 + u32::from(whole));
    }

    fn submit(&mut self, port: &mut Port<'_>, head: u16, op: Op, range: Range) {
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        let slot = &mut self.slots[usize::from(head)];
        slot.state = State::InFlight;
        slot.op = op;
        slot.range = range;
        slot.started = now;
        let buf = if op.has_data() { std::mem::take(&mut slot.buf) } else { IoBuf::empty() };
        self.in_flight += 1;
        port.submit(&mut self.root, Io { op, range, buf }, head.into());
    }

    /// Answers without data: of what comes before the status byte nothing is known to be written,
    /// so that the used length covers no stale memory.
    fn refuse(&mut self, head: u16, status: Status) {
        let written = self.slots[usize::from(head)].only_status;
        self.answer(head, status, written.into());
    }

    /// Data, status byte, used element, in this order; the used index follows in `flush_irq`.
    fn answer(&mut self, head: u16, status: Status, written: u32) {
        let slot = &mut self.slots[usize::from(head)];
        slot.state = State::Free;
        slot.buf.clear();
        // It was found to be RAM when the request was taken.
        self.env.dma.write_bytes(slot.status_at, &[status as u8]).ok();
        self.ring.push_used(head, written);
    }

    /// A request has failed: whether it is to be answered, and how.
    fn failed(&mut self, head: u16, error: BlockError) -> Option<Status> {
        let slot = &mut self.slots[usize::from(head)];
        let action = self.failures.decide(slot.op, self.root.root().name(), error);
        if action == ErrorAction::Stop {
            slot.state = State::Parked;
            self.parked.push(head);
        }
        match action {
            ErrorAction::Report => Some(error.into()),
            ErrorAction::Ignore => Some(Status::Ok),
            ErrorAction::Stop => None,
        }
    }

    /// Submits parked requests again, in the order they failed.
    fn replay(&mut self, port: &mut Port<'_>) {
        for _ in 0..self.parked.len() {
            let head = self.parked.remove(0);
            let slot = &self.slots[usize::from(head)];
            let (op, range) = (slot.op, slot.range);
            self.submit(port, head, op, range);
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
        self.root.account_ns(port.cx().lane(), kind, slot.range.len, took, result);
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
fn take_into(dma: &Dma, slots: &mut [Slot], chain: &mut Chain<'_>) -> Result<Taken, RingError> {
    let slot = slots.get_mut(usize::from(chain.head())).ok_or(RingError::Chain)?;
    if slot.state != State::Free {
        return Err(RingError::Reused);
    }
    take(dma, &mut slot.buf, chain)
}

impl Queue for BlkQueue {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        if self.env.take_resumed() {
            self.replay(port);
        }
        let mut progress = Progress::More;
        for _ in 0..budget {
            if !self.parked.is_empty() {
                progress = Progress::Idle;
                break;
            }
            let taken = match self.ring.pop() {
                Ok(Some(mut chain)) => take_into(&self.env.dma, &mut self.slots, &mut chain),
                Ok(None) => {
                    progress = Progress::Idle;
                    break;
                }
                Err(why) => Err(why),
            };
            match taken {
                Ok(taken) => self.begin(port, &taken),
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
        let head = token as u16;
        self.account(port, head, result);
        let slot = &mut self.slots[usize::from(head)];
        debug_assert_eq!(slot.state, State::InFlight, "a completion nobody waits for");
        self.in_flight -= 1;
        slot.state = State::Free;
        let read = slot.op == Op::Read;
        if slot.op.has_data() {
            slot.buf = buf;
        }
        match result {
            Ok(()) => {
                let mut written = 1;
                if read {
                    self.env.dma.wrote(&slot.buf);
                    written += slot.buf.len() as u32;
                }
                self.answer(head, Status::Ok, written);
            }
            Err(error) => {
                if let Some(status) = self.failed(head, error) {
                    self.refuse(head, status);
                }
            }
        }
        self.check();
    }

    fn publish(&mut self) -> bool {
        self.now = None;
        self.ring.show()
    }

    fn flush_irq(&mut self) {
        self.now = None;
        if self.ring.publish() {
            self.env.interrupt();
        }
    }

    fn pending(&mut self) -> bool {
        if self.dead || !self.env.is_bus_master() {
            return false;
        }
        if self.parked.is_empty() { self.ring.pending() } else { self.env.is_resumed() }
    }

    fn notify(&mut self, on: bool) {
        self.ring.notify(on);
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.env.bell().fd())
    }

    fn drained(&mut self) {
        debug_assert_eq!(self.in_flight, 0, "drained with requests in flight");
    }
}
