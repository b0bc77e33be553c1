//! Machines with disks, and what many tests ask of them.

use std::{rc::Rc, sync::Arc};

use spindle_block::file::File;
use spindle_devices::{
    scsi::{LogicalUnit, UnitConfig},
    testkit::{
        Machine, ScsiAdapter,
        driver::{ScsiDriver, ScsiReply},
    },
};

/// Whatever is offered.
pub const ALL: u64 = u64::MAX;

/// One adapter with one disk, brought up; the first unit attention is out of the way.
pub struct Setup {
    /// The machine.
    pub machine: Rc<Machine>,
    /// The adapter.
    pub adapter: ScsiAdapter,
    /// Its driver.
    pub driver: ScsiDriver,
    /// The disk.
    pub unit: Arc<LogicalUnit>,
    /// What its data is in.
    pub file: Arc<File>,
}

/// A disk of `size` bytes at target 0, lun 0.
pub fn setup(size: u64, configure: impl FnOnce(&mut UnitConfig)) -> Setup {
    let machine = Machine::new(fastrand::u64(..));
    let adapter = machine.add_scsi("hba0", |_| ());
    let (unit, file) = machine.scsi_disk("disk0", size, configure);
    adapter.device.add_lun(0, 0, Arc::clone(&unit)).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 1, 64);
    settle(&mut driver, 0, 0);
    Setup { machine, adapter, driver, unit, file }
}

/// Takes all unit attentions of a unit.
pub fn settle(driver: &mut ScsiDriver, target: u8, lun: u16) {
    for _ in 0..8 {
        if driver.send(ScsiDriver::lun(target, lun), &[0; 6], &[], 0).status == 0 {
            return;
        }
    }
    panic!("target {target}, lun {lun} never gets ready");
}

/// `len` bytes that differ from their neighbours.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

/// WRITE(10) and READ(10), READ(16) of blocks.
pub fn ten(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, e, f, 0]
}

/// The 16-byte form.
pub fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// The 12-byte form.
pub fn twelve(opcode: u8, flags: u8, lba: u32, blocks: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// Writes blocks of 512 bytes.
pub fn write(driver: &mut ScsiDriver, lba: u32, data: &[u8]) {
    let reply = driver.command(&ten(0x2a, 0, lba, (data.len() / 512) as u16), data, 0);
    assert!(reply.is_good(), "writing at {lba}: {reply:?}");
}

/// Reads blocks of 512 bytes.
pub fn read(driver: &mut ScsiDriver, lba: u32, blocks: u16) -> Vec<u8> {
    let reply = driver.command(&ten(0x28, 0, lba, blocks), &[], u32::from(blocks) * 512);
    assert!(reply.is_good(), "reading at {lba}: {reply:?}");
    reply.data
}

/// Asserts CHECK CONDITION with this key, code and qualifier.
pub fn assert_sense(reply: &ScsiReply, key: (u8, u8, u8), what: &str) {
    assert_eq!((reply.response, reply.status), (0, 2), "{what}: {:x?}", reply.sense);
    assert_eq!(reply.key(), key, "{what}: {:x?}", reply.sense);
    assert_eq!(reply.written, 108, "{what}");
}
