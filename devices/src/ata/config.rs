//! How a drive is built.

use std::sync::Arc;

use super::Geometry;
use crate::{policy::ErrorPolicy, state_file::DiskState};

/// What a drive hangs on, as far as commands and IDENTIFY data differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Serial ATA, 6 Gb/s at most; with native command queuing.
    Serial,
    /// A parallel cable; the highest Ultra DMA mode that the controller can do, if it can.
    Parallel {
        /// 0 to 6.
        udma: Option<u8>,
    },
}

/// A drive. The names are those of QEMU's `ide-hd` and `ide-cd` properties; sizes are in bytes.
#[derive(Clone)]
pub struct DriveConfig {
    /// The drive's id: in events, and its identity where there is no serial number.
    pub id: String,
    /// What it hangs on.
    pub transport: Transport,
    /// Model number, at most 40 characters.
    pub model: String,
    /// Serial number, at most 20 characters; empty: made of the id.
    pub serial: String,
    /// Firmware revision, at most 8 characters.
    pub version: String,
    /// World wide name, as an NAA designator; 0: one is derived from the serial number.
    pub wwn: u64,
    /// Logical sector size: 512 or 4096; 0: 512.
    pub logical_block_size: u32,
    /// Physical sector size, a power of two, at least the logical one; 0: the same.
    pub physical_block_size: u32,
    /// Rotations per minute; 1: not a rotating medium; 0: not said.
    pub rotation_rate: u16,
    /// Cylinders, heads and sectors as it was made; `None`: of its size.
    pub geometry: Option<Geometry>,
    /// Whether the write cache is on after power-on.
    pub write_cache: bool,
    /// What a failed write, flush or trim does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// What survives a power loss and is not in the image; `None`: nothing does.
    pub state: Option<Arc<DiskState>>,
}

impl DriveConfig {
    /// A drive with QEMU's defaults.
    #[must_use]
    pub fn new(id: &str, transport: Transport) -> Self {
        Self {
            id: id.to_owned(),
            transport,
            model: String::new(),
            serial: String::new(),
            version: "1.0".to_owned(),
            wwn: 0,
            logical_block_size: 0,
            physical_block_size: 0,
            rotation_rate: 0,
            geometry: None,
            write_cache: true,
            werror: ErrorPolicy::Enospc,
            rerror: ErrorPolicy::Report,
            state: None,
        }
    }

    /// The logical sector size that hosts see.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        if self.logical_block_size == 0 { 512 } else { self.logical_block_size }
    }

    /// The physical sector size that hosts see.
    #[must_use]
    pub fn physical_size(&self) -> u32 {
        self.physical_block_size.max(self.block_size())
    }

    /// What identifies the drive.
    #[must_use]
    pub fn serial(&self) -> &str {
        if self.serial.is_empty() { &self.id } else { &self.serial }
    }

    /// Whether it hangs on Serial ATA.
    #[must_use]
    pub fn is_serial(&self) -> bool {
        self.transport == Transport::Serial
    }
}
