//! How a controller is built.

use std::sync::Arc;

use spindle_block::{Root, iothread::Handle};

use super::{pool::NamespacePool, subsystem::Subsystem};
use crate::{policy::ErrorPolicy, state_file::DiskState};

/// The most pairs of I/O queues.
pub const IO_QUEUES_MAX: u16 = 64;
/// The most entries of an I/O queue.
pub const ENTRIES_MAX: u32 = 4096;
/// The highest namespace ID.
pub const NAMESPACES_MAX: u32 = 1024;

/// A PCI vendor and device ID, for the function and for its subsystem. The default is one on which
/// no driver has a workaround: those of well-known virtual controllers make Linux ignore the
/// identifiers of namespaces.
pub const DEFAULT_IDS: (u16, u16) = (0x1234, 0x4e56);

/// A controller. The names are those of QEMU's `nvme` properties.
#[derive(Clone)]
pub struct NvmeConfig {
    /// The device's id.
    pub id: String,
    /// Serial number; bytes beyond 20 are cut off.
    pub serial: String,
    /// Model number; bytes beyond 40 are cut off.
    pub model: String,
    /// PCI vendor and device ID.
    pub pci_ids: (u16, u16),
    /// The iothreads: completion queue `n` is served by the `n`-th of them, in turn; the admin
    /// queue by the first. At least one.
    pub iothreads: Vec<Handle>,
    /// Pairs of I/O queues that the host may create: 1 to 64.
    pub max_ioqpairs: u16,
    /// Entries of an I/O queue: 2 to 4096.
    pub max_entries: u32,
    /// MSI-X vectors, 0 for none; `None`: one for each I/O queue pair and one for the admin queue.
    pub vectors: Option<u16>,
    /// Maximum data transfer size, as a power of two of 4096-byte pages; 0: no limit but that of
    /// the memory described.
    pub mdts: u8,
    /// Asynchronous event requests that are parked at a time, less one (AERL).
    pub event_requests_z: u8,
    /// Offer Doorbell Buffer Config.
    pub shadow_doorbells: bool,
    /// Signal the doorbells of I/O queues by eventfds once they have shadows.
    pub ioeventfd: bool,
    /// What a failed write, flush, discard or write-zeroes does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// The subsystem that the controller belongs to; `None`: one of its own.
    pub subsystem: Option<Arc<Subsystem>>,
    /// Its namespaces.
    pub namespaces: Vec<NvmeNamespaceConfig>,
    /// Where namespaces come from that the host creates; `None`: it cannot create any.
    pub pool: Option<Arc<dyn NamespacePool>>,
    /// What of the controller survives power loss: firmware slots, saved features.
    pub state: Arc<DiskState>,
}

impl NvmeConfig {
    /// A controller with QEMU's defaults and no namespaces.
    #[must_use]
    pub fn new(id: &str, iothreads: Vec<Handle>) -> Self {
        Self {
            id: id.to_owned(),
            serial: id.to_owned(),
            model: "spindle NVMe".to_owned(),
            pci_ids: DEFAULT_IDS,
            iothreads,
            max_ioqpairs: IO_QUEUES_MAX,
            max_entries: ENTRIES_MAX,
            vectors: None,
            mdts: 7,
            event_requests_z: u8::MAX,
            shadow_doorbells: true,
            ioeventfd: true,
            werror: ErrorPolicy::Enospc,
            rerror: ErrorPolicy::Report,
            subsystem: None,
            namespaces: Vec::new(),
            pool: None,
            state: DiskState::volatile(),
        }
    }
}

/// What a namespace tells its host about sizes that suit it, in bytes; `None`: as the image does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeHints {
    /// Preferred write granularity and alignment (NPWG, NPWA).
    pub write: Option<u32>,
    /// Optimal write size (NOWS); `None`: as `write`.
    pub optimal_write: Option<u32>,
    /// Preferred deallocate granularity and alignment (NPDG, NPDA).
    pub discard: Option<u32>,
}

/// A namespace.
#[derive(Clone)]
pub struct NvmeNamespaceConfig {
    /// What its data is in.
    pub root: Arc<Root>,
    /// Its ID, 1 to 1024; `None`: the lowest that is free.
    pub nsid: Option<u32>,
    /// Logical block size in bytes until the host formats it: 512 or 4096.
    pub block_size: u32,
    /// Sizes that suit it.
    pub hints: SizeHints,
    /// UUID; `None`: one that follows from the subsystem's serial number and the ID.
    pub uuid: Option<[u8; 16]>,
    /// IEEE extended unique identifier; `None`: as for the UUID.
    pub eui64: Option<[u8; 8]>,
    /// Namespace globally unique identifier; `None`: as for the UUID.
    pub nguid: Option<[u8; 16]>,
    /// Several controllers of the subsystem may use it at the same time.
    pub shared: bool,
    /// What of it survives power loss beside its data.
    pub state: Arc<DiskState>,
    /// It came from the pool: its host may delete it.
    pub pooled: bool,
}

impl NvmeNamespaceConfig {
    /// A namespace with blocks of 512 bytes over `root`.
    #[must_use]
    pub fn new(root: Arc<Root>) -> Self {
        Self {
            root,
            nsid: None,
            block_size: 512,
            hints: SizeHints::default(),
            uuid: None,
            eui64: None,
            nguid: None,
            shared: true,
            state: DiskState::volatile(),
            pooled: false,
        }
    }
}

/// Why a controller or a namespace cannot be made as described.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// A property is outside of its range.
    #[error("'{id}': {what} is {value}, but must be {allowed}")]
    Property {
        /// The controller's id.
        id: String,
        /// The property.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it can be.
        allowed: &'static str,
    },
    /// No iothread was given.
    #[error("'{0}' has no iothread")]
    NoIothread(String),
    /// Fewer vectors than the queues need.
    #[error("'{id}' has {queues} I/O queues but {vectors} vectors; give it vectors={needed}")]
    Vectors {
        /// The controller's id.
        id: String,
        /// I/O queue pairs.
        queues: u16,
        /// Vectors given.
        vectors: u16,
        /// Vectors needed.
        needed: u16,
    },
    /// The image holds no block.
    #[error("namespace {nsid}: the image of {size} bytes is smaller than a block of {block}")]
    TooSmall {
        /// The namespace.
        nsid: u32,
        /// The image's size.
        size: u64,
        /// The block size.
        block: u32,
    },
    /// The namespace ID is taken, or none is left.
    #[error("namespace {0} is there already; give one of the two another nsid=")]
    Taken(u32),
    /// All namespace IDs are taken.
    #[error("the subsystem has no namespace ID left")]
    Full,
    /// The PCI function could not be built.
    #[error(transparent)]
    Endpoint(#[from] crate::pci::EndpointError),
}

impl NvmeConfig {
    /// Checks what can be checked without building anything.
    ///
    /// # Errors
    /// The first property that makes no sense.
    pub fn check(&self) -> Result<(), NvmeError> {
        let wrong = |what, value, allowed| {
            Err(NvmeError::Property { id: self.id.clone(), what, value, allowed })
        };
        if self.iothreads.is_empty() {
            return Err(NvmeError::NoIothread(self.id.clone()));
        }
        if !(1..=IO_QUEUES_MAX).contains(&self.max_ioqpairs) {
            return wrong("max_ioqpairs", self.max_ioqpairs.into(), "1 to 64");
        }
        if !(2..=ENTRIES_MAX).contains(&self.max_entries) {
            return wrong("max_entries", self.max_entries.into(), "2 to 4096");
        }
        if self.mdts > 12 {
            return wrong("mdts", self.mdts.into(), "0 to 12");
        }
        let needed = self.max_ioqpairs + 1;
        match self.vectors {
            Some(vectors) if vectors > 0 && vectors < needed => {
                let (id, queues) = (self.id.clone(), self.max_ioqpairs);
                Err(NvmeError::Vectors { id, queues, vectors, needed })
            }
            Some(vectors) if vectors > 256 => wrong("vectors", vectors.into(), "at most 256"),
            _ => Ok(()),
        }
    }

    /// MSI-X vectors.
    #[must_use]
    pub(super) fn vector_count(&self) -> u16 {
        self.vectors.unwrap_or(self.max_ioqpairs + 1)
    }

    /// Largest transfer in bytes.
    #[must_use]
    pub(super) fn transfer_max(&self) -> u64 {
        // 0 is no limit: then blocks are counted in 16 bits.
        if self.mdts == 0 { 65536 * 4096 } else { 4096 << self.mdts }
    }
}
