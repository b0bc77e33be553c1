//! Firmware Image Download and Firmware Commit (base 5.12, 5.13).

use std::{rc::Rc, sync::Arc};

use spindle_devices::{
    state_file::{DiskState, MemoryStore},
    testkit::{
        Machine,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::driver;

const FIELD: u16 = 0x02;
const SLOT: u16 = 0x106;
const IMAGE: u16 = 0x107;
const OVERLAP: u16 = 0x114;

fn image(revision: &str) -> Vec<u8> {
    let mut bytes = b"spndlFW1".to_vec();
    bytes.extend(format!("{revision:8}").as_bytes());
    bytes.resize(8192, 0x5a);
    bytes
}

fn download(driver: &mut NvmeDriver, at: usize, bytes: &[u8]) -> u16 {
    let cmd = Cmd::new(0x11, 0).dw(10, (bytes.len() / 4 - 1) as u32).dw(11, (at / 4) as u32);
    driver.admin_write(cmd, bytes).status
}

fn commit(driver: &mut NvmeDriver, slot: u32, action: u32) -> u16 {
    driver.admin(Cmd::new(0x10, 0).dw(10, action << 3 | slot)).status
}

fn whole(driver: &mut NvmeDriver, revision: &str) {
    let bytes = image(revision);
    assert_eq!(download(driver, 4096, &bytes[4096..]), 0);
    assert_eq!(download(driver, 0, &bytes[..4096]), 0);
    assert_eq!(download(driver, 4096, &bytes[4096..]), 0);
}

/// Active firmware info, and the revisions in the slots.
fn slots(driver: &mut NvmeDriver) -> (u8, Vec<String>) {
    let (cqe, page) = driver.log(3, 0, 512);
    assert_eq!(cqe.status, 0);
    let text = |at: usize| String::from_utf8_lossy(&page[at..at + 8]).trim().replace('\0', "");
    (page[0], [8, 16, 24].map(text).to_vec())
}

fn revision(driver: &mut NvmeDriver) -> String {
    let (_, page) = driver.identify(1, 0, 0, 0);
    String::from_utf8_lossy(&page[64..72]).trim().to_owned()
}

#[test]
fn images_go_to_slots_and_become_active_by_a_reset_or_at_once() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let built = revision(&mut driver);
    assert_eq!(slots(&mut driver), (1, vec![built.clone(), String::new(), String::new()]));
    whole(&mut driver, "2.0");
    assert_eq!(commit(&mut driver, 2, 0), 0, "replace only");
    assert_eq!(slots(&mut driver).0, 1);
    assert_eq!(commit(&mut driver, 2, 2), 0, "at the next reset");
    assert_eq!(slots(&mut driver), (0x21, vec![built.clone(), "2.0".into(), String::new()]));
    assert_eq!(revision(&mut driver), built);
    driver.disable();
    driver.enable(8);
    assert_eq!((revision(&mut driver).as_str(), slots(&mut driver).0), ("2.0", 2));
    whole(&mut driver, "3.0");
    assert_eq!(commit(&mut driver, 3, 3), 0, "at once");
    assert_eq!((revision(&mut driver).as_str(), slots(&mut driver).0), ("3.0", 3));
    assert_eq!(commit(&mut driver, 1, 2), 0, "back to what it was built with");
    driver.disable();
    driver.enable(8);
    assert_eq!(revision(&mut driver), built);
}

#[test]
fn every_documented_error() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    assert_eq!(commit(&mut driver, 2, 0), IMAGE, "nothing was downloaded");
    assert_eq!(commit(&mut driver, 2, 2), SLOT, "an empty slot");
    assert_eq!(commit(&mut driver, 4, 0), SLOT);
    assert_eq!(commit(&mut driver, 1, 0), SLOT, "read-only");
    assert_eq!(commit(&mut driver, 2, 6), FIELD, "no boot partitions");
    let bytes = image("4.0");
    assert_eq!(download(&mut driver, 0, &bytes[..4096]), 0);
    assert_eq!(download(&mut driver, 4092, &bytes[..8]), OVERLAP);
    assert_eq!(download(&mut driver, 8192, &bytes[..4096]), 0);
    assert_eq!(commit(&mut driver, 2, 0), IMAGE, "with a hole");
    assert_eq!(download(&mut driver, 0, &[7; 4096]), 0);
    assert_eq!(commit(&mut driver, 2, 0), IMAGE, "something else");
    assert_eq!(download(&mut driver, 64 << 20, &bytes[..4096]), FIELD, "far away");
    let huge = Cmd::new(0x11, 0).dw(10, 0xffff_ffff);
    assert_eq!(driver.admin(huge).status, FIELD, "beyond MDTS");
}

#[test]
fn slots_survive_a_restart() {
    let store = MemoryStore::new();
    let boot = || {
        let machine = Machine::new(1);
        let state = DiskState::open(Arc::clone(&store) as _).unwrap();
        let disk = machine.add_nvme("nvme0", &[], |config| config.state = state);
        machine.assign();
        let driver = NvmeDriver::new(&Rc::new(machine), disk.at, 0, 8);
        (driver, disk)
    };
    let (mut driver, _disk) = boot();
    whole(&mut driver, "5.1");
    assert_eq!(commit(&mut driver, 2, 1), 0);
    let (mut driver, _disk) = boot();
    assert_eq!(revision(&mut driver), "5.1");
    store.fail(true);
    whole(&mut driver, "5.2");
    assert_eq!(commit(&mut driver, 3, 1), 0x06, "not saved");
}
