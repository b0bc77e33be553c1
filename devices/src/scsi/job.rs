//! Commands that take more than one request to the block layer.
//!
//! A job runs on the iothread of the queue that it came through. It works in pieces of bounded size
//! and looks between them whether it was aborted.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Poll, Waker},
};

use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range, Root, RootHandle};

use super::{
    background::pattern,
    cmd::{ByteCheck, Command},
    exec::{Answer, parameters, writes},
    format, provisioning,
    reservation::ReserveOutcome,
    sense::Sense,
    spec::{asc, key},
    unit::{AtomicGuard, LogicalUnit, flag},
};
use crate::device::Countdown;

/// Bytes that are read or written at a time.
const PIECE: u64 = 1 << 20;

/// Why a job stopped, as far as error policies need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The block layer's reason.
    pub error: BlockError,
    /// It was a read that failed.
    pub read: bool,
    /// The first block of what failed.
    pub lba: Option<u64>,
    /// Where to go on: see [`UnitHandle::resume`](super::unit::UnitHandle::resume).
    pub phase: u8,
}

/// How a job ended.
pub type JobResult = Result<JobEnd, Failure>;

/// How a job ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// The command is answered so.
    Answer(Answer),
    /// The command is answered when the medium is overwritten:
    /// [`LogicalUnit::overwritten`](super::LogicalUnit::overwritten).
    Overwriting,
}

/// Why a job goes no further.
pub(super) enum Stop {
    Failed(Failure),
    Refused(Sense),
    /// See [`JobEnd::Overwriting`].
    Overwriting,
}

impl From<Sense> for Stop {
    fn from(sense: Sense) -> Self {
        Self::Refused(sense)
    }
}

/// See the module.
pub struct Job {
    pub(super) unit: Arc<LogicalUnit>,
    pub(super) root: RootHandle,
    command: Command,
    phase: u8,
    guard: Option<AtomicGuard>,
    /// It waits for its turn among those that must not be mixed with a COMPARE AND WRITE.
    locks: bool,
    reserve: ReserveOutcome,
    aborted: AbortFlag,
    pub(super) block: u64,
}

/// Ends a job early: between two of its pieces, or while it waits for others.
#[derive(Clone, Debug, Default)]
pub struct AbortFlag(Arc<Abort>);

#[derive(Debug, Default)]
struct Abort {
    set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl AbortFlag {
    /// The job goes no further.
    pub fn set(&self) {
        self.0.set.store(true, SeqCst);
        let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_set(&self) -> bool {
        self.0.set.load(SeqCst)
    }

    /// Whether it is set; if not, `waker` is woken when it is.
    pub(super) fn poll(&self, waker: &Waker) -> bool {
        *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        self.is_set()
    }
}

impl Job {
    pub(super) fn new(
        unit: &Arc<LogicalUnit>,
        root: &Arc<Root>,
        command: Command,
        phase: u8,
    ) -> Self {
        let atomic = matches!(command, Command::CompareAndWrite { .. });
        let locks = atomic || (writes(&command) && unit.flags() & flag::ATOMIC != 0);
        Self {
            unit: Arc::clone(unit),
            root: root.handle(),
            command,
            phase,
            guard: atomic.then(|| unit.begin_atomic()),
            locks,
            reserve: ReserveOutcome::default(),
            aborted: AbortFlag::default(),
            block: unit.config.block_size().into(),
        }
    }

    /// What a PERSISTENT RESERVE OUT has to wait for.
    pub(super) fn after_reserve(
        unit: &Arc<LogicalUnit>,
        root: &Arc<Root>,
        command: Command,
        reserve: ReserveOutcome,
    ) -> Self {
        Self { reserve, ..Self::new(unit, root, command, 0) }
    }

    /// Whether it changes the medium, and no COMPARE AND WRITE keeps it waiting: those that come
    /// wait for it.
    #[must_use]
    pub fn is_free_writer(&self) -> bool {
        writes(&self.command) && !self.locks
    }

    /// What ends it early.
    #[must_use]
    pub fn abort_flag(&self) -> AbortFlag {
        self.aborted.clone()
    }

    /// Runs it. `data` is the command's memory, and comes back.
    pub async fn run(mut self, cx: Cx, data: IoBuf) -> (IoBuf, JobResult) {
        let result = self.steps(&cx, &data).await;
        let result = match result {
            Ok(answer) => Ok(JobEnd::Answer(answer)),
            Err(Stop::Refused(sense)) => Ok(JobEnd::Answer(sense.into())),
            Err(Stop::Overwriting) => Ok(JobEnd::Overwriting),
            Err(Stop::Failed(failure)) => Err(failure),
        };
        drop(self.guard.take());
        (data, result)
    }

    async fn steps(&mut self, cx: &Cx, data: &IoBuf) -> Result<Answer, Stop> {
        let unit = Arc::clone(&self.unit);
        let _alone = if self.locks { Some(unit.atomic.lock().await) } else { None };
        match self.command {
            Command::Write { lba, blocks, fua } => {
                let range = self.range(lba, blocks.into());
                self.write(cx, range, data.view(0, range.len), fua).await?;
            }
            Command::Verify { lba, blocks, check } => {
                self.verify(cx, self.range(lba, blocks.into()), check, data).await?;
            }
            Command::WriteAndVerify { lba, blocks, check } => {
                let range = self.range(lba, blocks.into());
                self.write(cx, range, data.view(0, range.len), true).await?;
                self.verify(cx, range, check, data).await?;
            }
            Command::CompareAndWrite { lba, blocks, fua } => {
                let range = self.range(lba, blocks.into());
                // Writes that were begun before are over, those that come wait for the lock.
                self.wait_for_writers().await;
                if self.phase == 0 {
                    self.verify(cx, range, ByteCheck::Data, data).await?;
                }
                // From here on a second try must not compare with what was half written.
                self.phase = 1;
                self.write(cx, range, data.view(range.len, range.len), fua).await?;
            }
            Command::WriteSame { lba, blocks, unmap, no_data } => {
                let range = self.range(lba, blocks.into());
                self.write_same(cx, range, unmap, (!no_data).then_some(data)).await?;
            }
            Command::Unmap { len } => self.unmap(cx, len, data).await?,
            Command::GetLbaStatus { lba, allocation } => {
                let data = provisioning::lba_status(self, cx, lba, allocation).await?;
                return Ok(Answer::reply(data, allocation));
            }
            Command::StartStop { .. } => {
                self.io(cx, Io::flush(), None).await?;
                self.unit.change(|state| state.stopped = true);
            }
            Command::FormatUnit { long, data: with_data } => {
                let list = if with_data { parameters(data, format::LIST_MAX) } else { Vec::new() };
                let request = format::format_unit(&list, long, self.block)?;
                self.overwrite(&request)?;
            }
            Command::Sanitize { action, immediate, exit, len } => {
                let list = parameters(data, len);
                let request =
                    format::sanitize(&self.unit, action, immediate, exit, &list, self.block)?;
                if let Some(request) = request {
                    self.overwrite(&request)?;
                }
            }
            Command::ModeSelect { .. } => self.store_mode().await?,
            Command::ReserveOut { .. } => {
                self.end_others().await;
                self.store_reservations().await?;
            }
            _ => return Err(Sense::invalid_opcode().into()),
        }
        Ok(Answer::good())
    }

    fn range(&self, lba: u64, blocks: u64) -> Range {
        // Checked when the command was begun.
        Range::new(lba.saturating_mul(self.block), blocks.saturating_mul(self.block))
    }

    /// One request. What fails is at `lba`.
    pub(super) async fn io(&mut self, cx: &Cx, io: Io, lba: Option<u64>) -> Result<IoBuf, Stop> {
        if self.aborted.is_set() {
            return Err(self.failure(BlockError::Aborted, true, lba));
        }
        let read = io.op == Op::Read;
        let (buf, result) = self.root.io(cx, io).await;
        result.map_err(|error| self.failure(error, read, lba))?;
        Ok(buf)
    }

    fn failure(&self, error: BlockError, read: bool, lba: Option<u64>) -> Stop {
        Stop::Failed(Failure { error, read, lba, phase: self.phase })
    }

    async fn write(&mut self, cx: &Cx, range: Range, buf: IoBuf, fua: bool) -> Result<(), Stop> {
        let lba = range.offset / self.block;
        self.io(cx, Io { op: Op::Write { fua }, range, buf }, Some(lba)).await.map(drop)
    }

    /// Reads a range, and compares it with `data` as `check` says.
    async fn verify(
        &mut self,
        cx: &Cx,
        range: Range,
        check: ByteCheck,
        data: &IoBuf,
    ) -> Result<(), Stop> {
        let piece_max = (PIECE / self.block).max(1) * self.block;
        let mut at = 0;
        while at < range.len {
            let len = (range.len - at).min(piece_max);
            let offset = range.offset + at;
            let read = Io::read(offset, IoBuf::zeroed(len as usize));
            let got = self.io(cx, read, Some(offset / self.block)).await?.to_vec();
            let expected = match check {
                ByteCheck::Medium => None,
                ByteCheck::Data => Some(data.view(at, len).to_vec()),
                ByteCheck::OneBlock => {
                    let one = data.view(0, self.block).to_vec();
                    Some(one.repeat((len / self.block) as usize))
                }
            };
            let differs = expected.and_then(|e| e.iter().zip(&got).position(|(a, b)| a != b));
            if let Some(position) = differs {
                // The first byte that differs, counted from the start of the data (SBC-4, 5.3).
                let sense = Sense::new(key::MISCOMPARE, asc::MISCOMPARE);
                return Err(sense.with_info(at + position as u64).into());
            }
            at += len;
        }
        Ok(())
    }

    /// Writes one block over all of a range; `None`: zeros.
    async fn write_same(
        &mut self,
        cx: &Cx,
        range: Range,
        unmap: bool,
        data: Option<&IoBuf>,
    ) -> Result<(), Stop> {
        let block = data.map(|data| data.view(0, self.block).to_vec());
        let zeros = block.as_ref().is_none_or(|block| block.iter().all(|byte| *byte == 0));
        if zeros {
            let op = Op::WriteZeroes { unmap, fua: false };
            let lba = range.offset / self.block;
            return self.io(cx, Io::bare(op, range), Some(lba)).await.map(drop);
        }
        let block = block.unwrap_or_default();
        let piece_max = (PIECE / self.block).max(1) * self.block;
        let mut buf = pattern(&block, range.len.min(piece_max));
        let mut at = 0;
        while at < range.len {
            let len = (range.len - at).min(piece_max);
            if len < buf.len() {
                buf = pattern(&block, len);
            }
            let piece = Range::new(range.offset + at, len);
            let write = Io { op: Op::Write { fua: false }, range: piece, buf };
            buf = self.io(cx, write, Some(piece.offset / self.block)).await?;
            at += len;
        }
        Ok(())
    }

    async fn unmap(&mut self, cx: &Cx, len: u32, data: &IoBuf) -> Result<(), Stop> {
        let list = parameters(data, len);
        let blocks = self.root.info().size / self.block;
        let max = self.unit.config.max_unmap_blocks;
        for (lba, count) in provisioning::unmap_list(&list, blocks, max)? {
            let range = self.range(lba, count);
            if range.len == 0 || self.root.policy().ignore_discard {
                continue;
            }
            // What is unmapped reads as zeros (LBPRZ), which a discard would not promise.
            let op = Op::WriteZeroes { unmap: true, fua: false };
            self.io(cx, Io::bare(op, range), Some(lba)).await?;
        }
        Ok(())
    }

    /// Begins to overwrite the medium.
    fn overwrite(&mut self, request: &format::Overwrite) -> Result<(), Stop> {
        let background = request.background(self.root.info().size);
        self.unit.start_background(background);
        if request.immediate { Ok(()) } else { Err(Stop::Overwriting) }
    }

    /// Ends the commands of initiators that were preempted, and waits for it.
    async fn end_others(&mut self) {
        if self.reserve.ended.is_empty() {
            return;
        }
        let over = Arc::new(Over::default());
        let told = Arc::clone(&over);
        let token = Countdown::new(Box::new(move || told.set(Ok(()))));
        self.unit.end_commands(&self.reserve.ended, &token);
        drop(token);
        // Two initiators may end each other's commands: whoever is ended does not wait any more.
        drop(over.wait(Some(&self.aborted)).await);
    }

    /// Waits for all writes that are in flight and free.
    async fn wait_for_writers(&mut self) {
        let over = Arc::new(Over::default());
        let told = Arc::clone(&over);
        let token = Countdown::new(Box::new(move || told.set(Ok(()))));
        for (nexus, initiator) in self.unit.initiators() {
            initiator.barrier(nexus, token.clone());
        }
        drop(token);
        drop(over.wait(Some(&self.aborted)).await);
    }

    /// Stores the saved mode pages, and waits for it.
    async fn store_mode(&mut self) -> Result<(), Stop> {
        let over = Arc::new(Over::default());
        let told = Arc::clone(&over);
        self.unit.store_mode(move |result| told.set(result));
        over.wait(None).await.map_err(|error| {
            log::error!("{}: mode pages cannot be stored: {error}", self.unit.config.id);
            Stop::Refused(Sense::new(key::HARDWARE_ERROR, asc::INTERNAL_FAILURE))
        })
    }

    /// Stores registrations and the reservation, and waits for it.
    async fn store_reservations(&mut self) -> Result<(), Stop> {
        if !self.reserve.store {
            return Ok(());
        }
        let over = Arc::new(Over::default());
        let told = Arc::clone(&over);
        self.unit.store_reservations(move |result| told.set(result));
        over.wait(None).await.map_err(|error| {
            log::error!("{}: reservations cannot be stored: {error}", self.unit.config.id);
            self.unit.reservations_not_stored();
            Stop::Refused(Sense::new(key::HARDWARE_ERROR, asc::INTERNAL_FAILURE))
        })
    }
}

/// Tells a task that something is over, and how it went.
#[derive(Default)]
pub(super) struct Over(Mutex<(Option<io::Result<()>>, Option<Waker>)>);

impl Over {
    pub(super) fn set(&self, result: io::Result<()>) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = Some(result);
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for the end, or until `abort` is set.
    pub(super) async fn wait(&self, abort: Option<&AbortFlag>) -> io::Result<()> {
        poll_fn(|task| {
            if abort.is_some_and(|abort| abort.poll(task.waker())) {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(result) = state.0.take() {
                return Poll::Ready(result);
            }
            state.1 = Some(task.waker().clone());
            Poll::Pending
        })
        .await
    }
}
