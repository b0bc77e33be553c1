//! The monitor on the main loop: sockets, sessions, the mailbox and the timer of held events.
use super::event::{EventSender, RateLimit};
use super::reply::{Handler, Mailbox, Message, Reply, Token};
use super::session::Session;
use super::socket::{Listener, SocketError, connect};
use crate::spec::QmpSpec;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

/// How many peers each server has at once; further ones wait.
const CONNECTIONS_MAX: usize = 16;
/// How many bytes are read at a time.
const READ_LEN: usize = 16 << 10;
/// How many reads one wakeup of a peer gets before others have their turn.
const READS_MAX: usize = 16;
/// How long to wait when a connection cannot be accepted (too many open files).
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// How long the last messages may take to go out when the machine ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// All QMP monitors of a machine, as a subscriber of the main loop.
///
/// Dropping it sends what has been answered so far, for at most a second, and removes the sockets.
pub struct Server<H: Handler> {
    handler: H,
    listeners: Vec<Listening>,
    connections: BTreeMap<u64, Connection>,
    connections_begun: u64,
    mailbox: Mailbox,
    incoming: Receiver<Message>,
    doorbell: Arc<EventFd>,
    limit: RateLimit,
    timer: TimerFd,
}

struct Listening {
    listener: Listener,
    /// Whether the loop watches it.
    watched: bool,
    /// When to try again after accepting has failed.
    retry_at: Option<Instant>,
}

struct Connection {
    stream: UnixStream,
    session: Session,
    /// The peer sends no more.
    at_end: bool,
    /// The peer is gone; commands it had sent are still carried out.
    gone: bool,
    /// What the loop watches for; `None`: not watched.
    watched: Option<EventSet>,
}

impl<H: Handler> Server<H> {
    /// Opens the sockets. `handler` gets the commands.
    ///
    /// # Errors
    ///
    /// [`SocketError`]: a socket that cannot be used.
    pub fn new(monitors: &[QmpSpec], handler: H) -> Result<Self, SocketError> {
        let inner =
            |what| move |source| SocketError::Os { path: "(internal)".into(), what, source };
        let (mailbox, incoming, doorbell) = Mailbox::new().map_err(inner("make an eventfd"))?;
        let timer = TimerFd::new()
            .map_err(|e| inner("make a timer")(io::Error::from_raw_os_error(e.errno())))?;
        let mut server = Self {
            handler,
            listeners: Vec::new(),
            connections: BTreeMap::new(),
            connections_begun: 0,
            mailbox,
            incoming,
            doorbell,
            limit: RateLimit::default(),
            timer,
        };
        for monitor in monitors {
            let path = &monitor.socket.path;
            if monitor.socket.server {
                let listener = Listener::new(path)?;
                server.listeners.push(Listening { listener, watched: false, retry_at: None });
            } else {
                server.add(connect(path)?);
            }
        }
        Ok(server)
    }

    /// Where events are sent.
    #[must_use]
    pub fn events(&self) -> EventSender {
        EventSender { mailbox: self.mailbox.clone() }
    }

    fn add(&mut self, stream: UnixStream) {
        self.connections_begun += 1;
        let connection = Connection {
            stream,
            session: Session::new(),
            at_end: false,
            gone: false,
            watched: None,
        };
        self.connections.insert(self.connections_begun, connection);
    }

    fn accept(&mut self, fd: RawFd) {
        let Some(index) = self.listeners.iter().position(|l| l.listener.as_raw_fd() == fd) else {
            return;
        };
        while self.connections.len() < CONNECTIONS_MAX {
            let Some(listening) = self.listeners.get_mut(index) else { return };
            match listening.listener.accept() {
                Ok(Some(stream)) => self.add(stream),
                Ok(None) => return,
                Err(error) => {
                    log::warn!("monitor: cannot accept a connection: {error}");
                    listening.retry_at = Some(Instant::now() + ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    /// Takes what the peer sent and carries out its commands.
    fn serve(&mut self, number: u64) {
        for _ in 0..READS_MAX {
            self.run_commands(number);
            if !self.connections.get_mut(&number).is_some_and(Connection::read) {
                break;
            }
        }
        self.run_commands(number);
    }

    fn run_commands(&mut self, number: u64) {
        while let Some(connection) = self.connections.get_mut(&number) {
            connection.write();
            let Some((command_number, command)) = connection.session.next() else { break };
            let token = Token { connection: number, command: command_number };
            self.handler.handle(command, Reply::new(token, self.mailbox.clone()));
            self.take_mail();
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.write();
        }
    }

    /// Hands out answers and events; returns the connections that got an answer.
    fn take_mail(&mut self) -> Vec<u64> {
        let mut answered = Vec::new();
        while let Ok(message) = self.incoming.try_recv() {
            match message {
                Message::Answer(token, answer) => {
                    if let Some(connection) = self.connections.get_mut(&token.connection)
                        && connection.session.reply(token.command, answer)
                    {
                        answered.push(token.connection);
                    }
                }
                Message::Event(event, at) => {
                    if let Some(message) = self.limit.pass(&event, at, Instant::now()) {
                        self.broadcast(&message);
                    }
                }
            }
        }
        answered
    }

    fn broadcast(&mut self, message: &serde_json::Value) {
        for connection in self.connections.values_mut() {
            connection.session.event(message);
        }
    }

    fn mail(&mut self) {
        let _ = self.doorbell.read();
        for number in self.take_mail() {
            self.serve(number);
        }
    }

    fn held_events(&mut self) {
        let _ = self.timer.wait();
        for message in self.limit.due(Instant::now()) {
            self.broadcast(&message);
        }
    }

    /// Sends what waits, forgets finished peers, and tells the loop what to watch from now on.
    fn settle(&mut self, ops: &mut EventOps<'_>) {
        for connection in self.connections.values_mut() {
            connection.write();
            connection.watch(ops);
        }
        self.connections.retain(|_, connection| !connection.is_finished());
        let full = self.connections.len() >= CONNECTIONS_MAX;
        let now = Instant::now();
        let mut wake = self.limit.next_due();
        for Listening { listener, watched, retry_at } in &mut self.listeners {
            retry_at.take_if(|at| *at <= now);
            wake = wake.into_iter().chain(*retry_at).min();
            let wanted = !full && retry_at.is_none();
            let events = Events::new(listener, EventSet::IN);
            if wanted != *watched {
                let result = if wanted { ops.add(events) } else { ops.remove(events) };
                *watched = wanted && result.is_ok();
            }
        }
        let wait = wake.map(|due| due.saturating_duration_since(now));
        let _ = match wait {
            // A timer set to zero would be disarmed.
            Some(wait) => self.timer.reset(wait.max(Duration::from_millis(1)), None),
            None => self.timer.clear(),
        };
    }

    fn connection_of(&self, fd: RawFd) -> Option<u64> {
        self.connections
            .iter()
            .find(|(_, connection)| connection.stream.as_raw_fd() == fd)
            .map(|(number, _)| *number)
    }
}

impl<H: Handler> MutEventSubscriber for Server<H> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for fd in [self.doorbell.as_raw_fd(), self.timer.as_raw_fd()] {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("monitor: cannot join the main loop: {error:?}");
            }
        }
        self.settle(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if fd == self.doorbell.as_raw_fd() {
            self.mail();
        } else if fd == self.timer.as_raw_fd() {
            self.held_events();
        } else if let Some(number) = self.connection_of(fd) {
            let over = EventSet::HANG_UP | EventSet::ERROR;
            if events.event_set().intersects(over)
                && let Some(connection) = self.connections.get_mut(&number)
            {
                connection.gone = true;
            }
            self.serve(number);
        } else {
            self.accept(fd);
        }
        self.settle(ops);
    }
}

impl<H: Handler> Drop for Server<H> {
    fn drop(&mut self) {
        self.take_mail();
        let end = Instant::now() + FAREWELL;
        for connection in self.connections.values_mut() {
            let left = end.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            if connection.stream.set_nonblocking(false).is_ok()
                && connection.stream.set_write_timeout(Some(left)).is_ok()
            {
                let _ = connection.stream.write_all(connection.session.unsent());
            }
        }
    }
}

impl Connection {
    /// Reads once; false when there is nothing (more) to read now.
    fn read(&mut self) -> bool {
        if self.at_end || !self.session.wants_input() {
            return false;
        }
        let mut buffer = [0; READ_LEN];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.at_end = true,
            Ok(count) => {
                self.session.receive(buffer.get(..count).unwrap_or_default());
                return true;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => (self.at_end, self.gone) = (true, true),
        }
        false
    }

    fn write(&mut self) {
        while !self.gone && !self.session.unsent().is_empty() {
            match self.stream.write(self.session.unsent()) {
                Ok(count) => self.session.sent(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody will read any more, but what was sent before is still carried out.
                Err(_) => self.gone = true,
            }
        }
        if self.gone {
            let count = self.session.unsent().len();
            self.session.sent(count);
        }
    }

    fn is_finished(&self) -> bool {
        let drained = self.session.unsent().is_empty();
        (self.session.is_broken() && (drained || self.gone))
            || (self.at_end && drained && !self.session.is_busy())
    }

    /// What the loop must watch for.
    fn interest(&self) -> Option<EventSet> {
        // A hang-up is always reported, so a peer that is gone is not watched at all; only the
        // machine's answer can move it on then.
        if self.is_finished() || (self.gone && (self.at_end || !self.session.wants_input())) {
            return None;
        }
        let mut set = EventSet::empty();
        if !self.at_end && self.session.wants_input() {
            set |= EventSet::IN;
        }
        if !self.session.unsent().is_empty() {
            set |= EventSet::OUT;
        }
        Some(set)
    }

    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let wanted = self.interest();
        let events = |set| Events::new(&self.stream, set);
        let result = match (self.watched, wanted) {
            (None, None) => Ok(()),
            (None, Some(set)) => ops.add(events(set)),
            (Some(set), None) => ops.remove(events(set)),
            (Some(old), Some(new)) if old == new => Ok(()),
            (Some(_), Some(new)) => ops.modify(events(new)),
        };
        match result {
            Ok(()) => self.watched = wanted,
            Err(error) => log::warn!("monitor: cannot watch a connection: {error:?}"),
        }
    }
}
