//! Command completion coalescing (AHCI 11): one interrupt for several commands of several ports.
//!
//! An interrupt comes after so many completions, or so many milliseconds after the first one that was
//! not told of. It has a bit of IS for itself, behind those of the ports.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use spindle_block::{Cx, iothread::Handle};

use super::{hba::Hba, spec::ccc};

/// What is behind the lock.
#[derive(Default)]
struct State {
    control: u32,
    /// Completions that were not told of.
    completed: u32,
    /// The timer runs; it is about this interval.
    armed: bool,
    interval: u64,
}

/// See the module.
pub(super) struct Coalescing {
    state: Mutex<State>,
    /// CCC_PORTS.
    ports: AtomicU32,
    /// The same while it is enabled; else 0: asked without a lock.
    watched: AtomicU32,
    /// Where its timer runs.
    iothread: Handle,
}

/// What a completion makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    Nothing,
    Interrupt,
    /// A timer has to run, for this interval and so long.
    Timer(u64, Duration),
}

impl Coalescing {
    pub fn new(iothread: Handle) -> Self {
        let state = State { control: ccc::RESET, ..State::default() };
        let (ports, watched) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { state: Mutex::new(state), ports, watched, iothread }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CCC_CTL without INT.
    pub fn control(&self) -> u32 {
        self.lock().control
    }

    pub fn ports(&self) -> u32 {
        self.ports.load(SeqCst)
    }

    /// CCC_CTL is written. Its other fields stay as they are while it is enabled (AHCI 3.1.6).
    pub fn set_control(&self, new: u32) {
        let mut state = self.lock();
        let was = state.control & ccc::ENABLE != 0;
        if was {
            state.control = state.control & !ccc::ENABLE | new & ccc::ENABLE;
        } else {
            state.control = new & (ccc::ENABLE | ccc::COUNT | ccc::TIME);
        }
        state.restart();
        self.watch(&state);
    }

    /// CCC_PORTS is written.
    pub fn set_ports(&self, new: u32) {
        let state = self.lock();
        self.ports.store(new, SeqCst);
        self.watch(&state);
    }

    fn watch(&self, state: &State) {
        let on = state.control & ccc::ENABLE != 0;
        self.watched.store(if on { self.ports() } else { 0 }, SeqCst);
    }

    /// As after a reset.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.control = ccc::RESET;
        state.restart();
        self.ports.store(0, SeqCst);
        self.watch(&state);
    }

    fn note(&self, completed: u32) -> Noted {
        let mut state = self.lock();
        if state.control & ccc::ENABLE == 0 {
            return Noted::Nothing;
        }
        state.completed = state.completed.saturating_add(completed);
        let count = (state.control & ccc::COUNT) >> ccc::COUNT_SHIFT;
        // 0: only the time counts (AHCI 3.1.6).
        if count > 0 && state.completed >= count {
            state.restart();
            return Noted::Interrupt;
        }
        if state.armed {
            return Noted::Nothing;
        }
        state.armed = true;
        let time = u64::from(state.control >> ccc::TIME_SHIFT);
        Noted::Timer(state.interval, Duration::from_millis(time))
    }

    /// A timer has ended: whether there is something to tell.
    fn expired(&self, interval: u64) -> bool {
        let mut state = self.lock();
        let tells = state.interval == interval && state.completed > 0;
        if tells {
            state.restart();
        }
        tells
    }
}

impl State {
    /// A new interval begins.
    fn restart(&mut self) {
        self.completed = 0;
        self.armed = false;
        self.interval += 1;
    }
}

impl Hba {
    /// Commands of a port have completed.
    #[inline]
    pub fn completed(self: &Arc<Self>, port: u8, commands: u32) {
        if self.coalescing.watched.load(SeqCst) & 1 << port != 0 && commands > 0 {
            self.coalesce(commands);
        }
    }

    #[cold]
    fn coalesce(self: &Arc<Self>, commands: u32) {
        match self.coalescing.note(commands) {
            Noted::Nothing => {}
            Noted::Interrupt => self.interrupt_coalesced(),
            Noted::Timer(interval, time) => {
                let hba = Arc::downgrade(self);
                self.coalescing.iothread.post(move |cx| {
                    let sleeper = Cx::clone(cx);
                    cx.spawn(async move {
                        sleeper.sleep(time).await;
                        if let Some(hba) = hba.upgrade()
                            && hba.coalescing.expired(interval)
                        {
                            hba.interrupt_coalesced();
                        }
                    });
                });
            }
        }
    }
}
