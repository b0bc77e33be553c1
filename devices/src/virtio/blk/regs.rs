//! The configuration that a driver reads (virtio 1.2, 5.2.4).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use spindle_block::Root;

use super::{
    VirtioBlkConfig,
    spec::{Field, SECTOR, feature},
};
use crate::{
    Access,
    register::{Register, parts},
};

const FIELDS: &[Register<Field>] = &[
    Register::read_only(Field::Capacity, 0, 8, 0),
    Register::read_only(Field::SizeMax, 8, 4, 0),
    Register::read_only(Field::SegMax, 12, 4, 0),
    Register::read_only(Field::Cylinders, 16, 2, 0),
    Register::read_only(Field::Heads, 18, 1, 0),
    Register::read_only(Field::Sectors, 19, 1, 0),
    Register::read_only(Field::BlkSize, 20, 4, 0),
    Register::read_only(Field::PhysicalBlockExp, 24, 1, 0),
    Register::read_only(Field::AlignmentOffset, 25, 1, 0),
    Register::read_only(Field::MinIoSize, 26, 2, 0),
    Register::read_only(Field::OptIoSize, 28, 4, 0),
    Register::read_write(Field::Writeback, 32, 1, 0, 1),
    Register::read_only(Field::NumQueues, 34, 2, 0),
    Register::read_only(Field::MaxDiscardSectors, 36, 4, 0),
    Register::read_only(Field::MaxDiscardSeg, 40, 4, 0),
    Register::read_only(Field::DiscardSectorAlignment, 44, 4, 0),
    Register::read_only(Field::MaxWriteZeroesSectors, 48, 4, 0),
    Register::read_only(Field::MaxWriteZeroesSeg, 52, 4, 0),
    Register::read_only(Field::WriteZeroesMayUnmap, 56, 1, 0),
    Register::read_only(Field::MaxSecureEraseSectors, 60, 4, 0),
    Register::read_only(Field::MaxSecureEraseSeg, 64, 4, 0),
    Register::read_only(Field::SecureEraseSectorAlignment, 68, 4, 0),
];
/// Bytes of the configuration.
pub(super) const LEN: u32 = 72;

/// Largest segment of a request that drivers are told (bytes). A request may have many.
const SIZE_MAX: u32 = 1 << 22;
/// SEG_MAX where it does not follow the queue size: 128 descriptors less header and status.
const SEG_MAX_FIXED: u32 = 126;
/// The usual translated geometry: heads and sectors per track, and where cylinders stop.
const HEADS: u64 = 16;
const SECTORS: u64 = 63;
const CYLINDERS_MAX: u64 = 16383;

/// The register half of a disk: what is fixed, and the capacity that a resize changes.
pub(super) struct ConfigSpace {
    config: VirtioBlkConfig,
    root: Arc<Root>,
    /// In sectors of 512 bytes.
    capacity: AtomicU64,
    /// Whether writes are cached after power-on.
    write_back: bool,
}

impl ConfigSpace {
    pub fn new(config: VirtioBlkConfig, root: Arc<Root>) -> Self {
        let capacity = AtomicU64::new(root.info().size / SECTOR);
        let write_back = config.write_cache && !root.policy().write_through;
        let space = Self { config, root, capacity, write_back };
        space.set_write_back(write_back);
        space
    }

    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    pub fn config(&self) -> &VirtioBlkConfig {
        &self.config
    }

    pub fn block_size(&self) -> u32 {
        self.config.logical_block_size.max(SECTOR as u32)
    }

    fn physical_block_size(&self) -> u32 {
        self.config.physical_block_size.max(self.block_size())
    }

    pub fn features(&self) -> u64 {
        let if_set = |on: bool, bits| if on { bits } else { 0 };
        let read_only = self.root.info().read_only;
        feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::GEOMETRY
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::LIFETIME
            | if_set(read_only, feature::RO)
            | if_set(self.config.config_wce, feature::CONFIG_WCE)
            | if_set(self.config.iothreads.len() > 1, feature::MQ)
            | if_set(self.config.discard && !read_only, feature::DISCARD)
            | if_set(self.config.write_zeroes && !read_only, feature::WRITE_ZEROES)
            | if_set(self.config.secure_erase && !read_only, feature::SECURE_ERASE)
    }

    /// A driver that knows neither flushes nor the cache expects its writes to be durable
    /// (5.2.5.2).
    pub fn started(&self, features: u64) {
        if features & (feature::FLUSH | feature::CONFIG_WCE) == 0 {
            self.set_write_back(false);
        }
    }

    pub fn reset(&self) {
        self.set_write_back(self.write_back);
    }

    fn set_write_back(&self, on: bool) {
        if self.root.policy().write_through == on {
            self.root.set_policy(|policy| policy.write_through = !on);
        }
    }

    /// Takes over the disk's size. Called under the lock of the configuration.
    pub fn resized(&self) {
        self.capacity.store(self.root.info().size / SECTOR, SeqCst);
    }

    pub fn read(&self, access: Access) -> u64 {
        parts(FIELDS, access)
            .fold(0, |value, part| value | part.extract(self.field(part.register.name)))
    }

    pub fn write(&self, access: Access, value: u64, features: u64) {
        let writeback = |part: &crate::register::Part<'_, Field>| {
            part.register.name == Field::Writeback && features & feature::CONFIG_WCE != 0
        };
        for part in parts(FIELDS, access).filter(writeback) {
            self.set_write_back(part.insert(value) & 1 != 0);
        }
    }

    fn field(&self, name: Field) -> u64 {
        let config = &self.config;
        let capacity = self.capacity.load(SeqCst);
        let block = u64::from(self.block_size());
        match name {
            Field::Capacity => capacity,
            Field::SizeMax => SIZE_MAX.into(),
            Field::SegMax => self.seg_max().into(),
            Field::Cylinders => match config.geometry {
                Some(given) => given.cylinders.into(),
                None => (capacity / (HEADS * SECTORS)).min(CYLINDERS_MAX),
            },
            Field::Heads => config.geometry.map_or(HEADS, |given| given.heads.into()),
            Field::Sectors => config.geometry.map_or(SECTORS, |given| given.sectors.into()),
            Field::BlkSize => block,
            Field::PhysicalBlockExp => {
                (u64::from(self.physical_block_size()) / block).max(1).ilog2().into()
            }
            Field::AlignmentOffset => 0,
            Field::MinIoSize => (u64::from(config.min_io_size) / block).min(u16::MAX.into()),
            Field::OptIoSize => u64::from(config.opt_io_size) / block,
            Field::Writeback => u64::from(!self.root.policy().write_through),
            Field::NumQueues => config.iothreads.len() as u64,
            Field::MaxDiscardSectors | Field::MaxSecureEraseSectors => {
                config.max_discard_sectors.into()
            }
            Field::MaxDiscardSeg | Field::MaxWriteZeroesSeg | Field::MaxSecureEraseSeg => 1,
            Field::DiscardSectorAlignment => self.discard_alignment(),
            Field::MaxWriteZeroesSectors => config.max_write_zeroes_sectors.into(),
            Field::WriteZeroesMayUnmap => 1,
            Field::SecureEraseSectorAlignment => block / SECTOR,
        }
    }

    fn seg_max(&self) -> u32 {
        if self.config.seg_max_adjust {
            u32::from(self.config.queue_size).saturating_sub(2).max(1)
        } else {
            SEG_MAX_FIXED
        }
    }

    fn discard_alignment(&self) -> u64 {
        let granularity =
            self.config.discard_granularity.unwrap_or_else(|| self.root.info().discard_granularity);
        u64::from(granularity.max(self.block_size())) / SECTOR
    }
}
