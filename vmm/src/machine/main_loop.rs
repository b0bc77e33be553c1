//! The main loop: mailbox, signals, interrupt lines, serial input, monitors, and whoever drives a
//! machine without CPUs.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::{BuildError, Machine, build, build::Ends, driver::Driver};
use crate::signals::Signals;
use crate::{
    accel::Watched,
    monitor::{Server, Shared, schema::ShutdownCause},
    sandbox::Kind,
    serial::SerialInput,
    spec::MachineSpec,
};

/// Milliseconds after which the loop looks after what nobody tells it of.
const TICK: i32 = 100;
/// How long the last output may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs the machine that `spec` describes until it ends; returns the exit status.
///
/// # Errors
/// When the machine cannot be made.
pub fn run(spec: &MachineSpec) -> Result<u8, BuildError> {
    let resources = |what| move |source| BuildError::Resources { what, source };
    let signals = Signals::take_over().map_err(resources("signals"))?;
    let (machine, ends) = build(spec)?;
    let machine = Rc::new(RefCell::new(machine));
    let result = run_loop(&machine, ends, signals, spec);
    // Its threads end before what they use goes.
    machine.borrow_mut().end_threads();
    result
}

fn run_loop(
    machine: &Rc<RefCell<Machine>>,
    ends: Ends,
    signals: Signals,
    spec: &MachineSpec,
) -> Result<u8, BuildError> {
    let failed = |e: event_manager::Error| BuildError::Loop(format!("{e:?}"));
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(failed)?;
    let monitor = Server::new(&spec.qmp, Shared(Rc::clone(machine)))?;
    let watched = {
        let machine = machine.borrow();
        machine.mailbox.connect_monitor(monitor.events());
        machine.accelerator.watched()
    };
    let core = Core { machine: Rc::clone(machine), signals, watched };
    manager.add_subscriber(Box::new(core));
    manager.add_subscriber(Box::new(monitor));
    let keys = {
        let machine = Rc::clone(machine);
        Box::new(move |command| machine.borrow_mut().console_command(command))
    };
    let port = Arc::clone(&machine.borrow().board.serial);
    let serial = Rc::new(RefCell::new(SerialInput::new(ends.serial, port, keys)));
    manager.add_subscriber(Box::new(Shares(Rc::clone(&serial))));
    let driver = ends.session.map(|session| {
        let driver = Driver::new(session, Rc::clone(machine));
        let number = manager.add_subscriber(Box::new(Shares(Rc::clone(&driver))));
        (driver, number)
    });

    let refused = |source| BuildError::Resources { what: "a seccomp filter", source };
    ends.sandbox.enter(Kind::Main).map_err(refused)?;
    machine.borrow_mut().power_on();
    let status = loop {
        if let Some(status) = machine.borrow().outcome() {
            break status;
        }
        match manager.run_with_timeout(TICK) {
            Ok(0) => machine.borrow_mut().tick(),
            Ok(_) => {}
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(failed(e)),
        }
        if let Some((driver, number)) = &driver {
            let mut ops = manager.event_ops(*number).map_err(failed)?;
            driver.borrow_mut().go_on(&mut ops);
        }
    };
    serial.borrow().flush(FAREWELL);
    let exits = machine.borrow().accelerator.exits();
    log::info!("exits to user space: {}: {exits:?}", exits.total());
    Ok(status)
}

/// A subscriber that others use too.
struct Shares<T>(Rc<RefCell<T>>);

impl<T: MutEventSubscriber> MutEventSubscriber for Shares<T> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.0.borrow_mut().init(ops);
    }
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.0.borrow_mut().process(events, ops);
    }
}

/// Mailbox, signals and what the accelerator watches.
struct Core {
    machine: Rc<RefCell<Machine>>,
    signals: Signals,
    watched: Vec<Watched>,
}

impl Core {
    /// Watches the lines that were connected since the last time: a device was plugged.
    fn watch_new_lines(&mut self, ops: &mut EventOps<'_>) {
        for new in self.machine.borrow().accelerator.watched() {
            if self.watched.iter().any(|watched| watched.fd == new.fd) {
                continue;
            }
            match ops.add(Events::new_raw(new.fd, EventSet::IN)) {
                Ok(()) => self.watched.push(new),
                Err(e) => log::error!("the main loop: {e:?}"),
            }
        }
    }
}

impl MutEventSubscriber for Core {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mailbox = self.machine.borrow().mailbox.fd();
        let lines = self.watched.iter().map(|watched| watched.fd);
        for fd in [mailbox, self.signals.fd()].into_iter().chain(lines) {
            if let Err(e) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the main loop: {e:?}");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if let Some(watched) = self.watched.iter().find(|watched| watched.fd == fd) {
            (watched.ready)();
        } else if fd == self.signals.fd() {
            if let Some(number) = self.signals.read() {
                log::warn!("ending because of signal {number}; another one ends at once");
                self.machine.borrow_mut().end(0, false, ShutdownCause::HostSignal);
            }
        } else {
            self.machine.borrow_mut().read_mail();
            self.watch_new_lines(ops);
        }
    }
}
