//! `virtio-scsi-pci`, and the units behind it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use spindle_block::Root;
use spindle_devices::{
    device::Done,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    virtio::{VirtioScsi, VirtioScsiConfig},
};

use super::{
    Controller, Disk, DiskDevice, Made, Medium, Scope, Site, events::policy, lease::Lease,
};
use crate::{
    machine::BuildError,
    monitor::{Event, schema::IoStatus},
    spec::device::{Drive, ScsiCdSpec, ScsiHdSpec, ScsiIdentity, ScsiPlace, VirtioScsiSpec},
};

/// A block of a CD, in bytes.
const CD_BLOCK: u32 = 2048;

/// Units that several adapters may share, by the node they are on.
pub(super) type Units = BTreeMap<String, (Weak<LogicalUnit>, Weak<Lease>)>;

/// A unit as a disk.
struct Unit {
    adapter: VirtioScsi,
    at: (u8, u16),
    unit: Arc<LogicalUnit>,
}

impl DiskDevice for Unit {
    fn resized(&self) {
        self.unit.resized();
    }

    fn leave(&self, done: Done) {
        // It is called all the same where the unit is gone already.
        let _ = self.adapter.remove_lun(self.at.0, self.at.1, done);
    }
}

/// Builds an adapter.
pub(super) fn build(adapter: &VirtioScsiSpec, site: Site<'_>) -> Result<Made, BuildError> {
    let Site { scope, slot } = site;
    let config = VirtioScsiConfig {
        queue_size: adapter.virtqueue_size,
        max_sectors: adapter.max_sectors,
        cmd_per_lun: adapter.cmd_per_lun,
        seg_max_adjust: adapter.seg_max_adjust,
        hotplug: adapter.hotplug,
        param_change: adapter.param_change,
        event_idx: adapter.event_idx,
        indirect_desc: adapter.indirect_desc,
        queue_reset: adapter.queue_reset,
        vectors: adapter.vectors,
        ..VirtioScsiConfig::new(&adapter.id, scope.iothreads.of_queues(adapter)?)
    };
    let device = VirtioScsi::new(config, scope.ground.dma.clone(), slot, scope.failures())?;
    let function = device.function();
    Ok(Made { function, disks: Vec::new(), controller: Controller::Scsi(device) })
}

fn identify(config: &mut UnitConfig, identity: &ScsiIdentity) {
    let set = |to: &mut String, given: &Option<String>| {
        if let Some(text) = given {
            to.clone_from(text);
        }
    };
    set(&mut config.serial, &identity.serial);
    set(&mut config.vendor, &identity.vendor);
    set(&mut config.product, &identity.product);
    set(&mut config.version, &identity.ver);
    set(&mut config.device_id, &identity.device_id);
    config.wwn = identity.wwn;
    config.port_wwn = identity.port_wwn;
    config.port_index = identity.port_index;
    config.scsi_version = identity.scsi_version;
    config.max_io_size = identity.max_io_size;
}

/// Puts a disk behind an adapter. A second device on a node that is shared is the same unit again, so
/// that both adapters see its reservations.
pub(super) fn add_disk(
    disk: &ScsiHdSpec,
    adapter: &VirtioScsi,
    units: &mut Units,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let shared = units.get(&disk.drive).filter(|_| disk.share_rw);
    let shared = shared.and_then(|(unit, lease)| Some((unit.upgrade()?, lease.upgrade()?)));
    let (unit, lease) = match shared {
        Some(shared) => shared,
        None => {
            let mut config = UnitConfig {
                logical_block_size: disk.logical_block_size,
                physical_block_size: disk.physical_block_size,
                min_io_size: disk.min_io_size,
                opt_io_size: disk.opt_io_size,
                discard_granularity: disk.discard_granularity,
                rotation_rate: disk.rotation_rate,
                removable: disk.removable,
                write_cache: disk.write_cache,
                werror: policy(disk.werror),
                rerror: policy(disk.rerror),
                ..UnitConfig::new(&disk.id, UnitKind::Disk)
            };
            let block = config.block_size();
            let unmap = disk.max_unmap_size / u64::from(block);
            config.max_unmap_blocks = u32::try_from(unmap).unwrap_or(u32::MAX).max(1);
            identify(&mut config, &disk.identity);
            let drive = Drive { node: &disk.drive, share_rw: disk.share_rw };
            let lease = scope.attach(&disk.id, drive, block)?;
            let state = scope.states.of(scope.graph, drive.node, disk.state.as_deref())?;
            config.state = Some(state);
            let unit = LogicalUnit::new(config, Some(Arc::clone(lease.root())));
            if disk.share_rw {
                let both = (Arc::downgrade(&unit), Arc::downgrade(&lease));
                units.insert(disk.drive.clone(), both);
            }
            (unit, lease)
        }
    };
    let medium = Medium::new(lease, adapter.function())?;
    seat(&disk.id, &disk.place, adapter, unit, Some(medium), disk.write_cache)
}

/// Puts a drive behind an adapter.
pub(super) fn add_drive(
    drive: &ScsiCdSpec,
    adapter: &VirtioScsi,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let (id, mailbox) = (drive.id.clone(), Arc::clone(&scope.ground.mailbox));
    let mut config = UnitConfig {
        rerror: policy(drive.rerror),
        on_tray: Some(Arc::new(move |open| {
            mailbox.tell(Event::DeviceTrayMoved { device: id.clone(), open });
        })),
        ..UnitConfig::new(&drive.id, UnitKind::Cd)
    };
    identify(&mut config, &drive.identity);
    let (root, medium) = match drive.drive.as_deref() {
        Some(node) => {
            let (root, medium) = medium(&drive.id, node, adapter, scope)?;
            (Some(root), Some(medium))
        }
        None => (None, None),
    };
    let unit = LogicalUnit::new(config, root);
    let mut disk = seat(&drive.id, &drive.place, adapter, Arc::clone(&unit), medium, true)?;
    disk.drive = Some(unit);
    Ok(disk)
}

/// A drive's hold on a node.
pub(super) fn medium(
    id: &str,
    node: &str,
    adapter: &VirtioScsi,
    scope: &Scope<'_>,
) -> Result<(Arc<Root>, Medium), BuildError> {
    let lease = scope.attach_to_read(id, node, CD_BLOCK)?;
    Ok((Arc::clone(lease.root()), Medium::new(lease, adapter.function())?))
}

fn seat(
    id: &str,
    place: &ScsiPlace,
    adapter: &VirtioScsi,
    unit: Arc<LogicalUnit>,
    medium: Option<Medium>,
    write_cache: bool,
) -> Result<Disk, BuildError> {
    let at = place.address();
    adapter.add_lun(at.0, at.1, Arc::clone(&unit)).map_err(BuildError::Lun)?;
    Ok(Disk {
        id: id.to_owned(),
        function: place.adapter().to_owned(),
        medium,
        device: Arc::new(Unit { adapter: adapter.clone(), at, unit }),
        io_status: IoStatus::Ok,
        write_cache,
        drive: None,
        own_node: None,
        leaving: false,
    })
}
