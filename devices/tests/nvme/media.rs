//! Write Uncorrectable and Copy: what they do to the medium (NVM 3.2.2, 3.2.7).

use std::{rc::Rc, sync::Arc};

use spindle_devices::{
    nvme::NvmeNamespaceConfig,
    state_file::{DiskState, MemoryStore},
    testkit::{
        Machine,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::{driver, pattern};

const READ_ERROR: u16 = 0x281;
const RANGE: u16 = 0x80;
const FIELD: u16 = 0x02;
const SIZE_LIMIT: u16 = 0x183;

fn mark(driver: &mut NvmeDriver, lba: u64, count: u32) {
    assert_eq!(driver.run(1, Cmd::new(0x04, 1).blocks(lba, count)).status, 0);
}

#[test]
fn marked_blocks_cannot_be_read_until_they_are_written() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    assert_eq!(driver.write(1, 1, 0, 64, &pattern(1, 32 << 10)).status, 0);
    mark(&mut driver, 10, 4);
    assert_eq!(driver.read(1, 1, 9, 1, 512).0.status, 0);
    assert_eq!(driver.read(1, 1, 14, 1, 512).0.status, 0);
    let cases = [
        ("read", Cmd::new(0x02, 1), 10, 1),
        ("read over the beginning", Cmd::new(0x02, 1), 9, 2),
        ("read over the end", Cmd::new(0x02, 1), 13, 2),
        ("read around", Cmd::new(0x02, 1), 0, 64),
        ("compare", Cmd::new(0x05, 1), 12, 1),
        ("verify", Cmd::new(0x0c, 1), 12, 1),
    ];
    for (what, cmd, lba, count) in cases {
        let data = driver.alloc(32 << 10);
        let cqe = driver.run(1, cmd.data(data.prp1, data.prp2).blocks(lba, count));
        assert_eq!((cqe.status, cqe.dnr), (READ_ERROR, true), "{what}");
    }
    // Written, zeroed, deallocated: each makes its blocks readable.
    assert_eq!(driver.write(1, 1, 10, 1, &pattern(9, 512)).status, 0);
    assert_eq!(driver.read(1, 1, 10, 1, 512).1, pattern(9, 512));
    assert_eq!(driver.read(1, 1, 11, 1, 512).0.status, READ_ERROR);
    assert_eq!(driver.run(1, Cmd::new(0x08, 1).blocks(11, 1)).status, 0);
    assert_eq!(driver.read(1, 1, 11, 1, 512).1, vec![0; 512]);
    let mut range = vec![0; 16];
    (range[4], range[8]) = (2, 12);
    assert_eq!(driver.send(1, Cmd::new(0x09, 1).dw(11, 4), &range).status, 0);
    assert_eq!(driver.read(1, 1, 0, 64, 32 << 10).0.status, 0);
    assert_eq!(driver.run(1, Cmd::new(0x04, 1).blocks(2048, 1)).status, RANGE);
}

#[test]
fn marks_survive_a_restart_and_go_with_a_format() {
    let store = MemoryStore::new();
    let boot = || {
        let machine = Machine::new(1);
        let (root, _) = machine.add_root("disk", 1 << 20);
        let mut config = NvmeNamespaceConfig::new(root);
        config.state = DiskState::open(Arc::clone(&store) as _).unwrap();
        let disk = machine.add_nvme("nvme0", &[], |c| c.namespaces.push(config));
        machine.assign();
        let machine = Rc::new(machine);
        // The driver's machine lives as long as the driver; so does the function on its bus.
        let driver = NvmeDriver::new(&machine, disk.at, 1, 8);
        (driver, disk)
    };
    let (mut driver, _disk) = boot();
    mark(&mut driver, 5, 1);
    let (mut driver, _disk) = boot();
    assert_eq!(driver.read(1, 1, 5, 1, 512).0.status, READ_ERROR);
    assert_eq!(driver.admin(Cmd::new(0x80, 1)).status, 0);
    assert_eq!(driver.read(1, 1, 5, 1, 512).0.status, 0);
    let (mut driver, _disk) = boot();
    assert_eq!(driver.read(1, 1, 5, 1, 512).0.status, 0);
    store.fail(true);
    assert_eq!(driver.run(1, Cmd::new(0x04, 1).blocks(5, 1)).status, 0x06, "not saved");
}

fn sources(list: &[(u64, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (lba, blocks) in list {
        bytes.extend([0; 8]);
        bytes.extend(lba.to_le_bytes());
        bytes.extend((blocks - 1).to_le_bytes());
        bytes.extend([0; 12]);
    }
    bytes
}

fn copy(to: u64, count: u32) -> Cmd {
    Cmd::new(0x19, 1).dw(10, to as u32).dw(11, (to >> 32) as u32).dw(12, count - 1)
}

#[test]
fn copies_are_copies() {
    let (mut driver, setup) = driver(8 << 20, |_| ());
    let data = pattern(3, 64 << 10);
    assert_eq!(driver.write(1, 1, 0, 128, &data).status, 0);
    let list = sources(&[(100, 3), (0, 1), (7, 20)]);
    let cqe = driver.send(1, copy(1000, 3), &list);
    assert_eq!((cqe.status, cqe.result), (0, 0));
    let mut expected = data[100 * 512..103 * 512].to_vec();
    expected.extend(&data[..512]);
    expected.extend(&data[7 * 512..27 * 512]);
    assert_eq!(driver.read(1, 1, 1000, 24, 24 * 512).1, expected);
    // Larger than a piece, durable at once.
    let big = sources(&[(0, 2048)]);
    assert_eq!(driver.send(1, copy(8192, 1).dw(12, 1 << 30), &big).status, 0);
    let mut durable = vec![0; 64 << 10];
    setup.machine.world.durable(&setup.file).read(8192 * 512, &mut durable);
    assert!(durable == data);
}

#[test]
fn every_documented_error_of_copy() {
    let (mut driver, setup) = driver(32 << 20, |_| ());
    let end = 65536;
    let one = sources(&[(0, 1)]);
    let cases = [
        ("source beyond the end", copy(0, 1), sources(&[(end, 1)]), RANGE),
        ("source over the end", copy(0, 1), sources(&[(end - 1, 2)]), RANGE),
        ("source that wraps", copy(0, 1), sources(&[(u64::MAX, 1)]), RANGE),
        ("destination beyond the end", copy(end, 1), one.clone(), RANGE),
        ("destination over the end", copy(end - 1, 2), sources(&[(0, 1), (1, 1)]), RANGE),
        ("destination that wraps", copy(u64::MAX, 1), one.clone(), RANGE),
        ("too long a range", copy(0, 1), sources(&[(0, 0x8001)]), SIZE_LIMIT),
        ("too long in all", copy(0, 2), sources(&[(0, 0x8000), (0, 1)]), SIZE_LIMIT),
        ("too many ranges", copy(0, 129), vec![0; 129 * 32], SIZE_LIMIT),
        ("another descriptor format", copy(0, 1).dw(12, 1 << 8), one.clone(), FIELD),
    ];
    for (what, cmd, list, status) in cases {
        assert_eq!(driver.send(1, cmd, &list).status, status, "{what}");
    }
    setup.root.set_policy(|policy| policy.read_only = true);
    assert_eq!(driver.send(1, copy(0, 1), &one).status, 0x20);
}

#[test]
fn a_copy_that_fails_says_which_range_was_not_copied() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    assert_eq!(driver.write(1, 1, 0, 8, &pattern(1, 4096)).status, 0);
    mark(&mut driver, 20, 1);
    let cqe = driver.send(1, copy(100, 3), &sources(&[(0, 2), (20, 1), (4, 1)]));
    assert_eq!((cqe.status, cqe.result), (READ_ERROR, 1));
    assert_eq!(driver.read(1, 1, 100, 2, 1024).1, pattern(1, 4096)[..1024]);
}
