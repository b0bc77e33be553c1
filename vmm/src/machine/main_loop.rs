//! The main loop: mailbox, signals, interrupt lines, serial input and monitors.

use std::{cell::RefCell, os::fd::RawFd, rc::Rc, sync::Arc, time::Duration};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::{BuildError, Machine, build, build::Ends, signals::Signals};
use crate::{
    kvm::line::Line,
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
    let core = {
        let machine = machine.borrow();
        machine.mailbox.connect_monitor(monitor.events());
        let lines = machine.board.lines.watched();
        lines.map(|(fd, line)| (fd, Arc::clone(line))).collect()
    };
    let core = Core { machine: Rc::clone(machine), signals, lines: core };
    manager.add_subscriber(Box::new(core));
    manager.add_subscriber(Box::new(monitor));
    let keys = {
        let machine = Rc::clone(machine);
        Box::new(move |command| machine.borrow_mut().console_command(command))
    };
    let port = Arc::clone(&machine.borrow().board.serial);
    let serial = Rc::new(RefCell::new(SerialInput::new(ends.serial, port, keys)));
    manager.add_subscriber(Box::new(Shares(Rc::clone(&serial))));

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
    };
    serial.borrow().flush(FAREWELL);
    let exits = machine.borrow().cpus.exits();
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

/// Mailbox, signals and interrupt lines.
struct Core {
    machine: Rc<RefCell<Machine>>,
    signals: Signals,
    lines: Vec<(RawFd, Arc<Line>)>,
}

impl Core {
    /// Watches the lines that were connected since the last time: a device was plugged.
    fn watch_new_lines(&mut self, ops: &mut EventOps<'_>) {
        let machine = self.machine.borrow();
        for (fd, line) in machine.board.lines.watched() {
            if self.lines.iter().any(|(watched, _)| *watched == fd) {
                continue;
            }
            match ops.add(Events::new_raw(fd, EventSet::IN)) {
                Ok(()) => self.lines.push((fd, Arc::clone(line))),
                Err(e) => log::error!("the main loop: {e:?}"),
            }
        }
    }
}

impl MutEventSubscriber for Core {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mailbox = self.machine.borrow().mailbox.fd();
        let lines = self.lines.iter().map(|(fd, _)| *fd);
        for fd in [mailbox, self.signals.fd()].into_iter().chain(lines) {
            if let Err(e) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the main loop: {e:?}");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if let Some((_, line)) = self.lines.iter().find(|(watched, _)| *watched == fd) {
            line.resampled();
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
