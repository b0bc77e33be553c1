//! The queue half of a completion queue and of all submission queues that post to it.

use std::{
    collections::VecDeque,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Instant,
};

use spindle_block::{
    BlockError, Cx, Io, IoBuf, Op, Range,
    iothread::{Port, Progress, Queue},
    root::Account,
};
use zerocopy::FromBytes;

use super::{
    Mail,
    table::Table,
    tasks::{self, Failure},
};
use crate::{
    device::Countdown,
    nvme::{
        cmd::{Command, byte_range},
        controller::{Ctl, Home},
        namespace::Gate,
        oneshot::Sender,
        rings::Rings,
        sg::gather,
        spec::{DatasetRange, NSID_ALL, Sqe, nvm},
        status::Status,
    },
    policy::ErrorAction,
};

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
}

/// A place for one command.
struct Slot {
    state: State,
    /// Index of its submission queue.
    sq: u16,
    cid: u16,
    nsid: u32,
    command: Command,
    started: Option<Instant>,
    /// The command's memory while it is not in the block layer; its capacity is kept.
    buf: IoBuf,
    /// What a task ended with, beside the block layer's result: status bits, or 0.
    outcome: Option<Arc<AtomicU32>>,
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
    /// The time, looked up once a pass.
    now: Option<Instant>,
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
                started: None,
                buf,
                outcome: None,
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
            now: None,
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
        if sqe.fuse() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let nsid = sqe.nsid.get();
        if nsid == NSID_ALL && sqe.opcode == nvm::FLUSH {
            return Ok(Command::Block(Op::Flush, Range::default()));
        }
        let transfer_max = self.ctl.config().transfer_max();
        let Some(entry) = self.table.get(nsid) else { return Err(unknown(nsid)) };
        let limits = entry.limits(transfer_max);
        let command = Command::parse(sqe, &limits)?;
        let len = match command {
            Command::Block(op, range) if op.has_data() => range.len,
            Command::Compare(range) => range.len,
            Command::Dataset { ranges, .. } => u64::from(ranges) * size_of::<DatasetRange>() as u64,
            Command::Block(..) | Command::Verify(_) => 0,
        };
        let slot = &mut self.slots[usize::from(index)];
        gather(&self.ctl.dma, self.ctl.page(), sqe, len, &mut slot.buf)?;
        Ok(command)
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
        match entry.namespace.gate() {
            Gate::Open => {}
            Gate::Hold => {
                slot.state = State::Held;
                self.held.push_back(index);
                return;
            }
            closed => {
                let status = closed.status().unwrap_or(Status::INTERNAL);
                return self.answer(index, status);
            }
        }
        let now = *self.now.get_or_insert_with(|| port.cx().now());
        slot.started = Some(now);
        if let Command::Block(op, range) = command {
            slot.state = State::InFlight;
            let buf = if op.has_data() { std::mem::take(&mut slot.buf) } else { IoBuf::empty() };
            entry.in_flight += 1;
            self.in_flight += 1;
            port.submit(&mut entry.root, Io { op, range, buf }, index.into());
            return;
        }
        self.start_slow(port, index);
    }

    /// Commands of more than one request, or of none.
    fn start_slow(&mut self, port: &mut Port<'_>, index: u16) {
        let slot = &self.slots[usize::from(index)];
        let (nsid, command) = (slot.nsid, slot.command);
        let Some(entry) = self.table.get(nsid) else { return self.answer(index, unknown(nsid)) };
        let mut root = entry.root.root().handle();
        match command {
            Command::Block(..) => debug_assert!(false, "it is fast"),
            Command::Verify(range) => {
                let cx = Cx::clone(port.cx());
                self.spawn(port, index, move |buf| async move {
                    let result = tasks::verify(&cx, &mut root, range).await;
                    (buf, result)
                });
            }
            Command::Compare(range) => {
                let cx = Cx::clone(port.cx());
                self.spawn(port, index, move |buf| async move {
                    let result = tasks::compare(&cx, &mut root, range, &buf).await;
                    (buf, result)
                });
            }
            Command::Dataset { ranges, deallocate } => {
                let list = match self.dataset(index, ranges) {
                    Ok(list) if deallocate => list,
                    Ok(_) => return self.answer(index, Status::SUCCESS),
                    Err(status) => return self.answer(index, status),
                };
                let cx = Cx::clone(port.cx());
                self.spawn(port, index, move |buf| async move {
                    let result = tasks::discard(&cx, &mut root, list).await;
                    (buf, result)
                });
            }
        }
    }

    /// The ranges of a Dataset Management command, read once.
    fn dataset(&mut self, index: u16, count: u32) -> Result<Vec<Range>, Status> {
        let slot = &self.slots[usize::from(index)];
        let transfer_max = self.ctl.config().transfer_max();
        let entry = self.table.get(slot.nsid).ok_or(Status::INVALID_FIELD)?;
        let limits = entry.limits(transfer_max);
        let bytes = slot.buf.to_vec();
        let (chunks, _) = bytes.as_chunks::<{ size_of::<DatasetRange>() }>();
        let range = |chunk: &[u8; 16]| {
            let range = DatasetRange::read_from_bytes(chunk).map_err(|_| Status::INTERNAL)?;
            byte_range(range.lba.get(), range.blocks.get().into(), &limits)
        };
        chunks.iter().take(count as usize).map(range).collect()
    }

    fn flush_all(&mut self, port: &mut Port<'_>, index: u16) {
        let roots = self.table.all().map(|entry| entry.root.root().handle()).collect();
        let cx = Cx::clone(port.cx());
        self.spawn(port, index, move |buf| async move { (buf, tasks::flush(&cx, roots).await) });
    }

    /// Starts a task for a command; it gets the command's memory and gives it back.
    fn spawn<F>(&mut self, port: &mut Port<'_>, index: u16, task: impl FnOnce(IoBuf) -> F)
    where
        F: Future<Output = (IoBuf, Result<(), Failure>)> + 'static,
    {
        let now = *self.now.get_or_insert_with(|| port.cx().now());
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::InFlight;
        slot.started = Some(now);
        let outcome = Arc::new(AtomicU32::new(0));
        slot.outcome = Some(Arc::clone(&outcome));
        if let Some(entry) = self.table.in_use(slot.nsid) {
            entry.in_flight += 1;
        }
        self.in_flight += 1;
        let task = task(std::mem::take(&mut slot.buf));
        port.spawn(index.into(), async move {
            let (buf, result) = task.await;
            match result {
                Ok(()) => (buf, Ok(())),
                Err(Failure::Block(error)) => (buf, Err(error)),
                Err(Failure::Status(status)) => {
                    outcome.store(status.bits().into(), SeqCst);
                    (buf, Ok(()))
                }
            }
        });
    }

    /// Data first, then the completion; its interrupt follows in `flush_irq`.
    #[inline]
    fn answer(&mut self, index: u16, status: Status) {
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Free;
        slot.buf.clear();
        slot.outcome = None;
        let (sq, cid) = (slot.sq, slot.cid);
        self.free.push(index);
        self.rings.post(sq, cid, status, 0);
        if !self.deleting.is_empty() {
            self.finish_deletes();
        }
    }

    fn finish_deletes(&mut self) {
        let rings = &mut self.rings;
        self.deleting.retain_mut(|(id, _)| match rings.find(*id) {
            Some((index, sq)) if sq.outstanding == 0 => {
                rings.remove(index);
                false
            }
            Some(_) => true,
            None => false,
        });
    }

    /// A request has failed: what is to be answered, if anything is.
    #[cold]
    fn failed(&mut self, index: u16, error: BlockError) -> Option<Status> {
        let slot = &mut self.slots[usize::from(index)];
        let op = kind(slot.command);
        let action = self.table.in_use(slot.nsid).map_or(ErrorAction::Report, |entry| {
            self.ctl.failures.decide(op, entry.root.root().name(), error)
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
        let now = *self.now.get_or_insert_with(|| port.cx().now());
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
        };
        let took = slot.started.map_or_else(Default::default, |s| now.saturating_duration_since(s));
        if let Some(entry) = self.table.in_use(slot.nsid) {
            entry.root.account(port.cx().lane(), kind, bytes, took, result);
        }
    }

    fn read_mail(&mut self) {
        while let Some(mail) = self.home.take() {
            match mail {
                Mail::Add(sq) => self.rings.add(sq),
                Mail::Shadows(pages) => self.rings.use_shadows(pages),
                Mail::Delete { id, reply } => self.delete(id, reply),
                Mail::Abort { sq, cid, reply } => {
                    let aborted = self.abort(sq, cid);
                    reply.send(aborted);
                }
                Mail::Quiesce { nsid, done } => {
                    self.table.follow(&self.ctl);
                    self.quiet.push((nsid, done));
                    self.look_for_quiet();
                }
                // They start in the next service: mail is read while the queue is paused, too.
                Mail::Reopen => self.reopened = true,
            }
        }
    }

    fn look_for_quiet(&mut self) {
        let table = &self.table;
        self.quiet.retain(|(nsid, _)| table.in_flight(*nsid) > 0);
    }

    fn delete(&mut self, id: u16, reply: Sender<()>) {
        let Some((index, sq)) = self.rings.find(id) else { return };
        sq.closed = true;
        self.deleting.push((id, reply));
        self.abort_waiting(|slot| usize::from(slot.sq) == index, Status::SQ_DELETED);
        self.finish_deletes();
    }

    fn abort(&mut self, sq: u16, cid: u16) -> bool {
        let Some((index, _)) = self.rings.find(sq) else { return false };
        let wanted = |slot: &Slot| usize::from(slot.sq) == index && slot.cid == cid;
        self.abort_waiting(wanted, Status::ABORT_REQUESTED)
    }

    /// Ends commands that only wait for something. Returns whether there were any.
    fn abort_waiting(&mut self, wanted: impl Fn(&Slot) -> bool, status: Status) -> bool {
        let waits = |state| matches!(state, State::Parked | State::Held);
        let found: Vec<u16> = (0..self.slots.len() as u16)
            .filter(|i| {
                let slot = &self.slots[usize::from(*i)];
                waits(slot.state) && wanted(slot)
            })
            .collect();
        self.parked.retain(|index| !found.contains(index));
        self.held.retain(|index| !found.contains(index));
        found.iter().for_each(|index| self.answer(*index, status));
        !found.is_empty()
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
    }
}

impl Queue for IoQueue {
    fn service(&mut self, port: &mut Port<'_>, budget: u32) -> Progress {
        if budget == 0 {
            self.read_mail();
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
            self.begin(port, sq, &sqe);
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
        let index = token as u16;
        self.account(port, index, result);
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_eq!(slot.state, State::InFlight, "a completion nobody waits for");
        self.in_flight -= 1;
        let nsid = slot.nsid;
        if buf.has_keep() {
            slot.buf = buf;
        }
        let status = match result {
            Ok(()) => {
                if slot.command_reads() {
                    self.ctl.dma.wrote(&slot.buf);
                }
                let outcome = slot.outcome.as_ref().map_or(0, |outcome| outcome.load(SeqCst));
                Some(Status::from_bits(outcome as u16))
            }
            Err(error) => self.failed(index, error),
        };
        if let Some(status) = status {
            self.answer(index, status);
        }
        self.table.ended(nsid);
        if !self.quiet.is_empty() {
            self.look_for_quiet();
        }
        self.check();
    }

    fn flush_irq(&mut self) {
        self.now = None;
        self.rings.flush();
    }

    fn pending(&mut self) -> bool {
        if !self.ctl.is_bus_master() {
            return false;
        }
        if !self.parked.is_empty() {
            return self.home.place.is_resumed();
        }
        self.reopened || !self.free.is_empty() && self.rings.pending()
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
