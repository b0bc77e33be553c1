//! The inputs of an I/O APIC that is only watched.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use spindle_boot::irq::IOAPIC_PINS;
use spindle_devices::LineIrq;

use super::outbox::Outbox;
use crate::accel::InterruptLines;

/// Number of inputs.
pub(super) const INPUTS: usize = IOAPIC_PINS as usize;

#[derive(Clone, Copy, Debug, Default)]
struct Input {
    /// How many sources are up.
    up: u32,
    /// The test holds it up (`set_irq_in`).
    forced: bool,
    /// What the peer was told last.
    told: bool,
}

#[derive(Default)]
struct State {
    inputs: [Input; INPUTS],
    watched: bool,
}

/// All inputs. A change is told to the peer once it watches them.
pub(super) struct Lines {
    state: Mutex<State>,
    outbox: Arc<Outbox>,
}

impl Lines {
    pub(super) fn new(outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), outbox })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the peer of every change from now on.
    pub(super) fn watch(&self) {
        self.lock().watched = true;
    }

    /// Holds input `index` up, or does so no more. `false`: there is no such input.
    pub(super) fn force(&self, index: usize, level: bool) -> bool {
        if index >= INPUTS {
            return false;
        }
        self.change(index, |input| input.forced = level);
        true
    }

    /// Changes an input, and tells of what comes of it before another change can.
    fn change(&self, index: usize, f: impl FnOnce(&mut Input)) {
        let mut state = self.lock();
        let watched = state.watched;
        let Some(input) = state.inputs.get_mut(index) else { return };
        f(input);
        let level = input.up > 0 || input.forced;
        if watched && input.told != level {
            input.told = level;
            let verb = if level { "raise" } else { "lower" };
            self.outbox.tell(&format!("IRQ {verb} {index}\n"));
        }
    }
}

impl InterruptLines for Arc<Lines> {
    fn source(&self, gsi: u32) -> io::Result<Box<dyn LineIrq>> {
        let index = gsi as usize;
        if index >= INPUTS {
            return Err(io::Error::other(format!("there is no interrupt input {gsi}")));
        }
        Ok(Box::new(Source { lines: Arc::clone(self), index, level: Mutex::new(false) }))
    }

    fn isa(&self, irq: u8) -> io::Result<Box<dyn LineIrq>> {
        self.source(irq.into())
    }
}

struct Source {
    lines: Arc<Lines>,
    index: usize,
    level: Mutex<bool>,
}

impl LineIrq for Source {
    fn set(&self, level: bool) {
        let mut mine = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *mine, level);
        self.lines.change(self.index, |input| match (before, level) {
            (false, true) => input.up += 1,
            (true, false) => input.up -= 1,
            _ => {}
        });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.set(false);
    }
}
