//! The queue half of the event queue: the driver's empty buffers are filled as things happen
//! (virtio 1.2, 5.6.6.3).

use std::{
    os::fd::RawFd,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use spindle_block::{
    BlockError, IoBuf,
    iothread::{Port, Progress, Queue},
};
use zerocopy::IntoBytes;

use super::{
    hba::Hba,
    spec::{EVENT_LEN, Event, event},
};
use crate::virtio::{
    QueueEnv,
    ring::{Ring, RingError},
};

/// See the module.
pub(super) struct EventQueue {
    env: QueueEnv,
    hba: Arc<Hba>,
    epoch: u64,
    ring: Ring,
    buffer: IoBuf,
    dead: bool,
}

impl EventQueue {
    pub fn new(env: QueueEnv, hba: &Arc<Hba>) -> Result<Self, RingError> {
        let ring = Ring::new(&env.dma, &env.setup)?;
        let mut buffer = IoBuf::with_capacity(1);
        buffer.set_keep(env.dma.keep());
        let epoch = hba.events.open(env.bell().event());
        Ok(Self { env, hba: Arc::clone(hba), epoch, ring, buffer, dead: false })
    }

    fn has_events(&self) -> bool {
        self.hba.events.has_items() || self.hba.missed.load(SeqCst) != 0
    }

    /// Fills one buffer. `false`: there is none.
    fn fill(&mut self) -> Result<bool, RingError> {
        let Some(mut chain) = self.ring.pop()? else { return Ok(false) };
        self.buffer.clear();
        while let Some(buffer) = chain.next_buffer()? {
            if !buffer.writable {
                return Err(RingError::Chain);
            }
            let len = u64::from(buffer.len).min(EVENT_LEN as u64 - self.buffer.len());
            self.env
                .dma
                .push(&mut self.buffer, buffer.address, len)
                .map_err(|_| RingError::Incomplete)?;
        }
        if self.buffer.len() < EVENT_LEN as u64 {
            return Err(RingError::Incomplete);
        }
        let head = chain.head();
        let nothing = Event { event: event::NO_EVENT.into(), ..Event::default() };
        let mut happened = self.hba.events.take_one().unwrap_or(nothing);
        if self.hba.missed.swap(0, SeqCst) != 0 {
            happened.event = (happened.event.get() | event::EVENTS_MISSED).into();
        }
        self.buffer.write_at(0, happened.as_bytes());
        self.env.dma.wrote(&self.buffer);
        self.ring.push_used(head, EVENT_LEN as u32);
        Ok(true)
    }
}

impl Queue for EventQueue {
    fn service(&mut self, _port: &mut Port<'_>, budget: u32) -> Progress {
        for _ in 0..budget {
            if !self.has_events() {
                return Progress::Idle;
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return Progress::Idle,
                Err(why) => {
                    self.dead = true;
                    self.env.needs_reset(why);
                    return Progress::Dead;
                }
            }
        }
        Progress::More
    }

    fn complete(&mut self, _: &mut Port<'_>, _: u32, _: IoBuf, _: Result<(), BlockError>) {
        debug_assert!(false, "nothing is submitted here");
    }

    fn flush_irq(&mut self) {
        if self.ring.publish() {
            self.env.interrupt();
        }
    }

    fn pending(&mut self) -> bool {
        !self.dead && self.env.is_bus_master() && self.has_events() && self.ring.pending()
    }

    fn notify(&mut self, on: bool) {
        self.ring.notify(on);
    }

    fn doorbell(&self) -> Option<RawFd> {
        Some(self.env.bell().fd())
    }

    fn drained(&mut self) {}
}

impl Drop for EventQueue {
    fn drop(&mut self) {
        self.hba.events.close(self.epoch);
    }
}
