//! Interrupts that are only counted.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use super::log::{Event, Log};
use crate::{LineIrq, MsiIrq, MsiMessage, MsiSource};

/// Message-signalled interrupts of a test machine, in the order they arrived.
#[derive(Default)]
pub struct Irqs {
    arrived: Mutex<Vec<MsiMessage>>,
    /// Raised while no message was configured: a fault of the device.
    stray: AtomicU64,
    log: Mutex<Option<Arc<Log>>>,
}

impl Irqs {
    /// An interrupt controller at which nothing has arrived.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The messages since the last call.
    pub fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes arrivals in `log` too.
    pub fn log_to(&self, log: Arc<Log>) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }

    /// Vectors that were raised without a message.
    #[must_use]
    pub fn stray(&self) -> u64 {
        self.stray.load(SeqCst)
    }
}

struct Vector {
    irqs: Arc<Irqs>,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiIrq for Vector {
    fn raise(&self) {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Some(message) => {
                let mut arrived = self.irqs.arrived.lock().unwrap_or_else(PoisonError::into_inner);
                arrived.push(message);
                let log = self.irqs.log.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(log) = &*log {
                    log.push(Event::Interrupt { data: message.data });
                }
            }
            None => {
                self.irqs.stray.fetch_add(1, SeqCst);
            }
        }
    }

    fn configure(&self, message: Option<MsiMessage>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }
}

/// Where a test machine's devices get vectors from.
pub(super) struct Source(pub Arc<Irqs>);

impl MsiSource for Source {
    fn vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiIrq>>> {
        let vector = |_| {
            let irqs = Arc::clone(&self.0);
            Arc::new(Vector { irqs, message: Mutex::default() }) as Arc<dyn MsiIrq>
        };
        Ok((0..count).map(vector).collect())
    }
}

/// An interrupt wire that somebody looks at.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    level: Arc<AtomicBool>,
    edges: Arc<AtomicU64>,
}

impl Wire {
    /// Whether it is asserted.
    #[must_use]
    pub fn level(&self) -> bool {
        self.level.load(SeqCst)
    }

    /// How often it became asserted.
    #[must_use]
    pub fn edges(&self) -> u64 {
        self.edges.load(SeqCst)
    }
}

impl LineIrq for Wire {
    fn set(&self, level: bool) {
        if !self.level.swap(level, SeqCst) && level {
            self.edges.fetch_add(1, SeqCst);
        }
    }
}
