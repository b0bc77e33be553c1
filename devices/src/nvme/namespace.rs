//! A namespace: a root of the block layer with an ID, identifiers and a logical block size. Several
//! controllers of a subsystem may have it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU8,
        Ordering::{Relaxed, SeqCst},
    },
};

use spindle_block::{Range, Root};

use super::{
    background::{Record, SANITIZE_SECTION},
    config::{NvmeError, NvmeNamespaceConfig, SizeHints},
    marks::{self, Marks},
    oneshot::channel,
    reservation::{self, Host, Reservations},
    status::Status,
};
use crate::{
    device::Countdown,
    state_file::{DiskState, Section},
};

/// The logical block sizes that a namespace can be formatted with, as powers of two.
pub const FORMATS: [u8; 2] = [9, 12];

/// What stands before the commands of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    /// Nothing.
    Open = 0,
    /// They wait: somebody needs the namespace alone for a moment.
    Hold = 1,
    /// It is being formatted.
    Format = 2,
    /// It is being sanitized.
    Sanitize = 3,
    /// A sanitize operation failed.
    SanitizeFailed = 4,
}

/// Identifiers (NVM 4.1.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identifiers {
    /// UUID.
    pub uuid: [u8; 16],
    /// IEEE extended unique identifier.
    pub eui64: [u8; 8],
    /// Namespace globally unique identifier.
    pub nguid: [u8; 16],
}

/// See the module.
pub struct Namespace {
    nsid: u32,
    root: Arc<Root>,
    shift: AtomicU8,
    gate: AtomicU8,
    ids: Identifiers,
    state: Arc<DiskState>,
    marks: Marks,
    /// Somebody may be kept from something: commands look at `reservations`.
    reserved: AtomicBool,
    reservations: Mutex<Reservations>,
    /// Who waits for the gate to open before the namespace is closed.
    waiting: Mutex<Vec<Countdown>>,
    pooled: bool,
    shared: bool,
    hints: SizeHints,
}

/// The section of the state that has the block size of the last format.
const FORMAT_SECTION: &str = "nvme/format";
const FORMAT_VERSION: u16 = 1;

fn saved_shift(state: &DiskState) -> Option<u8> {
    let section = state.get(FORMAT_SECTION)?;
    let shift = *section.bytes.first()?;
    (section.version == FORMAT_VERSION && FORMATS.contains(&shift)).then_some(shift)
}

/// The first bytes of identifiers that follow from names: locally administered, as KVM's network
/// cards have.
pub const OUI: [u8; 3] = [0x52, 0x54, 0x00];

/// A number that follows from `seed` (FNV-1a, 64 bits), different for each `salt`.
fn hash(seed: &str, nsid: u32, salt: u8) -> u64 {
    let bytes = seed.bytes().chain(nsid.to_le_bytes()).chain([salt]);
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The low bits of FNV are weak in the last bytes: mix them.
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A UUID of the kind that is custom made (RFC 9562, 5.8).
#[must_use]
pub fn uuid_of(seed: &str, nsid: u32) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&hash(seed, nsid, 1).to_be_bytes());
    uuid[8..].copy_from_slice(&hash(seed, nsid, 2).to_be_bytes());
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

impl Identifiers {
    /// Those that were given, and for the rest some that follow from `seed`.
    #[must_use]
    pub fn new(config: &NvmeNamespaceConfig, seed: &str, nsid: u32) -> Self {
        let eui64 = config.eui64.unwrap_or_else(|| {
            let mut eui64 = hash(seed, nsid, 3).to_be_bytes();
            eui64[..3].copy_from_slice(&OUI);
            eui64
        });
        let nguid = config.nguid.unwrap_or_else(|| {
            // Vendor-specific extension, OUI, extension (NVM 4.1.5.1).
            let mut nguid = [0; 16];
            nguid[..8].copy_from_slice(&hash(seed, nsid, 4).to_be_bytes());
            nguid[8..11].copy_from_slice(&OUI);
            nguid[11..].copy_from_slice(&hash(seed, nsid, 5).to_be_bytes()[..5]);
            nguid
        });
        Self { uuid: config.uuid.unwrap_or_else(|| uuid_of(seed, nsid)), eui64, nguid }
    }
}

impl Namespace {
    /// A namespace with this ID.
    ///
    /// # Errors
    /// When its block size is none that there is, or its image holds no block.
    pub fn new(
        config: &NvmeNamespaceConfig,
        seed: &str,
        nsid: u32,
    ) -> Result<Arc<Self>, NvmeError> {
        let shift = match config.block_size {
            512 => 9,
            4096 => 12,
            value => {
                let value = value.into();
                let id = format!("namespace {nsid}");
                let allowed = "512 or 4096";
                return Err(NvmeError::Property { id, what: "block size", value, allowed });
            }
        };
        let shift = saved_shift(&config.state).unwrap_or(shift);
        let (size, block) = (config.root.info().size, 1 << shift);
        if size < u64::from(block) {
            return Err(NvmeError::TooSmall { nsid, size, block });
        }
        let reservations = Reservations::load(config.state.get(reservation::SECTION).as_ref());
        let gate = Record::load(config.state.get(SANITIZE_SECTION).as_ref()).gate();
        Ok(Arc::new(Self {
            nsid,
            root: Arc::clone(&config.root),
            shift: AtomicU8::new(shift),
            gate: AtomicU8::new(gate as u8),
            ids: Identifiers::new(config, seed, nsid),
            marks: Marks::load(config.state.get(marks::SECTION).as_ref()),
            reserved: AtomicBool::new(!reservations.is_free()),
            reservations: Mutex::new(reservations),
            waiting: Mutex::default(),
            pooled: config.pooled,
            state: Arc::clone(&config.state),
            shared: config.shared,
            hints: config.hints,
        }))
    }

    /// Sizes that suit it.
    #[must_use]
    pub fn hints(&self) -> SizeHints {
        self.hints
    }

    /// Its ID.
    #[must_use]
    pub fn nsid(&self) -> u32 {
        self.nsid
    }

    /// Its data.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The logical block size as a power of two.
    #[inline]
    #[must_use]
    pub fn shift(&self) -> u8 {
        self.shift.load(Relaxed)
    }

    /// Changes the logical block size, for as long as the state lasts. Nothing of the namespace is in
    /// flight, and whoever cached it looks again.
    ///
    /// # Errors
    /// When it could not be saved; it is as it was then.
    pub(super) async fn reformat(&self, shift: u8) -> Result<(), Status> {
        let section = Section { version: FORMAT_VERSION, bytes: vec![shift] };
        self.save(FORMAT_SECTION, section).await?;
        self.shift.store(shift, SeqCst);
        Ok(())
    }

    /// What of it survives power loss beside its data.
    pub(super) fn state(&self) -> &DiskState {
        &self.state
    }

    /// Saves a section of the disk's state, and waits until it is durable.
    ///
    /// # Errors
    /// When it could not be saved.
    pub(super) async fn save(&self, name: &str, section: Section) -> Result<(), Status> {
        let (saved, wait) = channel();
        self.state.put(name, section, Box::new(move |result| saved.send(result)));
        match wait.await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                log::warn!("namespace {}: cannot save its state: {error}", self.nsid);
                Err(Status::INTERNAL)
            }
            None => Err(Status::INTERNAL),
        }
    }

    /// Logical blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.root.info().size >> self.shift()
    }

    /// Blocks that Write Uncorrectable has made unreadable.
    #[inline]
    #[must_use]
    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Saves the marks.
    ///
    /// # Errors
    /// As [`Namespace::save`].
    pub(super) async fn save_marks(&self) -> Result<(), Status> {
        self.save(marks::SECTION, self.marks.section()).await
    }

    /// Takes the marks from a range that was written.
    ///
    /// # Errors
    /// As [`Namespace::save`].
    pub(super) async fn unmark(&self, range: Range) -> Result<(), Status> {
        if self.marks.remove(range) { self.save_marks().await } else { Ok(()) }
    }

    /// Whether a host may read, or write. One load where nothing is reserved.
    #[inline]
    #[must_use]
    pub(super) fn allows(&self, host: impl FnOnce() -> Host, write: bool) -> bool {
        !self.reserved.load(Relaxed) || self.reservations().allows(host(), write)
    }

    /// The reservations, to look at.
    pub(super) fn reservations(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the reservations; returns what is to be saved, if they persist or did.
    ///
    /// # Errors
    /// What `change` says; nothing has changed then.
    pub(super) fn reserve<T>(
        &self,
        change: impl FnOnce(&mut Reservations) -> Result<T, Status>,
    ) -> Result<(T, bool), Status> {
        let mut reservations = self.reservations();
        let mut new = reservations.clone();
        let value = change(&mut new)?;
        let save = (new.persist || reservations.persist) && new != *reservations;
        self.reserved.store(!new.is_free(), SeqCst);
        *reservations = new;
        Ok((value, save))
    }

    /// Saves the reservations, or forgets those that were saved.
    ///
    /// # Errors
    /// As [`Namespace::save`].
    pub(super) async fn save_reservations(&self) -> Result<(), Status> {
        let section = {
            let reservations = self.reservations();
            reservations.persist.then(|| reservations.section())
        };
        match section {
            Some(section) => self.save(reservation::SECTION, section).await,
            None => self.save(reservation::SECTION, Section::default()).await,
        }
    }

    /// Its identifiers.
    #[must_use]
    pub fn ids(&self) -> &Identifiers {
        &self.ids
    }

    /// Whether several controllers may use it at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether its host may delete it.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Whether it takes no writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.root.info().read_only
    }

    /// What stands before its commands. One load.
    #[inline]
    #[must_use]
    pub fn gate(&self) -> Gate {
        match self.gate.load(Relaxed) {
            0 => Gate::Open,
            1 => Gate::Hold,
            2 => Gate::Format,
            3 => Gate::Sanitize,
            _ => Gate::SanitizeFailed,
        }
    }

    /// Closes the gate. Commands that were taken before may still be in flight.
    ///
    /// # Errors
    /// When it is closed already, and how.
    pub(super) fn close(&self, gate: Gate) -> Result<(), Gate> {
        let from = |old| self.gate.compare_exchange(old as u8, gate as u8, SeqCst, SeqCst);
        let mut closed = from(Gate::Open);
        // A failed sanitize operation is tried again.
        if closed.is_err() && gate == Gate::Sanitize {
            closed = from(Gate::SanitizeFailed);
        }
        closed.map(drop).map_err(|_| self.gate())
    }

    /// Opens the gate.
    pub(super) fn open(&self) {
        self.leave(Gate::Open);
    }

    /// Whoever has the namespace alone leaves it, with the gate like this.
    pub(super) fn leave(&self, gate: Gate) {
        self.gate.store(gate as u8, SeqCst);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(std::mem::take(&mut *waiting));
    }

    /// Lets go of `done` once whoever has closed the gate has opened it again.
    pub(super) fn when_open(&self, done: Countdown) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(self.gate(), Gate::Open | Gate::SanitizeFailed) {
            waiting.push(done);
        }
    }
}

impl Gate {
    /// What a command of a closed namespace ends with; nothing for those that pass or wait.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        match self {
            Self::Open | Self::Hold => None,
            Self::Format => Some(Status::FORMAT_IN_PROGRESS),
            Self::Sanitize => Some(Status::SANITIZE_IN_PROGRESS),
            Self::SanitizeFailed => Some(Status::SANITIZE_FAILED),
        }
    }
}
