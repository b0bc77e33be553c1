//! Submission and completion queues in guest memory (Base 3.3.1), and the completion queue as the
//! unit that an iothread owns: it with all submission queues that post to it.

use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use super::{
    controller::Ctl,
    doors::{Shadow, ShadowPages},
    spec::{CQE_LEN, SQE_LEN, Sqe, event},
    status::Status,
};
use crate::dma::{NotRam, Span};

/// A submission queue.
pub struct Submission {
    id: u16,
    size: u32,
    head: u32,
    /// The host's tail, as seen last: looked up again when everything before it is taken.
    seen: u32,
    span: Span,
    shadow: Option<Shadow>,
    /// Commands taken and not answered.
    pub outstanding: u32,
    /// The host broke it, or deletes it: nothing more is taken.
    pub closed: bool,
    /// Its class of the weighted scheme: 0 urgent, 1 high, 2 medium, 3 low.
    priority: u8,
}

/// A completion queue.
struct Completion {
    id: u16,
    size: u32,
    tail: u32,
    phase: u16,
    /// The host's head, as seen last.
    head: u32,
    span: Span,
    shadow: Option<Shadow>,
}

/// See the module.
pub struct Rings {
    ctl: Arc<Ctl>,
    cq: Completion,
    sqs: Vec<Option<Submission>>,
    /// Places in the completion queue that commands under way will need.
    reserved: u32,
    /// Places that the next command needs beyond one: both commands of a fused operation.
    extra: u32,
    /// Completions that no interrupt was raised for.
    posted: u32,
    arbiter: Arbiter,
}

/// The completion queue has no place for the second command of a fused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Whose turn it is.
#[derive(Debug, Default)]
struct Arbiter {
    /// Round robin: the queue, and what is left of its turn.
    turn: (usize, u32),
    /// Weighted: the queue of each class that gave last, and what is left of each class's credits.
    last: [usize; 4],
    credits: [u32; 4],
}

/// Feature 01h, and whether the host chose the weighted scheme (Base 3.4.4, 5.27.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arbitration {
    /// The feature's value.
    pub value: u32,
    /// CC.AMS.
    pub weighted: bool,
}

impl Arbitration {
    /// Commands of a burst.
    #[must_use]
    pub fn burst(self) -> u32 {
        match self.value & 7 {
            7 => u32::MAX,
            log => 1 << log,
        }
    }

    /// Commands that a class gives in a round.
    #[must_use]
    pub fn weight(self, class: u8) -> u32 {
        match class {
            0 => u32::MAX,
            1 => (self.value >> 24 & 0xff) + 1,
            2 => (self.value >> 16 & 0xff) + 1,
            _ => (self.value >> 8 & 0xff) + 1,
        }
    }
}

/// Where a queue lies.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number.
    pub id: u16,
    /// Guest address.
    pub address: u64,
    /// Entries.
    pub entries: u32,
}

#[inline]
fn value(shadow: &Shadow, queue: u16) -> Option<u32> {
    if queue == 0 { shadow.load_if_used() } else { Some(shadow.load()) }
}

impl Submission {
    /// A queue at its beginning.
    ///
    /// # Errors
    /// When it is not RAM in one piece.
    pub fn new(ctl: &Ctl, place: Place, priority: u8) -> Result<Self, NotRam> {
        let Place { id, address, entries } = place;
        let span = ctl.dma.span(address, u64::from(entries) * SQE_LEN)?;
        Ok(Self {
            id,
            size: entries,
            head: 0,
            seen: 0,
            span,
            shadow: None,
            outstanding: 0,
            closed: false,
            priority,
        })
    }

    #[inline]
    fn tail(&self, ctl: &Ctl) -> u32 {
        let shadow = self.shadow.as_ref().and_then(|shadow| value(shadow, self.id));
        shadow.unwrap_or_else(|| ctl.door(self.id).sq_tail.load(Acquire))
    }

    #[inline]
    fn pending(&self, ctl: &Ctl) -> bool {
        !self.closed && (self.seen != self.head || self.tail(ctl) != self.head)
    }
}

impl Rings {
    /// A completion queue at its beginning, without submission queues.
    ///
    /// # Errors
    /// When it is not RAM in one piece.
    pub fn new(ctl: &Arc<Ctl>, place: Place) -> Result<Self, NotRam> {
        let Place { id, address, entries } = place;
        let span = ctl.dma.span(address, u64::from(entries) * CQE_LEN)?;
        let shadow = ctl.shadow_pages().and_then(|pages| pages.head(&ctl.dma, id).ok());
        if let Some(shadow) = &shadow {
            shadow.start(0);
        }
        let cq = Completion { id, size: entries, tail: 0, phase: 1, head: 0, span, shadow };
        Ok(Self {
            ctl: Arc::clone(ctl),
            cq,
            sqs: Vec::with_capacity(1),
            reserved: 0,
            extra: 0,
            posted: 0,
            arbiter: Arbiter::default(),
        })
    }

    /// Entries of the completion queue.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.cq.size
    }

    /// Adds a submission queue.
    pub fn add(&mut self, mut sq: Submission) {
        sq.shadow = self.tail_shadow(sq.id, 0);
        let free = self.sqs.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sqs.push(None);
            self.sqs.len() - 1
        });
        self.sqs[free] = Some(sq);
    }

    /// The submission queue with this number.
    pub fn find(&mut self, id: u16) -> Option<(usize, &mut Submission)> {
        self.sqs
            .iter_mut()
            .enumerate()
            .find_map(|(index, sq)| Some((index, sq.as_mut().filter(|sq| sq.id == id)?)))
    }

    /// Removes a submission queue that has nothing outstanding.
    pub fn remove(&mut self, index: usize) {
        if let Some(slot) = self.sqs.get_mut(index) {
            debug_assert!(slot.as_ref().is_none_or(|sq| sq.outstanding == 0));
            *slot = None;
        }
    }

    fn tail_shadow(&self, id: u16, at: u32) -> Option<Shadow> {
        let shadow = self.ctl.shadow_pages()?.tail(&self.ctl.dma, id).ok()?;
        shadow.start(at);
        Some(shadow)
    }

    /// From now on the doorbells are in guest memory.
    pub fn use_shadows(&mut self, pages: ShadowPages) {
        for sq in self.sqs.iter_mut().flatten() {
            if let Ok(shadow) = pages.tail(&self.ctl.dma, sq.id) {
                // What the host has rung for so far counts.
                shadow.start(self.ctl.door(sq.id).sq_tail.load(SeqCst));
                sq.shadow = Some(shadow);
            }
        }
        if let Ok(shadow) = pages.head(&self.ctl.dma, self.cq.id) {
            shadow.start(self.ctl.door(self.cq.id).cq_head.load(SeqCst));
            self.cq.shadow = Some(shadow);
        }
    }

    /// Whether a command could be taken at this moment. A few loads.
    #[inline]
    pub fn pending(&mut self) -> bool {
        let ctl = &self.ctl;
        let any = self.sqs.iter().flatten().any(|sq| sq.pending(ctl));
        any && self.has_room()
    }

    /// Whether the completion queue has a place that nobody has reserved.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        if self.cq.free() > self.reserved + self.extra {
            return true;
        }
        self.wait_for_room()
    }

    /// The host's head is looked at again; where that does not help, its next move rings.
    #[cold]
    fn wait_for_room(&mut self) -> bool {
        self.look_at_head();
        if self.cq.free() > self.reserved + self.extra {
            return true;
        }
        self.ctl.door(self.cq.id).stalled.store(true, SeqCst);
        if let Some(shadow) = &self.cq.shadow {
            shadow.arm(self.cq.head);
        }
        self.look_at_head();
        let room = self.cq.free() > self.reserved + self.extra;
        if room {
            self.ctl.door(self.cq.id).stalled.store(false, SeqCst);
        }
        room
    }

    fn look_at_head(&mut self) {
        let door = self.ctl.door(self.cq.id);
        let shadow = self.cq.shadow.as_ref().and_then(|shadow| value(shadow, self.cq.id));
        let head = shadow.unwrap_or_else(|| door.cq_head.load(SeqCst));
        // The head can only move over what was posted.
        let moved = (head + self.cq.size - self.cq.head) % self.cq.size;
        let posted = (self.cq.tail + self.cq.size - self.cq.head) % self.cq.size;
        if head < self.cq.size && moved <= posted {
            self.cq.head = head;
            if self.cq.shadow.is_some() {
                door.cq_head.store(head, SeqCst);
            }
        } else {
            self.ctl.raise_event(event::INVALID_DOORBELL_VALUE);
        }
    }

    /// Takes the next command, and a place for its completion. Returns the index of its submission
    /// queue.
    #[inline]
    pub fn pop(&mut self) -> Option<(u16, Sqe)> {
        let index = self.next()?;
        if !self.has_room() {
            return None;
        }
        let sq = self.sqs[index].as_mut()?;
        let sqe = Sqe::from_words(sq.span.view().load_u64s(u64::from(sq.head) * SQE_LEN));
        sq.head = if sq.head + 1 == sq.size { 0 } else { sq.head + 1 };
        sq.outstanding += 1;
        self.reserved += 1;
        self.extra = 0;
        Some((index as u16, sqe))
    }

    /// Puts the command back that was taken last from a submission queue: it needs two places, and
    /// is taken when there are.
    pub fn put_back(&mut self, index: u16) {
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(index)) else { return };
        sq.head = if sq.head == 0 { sq.size - 1 } else { sq.head - 1 };
        sq.outstanding -= 1;
        self.reserved -= 1;
        self.extra = 1;
    }

    /// Whether the next command needs two places.
    #[inline]
    #[must_use]
    pub fn wants_two(&self) -> bool {
        self.extra > 0
    }

    /// The number of the submission queue at an index.
    #[must_use]
    pub fn id_of(&self, index: u16) -> u16 {
        self.sqs.get(usize::from(index)).and_then(Option::as_ref).map_or(0, |sq| sq.id)
    }

    /// Takes the command behind the one that was taken last from a submission queue: the second of
    /// a fused operation. `Err` where there is no place for it: the first was put back, and both
    /// are taken once there is.
    ///
    /// # Errors
    /// As above.
    pub fn pop_second(&mut self, index: u16) -> Result<Option<Sqe>, NoRoom> {
        let at = usize::from(index);
        if !self.usable(at) {
            return Ok(None);
        }
        if !self.has_room() {
            self.put_back(index);
            return Err(NoRoom);
        }
        let Some(Some(sq)) = self.sqs.get_mut(at) else { return Ok(None) };
        let sqe = Sqe::from_words(sq.span.view().load_u64s(u64::from(sq.head) * SQE_LEN));
        sq.head = if sq.head + 1 == sq.size { 0 } else { sq.head + 1 };
        sq.outstanding += 1;
        self.reserved += 1;
        Ok(Some(sqe))
    }

    /// The submission queue that gives the next command (Base 3.4.4).
    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.sqs.len() == 1 {
            return self.usable(0).then_some(0);
        }
        let arbitration = self.ctl.arbitration();
        if arbitration.weighted {
            self.next_weighted(arbitration)
        } else {
            self.next_in_turn(arbitration)
        }
    }

    /// Round robin: a queue gives as many commands as a burst has, then it is the next one's turn.
    fn next_in_turn(&mut self, arbitration: Arbitration) -> Option<usize> {
        let (at, left) = self.arbiter.turn;
        if left > 0 && self.usable(at) {
            self.arbiter.turn.1 -= 1;
            return Some(at);
        }
        let index = self.after(at, None)?;
        self.arbiter.turn = (index, arbitration.burst() - 1);
        Some(index)
    }

    /// Weighted: urgent queues first, then the classes by their credits, which come back when no
    /// class with commands has any left.
    fn next_weighted(&mut self, arbitration: Arbitration) -> Option<usize> {
        if let Some(index) = self.after(self.arbiter.last[0], Some(0)) {
            self.arbiter.last[0] = index;
            return Some(index);
        }
        for _ in 0..2 {
            for class in 1..=3u8 {
                let of = usize::from(class);
                if self.arbiter.credits[of] == 0 {
                    continue;
                }
                if let Some(index) = self.after(self.arbiter.last[of], Some(class)) {
                    self.arbiter.last[of] = index;
                    self.arbiter.credits[of] -= 1;
                    return Some(index);
                }
            }
            self.arbiter.credits = [0, 1, 2, 3].map(|class| arbitration.weight(class));
        }
        None
    }

    /// The first usable submission queue behind `at`, of a class if one is given.
    fn after(&mut self, at: usize, class: Option<u8>) -> Option<usize> {
        let count = self.sqs.len();
        (1..=count).map(|step| (at + step) % count).find(|index| {
            let of_class = self.sqs[*index]
                .as_ref()
                .is_some_and(|sq| class.is_none_or(|class| sq.priority == class));
            of_class && self.usable(*index)
        })
    }

    /// Whether a submission queue has a command. One whose tail makes no sense is closed.
    #[inline]
    fn usable(&mut self, index: usize) -> bool {
        let Some(Some(sq)) = self.sqs.get_mut(index) else { return false };
        if sq.closed {
            return false;
        }
        if sq.seen != sq.head {
            return true;
        }
        let tail = sq.tail(&self.ctl);
        if tail >= sq.size {
            sq.closed = true;
            self.ctl.raise_event(event::INVALID_DOORBELL_VALUE);
            return false;
        }
        sq.seen = tail;
        tail != sq.head
    }

    /// Answers a command: its place is spent. The phase tag, last, shows it to the host.
    #[inline]
    pub fn post(&mut self, index: u16, cid: u16, status: Status, result: u64) {
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(index)) else {
            debug_assert!(false, "a command of no queue");
            return;
        };
        debug_assert!(sq.outstanding > 0 && self.reserved > 0, "an answer nobody waits for");
        sq.outstanding -= 1;
        self.reserved -= 1;
        let (head, id, cid) = (sq.head as u16, u64::from(sq.id), u64::from(cid));
        self.cq.push(result, u64::from(head) | id << 16 | cid << 32, status);
        self.posted += 1;
    }

    /// Gives a command's place back without an answer: for those that wait without end.
    pub fn release(&mut self, index: u16) {
        if let Some(Some(sq)) = self.sqs.get_mut(usize::from(index)) {
            sq.outstanding -= 1;
            self.reserved -= 1;
        }
    }

    /// Takes a place for a command that gave its own back. Returns whether there was one.
    pub fn reserve(&mut self, index: u16) -> bool {
        if !self.has_room() {
            return false;
        }
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(index)) else { return false };
        sq.outstanding += 1;
        self.reserved += 1;
        true
    }

    /// Completions that no interrupt was raised for.
    #[inline]
    #[must_use]
    pub fn posted(&self) -> u32 {
        self.posted
    }

    /// The vector of the completion queue, if it interrupts.
    #[must_use]
    pub fn vector(&self) -> Option<u16> {
        let door = self.ctl.door(self.cq.id);
        door.interrupts.load(Relaxed).then(|| door.vector.load(Relaxed))
    }

    /// The pass is over: one interrupt for all completions of it.
    #[inline]
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.posted) == 0 {
            return;
        }
        let door = self.ctl.door(self.cq.id);
        door.cq_tail.store(self.cq.tail, Release);
        if self.cq.shadow.is_some() && !self.ctl.uses_msix() {
            self.follow_head();
        }
        let door = self.ctl.door(self.cq.id);
        if door.interrupts.load(Relaxed) {
            self.ctl.interrupt(door.vector.load(Relaxed));
        }
    }

    /// A wire falls when the host has consumed everything: with shadows its moves must be seen.
    fn follow_head(&mut self) {
        self.look_at_head();
        if let Some(shadow) = &self.cq.shadow {
            shadow.arm(self.cq.head);
        }
        self.look_at_head();
    }

    /// Asks the host to ring from now on; the caller looks at [`Rings::pending`] again. Without
    /// shadows it always rings.
    #[inline]
    pub fn arm(&mut self) {
        for sq in self.sqs.iter().flatten() {
            if let Some(shadow) = &sq.shadow {
                shadow.arm(sq.head);
            }
        }
    }
}

impl Completion {
    #[inline]
    fn free(&self) -> u32 {
        let used = if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.size - self.head
        };
        self.size - 1 - used
    }

    /// `name`: SQHD, SQID and CID, which share a quadword with the phase tag.
    #[inline]
    fn push(&mut self, result: u64, name: u64, status: Status) {
        let at = u64::from(self.tail) * CQE_LEN;
        self.span.store_u64(at, result, Relaxed);
        let status = u64::from(status.bits() << 1 | self.phase);
        self.span.store_u64(at + 8, name | status << 48, Release);
        self.tail += 1;
        if self.tail == self.size {
            self.tail = 0;
            self.phase ^= 1;
        }
    }
}
