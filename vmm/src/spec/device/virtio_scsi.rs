//! `virtio-scsi-pci`.
use super::super::props::{Kind, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{
    ADDR, BUS, EVENT_IDX, ID, INDIRECT_DESC, PciAddr, QUEUE_RESET, QUEUE_SIZE, U32, VQ_MAPPING,
    VqMapping,
};
use super::{Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// `virtio-scsi-pci`: a host bus adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioScsiSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// Request queues, 1 to 1024; 0 before lowering means one for each vCPU up to 8.
    #[serde(rename = "num_queues")]
    pub num_queues: u16,
    /// Entries per queue, a power of two.
    #[serde(rename = "virtqueue_size")]
    pub virtqueue_size: u16,
    /// The iothread that serves all queues, unless `iothread_vq_mapping` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// Which iothread serves which request queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iothread_vq_mapping: Vec<VqMapping>,
    /// Advertised longest transfer, in 512-byte sectors.
    #[serde(rename = "max_sectors")]
    pub max_sectors: u32,
    /// Advertised number of commands that a unit takes at a time.
    #[serde(rename = "cmd_per_lun")]
    pub cmd_per_lun: u32,
    /// Whether SEG_MAX follows the queue size (off: 126).
    #[serde(rename = "seg_max_adjust")]
    pub seg_max_adjust: bool,
    /// Whether VIRTIO_SCSI_F_HOTPLUG is offered.
    pub hotplug: bool,
    /// Whether VIRTIO_SCSI_F_CHANGE is offered.
    #[serde(rename = "param_change")]
    pub param_change: bool,
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

impl Kindred for VirtioScsiSpec {
    fn table(&self) -> &'static Table {
        &VIRTIO_SCSI_PCI
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Pci(self.addr)
    }

    fn drive(&self) -> Option<Drive<'_>> {
        None
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
        // Control, events, and configuration changes beside the request queues.
        check::vectors(&self.id, "vectors", self.vectors, u32::from(self.num_queues) + 3)
    }
}

/// `virtio-scsi-pci`: names and defaults as QEMU's.
pub const VIRTIO_SCSI_PCI: Table = Table {
    what: "device",
    name: "virtio-scsi-pci",
    help: "virtio SCSI host bus adapter (virtio 1.2, modern PCI)",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("num_queues", Kind::Uint { min: 0, max: 1024 }, "request queues; 0: vCPUs, up to 8")
            .or("0"),
        prop("virtqueue_size", QUEUE_SIZE, "entries per queue, a power of two").or("256"),
        prop("iothread", Kind::Id, "iothread object that serves the adapter"),
        prop("iothread-vq-mapping", Kind::Groups(VQ_MAPPING), "iothreads by request queue, from 0"),
        prop("max_sectors", Kind::Uint { min: 1, max: U32 }, "longest transfer, 512 bytes each")
            .or("65535"),
        prop("cmd_per_lun", Kind::Uint { min: 1, max: U32 }, "commands a unit takes at a time")
            .or("128"),
        prop("seg_max_adjust", Kind::Bool, "segments follow virtqueue_size").or("on"),
        prop("hotplug", Kind::Bool, "offer events of units that come and go").or("on"),
        prop("param_change", Kind::Bool, "offer events of units that change").or("on"),
        EVENT_IDX,
        INDIRECT_DESC,
        QUEUE_RESET,
        prop("vectors", Kind::Uint { min: 0, max: 2048 }, "MSI-X vectors; default: queues + 3"),
    ],
};
