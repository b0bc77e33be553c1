//! Where namespaces come from that a host creates itself.

use std::sync::Arc;

use spindle_block::Root;

use crate::state_file::DiskState;

/// What a pool has made for a namespace.
pub struct PoolDisk {
    /// Its data, all zeros.
    pub root: Arc<Root>,
    /// What of it survives power loss beside its data.
    pub state: Arc<DiskState>,
}

/// Why a pool did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// There is not that much left.
    #[error("the pool has no {0} bytes left")]
    NoSpace(u64),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// How much a pool has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// In all.
    pub total: u64,
    /// Not given to a namespace.
    pub free: u64,
}

/// Makes and removes the disks of namespaces. Called on iothreads: it may not wait, and answers
/// through `done`, from any thread.
pub trait NamespacePool: Send + Sync {
    /// How much there is, and how much of it is free.
    fn capacity(&self) -> Capacity;

    /// Makes a disk of `size` bytes for the namespace with this ID.
    fn create(
        &self,
        nsid: u32,
        size: u64,
        done: Box<dyn FnOnce(Result<PoolDisk, PoolError>) + Send>,
    );

    /// Removes the disk of a namespace that nobody uses any more.
    fn delete(&self, nsid: u32, done: Box<dyn FnOnce(Result<(), PoolError>) + Send>);
}
