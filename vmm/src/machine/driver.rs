//! Whoever drives a machine without CPUs, on the main loop.

use std::{cell::RefCell, rc::Rc};

use event_manager::{EventOps, Events, MutEventSubscriber};

use super::Machine;
use crate::{monitor::schema::ShutdownCause, qtest::Session};

/// The peer's session, and the machine that it is about.
pub(super) struct Driver {
    session: Session,
    machine: Rc<RefCell<Machine>>,
}

impl Driver {
    pub(super) fn new(session: Session, machine: Rc<RefCell<Machine>>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { session, machine }))
    }

    /// Carries out what the peer has asked for. What an access asks of the machine as a whole (a
    /// reset, say) is over before the next one is made, so that a test need not wait for it.
    pub(super) fn go_on(&mut self, ops: &mut EventOps<'_>) {
        while !self.machine.borrow().is_busy() && self.session.step() {
            self.machine.borrow_mut().read_mail();
        }
        self.session.send(ops);
        if self.session.is_over() && !self.machine.borrow().is_ending() {
            log::info!("the peer of the qtest socket is gone");
            self.machine.borrow_mut().end(0, false, ShutdownCause::HostQmpQuit);
        }
    }
}

impl MutEventSubscriber for Driver {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.session.watch(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.session.receive(events, ops);
        self.go_on(ops);
    }
}
