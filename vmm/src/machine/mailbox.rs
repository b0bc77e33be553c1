//! What other threads want the main thread to do.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use spindle_devices::{PowerRequest, PowerSink};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Machine;
use crate::monitor::{Event, EventSender};

/// Letters from the guest that wait, at most. A guest that asks for a thousand resets gets fewer.
const GUESTS_MAX: usize = 64;

/// One thing for the main thread to deal with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// A device asks something of the machine.
    Power(PowerRequest),
    /// A virtual CPU shut down by a triple fault.
    TripleFault,
    /// A virtual CPU cannot go on.
    CpuFailed {
        /// Which.
        cpu: u32,
        /// Why, for a person.
        reason: String,
    },
    /// An iothread ended although nobody asked it to.
    IothreadDied(String),
    /// A disk wants the machine to pause (`werror=stop`, `rerror=stop`, `enospc`).
    StopForError {
        /// The device's id.
        device: String,
        /// Why.
        reason: String,
        /// For want of space.
        nospace: bool,
    },
    /// All devices have done what the step with this number asked of them.
    Quiet(u64),
}

/// Something to be done with the machine on the main thread.
pub(super) type Call = Box<dyn FnOnce(&mut Machine) + Send>;

/// The main thread's mailbox.
pub struct Mailbox {
    letters: Mutex<VecDeque<Letter>>,
    calls: Mutex<Vec<Call>>,
    monitor: OnceLock<EventSender>,
    event: EventFd,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// When there is no eventfd to be had.
    pub fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let (letters, calls) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { letters, calls, monitor: OnceLock::new(), event }))
    }

    /// Drops a letter in, without waiting. The same letter twice is one.
    pub fn post(&self, letter: Letter) {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let from_guest = |l: &Letter| matches!(l, Letter::Power(_) | Letter::TripleFault);
        let room =
            !from_guest(&letter) || letters.iter().filter(|l| from_guest(l)).count() < GUESTS_MAX;
        if room && letters.back() != Some(&letter) {
            letters.push_back(letter);
        }
        drop(letters);
        let _ = self.event.write(1);
    }

    /// Has something done on the main thread, before any letter posted from now on is read.
    pub(super) fn call(&self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        let _ = self.event.write(1);
    }

    /// Takes all calls out.
    pub(super) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where events go from now on.
    pub(super) fn connect_monitor(&self, events: EventSender) {
        // There is one monitor server for the life of a machine.
        let _ = self.monitor.set(events);
    }

    /// Tells monitors of an event. Before there are any, nobody misses it.
    pub fn tell(&self, event: Event) {
        if let Some(events) = self.monitor.get() {
            events.send(event);
        }
    }

    /// Takes the next letter out.
    pub fn take(&self) -> Option<Letter> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Becomes readable when there is a letter; [`Mailbox::acknowledge`] it before taking them.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Clears the signal.
    pub fn acknowledge(&self) {
        let _ = self.event.read();
    }
}

impl PowerSink for Mailbox {
    fn request(&self, request: PowerRequest) {
        self.post(Letter::Power(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_out_in_order_and_a_flood_is_bounded() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.request(PowerRequest::Reset);
        mailbox.request(PowerRequest::Reset);
        mailbox.post(Letter::TripleFault);
        assert_eq!(mailbox.take(), Some(Letter::Power(PowerRequest::Reset)));
        assert_eq!(mailbox.take(), Some(Letter::TripleFault));
        assert_eq!(mailbox.take(), None);
        for status in 0..10_000 {
            mailbox.request(PowerRequest::DebugExit(status));
        }
        let count = std::iter::from_fn(|| mailbox.take()).count();
        assert_eq!(count, GUESTS_MAX);
        for status in 0..10_000 {
            mailbox.request(PowerRequest::DebugExit(status));
        }
        mailbox.post(Letter::Quiet(1));
        assert_eq!(std::iter::from_fn(|| mailbox.take()).last(), Some(Letter::Quiet(1)));
    }
}
