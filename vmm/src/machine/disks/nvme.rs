//! `nvme` and `nvme-ns`.

use std::sync::Arc;

use spindle_block::Root;
use spindle_devices::{
    device::Done,
    nvme::{Nvme, NvmeConfig, NvmeNamespaceConfig, SizeHints, Subsystem},
};

use super::{
    Controller, Disk, DiskDevice, Made, Scope, Site, events::policy, lease::Lease, pool::Pool,
};
use crate::{
    machine::{BuildError, iothreads::wait_for},
    monitor::schema::IoStatus,
    spec::device::{Drive, Kindred, NvmeNsSpec, NvmeSizes, NvmeSpec, hex_bytes, pci_id},
};

/// The block size of a namespace that nobody said anything of, in bytes.
const BLOCK: u32 = 512;

/// A namespace as a disk.
struct Namespace {
    controller: Nvme,
    nsid: u32,
}

impl DiskDevice for Namespace {
    fn resized(&self) {
        self.controller.resized(self.nsid);
    }

    fn leave(&self, done: Done) {
        self.controller.remove_namespace(self.nsid, done);
    }
}

/// Builds a controller, with a namespace on its drive if it has one.
pub(super) fn build(
    nvme: &NvmeSpec,
    subsystem: Option<Arc<Subsystem>>,
    site: Site<'_>,
) -> Result<Made, BuildError> {
    let Site { scope, slot } = site;
    let mut config = NvmeConfig {
        pci_ids: nvme
            .pci_id
            .as_deref()
            .and_then(pci_id)
            .unwrap_or(spindle_devices::nvme::config::DEFAULT_IDS),
        max_ioqpairs: nvme.max_ioqpairs,
        max_entries: u32::from(nvme.mqes) + 1,
        vectors: nvme.msix_qsize,
        mdts: nvme.mdts,
        event_requests_z: nvme.aerl,
        shadow_doorbells: nvme.dbcs,
        ioeventfd: nvme.ioeventfd,
        werror: policy(nvme.werror),
        rerror: policy(nvme.rerror),
        subsystem,
        ..NvmeConfig::new(&nvme.id, scope.iothreads.of_queues(nvme)?)
    };
    if let Some(serial) = &nvme.serial {
        config.serial.clone_from(serial);
    }
    if let Some(model) = &nvme.model {
        config.model.clone_from(model);
    }
    let mut first = None;
    if let Some(drive) = nvme.drive() {
        let size = block_size(nvme.logical_block_size);
        let lease = scope.attach(&nvme.id, drive, size)?;
        let mut namespace =
            namespace(&scope, &lease, drive, nvme.write_cache, nvme.state.as_deref())?;
        namespace.nsid = Some(1);
        namespace.block_size = size;
        namespace.hints = hints(&nvme.sizes);
        config.state = Arc::clone(&namespace.state);
        config.namespaces.push(namespace);
        first = Some(lease);
    } else if nvme.state.is_some() {
        config.state = scope.states.of(scope.graph, "", nvme.state.as_deref())?;
    }
    if let (Some(dir), Some(size)) = (&nvme.pool, nvme.pool_size) {
        let failed = |reason| BuildError::Pool { dir: dir.into(), reason };
        let control = scope.iothreads.control()?;
        let shared = (scope.graph, scope.states);
        let mailbox = &scope.ground.mailbox;
        let pool = Pool::new(&nvme.id, (dir.as_ref(), size), shared, control.clone(), mailbox);
        for nsid in pool.existing().map_err(|e| failed(e.to_string()))? {
            let at = Arc::clone(&pool);
            let opened = wait_for(&control, move |cx| async move { at.open(cx, nsid).await });
            let disk = opened.ok_or(BuildError::IothreadGone)?.map_err(failed)?;
            config.namespaces.push(NvmeNamespaceConfig {
                nsid: Some(nsid),
                pooled: true,
                state: disk.state,
                ..NvmeNamespaceConfig::new(disk.root)
            });
        }
        config.pool = Some(pool);
    }
    let device = Nvme::new(config, scope.ground.dma.clone(), slot, scope.failures())
        .map_err(BuildError::Nvme)?;
    let mut disks = Vec::new();
    if let Some(lease) = first {
        disks.push(disk(&nvme.id, &nvme.id, lease, nvme.write_cache, &device, 1)?);
    }
    Ok(Made { function: device.function(), disks, controller: Controller::Nvme(device) })
}

/// Adds a namespace through a controller.
pub(super) fn add(
    ns: &NvmeNsSpec,
    controller: &str,
    device: &Nvme,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let drive = Drive { node: &ns.drive, share_rw: ns.share_rw };
    let size = block_size(ns.logical_block_size);
    let lease = scope.attach(&ns.id, drive, size)?;
    let config = NvmeNamespaceConfig {
        nsid: Some(ns.nsid),
        block_size: size,
        hints: hints(&ns.sizes),
        uuid: hex_bytes(&ns.uuid).ok().flatten(),
        eui64: (ns.eui64 != 0).then(|| ns.eui64.to_be_bytes()),
        nguid: hex_bytes(&ns.nguid).ok().flatten(),
        shared: ns.shared,
        ..namespace(scope, &lease, drive, ns.write_cache, ns.state.as_deref())?
    };
    // Whatever fails from here on leaves no namespace behind: adding it comes last.
    let disk = disk(&ns.id, controller, lease, ns.write_cache, device, ns.nsid)?;
    let subsystem = device.subsystem();
    subsystem.add(&config).map_err(BuildError::Nvme)?;
    let ours = |cntlid| ns.shared || cntlid == device.cntlid();
    subsystem.settle(ns.nsid, |cntlid| !ns.detached && ours(cntlid));
    Ok(disk)
}

fn hints(sizes: &NvmeSizes) -> SizeHints {
    let given = |bytes: u32| (bytes != 0).then_some(bytes);
    SizeHints {
        write: given(sizes.min_io_size.max(sizes.physical_block_size)),
        optimal_write: given(sizes.opt_io_size),
        discard: sizes.discard_granularity,
    }
}

fn block_size(given: u32) -> u32 {
    if given == 0 { BLOCK } else { given }
}

fn namespace(
    scope: &Scope<'_>,
    lease: &Arc<Lease>,
    drive: Drive<'_>,
    write_cache: bool,
    state: Option<&str>,
) -> Result<NvmeNamespaceConfig, BuildError> {
    let root: &Arc<Root> = lease.root();
    if !write_cache {
        root.set_policy(|policy| policy.write_through = true);
    }
    let state = scope.states.of(scope.graph, drive.node, state)?;
    Ok(NvmeNamespaceConfig { state, ..NvmeNamespaceConfig::new(Arc::clone(root)) })
}

pub(super) fn disk(
    id: &str,
    function: &str,
    lease: Arc<Lease>,
    write_cache: bool,
    device: &Nvme,
    nsid: u32,
) -> Result<Disk, BuildError> {
    Ok(Disk {
        id: id.to_owned(),
        function: function.to_owned(),
        medium: Some(super::Medium::new(lease, device.function())?),
        device: Arc::new(Namespace { controller: device.clone(), nsid }),
        io_status: IoStatus::Ok,
        write_cache,
        drive: None,
        own_node: None,
        leaving: false,
    })
}
