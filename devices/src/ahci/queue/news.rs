//! What the register half asks for beside commands: stops, resets, exchanges; and the FISes that
//! follow from them.

use super::{PortQueue, clears_busy};
use crate::{
    ahci::{
        fis,
        port::tfd,
        slot::State,
        spec::{is, serr},
    },
    policy::Failures,
};

impl PortQueue {
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.port.has_news() || self.packet_news()
    }

    fn packet_news(&self) -> bool {
        self.targets.iter().any(|target| {
            let packet = target.plugged.as_ref().and_then(|plugged| plugged.packet.as_ref());
            packet.is_some_and(|packet| packet.has_news())
        })
    }

    /// Reads and follows what was asked. It touches no guest memory: it may be called while paused.
    #[inline]
    pub(super) fn read_news(&mut self) {
        if !self.has_news() {
            return;
        }
        self.read_asks();
        self.read_packet_asks();
        self.look_for_quiet();
    }

    fn read_asks(&mut self) {
        if !self.port.has_news() {
            return;
        }
        let (asks, stopping) = self.port.take_asks();
        if asks.receive {
            self.area = self.port.follow_receive();
        }
        self.waiting.extend(asks.waiting);
        if let Some(exchange) = asks.exchange {
            self.exchange = Some(exchange);
        }
        for (unit, new, countdown) in asks.behind {
            self.exchange_behind(unit, new, countdown);
        }
        if let Some(target) = asks.clear_error {
            self.clear_error(target);
        }
        if let Some(kind) = asks.reset {
            self.reset = Some(kind);
        }
        if stopping {
            self.stopping = true;
            self.drop_of(None);
        }
    }

    fn read_packet_asks(&mut self) {
        if !self.packet_news() {
            return;
        }
        for (number, target) in self.targets.iter().enumerate() {
            let packet = target.plugged.as_ref().and_then(|plugged| plugged.packet.as_ref());
            let Some(asked) = packet.filter(|p| p.has_news()).map(|p| p.take()) else { continue };
            if asked.end {
                for slot in self.slots.iter().filter(|s| usize::from(s.target) == number) {
                    if let Some(job) = &slot.job {
                        job.abort();
                    }
                }
            }
            self.medium_waiting.extend(asked.waiting);
        }
    }

    /// Goes on with what waits until nothing is in flight.
    #[inline]
    pub(super) fn look_for_quiet(&mut self) {
        if self.in_flight == 0 {
            self.quiet();
        }
    }

    fn quiet(&mut self) {
        if !self.medium_waiting.is_empty() {
            for plugged in self.targets.iter_mut().filter_map(|t| t.plugged.as_mut()) {
                plugged.drive.look_again();
            }
            self.medium_waiting.clear();
        }
        if self.stopping {
            self.settle();
        } else if let Some(slot) = self.soft_reset.take() {
            self.end_soft_reset(slot);
        }
    }

    /// Nothing is in flight: the stop or reset is over.
    fn settle(&mut self) {
        self.changes = Default::default();
        self.frames = Default::default();
        self.dirty = false;
        self.halted = false;
        self.busy = 0;
        self.owed = Default::default();
        self.completed = 0;
        self.soft_reset = None;
        self.queued = 0;
        for slot in &mut self.slots {
            debug_assert_ne!(slot.state, State::InFlight);
        }
        let reset = self.reset.take();
        if let Some(new) = self.exchange.take() {
            self.exchange_drive(0, new);
        } else if let Some(kind) = reset {
            for plugged in self.targets.iter_mut().filter_map(|t| t.plugged.as_mut()) {
                plugged.drive.reset(kind);
            }
            if let Some(multiplier) = &mut self.multiplier {
                multiplier.reset();
            }
        }
        self.settle_devices();
        let (again, change) = self.port.settle();
        if again {
            // More was asked for meanwhile; it is news.
            return;
        }
        self.stopping = false;
        self.hba.interrupt(&self.port, change);
        self.waiting.clear();
    }

    pub(super) fn exchange_drive(&mut self, at: usize, new: Option<Box<super::Plugged>>) {
        let target = &mut self.targets[at];
        let old = std::mem::replace(&mut target.plugged, new);
        target.failures = target.plugged.as_ref().map(|plugged| {
            let config = plugged.drive.config();
            Failures {
                device: config.id.clone(),
                werror: config.werror,
                rerror: config.rerror,
                events: std::sync::Arc::clone(&self.hba.events),
            }
        });
        if let Some(mut old) = old
            && let Some(unplugged) = old.unplugged.take()
        {
            drop(old);
            unplugged();
        }
    }

    /// Whether the drive's first FIS can be received.
    #[inline]
    pub(super) fn signature_can_go(&self) -> bool {
        let there = self.multiplier.is_some() || self.targets[0].plugged.is_some();
        self.area.is_some() && !self.stopping && there && self.port.is_unsigned()
    }

    /// Receives the drive's first FIS after a reset.
    #[inline]
    pub(super) fn receive_signature(&mut self) {
        if !self.signature_can_go() {
            return;
        }
        let Some(signature) = self.first_signature() else { return };
        self.face(0);
        self.frames.register = Some(fis::device_register(&signature, false));
        self.changes.tfd = Some(tfd(&signature));
        self.dirty = true;
        self.show();
        self.port.sign(&signature);
    }

    /// The control field was written: SRST goes on, then off (SATA 11.4; AHCI 10.4.1).
    pub(super) fn take_control(&mut self, index: u8, srst: bool, flags: u32, target: u8) {
        self.show();
        if self.multiplier.is_some() {
            let free = self.slots[usize::from(index)].state == State::Free;
            if !free || self.signature_of(target).is_none() {
                return self.fatal(is::IFS, serr::PROTOCOL);
            }
        }
        self.face(target);
        self.slots[usize::from(index)].target = target;
        self.drop_of(self.multiplier.is_some().then_some(target));
        self.dirty = true;
        if srst || clears_busy(flags) {
            self.changes.ci |= 1 << index;
            return;
        }
        self.port.set_busy(target);
        self.soft_reset = Some(index);
        self.look_for_quiet();
    }
}
