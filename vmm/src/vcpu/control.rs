//! What all CPUs are to do, and who has obeyed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use spindle_boot::Entry;

use super::{
    exits::{ExitCounts, ExitTotals},
    kick::Kick,
};
use crate::kvm::KvmError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Run,
    Pause,
    Stop,
}

struct State {
    mode: Mode,
    parked: usize,
    /// What CPUs are to be restarted with, and which have not been yet.
    entry: Option<Arc<Entry>>,
    to_restart: Vec<bool>,
    failure: Option<KvmError>,
}

/// One CPU's place.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) kick: Kick,
    pub(super) exits: ExitCounts,
}

/// Shared by the handle and all threads.
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    pub(super) seats: Vec<Seat>,
}

/// What a parked thread is to do.
pub(super) enum Order {
    /// Enter the guest.
    Run,
    /// Reset the CPU and answer with [`Control::restarted`].
    Restart(Arc<Entry>),
    /// End.
    Stop,
}

impl Control {
    pub(super) fn new(cpus: usize) -> Arc<Self> {
        let state = State {
            mode: Mode::Pause,
            parked: 0,
            entry: None,
            to_restart: vec![false; cpus],
            failure: None,
        };
        let seats: Vec<Seat> = (0..cpus).map(|_| Seat::default()).collect();
        for seat in &seats {
            seat.kick.ring();
        }
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), seats })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pause(&self) {
        let mut state = self.lock();
        if state.mode == Mode::Stop {
            return;
        }
        state.mode = Mode::Pause;
        for seat in &self.seats {
            seat.kick.ring();
        }
        while state.parked < self.seats.len() {
            state = self.wait(state);
        }
    }

    pub(super) fn resume(&self) {
        let mut state = self.lock();
        if state.mode == Mode::Pause {
            state.mode = Mode::Run;
        }
        self.changed.notify_all();
    }

    pub(super) fn restart(&self, entry: &Entry) -> Result<(), KvmError> {
        let mut state = self.lock();
        state.entry = Some(Arc::new(entry.clone()));
        state.to_restart.fill(true);
        self.changed.notify_all();
        while state.to_restart.contains(&true) && state.mode != Mode::Stop {
            state = self.wait(state);
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    pub(super) fn stop(&self) {
        self.lock().mode = Mode::Stop;
        for seat in &self.seats {
            seat.kick.ring();
        }
        self.changed.notify_all();
    }

    /// CPU `index` is out of the guest. Waits for what it is to do next; a CPU that is `stuck` can
    /// only be restarted or stopped.
    pub(super) fn park(&self, index: usize, stuck: bool) -> Order {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        loop {
            let order = match state.mode {
                Mode::Stop => Some(Order::Stop),
                _ if state.to_restart[index] => state.entry.clone().map(Order::Restart),
                Mode::Run if !stuck => Some(Order::Run),
                _ => None,
            };
            if let Some(order) = order {
                state.parked -= 1;
                // Under the lock, or a pause that comes now would be forgotten.
                if matches!(order, Order::Run) {
                    self.seats[index].kick.clear();
                }
                return order;
            }
            state = self.wait(state);
        }
    }

    /// The answer to [`Order::Restart`].
    pub(super) fn restarted(&self, index: usize, result: Result<(), KvmError>) {
        let mut state = self.lock();
        state.to_restart[index] = false;
        if let Err(e) = result {
            state.failure.get_or_insert(e);
        }
        self.changed.notify_all();
    }

    pub(super) fn exits(&self) -> ExitTotals {
        let mut totals = ExitTotals::default();
        for seat in &self.seats {
            seat.exits.add_to(&mut totals);
        }
        totals
    }
}
