//! What all parts of a controller share: the register half on vCPU threads, and the queue halves on
//! their iothreads.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use super::{
    admin::ErrorLog,
    config::NvmeConfig,
    doors::{Door, ShadowPages},
    events::Events,
    io::Mail,
    regs::csts,
    subsystem::Subsystem,
};
use crate::{
    Dma, device::Countdown, doorbell::Bell, pci::Interrupts, policy::Failures,
    queue_link::QueueLink,
};

/// How many complaints about its driver a controller writes to the log.
const COMPLAINTS_MAX: u32 = 8;

/// Where a completion queue lives, with all submission queues that post to it.
pub struct Home {
    /// Its place on its iothread.
    pub place: Arc<QueueLink>,
    /// What wakes it: the doorbells of all its submission queues.
    pub bell: Bell,
    mail: Mutex<VecDeque<Mail>>,
}

impl Home {
    /// Hands `mail` to the queue half, which reads it even while it is paused. Without a queue half
    /// it is dropped.
    pub fn post(self: &Arc<Self>, mail: Mail) {
        let home = Arc::clone(self);
        self.place.with_queue(move |queue, port| {
            home.lock().push_back(mail);
            // A budget of nothing: it only reads its mail.
            queue.service(port, 0);
        });
    }

    /// The next mail.
    pub fn take(&self) -> Option<Mail> {
        self.lock().pop_front()
    }

    /// Wakes the queue half, wherever it is, for something that it looks up itself.
    pub fn nudge(self: &Arc<Self>) {
        self.place.with_queue(|queue, port| {
            queue.service(port, 0);
        });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct Ctl {
    config: NvmeConfig,
    cntlid: u16,
    subsystem: Arc<Subsystem>,
    /// Guest memory.
    pub dma: Dma,
    interrupts: Arc<Interrupts>,
    doors: Box<[Door]>,
    /// By completion queue; the admin queue's is the first.
    homes: Vec<Arc<Home>>,
    status: AtomicU32,
    mask: AtomicU32,
    /// Size of a memory page, as the host set it.
    page: AtomicU64,
    /// Entry sizes of I/O queues in CC: submission in the low half.
    entry_sizes: AtomicU32,
    errors: Mutex<ErrorLog>,
    shadows: Mutex<Option<ShadowPages>>,
    /// The windows are to be declared anew, in the next access of a vCPU.
    windows_stale: AtomicBool,
    events: Mutex<Events>,
    /// What is done about requests that fail below.
    pub failures: Failures,
    complaints: AtomicU32,
    resetting: AtomicBool,
    /// Starts this controller's part of a reset of the subsystem.
    reset: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Ctl {
    /// The shared part of a controller.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(
        config: NvmeConfig,
        cntlid: u16,
        subsystem: Arc<Subsystem>,
        dma: Dma,
        interrupts: Arc<Interrupts>,
        failures: Failures,
        bells: Vec<Bell>,
    ) -> Arc<Self> {
        let queues = usize::from(config.max_ioqpairs) + 1;
        let handle = |queue: usize| match queue {
            0 => &config.iothreads[0],
            n => &config.iothreads[(n - 1) % config.iothreads.len()],
        };
        let home = |(queue, bell)| {
            Arc::new(Home {
                place: Arc::new(QueueLink::new(handle(queue).clone())),
                bell,
                mail: Mutex::default(),
            })
        };
        let homes = bells.into_iter().enumerate().map(home).collect();
        Arc::new(Self {
            cntlid,
            subsystem,
            dma,
            interrupts,
            doors: (0..queues).map(|_| Door::default()).collect(),
            homes,
            status: AtomicU32::new(0),
            mask: AtomicU32::new(0),
            page: AtomicU64::new(4096),
            entry_sizes: AtomicU32::new(0),
            errors: Mutex::default(),
            shadows: Mutex::new(None),
            windows_stale: AtomicBool::new(false),
            events: Mutex::default(),
            failures,
            complaints: AtomicU32::new(0),
            resetting: AtomicBool::new(false),
            reset: OnceLock::new(),
            config,
        })
    }

    /// Says what a reset of the subsystem does to this controller.
    pub(super) fn set_subsystem_reset(&self, reset: Box<dyn Fn() + Send + Sync>) {
        // It is set once, when the controller is built.
        drop(self.reset.set(reset));
    }

    /// Starts this controller's part of a reset of the subsystem.
    pub(super) fn subsystem_reset(&self) {
        if let Some(reset) = self.reset.get() {
            reset();
        }
    }

    /// How it was configured.
    #[must_use]
    pub fn config(&self) -> &NvmeConfig {
        &self.config
    }

    /// Its controller ID in the subsystem.
    #[must_use]
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// The subsystem.
    #[must_use]
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        &self.subsystem
    }

    /// The doorbells of a queue that exists.
    #[inline]
    #[must_use]
    pub fn door(&self, queue: u16) -> &Door {
        &self.doors[usize::from(queue)]
    }

    /// All doorbells.
    #[must_use]
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// Where the completion queues live.
    #[must_use]
    pub fn homes(&self) -> &[Arc<Home>] {
        &self.homes
    }

    /// Size of a memory page.
    #[inline]
    #[must_use]
    pub fn page(&self) -> u64 {
        self.page.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn set_page(&self, page: u64) {
        self.page.store(page, SeqCst);
    }

    /// Entry sizes of I/O queues as the host set them, as powers of two: submission, completion.
    #[must_use]
    pub fn entry_sizes(&self) -> (u32, u32) {
        let sizes = self.entry_sizes.load(SeqCst);
        (sizes & 0xff, sizes >> 8)
    }

    pub(super) fn set_entry_sizes(&self, (sq, cq): (u32, u32)) {
        self.entry_sizes.store(sq | cq << 8, SeqCst);
    }

    /// The commands that failed.
    pub(super) fn errors(&self) -> MutexGuard<'_, ErrorLog> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CSTS.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(SeqCst)
    }

    pub(super) fn change_status(&self, clear: u32, set: u32) {
        let change = |status: u32| Some(status & !clear | set);
        // It always changes.
        self.status.fetch_update(SeqCst, SeqCst, change).ok();
    }

    /// Whether a reset is under way: what takes long gives up.
    #[must_use]
    pub fn is_resetting(&self) -> bool {
        self.resetting.load(SeqCst)
    }

    pub(super) fn set_resetting(&self, resetting: bool) {
        self.resetting.store(resetting, SeqCst);
    }

    /// Something went wrong from which only a reset helps (Base 9.5).
    pub fn fatal(&self, why: &str) {
        if self.complaints.fetch_add(1, SeqCst) < COMPLAINTS_MAX {
            log::warn!("{}: {why}; the controller needs a reset", self.config.id);
        }
        self.change_status(0, csts::CFS);
    }

    /// Whether the guest lets the function reach memory.
    #[inline]
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.interrupts.is_bus_master()
    }

    /// Whether MSI-X is enabled.
    #[inline]
    #[must_use]
    pub fn uses_msix(&self) -> bool {
        self.interrupts.uses_msix()
    }

    /// Tells the host that a completion queue with this vector has entries.
    #[inline]
    pub fn interrupt(&self, vector: u16) {
        if self.interrupts.uses_msix() {
            self.interrupts.msix().raise(vector);
        } else {
            self.update_wire();
        }
    }

    /// Brings the wire to its level: some queue has entries that the host has not consumed.
    pub fn update_wire(&self) {
        self.interrupts.update_wire(|| {
            let mask = self.mask.load(SeqCst);
            let masked = |vector: u16| vector < 32 && mask >> vector & 1 != 0;
            let wants = |door: &Door| door.wants_interrupt() && !masked(door.vector.load(SeqCst));
            self.doors.iter().any(wants)
        });
    }

    pub(super) fn set_mask(&self, mask: u32) {
        self.mask.store(mask, SeqCst);
        self.update_wire();
    }

    /// Where the shadow doorbells are, if the host has given the controller any.
    #[must_use]
    pub fn shadow_pages(&self) -> Option<ShadowPages> {
        *self.shadows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_shadow_pages(&self, pages: Option<ShadowPages>) {
        *self.shadows.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    /// Doorbells have become eventfds, or new ones have come: windows are declared on a vCPU
    /// thread, and the next doorbell that traps is one.
    pub(super) fn windows_changed(&self) {
        if self.config.ioeventfd && self.shadow_pages().is_some() {
            self.windows_stale.store(true, SeqCst);
        }
    }

    pub(super) fn take_windows_changed(&self) -> bool {
        self.windows_stale.load(SeqCst) && self.windows_stale.swap(false, SeqCst)
    }

    /// The asynchronous events.
    pub(super) fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An asynchronous event ([`super::spec::event`]): answers a request for one that is parked, or
    /// waits for one. From any thread.
    pub fn raise_event(&self, event: u32) {
        // What happens before a host is there it sees when it looks.
        if self.status() & csts::RDY != 0 && self.events().raise(event) {
            self.homes[0].nudge();
        }
    }

    /// A namespace came, went or changed.
    pub(super) fn changed_namespaces(&self, nsid: u32) {
        if self.status() & csts::RDY != 0 {
            self.events().namespace_changed(nsid);
        }
    }

    /// As after a reset: no queue half is left.
    pub(super) fn clear(&self) {
        self.doors.iter().for_each(Door::clear);
        self.set_shadow_pages(None);
        self.windows_stale.store(false, SeqCst);
        self.events().reset();
        self.complaints.store(0, SeqCst);
        self.set_mask(0);
        for home in &self.homes {
            home.lock().clear();
        }
    }

    /// Calls `done` on the thread that ends last, once no command of `nsid` (all namespaces: none
    /// given) that was taken before is in the block layer, on any queue.
    pub fn quiesce(&self, nsid: Option<u32>, done: &Countdown) {
        for home in &self.homes[1..] {
            home.post(Mail::Quiesce { nsid, done: done.clone() });
        }
    }

    /// Commands that waited for a gate go on.
    pub fn reopen(&self) {
        for home in &self.homes[1..] {
            home.post(Mail::Reopen);
        }
    }
}
