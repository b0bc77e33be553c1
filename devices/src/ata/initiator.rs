//! A drive's place among the initiators of the unit behind its packet interface: what other threads
//! ask of the controller's queue half.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use vmm_sys_util::eventfd::EventFd;

use crate::{
    device::Countdown,
    scsi::{Ended, Initiator, Nexus},
};

/// What waits until no packet is in flight.
#[derive(Default)]
pub struct Asked {
    /// The packet that is under way goes no further than it must.
    pub end: bool,
    /// Those who wait. The medium is looked up again ([`Drive::look_again`](super::Drive)) before
    /// they are let go.
    pub waiting: Vec<Countdown>,
}

/// See the module. The queue half looks at [`PacketPort::has_news`] in every pass, and when it is
/// paused; it is woken by an eventfd.
pub struct PacketPort {
    asked: Mutex<Asked>,
    news: AtomicBool,
    wake: Arc<EventFd>,
}

impl PacketPort {
    /// A port of a queue half that this wakes.
    #[must_use]
    pub fn new(wake: &Arc<EventFd>) -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::default(),
            news: AtomicBool::new(false),
            wake: Arc::clone(wake),
        })
    }

    /// Whether somebody asked since the last [`PacketPort::take`].
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.news.load(SeqCst)
    }

    /// What was asked.
    #[must_use]
    pub fn take(&self) -> Asked {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.news.store(false, SeqCst);
        std::mem::take(&mut *asked)
    }

    fn ask(&self, end: bool, token: Countdown) {
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.end |= end;
            asked.waiting.push(token);
            self.news.store(true, SeqCst);
        }
        // It can only fail by overflow; then it is readable, which is all that is wanted.
        drop(self.wake.write(1));
    }
}

impl Initiator for PacketPort {
    fn end_all(&self, _nexus: Nexus, _why: Ended, token: Countdown) {
        self.ask(true, token);
    }

    /// There is no asynchronous notification: hosts poll (MMC-6, 6.7).
    fn changed(&self, _nexus: Nexus, _code: u16) {}

    /// Nothing writes to a CD/DVD drive.
    fn barrier(&self, _nexus: Nexus, token: Countdown) {
        drop(token);
    }

    /// A drive has one command at a time: none was begun before.
    fn settle(&self, _nexus: Nexus, token: Countdown) {
        drop(token);
    }

    fn overwritten(&self, _nexus: Nexus) {}

    fn refresh(&self, _nexus: Nexus, token: Countdown) {
        self.ask(false, token);
    }
}
