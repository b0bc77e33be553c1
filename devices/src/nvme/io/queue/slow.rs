//! Commands that are more than one request of the block layer, or none.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use spindle_block::{Cx, Io, IoBuf, Op, Range, iothread::Port};
use zerocopy::FromBytes;

use super::{IoQueue, Outcome, State, unknown};
use crate::{
    device::Countdown,
    nvme::{
        cmd::{COPY_BLOCKS_MAX, COPY_RANGE_LEN, Command, Reserve, byte_range},
        io::{
            reserve,
            tasks::{self, Failure},
        },
        namespace::Namespace,
        oneshot::channel,
        spec::DatasetRange,
        status::Status,
    },
    state_file::Fields,
};

impl IoQueue {
    /// Commands of more than one request, or of none, and those that meet unreadable blocks.
    pub(super) fn start_slow(&mut self, port: &mut Port<'_>, index: u16) {
        let slot = &self.slots[usize::from(index)];
        let (nsid, command, second) = (slot.nsid, slot.command, slot.second);
        let Some(entry) = self.table.get(nsid) else { return self.answer(index, unknown(nsid)) };
        let mut root = entry.root.root().handle();
        let namespace = Arc::clone(&entry.namespace);
        let cx = Cx::clone(port.cx());
        let marked = |range| namespace.marks().any() && namespace.marks().overlap(range);
        match command {
            Command::Block(Op::Read, range) | Command::Compare(range) | Command::Verify(range)
                if marked(range) =>
            {
                self.answer(index, Status::READ_ERROR);
            }
            Command::Compare(range) => match second {
                Some(second) => self.fuse(port, index, second, range),
                None => self.spawn(port, index, move |buf, _| async move {
                    let result = tasks::compare(&cx, &mut root, range, &buf).await;
                    (buf, result)
                }),
            },
            Command::Block(op, range) => self.spawn(port, index, move |mut buf, _| async move {
                let data = if op.has_data() { std::mem::take(&mut buf) } else { IoBuf::empty() };
                let io = Io { op, range, buf: data };
                let (data, result) = tasks::write_over_marks(&cx, &mut root, &namespace, io).await;
                (if op.has_data() { data } else { buf }, result)
            }),
            Command::Verify(range) => self.spawn(port, index, move |buf, _| async move {
                let result = tasks::verify(&cx, &mut root, range).await;
                (buf, result)
            }),
            Command::WriteUncorrectable(range) => {
                self.spawn(port, index, move |buf, _| async move {
                    let result = tasks::mark(&namespace, range).await;
                    (buf, result)
                });
            }
            Command::Copy { to, fua, .. } => match self.copy_sources(index, to) {
                Err(status) => self.answer(index, status),
                Ok(list) => self.spawn(port, index, move |buf, outcome| async move {
                    let copied = &outcome.result;
                    let result =
                        tasks::copy(&cx, &mut root, &namespace, list, (to, fua), copied).await;
                    if result.is_ok() {
                        outcome.result.store(0, SeqCst);
                    }
                    (buf, result)
                }),
            },
            Command::Reservation(reserve) => self.reserve(port, index, reserve, namespace),
            Command::Dataset { ranges, deallocate } => match self.dataset(index, ranges) {
                Err(status) => self.answer(index, status),
                Ok(_) if !deallocate => self.answer(index, Status::SUCCESS),
                Ok(list) => self.spawn(port, index, move |buf, _| async move {
                    let result = tasks::discard(&cx, &mut root, &namespace, list).await;
                    (buf, result)
                }),
            },
        }
    }

    /// The sources of a Copy command, read once.
    pub(super) fn copy_sources(&mut self, index: u16, to: u64) -> Result<Vec<Range>, Status> {
        let slot = &self.slots[usize::from(index)];
        let transfer_max = self.ctl.config().transfer_max();
        let entry = self.table.get(slot.nsid).ok_or(Status::INVALID_FIELD)?;
        let limits = entry.limits(transfer_max);
        let bytes = slot.buf.to_vec();
        let mut sources = Vec::new();
        let mut total = 0u32;
        for chunk in bytes.as_chunks::<{ COPY_RANGE_LEN as usize }>().0 {
            let mut fields = Fields::new(chunk);
            let truncated = |_| Status::INTERNAL;
            fields.take(8).map_err(truncated)?;
            let lba = fields.u64().map_err(truncated)?;
            let blocks = u32::from(fields.u16().map_err(truncated)?) + 1;
            total += blocks;
            if blocks > COPY_BLOCKS_MAX || total > COPY_BLOCKS_MAX {
                return Err(Status::COMMAND_SIZE_LIMIT);
            }
            sources.push(byte_range(lba, blocks.into(), &limits)?);
        }
        byte_range(to >> limits.shift, total.into(), &limits)?;
        Ok(sources)
    }

    /// A reservation command (Base 7.2 to 7.5).
    pub(super) fn reserve(
        &mut self,
        port: &mut Port<'_>,
        index: u16,
        reserve: Reserve,
        namespace: Arc<Namespace>,
    ) {
        let slot = &mut self.slots[usize::from(index)];
        if let Reserve::Report(dwords, extended) = reserve {
            if self.ctl.host_is_extended().is_some_and(|is| is != extended) {
                return self.answer(index, Status::HOST_ID_INCONSISTENT);
            }
            let mut bytes = namespace.reservations().report(extended);
            bytes.resize((dwords as usize + 1) * 4, 0);
            slot.buf.write_at(0, &bytes);
            self.ctl.dma.wrote(&slot.buf);
            return self.answer(index, Status::SUCCESS);
        }
        let bytes = slot.buf.to_vec();
        let (host, cntlid) = (self.ctl.host(), self.ctl.cntlid());
        let changed = namespace.reserve(|all| reserve::change(all, reserve, &bytes, host, cntlid));
        match changed {
            Err(status) => self.answer(index, status),
            Ok((notices, save)) => {
                let subsystem = self.ctl.subsystem();
                subsystem.tell(namespace.nsid(), &notices);
                let aborted = reserve::aborted(reserve, &notices);
                if !save && aborted.is_empty() {
                    return self.answer(index, Status::SUCCESS);
                }
                let (ended, wait) = channel();
                let done = Countdown::new(Box::new(move || ended.send(())));
                let controllers = subsystem.controllers();
                for controller in controllers.iter().filter(|c| aborted.contains(&c.host())) {
                    controller.preempt(namespace.nsid(), &done);
                }
                drop(done);
                self.spawn(port, index, move |buf, _| async move {
                    wait.await;
                    if !save {
                        return (buf, Ok(()));
                    }
                    let result = namespace.save_reservations().await;
                    (buf, result.map_err(Failure::Status))
                });
            }
        }
    }

    /// The ranges of a Dataset Management command, read once.
    pub(super) fn dataset(&mut self, index: u16, count: u32) -> Result<Vec<Range>, Status> {
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

    pub(super) fn flush_all(&mut self, port: &mut Port<'_>, index: u16) {
        let roots = self.table.all().map(|entry| entry.root.root().handle()).collect();
        let cx = Cx::clone(port.cx());
        self.spawn(port, index, move |buf, _| async move { (buf, tasks::flush(&cx, roots).await) });
    }

    /// Starts a task for a command; it gets the command's memory and gives it back.
    pub(super) fn spawn<F>(
        &mut self,
        port: &mut Port<'_>,
        index: u16,
        task: impl FnOnce(IoBuf, Arc<Outcome>) -> F,
    ) where
        F: Future<Output = (IoBuf, Result<(), Failure>)> + 'static,
    {
        self.spawn_with(port, index, true, task);
    }

    /// The same; a task that has the namespace alone does not count among those it waits for.
    pub(super) fn spawn_with<F>(
        &mut self,
        port: &mut Port<'_>,
        index: u16,
        counted: bool,
        task: impl FnOnce(IoBuf, Arc<Outcome>) -> F,
    ) where
        F: Future<Output = (IoBuf, Result<(), Failure>)> + 'static,
    {
        let now = *self.now.get_or_insert_with(|| port.cx().stamp());
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::InFlight;
        slot.started = now;
        slot.counted = counted;
        let outcome = Arc::new(Outcome::default());
        slot.outcome = Some(Arc::clone(&outcome));
        if counted && let Some(entry) = self.table.in_use(slot.nsid) {
            entry.in_flight += 1;
        }
        self.in_flight += 1;
        let task = task(std::mem::take(&mut slot.buf), Arc::clone(&outcome));
        port.spawn(index.into(), async move {
            let (buf, result) = task.await;
            match result {
                Ok(()) => (buf, Ok(())),
                Err(Failure::Block(error)) => (buf, Err(error)),
                Err(Failure::Status(status)) => {
                    outcome.status.store(status.bits().into(), SeqCst);
                    (buf, Ok(()))
                }
            }
        });
    }
}
