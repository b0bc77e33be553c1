//! How a disk is built.

use spindle_block::iothread::Handle;

pub use crate::policy::{BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation};

/// A disk's geometry as a driver is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

/// A virtio disk. Sizes are in bytes unless they say otherwise; the names are those of QEMU's
/// `virtio-blk-pci` properties.
#[derive(Clone)]
pub struct VirtioBlkConfig {
    /// The device's id.
    pub id: String,
    /// The iothread of each request queue: as many as there are queues, at least one.
    pub iothreads: Vec<Handle>,
    /// Entries per queue: a power of two from 4 to 32768.
    pub queue_size: u16,
    /// What GET_ID answers; bytes beyond 20 are cut off.
    pub serial: String,
    /// Sector size the guest sees: a power of two, at least 512; 0: 512.
    pub logical_block_size: u32,
    /// Physical sector size the guest sees: a power of two, at least the logical one; 0: the same.
    pub physical_block_size: u32,
    /// Advertised minimum I/O size, 0: none.
    pub min_io_size: u32,
    /// Advertised optimal I/O size, 0: none.
    pub opt_io_size: u32,
    /// Advertised discard granularity; `None`: as the disk says.
    pub discard_granularity: Option<u32>,
    /// The geometry told; `None`: one that follows from the size.
    pub geometry: Option<Geometry>,
    /// What a failed write, flush, discard or write-zeroes does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Whether the guest starts with a write-back cache.
    pub write_cache: bool,
    /// Offer VIRTIO_BLK_F_CONFIG_WCE.
    pub config_wce: bool,
    /// Offer VIRTIO_BLK_F_DISCARD.
    pub discard: bool,
    /// Offer VIRTIO_BLK_F_WRITE_ZEROES.
    pub write_zeroes: bool,
    /// Offer VIRTIO_BLK_F_SECURE_ERASE.
    pub secure_erase: bool,
    /// Largest discard, in 512-byte sectors.
    pub max_discard_sectors: u32,
    /// Largest write-zeroes, in 512-byte sectors.
    pub max_write_zeroes_sectors: u32,
    /// SEG_MAX follows the queue size; otherwise it is 126.
    pub seg_max_adjust: bool,
    /// Offer VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// Offer VIRTIO_F_INDIRECT_DESC.
    pub indirect_desc: bool,
    /// Offer VIRTIO_F_RING_RESET.
    pub queue_reset: bool,
    /// MSI-X vectors, 0 for none; `None`: one for each queue and one for configuration changes.
    pub vectors: Option<u16>,
}

impl VirtioBlkConfig {
    /// A disk with QEMU's defaults.
    #[must_use]
    pub fn new(id: &str, iothreads: Vec<Handle>) -> Self {
        Self {
            id: id.to_owned(),
            iothreads,
            queue_size: 256,
            serial: String::new(),
            logical_block_size: 0,
            physical_block_size: 0,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: None,
            geometry: None,
            werror: ErrorPolicy::Enospc,
            rerror: ErrorPolicy::Report,
            write_cache: true,
            config_wce: true,
            discard: true,
            write_zeroes: true,
            secure_erase: true,
            max_discard_sectors: (1 << 22) - 1,
            max_write_zeroes_sectors: (1 << 22) - 1,
            seg_max_adjust: true,
            event_idx: true,
            indirect_desc: true,
            queue_reset: true,
            vectors: None,
        }
    }
}
