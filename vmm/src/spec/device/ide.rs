//! `ide-hd` and `ide-cd`: drives behind an ATA controller.
use super::super::props::{Kind, Prop, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{
    BLOCK_SIZE, BOOTINDEX, ErrorPolicy, ID, RERROR, SHARE_RW, STATE, WERROR, WRITE_CACHE, geometry,
};
use super::{DeviceSpec, Drive, Kindred, Place, Queues, QueuesMut, check, piix};
use serde::{Deserialize, Serialize};

/// Where a drive is: what both kinds of drives have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdePlace {
    /// The controller's bus, `ID.N`: port N. Always set after lowering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The drive of the bus: 0, on a cable also 1, behind a port multiplier its port.
    pub unit: u8,
}

impl IdePlace {
    /// The controller's id, and the number of its bus.
    #[must_use]
    pub fn controller(&self) -> (&str, Option<u16>) {
        let bus = self.bus.as_deref().unwrap_or_default();
        match bus.rsplit_once('.') {
            Some((id, number)) => (id, number.parse().ok()),
            None => (bus, None),
        }
    }

    /// The number of the bus.
    #[must_use]
    pub fn port(&self) -> u8 {
        self.controller().1.and_then(|port| u8::try_from(port).ok()).unwrap_or(u8::MAX)
    }
}

/// What IDENTIFY tells of a drive; `None`: the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdeIdentity {
    /// Serial number, at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model, at most 40 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Firmware revision, at most 8 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ver: Option<String>,
    /// World wide name; 0: none.
    pub wwn: u64,
}

/// `ide-hd`: a disk. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdeHdSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: IdePlace,
    /// The node with its data.
    pub drive: String,
    /// How it introduces itself.
    #[serde(flatten)]
    pub identity: IdeIdentity,
    /// Sector size: 512 or 4096; 0: 512.
    #[serde(rename = "logical_block_size")]
    pub logical_block_size: u32,
    /// Physical sector size; 0: the same.
    #[serde(rename = "physical_block_size")]
    pub physical_block_size: u32,
    /// Rotations per minute; 1: it does not rotate; 0: not said.
    #[serde(rename = "rotation_rate")]
    pub rotation_rate: u16,
    /// Cylinders; 0, with heads and sectors: of its size.
    pub cyls: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors of a track.
    pub secs: u8,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// What a failed write does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Whether other devices may write to the node too.
    pub share_rw: bool,
    /// Whether the guest starts with a write-back cache.
    pub write_cache: bool,
    /// Where its state is kept, or `none`; `None`: beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// `ide-cd`: a CD/DVD drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdeCdSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: IdePlace,
    /// The node with what is in the drive; `None`: it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// How it introduces itself.
    #[serde(flatten)]
    pub identity: IdeIdentity,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
}

/// The drives that there are: id, place.
fn drives(spec: &MachineSpec) -> impl Iterator<Item = (&str, &IdePlace)> {
    spec.devices.iter().filter_map(|device| match device {
        DeviceSpec::IdeHd(disk) => Some((&*disk.id, &disk.place)),
        DeviceSpec::IdeCd(drive) => Some((&*drive.id, &drive.place)),
        _ => None,
    })
}

/// The first port of a controller that no drive of `spec` has.
#[must_use]
pub fn free_port(spec: &MachineSpec, controller: &str, ports: u16) -> Option<u16> {
    let taken =
        |port: u16| drives(spec).any(|(_, place)| place.controller() == (controller, Some(port)));
    (0..ports).find(|port| !taken(*port))
}

/// Buses of a controller, and drives of each; `None`: it has none.
fn shape(device: &DeviceSpec) -> Option<(u16, u8)> {
    match device {
        DeviceSpec::Ich9Ahci(ahci) => Some((ahci.ports, ahci.multiplier.max(1))),
        other => piix(other).map(|_| (2, 2)),
    }
}

/// The first place of a controller that no drive of `spec` has: bus and unit. `unit`: only such.
#[must_use]
pub fn free_place(
    spec: &MachineSpec,
    controller: &DeviceSpec,
    unit: Option<u8>,
) -> Option<(u16, u8)> {
    let (ports, units) = shape(controller)?;
    let taken = |(port, unit): (u16, u8)| {
        drives(spec).any(|(_, place)| {
            place.controller() == (controller.id(), Some(port)) && place.unit == unit
        })
    };
    (0..ports)
        .flat_map(|port| (0..units).map(move |unit| (port, unit)))
        .filter(|place| unit.is_none_or(|unit| unit == place.1))
        .find(|place| !taken(*place))
}

/// Fills in a place that was left open: the first free one of the first controller that has one.
fn settle(id: &str, place: &mut IdePlace, spec: &MachineSpec) -> Result<(), SpecError> {
    if place.bus.is_some() {
        return Ok(());
    }
    let unit = (place.unit != 0).then_some(place.unit);
    let free = spec.devices.iter().find_map(|controller| {
        free_place(spec, controller, unit).map(|(port, unit)| (controller.id(), port, unit))
    });
    let Some((controller, port, unit)) = free else {
        return check::conflict(id, "there is no ich9-ahci or piix3-ide with a free bus before it");
    };
    place.bus = Some(format!("{controller}.{port}"));
    place.unit = unit;
    Ok(())
}

fn check_place(id: &str, place: &IdePlace, spec: &MachineSpec) -> Result<(), SpecError> {
    let bus = place.bus.as_deref().unwrap_or_default();
    let (controller, port) = place.controller();
    let Some((ports, units)) = spec.device(controller).and_then(shape) else {
        return check::conflict(id, &format!("bus: no ich9-ahci or piix3-ide has a bus '{bus}'"));
    };
    if port.is_none_or(|port| port >= ports) {
        let reason = format!(
            "bus: '{controller}' has no bus '{bus}': they are {controller}.0 to {controller}.{}",
            ports.saturating_sub(1)
        );
        return check::conflict(id, &reason);
    }
    if place.unit >= units {
        let reason = match units {
            1 => "unit: a port of an ich9-ahci has one drive, unit 0".to_owned(),
            units => format!("unit: '{bus}' has units 0 to {}", units - 1),
        };
        return check::conflict(id, &reason);
    }
    let same = |there: &IdePlace| there.bus == place.bus && there.unit == place.unit;
    match drives(spec).find(|(other, there)| *other != id && same(there)) {
        Some((other, _)) if units > 1 => {
            let reason = format!("bus: unit {} of '{bus}' is taken by '{other}'", place.unit);
            check::conflict(id, &reason)
        }
        Some((other, _)) => check::conflict(id, &format!("bus: '{bus}' is taken by '{other}'")),
        None => Ok(()),
    }
}

impl Kindred for IdeHdSpec {
    fn table(&self) -> &'static Table {
        &IDE_HD
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Bus(self.place.controller().0)
    }

    fn drive(&self) -> Option<Drive<'_>> {
        Some(Drive { node: &self.drive, share_rw: self.share_rw })
    }

    fn queues(&self) -> Option<Queues<'_>> {
        None
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        None
    }

    fn settle(&mut self, spec: &MachineSpec) -> Result<(), SpecError> {
        settle(&self.id, &mut self.place, spec)
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check_place(&self.id, &self.place, spec)?;
        if !matches!(self.logical_block_size, 0 | 512 | 4096) {
            let reason =
                format!("logical_block_size {} is neither 512 nor 4096", self.logical_block_size);
            return check::conflict(&self.id, &reason);
        }
        check::geometry(&self.id, [self.cyls, self.heads.into(), self.secs.into()])?;
        check::block_sizes(&self.id, self.logical_block_size, self.physical_block_size)
    }
}

impl Kindred for IdeCdSpec {
    fn table(&self) -> &'static Table {
        &IDE_CD
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Bus(self.place.controller().0)
    }

    /// It never writes, whatever its node takes.
    fn drive(&self) -> Option<Drive<'_>> {
        self.drive.as_deref().map(|node| Drive { node, share_rw: true })
    }

    fn queues(&self) -> Option<Queues<'_>> {
        None
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        None
    }

    fn settle(&mut self, spec: &MachineSpec) -> Result<(), SpecError> {
        settle(&self.id, &mut self.place, spec)
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check_place(&self.id, &self.place, spec)
    }
}

const IDE_BUS: Prop = prop(
    "bus",
    Kind::Str { len_max: 256 },
    "bus of a controller, ID.PORT; default: the first free",
);
const UNIT: Prop = prop("unit", Kind::Uint { min: 0, max: 14 }, "drive of the bus").or("0");
const SERIAL: Prop = prop("serial", Kind::Str { len_max: 20 }, "serial number");
const MODEL: Prop = prop("model", Kind::Str { len_max: 40 }, "model");
const VER: Prop = prop("ver", Kind::Str { len_max: 8 }, "firmware revision");
const WWN: Prop =
    prop("wwn", Kind::Uint { min: 0, max: u64::MAX }, "world wide name; 0: none").or("0");

/// `ide-hd`: names and defaults as QEMU's.
pub const IDE_HD: Table = Table {
    what: "device",
    name: "ide-hd",
    help: "ATA disk",
    props: &[
        ID,
        IDE_BUS,
        UNIT,
        prop("drive", Kind::Id, "block node with the data").required(),
        SERIAL,
        MODEL,
        VER,
        WWN,
        prop("logical_block_size", BLOCK_SIZE, "sector size, 512 or 4096; 0: 512").or("0"),
        prop("physical_block_size", BLOCK_SIZE, "physical sector size; 0: the same").or("0"),
        prop("rotation_rate", Kind::Uint { min: 0, max: 65534 }, "1/min; 1: does not rotate")
            .or("0"),
        geometry("cyls", 65535),
        geometry("heads", 16),
        geometry("secs", 255),
        BOOTINDEX,
        prop("werror", WERROR, "on a failed write").or("enospc"),
        prop("rerror", RERROR, "on a failed read").or("report"),
        SHARE_RW,
        WRITE_CACHE,
        STATE,
    ],
};

/// `ide-cd`: names and defaults as QEMU's.
pub const IDE_CD: Table = Table {
    what: "device",
    name: "ide-cd",
    help: "ATAPI CD/DVD drive",
    props: &[
        ID,
        IDE_BUS,
        UNIT,
        prop("drive", Kind::Id, "block node with the medium; default: none"),
        SERIAL,
        MODEL,
        VER,
        WWN,
        BOOTINDEX,
        prop("rerror", RERROR, "on a failed read").or("report"),
    ],
};
