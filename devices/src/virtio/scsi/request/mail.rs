//! What other threads ask of a request queue: to end requests, to count them, to let go of a unit.

use std::sync::atomic::Ordering::SeqCst;

use spindle_block::iothread::Port;

use super::{
    super::{
        hba::{Action, Mail},
        slot::State,
        spec::response,
    },
    RequestQueue, RingError,
};

impl RequestQueue {
    /// What others have left. Everything that is in the ring was sent before it, as the driver sees
    /// it, and is taken first: what a message ends is never begun.
    pub(super) fn read_mail(&mut self, port: &mut Port<'_>) -> Result<(), RingError> {
        let mail = self.hba.requests[self.number].take();
        for _ in 0..self.ring.size() {
            let Some(taken) = self.take()? else { break };
            let head = taken.head;
            if self.locate(&taken).is_none() {
                continue;
            }
            let slot = &self.slots[usize::from(head)];
            let ends = mail.iter().find_map(|mail| match mail.action {
                Action::End(code) if mail.selector.matches(slot.target, slot.lun, slot.tag) => {
                    Some(code)
                }
                _ => None,
            });
            match ends {
                Some(code) => {
                    self.respond(head, code);
                    self.release(head);
                }
                None if !self.parked.is_empty() => {
                    self.slots[usize::from(head)].state = State::Parked;
                    self.parked.push(head);
                }
                None => self.begin(port, head),
            }
        }
        mail.into_iter().for_each(|mail| self.obey(mail));
        Ok(())
    }

    fn obey(&mut self, mail: Mail) {
        let Mail { selector, action, token, .. } = mail;
        for head in 0..self.ring.size() {
            let slot = &mut self.slots[usize::from(head)];
            if slot.state == State::Free || !selector.matches(slot.target, slot.lun, slot.tag) {
                continue;
            }
            if matches!(action, Action::Forget) && !self.locals.is_gone(slot.unit) {
                continue;
            }
            let end_parked = match (&action, slot.state) {
                (Action::Count(count), _) => {
                    count.fetch_add(1, SeqCst);
                    continue;
                }
                (Action::End(code), State::Parked | State::Overwriting) => Some(*code),
                (Action::Forget, State::Parked | State::Overwriting) => Some(response::BAD_TARGET),
                // Nothing of it is in flight.
                (Action::Wake, _) | (_, State::Parked | State::Overwriting) => continue,
                (Action::Barrier, _) if !slot.is_free_writer() => continue,
                (Action::Settle, _) if slot.gate.is_some() => continue,
                (Action::Forget, State::InFlight) => {
                    slot.leaving = true;
                    None
                }
                (Action::End(code), _) => {
                    slot.end(*code);
                    None
                }
                _ => None,
            };
            match end_parked {
                Some(code) => {
                    self.parked.retain(|parked| *parked != head);
                    self.overwriting.retain(|waiting| *waiting != head);
                    self.respond(head, code);
                    self.release(head);
                }
                None => slot.waiting.extend(token.clone()),
            }
        }
        if matches!(action, Action::Refresh) {
            for local in
                self.locals.all().filter(|l| selector.matches(l.seat.target, l.seat.lun, 0))
            {
                local.handle.look_again();
            }
        }
        self.released.extend(token);
    }

    /// Answers requests whose unit left while the queue could not.
    pub(super) fn answer_orphans(&mut self) {
        while let Some(head) = self.orphans.pop() {
            self.respond(head, response::BAD_TARGET);
            let slot = &mut self.slots[usize::from(head)];
            slot.ended = None;
            self.released.append(&mut slot.waiting);
        }
    }

    /// The queue is paused or dead: what is in flight is told of messages whose senders cannot wait,
    /// and waited for. The messages stay, for what is parked or in the ring.
    pub(super) fn attend_mail(&mut self) {
        self.locals.refresh(&self.hba);
        let (dead, slots) = (self.dead, &mut self.slots);
        let (locals, orphans) = (&mut self.locals, &mut self.orphans);
        let (parked, overwriting) = (&mut self.parked, &mut self.overwriting);
        self.hba.requests[self.number].visit(|mail| {
            let token = if mail.urgent || dead { mail.token.take() } else { None }?;
            if matches!(mail.action, Action::Forget) {
                for (head, slot) in slots.iter_mut().enumerate() {
                    let waits = matches!(slot.state, State::Parked | State::Overwriting);
                    let meant = mail.selector.matches(slot.target, slot.lun, slot.tag);
                    if waits && meant && locals.is_gone(slot.unit) {
                        slot.state = State::Orphan;
                        locals.release(slot.unit);
                        orphans.push(head as u16);
                    }
                }
                let orphan = |head: &u16| !orphans.contains(head);
                parked.retain(orphan);
                overwriting.retain(orphan);
            }
            let in_flight = slots.iter_mut().filter(|slot| slot.state == State::InFlight);
            for slot in in_flight {
                if !mail.selector.matches(slot.target, slot.lun, slot.tag) {
                    continue;
                }
                match &mail.action {
                    Action::End(code) => slot.end(*code),
                    Action::Barrier if !slot.is_free_writer() => continue,
                    Action::Settle if slot.gate.is_some() => continue,
                    Action::Forget if !locals.is_gone(slot.unit) => continue,
                    Action::Forget => slot.leaving = true,
                    Action::Barrier | Action::Settle | Action::Refresh => {}
                    Action::Count(count) => {
                        count.fetch_add(1, SeqCst);
                        continue;
                    }
                    Action::Wake => continue,
                }
                slot.waiting.push(token.clone());
            }
            Some(token)
        });
    }
}
