//! The common configuration: what a driver writes, and what has to be done about it.

use super::{
    VirtioDevice,
    link::{Link, Shared},
    ring::RingSetup,
    spec::{COMMON, Common, NO_VECTOR, feature, status},
};
use crate::{
    Access,
    device::Done,
    register::{Part, parts},
};
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

/// The registers of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueRegs {
    pub size_max: u16,
    size: u16,
    enabled: bool,
    /// A queue half was made, or is about to be.
    pub started: bool,
    /// A queue reset is going on.
    pub resetting: bool,
    desc: u64,
    driver: u64,
    device: u64,
}

impl QueueRegs {
    pub fn new(size_max: u16) -> Self {
        Self {
            size_max,
            size: size_max,
            enabled: false,
            started: false,
            resetting: false,
            desc: 0,
            driver: 0,
            device: 0,
        }
    }

    pub fn reset(&mut self) {
        *self = Self::new(self.size_max);
    }
}

/// A queue to be started, outside the lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub queue: u16,
    pub epoch: u64,
    pub setup: RingSetup,
    pub features: u64,
}

/// What a write asks for beyond changing registers.
#[derive(Debug)]
pub(super) enum Action {
    Reset,
    DriverOk { features: u64 },
    Start(Start),
    ResetQueue { queue: u16 },
}

/// Everything the register half keeps under its lock.
pub(super) struct Regs {
    device_select: u32,
    driver_select: u32,
    pub features: u64,
    queue_select: u16,
    pub queues: Vec<QueueRegs>,
    pub resetting: bool,
    pub waiters: Vec<Done>,
}

/// What the registers refer to.
pub(super) struct View<'a> {
    pub shared: &'a Shared,
    pub links: &'a [Arc<Link>],
    pub device: &'a dyn VirtioDevice,
    pub vectors: u16,
}

impl View<'_> {
    fn offered(&self) -> u64 {
        self.device.features() | self.device.ring_features() | feature::VERSION_1
    }

    fn set_vector(&self, register: &AtomicU16, value: u16) {
        // A vector that does not exist reads back as none: that is how the driver learns.
        register.store(if value < self.vectors { value } else { NO_VECTOR }, SeqCst);
    }
}

/// The half of a 64-bit feature mask that `select` names.
fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

impl Regs {
    pub fn new(sizes: impl Iterator<Item = u16>) -> Self {
        Self {
            device_select: 0,
            driver_select: 0,
            features: 0,
            queue_select: 0,
            queues: sizes.map(QueueRegs::new).collect(),
            resetting: false,
            waiters: Vec::new(),
        }
    }

    pub fn reset(&mut self) {
        self.device_select = 0;
        self.driver_select = 0;
        self.features = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueRegs::reset);
        self.resetting = false;
    }

    fn queue(&self) -> Option<&QueueRegs> {
        self.queues.get(usize::from(self.queue_select))
    }

    pub fn read(&self, view: &View<'_>, access: Access) -> u64 {
        parts(COMMON, access)
            .fold(0, |value, part| value | part.extract(self.load(view, part.register.name)))
    }

    fn load(&self, view: &View<'_>, name: Common) -> u64 {
        let queue = self.queue();
        let of_queue = |f: fn(&QueueRegs) -> u64| queue.map_or(0, f);
        let link = view.links.get(usize::from(self.queue_select));
        match name {
            Common::DeviceFeatureSelect => self.device_select.into(),
            Common::DeviceFeature => half(view.offered(), self.device_select),
            Common::DriverFeatureSelect => self.driver_select.into(),
            Common::DriverFeature => half(self.features, self.driver_select),
            Common::ConfigVector => view.shared.config_vector().load(SeqCst).into(),
            Common::NumQueues => self.queues.len() as u64,
            Common::DeviceStatus => view.shared.status().into(),
            Common::ConfigGeneration => view.shared.generation().into(),
            Common::QueueSelect => self.queue_select.into(),
            Common::QueueSize => of_queue(|q| q.size.into()),
            Common::QueueVector => link.map_or(NO_VECTOR, |link| link.vector().load(SeqCst)).into(),
            Common::QueueEnable => of_queue(|q| q.enabled.into()),
            // One notification address a queue (4.1.4.4).
            Common::QueueNotifyOff if queue.is_some() => self.queue_select.into(),
            Common::QueueNotifyOff => 0,
            Common::QueueDesc => of_queue(|q| q.desc),
            Common::QueueDriver => of_queue(|q| q.driver),
            Common::QueueDevice => of_queue(|q| q.device),
            Common::QueueNotifyData => 0,
            Common::QueueReset => of_queue(|q| q.resetting.into()),
        }
    }

    pub fn write(&mut self, view: &View<'_>, access: Access, value: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for part in parts(COMMON, access) {
            self.store(view, &part, part.insert(value), &mut actions);
        }
        actions
    }

    fn store(
        &mut self,
        view: &View<'_>,
        part: &Part<'_, Common>,
        value: u64,
        actions: &mut Vec<Action>,
    ) {
        let name = part.register.name;
        if self.resetting {
            return;
        }
        let value = part.register.merge(self.load(view, name), value, part.mask);
        match name {
            Common::DeviceFeatureSelect => self.device_select = value as u32,
            Common::DriverFeatureSelect => self.driver_select = value as u32,
            Common::DriverFeature => self.set_features(view, value),
            Common::ConfigVector => view.set_vector(view.shared.config_vector(), value as u16),
            Common::DeviceStatus => self.set_status(view, value as u8, actions),
            Common::QueueSelect => self.queue_select = value as u16,
            Common::QueueVector => {
                if let Some(link) = view.links.get(usize::from(self.queue_select)) {
                    view.set_vector(link.vector(), value as u16);
                }
            }
            Common::QueueEnable if value == 1 => self.enable(view, actions),
            Common::QueueReset if value == 1 => self.reset_queue(view, actions),
            Common::QueueSize | Common::QueueDesc | Common::QueueDriver | Common::QueueDevice => {
                self.set_ring(name, value);
            }
            Common::QueueEnable
            | Common::QueueReset
            | Common::DeviceFeature
            | Common::NumQueues
            | Common::ConfigGeneration
            | Common::QueueNotifyOff
            | Common::QueueNotifyData => {}
        }
    }

    /// Features are fixed once FEATURES_OK is set (2.2).
    fn set_features(&mut self, view: &View<'_>, value: u64) {
        if view.shared.status() & status::FEATURES_OK != 0 {
            return;
        }
        self.features = match self.driver_select {
            0 => (self.features & !0xffff_ffff) | value,
            1 => (self.features & 0xffff_ffff) | value << 32,
            _ => return,
        };
    }

    fn set_status(&mut self, view: &View<'_>, value: u8, actions: &mut Vec<Action>) {
        if value == 0 {
            actions.push(Action::Reset);
            return;
        }
        let old = view.shared.status();
        // Bits only ever come on, but for a reset (2.1.1).
        let mut new = (value & status::DRIVER_BITS) & !old;
        if new & status::FEATURES_OK != 0 && !self.acceptable(view) {
            new &= !status::FEATURES_OK;
        }
        if (old | new) & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        view.shared.add_status(new);
        if new & status::DRIVER_OK != 0 {
            actions.push(Action::DriverOk { features: self.features });
            for queue in 0..self.queues.len() {
                self.start(view, queue, actions);
            }
        }
    }

    fn acceptable(&self, view: &View<'_>) -> bool {
        self.features & !view.offered() == 0
            && self.features & feature::VERSION_1 != 0
            && view.device.accepts(self.features)
    }

    /// Where a queue lies is fixed while it is enabled (4.1.4.3.2).
    fn set_ring(&mut self, name: Common, value: u64) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if queue.enabled {
            return;
        }
        match name {
            Common::QueueSize => {
                let size = value as u16;
                if size.is_power_of_two() && size <= queue.size_max {
                    queue.size = size;
                }
            }
            Common::QueueDesc => queue.desc = value,
            Common::QueueDriver => queue.driver = value,
            Common::QueueDevice => queue.device = value,
            _ => {}
        }
    }

    fn enable(&mut self, view: &View<'_>, actions: &mut Vec<Action>) {
        let index = usize::from(self.queue_select);
        let Some(queue) = self.queues.get_mut(index) else { return };
        if queue.resetting {
            return;
        }
        queue.enabled = true;
        if view.shared.status() & status::DRIVER_OK != 0 {
            self.start(view, index, actions);
        }
    }

    fn start(&mut self, view: &View<'_>, index: usize, actions: &mut Vec<Action>) {
        let queue = &mut self.queues[index];
        if !queue.enabled || queue.started {
            return;
        }
        queue.started = true;
        let setup = RingSetup {
            size: queue.size,
            desc: queue.desc,
            avail: queue.driver,
            used: queue.device,
            event_idx: self.features & feature::RING_EVENT_IDX != 0,
        };
        actions.push(Action::Start(Start {
            queue: index as u16,
            epoch: view.links[index].place().epoch(),
            setup,
            features: self.features,
        }));
    }

    fn reset_queue(&mut self, view: &View<'_>, actions: &mut Vec<Action>) {
        let index = usize::from(self.queue_select);
        let Some(queue) = self.queues.get_mut(index) else { return };
        if self.features & feature::RING_RESET == 0 || queue.resetting {
            return;
        }
        queue.resetting = true;
        view.links[index].place().retire();
        actions.push(Action::ResetQueue { queue: index as u16 });
    }
}
