//! Cards that come and go, and resets.

use spindle_block::iothread::Port;

use super::{SdQueue, Seat, flight::Flight};
use crate::sdhci::{
    host::Mail,
    spec::{error, reset},
};

impl SdQueue {
    pub(super) fn read_mail(&mut self, port: &mut Port<'_>) {
        if self.host.has_mail() {
            self.sort_mail();
            self.step_aside(port);
        }
    }

    /// Reads mail. Nothing is submitted: the queue may be paused.
    pub(super) fn sort_mail(&mut self) {
        for mail in self.host.take_mail() {
            self.touched = true;
            match mail {
                Mail::Insert(card, root, policies) => {
                    if let Some((werror, rerror)) = policies {
                        (self.failures.werror, self.failures.rerror) = (werror, rerror);
                    }
                    self.seat = Some(Seat { card: *card, root: root.handle() });
                    self.host.regs().set_inserted(true);
                }
                Mail::Remove(done) => self.removing.push(done),
                Mail::Reset(done) => self.resets.push(done),
            }
        }
        if !self.removing.is_empty() || !self.resets.is_empty() {
            self.parked = None;
            if !self.moves_data() {
                self.finish_waiting();
            }
        }
        if std::mem::take(&mut self.touched) {
            self.host.update_interrupt(true);
        }
    }

    /// A request in flight uses guest memory, or the medium.
    fn moves_data(&self) -> bool {
        matches!(self.flight, Some(Flight::Chunk { .. } | Flight::Fetch | Flight::Step))
    }

    /// What waited for the request in flight, which is over.
    pub(super) fn finish_waiting(&mut self) {
        if std::mem::take(&mut self.resetting) {
            self.tell_response();
            self.transfer = None;
            self.touched = true;
            let mut regs = self.host.regs();
            regs.engaged = false;
            regs.reset_done();
        }
        for done in std::mem::take(&mut self.resets) {
            (self.transfer, self.stepping, self.parked) = (None, None, None);
            {
                let mut regs = self.host.regs();
                regs.engaged = false;
                regs.reset_all();
                regs.inbox.power_cycle = false;
            }
            if let Some(seat) = &mut self.seat {
                seat.card.power_cycle();
            }
            self.host.interrupts.set_wire(false);
            done();
        }
        for done in std::mem::take(&mut self.removing) {
            self.touched = true;
            if self.transfer.is_some() {
                self.tell_response();
                self.data_over(false, error::DATA_TIMEOUT);
            }
            if self.stepping.take() == Some(true) {
                self.host.regs().data_done(false, error::DATA_TIMEOUT);
            }
            self.flight = None;
            self.seat = None;
            self.host.regs().set_inserted(false);
            done();
        }
    }

    /// The guest resets lines, or everything, while there is a transfer.
    pub(super) fn abandon(&mut self, which: u8) {
        if which & (reset::ALL | reset::DATA) == 0 {
            // The command line alone: the data go on.
            if let Some(transfer) = &mut self.transfer {
                transfer.words = None;
            }
            return self.host.regs().reset_done();
        }
        self.parked = None;
        if self.transfer.is_some() {
            self.give_up_data();
        }
        // The card goes on with what it does; nobody waits for it.
        if let Some(told) = &mut self.stepping {
            *told = false;
        }
        self.resetting = true;
        if !matches!(self.flight, Some(Flight::Chunk { .. } | Flight::Fetch)) {
            self.finish_waiting();
        }
    }

    /// Whether a request that has ended is of no use any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.resetting || !self.resets.is_empty() || !self.removing.is_empty()
    }
}
