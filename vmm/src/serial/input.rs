//! Input, on the main loop.

use std::{
    io::{self, Read},
    os::fd::{AsRawFd, RawFd},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use spindle_devices::platform::SerialPort;
use vmm_sys_util::eventfd::EventFd;

use super::{HostEnd, Source, output::Outlet};
use crate::console::{Action, PromptCommand};

/// How much is read at a time.
const READ_LEN: usize = 1024;

/// Who obeys the commands of the console's prompt; the answer is shown.
pub type Keys = Box<dyn FnMut(PromptCommand) -> String>;

/// Reads input and offers it to the port, as a subscriber of the main loop.
pub struct SerialInput {
    port: Arc<SerialPort>,
    source: Source,
    /// The peer of a listening socket.
    peer: Option<UnixStream>,
    outlet: Outlet,
    room: Arc<EventFd>,
    keys: Keys,
    /// Input that the port had no room for.
    waiting: Vec<u8>,
    watched: Option<RawFd>,
    /// What has ended, kept open until the loop no longer watches it.
    ended: Option<Source>,
}

impl SerialInput {
    /// Joins a host end with its port.
    #[must_use]
    pub fn new(end: HostEnd, port: Arc<SerialPort>, keys: Keys) -> Self {
        let HostEnd { outlet, source, room } = end;
        let (peer, waiting, watched, ended) = (None, Vec::new(), None, None);
        Self { port, source, peer, outlet, room, keys, waiting, watched, ended }
    }

    /// Waits until the output is written, `time` at most.
    pub fn flush(&self, time: Duration) {
        self.outlet.flush(time);
    }

    /// What input can be read from now.
    fn readable(&self) -> Option<RawFd> {
        match &self.source {
            Source::Nothing => None,
            Source::Terminal { file, .. } | Source::Stream(file) => Some(file.as_raw_fd()),
            Source::Socket(stream) => Some(stream.as_raw_fd()),
            Source::Listener(listener) => {
                Some(self.peer.as_ref().map_or(listener.as_raw_fd(), AsRawFd::as_raw_fd))
            }
        }
    }

    /// Watches what should be watched: nothing while input waits for room.
    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let wanted = self.readable().filter(|_| self.waiting.is_empty());
        if wanted == self.watched {
            return;
        }
        if let Some(fd) = self.watched.take()
            && let Err(e) = ops.remove(Events::empty_raw(fd))
        {
            log::debug!("serial console: {e:?}");
        }
        self.ended = None;
        let Some(fd) = wanted else { return };
        match ops.add(Events::new_raw(fd, EventSet::IN)) {
            Ok(()) => self.watched = Some(fd),
            // A plain file cannot be waited for: it is always ready.
            Err(_) => self.read_plain_file(),
        }
    }

    fn read_plain_file(&mut self) {
        while self.waiting.is_empty() && self.readable().is_some() {
            self.read();
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; READ_LEN];
        let result = match (&mut self.source, &mut self.peer) {
            (Source::Terminal { file, .. } | Source::Stream(file), _) => file.read(&mut buffer),
            (Source::Socket(stream), _) => stream.read(&mut buffer),
            (Source::Listener(_), Some(peer)) => peer.read(&mut buffer),
            (Source::Listener(_), None) => return self.accept(),
            (Source::Nothing, _) => return,
        };
        match result {
            Ok(count) if count > 0 => self.take(buffer.get(..count).unwrap_or_default()),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The end, or a terminal that is gone.
            _ => self.ended(),
        }
    }

    fn accept(&mut self) {
        let Source::Listener(listener) = &self.source else { return };
        match listener.accept() {
            Ok(Some(stream)) => match self.outlet.connect_socket(&stream) {
                Ok(()) => self.peer = Some(stream),
                Err(e) => log::warn!("serial console: {e}"),
            },
            Ok(None) => {}
            Err(e) => log::warn!("serial console: cannot accept a connection: {e}"),
        }
    }

    fn ended(&mut self) {
        self.ended = match self.source {
            Source::Listener(_) => {
                self.outlet.disconnect();
                self.peer.take().map(Source::Socket)
            }
            // The guest goes on without input.
            _ => Some(std::mem::replace(&mut self.source, Source::Nothing)),
        };
    }

    fn take(&mut self, bytes: &[u8]) {
        let Source::Terminal { escape, .. } = &mut self.source else {
            return self.offer(bytes.to_vec());
        };
        for action in escape.feed(bytes) {
            let Source::Terminal { escape, .. } = &self.source else { return };
            match action {
                Action::Guest(bytes) => self.offer(bytes),
                Action::Show(bytes) => self.outlet.tap().put_all(&bytes),
                Action::Command(command) => {
                    let text = (self.keys)(command);
                    self.outlet.tap().put_all(&escape.answer(&text));
                }
            }
        }
    }

    fn offer(&mut self, mut bytes: Vec<u8>) {
        self.waiting.append(&mut bytes);
        let taken = self.port.input(&self.waiting);
        self.waiting.drain(..taken);
    }
}

impl MutEventSubscriber for SerialInput {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(e) = ops.add(Events::new(&*self.room, EventSet::IN)) {
            log::error!("serial console: cannot join the main loop: {e:?}");
        }
        self.watch(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.room.as_raw_fd() {
            let _ = self.room.read();
            self.offer(Vec::new());
        } else {
            self.read();
        }
        self.watch(ops);
    }
}
