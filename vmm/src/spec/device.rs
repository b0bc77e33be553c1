//! The devices a machine can have, with QEMU's names and properties.
use super::props::{Kind, Prop, Table, prop};
use serde::{Deserialize, Serialize};

/// A device, with every property resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver")]
pub enum DeviceSpec {
    /// A virtio disk on PCI.
    #[serde(rename = "virtio-blk-pci")]
    VirtioBlkPci(VirtioBlkSpec),
    /// A virtio source of random numbers on PCI.
    #[serde(rename = "virtio-rng-pci")]
    VirtioRngPci(VirtioRngSpec),
}

/// `virtio-blk-pci`. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioBlkSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// The node the disk's data is in.
    pub drive: String,
    /// Request queues, 1 to 1024; 0 before lowering means one for each vCPU up to 8.
    pub num_queues: u16,
    /// Entries per queue, a power of two.
    pub queue_size: u16,
    /// The iothread that serves all queues, unless `iothread_vq_mapping` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// Which iothread serves which queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iothread_vq_mapping: Vec<VqMapping>,
    /// What GET_ID answers, at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The sector size the guest sees; 0: as the node says.
    #[serde(rename = "logical_block_size")]
    pub logical_block_size: u32,
    /// The physical sector size the guest sees; 0: as the node says.
    #[serde(rename = "physical_block_size")]
    pub physical_block_size: u32,
    /// Minimum I/O size advertised, 0: none.
    #[serde(rename = "min_io_size")]
    pub min_io_size: u32,
    /// Optimal I/O size advertised, 0: none.
    #[serde(rename = "opt_io_size")]
    pub opt_io_size: u32,
    /// Discard granularity advertised; `None`: as the node says.
    #[serde(rename = "discard_granularity", default, skip_serializing_if = "Option::is_none")]
    pub discard_granularity: Option<u32>,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// What a failed write does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Whether other devices may write to the node too.
    pub share_rw: bool,
    /// Whether the guest starts with a write-back cache (off: every write is flushed).
    pub write_cache: bool,
    /// Whether the guest may switch the write cache (VIRTIO_BLK_F_CONFIG_WCE).
    pub config_wce: bool,
    /// Whether VIRTIO_BLK_F_DISCARD is offered.
    pub discard: bool,
    /// Whether VIRTIO_BLK_F_WRITE_ZEROES is offered.
    pub write_zeroes: bool,
    /// Largest discard, in 512-byte sectors.
    pub max_discard_sectors: u32,
    /// Largest write-zeroes, in 512-byte sectors.
    pub max_write_zeroes_sectors: u32,
    /// Whether SEG_MAX follows the queue size (off: 126, as with old QEMU machines).
    pub seg_max_adjust: bool,
    /// Whether VIRTIO_F_EVENT_IDX is offered.
    #[serde(rename = "event_idx")]
    pub event_idx: bool,
    /// Whether VIRTIO_F_INDIRECT_DESC is offered.
    #[serde(rename = "indirect_desc")]
    pub indirect_desc: bool,
    /// Whether VIRTIO_F_RING_RESET is offered.
    #[serde(rename = "queue_reset")]
    pub queue_reset: bool,
    /// MSI-X vectors; `None`: one for each queue and one for configuration changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<u16>,
}

/// One element of `iothread-vq-mapping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VqMapping {
    /// The iothread.
    pub iothread: String,
    /// The queues it serves; none given in any element: queues are dealt round-robin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vqs: Option<Vec<u16>>,
}

/// `virtio-rng-pci`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioRngSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// The object random bytes come from; `None`: the host's getrandom(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rng: Option<String>,
    /// Bytes the guest may have in each period.
    pub max_bytes: u64,
    /// The period, in milliseconds.
    pub period: u32,
}

/// What a device does when a request of its guest fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorPolicy {
    /// Tell the guest.
    Report,
    /// Tell the guest it went well.
    Ignore,
    /// Pause the machine; `cont` tries again.
    Stop,
    /// Pause when there is no space left, tell the guest otherwise.
    Enospc,
}

/// A place on the PCI bus, written `SLOT.FUNCTION` in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddr {
    /// 0 to 31.
    pub slot: u8,
    /// 0 to 7.
    pub function: u8,
}

impl TryFrom<String> for PciAddr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (slot, function) = text.split_once('.').unwrap_or((&text, "0"));
        match (u8::from_str_radix(slot, 16), u8::from_str_radix(function, 16)) {
            (Ok(slot @ 0..=31), Ok(function @ 0..=7)) => Ok(Self { slot, function }),
            _ => Err(format!("'{text}' is not SLOT.FUNCTION in hexadecimal")),
        }
    }
}

impl From<PciAddr> for String {
    fn from(addr: PciAddr) -> Self {
        format!("{:02x}.{:x}", addr.slot, addr.function)
    }
}

impl DeviceSpec {
    /// The device's id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::VirtioBlkPci(d) => &d.id,
            Self::VirtioRngPci(d) => &d.id,
        }
    }

    /// The device's QEMU name.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        match self {
            Self::VirtioBlkPci(_) => VIRTIO_BLK_PCI.name,
            Self::VirtioRngPci(_) => VIRTIO_RNG_PCI.name,
        }
    }

    /// The node it uses, if it is a disk.
    #[must_use]
    pub fn drive(&self) -> Option<&str> {
        match self {
            Self::VirtioBlkPci(d) => Some(&d.drive),
            Self::VirtioRngPci(_) => None,
        }
    }
}

/// All device tables.
pub const DEVICES: &[&Table] = &[&VIRTIO_BLK_PCI, &VIRTIO_RNG_PCI];

/// Error policies for writes (`auto` is `enospc`).
pub const WERROR: Kind = Kind::Enum(&["auto", "report", "ignore", "stop", "enospc"]);
/// Error policies for reads (`auto` is `report`).
pub const RERROR: Kind = Kind::Enum(&["auto", "report", "ignore", "stop"]);
/// Sector sizes: 512 bytes to 2 MiB, as QEMU's property.
pub const BLOCK_SIZE: Kind = Kind::BlockSize { min: 512, max: 2 << 20 };
/// Ring sizes: the split ring of virtio 1.2 (2.7) allows 32768, QEMU 1024, and so do we.
pub const QUEUE_SIZE: Kind = Kind::BlockSize { min: 2, max: 1024 };

const ID: Prop = prop("id", Kind::Id, "name of the device");
const BUS: Prop = prop("bus", Kind::Enum(&["pcie.0"]), "bus to sit on").or("pcie.0");
const ADDR: Prop = prop("addr", Kind::PciAddr, "slot and function, e.g. 06.0");
const U32: u64 = u32::MAX as u64;

/// The only meaning these have here.
const MODERN: Prop = prop("disable-legacy", Kind::Enum(&["on", "auto"]), "modern only").ignored();
const NOT_LEGACY: Prop = prop("disable-modern", Kind::Enum(&["off"]), "modern only").ignored();
const SPLIT: Prop = prop("packed", Kind::Enum(&["off"]), "split rings").ignored();
const IOEVENTFD: Prop = prop("ioeventfd", Kind::Enum(&["on"]), "always").ignored();
const NO_SCSI: Prop = prop("scsi", Kind::Enum(&["off"]), "never").ignored();
const MERGING: Prop = prop("request-merging", Kind::Bool, "requests are not merged").ignored();
const NO_ROM: Prop = prop("romfile", Kind::Enum(&[""]), "there is none").ignored();

const VQ_MAPPING: &[Prop] = &[
    prop("iothread", Kind::Id, "iothread object").required(),
    prop("vqs", Kind::Uints { max: 1023 }, "queues it serves"),
];

/// `virtio-blk-pci`: names and defaults as QEMU's, but for `werror`, whose `auto` is spelled out.
pub const VIRTIO_BLK_PCI: Table = Table {
    what: "device",
    name: "virtio-blk-pci",
    help: "virtio disk (virtio 1.2, modern PCI)",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("drive", Kind::Id, "node-name of the block node with the data").required(),
        prop("num-queues", Kind::Uint { min: 0, max: 1024 }, "request queues; 0: vCPUs, up to 8")
            .or("0"),
        prop("queue-size", QUEUE_SIZE, "entries per queue, a power of two").or("256"),
        prop("iothread", Kind::Id, "iothread object that serves the disk"),
        prop("iothread-vq-mapping", Kind::Groups(VQ_MAPPING), "iothreads by queue"),
        prop("serial", Kind::Str { len_max: 20 }, "serial number"),
        prop("logical_block_size", BLOCK_SIZE, "sector size; 0: the node's").or("0"),
        prop("physical_block_size", BLOCK_SIZE, "physical sector size; 0: the node's").or("0"),
        prop("min_io_size", Kind::Size { min: 0, max: 1 << 31 }, "advertised minimum").or("0"),
        prop("opt_io_size", Kind::Size { min: 0, max: 1 << 31 }, "advertised optimum").or("0"),
        prop("discard_granularity", Kind::Size { min: 0, max: 1 << 31 }, "default: the node's"),
        prop("bootindex", Kind::Uint { min: 0, max: i32::MAX as u64 }, "place in the boot order"),
        prop("werror", WERROR, "on a failed write").or("enospc"),
        prop("rerror", RERROR, "on a failed read").or("report"),
        prop("share-rw", Kind::Bool, "others may write to the node").or("off"),
        prop("write-cache", Kind::OnOffAuto, "start with a write-back cache").or("auto"),
        prop("config-wce", Kind::Bool, "the guest may switch the write cache").or("on"),
        prop("discard", Kind::Bool, "offer discard").or("on"),
        prop("write-zeroes", Kind::Bool, "offer write-zeroes").or("on"),
        prop("max-discard-sectors", Kind::Uint { min: 1, max: U32 }, "largest discard")
            .or("4194303"),
        prop("max-write-zeroes-sectors", Kind::Uint { min: 1, max: U32 }, "largest write-zeroes")
            .or("4194303"),
        prop("seg-max-adjust", Kind::Bool, "segments follow queue-size").or("on"),
        prop("event_idx", Kind::Bool, "offer event index").or("on"),
        prop("indirect_desc", Kind::Bool, "offer indirect descriptors").or("on"),
        prop("queue_reset", Kind::Bool, "offer the reset of one queue").or("on"),
        prop("vectors", Kind::Uint { min: 0, max: 2048 }, "MSI-X vectors; default: queues + 1"),
        MODERN,
        NOT_LEGACY,
        SPLIT,
        IOEVENTFD,
        NO_SCSI,
        MERGING,
        NO_ROM,
    ],
};

/// `virtio-rng-pci`: names and defaults as QEMU's.
pub const VIRTIO_RNG_PCI: Table = Table {
    what: "device",
    name: "virtio-rng-pci",
    help: "virtio source of random numbers",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("rng", Kind::Id, "rng-random or rng-builtin object; default: the host's getrandom"),
        prop(
            "max-bytes",
            Kind::Uint { min: 1, max: i64::MAX as u64 },
            "bytes the guest may have in each period",
        )
        .or("9223372036854775807"),
        prop("period", Kind::Uint { min: 1, max: U32 }, "period in milliseconds").or("65536"),
        MODERN,
        NOT_LEGACY,
        SPLIT,
        NO_ROM,
    ],
};
