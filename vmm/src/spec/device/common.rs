//! What devices have in common: places, iothreads, error policies, and the rows for them.
use super::super::props::{Kind, Prop, prop};
use serde::{Deserialize, Serialize};

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

/// Error policies for writes (`auto` is `enospc`).
pub const WERROR: Kind = Kind::Enum(&["auto", "report", "ignore", "stop", "enospc"]);
/// Error policies for reads (`auto` is `report`).
pub const RERROR: Kind = Kind::Enum(&["auto", "report", "ignore", "stop"]);
/// Sector sizes: 512 bytes to 2 MiB, as QEMU's property.
pub const BLOCK_SIZE: Kind = Kind::BlockSize { min: 512, max: 2 << 20 };
/// Ring sizes: the split ring of virtio 1.2 (2.7) allows 32768, QEMU 1024, and so do we.
pub const QUEUE_SIZE: Kind = Kind::BlockSize { min: 2, max: 1024 };

pub(super) const ID: Prop = prop("id", Kind::Id, "name of the device");
pub(super) const BUS: Prop = prop("bus", Kind::Enum(&["pcie.0"]), "bus to sit on").or("pcie.0");
pub(super) const ADDR: Prop = prop("addr", Kind::PciAddr, "slot and function, e.g. 06.0");
pub(super) const U32: u64 = u32::MAX as u64;

pub(super) const EVENT_IDX: Prop = prop("event_idx", Kind::Bool, "offer event index").or("on");
pub(super) const INDIRECT_DESC: Prop =
    prop("indirect_desc", Kind::Bool, "offer indirect descriptors").or("on");
pub(super) const QUEUE_RESET: Prop =
    prop("queue_reset", Kind::Bool, "offer the reset of one queue").or("on");

pub(super) const MIN_IO_SIZE: Prop =
    prop("min_io_size", Kind::Size { min: 0, max: 1 << 31 }, "advertised minimum").or("0");
pub(super) const OPT_IO_SIZE: Prop =
    prop("opt_io_size", Kind::Size { min: 0, max: 1 << 31 }, "advertised optimum").or("0");
pub(super) const DISCARD_GRANULARITY: Prop =
    prop("discard_granularity", Kind::Size { min: 0, max: 1 << 31 }, "default: the node's");

/// Rows of the geometry that a disk tells: cylinders, heads, sectors per track; given together or
/// not at all.
pub(super) const fn geometry(name: &'static str, max: u64) -> Prop {
    prop(name, Kind::Uint { min: 0, max }, "geometry told; 0: from the size").or("0")
}

pub(super) const BOOTINDEX: Prop =
    prop("bootindex", Kind::Uint { min: 0, max: i32::MAX as u64 }, "place in the boot order");
pub(super) const SHARE_RW: Prop =
    prop("share-rw", Kind::Bool, "others may write to the node").or("off");
pub(super) const WRITE_CACHE: Prop =
    prop("write-cache", Kind::OnOffAuto, "start with a write-back cache").or("auto");
pub(super) const STATE: Prop = prop(
    "state",
    Kind::Path,
    "file for what survives power loss beside the image, or none; \
          default: IMAGE.state",
);

pub(super) const VQ_MAPPING: &[Prop] = &[
    prop("iothread", Kind::Id, "iothread object").required(),
    prop("vqs", Kind::Uints { max: 1023 }, "queues it serves"),
];
