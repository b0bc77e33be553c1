//! The queue half of a completion queue and of all submission queues that post to it.

mod coalesce;
mod fused;
mod mail;
mod slow;

use std::{
    collections::VecDeque,
    os::fd::RawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use spindle_block::{
    BlockError, Io, IoBuf, Op, Range,
    iothread::{Port, Progress, Queue, Stamp},
    root::Account,
};

use super::table::Table;
use crate::{
    device::Countdown,
    nvme::{
        admin::ErrorEntry,
        cmd::Command,
        controller::{Ctl, Home},
        namespace::Gate,
        oneshot::Sender,
        rings::Rings,
        sg::gather,
        spec::{NSID_ALL, Sqe, nvm},
        status::Status,
    },
    policy::ErrorAction,
};
use coalesce::Coalescer;

/// Most commands of one completion queue under way at a time.
const SLOTS_MAX: u32 = 1024;

/// What a slot's command is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// In the block layer.
    InFlight,
    /// It failed and waits for the machine to go on.
    Parked,
    /// It waits for its namespace's gate.
    Held,
    /// The second command of a fused operation: the first one's slot speaks for both.
    Second,
}

/// What a task leaves beside the block layer's result.
#[derive(Default)]
struct Outcome {
    /// Status bits, or 0.
    status: AtomicU32,
    /// Dword 0 of the completion.
    result: AtomicU32,
    /// The same as `status`, of the second command of a fused operation; 0: as the first.
    second: AtomicU32,
    /// Its memory.
    buf: Mutex<Option<IoBuf>>,
}

/// A place for one command.
struct Slot {
    state: State,
    /// Index of its submission queue.
    sq: u16,
    cid: u16,
    nsid: u32,
    command: Command,
    started: Stamp,
    /// The command's memory while it is not in the block layer; its capacity is kept.
    buf: IoBuf,
    /// What a task ended with.
    outcome: Option<Arc<Outcome>>,
    /// It counts as the namespace's: whoever wants that alone waits for it.
    counted: bool,
    /// The second command of a fused operation.
    second: Option<u16>,
    /// Its host was preempted: it ends so, whatever comes of it.
    preempted: bool,
}

/// See the module.
pub struct IoQueue {
    ctl: Arc<Ctl>,
    home: Arc<Home>,
    rings: Rings,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    table: Table,
    in_flight: u32,
    /// Slots of parked commands, in the order they failed.
    parked: Vec<u16>,
    /// Slots of commands that wait for a gate.
    held: VecDeque<u16>,
    /// A gate was opened since they were tried last.
    reopened: bool,
    /// Who waits for a submission queue to be empty.
    deleting: Vec<(u16, Sender<()>)>,
    /// Who waits for a namespace to be quiet.
    quiet: Vec<(Option<u32>, Countdown)>,
    /// Who waits for commands of a namespace that were preempted.
    preempting: Vec<(u32, Countdown)>,
    /// The time, looked up once a pass.
    now: Option<Stamp>,
    coalescer: Coalescer,
}

impl IoQueue {
    /// The queue half of a completion queue that the host has created.
    #[must_use]
    pub fn new(ctl: &Arc<Ctl>, home: &Arc<Home>, rings: Rings) -> Self {
        let keep = ctl.dma.keep();
        let count = (rings.entries() - 1).min(SLOTS_MAX);
        let slot = |_| {
            let mut buf = IoBuf::with_capacity(2);
            buf.set_keep(Arc::clone(&keep));
            Slot {
                state: State::Free,
                sq: 0,
                cid: 0,
                nsid: 0,
                command: Command::Block(Op::Flush, Range::default()),
                started: Stamp::default(),
                buf,
                outcome: None,
                counted: false,
                second: None,
                preempted: false,
            }
        };
        Self {
            ctl: Arc::clone(ctl),
            home: Arc::clone(home),
            rings,
            slots: (0..count).map(slot).collect(),
            free: (0..count as u16).rev().collect(),
            table: Table::default(),
            in_flight: 0,
            parked: Vec::with_capacity(count as usize),
            held: VecDeque::new(),
            reopened: false,
            deleting: Vec::new(),
            quiet: Vec::new(),
            preempting: Vec::new(),
            now: None,
            coalescer: Coalescer::default(),
        }
    }

    /// Parses and starts one command, or answers it on the spot.
    #[inline]
    fn begin(&mut self, port: &mut Port<'_>, sq: u16, sqe: &Sqe) {
        let (cid, nsid) = (sqe.cid.get(), sqe.nsid.get());
        let Some(index) = self.free.pop() else {
            debug_assert!(false, "a command without a slot");
            return self.rings.post(sq, cid, Status::INTERNAL, 0);
        };
        let slot = &mut self.slots[usize::from(index)];
        (slot.sq, slot.cid, slot.nsid) = (sq, cid, nsid);
        match self.prepare(index, sqe) {
            Ok(command) => {
                self.slots[usize::from(index)].command = command;
                self.start(port, index);
            }
            Err(status) => self.answer(index, status),
        }
    }

    /// What the command is, with its memory in the slot.
    #[inline]
    fn prepare(&mut self, index: u16, sqe: &Sqe) -> Result<Command, Status> {
        let nsid = sqe.nsid.get();
        if nsid == NSID_ALL && sqe.opcode == nvm::FLUSH {
            return Ok(Command::Block(Op::Flush, Range::default()));
        }
        let transfer_max = self.ctl.config().transfer_max();
        let Some(entry) = self.table.get(nsid) else { return Err(unknown(nsid)) };
        let limits = entry.limits(transfer_max);
        let command = Command::parse(sqe, &limits)?;
        let len = command.transfer_len();
        let slot = &mut self.slots[usize::from(index)];
        gather(&self.ctl.dma, self.ctl.page(), sqe, len, &mut slot.buf)?;
        Ok(command)
    }

    /// Answers a command that has no slot.
    fn refuse(&mut self, sq: u16, sqe: &Sqe, status: Status) -> bool {
        self.rings.post(sq, sqe.cid.get(), status, 0);
        true
    }

    /// Starts a command whose memory is in its slot, for the first time or again.
    #[inline]
    fn start(&mut self, port: &mut Port<'_>, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        let (nsid, command) = (slot.nsid, slot.command);
        if nsid == NSID_ALL {
            return self.flush_all(port, index);
        }
        let Some(entry) = self.table.get(nsid) else { return self.answer(index, unknown(nsid)) };
        let gate = entry.namespace.gate();
        if gate != Gate::Open {
            return self.meet(index, gate);
        }
        if let Some(write) = command.is_guarded() {
            let write = write || slot.second.is_some();
            if !entry.namespace.allows(|| self.ctl.host(), write) {
                return self.answer(index, Status::RESERVATION_CONFLICT);
            }
        }
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        slot.started = now;
        if let Command::Block(op, range) = command
            && !entry.namespace.marks().any()
        {
            slot.state = State::InFlight;
            slot.counted = true;
            let buf = if op.has_data() { std::mem::take(&mut slot.buf) } else { IoBuf::empty() };
            entry.in_flight += 1;
            self.in_flight += 1;
            port.submit(&mut entry.root, Io { op, range, buf }, index.into());
            return;
        }
        self.start_slow(port, index);
    }

    /// A command meets a closed gate.
    #[cold]
    fn meet(&mut self, index: u16, gate: Gate) {
        match gate.status() {
            Some(status) => self.answer(index, status),
            None => {
                self.slots[usize::from(index)].state = State::Held;
                self.held.push_back(index);
            }
        }
    }

    /// Data first, then the completion; its interrupt follows in `flush_irq`.
    #[inline]
    fn answer(&mut self, index: u16, status: Status) {
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Free;
        slot.preempted = false;
        slot.buf.clear();
        let outcome = slot.outcome.take();
        let result = outcome.as_ref().map_or(0, |outcome| outcome.result.load(SeqCst));
        let (sq, cid, nsid) = (slot.sq, slot.cid, slot.nsid);
        let second = slot.second.take();
        self.free.push(index);
        if !status.is_success() {
            self.note_error(sq, cid, nsid, status);
        }
        self.rings.post(sq, cid, status, result.into());
        if let Some(second) = second {
            self.answer_second(second, status, outcome.as_deref());
        }
        if !self.deleting.is_empty() {
            self.finish_deletes();
        }
    }

    #[cold]
    fn note_error(&mut self, sq: u16, cid: u16, nsid: u32, status: Status) {
        let sq = self.rings.id_of(sq);
        self.ctl.errors().add(ErrorEntry {
            sq,
            cid,
            nsid,
            status: status.bits(),
            ..Default::default()
        });
    }

    /// A request has failed: what is to be answered, if anything is.
    #[cold]
    fn failed(&mut self, index: u16, error: BlockError) -> Option<Status> {
        let slot = &mut self.slots[usize::from(index)];
        let op = kind(slot.command);
        let action = self.table.in_use(slot.nsid).map_or(ErrorAction::Report, |entry| {
            match entry.gone {
                // The machine that would stop and go on knows nothing of it any more.
                true => ErrorAction::Report,
                false => self.ctl.failures.decide(op, entry.root.root().name(), error),
            }
        });
        match action {
            ErrorAction::Report => Some(Status::of(error, op)),
            ErrorAction::Ignore => Some(Status::SUCCESS),
            ErrorAction::Stop => {
                slot.state = State::Parked;
                self.parked.push(index);
                None
            }
        }
    }

    /// Starts parked commands again, in the order they failed.
    fn replay(&mut self, port: &mut Port<'_>) {
        for _ in 0..self.parked.len() {
            let index = self.parked.remove(0);
            self.start(port, index);
        }
    }

    /// Tries commands again that waited for a gate.
    fn restart_held(&mut self, port: &mut Port<'_>) {
        for _ in 0..self.held.len() {
            if let Some(index) = self.held.pop_front() {
                self.start(port, index);
            }
        }
    }

    fn account(&mut self, port: &Port<'_>, index: u16, result: Result<(), BlockError>) {
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        let slot = &self.slots[usize::from(index)];
        let (kind, bytes) = match slot.command {
            Command::Block(Op::Read, range) => (Account::Read, range.len),
            Command::Block(Op::Write { .. }, range) => (Account::Write, range.len),
            Command::Block(Op::Flush, _) => (Account::Flush, 0),
            Command::Block(Op::Discard | Op::WriteZeroes { .. }, range) => {
                (Account::Unmap, range.len)
            }
            Command::Dataset { .. } => (Account::Unmap, 0),
            Command::Compare(range) | Command::Verify(range) => (Account::Read, range.len),
            Command::Copy { .. } => (Account::Write, 0),
            Command::WriteUncorrectable(_) | Command::Reservation(_) => return,
        };
        let took = now.since(slot.started);
        if let Some(entry) = self.table.in_use(slot.nsid) {
            entry.root.account_ns(port.cx().lane(), kind, bytes, took, result);
        }
    }

    fn check(&self) {
        debug_assert_eq!(
            self.in_flight as usize,
            self.slots.iter().filter(|slot| slot.state == State::InFlight).count(),
            "commands in flight and slots in use"
        );
    }
}

/// What is wrong with a namespace ID that names no attached namespace (Base 3.2.1).
fn unknown(nsid: u32) -> Status {
    let valid = (1..=crate::nvme::config::NAMESPACES_MAX).contains(&nsid);
    if valid { Status::INVALID_FIELD } else { Status::INVALID_NAMESPACE }
}

/// What the error policies take a command for.
fn kind(command: Command) -> Op {
    match command {
        Command::Block(op, _) => op,
        Command::Compare(_) | Command::Verify(_) => Op::Read,
        Command::Dataset { .. } => Op::Discard,
        Command::Copy { .. } | Command::WriteUncorrectable(_) | Command::Reservation(_) => {
            Op::Write { fua: false }
        }
    }
}

impl Queue for IoQueue {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        if budget == 0 {
            self.read_mail(port);
            self.watch_time(port);
            return Progress::Idle;
        }
        self.table.follow(&self.ctl);
        if self.home.place.take_resumed() {
            self.replay(port);
        }
        if std::mem::take(&mut self.reopened) {
            self.restart_held(port);
        }
        let mut progress = Progress::More;
        for _ in 0..budget {
            if !self.parked.is_empty() || self.free.is_empty() {
                progress = Progress::Idle;
                break;
            }
            let Some((sq, sqe)) = self.rings.pop() else {
                progress = Progress::Idle;
                break;
            };
            if sqe.fuse() == 0 {
                self.begin(port, sq, &sqe);
            } else if !self.begin_fused(port, sq, &sqe) {
                progress = Progress::Idle;
                break;
            }
        }
        self.watch_time(port);
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
        let index = token as u16;
        self.account(port, index, result);
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_eq!(slot.state, State::InFlight, "a completion nobody waits for");
        self.in_flight -= 1;
        let (nsid, counted) = (slot.nsid, slot.counted);
        if buf.has_keep() {
            slot.buf = buf;
        }
        self.take_second_back(index);
        let slot = &mut self.slots[usize::from(index)];
        let status = match result {
            _ if slot.preempted => Some(Status::PREEMPTED),
            Ok(()) => {
                if slot.command_reads() {
                    self.ctl.dma.wrote(&slot.buf);
                }
                let bits = slot.outcome.as_ref().map_or(0, |outcome| outcome.status.load(SeqCst));
                Some(Status::from_bits(bits as u16))
            }
            Err(error) => self.failed(index, error),
        };
        if let Some(status) = status {
            self.answer(index, status);
        }
        if counted {
            self.table.ended(nsid);
        }
        if !self.quiet.is_empty() {
            self.look_for_quiet();
        }
        if !self.preempting.is_empty() {
            self.look_for_preempted();
        }
        self.watch_time(port);
        self.check();
    }

    fn publish(&mut self) -> bool {
        self.now = None;
        self.rings.posted() > 0
    }

    fn flush_irq(&mut self) {
        self.now = None;
        if self.rings.posted() > 0 && !self.is_held() {
            self.coalescer.since = None;
            self.coalescer.due = false;
            self.rings.flush();
        }
    }

    fn pending(&mut self) -> bool {
        if !self.ctl.is_bus_master() || self.ctl.is_fatal() {
            return false;
        }
        if !self.parked.is_empty() {
            return self.home.place.is_resumed();
        }
        let slots = if self.rings.wants_two() { 2 } else { 1 };
        self.reopened || self.free.len() >= slots && self.rings.pending()
    }

    fn notify(&mut self, on: bool) {
        if on {
            self.rings.arm();
        }
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.home.bell.fd())
    }

    fn drained(&mut self) {
        debug_assert_eq!(self.in_flight, 0, "drained with commands in flight");
    }
}

impl Slot {
    fn command_reads(&self) -> bool {
        matches!(self.command, Command::Block(Op::Read, _))
    }
}
