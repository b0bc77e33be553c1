//! What all parts of a controller share: the register half on vCPU threads, and the queue halves on
//! their iothreads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::{
    admin::{ErrorLog, Firmware, firmware},
    config::NvmeConfig,
    doors::{Door, ShadowPages},
    events::Events,
    health::{self, Health},
    io::Mail,
    oneshot::channel,
    regs::csts,
    reservation::{Host, Notice},
    rings::Arbitration,
    status::Status,
    subsystem::Subsystem,
};
use crate::{
    Dma, device::Countdown, doorbell::Bell, pci::Interrupts, policy::Failures,
    queue_link::QueueLink, state_file::Section,
};

/// How many complaints about its driver a controller writes to the log.
const COMPLAINTS_MAX: u32 = 8;
/// Most reservation notices that are kept: the oldest are dropped.
const NOTICES_MAX: usize = 255;

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
    /// Vectors that are masked, and those that wait for that to end (MSI).
    mask: AtomicU32,
    masked: AtomicU32,
    /// Size of a memory page, as the host set it.
    page: AtomicU64,
    /// Entry sizes of I/O queues in CC: submission in the low half.
    entry_sizes: AtomicU32,
    arbitration: AtomicU32,
    weighted: AtomicBool,
    /// Feature 08h, and the vectors that it does not hold for.
    coalescing: AtomicU32,
    uncoalesced: Box<[AtomicBool]>,
    host: Mutex<Host>,
    /// The host gave its identifier in the long form.
    host_extended: AtomicBool,
    /// Notices that the host has not read: what, namespace.
    notices: Mutex<VecDeque<(Notice, u32)>>,
    notice_masks: Mutex<BTreeMap<u32, u32>>,
    firmware: Mutex<Firmware>,
    /// What it had counted when the machine was started.
    health: Health,
    /// When it was enabled first.
    started: OnceLock<Instant>,
    errors: Mutex<ErrorLog>,
    shadows: Mutex<Option<ShadowPages>>,
    /// The windows are to be declared anew, in the next access of a vCPU.
    windows_stale: AtomicBool,
    events: Mutex<Events>,
    /// What is done about requests that fail below.
    pub failures: Failures,
    complaints: AtomicU32,
    resetting: AtomicBool,
    paused: AtomicBool,
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
        let health = Health::load(config.state.get(health::SECTION).as_ref());
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
            masked: AtomicU32::new(0),
            page: AtomicU64::new(4096),
            entry_sizes: AtomicU32::new(0),
            arbitration: AtomicU32::new(0),
            weighted: AtomicBool::new(false),
            coalescing: AtomicU32::new(0),
            uncoalesced: (0..config.vector_count().max(1)).map(|_| AtomicBool::default()).collect(),
            host: Mutex::new(Host::Controller(cntlid)),
            host_extended: AtomicBool::new(false),
            notices: Mutex::default(),
            notice_masks: Mutex::default(),
            firmware: Mutex::new(Firmware::load(config.state.get(firmware::SECTION).as_ref())),
            errors: Mutex::new(ErrorLog::after(health.errors)),
            health,
            started: OnceLock::new(),
            shadows: Mutex::new(None),
            windows_stale: AtomicBool::new(false),
            events: Mutex::default(),
            failures,
            complaints: AtomicU32::new(0),
            resetting: AtomicBool::new(false),
            paused: AtomicBool::new(false),
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

    /// How submission queues take turns.
    #[must_use]
    pub fn arbitration(&self) -> Arbitration {
        let weighted = self.weighted.load(SeqCst);
        Arbitration { value: self.arbitration.load(SeqCst), weighted }
    }

    pub(super) fn set_arbitration(&self, value: u32) {
        self.arbitration.store(value, SeqCst);
    }

    pub(super) fn set_weighted(&self, weighted: bool) {
        self.weighted.store(weighted, SeqCst);
    }

    /// Feature 08h.
    #[inline]
    #[must_use]
    pub fn coalescing(&self) -> u32 {
        self.coalescing.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn set_coalescing(&self, value: u32) {
        self.coalescing.store(value, SeqCst);
    }

    /// Feature 09h: whether coalescing is off for a vector, where there is such a vector.
    #[must_use]
    pub fn uncoalesced(&self, vector: u16) -> Option<&AtomicBool> {
        self.uncoalesced.get(usize::from(vector))
    }

    /// How long, and for how many completions, an interrupt of this vector may be held back.
    #[must_use]
    pub fn hold(&self, vector: u16) -> Option<(Duration, u32)> {
        let value = self.coalescing();
        let (completions, time) = ((value & 0xff) + 1, value >> 8 & 0xff);
        let off = self.uncoalesced(vector).is_none_or(|off| off.load(SeqCst));
        let time = Duration::from_micros(100 * u64::from(time));
        (!off && !time.is_zero() && completions > 1).then_some((time, completions))
    }

    /// The host that uses the controller.
    #[must_use]
    pub fn host(&self) -> Host {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the host gave its identifier in the long form, if it gave one.
    #[must_use]
    pub fn host_is_extended(&self) -> Option<bool> {
        matches!(self.host(), Host::Id(_)).then(|| self.host_extended.load(SeqCst))
    }

    pub(super) fn set_host(&self, host: Host, extended: bool) {
        self.host_extended.store(extended, SeqCst);
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = host;
    }

    /// Tells the host something about a reservation (Base 8.19.1.2).
    pub(super) fn notice(&self, notice: Notice, nsid: u32) {
        if self.notice_mask(nsid) >> notice as u32 & 1 != 0 {
            return;
        }
        {
            let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
            if notices.len() >= NOTICES_MAX {
                notices.pop_front();
            }
            notices.push_back((notice, nsid));
        }
        self.raise_event(super::spec::event::RESERVATION);
    }

    /// Feature 82h of a namespace: a bit for each notice that its host does not want.
    #[must_use]
    pub fn notice_mask(&self, nsid: u32) -> u32 {
        let masks = self.notice_masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.get(&nsid).copied().unwrap_or(0)
    }

    pub(super) fn set_notice_mask(&self, nsid: u32, mask: u32) {
        let mut masks = self.notice_masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.insert(nsid, mask);
    }

    /// The oldest notice, and how many there are behind it; it is gone then if `take`.
    pub(super) fn oldest_notice(&self, take: bool) -> Option<(Notice, u32, usize)> {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let (notice, nsid) = *notices.front()?;
        let behind = notices.len() - 1;
        if take {
            notices.pop_front();
        }
        Some((notice, nsid, behind))
    }

    /// The firmware slots.
    pub(super) fn firmware(&self) -> MutexGuard<'_, Firmware> {
        self.firmware.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Minutes that it has run since the machine was started.
    pub(super) fn minutes(&self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.started.get_or_init(|| now)).as_secs() / 60
    }

    /// What it has counted over its life, with these minutes and errors.
    #[must_use]
    pub(super) fn health(&self, minutes: u64, errors: u64) -> Health {
        self.health.with(self, minutes, errors)
    }

    /// Saves what it has counted.
    ///
    /// # Errors
    /// When it could not be saved.
    pub(super) async fn save_health(&self, now: Instant) -> Result<(), Status> {
        let errors = self.errors().count();
        let section = self.health(self.minutes(now), errors).section();
        self.save(health::SECTION, section).await
    }

    /// Saves the firmware slots.
    ///
    /// # Errors
    /// When they could not be saved.
    pub(super) async fn save_firmware(&self) -> Result<(), Status> {
        let section = self.firmware().section();
        self.save(firmware::SECTION, section).await
    }

    /// Saves a section of the controller's state.
    ///
    /// # Errors
    /// When it could not be saved.
    pub(super) async fn save(&self, name: &str, section: Section) -> Result<(), Status> {
        let (saved, wait) = channel();
        self.config.state.put(name, section, Box::new(move |result| saved.send(result)));
        match wait.await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                log::warn!("{}: cannot save its state: {error}", self.config.id);
                Err(Status::INTERNAL)
            }
            None => Err(Status::INTERNAL),
        }
    }

    /// Whether the machine stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(SeqCst)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, SeqCst);
    }

    /// Whether only a reset helps: nothing is taken any more.
    #[inline]
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.status.load(std::sync::atomic::Ordering::Relaxed) & csts::CFS != 0
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
        } else if self.interrupts.msi_vectors() > 0 {
            self.raise_msi(vector);
        } else {
            self.update_wire();
        }
    }

    /// Vectors that completion queues can have.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        match self.interrupts.msi_vectors() {
            _ if self.uses_msix() => self.config.vector_count(),
            0 => 1,
            vectors => vectors,
        }
    }

    fn raise_msi(&self, vector: u16) {
        let bit = 1 << vector.min(31);
        self.masked.fetch_or(bit, SeqCst);
        // Whoever takes the bit back sends the message, once.
        if self.mask.load(SeqCst) & bit == 0 && self.masked.fetch_and(!bit, SeqCst) & bit != 0 {
            self.interrupts.raise_msi(vector);
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
        let due = self.masked.fetch_and(mask, SeqCst) & !mask;
        (0..32).filter(|v| due >> v & 1 != 0).for_each(|v| self.interrupts.raise_msi(v));
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
        self.set_host(Host::Controller(self.cntlid), false);
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.notice_masks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.firmware().reset();
        self.set_arbitration(0);
        self.set_coalescing(0);
        self.uncoalesced.iter().for_each(|off| off.store(false, SeqCst));
        self.set_shadow_pages(None);
        self.windows_stale.store(false, SeqCst);
        self.events().reset();
        self.complaints.store(0, SeqCst);
        self.masked.store(0, SeqCst);
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

    /// Ends the commands of a namespace on all I/O queues, as preempted; lets go of `done` when all
    /// have ended. Reservation commands are done already, and not waited for: their hosts may wait for
    /// each other.
    pub fn preempt(&self, nsid: u32, done: &Countdown) {
        for home in &self.homes[1..] {
            home.post(Mail::Preempt { nsid, done: done.clone() });
        }
    }

    /// Commands that waited for a gate go on.
    pub fn reopen(&self) {
        for home in &self.homes[1..] {
            home.post(Mail::Reopen);
        }
    }
}
