//! `virtio-blk-pci`.
use super::super::props::{Kind, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{
    ADDR, BLOCK_SIZE, BOOTINDEX, BUS, DISCARD_GRANULARITY, EVENT_IDX, ErrorPolicy, ID,
    INDIRECT_DESC, MIN_IO_SIZE, OPT_IO_SIZE, PciAddr, QUEUE_RESET, QUEUE_SIZE, RERROR, SHARE_RW,
    U32, VQ_MAPPING, VqMapping, WERROR, WRITE_CACHE, geometry,
};
use super::{Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

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
    /// Whether the discard granularity is told.
    pub report_discard_granularity: bool,
    /// Cylinders, heads and sectors per track told; 0: from the size.
    pub cyls: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
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

impl Kindred for VirtioBlkSpec {
    fn table(&self) -> &'static Table {
        &VIRTIO_BLK_PCI
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Pci(self.addr)
    }

    fn drive(&self) -> Option<Drive<'_>> {
        Some(Drive { node: &self.drive, share_rw: self.share_rw })
    }

    fn queues(&self) -> Option<Queues<'_>> {
        Some(Queues {
            count: self.num_queues,
            iothread: self.iothread.as_deref(),
            mapping: &self.iothread_vq_mapping,
        })
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        Some(QueuesMut {
            count: &mut self.num_queues,
            iothread: &mut self.iothread,
            is_mapped: !self.iothread_vq_mapping.is_empty(),
        })
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check::iothreads(spec, self)?;
        check::vectors(&self.id, "vectors", self.vectors, u32::from(self.num_queues) + 1)?;
        let geometry = [self.cyls, self.heads.into(), self.secs.into()];
        check::geometry(&self.id, geometry)?;
        check::block_sizes(&self.id, self.logical_block_size, self.physical_block_size)
    }
}

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
        MIN_IO_SIZE,
        OPT_IO_SIZE,
        DISCARD_GRANULARITY,
        prop("report-discard-granularity", Kind::Bool, "tell the discard granularity").or("on"),
        geometry("cyls", 65535),
        geometry("heads", 16),
        geometry("secs", 255),
        BOOTINDEX,
        prop("werror", WERROR, "on a failed write").or("enospc"),
        prop("rerror", RERROR, "on a failed read").or("report"),
        SHARE_RW,
        WRITE_CACHE,
        prop("config-wce", Kind::Bool, "the guest may switch the write cache").or("on"),
        prop("discard", Kind::Bool, "offer discard").or("on"),
        prop("write-zeroes", Kind::Bool, "offer write-zeroes").or("on"),
        prop("max-discard-sectors", Kind::Uint { min: 1, max: U32 }, "largest discard")
            .or("4194303"),
        prop("max-write-zeroes-sectors", Kind::Uint { min: 1, max: U32 }, "largest write-zeroes")
            .or("4194303"),
        prop("seg-max-adjust", Kind::Bool, "segments follow queue-size").or("on"),
        EVENT_IDX,
        INDIRECT_DESC,
        QUEUE_RESET,
        prop("vectors", Kind::Uint { min: 0, max: 2048 }, "MSI-X vectors; default: queues + 1"),
    ],
};
