//! Fused operations: compare and write (Base 3.4.2).

use std::sync::{Arc, PoisonError, atomic::Ordering::SeqCst};

use spindle_block::{Cx, Op, Range, iothread::Port};

use super::{IoQueue, Outcome, State, unknown};
use crate::nvme::{
    cmd::Command,
    exclusive::Alone,
    io::tasks::{self, Failure},
    namespace::Gate,
    rings::NoRoom,
    spec::{Sqe, nvm},
    status::Status,
};

impl IoQueue {
    /// Two commands that are one (Base 3.4.2): compare and write. Returns whether they were taken.
    #[cold]
    pub(super) fn begin_fused(&mut self, port: &mut Port<'_>, sq: u16, first: &Sqe) -> bool {
        match first.fuse() {
            1 => {}
            2 => return self.refuse(sq, first, Status::FUSED_MISSING),
            _ => return self.refuse(sq, first, Status::INVALID_FIELD),
        }
        // Where there will never be two places.
        if self.slots.len() < 2 {
            return self.refuse(sq, first, Status::FUSED_MISSING);
        }
        if self.free.len() < 2 {
            self.rings.put_back(sq);
            return false;
        }
        let second = match self.rings.pop_second(sq) {
            Ok(Some(second)) => second,
            Ok(None) => return self.refuse(sq, first, Status::FUSED_MISSING),
            Err(NoRoom) => return false,
        };
        if second.fuse() != 2 {
            self.refuse(sq, first, Status::FUSED_MISSING);
            if second.fuse() == 0 {
                self.begin(port, sq, &second);
                return true;
            }
            return self.refuse(sq, &second, Status::FUSED_MISSING);
        }
        let same = first.nsid.get() == second.nsid.get()
            && first.dword::<10>() == second.dword::<10>()
            && first.dword::<11>() == second.dword::<11>()
            && (first.dword::<12>() ^ second.dword::<12>()) & 0xffff == 0;
        if first.opcode != nvm::COMPARE || second.opcode != nvm::WRITE || !same {
            self.refuse(sq, first, Status::INVALID_FIELD);
            return self.refuse(sq, &second, Status::INVALID_FIELD);
        }
        let (Some(a), Some(b)) = (self.free.pop(), self.free.pop()) else { return true };
        for (index, sqe) in [(a, first), (b, &second)] {
            let slot = &mut self.slots[usize::from(index)];
            (slot.sq, slot.cid, slot.nsid) = (sq, sqe.cid.get(), sqe.nsid.get());
        }
        match (self.prepare(a, first), self.prepare(b, &second)) {
            (Ok(compare), Ok(write)) => {
                self.slots[usize::from(a)].command = compare;
                self.slots[usize::from(a)].second = Some(b);
                self.slots[usize::from(b)].command = write;
                self.slots[usize::from(b)].state = State::Second;
                self.start(port, a);
            }
            (one, other) => {
                self.answer(a, one.err().unwrap_or(Status::FUSED_FAILED));
                self.answer(b, other.err().unwrap_or(Status::FUSED_FAILED));
            }
        }
        true
    }

    /// Compare and write: the namespace's gate is closed here and now, so that nobody else does it.
    pub(super) fn fuse(&mut self, port: &mut Port<'_>, index: u16, second: u16, range: Range) {
        let nsid = self.slots[usize::from(index)].nsid;
        let Some(entry) = self.table.get(nsid) else { return self.answer(index, unknown(nsid)) };
        let namespace = Arc::clone(&entry.namespace);
        let mut root = entry.root.root().handle();
        if let Err(gate) = namespace.close(Gate::Hold) {
            return self.meet(index, gate);
        }
        let alone = Alone::adopt(Arc::clone(self.ctl.subsystem()), Arc::clone(&namespace));
        let cx = Cx::clone(port.cx());
        let other = &mut self.slots[usize::from(second)];
        let fua = matches!(other.command, Command::Block(Op::Write { fua: true }, _));
        let data = std::mem::take(&mut other.buf);
        self.spawn_with(port, index, false, move |buf, outcome| async move {
            alone.quiet().await;
            let (buf, data, result, wrote) =
                tasks::compare_and_write(&cx, &mut root, &namespace, (range, fua), (buf, data))
                    .await;
            drop(alone);
            *outcome.buf.lock().unwrap_or_else(PoisonError::into_inner) = Some(data);
            match result {
                // The compare went well; the write tells why it did not.
                Err(Failure::Status(status)) if wrote => {
                    outcome.second.store(status.bits().into(), SeqCst);
                    (buf, Ok(()))
                }
                other => (buf, other),
            }
        });
    }

    /// The second command of a fused operation ends after the first.
    #[cold]
    pub(super) fn answer_second(&mut self, index: u16, first: Status, outcome: Option<&Outcome>) {
        let bits = outcome.map_or(0, |outcome| outcome.second.load(SeqCst));
        let status =
            if first.is_success() { Status::from_bits(bits as u16) } else { Status::FUSED_FAILED };
        self.answer(index, status);
    }

    /// The memory of the second command of a fused operation comes back with the first.
    #[inline]
    pub(super) fn take_second_back(&mut self, index: u16) {
        let slot = &self.slots[usize::from(index)];
        if let (Some(second), Some(outcome)) = (slot.second, slot.outcome.clone()) {
            let buf = outcome.buf.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(buf) = buf {
                self.slots[usize::from(second)].buf = buf;
            }
        }
    }
}
