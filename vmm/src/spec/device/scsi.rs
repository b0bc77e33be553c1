//! `scsi-hd` and `scsi-cd`: units behind a host bus adapter.
use super::super::props::{Kind, Prop, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{
    BLOCK_SIZE, BOOTINDEX, DISCARD_GRANULARITY, ErrorPolicy, ID, MIN_IO_SIZE, OPT_IO_SIZE, RERROR,
    SHARE_RW, STATE, WERROR, WRITE_CACHE,
};
use super::{DeviceSpec, Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// Where a unit is: what both kinds of units have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScsiPlace {
    /// The adapter's bus, `ID.0`: always set after lowering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The target: always set after lowering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scsi_id: Option<u8>,
    /// The unit of the target: always set after lowering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<u16>,
}

impl ScsiPlace {
    /// The adapter's id.
    #[must_use]
    pub fn adapter(&self) -> &str {
        let bus = self.bus.as_deref().unwrap_or_default();
        bus.strip_suffix(".0").unwrap_or(bus)
    }

    /// Target and unit.
    #[must_use]
    pub fn address(&self) -> (u8, u16) {
        (self.scsi_id.unwrap_or_default(), self.lun.unwrap_or_default())
    }
}

/// `scsi-hd`: a disk. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScsiHdSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: ScsiPlace,
    /// The node with its data.
    pub drive: String,
    /// How it introduces itself.
    #[serde(flatten)]
    pub identity: ScsiIdentity,
    /// Sector size; 0: 512.
    #[serde(rename = "logical_block_size")]
    pub logical_block_size: u32,
    /// Physical sector size; 0: the same.
    #[serde(rename = "physical_block_size")]
    pub physical_block_size: u32,
    /// Minimum I/O size advertised, 0: none.
    #[serde(rename = "min_io_size")]
    pub min_io_size: u32,
    /// Optimal I/O size advertised, 0: none.
    #[serde(rename = "opt_io_size")]
    pub opt_io_size: u32,
    /// Unmap granularity advertised; `None`: as the node says.
    #[serde(rename = "discard_granularity", default, skip_serializing_if = "Option::is_none")]
    pub discard_granularity: Option<u32>,
    /// Largest unmap.
    #[serde(rename = "max_unmap_size")]
    pub max_unmap_size: u64,
    /// Rotations per minute; 1: it does not rotate; 0: not said.
    #[serde(rename = "rotation_rate")]
    pub rotation_rate: u16,
    /// Whether the medium is told to be removable.
    pub removable: bool,
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

/// `scsi-cd`: a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScsiCdSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: ScsiPlace,
    /// The node with what is in the drive; `None`: it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// How it introduces itself.
    #[serde(flatten)]
    pub identity: ScsiIdentity,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
}

/// What INQUIRY tells of a unit; `None`: the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScsiIdentity {
    /// Serial number, at most 36 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World wide name; 0: derived from the serial number.
    pub wwn: u64,
    /// Vendor, at most 8 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Product, at most 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Revision, at most 4 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ver: Option<String>,
    /// An identification of its own, at most 36 bytes.
    #[serde(rename = "device_id", default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// World wide name of the target port; 0: none.
    #[serde(rename = "port_wwn")]
    pub port_wwn: u64,
    /// Relative target port identifier; 0: none.
    #[serde(rename = "port_index")]
    pub port_index: u16,
    /// The version told in INQUIRY.
    #[serde(rename = "scsi_version")]
    pub scsi_version: u8,
    /// Longest transfer, in bytes.
    #[serde(rename = "max_io_size")]
    pub max_io_size: u64,
}

/// Where the units of an adapter are: id, target, unit.
fn neighbours<'a>(
    spec: &'a MachineSpec,
    adapter: &'a str,
) -> impl Iterator<Item = (&'a str, (u8, u16))> {
    spec.devices.iter().filter_map(move |device| {
        let place = match device {
            DeviceSpec::ScsiHd(disk) => &disk.place,
            DeviceSpec::ScsiCd(drive) => &drive.place,
            _ => return None,
        };
        (place.adapter() == adapter).then(|| (device.id(), place.address()))
    })
}

/// Fills in what a unit's place leaves open, as QEMU does: the first adapter, the first free target,
/// or the first free unit of the target given.
fn settle(id: &str, place: &mut ScsiPlace, spec: &MachineSpec) -> Result<(), SpecError> {
    let adapters = |device: &&DeviceSpec| matches!(device, DeviceSpec::VirtioScsiPci(_));
    if place.bus.is_none() {
        place.bus = match spec.devices.iter().find(adapters) {
            Some(adapter) => Some(format!("{}.0", adapter.id())),
            None => return check::conflict(id, "there is no virtio-scsi-pci before it"),
        };
    }
    let taken: Vec<(u8, u16)> = neighbours(spec, place.adapter()).map(|(_, at)| at).collect();
    let (scsi_id, lun) = match (place.scsi_id, place.lun) {
        (Some(scsi_id), Some(lun)) => (scsi_id, lun),
        (Some(scsi_id), None) => {
            let free = (0..LUNS).find(|lun| !taken.contains(&(scsi_id, *lun)));
            (scsi_id, free.unwrap_or(0))
        }
        (None, lun) => {
            let lun = lun.unwrap_or(0);
            ((0..=u8::MAX).find(|scsi_id| !taken.contains(&(*scsi_id, lun))).unwrap_or(0), lun)
        }
    };
    (place.scsi_id, place.lun) = (Some(scsi_id), Some(lun));
    Ok(())
}

fn check_place(id: &str, place: &ScsiPlace, spec: &MachineSpec) -> Result<(), SpecError> {
    let adapter = place.adapter();
    if !matches!(spec.device(adapter), Some(DeviceSpec::VirtioScsiPci(_))) {
        let bus = place.bus.as_deref().unwrap_or_default();
        return check::conflict(id, &format!("bus: no virtio-scsi-pci has a bus '{bus}'"));
    }
    let (target, lun) = place.address();
    let there = neighbours(spec, adapter).find(|(other, at)| *other != id && *at == (target, lun));
    match there {
        Some((other, _)) => {
            let reason = format!("target {target}, lun {lun} of '{adapter}' is taken by '{other}'");
            check::conflict(id, &reason)
        }
        None => Ok(()),
    }
}

impl Kindred for ScsiHdSpec {
    fn table(&self) -> &'static Table {
        &SCSI_HD
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Bus(self.place.adapter())
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
        check::block_sizes(&self.id, self.logical_block_size, self.physical_block_size)
    }
}

impl Kindred for ScsiCdSpec {
    fn table(&self) -> &'static Table {
        &SCSI_CD
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Bus(self.place.adapter())
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

/// Units of a target.
const LUNS: u16 = 16384;
const SCSI_BUS: Prop = prop("bus", Kind::Id, "bus of an adapter, ID.0; default: the first");
const SCSI_ID: Prop =
    prop("scsi-id", Kind::Uint { min: 0, max: 255 }, "target; default: the first free one");
const LUN: Prop = prop("lun", Kind::Uint { min: 0, max: LUNS as u64 - 1 }, "unit of the target");
const SERIAL: Prop = prop("serial", Kind::Str { len_max: 36 }, "serial number");
const WWN: Prop =
    prop("wwn", Kind::Uint { min: 0, max: u64::MAX }, "world wide name; 0: derived").or("0");
const VENDOR: Prop = prop("vendor", Kind::Str { len_max: 8 }, "vendor");
const PRODUCT: Prop = prop("product", Kind::Str { len_max: 16 }, "product");
const VER: Prop = prop("ver", Kind::Str { len_max: 4 }, "revision");

const DEVICE_ID: Prop = prop("device_id", Kind::Str { len_max: 36 }, "identification of its own");
const PORT_WWN: Prop =
    prop("port_wwn", Kind::Uint { min: 0, max: u64::MAX }, "name of its port; 0: none").or("0");
const PORT_INDEX: Prop =
    prop("port_index", Kind::Uint { min: 0, max: 65535 }, "number of its port; 0: none").or("0");
const SCSI_VERSION: Prop =
    prop("scsi_version", Kind::Uint { min: 3, max: 7 }, "version of SPC told; 7: SPC-5").or("7");
const MAX_IO_SIZE: Prop =
    prop("max_io_size", Kind::Size { min: 1 << 16, max: 1 << 40 }, "longest transfer")
        .or("2147483647");

/// `scsi-hd`: names and defaults as QEMU's, but for `scsi_version`.
pub const SCSI_HD: Table = Table {
    what: "device",
    name: "scsi-hd",
    help: "SCSI disk",
    props: &[
        ID,
        SCSI_BUS,
        SCSI_ID,
        LUN,
        prop("drive", Kind::Id, "block node with the data").required(),
        SERIAL,
        WWN,
        VENDOR,
        PRODUCT,
        VER,
        DEVICE_ID,
        PORT_WWN,
        PORT_INDEX,
        SCSI_VERSION,
        MAX_IO_SIZE,
        prop("logical_block_size", BLOCK_SIZE, "sector size; 0: 512").or("0"),
        prop("physical_block_size", BLOCK_SIZE, "physical sector size; 0: the same").or("0"),
        MIN_IO_SIZE,
        OPT_IO_SIZE,
        DISCARD_GRANULARITY,
        prop("max_unmap_size", Kind::Size { min: 512, max: 1 << 40 }, "largest unmap")
            .or("1073741824"),
        prop("rotation_rate", Kind::Uint { min: 0, max: 65534 }, "1/min; 1: does not rotate")
            .or("0"),
        BOOTINDEX,
        prop("werror", WERROR, "on a failed write").or("enospc"),
        prop("rerror", RERROR, "on a failed read").or("report"),
        SHARE_RW,
        WRITE_CACHE,
        STATE,
        prop("removable", Kind::Bool, "tell that the medium can be removed").or("off"),
    ],
};

/// `scsi-cd`: names and defaults as QEMU's.
pub const SCSI_CD: Table = Table {
    what: "device",
    name: "scsi-cd",
    help: "SCSI CD/DVD drive",
    props: &[
        ID,
        SCSI_BUS,
        SCSI_ID,
        LUN,
        prop("drive", Kind::Id, "block node with the medium; default: none"),
        SERIAL,
        WWN,
        VENDOR,
        PRODUCT,
        VER,
        DEVICE_ID,
        PORT_WWN,
        PORT_INDEX,
        SCSI_VERSION,
        MAX_IO_SIZE,
        BOOTINDEX,
        prop("rerror", RERROR, "on a failed read").or("report"),
    ],
};
