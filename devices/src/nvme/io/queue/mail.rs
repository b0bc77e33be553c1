//! What is told to a queue: queues that come and go, aborts, namespaces that somebody wants alone.

use spindle_block::iothread::Port;

use super::{IoQueue, Slot, State};
use crate::{
    device::Countdown,
    nvme::{cmd::Command, io::Mail, oneshot::Sender, status::Status},
};

impl IoQueue {
    pub(super) fn finish_deletes(&mut self) {
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

    pub(super) fn read_mail(&mut self, port: &Port<'_>) {
        while let Some(mail) = self.home.take() {
            match mail {
                Mail::Add(sq, done) => {
                    self.rings.add(sq);
                    drop(done);
                }
                Mail::Shadows(pages, done) => {
                    self.rings.use_shadows(pages);
                    drop(done);
                }
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
                Mail::Preempt { nsid, done } => self.preempt(nsid, done),
                // They start in the next service: mail is read while the queue is paused, too.
                Mail::Reopen => self.reopened = true,
                Mail::Time => self.time_is_over(port),
            }
        }
    }

    fn preempt(&mut self, nsid: u32, done: Countdown) {
        self.abort_waiting(|slot| slot.nsid == nsid, Status::PREEMPTED);
        for slot in &mut self.slots {
            slot.preempted |= slot.state == State::InFlight
                && slot.nsid == nsid
                && !matches!(slot.command, Command::Reservation(_));
        }
        self.preempting.push((nsid, done));
        self.look_for_preempted();
    }

    /// Tells those who preempted commands that all have ended.
    pub(super) fn look_for_preempted(&mut self) {
        let slots = &self.slots;
        self.preempting.retain(|(nsid, _)| {
            slots.iter().any(|s| s.preempted && s.state == State::InFlight && s.nsid == *nsid)
        });
    }

    pub(super) fn look_for_quiet(&mut self) {
        let table = &self.table;
        self.quiet.retain(|(nsid, _)| table.in_flight(*nsid) > 0);
    }

    pub(super) fn delete(&mut self, id: u16, reply: Sender<()>) {
        let Some((index, sq)) = self.rings.find(id) else { return };
        sq.closed = true;
        self.deleting.push((id, reply));
        self.abort_waiting(|slot| usize::from(slot.sq) == index, Status::SQ_DELETED);
        self.finish_deletes();
    }

    pub(super) fn abort(&mut self, sq: u16, cid: u16) -> bool {
        let Some((index, _)) = self.rings.find(sq) else { return false };
        let wanted = |slot: &Slot| usize::from(slot.sq) == index && slot.cid == cid;
        self.abort_waiting(wanted, Status::ABORT_REQUESTED)
    }

    /// Ends commands that only wait for something. Returns whether there were any.
    pub(super) fn abort_waiting(&mut self, wanted: impl Fn(&Slot) -> bool, status: Status) -> bool {
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
}
