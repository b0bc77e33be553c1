//! The PCI transport: one BAR with the common, ISR, device and notification structures, and the
//! life of the device behind them (virtio 1.2, 4.1).
//!
//! Resets are asynchronous. A write of 0 to the device status only starts one; the status keeps its
//! old value until every queue half is drained and gone, and reads as 0 only then. So no request of
//! the time before can touch guest memory after the driver saw its reset done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering::SeqCst};

use super::{
    QueueEnv, QueuePlan, VirtioDevice,
    link::{Link, Shared},
    regs::{Action, Regs, Start, View},
    spec::{self, NO_VECTOR, cap},
};
use crate::{
    Access, Dma, Registers,
    device::{Countdown, Done},
    pci::{
        Bar, BarDoorbell, BarKind, BarRegion, Capability, Controller, Endpoint, EndpointError,
        Identity, Interrupts, MsixPlace, Parts, Slot, capability::id,
    },
    register::{Register, RegisterFile, width_mask},
};

/// The BAR, and what lies where in it.
const BAR: u8 = 0;
const BAR_LEN: u64 = 0x1_0000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const PENDING: u64 = 0x6000;
const TABLE: u64 = 0x8000;
const ISR_LEN: u64 = 4;
/// Bytes between the notification addresses of two queues.
const NOTIFY_STEP: u64 = 4;
/// The most queues: their notification addresses fit below `PENDING`.
pub const QUEUES_MAX: usize = ((PENDING - NOTIFY) / NOTIFY_STEP) as usize;

/// The register half of a virtio device.
pub struct VirtioPci {
    me: Weak<Self>,
    shared: Arc<Shared>,
    device: Arc<dyn VirtioDevice>,
    dma: Dma,
    links: Vec<Arc<Link>>,
    vectors: u16,
    regs: Mutex<Regs>,
    /// The capability through which configuration space reaches the BAR (4.1.4.9).
    window: Mutex<RegisterFile>,
}

/// Offsets in the PCI configuration access capability.
const WINDOW_BAR: u64 = 4;
const WINDOW_OFFSET: u64 = 8;
const WINDOW_LENGTH: u64 = 12;
const WINDOW_DATA: u64 = 16;
const WINDOW_END: usize = 20;

const WINDOW: &[Register<&str>] = &[
    Register::read_write("bar", WINDOW_BAR, 1, 0, 0xff),
    Register::read_write("offset", WINDOW_OFFSET, 4, 0, 0xffff_ffff),
    Register::read_write("length", WINDOW_LENGTH, 4, 0, 0xffff_ffff),
];

impl VirtioPci {
    /// Builds a virtio device as a PCI function. `vectors` is how many MSI-X vectors it has, one
    /// for each queue and one for the configuration if not given.
    ///
    /// # Errors
    /// When the machine has no interrupt vectors or descriptors left.
    pub fn build(
        id: &str,
        device: Arc<dyn VirtioDevice>,
        queues: &[QueuePlan],
        vectors: Option<u16>,
        dma: Dma,
        slot: Slot,
    ) -> Result<(Arc<Self>, Arc<Endpoint>), EndpointError> {
        if queues.len() > QUEUES_MAX {
            let id = id.to_owned();
            return Err(EndpointError::TooManyQueues { id, queues: queues.len(), max: QUEUES_MAX });
        }
        let failed =
            |what| move |source| EndpointError::Resources { id: id.to_owned(), what, source };
        let vectors = vectors.unwrap_or((queues.len() + 1).min(2048) as u16);
        let irqs = slot.vectors.vectors(vectors).map_err(failed("interrupt vectors"))?;
        let (pin, line) = slot.wire.map_or((0, None), |(pin, line)| (pin, Some(line)));
        let interrupts = Interrupts::new(irqs, line);
        let shared = Shared::new(id, Arc::clone(&interrupts));
        let links = queues
            .iter()
            .enumerate()
            .map(|(i, plan)| Link::new(i as u16, plan.iothread.clone(), &shared).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("an eventfd for each queue"))?;
        let mut window = RegisterFile::new(WINDOW_END);
        WINDOW.iter().for_each(|register| window.add(register));
        let controller = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            shared,
            device: Arc::clone(&device),
            dma,
            links,
            vectors,
            regs: Mutex::new(Regs::new(queues.iter().map(|plan| plan.size_max))),
            window: Mutex::new(window),
        });
        let parts = Parts {
            id: id.to_owned(),
            identity: identity(&*device),
            bars: vec![Bar {
                index: BAR,
                kind: BarKind::Memory64 { prefetchable: false },
                size: BAR_LEN,
            }],
            capabilities: capabilities(&*device, queues.len()),
            msix: (vectors > 0).then_some(MsixPlace {
                bar: BAR,
                table: TABLE as u32,
                pending: PENDING as u32,
            }),
            pin,
            interrupts,
            controller: Arc::clone(&controller) as Arc<dyn Controller>,
        };
        let endpoint = Endpoint::new(parts, slot.device, slot.sink, slot.multifunction)?;
        Ok((controller, endpoint))
    }

    /// Changes the device's configuration: `change` runs under the lock that a guest's reads of it
    /// take, then the generation moves and the driver is told.
    pub fn change_config(&self, change: impl FnOnce()) {
        {
            let _regs = self.lock();
            change();
            self.shared.next_generation();
        }
        self.shared.interrupt_config();
    }

    fn view(&self) -> View<'_> {
        View {
            shared: &self.shared,
            links: &self.links,
            device: &*self.device,
            vectors: self.vectors,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Regs> {
        self.regs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, action: Action) {
        match action {
            Action::Reset => self.begin_reset(None),
            Action::DriverOk { features } => self.device.started(features),
            Action::Start(start) => self.start(start),
            Action::ResetQueue { queue } => self.begin_queue_reset(queue),
        }
    }

    fn start(&self, start: Start) {
        let link = &self.links[usize::from(start.queue)];
        let env = QueueEnv {
            setup: start.setup,
            features: start.features,
            dma: self.dma.clone(),
            link: Arc::clone(link),
        };
        match self.device.queue(env) {
            Ok(queue) => link.place().attach(start.epoch, queue),
            Err(why) => self.shared.needs_reset(start.queue, why),
        }
    }

    fn begin_reset(&self, waiter: Option<Done>) {
        let started: Vec<_> = {
            let mut regs = self.lock();
            regs.waiters.extend(waiter);
            if regs.resetting {
                return;
            }
            regs.resetting = true;
            self.links.iter().for_each(|link| link.place().retire());
            let both = self.links.iter().zip(&regs.queues);
            both.filter(|(_, queue)| queue.started).map(|(link, _)| Arc::clone(link)).collect()
        };
        let me = Weak::clone(&self.me);
        let countdown = Countdown::new(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.finish_reset();
            }
        }));
        for link in started {
            link.place().detach(countdown.clone());
        }
    }

    fn finish_reset(&self) {
        // No queue half is left that could interrupt.
        self.shared.quiet();
        self.device.reset();
        let waiters = {
            let mut regs = self.lock();
            regs.reset();
            self.links.iter().for_each(|link| link.vector().store(NO_VECTOR, SeqCst));
            self.shared.reset();
            std::mem::take(&mut regs.waiters)
        };
        waiters.into_iter().for_each(|done| done());
    }

    fn begin_queue_reset(&self, queue: u16) {
        let me = Weak::clone(&self.me);
        let countdown = Countdown::new(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.finish_queue_reset(queue);
            }
        }));
        let link = &self.links[usize::from(queue)];
        link.place().detach(countdown);
    }

    fn finish_queue_reset(&self, queue: u16) {
        let mut regs = self.lock();
        let index = usize::from(queue);
        // A reset of the whole device may have been faster.
        if let Some(queue) = regs.queues.get_mut(index).filter(|queue| queue.resetting) {
            queue.reset();
            self.links[index].vector().store(NO_VECTOR, SeqCst);
        }
    }

    /// The structure that an offset in the BAR lies in, and the offset in it.
    fn locate(&self, access: Access) -> Option<(Structure, Access)> {
        let found = |structure, start: u64, len: u64| {
            let offset = access.offset.checked_sub(start).filter(|offset| *offset < len)?;
            Some((structure, Access { offset, ..access }))
        };
        found(Structure::Common, COMMON, spec::COMMON_LEN)
            .or_else(|| found(Structure::Isr, ISR, ISR_LEN))
            .or_else(|| found(Structure::Device, DEVICE, self.device.config_len().into()))
            .or_else(|| found(Structure::Notify, NOTIFY, notify_len(self.links.len())))
    }

    /// The access that the PCI configuration access capability describes.
    fn windowed(&self) -> Option<Access> {
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = window.get(WINDOW_OFFSET, 4);
        let length = window.get(WINDOW_LENGTH, 4);
        let fits = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
        let here = window.get(WINDOW_BAR, 1) == u64::from(BAR);
        (fits && here).then_some(Access { offset, width: length as u8 })
    }
}

#[derive(Clone, Copy, Debug)]
enum Structure {
    Common,
    Isr,
    Device,
    Notify,
}

impl Registers for VirtioPci {
    fn read(&self, access: Access) -> u64 {
        match self.locate(access) {
            Some((Structure::Common, access)) => self.lock().read(&self.view(), access),
            // Whatever is read of it, the whole byte is (4.1.4.5.1).
            Some((Structure::Isr, Access { offset: 0, .. })) => self.shared.take_isr().into(),
            Some((Structure::Device, access)) => {
                let _consistent = self.lock();
                self.device.config_read(access)
            }
            Some((Structure::Isr | Structure::Notify, _)) => 0,
            None => width_mask(access.width),
        }
    }

    fn write(&self, access: Access, value: u64) {
        match self.locate(access) {
            Some((Structure::Common, access)) => {
                let actions = self.lock().write(&self.view(), access, value);
                actions.into_iter().for_each(|action| self.act(action));
            }
            Some((Structure::Device, access)) => {
                let features = self.lock().features;
                self.device.config_write(access, value, features);
            }
            Some((Structure::Notify, access)) => {
                if let Some(link) = self.links.get((access.offset / NOTIFY_STEP) as usize) {
                    link.bell().ring();
                }
            }
            Some((Structure::Isr, _)) | None => {}
        }
    }
}

impl Controller for VirtioPci {
    fn regions(self: Arc<Self>, bar: u8) -> Vec<BarRegion> {
        let region = |offset, len| BarRegion {
            offset,
            len,
            coalesce: false,
            target: Arc::clone(&self) as Arc<dyn Registers>,
            target_offset: offset,
        };
        if bar != BAR {
            return Vec::new();
        }
        let mut regions = vec![
            region(COMMON, spec::COMMON_LEN),
            region(ISR, ISR_LEN),
            region(NOTIFY, notify_len(self.links.len())),
        ];
        if self.device.config_len() > 0 {
            regions.push(region(DEVICE, self.device.config_len().into()));
        }
        regions
    }

    fn doorbells(&self, bar: u8) -> Vec<BarDoorbell> {
        let bell = |(i, link): (usize, &Arc<Link>)| BarDoorbell {
            offset: NOTIFY + i as u64 * NOTIFY_STEP,
            width: 0,
            value: None,
            event: Arc::clone(link.bell().event()),
        };
        if bar == BAR { self.links.iter().enumerate().map(bell).collect() } else { Vec::new() }
    }

    fn capability_read(&self, _capability: usize, access: Access) -> u32 {
        if access.offset >= WINDOW_DATA {
            let value = self.windowed().map_or(u64::MAX, |there| self.read(there));
            return (value >> ((access.offset - WINDOW_DATA) * 8)) as u32;
        }
        self.window.lock().unwrap_or_else(PoisonError::into_inner).read(access) as u32
    }

    fn capability_write(&self, _capability: usize, access: Access, value: u32) {
        if access.offset == WINDOW_DATA {
            if let Some(there) = self.windowed() {
                self.write(there, value.into());
            }
            return;
        }
        self.window.lock().unwrap_or_else(PoisonError::into_inner).write(access, value.into());
    }

    fn bus_master(&self, on: bool) {
        if on {
            self.links.iter().for_each(|link| link.bell().ring());
        }
    }

    fn pause(&self, done: Done) {
        let countdown = Countdown::new(done);
        self.links.iter().for_each(|link| link.place().pause(countdown.clone()));
    }

    fn resume(&self) {
        self.links.iter().for_each(|link| link.place().resume());
    }

    fn reset(&self, done: Done) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).reset();
        self.begin_reset(Some(done));
    }
}

fn notify_len(queues: usize) -> u64 {
    queues as u64 * NOTIFY_STEP
}

fn identity(device: &dyn VirtioDevice) -> Identity {
    Identity {
        vendor: spec::VENDOR,
        device: spec::DEVICE_ID_BASE + device.device_type(),
        // A device without the legacy interface (4.1.2.1).
        revision: 1,
        class: device.class(),
        subsystem_vendor: spec::VENDOR,
        subsystem: SUBSYSTEM,
    }
}

/// A subsystem ID that no legacy driver matches (4.1.2.1).
const SUBSYSTEM: u16 = 0x1100;

fn capabilities(device: &dyn VirtioDevice, queues: usize) -> Vec<Capability> {
    let mut notify = vendor(cap::NOTIFY, NOTIFY, notify_len(queues), 4);
    notify.body[14..].copy_from_slice(&(NOTIFY_STEP as u32).to_le_bytes());
    let mut access = vendor(cap::PCI, 0, 0, 4);
    access.live_from = Some(WINDOW_BAR as u8 - 2);
    let mut all = vec![
        vendor(cap::COMMON, COMMON, spec::COMMON_LEN, 0),
        notify,
        vendor(cap::ISR, ISR, ISR_LEN, 0),
    ];
    // Only devices that have a configuration say where it is (4.1.4.6); Linux refuses an empty one.
    if device.config_len() > 0 {
        all.push(vendor(cap::DEVICE, DEVICE, device.config_len().into(), 0));
    }
    all.extend([access, Capability::express()]);
    all
}

/// `struct virtio_pci_cap`, with `extra` bytes behind it (4.1.4).
fn vendor(kind: u8, offset: u64, len: u64, extra: u8) -> Capability {
    let mut body = vec![16 + extra, kind, BAR, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((len as u32).to_le_bytes());
    body.resize(body.len() + usize::from(extra), 0);
    Capability::fixed(id::VENDOR, body)
}
