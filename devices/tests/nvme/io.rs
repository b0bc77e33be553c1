//! I/O commands: what each does to the medium, and each documented error (NVM 3).

use spindle_block::ring::sim::Image;
use spindle_devices::testkit::driver::nvme::Cmd;

use super::{driver, number, pattern};

const OPCODE: u16 = 0x01;
const FIELD: u16 = 0x02;
const NAMESPACE: u16 = 0x0b;
const PROTECTED: u16 = 0x20;
const RANGE: u16 = 0x80;
const COMPARE: u16 = 0x285;

fn medium(setup: &super::Setup, at: usize, len: usize) -> Vec<u8> {
    let image: Image = setup.machine.world.contents(&setup.file);
    let mut bytes = vec![0; len];
    image.read(at as u64, &mut bytes);
    bytes
}

#[test]
fn what_is_written_is_on_the_medium_and_read_back() {
    for block_size in [512u32, 4096] {
        let (mut driver, setup) = driver(1 << 20, |config| {
            config.namespaces[0].block_size = block_size;
        });
        let data = pattern(1, 3 * block_size as usize);
        assert_eq!(driver.write(1, 1, 5, 3, &data).status, 0);
        assert_eq!(medium(&setup, 5 * block_size as usize, data.len()), data);
        let (cqe, read) = driver.read(1, 1, 5, 3, data.len());
        assert_eq!((cqe.status, cqe.sq, cqe.head), (0, 1, 2));
        assert_eq!(read, data);
    }
}

#[test]
fn durable_is_what_was_flushed_or_forced() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let durable = |at: u64| {
        let mut bytes = [0; 512];
        setup.machine.world.durable(&setup.file).read(at, &mut bytes);
        bytes[0]
    };
    assert_eq!(driver.write(1, 1, 0, 1, &[1; 512]).status, 0);
    assert_eq!(durable(0), 0);
    assert_eq!(driver.run(1, Cmd::new(0x00, 1)).status, 0);
    assert_eq!(durable(0), 1);
    let forced = Cmd::new(0x01, 1).dw(12, 1 << 30).blocks(1, 1);
    assert_eq!(driver.send(1, forced, &[2; 512]).status, 0);
    assert_eq!(durable(512), 2);
    assert_eq!(driver.write(1, 1, 2, 1, &[3; 512]).status, 0);
    assert_eq!(driver.run(1, Cmd::new(0x00, 0xffff_ffff)).status, 0, "all namespaces");
    assert_eq!(durable(1024), 3);
}

#[test]
fn zeroes_are_written_with_and_without_giving_space_back() {
    for dw12 in [0, 1 << 25, 1 << 30] {
        let (mut driver, setup) = driver(1 << 20, |_| ());
        assert_eq!(driver.write(1, 1, 0, 64, &pattern(7, 32 << 10)).status, 0);
        let cmd = Cmd::new(0x08, 1).dw(12, dw12).blocks(8, 32);
        assert_eq!(driver.run(1, cmd).status, 0);
        let mut expected = pattern(7, 32 << 10);
        expected[8 * 512..40 * 512].fill(0);
        assert!(medium(&setup, 0, 32 << 10) == expected);
    }
}

#[test]
fn compare_finds_every_difference() {
    let (mut driver, _) = driver(2 << 20, |_| ());
    let data = pattern(2, 512 << 10);
    assert_eq!(driver.write(1, 1, 3, 1024, &data).status, 0);
    let compare = Cmd::new(0x05, 1).blocks(3, 1024);
    assert_eq!(driver.send(1, compare, &data).status, 0);
    for at in [0, 4095, 4096, (256 << 10) - 1, 256 << 10, (512 << 10) - 1] {
        let mut other = data.clone();
        other[at] ^= 1;
        assert_eq!(driver.send(1, compare, &other).status, COMPARE, "byte {at}");
    }
}

#[test]
fn verify_reads_without_a_transfer() {
    let (mut driver, _) = driver(2 << 20, |_| ());
    assert_eq!(driver.run(1, Cmd::new(0x0c, 1).blocks(0, 4096)).status, 0);
    assert_eq!(driver.run(1, Cmd::new(0x0c, 1).blocks(1, 4096)).status, RANGE);
}

fn ranges(list: &[(u64, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (lba, blocks) in list {
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(blocks.to_le_bytes());
        bytes.extend(lba.to_le_bytes());
    }
    bytes
}

#[test]
fn ranges_are_deallocated() {
    let (mut driver, setup) = driver(2 << 20, |_| ());
    let data = pattern(2, 128 << 10);
    assert_eq!(driver.write(1, 1, 0, 256, &data).status, 0);
    let dataset = |count: u32, dw11| Cmd::new(0x09, 1).dw(10, count - 1).dw(11, dw11);
    let list = ranges(&[(8, 8), (64, 8), (200, 0)]);
    assert_eq!(driver.send(1, dataset(3, 3), &list).status, 0, "hints only");
    assert!(medium(&setup, 0, 128 << 10) == data);
    assert_eq!(driver.send(1, dataset(3, 4), &list).status, 0);
    let mut expected = data;
    expected[8 * 512..16 * 512].fill(0);
    expected[64 * 512..72 * 512].fill(0);
    assert!(medium(&setup, 0, 128 << 10) == expected);
    let most: Vec<_> = (0..256).map(|i| (i * 8, 8)).collect();
    assert_eq!(driver.send(1, dataset(256, 4), &ranges(&most)).status, 0);
    assert!(medium(&setup, 0, 128 << 10) == vec![0; 128 << 10]);
    let beyond = ranges(&[(0, 8), (4090, 8)]);
    assert_eq!(driver.send(1, dataset(2, 4), &beyond).status, RANGE);
    let wraps = ranges(&[(u64::MAX, 2)]);
    assert_eq!(driver.send(1, dataset(1, 4), &wraps).status, RANGE);
}

#[test]
fn every_documented_error_of_data_commands() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let data = driver.alloc(512);
    let cmd = |opcode, nsid| Cmd::new(opcode, nsid).data(data.prp1, 0);
    for (opcode, name) in [(1, "write"), (2, "read"), (5, "compare"), (8, "zeroes"), (12, "verify")]
    {
        let cases = [
            ("last block", cmd(opcode, 1).blocks(2047, 1), None),
            ("behind the last", cmd(opcode, 1).blocks(2048, 1), Some(RANGE)),
            ("over the end", cmd(opcode, 1).blocks(2047, 2), Some(RANGE)),
            ("wraps around", cmd(opcode, 1).blocks(u64::MAX, 1), Some(RANGE)),
            ("far", cmd(opcode, 1).blocks(1 << 55, 1), Some(RANGE)),
            ("inactive namespace", cmd(opcode, 2).blocks(0, 1), Some(FIELD)),
            ("no namespace", cmd(opcode, 0).blocks(0, 1), Some(NAMESPACE)),
            ("invalid namespace", cmd(opcode, 1025).blocks(0, 1), Some(NAMESPACE)),
            ("all namespaces", cmd(opcode, 0xffff_ffff).blocks(0, 1), Some(NAMESPACE)),
            ("reserved FUSE", cmd(opcode, 1).flags(3).blocks(0, 1), Some(FIELD)),
        ];
        for (what, cmd, status) in cases {
            let cqe = driver.run(1, cmd);
            assert_eq!(cqe.status, status.unwrap_or(0), "{name}, {what}");
            assert_eq!(cqe.dnr, status.is_some(), "{name}, {what}");
        }
    }
    for opcode in [0x03, 0x07, 0x0a, 0x0b, 0x10, 0x7f, 0x80, 0xff] {
        assert_eq!(driver.run(1, cmd(opcode, 1)).status, OPCODE, "opcode {opcode:#x}");
    }
    assert_eq!(driver.run(1, cmd(0x00, 2)).status, FIELD, "flush of an inactive namespace");
}

#[test]
fn a_read_only_namespace_takes_no_changes() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    setup.root.set_policy(|policy| policy.read_only = true);
    assert_eq!(driver.write(1, 1, 0, 1, &[1; 512]).status, PROTECTED);
    assert_eq!(driver.run(1, Cmd::new(0x08, 1).blocks(0, 1)).status, PROTECTED);
    let dataset = Cmd::new(0x09, 1).dw(11, 4);
    assert_eq!(driver.send(1, dataset, &ranges(&[(0, 1)])).status, PROTECTED);
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
    assert_eq!(driver.run(1, Cmd::new(0x00, 1)).status, 0, "a flush changes nothing");
}

#[test]
fn identify_namespace_follows_the_size_of_the_image() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    setup.machine.run();
    let node = setup.root.node();
    let cx = setup.machine.iothreads[0].clone();
    let done = std::rc::Rc::new(std::cell::Cell::new(false));
    let flag = std::rc::Rc::clone(&done);
    let task_cx = cx.clone();
    cx.spawn(async move {
        node.resize(task_cx, 2 << 20).await.unwrap();
        flag.set(true);
    });
    setup.machine.run();
    assert!(done.get());
    setup.root.changed();
    setup.disk.device.resized(1);
    setup.machine.run();
    assert_eq!(driver.take(0).unwrap().result, 0x0004_0002, "namespace attribute notice");
    let (_, list) = driver.log(4, 0, 4096);
    assert_eq!(number(&list, 0, 8), 1);
    assert_eq!(number(&driver.identify(0, 1, 0, 0).1, 0, 8), 4096);
    assert_eq!(driver.write(1, 1, 4095, 1, &[1; 512]).status, 0);
}
