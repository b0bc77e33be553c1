//! Lines for the peer: answers, and interrupts from whichever thread they come.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::log::Log;

struct State {
    bytes: Vec<u8>,
    /// How many of them were sent.
    sent: usize,
    log: Option<Log>,
}

/// What waits to be sent, in the order in which it happened.
pub(super) struct Outbox {
    state: Mutex<State>,
    event: EventFd,
}

impl Outbox {
    pub(super) fn new(log: Option<Log>) -> io::Result<Arc<Self>> {
        let state = Mutex::new(State { bytes: Vec::new(), sent: 0, log });
        Ok(Arc::new(Self { state, event: EventFd::new(EFD_NONBLOCK)? }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer; the main thread sends it soon.
    pub(super) fn answer(&self, line: &str) {
        let mut state = self.lock();
        if let Some(log) = &mut state.log {
            log.sent(line);
        }
        state.bytes.extend_from_slice(line.as_bytes());
    }

    /// Adds a line from any thread, and wakes the main thread.
    pub(super) fn tell(&self, line: &str) {
        self.answer(line);
        // Only an overflow could fail, and then it is readable anyway.
        let _ = self.event.write(1);
    }

    /// Shows `f` the log, if there is one.
    pub(super) fn log(&self, f: impl FnOnce(&mut Log)) {
        if let Some(log) = &mut self.lock().log {
            f(log);
        }
    }

    /// Sends with `f`, which says how much it has sent.
    ///
    /// # Errors
    /// What `f` says.
    pub(super) fn send(&self, f: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut state = self.lock();
        let waiting = state.bytes.get(state.sent..).unwrap_or_default();
        if !waiting.is_empty() {
            state.sent += f(waiting)?.min(waiting.len());
        }
        if state.sent == state.bytes.len() {
            (state.bytes, state.sent) = (Vec::new(), 0);
        }
        Ok(())
    }

    /// Number of bytes that wait.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.bytes.len() - state.sent
    }

    /// Becomes readable after [`Outbox::tell`]; [`Outbox::acknowledge`] it.
    pub(super) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    pub(super) fn acknowledge(&self) {
        let _ = self.event.read();
    }
}
