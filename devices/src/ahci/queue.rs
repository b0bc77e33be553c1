//! The queue half of a port: from the command list to the drive, and back to the received FISes and
//! the port's registers.
//!
//! A command that is not queued keeps the drive busy until it ends; queued ones are accepted one
//! after the other and end in any order. What ended in a pass is published at its end: FISes first,
//! then registers, then one interrupt.

mod background;
mod ending;
mod news;
mod packet;
mod target;

use std::{os::fd::RawFd, sync::Arc, time::Instant};

use spindle_block::{
    BlockError, Io, IoBuf, Op, Range,
    iothread::{Port as RingPort, Progress, Queue},
    root::Account,
};

use super::{
    fis::{self, Sent},
    hba::Hba,
    multiplier::Multiplier,
    port::{Changes, Interrupt, Plugged, Port, tfd},
    sg::{Fetched, Gap},
    slot::{Abort, JobOutcome, Running, Slot, State},
    spec::{SLOTS, header, is, multiplier::CONTROL_PORT, serr},
};
use crate::{
    ata::{
        Command, Ending, Failure, Job, Protocol, ResetKind, Step, Taskfile,
        spec::{error, op},
    },
    device::Countdown,
    policy::ErrorAction,
};
use ending::Frames;
use target::Target;

/// The queue half of one port.
pub(super) struct PortQueue {
    hba: Arc<Hba>,
    port: Arc<Port>,
    /// The device; or those behind the multiplier, and itself.
    targets: Vec<Target>,
    multiplier: Option<Multiplier>,
    slots: Box<[Slot]>,
    in_flight: u32,
    /// Where received FISes go.
    area: Option<u64>,
    /// The slots of commands that keep their devices busy.
    busy: u32,
    /// Tags that the drive has taken and not ended.
    queued: u32,
    /// The slot that was taken last.
    last: u8,
    /// An error: nothing is taken until the port is stopped (AHCI 6.2.2).
    halted: bool,
    /// The same of single devices, while others go on (AHCI 9.3.6).
    broken: u16,
    /// Issued slots whose devices cannot take them yet.
    deferred: u32,
    /// Slots of parked commands, in the order they failed.
    parked: Vec<u8>,
    /// The port stops, or is reset, once nothing is in flight.
    stopping: bool,
    reset: Option<ResetKind>,
    exchange: Option<Option<Box<Plugged>>>,
    waiting: Vec<Countdown>,
    /// Those who wait for the medium of a drive with PACKET.
    medium_waiting: Vec<Countdown>,
    /// The slot of the FIS that ends a software reset.
    soft_reset: Option<u8>,
    changes: Changes,
    frames: Frames,
    /// There is something to publish.
    dirty: bool,
    /// What the interrupt is about that is to come, and commands that have completed since the last.
    owed: Interrupt,
    completed: u32,
    /// The time, looked up once a pass.
    now: Option<Instant>,
}

impl PortQueue {
    /// With a multiplier that has so many ports, if any.
    pub fn new(hba: &Arc<Hba>, port: &Arc<Port>, multiplier: u8) -> Self {
        let keep = hba.dma.keep();
        let multiplier = (multiplier > 0).then(|| Multiplier::new(multiplier));
        Self {
            hba: Arc::clone(hba),
            port: Arc::clone(port),
            targets: target::targets(multiplier.as_ref()),
            multiplier,
            slots: (0..SLOTS).map(|_| Slot::new(&keep)).collect(),
            in_flight: 0,
            area: None,
            busy: 0,
            queued: 0,
            last: SLOTS as u8 - 1,
            halted: false,
            broken: 0,
            deferred: 0,
            parked: Vec::with_capacity(SLOTS),
            stopping: false,
            reset: None,
            exchange: None,
            waiting: Vec::new(),
            medium_waiting: Vec::new(),
            soft_reset: None,
            changes: Changes::default(),
            frames: Frames::default(),
            dirty: false,
            owed: Interrupt::default(),
            completed: 0,
            now: None,
        }
    }

    /// Whether a command can be taken.
    #[inline]
    fn is_ready(&self) -> bool {
        (self.busy == 0 || self.port.is_switching())
            && !self.halted
            && !self.stopping
            && self.soft_reset.is_none()
            && self.parked.is_empty()
            && self.port.is_running()
    }

    /// Issued slots that were not taken.
    #[inline]
    fn issued(&self) -> u32 {
        self.port.ci.load(std::sync::atomic::Ordering::SeqCst) & !self.changes.ci & !self.deferred
    }

    /// The next slot, round robin (AHCI 5.3.2.7, P:SelectCmd).
    #[inline]
    fn next_slot(&self) -> Option<u8> {
        let issued = self.issued();
        if issued == 0 {
            return None;
        }
        let first = (u32::from(self.last) + 1) % SLOTS as u32;
        let turned = issued.rotate_right(first);
        Some(((first + turned.trailing_zeros()) % SLOTS as u32) as u8)
    }

    /// Takes the command in a slot.
    #[inline]
    fn take(&mut self, ring: &mut RingPort<'_>, index: u8) {
        self.last = index;
        self.changes.slot = Some(index);
        let Ok(fetched) = Fetched::read(&self.hba.dma, self.port.list(), index) else {
            return self.fatal(is::HBFS, 0);
        };
        let target = self.target_of(fetched.flags);
        if self.waits(index, target) {
            return;
        }
        match fis::parse(&fetched.fis) {
            Sent::Command(tf) if self.multiplier.is_some() && target == CONTROL_PORT => {
                self.take_control_command(index, &tf);
            }
            Sent::Command(tf) => self.take_command(ring, index, &fetched, tf, target),
            Sent::Control(srst) => self.take_control(index, srst, fetched.flags, target),
            Sent::Other => self.fatal(is::IFS, serr::PROTOCOL),
        }
    }

    #[inline]
    fn take_command(
        &mut self,
        ring: &mut RingPort<'_>,
        index: u8,
        fetched: &Fetched,
        tf: Taskfile,
        target: u8,
    ) {
        self.face(target);
        let sends_queued = matches!(
            tf.command,
            op::READ_FPDMA_QUEUED | op::WRITE_FPDMA_QUEUED | op::SEND_FPDMA_QUEUED
        );
        let free = self.slots[usize::from(index)].state == State::Free;
        let now = *self.now.get_or_insert_with(|| ring.cx().now());
        let queued = self.queued & self.slots_of(target);
        let reachable = self.multiplier.as_ref().is_none_or(|pm| pm.is_up(target));
        let Some(drive) = self.drive_of(target).filter(|_| reachable) else {
            return self.fatal(is::IFS, serr::PROTOCOL);
        };
        let mut accepted = drive.accept(&tf, now);
        // SATA 13.6.3: another command while tags are taken, a tag that is in use, a tag that is not
        // the slot's (AHCI 5.5.1): all that is queued is aborted.
        let disorder = !free
            || if sends_queued {
                tf.tag() != index || queued & 1 << tf.tag() != 0
            } else {
                queued != 0
            };
        if disorder {
            accepted = Err(Ending::failed(&tf, error::ABRT));
        }
        let command = match accepted {
            Ok(command) => command,
            Err(ending) => {
                let tag = sends_queued.then(|| tf.tag());
                return self.refuse(ending, tag.filter(|_| !disorder), queued != 0);
            }
        };
        let transfer = command.transfer(drive.sector());
        self.slots[usize::from(index)].target = target;
        let slot = &mut self.slots[usize::from(index)];
        (slot.tf, slot.command) = (tf, command);
        (slot.queued, slot.dropped, slot.interrupt) = (sends_queued, false, false);
        slot.phase = None;
        if !sends_queued {
            self.show();
            self.port.set_busy(target);
            self.busy |= 1 << index;
        }
        if transfer.protocol == Protocol::Packet {
            return self.take_packet(ring, index, fetched);
        }
        let slot = &mut self.slots[usize::from(index)];
        match fetched.gather_all(&self.hba.dma, transfer.len, &mut slot.buf) {
            Ok(interrupt) => slot.interrupt = interrupt,
            Err(Gap::TooShort) => return self.fatal(is::OFS, 0),
            Err(Gap::NotRam) => return self.fatal(is::HBFS, 0),
        }
        if sends_queued {
            // The drive takes it: the slot is free for the driver once its tag is (SATA 13.6.2).
            let to_host = transfer.protocol.is_in();
            self.queued |= 1 << tf.tag();
            self.changes.ci |= 1 << index;
            let taken = Ending::good(&tf);
            self.changes.tfd = Some(tfd(&taken));
            self.frames.register = Some(fis::device_register(&taken, false));
            self.frames.setup = Some(fis::dma_setup(tf.tag(), to_host, transfer.len as u32));
            self.dirty = true;
        }
        self.begin(ring, index);
    }

    /// Begins the command in a slot, or begins it again.
    #[inline]
    fn begin(&mut self, ring: &mut RingPort<'_>, index: u8) {
        let seat = self.seat(index);
        let Some(plugged) = &mut self.targets[seat].plugged else { return };
        let slot = &mut self.slots[usize::from(index)];
        match plugged.drive.begin(&slot.tf, &slot.command, &slot.buf) {
            Step::Io { op, range } => self.submit(ring, index, op, range),
            Step::Reply(bytes) => {
                slot.buf.write_at(0, &bytes);
                self.hba.dma.wrote(&slot.buf);
                let ending = plugged.drive.finish(&slot.tf, &slot.command, Ok(()));
                self.end(index, ending, bytes.len() as u64);
            }
            Step::Done(ending) => {
                let moved = slot.buf.len();
                self.end(index, ending, moved);
            }
            Step::Job(job) => self.spawn(ring, index, *job),
        }
    }

    #[inline]
    fn submit(&mut self, ring: &mut RingPort<'_>, index: u8, op: Op, range: Range) {
        let now = *self.now.get_or_insert_with(|| ring.cx().now());
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::InFlight;
        (slot.op, slot.range, slot.started) = (op, range, Some(now));
        let buf = match op.has_data() {
            true if slot.buf.len() > range.len => slot.buf.view(0, range.len),
            true => std::mem::take(&mut slot.buf),
            false => IoBuf::empty(),
        };
        self.in_flight += 1;
        let seat = usize::from(slot.target);
        match self.targets[seat].plugged.as_mut().and_then(|plugged| plugged.drive.root()) {
            Some(root) => ring.submit(root, Io { op, range, buf }, index.into()),
            None => ring.complete_later(index.into(), buf, Err(BlockError::Gone)),
        }
    }

    fn spawn(&mut self, ring: &mut RingPort<'_>, index: u8, job: Job) {
        let abort = Abort::Ata(job.abort_flag());
        let op = job.op();
        let outcome = self.start_job(ring, index, op, abort);
        let cx = spindle_block::Cx::clone(ring.cx());
        ring.spawn(index.into(), async move {
            let end = job.run(cx).await;
            *outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                Some(JobOutcome::Ata(end));
            (IoBuf::empty(), Ok(()))
        });
    }

    fn start_job(
        &mut self,
        ring: &RingPort<'_>,
        index: u8,
        op: Op,
        abort: Abort,
    ) -> Arc<std::sync::Mutex<Option<JobOutcome>>> {
        let now = *self.now.get_or_insert_with(|| ring.cx().now());
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::InFlight;
        (slot.op, slot.range, slot.started) = (op, Range::default(), Some(now));
        let outcome = Arc::new(std::sync::Mutex::new(None));
        slot.job = Some(Running { outcome: Arc::clone(&outcome), abort });
        self.in_flight += 1;
        outcome
    }

    /// A request has failed: how it ends. `None`: it waits for the machine to go on.
    #[cold]
    fn failed(&mut self, index: u8, op: Op, error: BlockError) -> Option<Result<(), BlockError>> {
        let seat = self.seat(index);
        let target = &mut self.targets[seat];
        let plugged = target.plugged.as_mut()?;
        let name = plugged.drive.root().map(|root| root.root().name().to_owned());
        let action = target.failures.as_ref().map_or(ErrorAction::Report, |failures| {
            failures.decide(op, name.as_deref().unwrap_or_default(), error)
        });
        match action {
            ErrorAction::Report => Some(Err(error)),
            ErrorAction::Ignore => Some(Ok(())),
            ErrorAction::Stop => {
                self.slots[usize::from(index)].state = State::Parked;
                self.parked.push(index);
                None
            }
        }
    }

    /// Begins parked commands again, in the order they failed.
    fn replay(&mut self, ring: &mut RingPort<'_>) {
        for _ in 0..self.parked.len() {
            let index = self.parked.remove(0);
            let slot = &mut self.slots[usize::from(index)];
            slot.state = State::Free;
            if matches!(slot.command, Command::Packet { .. }) {
                self.begin_packet(ring, index);
            } else {
                self.begin(ring, index);
            }
        }
    }

    fn account(&mut self, ring: &RingPort<'_>, index: u8, result: Result<(), BlockError>) {
        let now = *self.now.get_or_insert_with(|| ring.cx().now());
        let seat = self.seat(index);
        let slot = &self.slots[usize::from(index)];
        let kind = match slot.op {
            Op::Read => Account::Read,
            Op::Write { .. } => Account::Write,
            Op::Flush => Account::Flush,
            Op::Discard | Op::WriteZeroes { .. } => Account::Unmap,
        };
        let took = slot.started.map_or_else(Default::default, |s| now.saturating_duration_since(s));
        let len = slot.range.len;
        let plugged = self.targets[seat].plugged.as_mut();
        if let Some(root) = plugged.and_then(|plugged| plugged.drive.root()) {
            root.account(ring.cx().lane(), kind, len, took, result);
        }
    }

    fn check(&self) {
        debug_assert_eq!(
            self.in_flight as usize,
            self.slots.iter().filter(|slot| slot.state == State::InFlight).count()
                + self.targets.iter().filter(|target| target.background.is_some()).count(),
            "commands in flight and slots in use"
        );
    }

    /// What came of the request or job of a disk's command.
    #[inline]
    fn end_disk(&mut self, index: u8, outcome: Result<(), Failure>) {
        let result = match outcome {
            Ok(()) => Ok(()),
            Err(failure) => match self.failed(index, failure.op, failure.error) {
                Some(result) => result.map_err(|error| Failure { error, ..failure }),
                None => return,
            },
        };
        let seat = self.seat(index);
        let Some(plugged) = &mut self.targets[seat].plugged else { return };
        let slot = &mut self.slots[usize::from(index)];
        let ending = plugged.drive.finish(&slot.tf, &slot.command, result);
        let moved = slot.buf.len();
        self.end(index, ending, moved);
    }
}

impl Queue for PortQueue {
    fn service(&mut self, ring: &mut RingPort<'_>, budget: u32) -> Progress {
        self.read_news();
        self.step_aside(ring);
        if !self.hba.interrupts.is_bus_master() {
            return Progress::Idle;
        }
        if self.port.place.take_resumed() {
            self.replay(ring);
        }
        self.receive_signature();
        let mut progress = Progress::More;
        for _ in 0..budget {
            let next = if self.is_ready() { self.next_slot() } else { None };
            let Some(index) = next else {
                progress = Progress::Idle;
                break;
            };
            self.take(ring, index);
        }
        self.step_aside(ring);
        self.check();
        progress
    }

    fn complete(
        &mut self,
        ring: &mut RingPort<'_>,
        token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        if token >= background::TOKENS {
            return self.end_step(ring, (token - background::TOKENS) as u8);
        }
        let index = token as u8;
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_eq!(slot.state, State::InFlight, "a completion nobody waits for");
        self.in_flight -= 1;
        slot.state = State::Free;
        let job = slot.job.take().map(|job| job.take());
        if buf.has_keep() && buf.len() >= slot.buf.len() {
            slot.buf = buf;
        }
        let read = slot.op == Op::Read && job.is_none();
        let packet = matches!(slot.command, Command::Packet { .. });
        let dropped = slot.dropped || self.stopping;
        let failure = Failure {
            error: result.err().unwrap_or(BlockError::Gone),
            op: slot.op,
            offset: slot.range.offset,
        };
        if read && result.is_ok() {
            self.hba.dma.wrote(&slot.buf);
        }
        if dropped {
            self.account(ring, index, result);
        } else if packet {
            self.complete_packet(ring, index, result, job.flatten());
        } else {
            let outcome = match job {
                Some(Some(JobOutcome::Ata(end))) => end,
                Some(_) => Err(failure),
                None => result.map_err(|error| Failure { error, ..failure }),
            };
            self.account(ring, index, outcome.map_err(|failure| failure.error));
            self.end_disk(index, outcome);
        }
        self.look_for_quiet();
        self.look_for_device(self.slots[usize::from(index)].target);
        self.step_aside(ring);
        self.check();
    }

    fn publish(&mut self) -> bool {
        self.now = None;
        self.show();
        self.owes()
    }

    fn flush_irq(&mut self) {
        self.now = None;
        self.show();
        self.interrupt();
    }

    fn pending(&mut self) -> bool {
        if self.has_news() || self.can_step_aside() {
            return true;
        }
        if !self.hba.interrupts.is_bus_master() {
            return false;
        }
        if self.signature_can_go() {
            return true;
        }
        if !self.parked.is_empty() {
            return self.port.place.is_resumed();
        }
        self.is_ready() && self.issued() != 0
    }

    fn notify(&mut self, on: bool) {
        self.port.set_asleep(on);
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.port.bell.fd())
    }

    fn wants_attention(&self) -> bool {
        self.has_news()
    }

    fn attend(&mut self) {
        self.read_news();
    }

    fn drained(&mut self) {
        debug_assert_eq!(self.in_flight, 0, "drained with commands in flight");
    }
}

/// Whether a command FIS clears the drive's busy bit once it is sent (AHCI 4.2.2).
fn clears_busy(flags: u32) -> bool {
    flags & header::CLEAR_BUSY != 0
}
