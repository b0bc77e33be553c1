//! What all queues of an adapter share: the units behind it, and ways to tell each other things.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use super::{
    inbox::Inbox,
    lun::{event_lun, reported_lun},
    regs::ConfigSpace,
    spec::{Event, event, feature, notification, response},
};
use crate::{
    device::Countdown,
    policy::BlockEvents,
    scsi::{Ended, Initiator, LogicalUnit, LunSelect, Nexus, UnitKind, spec::asc},
};

/// Which requests a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    pub target: u8,
    /// `None`: all units of the target.
    pub lun: Option<u16>,
    /// `None`: all requests.
    pub tag: Option<u64>,
}

impl Selector {
    pub fn matches(&self, target: u8, lun: u16, tag: u64) -> bool {
        self.target == target
            && self.lun.is_none_or(|mine| mine == lun)
            && self.tag.is_none_or(|mine| mine == tag)
    }
}

/// What is to be done about them.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// They end with this response.
    End(u8),
    /// They are counted.
    Count(Arc<AtomicU32>),
    /// Their unit is gone: they end as they may, and what is parked ends now. A unit that came to its
    /// place since is not meant.
    Forget,
    /// Their unit has another medium.
    Refresh,
    /// Those that write are waited for.
    Barrier,
    /// Those that have begun are waited for.
    Settle,
    /// Those that wait for the medium to be overwritten look again.
    Wake,
}

/// A message for a request queue.
pub(super) struct Mail {
    pub selector: Selector,
    pub action: Action,
    /// Let go of once it is done.
    pub token: Option<Countdown>,
    /// Whoever waits is in flight itself, or a device that leaves, and must not wait for a queue that
    /// is paused.
    pub urgent: bool,
}

/// A message for the control queue: a function is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct FunctionDone {
    pub slot: u16,
    pub response: u8,
}

/// Most events that wait for buffers.
const EVENTS_MAX: usize = 64;

/// A unit at an address.
pub(super) struct Seat {
    pub target: u8,
    pub lun: u16,
    pub unit: Arc<LogicalUnit>,
    pub nexus: Nexus,
    /// Asynchronous notifications that the driver wants.
    pub subscribed: AtomicU32,
    _port: Arc<Port>,
}

impl Seat {
    pub fn selector(&self) -> Selector {
        Selector { target: self.target, lun: Some(self.lun), tag: None }
    }

    /// Asynchronous notifications that there are.
    pub fn notifications(&self) -> u32 {
        match self.unit.config().kind {
            UnitKind::Disk => 0,
            UnitKind::Cd => notification::MEDIA_CHANGE,
        }
    }
}

/// The initiator port, as one unit sees it.
struct Port {
    hba: Weak<Hba>,
    target: u8,
    lun: u16,
}

/// A unit cannot be there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LunError {
    /// There is a unit already.
    #[error("device '{hba}' has a unit at target {target}, lun {lun} already: '{unit}'")]
    InUse {
        /// The adapter's id.
        hba: String,
        /// The target.
        target: u8,
        /// The unit's number.
        lun: u16,
        /// The id of the unit that is there.
        unit: String,
    },
    /// The number is too large.
    #[error("device '{hba}': lun {lun} is not below {max}")]
    TooLarge {
        /// The adapter's id.
        hba: String,
        /// The unit's number.
        lun: u16,
        /// Numbers are below this.
        max: u32,
    },
    /// There is no unit.
    #[error("device '{hba}' has no unit at target {target}, lun {lun}")]
    NotThere {
        /// The adapter's id.
        hba: String,
        /// The target.
        target: u8,
        /// The unit's number.
        lun: u16,
    },
}

pub(super) type Seats = BTreeMap<(u8, u16), Arc<Seat>>;

/// See the module.
pub(super) struct Hba {
    pub id: String,
    pub space: ConfigSpace,
    pub block_events: Arc<dyn BlockEvents>,
    /// Features that the driver accepted, once it is ready.
    features: AtomicU64,
    seats: RwLock<Seats>,
    /// Moves with every change of `seats`.
    generation: AtomicU64,
    pub requests: Vec<Inbox<Mail>>,
    pub control: Inbox<FunctionDone>,
    pub events: Inbox<Event>,
    /// Events were lost.
    pub missed: AtomicU32,
}

impl Hba {
    pub fn new(
        id: &str,
        space: ConfigSpace,
        queues: usize,
        block_events: Arc<dyn BlockEvents>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            space,
            block_events,
            features: AtomicU64::new(0),
            seats: RwLock::default(),
            generation: AtomicU64::new(1),
            requests: (0..queues).map(|_| Inbox::default()).collect(),
            control: Inbox::default(),
            events: Inbox::default(),
            missed: AtomicU32::new(0),
        })
    }

    pub fn started(&self, features: u64) {
        self.features.store(features, SeqCst);
    }

    /// The adapter was reset: units see a new initiator.
    pub fn reset(&self) {
        self.features.store(0, SeqCst);
        self.missed.store(0, SeqCst);
        self.space.reset();
        for seat in self.seats().values() {
            seat.subscribed.store(0, SeqCst);
            seat.unit.power_on(seat.nexus);
        }
    }

    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// All units, by address.
    pub fn seats(&self) -> Seats {
        self.seats.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn seat(&self, target: u8, lun: u16) -> Option<Arc<Seat>> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        seats.get(&(target, lun)).cloned()
    }

    /// The units of a target.
    pub fn of_target(&self, target: u8) -> Vec<Arc<Seat>> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        seats.range((target, 0)..=(target, u16::MAX)).map(|(_, seat)| Arc::clone(seat)).collect()
    }

    /// REPORT LUNS of a target.
    pub fn luns(&self, target: u8, select: LunSelect) -> Vec<[u8; 8]> {
        match select {
            // The well known unit belongs to the adapter, not to a target.
            LunSelect::WellKnown => Vec::new(),
            LunSelect::Ordinary | LunSelect::All => {
                self.of_target(target).iter().map(|seat| reported_lun(seat.lun)).collect()
            }
        }
    }

    /// REPORT LUNS of the well known unit: all units of all targets, as requests name them.
    pub fn all_luns(&self) -> Vec<[u8; 8]> {
        self.seats().keys().map(|(target, lun)| event_lun(*target, *lun)).collect()
    }

    pub fn add(
        self: &Arc<Self>,
        target: u8,
        lun: u16,
        unit: Arc<LogicalUnit>,
    ) -> Result<(), LunError> {
        let max = super::spec::LUNS;
        if u32::from(lun) >= max {
            return Err(LunError::TooLarge { hba: self.id.clone(), lun, max });
        }
        let others = self.of_target(target);
        {
            let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(seat) = seats.get(&(target, lun)) {
                let there = seat.unit.config().id.clone();
                return Err(LunError::InUse { hba: self.id.clone(), target, lun, unit: there });
            }
            let port = Arc::new(Port { hba: Arc::downgrade(self), target, lun });
            let weak: Weak<dyn Initiator> = Arc::downgrade(&(Arc::clone(&port) as _));
            let nexus = unit.attach(&format!("{}:{target}:{lun}", self.id), weak);
            let subscribed = AtomicU32::new(0);
            let seat = Seat { target, lun, unit, nexus, subscribed, _port: port };
            seats.insert((target, lun), Arc::new(seat));
            self.generation.fetch_add(1, SeqCst);
        }
        others.iter().for_each(|seat| seat.unit.luns_changed());
        self.tell(feature::HOTPLUG, event::TRANSPORT_RESET, (target, lun), event::RESCAN);
        Ok(())
    }

    /// Takes a unit away; `token` is let go of once nothing of it is in flight.
    pub fn remove(&self, target: u8, lun: u16, token: &Countdown) -> Result<(), LunError> {
        let removed = {
            let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
            let removed = seats.remove(&(target, lun));
            self.generation.fetch_add(1, SeqCst);
            removed
        };
        let id = || self.id.clone();
        let seat = removed.ok_or_else(|| LunError::NotThere { hba: id(), target, lun })?;
        self.tell(feature::HOTPLUG, event::TRANSPORT_RESET, (target, lun), event::REMOVED);
        self.of_target(target).iter().for_each(|seat| seat.unit.luns_changed());
        // Registrations stay with the unit; the initiator is gone once its requests are.
        let (unit, nexus, outer) = (Arc::clone(&seat.unit), seat.nexus, token.clone());
        let gone = Countdown::new(Box::new(move || {
            unit.detach(nexus);
            drop(outer);
        }));
        // It does not wait for a driver that has the adapter paused or its bus mastering off.
        self.broadcast(seat.selector(), &Action::Forget, &gone, true);
        Ok(())
    }

    /// Tells every request queue.
    pub fn broadcast(&self, selector: Selector, action: &Action, token: &Countdown, urgent: bool) {
        for inbox in &self.requests {
            let (action, token) = (action.clone(), Some(token.clone()));
            inbox.post(None, Mail { selector, action, token, urgent });
        }
    }

    /// Tells the driver of something, if it wants to hear of such things.
    fn tell(&self, feature: u64, event: u32, (target, lun): (u8, u16), reason: u32) {
        if self.features.load(SeqCst) & feature == 0 {
            return;
        }
        if self.events.len() >= EVENTS_MAX {
            self.missed.store(1, SeqCst);
            return;
        }
        let lun = event_lun(target, lun);
        self.events.post(None, Event { event: event.into(), lun, reason: reason.into() });
    }
}

impl Initiator for Port {
    fn end_all(&self, _nexus: Nexus, why: Ended, token: Countdown) {
        let Some(hba) = self.hba.upgrade() else { return };
        let selector = Selector { target: self.target, lun: Some(self.lun), tag: None };
        let (code, urgent) = match why {
            Ended::Aborted => (response::ABORTED, false),
            Ended::Preempted => (response::ABORTED, true),
            Ended::Reset => (response::RESET, false),
        };
        hba.broadcast(selector, &Action::End(code), &token, urgent);
    }

    fn changed(&self, _nexus: Nexus, code: u16) {
        let Some(hba) = self.hba.upgrade() else { return };
        let at = (self.target, self.lun);
        // The additional sense code in the low byte, its qualifier above (5.6.6.3).
        let reason = u32::from(code.swap_bytes());
        hba.tell(feature::CHANGE, event::PARAM_CHANGE, at, reason);
        let wanted = hba.seat(self.target, self.lun).map_or(0, |seat| seat.subscribed.load(SeqCst));
        if code == asc::MEDIUM_CHANGED && wanted & notification::MEDIA_CHANGE != 0 {
            hba.tell(u64::MAX, event::ASYNC_NOTIFY, at, notification::MEDIA_CHANGE);
        }
    }

    fn barrier(&self, _nexus: Nexus, token: Countdown) {
        let Some(hba) = self.hba.upgrade() else { return };
        let selector = Selector { target: self.target, lun: Some(self.lun), tag: None };
        hba.broadcast(selector, &Action::Barrier, &token, true);
    }

    fn settle(&self, _nexus: Nexus, token: Countdown) {
        let Some(hba) = self.hba.upgrade() else { return };
        let selector = Selector { target: self.target, lun: Some(self.lun), tag: None };
        hba.broadcast(selector, &Action::Settle, &token, true);
    }

    fn overwritten(&self, _nexus: Nexus) {
        let Some(hba) = self.hba.upgrade() else { return };
        let selector = Selector { target: self.target, lun: Some(self.lun), tag: None };
        hba.broadcast(selector, &Action::Wake, &Countdown::new(Box::new(|| ())), false);
    }

    fn refresh(&self, _nexus: Nexus, token: Countdown) {
        let Some(hba) = self.hba.upgrade() else { return };
        let selector = Selector { target: self.target, lun: Some(self.lun), tag: None };
        hba.broadcast(selector, &Action::Refresh, &token, false);
    }
}

/// Targets that have units: the others do not answer.
pub(super) fn targets(seats: &Seats) -> BTreeSet<u8> {
    seats.keys().map(|(target, _)| *target).collect()
}
