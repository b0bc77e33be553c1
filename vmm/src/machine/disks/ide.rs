//! `piix3-ide` and `piix4-ide`, and the drives on their cables.

use std::sync::Arc;

use spindle_block::Root;
use spindle_devices::{
    LineIrq,
    ata::{DriveConfig, Transport},
    device::Done,
    ide::{self, Ide, IdeConfig, IdeSlot, Model, isa_bridge},
    pci::Address,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
};

use super::{
    Controller, Disk, DiskDevice, Made, Medium, Scope, Site, ahci, events::policy, lease::Lease,
};
use crate::{
    machine::{BuildError, board::Board},
    monitor::{Event, schema::IoStatus},
    spec::device::{Drive, IdeCdSpec, IdeHdSpec, IdePlace, PiixIdeSpec},
};

/// A block of a CD, in bytes.
const CD_BLOCK: u32 = 2048;

/// A controller, and what its drives must know of it.
#[derive(Clone)]
pub(super) struct Piix {
    device: Ide,
    model: Model,
}

/// A drive as a disk.
struct OnCable;

impl DiskDevice for OnCable {
    /// ATA has no way to tell: the driver sees it when it identifies the drive anew.
    fn resized(&self) {}

    /// Drives do not leave their cables.
    fn leave(&self, done: Done) {
        done();
    }
}

/// Puts the ISA bridge on the bus, and makes the interrupts of both channels.
pub(super) fn prepare(
    piix4: bool,
    at: Address,
    board: &Board,
) -> Result<[Box<dyn LineIrq>; 2], BuildError> {
    let bridge = isa_bridge(model(piix4));
    board.pci.add(Address { function: 0, ..at }, bridge)?;
    let line = |irq: u8| {
        let what = "an IDE channel's interrupt";
        board.lines.isa(irq).map_err(|source| BuildError::Resources { what, source })
    };
    let [first, second] = ide::spec::IRQ;
    Ok([line(first)?, line(second)?])
}

fn model(piix4: bool) -> Model {
    if piix4 { Model::Piix4 } else { Model::Piix3 }
}

/// Builds a controller.
pub(super) fn build(
    spec: &PiixIdeSpec,
    piix4: bool,
    wires: [Box<dyn LineIrq>; 2],
    site: Site<'_>,
) -> Result<Made, BuildError> {
    let Site { scope, slot } = site;
    let mut handles = scope.iothreads.of_queues(spec)?.into_iter();
    let (Some(first), Some(second)) = (handles.next(), handles.next()) else {
        return Err(BuildError::IothreadGone);
    };
    let model = model(piix4);
    let config = IdeConfig { id: spec.id.clone(), model, iothreads: [first, second] };
    let slot = IdeSlot { device: slot.device, sink: slot.sink, wires };
    let events = scope.failures() as _;
    let device = Ide::new(config, scope.ground.dma.clone(), slot, &events)?;
    let function = device.function();
    let controller = Controller::Ide(Piix { device, model });
    Ok(Made { function, disks: Vec::new(), controller })
}

/// Puts a disk on a cable.
pub(super) fn add_disk(
    disk: &IdeHdSpec,
    piix: &Piix,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let transport = Transport::Parallel { udma: piix.model.udma() };
    let mut config = ahci::disk_config(disk, transport);
    let drive = Drive { node: &disk.drive, share_rw: disk.share_rw };
    let lease: Arc<Lease> = scope.attach(&disk.id, drive, config.block_size())?;
    config.state = Some(scope.states.of(scope.graph, drive.node, disk.state.as_deref())?);
    let root = Arc::clone(lease.root());
    let medium = Medium::new(lease, piix.device.function())?;
    let place = &disk.place;
    piix.device.add_disk(place.port(), place.unit, config, &root).map_err(BuildError::Ide)?;
    Ok(seated(&disk.id, place, Some(medium), disk.write_cache))
}

/// Puts a CD/DVD drive on a cable.
pub(super) fn add_drive(
    drive: &IdeCdSpec,
    piix: &Piix,
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
    let transport = Transport::Parallel { udma: piix.model.udma() };
    let mut config =
        DriveConfig { rerror: policy(drive.rerror), ..DriveConfig::new(&drive.id, transport) };
    ahci::identify(&mut config, &drive.identity);
    unit.serial.clone_from(&config.serial);
    let (root, medium) = match drive.drive.as_deref() {
        Some(node) => {
            let (root, medium) = medium(&drive.id, node, piix, scope)?;
            (Some(root), Some(medium))
        }
        None => (None, None),
    };
    let unit = LogicalUnit::new(unit, root);
    let place = &drive.place;
    piix.device.add_drive(place.port(), place.unit, config, &unit).map_err(BuildError::Ide)?;
    let mut disk = seated(&drive.id, place, medium, true);
    disk.drive = Some(unit);
    Ok(disk)
}

/// A drive's hold on a node.
pub(super) fn medium(
    id: &str,
    node: &str,
    piix: &Piix,
    scope: &Scope<'_>,
) -> Result<(Arc<Root>, Medium), BuildError> {
    let lease = scope.attach_to_read(id, node, CD_BLOCK)?;
    Ok((Arc::clone(lease.root()), Medium::new(lease, piix.device.function())?))
}

fn seated(id: &str, place: &IdePlace, medium: Option<Medium>, write_cache: bool) -> Disk {
    Disk {
        id: id.to_owned(),
        function: place.controller().0.to_owned(),
        medium,
        device: Arc::new(OnCable),
        io_status: IoStatus::Ok,
        write_cache,
        drive: None,
        own_node: None,
        leaving: false,
    }
}
