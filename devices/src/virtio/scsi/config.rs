//! How a host bus adapter is built.

use spindle_block::iothread::Handle;

/// A virtio host bus adapter. The names are those of QEMU's `virtio-scsi-pci` properties.
#[derive(Clone)]
pub struct VirtioScsiConfig {
    /// The device's id.
    pub id: String,
    /// The iothread of each request queue: as many as there are queues, at least one. The control
    /// and event queues are with the first.
    pub iothreads: Vec<Handle>,
    /// Entries per queue: a power of two from 4 to 32768.
    pub queue_size: u16,
    /// Advertised longest transfer, in sectors of 512 bytes.
    pub max_sectors: u32,
    /// Advertised number of commands that a unit takes at a time.
    pub cmd_per_lun: u32,
    /// SEG_MAX follows the queue size; otherwise it is 126.
    pub seg_max_adjust: bool,
    /// Offer VIRTIO_SCSI_F_HOTPLUG.
    pub hotplug: bool,
    /// Offer VIRTIO_SCSI_F_CHANGE.
    pub param_change: bool,
    /// Offer VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// Offer VIRTIO_F_INDIRECT_DESC.
    pub indirect_desc: bool,
    /// Offer VIRTIO_F_RING_RESET.
    pub queue_reset: bool,
    /// MSI-X vectors, 0 for none; `None`: one for each queue and one for configuration changes.
    pub vectors: Option<u16>,
}

impl VirtioScsiConfig {
    /// An adapter with QEMU's defaults.
    #[must_use]
    pub fn new(id: &str, iothreads: Vec<Handle>) -> Self {
        Self {
            id: id.to_owned(),
            iothreads,
            queue_size: 256,
            max_sectors: 0xffff,
            cmd_per_lun: 128,
            seg_max_adjust: true,
            hotplug: true,
            param_change: true,
            event_idx: true,
            indirect_desc: true,
            queue_reset: true,
            vectors: None,
        }
    }
}
