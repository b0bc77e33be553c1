//! The register half on PCI, and the life of the controller behind it.
//!
//! Resets are asynchronous. A write that clears CC.EN only starts one; CSTS.RDY stays set until
//! every queue half is drained and gone. So nothing of the time before can touch guest memory, or
//! be answered, after the driver saw RDY clear.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::Ordering::{Acquire, SeqCst},
    },
};

use super::{
    admin::AdminQueue,
    background,
    config::NvmeConfig,
    controller::{Ctl, Home},
    device::BAR,
    regs::{Action, Enable, Regs, csts},
    rings::{Place, Rings, Submission},
    spec::event,
    subsystem::Subsystem,
};
use crate::{
    Access, Dma, Registers,
    device::{Countdown, Done},
    doorbell::Bell,
    pci::{BarDoorbell, BarRegion, Controller, Endpoint, Interrupts},
    policy::{BlockEvents, Failures},
};

/// Where the doorbells begin (PCIe transport 1.0, 3.1.2).
const DOORBELLS: u64 = 0x1000;
/// Bytes from one doorbell to the next: CAP.DSTRD is 0.
const STRIDE: u64 = 4;

/// Which reset is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// By CC.EN: the admin queue registers stay.
    Controller,
    /// By NSSR: everything, and NSSRO says so.
    Subsystem,
    /// As after power-on.
    Function,
}

struct Life {
    regs: Regs,
    reset: Option<Reset>,
    waiters: Vec<Done>,
    /// Pauses that the machine has asked for, and how many of them the I/O queues have seen.
    pauses: (u32, u32),
    /// Moves with each reset: what was started before must not report any more.
    generation: u64,
}

/// See the module.
pub struct NvmePci {
    me: Weak<Self>,
    ctl: Arc<Ctl>,
    life: Mutex<Life>,
    function: OnceLock<Weak<Endpoint>>,
}

impl NvmePci {
    /// A controller of `subsystem`.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(
        config: NvmeConfig,
        subsystem: Arc<Subsystem>,
        dma: Dma,
        interrupts: Arc<Interrupts>,
        events: Arc<dyn BlockEvents>,
    ) -> io::Result<Arc<Self>> {
        let queues = usize::from(config.max_ioqpairs) + 1;
        let bells = (0..queues).map(|_| Bell::new()).collect::<io::Result<Vec<_>>>()?;
        let failures = Failures {
            device: config.id.clone(),
            werror: config.werror,
            rerror: config.rerror,
            events,
        };
        let life = Life {
            regs: Regs::new(config.max_entries),
            reset: None,
            waiters: Vec::new(),
            pauses: (0, 0),
            generation: 0,
        };
        let ctl = Arc::clone(&subsystem)
            .join(|cntlid| Ctl::new(config, cntlid, subsystem, dma, interrupts, failures, bells));
        Ok(Arc::new_cyclic(|me| {
            let reset = Weak::clone(me);
            ctl.set_subsystem_reset(Box::new(move || {
                if let Some(me) = Weak::<Self>::upgrade(&reset) {
                    me.begin_reset(Reset::Subsystem, None);
                }
            }));
            Self { me: Weak::clone(me), ctl, life: Mutex::new(life), function: OnceLock::new() }
        }))
    }

    /// What all parts share.
    pub fn ctl(&self) -> &Arc<Ctl> {
        &self.ctl
    }

    /// The function around the controller, to declare its windows anew.
    pub fn set_function(&self, function: &Arc<Endpoint>) {
        // It is set once, when the controller is built.
        drop(self.function.set(Arc::downgrade(function)));
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn redeclare(&self) {
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            function.redeclare();
        }
    }

    fn act(&self, action: Action) {
        match action {
            Action::Enable(enable) => self.enable(enable),
            Action::Fatal => self.ctl.fatal("it was enabled with settings it does not support"),
            Action::Disable => self.begin_reset(Reset::Controller, None),
            Action::Shutdown => self.shut_down(),
            Action::SubsystemReset => {
                self.ctl.subsystem().controllers().iter().for_each(|ctl| ctl.subsystem_reset());
            }
            Action::ClearSubsystemReset => self.ctl.change_status(csts::NSSRO, 0),
            Action::Mask(mask) => self.ctl.set_mask(mask),
        }
    }

    fn enable(&self, enable: Enable) {
        let ctl = &self.ctl;
        ctl.set_page(enable.page);
        ctl.set_weighted(enable.weighted);
        let ((sq_at, sq_len), (cq_at, cq_len)) = (enable.asq, enable.acq);
        let place = |address, entries| Place { id: 0, address, entries };
        let made = Rings::new(ctl, place(cq_at, cq_len)).and_then(|mut rings| {
            rings.add(Submission::new(ctl, place(sq_at, sq_len), 0)?);
            Ok(rings)
        });
        let Ok(rings) = made else { return ctl.fatal("the admin queues are not RAM") };
        let door = ctl.door(0);
        door.clear();
        door.sq_size.store(sq_len, SeqCst);
        door.cq_size.store(cq_len, SeqCst);
        door.interrupts.store(true, SeqCst);
        let home = &ctl.homes()[0];
        let queue = AdminQueue::new(ctl, rings);
        home.place.attach(home.place.epoch(), Box::new(queue));
        ctl.change_status(0, csts::RDY);
        let subsystem = Arc::clone(ctl.subsystem());
        let started = Arc::clone(ctl);
        home.place.handle().post(move |cx| {
            started.minutes(cx.now());
            background::resume(&subsystem, cx);
        });
    }

    /// Starts a reset, or joins the one that is under way.
    fn begin_reset(&self, kind: Reset, waiter: Option<Done>) {
        let retired = {
            let mut life = self.lock();
            life.waiters.extend(waiter);
            let more = life.reset.is_none_or(|now| now == Reset::Controller && now != kind);
            if life.reset.is_some() {
                if more {
                    life.reset = Some(kind);
                }
                return;
            }
            life.reset = Some(kind);
            life.regs.resetting = true;
            self.ctl.set_resetting(true);
            life.generation += 1;
            self.ctl.homes().iter().for_each(|home| home.place.retire());
            self.ctl.homes().to_vec()
        };
        // Doorbells trap again; those that still come are left unread.
        let shadowed = self.ctl.shadow_pages().is_some();
        self.ctl.set_shadow_pages(None);
        if shadowed && kind != Reset::Function {
            self.redeclare();
        }
        let me = Weak::clone(&self.me);
        let countdown = Countdown::new(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.finish_reset();
            }
        }));
        for home in retired {
            home.place.detach(countdown.clone());
        }
    }

    fn finish_reset(&self) {
        // No queue half is left that could interrupt.
        self.ctl.subsystem().controller_reset(self.ctl.cntlid());
        self.ctl.subsystem().background().reset_self_test();
        self.ctl.clear();
        let waiters = {
            let mut life = self.lock();
            let kind = life.reset.take().unwrap_or(Reset::Function);
            life.regs.reset(kind == Reset::Controller);
            self.ctl.set_resetting(false);
            life.pauses.1 = life.pauses.0;
            let keep = if kind == Reset::Controller { csts::NSSRO } else { 0 };
            let set = if kind == Reset::Subsystem { csts::NSSRO } else { 0 };
            self.ctl.change_status(!keep, set);
            std::mem::take(&mut life.waiters)
        };
        waiters.into_iter().for_each(|done| done());
    }

    /// Shutdown (Base 3.6.1): nothing more is taken from I/O queues, what is in flight ends, and
    /// everything is on the medium.
    fn shut_down(&self) {
        self.ctl.change_status(csts::SHST, csts::SHST_OCCURRING);
        let generation = self.lock().generation;
        let me = Weak::clone(&self.me);
        let drained = Countdown::new(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.flush_then_shut_down(generation);
            }
        }));
        for home in &self.ctl.homes()[1..] {
            home.place.pause(drained.clone());
        }
    }

    fn flush_then_shut_down(self: Arc<Self>, generation: u64) {
        let namespaces = self.ctl.subsystem().namespaces(Some(self.ctl.cntlid()));
        let roots: Vec<_> = namespaces.iter().map(|ns| Arc::clone(ns.root())).collect();
        self.ctl.homes()[0].place.handle().clone().post(move |cx| {
            let task_cx = spindle_block::Cx::clone(cx);
            cx.spawn(async move {
                for root in roots {
                    let flush = spindle_block::Io::flush();
                    let (_, result) = root.handle().io(&task_cx, flush).await;
                    if let Err(error) = result {
                        log::warn!("{}: flush at shutdown: {error}", self.ctl.config().id);
                    }
                }
                // What cannot be saved was said; the host cannot help it.
                let _ = self.ctl.save_health(task_cx.now()).await;
                self.shut_down_complete(generation);
            });
        });
    }

    fn shut_down_complete(&self, generation: u64) {
        let life = self.lock();
        if life.generation == generation {
            self.ctl.change_status(csts::SHST, csts::SHST_COMPLETE);
        }
    }

    /// A doorbell: the value, then the bell. No lock.
    fn ring(&self, access: Access, value: u64) {
        let index = (access.offset - DOORBELLS) / STRIDE;
        let Some(door) = self.ctl.doors().get((index / 2) as usize) else { return };
        // Other widths are not allowed (PCIe transport 1.0, 3.1.2); nor are addresses in between.
        if access.width != 4 || !access.offset.is_multiple_of(STRIDE) {
            return;
        }
        if self.ctl.status() & csts::RDY == 0 {
            return;
        }
        let value = value as u32;
        let is_sq = index.is_multiple_of(2);
        let size = if is_sq { &door.sq_size } else { &door.cq_size }.load(Acquire);
        if size == 0 {
            return self.ctl.raise_event(event::INVALID_DOORBELL);
        }
        if value >= size {
            return self.ctl.raise_event(event::INVALID_DOORBELL_VALUE);
        }
        if is_sq {
            door.sq_tail.store(value, SeqCst);
            self.home(door.sq_cq.load(Acquire)).bell.ring();
        } else {
            door.cq_head.store(value, SeqCst);
            if door.stalled.swap(false, SeqCst) {
                self.home((index / 2) as u16).bell.ring();
            }
            if !self.ctl.uses_msix() {
                self.ctl.update_wire();
            }
        }
    }

    fn home(&self, cq: u16) -> &Home {
        &self.ctl.homes()[usize::from(cq)]
    }

    /// Lets the I/O queues follow the machine's pauses; `done` when what is due is done.
    fn pause_io(&self, done: Done) {
        let countdown = Countdown::new(done);
        let apply = {
            let mut life = self.lock();
            let apply = life.pauses.1 < life.pauses.0;
            life.pauses.1 += u32::from(apply);
            apply
        };
        if apply {
            for home in &self.ctl.homes()[1..] {
                home.place.pause(countdown.clone());
            }
            self.ctl.subsystem().background().pause(countdown);
        }
    }
}

impl Registers for NvmePci {
    fn read(&self, access: Access) -> u64 {
        // Reads of doorbells are undefined.
        if access.offset >= DOORBELLS {
            return 0;
        }
        self.lock().regs.read(self.ctl.status(), access)
    }

    fn write(&self, access: Access, value: u64) {
        if access.offset >= DOORBELLS {
            self.ring(access, value);
            if self.ctl.take_windows_changed() {
                self.redeclare();
            }
            return;
        }
        let actions = {
            let mut life = self.lock();
            let actions = life.regs.write(self.ctl.status(), access, value);
            self.ctl.set_entry_sizes(life.regs.entry_sizes());
            actions
        };
        actions.into_iter().for_each(|action| self.act(action));
    }
}

impl Controller for NvmePci {
    fn regions(self: Arc<Self>, bar: u8) -> Vec<BarRegion> {
        if bar != BAR {
            return Vec::new();
        }
        let len = DOORBELLS + self.ctl.doors().len() as u64 * 2 * STRIDE;
        let target = self as Arc<dyn Registers>;
        vec![BarRegion { offset: 0, len, coalesce: false, target, target_offset: 0 }]
    }

    /// The submission queue tails, once their values are in guest memory. The admin queue's always
    /// traps, and so do completion queue heads: they are rung when the queue is full.
    fn doorbells(&self, bar: u8) -> Vec<BarDoorbell> {
        if bar != BAR || !self.ctl.config().ioeventfd || self.ctl.shadow_pages().is_none() {
            return Vec::new();
        }
        let doors = self.ctl.doors().iter().enumerate().skip(1);
        doors
            .filter(|(_, door)| door.sq_size.load(SeqCst) != 0)
            .map(|(id, door)| BarDoorbell {
                offset: DOORBELLS + id as u64 * 2 * STRIDE,
                width: 4,
                value: None,
                event: Arc::clone(self.home(door.sq_cq.load(SeqCst)).bell.event()),
            })
            .collect()
    }

    fn capability_read(&self, _capability: usize, _access: Access) -> u32 {
        0
    }

    fn capability_write(&self, _capability: usize, _access: Access, _value: u32) {}

    fn bus_master(&self, on: bool) {
        if on {
            self.ctl.homes().iter().for_each(|home| home.bell.ring());
        }
    }

    /// The admin queue first: as long as it works it may create queues.
    fn pause(&self, done: Done) {
        self.lock().pauses.0 += 1;
        self.ctl.set_paused(true);
        let me = Weak::clone(&self.me);
        let admin = Countdown::new(Box::new(move || match me.upgrade() {
            Some(me) => me.pause_io(done),
            None => done(),
        }));
        self.ctl.homes()[0].place.pause(admin);
    }

    fn resume(&self) {
        let apply = {
            let mut life = self.lock();
            life.pauses.0 = life.pauses.0.saturating_sub(1);
            self.ctl.set_paused(life.pauses.0 > 0);
            let apply = life.pauses.1 > life.pauses.0;
            life.pauses.1 -= u32::from(apply);
            apply
        };
        self.ctl.homes()[0].place.resume();
        if apply {
            self.ctl.homes()[1..].iter().for_each(|home| home.place.resume());
            self.ctl.subsystem().background().resume();
        }
    }

    fn reset(&self, done: Done) {
        self.begin_reset(Reset::Function, Some(done));
    }
}
