//! `ich9-ahci`, and the drives behind it.

use std::sync::Arc;

use spindle_block::Root;
use spindle_devices::{
    ahci::{Ahci, AhciConfig, Plug},
    ata::{DriveConfig, Geometry, Transport},
    device::Done,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
};

use super::{
    Controller, Disk, DiskDevice, Made, Medium, Scope, Site, events::policy, lease::Lease,
};
use crate::{
    machine::BuildError,
    monitor::{Event, schema::IoStatus},
    spec::device::{AhciSpec, Drive, IdeCdSpec, IdeHdSpec, IdeIdentity, IdePlace},
};

/// A block of a CD, in bytes.
const CD_BLOCK: u32 = 2048;

/// A drive as a disk.
struct AtPort {
    controller: Ahci,
    port: u8,
    /// Behind the port's multiplier, if it has one.
    unit: u8,
}

impl DiskDevice for AtPort {
    /// ATA has no way to tell: the driver sees it when it identifies the drive anew.
    fn resized(&self) {}

    fn leave(&self, done: Done) {
        // It is called all the same where the port is empty already.
        let _ = self.controller.unplug_unit(self.port, self.unit, done);
    }
}

/// Builds a controller.
pub(super) fn build(ahci: &AhciSpec, site: Site<'_>) -> Result<Made, BuildError> {
    let Site { scope, slot } = site;
    let config = AhciConfig {
        msi: ahci.msi,
        staggered: ahci.staggered,
        multiplier: ahci.multiplier,
        ..AhciConfig::new(&ahci.id, scope.iothreads.of_queues(ahci)?)
    };
    let device = Ahci::new(config, scope.ground.dma.clone(), slot, scope.failures())
        .map_err(BuildError::Ahci)?;
    let function = device.function();
    Ok(Made { function, disks: Vec::new(), controller: Controller::Ahci(device) })
}

/// How a drive introduces itself.
pub(super) fn identify(config: &mut DriveConfig, identity: &IdeIdentity) {
    let set = |to: &mut String, given: &Option<String>| {
        if let Some(text) = given {
            to.clone_from(text);
        }
    };
    set(&mut config.serial, &identity.serial);
    set(&mut config.model, &identity.model);
    set(&mut config.version, &identity.ver);
    config.wwn = identity.wwn;
}

/// A disk's configuration, but for its state.
pub(super) fn disk_config(disk: &IdeHdSpec, transport: Transport) -> DriveConfig {
    let mut config = DriveConfig {
        logical_block_size: disk.logical_block_size,
        physical_block_size: disk.physical_block_size,
        rotation_rate: disk.rotation_rate,
        geometry: (disk.cyls != 0).then_some(Geometry {
            cylinders: disk.cyls,
            heads: disk.heads,
            sectors: disk.secs,
        }),
        write_cache: disk.write_cache,
        werror: policy(disk.werror),
        rerror: policy(disk.rerror),
        ..DriveConfig::new(&disk.id, transport)
    };
    identify(&mut config, &disk.identity);
    config
}

/// Plugs a disk into a port.
pub(super) fn add_disk(
    disk: &IdeHdSpec,
    controller: &Ahci,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let mut config = disk_config(disk, Transport::Serial);
    let drive = Drive { node: &disk.drive, share_rw: disk.share_rw };
    let lease: Arc<Lease> = scope.attach(&disk.id, drive, config.block_size())?;
    config.state = Some(scope.states.of(scope.graph, drive.node, disk.state.as_deref())?);
    let plug = Plug::Disk(config, Arc::clone(lease.root()));
    let medium = Medium::new(lease, controller.function())?;
    seat(&disk.id, &disk.place, controller, plug, Some(medium), disk.write_cache)
}

/// Plugs a CD/DVD drive into a port.
pub(super) fn add_drive(
    drive: &IdeCdSpec,
    controller: &Ahci,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let (id, mailbox) = (drive.id.clone(), Arc::clone(&scope.ground.mailbox));
    let mut unit = UnitConfig {
        rerror: policy(drive.rerror),
        on_tray: Some(Arc::new(move |open| {
            mailbox.tell(Event::DeviceTrayMoved { device: id.clone(), open });
        })),
        ..UnitConfig::new(&drive.id, UnitKind::Cd)
    };
    let mut config = DriveConfig {
        rerror: policy(drive.rerror),
        ..DriveConfig::new(&drive.id, Transport::Serial)
    };
    identify(&mut config, &drive.identity);
    unit.serial.clone_from(&config.serial);
    let (root, medium) = match drive.drive.as_deref() {
        Some(node) => {
            let (root, medium) = medium(&drive.id, node, controller, scope)?;
            (Some(root), Some(medium))
        }
        None => (None, None),
    };
    let unit = LogicalUnit::new(unit, root);
    let plug = Plug::Packet(config, Arc::clone(&unit));
    let mut disk = seat(&drive.id, &drive.place, controller, plug, medium, true)?;
    disk.drive = Some(unit);
    Ok(disk)
}

/// A drive's hold on a node.
pub(super) fn medium(
    id: &str,
    node: &str,
    controller: &Ahci,
    scope: &Scope<'_>,
) -> Result<(Arc<Root>, Medium), BuildError> {
    let lease = scope.attach_to_read(id, node, CD_BLOCK)?;
    Ok((Arc::clone(lease.root()), Medium::new(lease, controller.function())?))
}

fn seat(
    id: &str,
    place: &IdePlace,
    controller: &Ahci,
    plug: Plug,
    medium: Option<Medium>,
    write_cache: bool,
) -> Result<Disk, BuildError> {
    let (port, unit) = (place.port(), place.unit);
    controller.plug_unit(port, unit, plug).map_err(BuildError::Ahci)?;
    Ok(Disk {
        id: id.to_owned(),
        function: place.controller().0.to_owned(),
        medium,
        device: Arc::new(AtPort { controller: controller.clone(), port, unit }),
        io_status: IoStatus::Ok,
        write_cache,
        drive: None,
        own_node: None,
        leaving: false,
    })
}
