//! Namespace Management and Namespace Attachment (Base 5.22, 5.23).

use std::sync::Arc;

use crate::{
    device::Countdown,
    nvme::{
        config::{NAMESPACES_MAX, NvmeNamespaceConfig},
        controller::Ctl,
        namespace::FORMATS,
        oneshot::channel,
        pool::{Capacity, PoolError},
        spec::{NSID_ALL, Sqe},
        status::Status,
        subsystem::{AttachError, Subsystem},
    },
    state_file::Fields,
};

/// What the subsystem has in all, and what of it is in no namespace.
#[must_use]
pub fn capacity(subsystem: &Subsystem) -> Capacity {
    let fixed = subsystem.namespaces(None).into_iter().filter(|ns| !ns.is_pooled());
    let fixed = fixed.fold(0u64, |sum, ns| sum.saturating_add(ns.root().info().size));
    let pool = subsystem.pool().map(|pool| pool.capacity()).unwrap_or_default();
    Capacity { total: fixed.saturating_add(pool.total), free: pool.free }
}

/// What Namespace Management does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manage {
    /// A namespace of this size in bytes is created.
    Create {
        /// Bytes.
        size: u64,
        /// Block size as a power of two.
        shift: u8,
        /// Several controllers may have it.
        shared: bool,
    },
    /// A namespace, or all that can be, are deleted.
    Delete(u32),
}

impl Manage {
    /// Whether the host sends a data structure with the command.
    #[must_use]
    pub fn data_len(sqe: &Sqe) -> usize {
        if sqe.dword::<10>() & 0xf == 0 { 4096 } else { 0 }
    }

    /// What the command asks for.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    pub fn parse(sqe: &Sqe, data: &[u8]) -> Result<Self, Status> {
        match sqe.dword::<10>() & 0xf {
            // The NVM command set is the only one.
            0 if sqe.dword::<11>() >> 24 == 0 => Self::parse_create(data),
            1 => Ok(Self::Delete(sqe.nsid.get())),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// The fields of Identify Namespace that a host sets (NVM figure 103).
    fn parse_create(data: &[u8]) -> Result<Self, Status> {
        let truncated = |_| Status::INTERNAL;
        let mut fields = Fields::new(data);
        let (size, capacity) = (fields.u64().map_err(truncated)?, fields.u64().map_err(truncated)?);
        fields.take(10).map_err(truncated)?;
        let format = fields.u8().map_err(truncated)?;
        fields.take(2).map_err(truncated)?;
        let (protection, sharing) =
            (fields.u8().map_err(truncated)?, fields.u8().map_err(truncated)?);
        let format = usize::from(format & 0xf | (format >> 1 & 0x30));
        let shift = *FORMATS.get(format).ok_or(Status::INVALID_FORMAT)?;
        if size != capacity {
            return Err(Status::THIN_PROVISIONING);
        }
        if size == 0 || protection != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let size = size.checked_mul(1 << shift).ok_or(Status::INSUFFICIENT_CAPACITY)?;
        Ok(Self::Create { size, shift, shared: sharing & 1 != 0 })
    }

    /// Does it. A create answers with the new ID.
    ///
    /// # Errors
    /// When there is no room, no pool, or no such namespace.
    pub async fn run(self, ctl: Arc<Ctl>) -> Result<u32, Status> {
        match self {
            Self::Create { size, shift, shared } => create(&ctl, size, shift, shared).await,
            Self::Delete(NSID_ALL) => {
                let all = ctl.subsystem().namespaces(None);
                let pooled: Vec<_> =
                    all.iter().filter(|ns| ns.is_pooled()).map(|ns| ns.nsid()).collect();
                // Nobody may hold on to what is deleted.
                drop(all);
                for nsid in pooled {
                    delete(&ctl, nsid).await?;
                }
                Ok(0)
            }
            Self::Delete(nsid) => delete(&ctl, nsid).await.map(|()| 0),
        }
    }
}

async fn create(ctl: &Ctl, size: u64, shift: u8, shared: bool) -> Result<u32, Status> {
    let subsystem = ctl.subsystem();
    let pool = subsystem.pool().ok_or(Status::INSUFFICIENT_CAPACITY)?;
    if size > pool.capacity().free {
        return Err(Status::INSUFFICIENT_CAPACITY);
    }
    let nsid = subsystem.promise().ok_or(Status::NSID_UNAVAILABLE)?;
    let (made, wait) = channel();
    pool.create(nsid, size, Box::new(move |result| made.send(result)));
    let result = wait.await;
    subsystem.keep_promise(nsid);
    let disk = match result {
        Some(Ok(disk)) => disk,
        Some(Err(PoolError::NoSpace(_))) => return Err(Status::INSUFFICIENT_CAPACITY),
        Some(Err(error @ PoolError::Failed(_))) => {
            log::warn!("{}: cannot create namespace {nsid}: {error}", ctl.config().id);
            return Err(Status::INTERNAL);
        }
        None => return Err(Status::INTERNAL),
    };
    let config = NvmeNamespaceConfig {
        nsid: Some(nsid),
        block_size: 1 << shift,
        shared,
        state: disk.state,
        pooled: true,
        ..NvmeNamespaceConfig::new(disk.root)
    };
    match subsystem.add(&config) {
        // A pool that outlives the machine finds the block size in the state.
        Ok(namespace) => {
            namespace.reformat(shift).await?;
            subsystem.save_attachment(nsid).await.map(|()| nsid)
        }
        Err(error) => {
            log::warn!("{}: {error}", ctl.config().id);
            Err(Status::INTERNAL)
        }
    }
}

async fn delete(ctl: &Ctl, nsid: u32) -> Result<(), Status> {
    let subsystem = ctl.subsystem();
    if !(1..=NAMESPACES_MAX).contains(&nsid) {
        return Err(Status::INVALID_NAMESPACE);
    }
    let namespace = subsystem.namespace(nsid).ok_or(Status::INVALID_FIELD)?;
    // What the machine was started with is not the host's to remove.
    let pool =
        subsystem.pool().filter(|_| namespace.is_pooled()).ok_or(Status::OPERATION_DENIED)?;
    subsystem.remove(nsid);
    let (quiet, wait) = channel();
    let done = Countdown::new(Box::new(move || quiet.send(())));
    namespace.when_open(done.clone());
    subsystem.controllers().iter().for_each(|ctl| ctl.quiesce(Some(nsid), &done));
    drop((done, namespace));
    wait.await;
    let (removed, wait) = channel();
    pool.delete(nsid, Box::new(move |result| removed.send(result)));
    match wait.await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => {
            log::warn!("{}: cannot delete namespace {nsid}: {error}", ctl.config().id);
            Err(Status::INTERNAL)
        }
        None => Err(Status::INTERNAL),
    }
}

/// Namespace Attachment: `data` is a controller list (Base figure 46).
///
/// # Errors
/// The status of the first controller of the list for which it cannot be done; those before it are
/// done then.
pub async fn attach(ctl: Arc<Ctl>, sqe: Sqe, data: Vec<u8>) -> Result<u32, Status> {
    let (nsid, select) = (sqe.nsid.get(), sqe.dword::<10>() & 0xf);
    if select > 1 {
        return Err(Status::INVALID_FIELD);
    }
    if !(1..=NAMESPACES_MAX).contains(&nsid) {
        return Err(Status::INVALID_NAMESPACE);
    }
    let mut fields = Fields::new(&data);
    let count = fields.u16().map_err(|_| Status::INTERNAL)?;
    if count == 0 || count > 2047 {
        return Err(Status::CONTROLLER_LIST);
    }
    let mut controllers = Vec::new();
    for _ in 0..count {
        let id = fields.u16().map_err(|_| Status::INTERNAL)?;
        let all = ctl.subsystem().controllers();
        let found = all.into_iter().find(|other| other.cntlid() == id);
        controllers.push(found.ok_or(Status::CONTROLLER_LIST)?);
    }
    for other in controllers {
        let subsystem = ctl.subsystem();
        let result = if select == 0 {
            subsystem.attach(nsid, other.cntlid())
        } else {
            subsystem.detach(nsid, other.cntlid())
        };
        result.map_err(|error| match error {
            AttachError::NoNamespace => Status::INVALID_FIELD,
            AttachError::Already => Status::ALREADY_ATTACHED,
            AttachError::Private => Status::NAMESPACE_PRIVATE,
            AttachError::NotAttached => Status::NOT_ATTACHED,
        })?;
        if select == 1 {
            let (quiet, wait) = channel();
            let done = Countdown::new(Box::new(move || quiet.send(())));
            other.quiesce(Some(nsid), &done);
            drop(done);
            wait.await;
        }
        subsystem.save_attachment(nsid).await?;
    }
    Ok(0)
}
