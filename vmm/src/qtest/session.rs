//! The peer at the socket: lines in, lines out.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use event_manager::{EventOps, EventSet, Events};

use super::{command::DATA_MAX, engine::Engine, outbox::Outbox};
use crate::monitor::socket::Listener;

/// How much is read at a time, and how much at most before others have their turn, in bytes.
const READ_LEN: usize = 64 << 10;
const READS_MAX: usize = 64;
/// The longest line: the most data, in hexadecimal, and the words before it.
const LINE_MAX: usize = 2 * DATA_MAX as usize + 4096;
/// While so many bytes wait to be sent, no further line is carried out.
const WAITING_MAX: usize = 1 << 20;

/// Who is there.
pub(super) enum Peer {
    /// Nobody yet.
    Awaited(Listener),
    /// A test.
    Here(UnixStream),
    /// Nobody any more.
    Gone,
}

/// A test that drives the machine.
pub struct Session {
    peer: Peer,
    input: Vec<u8>,
    /// Where in `input` the next line begins.
    start: usize,
    /// How much of `input` was looked through for its end.
    scanned: usize,
    engine: Engine,
    outbox: Arc<Outbox>,
    /// What the loop watches the peer for; `None`: not at all.
    watched: Option<EventSet>,
    /// The peer sends no more.
    at_end: bool,
}

impl Session {
    pub(super) fn new(peer: Peer, engine: Engine, outbox: Arc<Outbox>) -> Self {
        if matches!(peer, Peer::Here(_)) {
            outbox.log(|log| log.note("OPENED"));
        }
        Self {
            peer,
            input: Vec::new(),
            start: 0,
            scanned: 0,
            engine,
            outbox,
            watched: None,
            at_end: false,
        }
    }

    /// Registers with the main loop.
    pub fn watch(&mut self, ops: &mut EventOps<'_>) {
        if let Err(e) = ops.add(Events::new_raw(self.outbox.fd(), EventSet::IN)) {
            ::log::error!("the qtest socket: {e:?}");
        }
        self.follow(ops);
    }

    /// Takes what the peer has sent.
    pub fn receive(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.outbox.fd() {
            self.outbox.acknowledge();
        } else if let Peer::Awaited(listener) = &self.peer {
            match listener.accept() {
                Ok(Some(stream)) => {
                    self.unwatch(ops);
                    self.peer = Peer::Here(stream);
                    self.outbox.log(|log| log.note("OPENED"));
                }
                Ok(None) => {}
                Err(e) => ::log::error!("the qtest socket: {e}"),
            }
        } else {
            self.read();
        }
    }

    fn read(&mut self) {
        let Peer::Here(stream) = &mut self.peer else { return };
        let mut bytes = [0; READ_LEN];
        for _ in 0..READS_MAX {
            match stream.read(&mut bytes) {
                Ok(0) => self.at_end = true,
                Ok(count) => {
                    self.input.extend_from_slice(&bytes[..count]);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.at_end = true,
            }
            return;
        }
    }

    /// Carries out the next line, if it is all there; returns whether it was.
    pub fn step(&mut self) -> bool {
        if self.outbox.len() > WAITING_MAX || matches!(self.peer, Peer::Gone) {
            return false;
        }
        let Some(line) = self.line() else {
            if self.input.len() - self.start > LINE_MAX {
                self.outbox.answer("ERR the line is too long\n");
                (self.input, self.start, self.scanned) = (Vec::new(), 0, 0);
                self.at_end = true;
            }
            return false;
        };
        self.outbox.log(|log| log.received(&line));
        let mut answer = self.engine.execute(&line);
        answer.push('\n');
        self.outbox.answer(&answer);
        true
    }

    fn line(&mut self) -> Option<String> {
        let end = self.input[self.scanned..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            // What is left is the beginning of a line: it moves to the front.
            self.input.drain(..self.start);
            (self.start, self.scanned) = (0, self.input.len());
            return None;
        };
        let end = self.scanned + end;
        let line = String::from_utf8_lossy(&self.input[self.start..end]).into_owned();
        (self.start, self.scanned) = (end + 1, end + 1);
        Some(line)
    }

    fn has_line(&self) -> bool {
        self.input[self.scanned..].contains(&b'\n')
    }

    /// Sends what there is to send, and has the loop wait for what is to come.
    pub fn send(&mut self, ops: &mut EventOps<'_>) {
        if let Peer::Here(stream) = &mut self.peer {
            while self.outbox.len() > 0 {
                match self.outbox.send(|bytes| stream.write(bytes)) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        self.lose(ops);
                        break;
                    }
                }
            }
        }
        if self.at_end && !self.has_line() && self.outbox.len() == 0 {
            self.lose(ops);
        }
        self.follow(ops);
    }

    /// Whether the peer was there and is not any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.peer, Peer::Gone)
    }

    fn lose(&mut self, ops: &mut EventOps<'_>) {
        self.unwatch(ops);
        if !matches!(self.peer, Peer::Gone) {
            self.outbox.log(|log| log.note("CLOSED"));
            self.peer = Peer::Gone;
        }
    }

    fn fd(&self) -> Option<RawFd> {
        match &self.peer {
            Peer::Awaited(listener) => Some(listener.as_raw_fd()),
            Peer::Here(stream) => Some(stream.as_raw_fd()),
            Peer::Gone => None,
        }
    }

    /// What to wait for: further lines only when there are none that wait.
    fn wanted(&self) -> EventSet {
        let mut wanted = EventSet::empty();
        if !self.at_end && !self.has_line() {
            wanted |= EventSet::IN;
        }
        if matches!(self.peer, Peer::Here(_)) && self.outbox.len() > 0 {
            wanted |= EventSet::OUT;
        }
        wanted
    }

    fn follow(&mut self, ops: &mut EventOps<'_>) {
        let Some(fd) = self.fd() else { return };
        let wanted = Some(self.wanted()).filter(|wanted| !wanted.is_empty());
        let result = match (self.watched, wanted) {
            (before, after) if before == after => Ok(()),
            (None, Some(set)) => ops.add(Events::new_raw(fd, set)),
            (Some(_), Some(set)) => ops.modify(Events::new_raw(fd, set)),
            (_, None) => return self.unwatch(ops),
        };
        match result {
            Ok(()) => self.watched = wanted,
            Err(e) => ::log::error!("the qtest socket: {e:?}"),
        }
    }

    fn unwatch(&mut self, ops: &mut EventOps<'_>) {
        if let (Some(fd), Some(set)) = (self.fd(), self.watched.take())
            && let Err(e) = ops.remove(Events::new_raw(fd, set))
        {
            ::log::error!("the qtest socket: {e:?}");
        }
    }
}
