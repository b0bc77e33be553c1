//! `virtio-blk-pci`.

use std::sync::Arc;

use spindle_devices::{
    device::Done,
    virtio::{Geometry, VirtioBlk, VirtioBlkConfig},
};

use super::{Controller, Disk, DiskDevice, Made, Medium, Site, events::policy};
use crate::{
    machine::{BuildError, iothreads::Iothreads},
    monitor::schema::IoStatus,
    spec::{VirtioBlkSpec, device::Drive},
};

/// Disks are in sectors of this many bytes at least.
const SECTOR: u32 = 512;

impl DiskDevice for VirtioBlk {
    fn resized(&self) {
        VirtioBlk::resized(self);
    }

    fn leave(&self, done: Done) {
        done();
    }
}

/// Builds the disk over its node.
pub(super) fn build(disk: &VirtioBlkSpec, site: Site<'_>) -> Result<Made, BuildError> {
    let Site { scope, slot } = site;
    let drive = Drive { node: &disk.drive, share_rw: disk.share_rw };
    let lease = scope.attach(&disk.id, drive, disk.logical_block_size.max(SECTOR))?;
    let config = config(disk, scope.iothreads)?;
    let root = Arc::clone(lease.root());
    let device = VirtioBlk::new(config, root, scope.ground.dma.clone(), slot, scope.failures())?;
    let function = device.function();
    let disk = Disk {
        id: disk.id.clone(),
        function: disk.id.clone(),
        medium: Some(Medium::new(lease, device.function())?),
        device: Arc::new(device),
        io_status: IoStatus::Ok,
        write_cache: disk.write_cache,
        drive: None,
        own_node: None,
        leaving: false,
    };
    Ok(Made { function, disks: vec![disk], controller: Controller::Closed })
}

fn config(disk: &VirtioBlkSpec, iothreads: &Iothreads) -> Result<VirtioBlkConfig, BuildError> {
    Ok(VirtioBlkConfig {
        queue_size: disk.queue_size,
        serial: disk.serial.clone().unwrap_or_default(),
        logical_block_size: disk.logical_block_size,
        physical_block_size: disk.physical_block_size,
        min_io_size: disk.min_io_size,
        opt_io_size: disk.opt_io_size,
        // Not told: sectors.
        discard_granularity: disk
            .discard_granularity
            .or((!disk.report_discard_granularity).then_some(SECTOR)),
        geometry: (disk.cyls != 0).then_some(Geometry {
            cylinders: disk.cyls,
            heads: disk.heads,
            sectors: disk.secs,
        }),
        werror: policy(disk.werror),
        rerror: policy(disk.rerror),
        write_cache: disk.write_cache,
        config_wce: disk.config_wce,
        discard: disk.discard,
        write_zeroes: disk.write_zeroes,
        max_discard_sectors: disk.max_discard_sectors,
        max_write_zeroes_sectors: disk.max_write_zeroes_sectors,
        seg_max_adjust: disk.seg_max_adjust,
        event_idx: disk.event_idx,
        indirect_desc: disk.indirect_desc,
        queue_reset: disk.queue_reset,
        vectors: disk.vectors,
        ..VirtioBlkConfig::new(&disk.id, iothreads.of_queues(disk)?)
    })
}
