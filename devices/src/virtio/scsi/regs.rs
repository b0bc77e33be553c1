//! The configuration that a driver reads, and the two sizes that it writes (virtio 1.2, 5.6.4).

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::{
    VirtioScsiConfig,
    spec::{CDB_SIZE, EVENT_LEN, Field, LUNS, SENSE_SIZE, TARGETS},
};
use crate::{
    Access,
    register::{Register, parts},
    scsi::spec::SENSE_MAX,
};

const ALL32: u64 = 0xffff_ffff;

const FIELDS: &[Register<Field>] = &[
    Register::read_only(Field::NumQueues, 0, 4, 0),
    Register::read_only(Field::SegMax, 4, 4, 0),
    Register::read_only(Field::MaxSectors, 8, 4, 0),
    Register::read_only(Field::CmdPerLun, 12, 4, 0),
    Register::read_only(Field::EventInfoSize, 16, 4, EVENT_LEN as u64),
    Register::read_write(Field::SenseSize, 20, 4, SENSE_SIZE as u64, ALL32),
    Register::read_write(Field::CdbSize, 24, 4, CDB_SIZE as u64, ALL32),
    Register::read_only(Field::MaxChannel, 28, 2, 0),
    Register::read_only(Field::MaxTarget, 30, 2, TARGETS as u64 - 1),
    Register::read_only(Field::MaxLun, 32, 4, LUNS as u64 - 1),
];
/// Bytes of the configuration.
pub(super) const LEN: u32 = 36;

/// SEG_MAX where it does not follow the queue size: 128 descriptors less request and response.
const SEG_MAX_FIXED: u32 = 126;
/// The longest CDB that a driver can ask for (SPC-5, 4.2.3: variable length).
const CDB_SIZE_MAX: u32 = 260;

/// See the module.
pub(super) struct ConfigSpace {
    num_queues: u32,
    seg_max: u32,
    max_sectors: u32,
    cmd_per_lun: u32,
    sense_size: AtomicU32,
    cdb_size: AtomicU32,
}

impl ConfigSpace {
    pub fn new(config: &VirtioScsiConfig) -> Self {
        let adjusted = u32::from(config.queue_size).saturating_sub(2).max(1);
        Self {
            num_queues: config.iothreads.len() as u32,
            seg_max: if config.seg_max_adjust { adjusted } else { SEG_MAX_FIXED },
            max_sectors: config.max_sectors,
            cmd_per_lun: config.cmd_per_lun,
            sense_size: AtomicU32::new(SENSE_SIZE),
            cdb_size: AtomicU32::new(CDB_SIZE),
        }
    }

    pub fn reset(&self) {
        self.sense_size.store(SENSE_SIZE, SeqCst);
        self.cdb_size.store(CDB_SIZE, SeqCst);
    }

    /// Bytes for sense data in every response.
    pub fn sense_size(&self) -> usize {
        self.sense_size.load(SeqCst) as usize
    }

    /// Bytes for the CDB in every request.
    pub fn cdb_size(&self) -> usize {
        self.cdb_size.load(SeqCst) as usize
    }

    pub fn read(&self, access: Access) -> u64 {
        parts(FIELDS, access)
            .fold(0, |value, part| value | part.extract(self.field(part.register.name)))
    }

    /// What makes no sense is not taken over.
    pub fn write(&self, access: Access, value: u64) {
        for part in parts(FIELDS, access) {
            let name = part.register.name;
            let new = part.register.merge(self.field(name), part.insert(value), part.mask) as u32;
            match name {
                Field::SenseSize if new as usize <= SENSE_MAX => {
                    self.sense_size.store(new, SeqCst);
                }
                Field::CdbSize if (1..=CDB_SIZE_MAX).contains(&new) => {
                    self.cdb_size.store(new, SeqCst);
                }
                _ => {}
            }
        }
    }

    fn field(&self, name: Field) -> u64 {
        match name {
            Field::NumQueues => self.num_queues.into(),
            Field::SegMax => self.seg_max.into(),
            Field::MaxSectors => self.max_sectors.into(),
            Field::CmdPerLun => self.cmd_per_lun.into(),
            Field::EventInfoSize => EVENT_LEN as u64,
            Field::SenseSize => self.sense_size.load(SeqCst).into(),
            Field::CdbSize => self.cdb_size.load(SeqCst).into(),
            Field::MaxChannel => 0,
            Field::MaxTarget => TARGETS as u64 - 1,
            Field::MaxLun => u64::from(LUNS) - 1,
        }
    }
}
