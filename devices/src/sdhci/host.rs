//! What the two halves share.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use spindle_block::Root;

use super::{
    config::SdhciConfig,
    regs::{Effects, Regs},
};
use crate::{Dma, device::Done, doorbell::Bell, pci::Interrupts, policy::ErrorPolicy, sd::Card};

/// What is told to the queue half, beside commands.
pub(super) enum Mail {
    /// A card for the slot.
    Insert(Box<Card>, Arc<Root>, Option<(ErrorPolicy, ErrorPolicy)>),
    /// The card goes: called once nothing of it is in flight.
    Remove(Done),
    /// As after power-on: called once nothing of the time before can touch guest memory.
    Reset(Done),
}

/// See the module.
pub(super) struct Host {
    pub id: String,
    pub dma: Dma,
    pub bell: Bell,
    pub interrupts: Arc<Interrupts>,
    /// Behind the one small lock; nothing waits under it.
    regs: Mutex<Regs>,
    mail: Mutex<Vec<Mail>>,
    /// There is something in the inbox, or mail.
    work: AtomicBool,
    has_mail: AtomicBool,
}

impl Host {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(
        config: &SdhciConfig,
        dma: Dma,
        interrupts: Arc<Interrupts>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id: config.id.clone(),
            dma,
            bell: Bell::new()?,
            interrupts,
            regs: Mutex::new(Regs::new(config)),
            mail: Mutex::default(),
            work: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
        }))
    }

    pub fn regs(&self) -> MutexGuard<'_, Regs> {
        // Nothing panics half-way through a change.
        self.regs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the queue half.
    pub fn ring(&self) {
        self.work.store(true, Release);
        self.bell.ring();
    }

    /// Whether there is something to do; asked without a lock.
    pub fn has_work(&self) -> bool {
        self.work.load(Acquire)
    }

    /// Whether there was something to do; from now on it is looked at.
    pub fn take_work(&self) -> bool {
        self.work.swap(false, AcqRel)
    }

    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Acquire)
    }

    pub fn post(&self, mail: Mail) {
        {
            let mut all = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(mail);
            self.has_mail.store(true, Release);
        }
        self.ring();
    }

    pub fn take_mail(&self) -> Vec<Mail> {
        let mut all = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_mail.store(false, Release);
        std::mem::take(&mut *all)
    }

    /// Applies the interrupt output: the level of the wire; and a message, where something that is
    /// signalled may be new.
    pub fn update_interrupt(&self, message: bool) {
        if message && self.interrupts.msi_vectors() > 0 && self.regs().output() {
            self.interrupts.raise_msi(0);
        }
        self.interrupts.update_wire(|| self.regs().output());
    }

    /// Does what an access asks for.
    pub fn follow(&self, effects: Effects) {
        if effects.interrupt {
            self.update_interrupt(effects.message);
        }
        if effects.bell {
            self.ring();
        }
    }
}
