//! `nvme`, `nvme-ns` and `nvme-subsys`.
use super::super::props::{Kind, Prop, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{
    ADDR, BOOTINDEX, BUS, DISCARD_GRANULARITY, ErrorPolicy, ID, MIN_IO_SIZE, OPT_IO_SIZE, PciAddr,
    RERROR, SHARE_RW, STATE, VQ_MAPPING, VqMapping, WERROR, WRITE_CACHE,
};
use super::{DeviceSpec, Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// Sizes that a namespace tells its host to prefer, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeSizes {
    /// Physical block size; 0: as the node says.
    pub physical_block_size: u32,
    /// Preferred write granularity, 0: as the node says.
    pub min_io_size: u32,
    /// Optimal write size, 0: as the granularity.
    pub opt_io_size: u32,
    /// Preferred deallocate granularity; `None`: as the node says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard_granularity: Option<u32>,
}

/// `nvme`: a controller, with a first namespace where a drive is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NvmeSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// The node that the first namespace's data is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// Serial number, at most 20 bytes; `None`: the device's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model number, at most 40 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// PCI vendor and device ID, `VVVV:DDDD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
    /// The subsystem it belongs to; `None`: one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsys: Option<String>,
    /// Pairs of I/O queues, 1 to 64; 0 before lowering means one for each vCPU up to 8.
    #[serde(rename = "max_ioqpairs")]
    pub max_ioqpairs: u16,
    /// An older name: one more than `max_ioqpairs`. Not set after lowering.
    #[serde(rename = "num_queues", default, skip_serializing_if = "Option::is_none")]
    pub num_queues: Option<u16>,
    /// Whether the PCI ID is 8086:5845. Not set after lowering.
    pub use_intel_id: bool,
    /// MSI-X vectors, 0: none; `None`: one for each queue pair.
    #[serde(rename = "msix_qsize", default, skip_serializing_if = "Option::is_none")]
    pub msix_qsize: Option<u16>,
    /// Most entries of an I/O queue, less one.
    pub mqes: u16,
    /// Largest transfer: a power of two of 4096-byte pages; 0: no limit.
    pub mdts: u8,
    /// Asynchronous event requests parked at a time, less one.
    pub aerl: u8,
    /// Whether Doorbell Buffer Config is offered.
    pub dbcs: bool,
    /// Whether shadowed doorbells are eventfds.
    pub ioeventfd: bool,
    /// The iothread that serves all queues, unless `iothread_vq_mapping` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// Which iothread serves which queue pairs, counted from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iothread_vq_mapping: Vec<VqMapping>,
    /// The first namespace's block size; 0: 512.
    #[serde(rename = "logical_block_size")]
    pub logical_block_size: u32,
    /// Sizes that suit it.
    #[serde(flatten)]
    pub sizes: NvmeSizes,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// What a failed write does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Whether other devices may write to the node too.
    pub share_rw: bool,
    /// Off: every write is flushed.
    pub write_cache: bool,
    /// Where the controller's and the first namespace's state is kept, or `none`; `None`: beside the
    /// image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The directory in which the guest creates namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// How many bytes they can have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<u64>,
}

/// `nvme-ns`: a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NvmeNsSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The controller it is added through: always set after lowering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The node with its data.
    pub drive: String,
    /// Its namespace ID; 0 before lowering: the lowest that is free.
    pub nsid: u32,
    /// Its UUID, or `auto`.
    pub uuid: String,
    /// Its EUI-64; 0: derived.
    pub eui64: u64,
    /// Its NGUID, 32 hexadecimal digits, or `auto`.
    pub nguid: String,
    /// Its block size; 0: 512.
    #[serde(rename = "logical_block_size")]
    pub logical_block_size: u32,
    /// Sizes that suit it.
    #[serde(flatten)]
    pub sizes: NvmeSizes,
    /// Whether several controllers of the subsystem may have it.
    pub shared: bool,
    /// Whether it is attached to no controller.
    pub detached: bool,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// Whether other devices may write to the node too.
    pub share_rw: bool,
    /// Off: every write is flushed.
    pub write_cache: bool,
    /// Where its state is kept, or `none`; `None`: beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// `nvme-subsys`: what controllers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NvmeSubsysSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// Its name, from `nqn.` on or only what is behind QEMU's prefix; `None`: derived from the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nqn: Option<String>,
}

/// The PCI ID of QEMU's controller with `use-intel-id=on`.
const INTEL_ID: &str = "8086:5845";

impl NvmeSubsysSpec {
    /// The whole name, if one was given: QEMU puts this before what was given to it.
    #[must_use]
    pub fn full_nqn(&self) -> Option<String> {
        let given = self.nqn.as_deref()?;
        let prefix = if given.starts_with("nqn.") { "" } else { "nqn.2019-08.org.qemu:" };
        Some(format!("{prefix}{given}"))
    }
}

/// A PCI ID, `VVVV:DDDD` in hexadecimal.
#[must_use]
pub fn pci_id(text: &str) -> Option<(u16, u16)> {
    let (vendor, device) = text.split_once(':')?;
    let hex = |s: &str| u16::from_str_radix(s, 16).ok().filter(|n| (1..0xFFFF).contains(n));
    Some((hex(vendor)?, hex(device)?))
}

/// Text that is not as many hexadecimal digits as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHex;

/// The bytes of a UUID or of another number in hexadecimal; dashes may be anywhere. `None`: `auto`.
///
/// # Errors
///
/// Text that is neither.
pub fn hex_bytes<const N: usize>(text: &str) -> Result<Option<[u8; N]>, NotHex> {
    if text == "auto" {
        return Ok(None);
    }
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()
        .ok_or(NotHex)?;
    if digits.len() != 2 * N {
        return Err(NotHex);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    Ok(Some(bytes))
}

impl Kindred for NvmeSpec {
    fn table(&self) -> &'static Table {
        &NVME
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Pci(self.addr)
    }

    fn drive(&self) -> Option<Drive<'_>> {
        self.drive.as_deref().map(|node| Drive { node, share_rw: self.share_rw })
    }

    fn queues(&self) -> Option<Queues<'_>> {
        Some(Queues {
            count: self.max_ioqpairs,
            iothread: self.iothread.as_deref(),
            mapping: &self.iothread_vq_mapping,
        })
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        Some(QueuesMut {
            count: &mut self.max_ioqpairs,
            iothread: &mut self.iothread,
            is_mapped: !self.iothread_vq_mapping.is_empty(),
        })
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        if let Some(queues) = self.num_queues.take() {
            self.max_ioqpairs = queues - 1;
        }
        if std::mem::take(&mut self.use_intel_id) {
            if self.pci_id.is_some() {
                return check::conflict(&self.id, "give pci-id or use-intel-id, not both");
            }
            self.pci_id = Some(INTEL_ID.to_owned());
        }
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check::iothreads(spec, self)?;
        let needed = u32::from(self.max_ioqpairs) + 1;
        check::vectors(&self.id, "msix_qsize", self.msix_qsize, needed)?;
        block_size(&self.id, self.logical_block_size)?;
        if let Some(text) = self.pci_id.as_deref().filter(|text| pci_id(text).is_none()) {
            let reason = format!("pci-id: '{text}' is not VVVV:DDDD in hexadecimal");
            return check::conflict(&self.id, &reason);
        }
        if self.pool.is_some() != self.pool_size.is_some() {
            return check::conflict(&self.id, "pool and pool-size go together");
        }
        match self.subsys.as_deref() {
            Some(name) if !matches!(spec.device(name), Some(DeviceSpec::NvmeSubsys(_))) => {
                check::conflict(&self.id, &format!("subsys: no nvme-subsys '{name}'"))
            }
            _ => Ok(()),
        }
    }
}

fn block_size(id: &str, bytes: u32) -> Result<(), SpecError> {
    if matches!(bytes, 0 | 512 | 4096) {
        return Ok(());
    }
    let reason = format!("logical_block_size {bytes}: a namespace has blocks of 512 or 4096 bytes");
    check::conflict(id, &reason)
}

/// The namespaces that are added through a controller, or through others of its subsystem.
fn neighbours<'a>(
    spec: &'a MachineSpec,
    controller: &'a str,
) -> impl Iterator<Item = (&'a str, u32)> {
    let subsystem = |id: &str| match spec.device(id) {
        Some(DeviceSpec::Nvme(nvme)) => nvme.subsys.clone(),
        _ => None,
    };
    let ours = subsystem(controller);
    let together =
        move |other: &str| other == controller || (ours.is_some() && subsystem(other) == ours);
    spec.devices.iter().filter_map(move |device| match device {
        DeviceSpec::Nvme(nvme) if nvme.drive.is_some() && together(&nvme.id) => {
            Some((&*nvme.id, 1))
        }
        DeviceSpec::NvmeNs(ns) if ns.bus.as_deref().is_some_and(&together) => {
            Some((&*ns.id, ns.nsid))
        }
        _ => None,
    })
}

impl Kindred for NvmeNsSpec {
    fn table(&self) -> &'static Table {
        &NVME_NS
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Bus(self.bus.as_deref().unwrap_or_default())
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
        let controllers = |device: &&DeviceSpec| matches!(device, DeviceSpec::Nvme(_));
        let bus = match &self.bus {
            Some(bus) => bus.clone(),
            None => match spec.devices.iter().find(controllers) {
                Some(controller) => controller.id().to_owned(),
                None => return check::conflict(&self.id, "there is no nvme controller before it"),
            },
        };
        if self.nsid == 0 {
            let taken: Vec<u32> = neighbours(spec, &bus).map(|(_, nsid)| nsid).collect();
            self.nsid = (1..=NAMESPACES_MAX).find(|n| !taken.contains(n)).unwrap_or(0);
        }
        self.bus = Some(bus);
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        let id = &self.id;
        let bus = self.bus.as_deref().unwrap_or_default();
        if !matches!(spec.device(bus), Some(DeviceSpec::Nvme(_))) {
            return check::conflict(id, &format!("bus: no nvme controller '{bus}'"));
        }
        block_size(id, self.logical_block_size)?;
        if hex_bytes::<16>(&self.uuid).is_err() {
            return check::conflict(id, &format!("uuid: '{}' is not a UUID", self.uuid));
        }
        if hex_bytes::<16>(&self.nguid).is_err() {
            let reason = format!("nguid: '{}' is not 32 hexadecimal digits", self.nguid);
            return check::conflict(id, &reason);
        }
        let taken = neighbours(spec, bus).find(|(other, nsid)| other != id && *nsid == self.nsid);
        match taken {
            Some((other, nsid)) => {
                check::conflict(id, &format!("namespace {nsid} of '{bus}' is taken by '{other}'"))
            }
            None if self.nsid == 0 => check::conflict(id, "no namespace ID is left"),
            None => Ok(()),
        }
    }
}

impl Kindred for NvmeSubsysSpec {
    fn table(&self) -> &'static Table {
        &NVME_SUBSYS
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Nowhere
    }

    fn drive(&self) -> Option<Drive<'_>> {
        None
    }

    fn queues(&self) -> Option<Queues<'_>> {
        None
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        None
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }

    fn check(&self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }
}

/// The highest namespace ID.
const NAMESPACES_MAX: u32 = 1024;
const BLOCK_SIZE: Kind = Kind::BlockSize { min: 512, max: 4096 };
const PHYSICAL: Prop =
    prop("physical_block_size", super::BLOCK_SIZE, "physical sector size; 0: the node's").or("0");
const LOGICAL: Prop = prop("logical_block_size", BLOCK_SIZE, "512 or 4096; 0: 512").or("0");

/// `nvme`: names and defaults as QEMU's, but for what decides which PCI ID and which iothreads.
pub const NVME: Table = Table {
    what: "device",
    name: "nvme",
    help: "NVM Express controller (NVMe 2.0)",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("drive", Kind::Id, "block node with the data of its first namespace"),
        prop("serial", Kind::Str { len_max: 20 }, "serial number; default: the id"),
        prop("model", Kind::Str { len_max: 40 }, "model number"),
        prop("pci-id", Kind::Str { len_max: 9 }, "PCI vendor and device ID, VVVV:DDDD"),
        prop("subsys", Kind::Id, "nvme-subsys that it belongs to; default: its own"),
        prop(
            "max_ioqpairs",
            Kind::Uint { min: 0, max: 64 },
            "pairs of I/O queues; 0: vCPUs, up to 8",
        )
        .or("64"),
        prop("num_queues", Kind::Uint { min: 2, max: 65 }, "older name: max_ioqpairs + 1"),
        prop("use-intel-id", Kind::Bool, "PCI ID 8086:5845, on which Linux has a workaround")
            .or("off"),
        prop(
            "msix_qsize",
            Kind::Uint { min: 0, max: 256 },
            "MSI-X vectors; default: max_ioqpairs + 1",
        ),
        prop("mqes", Kind::Uint { min: 1, max: 4095 }, "entries per queue, less one").or("4095"),
        prop(
            "mdts",
            Kind::Uint { min: 0, max: 12 },
            "largest transfer, 4 KiB to the power; 0: any",
        )
        .or("7"),
        prop("aerl", Kind::Uint { min: 0, max: 255 }, "event requests it parks, less one")
            .or("255"),
        prop("dbcs", Kind::Bool, "offer shadow doorbells").or("on"),
        prop("ioeventfd", Kind::Bool, "shadowed doorbells do not stop the CPU").or("on"),
        prop("iothread", Kind::Id, "iothread object that serves the controller"),
        prop("iothread-vq-mapping", Kind::Groups(VQ_MAPPING), "iothreads by queue pair, from 0"),
        LOGICAL,
        PHYSICAL,
        MIN_IO_SIZE,
        OPT_IO_SIZE,
        DISCARD_GRANULARITY,
        BOOTINDEX,
        prop("werror", WERROR, "on a failed write").or("enospc"),
        prop("rerror", RERROR, "on a failed read").or("report"),
        SHARE_RW,
        WRITE_CACHE,
        STATE,
        prop("pool", Kind::Path, "directory for namespaces that the guest creates"),
        prop("pool-size", Kind::Size { min: 1 << 20, max: 1 << 62 }, "bytes they have together"),
    ],
};

/// `nvme-ns`: names and defaults as QEMU's.
pub const NVME_NS: Table = Table {
    what: "device",
    name: "nvme-ns",
    help: "NVM Express namespace",
    props: &[
        ID,
        prop("bus", Kind::Id, "nvme controller; default: the first"),
        prop("drive", Kind::Id, "block node with the data").required(),
        prop("nsid", Kind::Uint { min: 0, max: NAMESPACES_MAX as u64 }, "0: the lowest free")
            .or("0"),
        prop("uuid", Kind::Str { len_max: 36 }, "UUID; auto: derived from the serial number")
            .or("auto"),
        prop("eui64", Kind::Uint { min: 0, max: u64::MAX }, "EUI-64; 0: derived").or("0"),
        prop("nguid", Kind::Str { len_max: 36 }, "NGUID, 32 hexadecimal digits; auto: derived")
            .or("auto"),
        LOGICAL,
        PHYSICAL,
        MIN_IO_SIZE,
        OPT_IO_SIZE,
        DISCARD_GRANULARITY,
        prop("shared", Kind::Bool, "all controllers of the subsystem have it").or("on"),
        prop("detached", Kind::Bool, "attached to no controller").or("off"),
        BOOTINDEX,
        SHARE_RW,
        WRITE_CACHE,
        STATE,
    ],
};

/// `nvme-subsys`.
pub const NVME_SUBSYS: Table = Table {
    what: "device",
    name: "nvme-subsys",
    help: "NVM subsystem: what several nvme controllers share",
    props: &[ID, prop("nqn", Kind::Str { len_max: 200 }, "NQN, whole or as QEMU has it")],
};
