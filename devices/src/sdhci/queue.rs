//! The queue half: commands to the card, and data between it and guest memory.

mod flight;
mod mail;
mod transfer;

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
};

use spindle_block::{
    BlockError, IoBuf, RootHandle,
    iothread::{Port, Progress, Queue},
};

use super::{
    host::Host,
    regs::Request,
    spec::{auto_error, command, mode},
    status::{Words, receive},
};
use crate::{
    device::Done,
    policy::Failures,
    queue_link::QueueLink,
    sd::{Card, Reply, Response, Then},
};
use flight::{Flight, Parked};
use transfer::Transfer;

/// The card in the slot, and its medium.
struct Seat {
    card: Card,
    root: RootHandle,
}

/// See the module.
pub(super) struct SdQueue {
    host: Arc<Host>,
    place: Arc<QueueLink>,
    failures: Failures,
    seat: Option<Seat>,
    /// The data phase of the last command.
    transfer: Option<Transfer>,
    /// The one request that is under way below.
    flight: Option<Flight>,
    /// A request that failed and waits for the machine to go on.
    parked: Option<Parked>,
    /// Memory for requests while none is in flight; its capacity is kept.
    buf: IoBuf,
    /// The card's steps are being done; whether the guest is told at the end.
    stepping: Option<bool>,
    /// What a section that is being kept has come to.
    saved: Arc<AtomicU8>,
    /// A reset waits for the request in flight.
    resetting: bool,
    /// Who waits for the same, because the card goes or the function is reset.
    removing: Vec<Done>,
    resets: Vec<Done>,
    /// Status bits were set since the last interrupt.
    touched: bool,
}

/// What [`SdQueue::saved`] holds.
mod saved {
    pub const NOTHING: u8 = 0;
    pub const DONE: u8 = 1;
    pub const FAILED: u8 = 2;
}

/// CMD12 and CMD23.
const STOP_TRANSMISSION: u8 = 12;
const SET_BLOCK_COUNT: u8 = 23;

impl SdQueue {
    pub fn new(host: &Arc<Host>, place: &Arc<QueueLink>, failures: Failures) -> Self {
        let mut buf = IoBuf::with_capacity(16);
        buf.set_keep(host.dma.keep());
        Self {
            host: Arc::clone(host),
            place: Arc::clone(place),
            failures,
            seat: None,
            transfer: None,
            flight: None,
            parked: None,
            buf,
            stepping: None,
            saved: Arc::default(),
            resetting: false,
            removing: Vec::new(),
            resets: Vec::new(),
            touched: false,
        }
    }

    /// Takes what the register half has left, as far as it can be done now.
    fn read_inbox(&mut self, port: &mut Port<'_>) {
        let host = Arc::clone(&self.host);
        let inbox = {
            let mut regs = host.regs();
            let waits = regs.inbox.command.is_some_and(|request| self.must_wait(&request));
            let command = if waits { None } else { regs.inbox.command.take() };
            let inbox = super::regs::Inbox { command, ..regs.inbox };
            let left = regs.inbox.command;
            regs.inbox = super::regs::Inbox { command: left, ..Default::default() };
            inbox
        };
        if inbox.reset != 0 {
            self.abandon(inbox.reset);
        }
        if inbox.power_cycle
            && let Some(seat) = &mut self.seat
        {
            seat.card.power_cycle();
            self.step_aside(port);
        }
        if inbox.voltage
            && let Some(seat) = &mut self.seat
        {
            seat.card.voltage_switched();
        }
        if inbox.buffer {
            self.buffer_turned(port);
        }
        if inbox.resume {
            self.resume_transfer(port);
        }
        if let Some(request) = inbox.command {
            self.execute(port, &request);
        }
    }

    /// Data wait for what is in flight, and DMA for the bus master bit.
    fn must_wait(&self, request: &Request) -> bool {
        request.has_data() && (self.flight.is_some() || self.transfer.is_some())
            || request.uses_dma() && !self.host.interrupts.is_bus_master()
    }

    /// Executes a command.
    fn execute(&mut self, port: &mut Port<'_>, request: &Request) {
        self.touched = true;
        if request.mode & mode::AUTO == mode::AUTO_23
            && request.has_data()
            && !self.auto_command(SET_BLOCK_COUNT, request.sdma)
        {
            let mut regs = self.host.regs();
            regs.command_done(Words::None, 0);
            regs.data_done(false, 0);
            regs.engaged = false;
            return;
        }
        let card = self.seat.as_mut().map(|seat| &mut seat.card);
        let reply = match card {
            Some(card) => card.command(request.index, request.argument),
            None => Reply { response: Response::None, then: Then::Nothing },
        };
        if request.tuning {
            return self.tune(request, &reply);
        }
        let lines_low = self.seat.as_ref().is_some_and(|seat| seat.card.is_switching_voltage());
        self.host.regs().lines_low |= lines_low;
        let received = receive(reply.response, request.flags);
        let (words, errors) = match received {
            Ok(words) => (words, 0),
            Err(errors) => (Words::None, errors),
        };
        // An abort ends the transfer that is under way.
        let aborts = request.flags & command::ABORT == command::ABORT
            || request.index == STOP_TRANSMISSION && !request.has_data();
        if aborts && errors == 0 {
            self.abort_transfer();
        }
        if request.has_data() {
            if errors != 0 {
                let mut regs = self.host.regs();
                regs.command_done(words, errors);
                regs.data_done(false, 0);
                regs.engaged = false;
                drop(regs);
                return self.give_up_data();
            }
            return self.begin_data(port, request, words, reply.then);
        }
        self.host.regs().command_done(words, errors);
        self.give_up_data_of(&reply.then);
        let busy = request.flags & command::RESPONSE == command::BUSY;
        if reply.then == Then::Busy && errors == 0 {
            self.stepping = Some(busy || self.stepping.unwrap_or(false));
            if busy {
                self.host.regs().hold_data();
            }
            self.run_steps(port);
        } else {
            if busy && self.transfer.is_none() {
                self.host.regs().data_done(errors == 0, 0);
            }
            self.step_aside(port);
        }
    }

    /// Executes CMD12 or CMD23 on the controller's own account. Returns whether the card answered.
    fn auto_command(&mut self, index: u8, argument: u32) -> bool {
        let card = self.seat.as_mut().map(|seat| &mut seat.card);
        let response = card.map_or(Response::None, |card| card.command(index, argument).response);
        let mut regs = self.host.regs();
        match response {
            Response::Normal(bits) => {
                regs.auto_done(Some(bits), 0);
                true
            }
            Response::None | Response::Ocr(_) | Response::Long(_) => {
                regs.auto_done(None, auto_error::TIMEOUT);
                false
            }
        }
    }

    /// A command of the tuning procedure.
    fn tune(&mut self, request: &Request, reply: &Reply) {
        let sends = matches!(reply.then, Then::Send(..));
        let width = self.seat.as_ref().map_or(0, |seat| seat.card.width());
        let mut regs = self.host.regs();
        regs.tuning_block(sends && width == request.width);
        regs.engaged = false;
    }

    /// The card has data that nobody takes.
    fn give_up_data(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.card.cut_off();
        }
    }

    fn give_up_data_of(&mut self, then: &Then) {
        match then {
            Then::Nothing | Then::Busy => {}
            Then::Send(..) | Then::Fetch(_) | Then::Take { .. } | Then::Stream => {
                self.give_up_data();
            }
        }
    }

    /// Does what the card has to do without anybody waiting for it.
    fn step_aside(&mut self, port: &mut Port<'_>) {
        if self.stepping.is_none() && self.seat.as_ref().is_some_and(|seat| seat.card.has_steps()) {
            self.stepping = Some(false);
        }
        self.run_steps(port);
    }

    /// Ends what is done for a transfer, with bits of the error status if it failed.
    fn data_over(&mut self, complete: bool, errors: u16) {
        self.touched = true;
        let posted = self.transfer.take().is_none_or(|transfer| transfer.words.is_none());
        debug_assert!(posted, "a response that was never told");
        let mut regs = self.host.regs();
        regs.data_done(complete, errors);
        regs.engaged = false;
    }

    /// Tells the response of the transfer's command, if it was not told yet.
    fn tell_response(&mut self) {
        if let Some(words) = self.transfer.as_mut().and_then(|transfer| transfer.words.take()) {
            self.touched = true;
            self.host.regs().command_done(words, 0);
        }
    }

    /// Ends a transfer with an error.
    fn fail(&mut self, errors: u16) {
        self.tell_response();
        self.give_up_data();
        self.data_over(false, errors);
    }
}

impl Queue for SdQueue {
    fn service(&mut self, port: &mut Port<'_>, _budget: u32) -> Progress {
        self.read_mail(port);
        if self.parked.is_some() && self.host.regs().inbox.reset == 0 {
            if !self.place.take_resumed() {
                return Progress::Idle;
            }
            self.replay(port);
        }
        self.look_at_saved(port);
        if self.host.take_work() || self.flight.is_none() {
            self.read_inbox(port);
        }
        Progress::Idle
    }

    fn complete(
        &mut self,
        port: &mut Port<'_>,
        _token: u32,
        buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        self.landed(port, buf, result);
        if self.flight.is_none() && self.parked.is_none() {
            self.step_aside(port);
            // Commands may have waited for it.
            if self.host.regs().inbox.command.is_some() {
                self.read_inbox(port);
            }
        }
    }

    fn flush_irq(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.host.update_interrupt(true);
        }
    }

    fn pending(&mut self) -> bool {
        if self.host.has_mail() {
            return true;
        }
        if self.parked.is_some() {
            return self.place.is_resumed()
                || self.host.has_work() && self.host.regs().inbox.reset != 0;
        }
        self.host.has_work() || self.saved.load(SeqCst) != saved::NOTHING
    }

    fn notify(&mut self, _on: bool) {}

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.host.bell.fd())
    }

    fn wants_attention(&self) -> bool {
        self.host.has_mail()
    }

    fn attend(&mut self) {
        self.sort_mail();
    }

    fn drained(&mut self) {
        debug_assert!(!matches!(
            self.flight,
            Some(Flight::Chunk { .. } | Flight::Fetch | Flight::Step)
        ));
    }
}
