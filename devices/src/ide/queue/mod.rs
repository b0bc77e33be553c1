//! The queue half of a channel: it owns the drives, and does what the ports ask for.

mod background;
mod dma;
mod lane;
mod packet;
mod pio;

use std::{
    os::fd::RawFd,
    sync::{Arc, PoisonError, atomic::Ordering::SeqCst},
    time::Instant,
};

use spindle_block::{
    BlockError, Cx, Io, IoBuf, Op, Range,
    iothread::{Port, Progress, Queue},
    root::Account,
};

use super::{
    channel::Channel,
    prd::Shape,
    spec::control,
    work::{Reset, Work},
};
use crate::{
    Dma,
    ata::{Ending, Failure, Protocol, Step},
    policy::{BlockEvents, ErrorAction, Failures},
    queue_link::QueueLink,
};
pub(super) use lane::Lane;
use lane::{Await, Doing, Outcome, Transfer};

/// See the module.
pub(super) struct ChannelQueue {
    channel: Arc<Channel>,
    link: Arc<QueueLink>,
    dma: Dma,
    events: Arc<dyn BlockEvents>,
    lanes: [Option<Box<Lane>>; 2],
    /// The drive that the bus master serves.
    dma_of: Option<usize>,
    /// There may be something to do that nobody rang for.
    again: bool,
    /// The same, but only once the machine goes on.
    left: bool,
    /// The time, looked up once a pass.
    now: Option<Instant>,
}

impl ChannelQueue {
    pub fn new(
        channel: &Arc<Channel>,
        link: &Arc<QueueLink>,
        dma: Dma,
        events: Arc<dyn BlockEvents>,
    ) -> Self {
        Self {
            channel: Arc::clone(channel),
            link: Arc::clone(link),
            dma,
            events,
            lanes: [None, None],
            dma_of: None,
            again: false,
            left: false,
            now: None,
        }
    }

    fn now(&mut self, cx: &Cx) -> Instant {
        *self.now.get_or_insert_with(|| cx.now())
    }

    /// Drives that were put on the cable, and media that were changed.
    fn read_mail(&mut self) {
        let mut mail = self.channel.mail();
        for (index, mut lane) in mail.arrived.drain(..) {
            lane.guest.set_keep(self.dma.keep());
            self.lanes[index] = Some(lane);
        }
        let lanes = &mut self.lanes;
        mail.refresh.retain(|(index, _)| match &mut lanes[*index] {
            Some(lane) if lane.doing != Doing::Nothing => true,
            Some(lane) => {
                lane.drive.look_again();
                false
            }
            None => false,
        });
    }

    /// A reset: once nothing of the drives that it reaches is in flight, they show their signatures.
    /// Returns whether drives must wait for it.
    fn reset(&mut self) -> bool {
        let (reset, held) = {
            let state = self.channel.lock();
            (state.reset, state.control & control::SRST != 0)
        };
        let waits = reset.is_some_and(|reset| !self.reset_drives(reset, held));
        if !waits {
            self.channel.mail().reset.clear();
        }
        waits
    }

    /// Returns whether the reset is over.
    fn reset_drives(&mut self, reset: Reset, held: bool) -> bool {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane.as_mut().filter(|_| reset.reaches(index)) {
                lane.abandon();
                if self.dma_of == Some(index) && !lane.is_in_flight() {
                    self.dma_of = None;
                    self.channel.lock().bm.serving = false;
                }
            }
        }
        let in_flight = |index: usize| {
            let lane = self.lanes[index].as_ref();
            lane.is_some_and(|lane| lane.is_in_flight() || lane.background.is_some())
        };
        if (0..2).any(|index| reset.reaches(index) && in_flight(index)) {
            return false;
        }
        // A software reset lasts as long as its bit is set.
        if reset == Reset::Software && held {
            return false;
        }
        let mut signatures = [None, None];
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane.as_mut().filter(|_| reset.reaches(index)) {
                signatures[index] = Some(lane.drive.reset(reset.kind()));
                let sectors = lane.drive.open_sectors();
                self.channel.lock().drives[index].sectors = sectors;
            }
        }
        self.channel.finish_reset(reset, signatures);
        true
    }

    fn take_work(&self, index: usize) -> Option<Work> {
        let mut state = self.channel.lock();
        let drive = &mut state.drives[index];
        drive.work.take()
    }

    fn do_work(&mut self, port: &mut Port<'_>, index: usize) {
        let Some(work) = self.take_work(index) else { return };
        let Some(lane) = &mut self.lanes[index] else { return };
        if let Work::Command(_) | Work::Packet(..) = work {
            // Until data are moved, all of the table's memory is left.
            lane.shape = Shape::Longer;
        }
        match work {
            Work::Command(tf) => {
                lane.tf = tf;
                self.command(port, index);
            }
            Work::Packet(tf, cdb) => {
                lane.tf = tf;
                lane.cdb = cdb;
                self.packet(port, index);
            }
            Work::More => self.more(port, index),
            Work::Block => self.block(port, index),
        }
    }

    fn command(&mut self, port: &mut Port<'_>, index: usize) {
        let now = self.now(port.cx());
        let Some(lane) = &mut self.lanes[index] else { return };
        let command = match lane.drive.accept(&lane.tf, now) {
            Ok(command) => command,
            Err(ending) => return self.end(index, &ending),
        };
        let transfer = command.transfer(lane.drive.sector());
        lane.command = Some(command);
        lane.moved = Transfer { len: transfer.len, block: transfer.block, done: 0 };
        match transfer.protocol {
            Protocol::NonData => self.begin(port, index, &IoBuf::empty()),
            Protocol::PioIn if command.is_medium() => self.read_piece(port, index),
            Protocol::PioIn => self.begin(port, index, &IoBuf::empty()),
            Protocol::PioOut => self.ask(index, false),
            Protocol::DmaIn | Protocol::DmaOut => lane.awaits = Some(Await::Command),
            // The ports take these before they come here, and a cable has no queues.
            Protocol::Packet
            | Protocol::Diagnostic
            | Protocol::Reset
            | Protocol::QueuedIn
            | Protocol::QueuedOut => {
                let ending = Ending::failed(&lane.tf, crate::ata::spec::error::ABRT);
                self.end(index, &ending);
            }
        }
    }

    /// Begins a command that does not move the medium's data.
    fn begin(&mut self, port: &mut Port<'_>, index: usize, data: &IoBuf) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Some(command) = lane.command else { return };
        match lane.drive.begin(&lane.tf, &command, data) {
            Step::Io { op, range } => {
                self.submit(port, index, Doing::Plain, (op, range), IoBuf::empty());
            }
            Step::Reply(bytes) => self.reply(index, bytes),
            Step::Done(ending) => self.end(index, &ending),
            Step::Job(job) => {
                let op = job.op();
                let abort = job.abort_flag();
                let Some((token, result)) = self.start_job(port, index, op) else { return };
                if let Some(lane) = &mut self.lanes[index] {
                    lane.abort = Some(Box::new(move || abort.store(true, SeqCst)));
                }
                let cx = Cx::clone(port.cx());
                port.spawn(token, async move {
                    let outcome = Outcome::Ata(job.run(cx).await);
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                    (IoBuf::empty(), Ok(()))
                });
            }
        }
    }

    /// Bytes for the host that are not the medium's.
    fn reply(&mut self, index: usize, bytes: Vec<u8>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        lane.bytes = bytes;
        if lane.awaits.take() == Some(Await::Dma) {
            self.dma_reply(index);
        } else {
            self.offer_bytes(index);
        }
    }

    /// A command is over.
    fn end(&mut self, index: usize, ending: &Ending) {
        if let Some(lane) = &mut self.lanes[index] {
            lane.idle();
            let sectors = lane.drive.open_sectors();
            self.channel.lock().drives[index].sectors = sectors;
        }
        self.end_dma(index);
        self.channel.end(index, ending);
    }

    fn finish(&mut self, index: usize, result: Result<(), Failure>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let Some(command) = lane.command else { return };
        let ending = lane.drive.finish(&lane.tf, &command, result);
        self.end(index, &ending);
    }

    fn submit(
        &mut self,
        port: &mut Port<'_>,
        index: usize,
        doing: Doing,
        (op, range): (Op, Range),
        buf: IoBuf,
    ) {
        let now = self.now(port.cx());
        let Some(lane) = &mut self.lanes[index] else { return };
        lane.doing = doing;
        (lane.op, lane.range, lane.started) = (op, range, Some(now));
        match lane.drive.root() {
            Some(root) => port.submit(root, Io { op, range, buf }, index as u32),
            None => port.complete_later(index as u32, buf, Err(BlockError::Gone)),
        }
    }

    /// Counts a job in. Returns its token, and where its result goes.
    fn start_job(
        &mut self,
        port: &Port<'_>,
        index: usize,
        op: Op,
    ) -> Option<(u32, lane::JobResult)> {
        let now = self.now(port.cx());
        let lane = self.lanes[index].as_mut()?;
        lane.doing = Doing::Job;
        (lane.op, lane.range, lane.started) = (op, Range::default(), Some(now));
        let result = lane::JobResult::default();
        lane.job = Some(Arc::clone(&result));
        Some((index as u32, result))
    }

    fn account(&mut self, port: &Port<'_>, index: usize, result: Result<(), BlockError>) {
        let now = self.now(port.cx());
        let Some(lane) = &mut self.lanes[index] else { return };
        let kind = match lane.op {
            Op::Read => Account::Read,
            Op::Write { .. } => Account::Write,
            Op::Flush => Account::Flush,
            Op::Discard | Op::WriteZeroes { .. } => Account::Unmap,
        };
        let took = lane.started.map_or_else(Default::default, |s| now.saturating_duration_since(s));
        let len = lane.range.len;
        if let Some(root) = lane.drive.root() {
            root.account(port.cx().lane(), kind, len, took, result);
        }
    }

    /// What is to be done about a request that failed.
    fn decide(&mut self, index: usize, op: Op, error: BlockError) -> ErrorAction {
        let Some(lane) = &mut self.lanes[index] else { return ErrorAction::Report };
        let config = lane.drive.config();
        let failures = Failures {
            device: config.id.clone(),
            werror: config.werror,
            rerror: config.rerror,
            events: Arc::clone(&self.events),
        };
        let node = lane.drive.root().map(|root| root.root().name().to_owned());
        failures.decide(op, &node.unwrap_or_default(), error)
    }

    /// Does again what failed and waited for the machine to go on.
    fn replay(&mut self, port: &mut Port<'_>) {
        for index in 0..2 {
            let Some(lane) = &mut self.lanes[index] else { continue };
            let Doing::Parked(what) = lane.doing else { continue };
            match what {
                lane::Again::Io(doing) => {
                    let (op, range) = (lane.op, lane.range);
                    let buf = std::mem::take(&mut lane.parked);
                    self.submit(port, index, doing.into(), (op, range), buf);
                }
                lane::Again::Command => {
                    lane.doing = Doing::Nothing;
                    let data = std::mem::take(&mut lane.parked);
                    lane.keep_for_replay(&data);
                    self.begin(port, index, &data);
                }
                lane::Again::Packet(phase) => {
                    lane.doing = Doing::Nothing;
                    let data = std::mem::take(&mut lane.parked);
                    self.begin_packet(port, index, data, Some(phase));
                }
            }
        }
    }
}

impl Queue for ChannelQueue {
    fn service(&mut self, port: &mut Port<'_>, _budget: u32) -> Progress {
        (self.again, self.left) = (false, false);
        self.channel.news.store(false, SeqCst);
        self.read_mail();
        let resumed = self.link.take_resumed();
        let waits = self.reset();
        if resumed && !waits {
            self.replay(port);
        }
        for index in 0..2 {
            self.do_work(port, index);
        }
        self.read_finely(port);
        self.start_dma(port);
        self.step_aside(port);
        Progress::Idle
    }

    fn complete(
        &mut self,
        port: &mut Port<'_>,
        token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        let index = token as usize & 1;
        self.again = true;
        if token >= background::TOKENS {
            return self.end_step(index);
        }
        let Some(lane) = &mut self.lanes[index] else { return };
        lane.abort = None;
        let doing = std::mem::replace(&mut lane.doing, Doing::Nothing);
        let outcome = lane
            .job
            .take()
            .and_then(|job| job.lock().unwrap_or_else(PoisonError::into_inner).take());
        let failed = match &outcome {
            Some(Outcome::Ata(Err(failure))) => Err(failure.error),
            Some(Outcome::Packet(Err(failure))) => Err(failure.error),
            _ => result,
        };
        self.account(port, index, failed);
        let Some(lane) = &mut self.lanes[index] else { return };
        if std::mem::take(&mut lane.abandoned) {
            // The memory is the guest's again when the reset is over, which is after this.
            lane.take_back(doing, buf);
            if self.dma_of == Some(index) {
                self.end_dma(index);
            }
            return;
        }
        let error = match failed {
            Ok(()) => None,
            Err(error) => match self.decide(index, self.op_of(index, outcome.as_ref()), error) {
                ErrorAction::Report => Some(error),
                ErrorAction::Ignore => None,
                ErrorAction::Stop => return self.park(index, doing, buf, outcome.as_ref()),
            },
        };
        self.ended(port, index, doing, buf, error, outcome);
    }

    fn flush_irq(&mut self) {
        self.now = None;
    }

    fn pending(&mut self) -> bool {
        self.again || self.left || self.channel.news.load(SeqCst) || self.link.is_resumed()
    }

    fn notify(&mut self, _on: bool) {}

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.channel.bell.fd())
    }

    /// While the machine stands still, drives can be reset and media changed.
    fn wants_attention(&self) -> bool {
        if !self.again && !self.channel.news.load(SeqCst) {
            return false;
        }
        let mail = self.channel.mail();
        !mail.refresh.is_empty() || !mail.reset.is_empty()
    }

    fn attend(&mut self) {
        self.again = false;
        self.channel.news.store(false, SeqCst);
        self.read_mail();
        self.reset();
        // What else there is waits.
        self.left = true;
    }

    fn drained(&mut self) {
        debug_assert!(
            self.lanes
                .iter()
                .flatten()
                .all(|lane| { !lane.is_in_flight() && lane.background.is_none() }),
            "drained with requests in flight"
        );
    }
}

impl ChannelQueue {
    fn op_of(&self, index: usize, outcome: Option<&Outcome>) -> Op {
        match outcome {
            Some(Outcome::Ata(Err(failure))) => failure.op,
            Some(Outcome::Packet(Err(failure))) if failure.read => Op::Read,
            Some(Outcome::Packet(Err(_))) => Op::Write { fua: false },
            _ => self.lanes[index].as_ref().map_or(Op::Read, |lane| lane.op),
        }
    }

    /// Keeps what failed until the machine goes on.
    fn park(&mut self, index: usize, doing: Doing, buf: IoBuf, outcome: Option<&Outcome>) {
        let Some(lane) = &mut self.lanes[index] else { return };
        lane.doing = Doing::Parked(match (outcome, doing) {
            (Some(Outcome::Packet(Err(failure))), _) => lane::Again::Packet(failure.phase),
            (Some(_), _) => lane::Again::Command,
            (None, doing) => lane::Again::Io(doing.into()),
        });
        // A job has no memory of its own; that of its command was kept.
        if outcome.is_none() || !buf.is_empty() {
            lane.parked = buf;
        }
    }

    /// What was in flight has ended.
    fn ended(
        &mut self,
        port: &mut Port<'_>,
        index: usize,
        doing: Doing,
        buf: IoBuf,
        error: Option<BlockError>,
        outcome: Option<Outcome>,
    ) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let (op, offset) = (lane.op, lane.range.offset);
        let result = match error {
            None => Ok(()),
            Some(error) => Err(Failure { error, op, offset }),
        };
        match (doing, outcome) {
            (Doing::Job, Some(Outcome::Ata(end))) => {
                // An error that is ignored went well.
                let end = if error.is_none() { Ok(()) } else { end };
                self.finish(index, end);
            }
            (Doing::Job, Some(Outcome::Packet(end))) => {
                self.packet_ended(
                    index,
                    if error.is_none() && end.is_err() { None } else { Some(end) },
                );
            }
            (Doing::Plain, _) if lane.is_packet_command() => self.packet_io_ended(index, result),
            (Doing::Plain, _) => self.finish(index, result),
            (Doing::PioRead, _) => self.piece_read(index, buf, result),
            (Doing::PioWrite, _) => self.piece_written(port, index, buf, result),
            (Doing::Dma, _) => self.dma_ended(index, buf, result),
            (Doing::Nothing | Doing::Parked(_) | Doing::Job, _) => {}
        }
    }
}
