//! An NVM subsystem: controllers, and the namespaces that they share (Base 2.4).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::{
    attachment::{self, Attachment},
    background::Background,
    config::{NAMESPACES_MAX, NvmeError, NvmeNamespaceConfig},
    controller::Ctl,
    namespace::{Namespace, uuid_of},
    pool::NamespacePool,
    reservation::Notices,
    spec::event,
    status::Status,
};

/// A namespace of the subsystem, and who has it.
struct Member {
    namespace: Arc<Namespace>,
    /// Controllers that it is attached to, by ID.
    attached: BTreeSet<u16>,
    /// Controllers that its host had attached it to when the machine was started.
    saved: Option<BTreeSet<u16>>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<u32, Member>,
    controllers: BTreeMap<u16, Weak<Ctl>>,
    pool: Option<Arc<dyn NamespacePool>>,
    /// IDs of namespaces that a pool is about to make.
    promised: BTreeSet<u32>,
}

/// Longest qualified name, in bytes, less its terminator (Base 4.5).
const NQN_MAX: usize = 223;

/// See the module.
pub struct Subsystem {
    serial: String,
    nqn: String,
    /// It is for one controller alone, and says so: a host then needs no path selection.
    is_single: bool,
    inner: Mutex<Inner>,
    background: Background,
    /// Moves whenever a namespace comes, goes or changes: queue halves look again.
    generation: AtomicU64,
}

impl Subsystem {
    /// A subsystem without controllers or namespaces. Identifiers that are not given follow from
    /// the serial number: two subsystems of one machine have different ones.
    #[must_use]
    pub fn new(serial: &str) -> Arc<Self> {
        Self::make(serial, None, false)
    }

    /// The same with an NVMe Qualified Name of its own (Base 4.5), cut to 223 bytes.
    #[must_use]
    pub fn named(serial: &str, nqn: &str) -> Arc<Self> {
        Self::make(serial, Some(nqn.chars().take(NQN_MAX).collect()), false)
    }

    /// A subsystem for one controller.
    #[must_use]
    pub fn single(serial: &str) -> Arc<Self> {
        Self::make(serial, None, true)
    }

    /// A name that follows from the serial number.
    fn nqn_of(serial: &str) -> String {
        let mut nqn = "nqn.2014-08.org.nvmexpress:uuid:".to_owned();
        for (i, byte) in uuid_of(serial, 0).iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                nqn.push('-');
            }
            nqn.push_str(&format!("{byte:02x}"));
        }
        nqn
    }

    fn make(serial: &str, nqn: Option<String>, is_single: bool) -> Arc<Self> {
        let nqn = nqn.unwrap_or_else(|| Self::nqn_of(serial));
        Arc::new(Self {
            serial: serial.to_owned(),
            nqn,
            is_single,
            inner: Mutex::default(),
            background: Background::default(),
            generation: AtomicU64::new(1),
        })
    }

    /// What it does beside the commands of its hosts.
    pub(super) fn background(&self) -> &Background {
        &self.background
    }

    /// Whether it is for one controller alone.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// Its NVMe qualified name.
    #[must_use]
    pub fn nqn(&self) -> &str {
        &self.nqn
    }

    /// Says where namespaces come from that a host creates, if nobody has yet.
    pub fn set_pool(&self, pool: &Arc<dyn NamespacePool>) {
        self.lock().pool.get_or_insert_with(|| Arc::clone(pool));
    }

    /// Where namespaces come from that a host creates.
    pub(super) fn pool(&self) -> Option<Arc<dyn NamespacePool>> {
        self.lock().pool.clone()
    }

    /// Keeps the lowest free ID for a namespace that is about to be made.
    pub(super) fn promise(&self) -> Option<u32> {
        let mut inner = self.lock();
        let taken = |nsid: &u32| inner.members.contains_key(nsid) || inner.promised.contains(nsid);
        let nsid = (1..=NAMESPACES_MAX).find(|nsid| !taken(nsid))?;
        inner.promised.insert(nsid);
        Some(nsid)
    }

    /// A namespace that was about to be made is there, or will never be.
    pub(super) fn keep_promise(&self, nsid: u32) {
        self.lock().promised.remove(&nsid);
    }

    /// Adds a namespace, attached to no controller yet.
    ///
    /// # Errors
    /// When its ID is taken or it makes no sense.
    pub fn add(&self, config: &NvmeNamespaceConfig) -> Result<Arc<Namespace>, NvmeError> {
        let mut inner = self.lock();
        let nsid = match config.nsid {
            Some(nsid) if inner.members.contains_key(&nsid) => return Err(NvmeError::Taken(nsid)),
            Some(nsid @ 1..=NAMESPACES_MAX) => nsid,
            Some(nsid) => {
                return Err(NvmeError::Property {
                    id: self.serial.clone(),
                    what: "nsid",
                    value: nsid.into(),
                    allowed: "1 to 1024",
                });
            }
            None => (1..=NAMESPACES_MAX)
                .find(|nsid| !inner.members.contains_key(nsid) && !inner.promised.contains(nsid))
                .ok_or(NvmeError::Full)?,
        };
        let mut namespace = config.clone();
        let saved = Attachment::load(config.state.get(attachment::SECTION).as_ref());
        // Whether others may have it is the host's to say only where the host has made it.
        if let Some(saved) = saved.as_ref().filter(|_| config.pooled) {
            namespace.shared = saved.shared;
        }
        namespace.shared &= !self.is_single;
        let namespace = Namespace::new(&namespace, &self.serial, nsid)?;
        let (attached, saved) = (BTreeSet::new(), saved.map(|saved| saved.controllers));
        inner.members.insert(nsid, Member { namespace: Arc::clone(&namespace), attached, saved });
        Ok(namespace)
    }

    /// Takes a namespace away from all controllers and out of the subsystem. Their hosts are told.
    /// Commands in flight go on: [`Nvme::remove_namespace`](super::Nvme::remove_namespace) waits for
    /// them.
    pub fn remove(&self, nsid: u32) -> Option<Arc<Namespace>> {
        let member = self.lock().members.remove(&nsid)?;
        self.generation.fetch_add(1, SeqCst);
        for controller in self.controllers() {
            if member.attached.contains(&controller.cntlid()) {
                controller.namespace_changed(nsid);
            }
        }
        Some(member.namespace)
    }

    /// Attaches a namespace that was just added: to those controllers that its host had attached it
    /// to, if it had, and else to those that `default` picks.
    pub fn settle(&self, nsid: u32, default: impl Fn(u16) -> bool) {
        let saved = self.lock().members.get(&nsid).and_then(|member| member.saved.clone());
        for controller in self.controllers() {
            let cntlid = controller.cntlid();
            if saved.as_ref().map_or_else(|| default(cntlid), |saved| saved.contains(&cntlid)) {
                // It is new; a private one that was left to several goes to the first.
                self.attach(nsid, cntlid).ok();
            }
        }
    }

    /// A controller is there: it gets the namespaces that their hosts had attached to it.
    pub(super) fn settle_controller(&self, cntlid: u16) {
        let wanted =
            |member: &Member| member.saved.as_ref().is_some_and(|saved| saved.contains(&cntlid));
        let inner = self.lock();
        let members = inner.members.iter().filter(|(_, member)| wanted(member));
        let nsids: Vec<u32> = members.map(|(nsid, _)| *nsid).collect();
        drop(inner);
        for nsid in nsids {
            self.attach(nsid, cntlid).ok();
        }
    }

    /// Saves which controllers have a namespace, after its host has changed it.
    ///
    /// # Errors
    /// When it could not be saved.
    pub(super) async fn save_attachment(&self, nsid: u32) -> Result<(), Status> {
        let section = {
            let mut inner = self.lock();
            let Some(member) = inner.members.get_mut(&nsid) else { return Ok(()) };
            member.saved = Some(member.attached.clone());
            let shared = member.namespace.is_shared();
            let attachment = Attachment { shared, controllers: member.attached.clone() };
            (Arc::clone(&member.namespace), attachment.section())
        };
        section.0.save(attachment::SECTION, section.1).await
    }

    /// Attaches a namespace to a controller, whose host is told.
    ///
    /// # Errors
    /// When there is no such namespace, it is attached already, or private and attached elsewhere.
    pub fn attach(&self, nsid: u32, cntlid: u16) -> Result<(), AttachError> {
        {
            let mut inner = self.lock();
            let member = inner.members.get_mut(&nsid).ok_or(AttachError::NoNamespace)?;
            if member.attached.contains(&cntlid) {
                return Err(AttachError::Already);
            }
            if !member.namespace.is_shared() && !member.attached.is_empty() {
                return Err(AttachError::Private);
            }
            member.attached.insert(cntlid);
        }
        self.changed(nsid, Some(cntlid));
        Ok(())
    }

    /// Detaches a namespace from a controller, whose host is told.
    ///
    /// # Errors
    /// When there is no such namespace, or it is not attached.
    pub fn detach(&self, nsid: u32, cntlid: u16) -> Result<(), AttachError> {
        {
            let mut inner = self.lock();
            let member = inner.members.get_mut(&nsid).ok_or(AttachError::NoNamespace)?;
            if !member.attached.remove(&cntlid) {
                return Err(AttachError::NotAttached);
            }
        }
        self.changed(nsid, Some(cntlid));
        Ok(())
    }

    /// Something about a namespace has changed: queue halves look again, and the hosts of `only`
    /// that controller, or of all that have it, are told.
    pub(super) fn changed(&self, nsid: u32, only: Option<u16>) {
        self.generation.fetch_add(1, SeqCst);
        let attached = self.attached_to(nsid);
        for controller in self.controllers() {
            let cntlid = controller.cntlid();
            if only.map_or_else(|| attached.contains(&cntlid), |only| only == cntlid) {
                controller.namespace_changed(nsid);
            }
        }
    }

    /// Moves whenever a namespace comes, goes or changes.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// The namespace with this ID.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<Arc<Namespace>> {
        self.lock().members.get(&nsid).map(|member| Arc::clone(&member.namespace))
    }

    /// The namespace with this ID, if it is attached to a controller.
    #[must_use]
    pub fn attached(&self, nsid: u32, cntlid: u16) -> Option<Arc<Namespace>> {
        let inner = self.lock();
        let member = inner.members.get(&nsid)?;
        member.attached.contains(&cntlid).then(|| Arc::clone(&member.namespace))
    }

    /// All namespaces, or those attached to one controller, by ID.
    #[must_use]
    pub fn namespaces(&self, of: Option<u16>) -> Vec<Arc<Namespace>> {
        let inner = self.lock();
        let wanted = |m: &&Member| of.is_none_or(|cntlid| m.attached.contains(&cntlid));
        inner.members.values().filter(wanted).map(|m| Arc::clone(&m.namespace)).collect()
    }

    /// The controllers that a namespace is attached to.
    #[must_use]
    pub fn attached_to(&self, nsid: u32) -> BTreeSet<u16> {
        self.lock().members.get(&nsid).map(|m| m.attached.clone()).unwrap_or_default()
    }

    /// The controllers, by ID.
    #[must_use]
    pub fn controllers(&self) -> Vec<Arc<Ctl>> {
        self.lock().controllers.values().filter_map(Weak::upgrade).collect()
    }

    /// Tells hosts about a reservation, each through every controller that it uses.
    pub(super) fn tell(&self, nsid: u32, notices: &Notices) {
        for controller in self.controllers() {
            for (host, notice) in notices {
                if controller.host() == *host {
                    controller.notice(*notice, nsid);
                }
            }
        }
    }

    /// A controller was reset: what its host has registered without an identifier is gone.
    pub(super) fn controller_reset(&self, cntlid: u16) {
        for namespace in self.namespaces(None) {
            let changed = namespace.reserve(|all| Ok(all.controller_reset(cntlid)));
            if let Ok((notices, _)) = changed {
                self.tell(namespace.nsid(), &notices);
            }
        }
    }

    /// Adds the controller that `make` makes with an ID of its own.
    pub(super) fn join(&self, make: impl FnOnce(u16) -> Arc<Ctl>) -> Arc<Ctl> {
        let mut inner = self.lock();
        inner.controllers.retain(|_, controller| controller.strong_count() > 0);
        let cntlid = (0..=u16::MAX).find(|id| !inner.controllers.contains_key(id)).unwrap_or(0);
        let controller = make(cntlid);
        inner.controllers.insert(cntlid, Arc::downgrade(&controller));
        controller
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a namespace could not be attached or detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// There is no such namespace.
    NoNamespace,
    /// It is attached already.
    Already,
    /// It is private, and attached to another controller.
    Private,
    /// It is not attached.
    NotAttached,
}

impl Ctl {
    /// A namespace came, went or changed: the host is told, once until it looks (Base 5.16.1.5).
    fn namespace_changed(&self, nsid: u32) {
        self.changed_namespaces(nsid);
        self.raise_event(event::NAMESPACES);
    }
}
