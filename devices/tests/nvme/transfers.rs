//! PRP lists and SGLs: every shape, and every wrong one (base 4.1).

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{driver, pattern};

const PRP_OFFSET: u16 = 0x13;
const TRANSFER: u16 = 0x04;
const FIELD: u16 = 0x02;
const SGL_SEGMENT: u16 = 0x0d;
const SGL_COUNT: u16 = 0x0e;
const SGL_LENGTH: u16 = 0x0f;
const SGL_TYPE: u16 = 0x11;

#[test]
fn prp_transfers_of_every_length_and_offset_move_exactly_their_bytes() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let whole = pattern(3, 256 << 10);
    for at in (0..whole.len()).step_by(128 << 10) {
        let part = &whole[at..at + (128 << 10)];
        let lba = (at / 512) as u64;
        assert_eq!(driver.write(1, 1, lba, 256, part).status, 0);
    }
    for blocks in [1u32, 7, 8, 9, 15, 16, 17, 64, 255, 256] {
        for offset in [0, 4, 512, 2048, 4092] {
            let len = blocks as usize * 512;
            let data = driver.alloc_at(len, offset);
            let cmd = Cmd::new(0x02, 1).data(data.prp1, data.prp2).blocks(3, blocks);
            let cqe = driver.run(1, cmd);
            assert_eq!(cqe.status, 0, "{blocks} blocks at offset {offset}");
            let read = setup.machine.memory.read(data.at, len);
            assert!(read == whole[3 * 512..3 * 512 + len], "{blocks} blocks at offset {offset}");
            if !(len as u64 + offset).is_multiple_of(4096) {
                let behind = setup.machine.memory.read(data.at + len as u64, 4);
                assert_eq!(behind, [0; 4], "written behind the end");
            }
        }
    }
}

#[test]
fn a_prp_list_goes_on_in_other_pages() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let memory = &setup.machine.memory;
    let data = pattern(9, 16 * 4096);
    assert_eq!(driver.write(1, 1, 0, 128, &data).status, 0);
    // Pages in reverse order; the list begins four entries before the end of a page.
    let pages = memory.alloc(16 * 4096, 4096);
    let lists = memory.alloc(3 * 4096, 4096);
    let page = |i: u64| pages + (15 - i) * 4096;
    let start = lists + 4096 - 4 * 8;
    let mut at = start;
    for i in 1..16 {
        let last_of_page = (at + 8).is_multiple_of(4096);
        if last_of_page && i < 15 {
            memory.set_number(at, 8, lists + 2 * 4096);
            at = lists + 2 * 4096;
        }
        memory.set_number(at, 8, page(i));
        at += 8;
    }
    let cmd = Cmd::new(0x02, 1).data(page(0), start).blocks(0, 128);
    assert_eq!(driver.run(1, cmd).status, 0);
    for i in 0..16 {
        let part = memory.read(page(i), 4096);
        assert!(part == data[i as usize * 4096..][..4096], "page {i}");
    }
}

/// Bad PRPs: what, PRP1, PRP2, blocks, status. `L` is a list of which each entry is `E`.
#[test]
fn bad_prps_are_refused() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let memory = &setup.machine.memory;
    let page = memory.alloc(4096, 4096);
    let list = |entry: u64| {
        let list = memory.alloc(4096, 4096);
        (0..512).for_each(|i| memory.set_number(list + i * 8, 8, entry));
        list
    };
    let (outside, misaligned) = (0x8000_0000, page + 512);
    let next_misaligned = list(page);
    memory.set_number(next_misaligned + 4088, 8, page + 8);
    let cases = [
        ("PRP1 not a multiple of four", page + 2, 0, 1, PRP_OFFSET),
        ("PRP1 outside of RAM", outside, 0, 1, TRANSFER),
        ("PRP1 at the end of the address space", u64::MAX - 4095, 0, 1, TRANSFER),
        ("PRP2 with an offset", page, misaligned, 16, PRP_OFFSET),
        ("PRP2 outside of RAM", page, outside, 16, TRANSFER),
        ("list with an odd address", page, list(page) + 4, 64, PRP_OFFSET),
        ("list outside of RAM", page, outside, 64, TRANSFER),
        ("entry with an offset", page, list(misaligned), 64, PRP_OFFSET),
        ("entry outside of RAM", page, list(outside), 64, TRANSFER),
        ("next list with an offset", page, next_misaligned + 4080, 64, PRP_OFFSET),
    ];
    for (what, prp1, prp2, blocks, status) in cases {
        for opcode in [0x01, 0x02] {
            let cmd = Cmd::new(opcode, 1).data(prp1, prp2).blocks(0, blocks);
            let cqe = driver.run(1, cmd);
            assert_eq!((cqe.status, cqe.dnr), (status, true), "{what}, opcode {opcode}");
        }
    }
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0, "and goes on");
}

#[test]
fn a_transfer_beyond_mdts_is_refused() {
    let (mut driver, _) = driver(4 << 20, |config| config.mdts = 2);
    let data = driver.alloc(32 << 10);
    let cmd = Cmd::new(0x02, 1).data(data.prp1, data.prp2);
    assert_eq!(driver.run(1, cmd.blocks(0, 32)).status, 0);
    assert_eq!(driver.run(1, cmd.blocks(0, 33)).status, FIELD);
}

/// A descriptor: address, length, type byte.
fn descriptor(at: u64, len: u32, kind: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&at.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[15] = kind;
    bytes
}

fn with_sgl(cmd: Cmd, descriptor: [u8; 16]) -> Cmd {
    let half = |at: usize| u64::from_le_bytes(descriptor[at..at + 8].try_into().unwrap());
    cmd.flags(0x40).data(half(0), half(8))
}

fn segment(driver: &NvmeDriver, descriptors: &[[u8; 16]]) -> (u64, u32) {
    let bytes = descriptors.concat();
    let at = driver.machine.memory.alloc(bytes.len() as u64, 16);
    driver.machine.memory.write(at, &bytes);
    (at, bytes.len() as u32)
}

#[test]
fn sgls_of_every_shape_move_exactly_their_bytes() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let memory = setup.machine.memory.clone();
    let data = pattern(5, 8192);
    assert_eq!(driver.write(1, 1, 0, 16, &data).status, 0);
    let read = Cmd::new(0x02, 1).blocks(0, 16);
    let at = memory.alloc(16384, 4096);
    // One block of data.
    let cqe = driver.run(1, with_sgl(read, descriptor(at + 1, 8192, 0)));
    assert_eq!(cqe.status, 0);
    assert!(memory.read(at + 1, 8192) == data);
    // Longer than needed.
    memory.write(at, &[0xaa; 16384]);
    assert_eq!(driver.run(1, with_sgl(read, descriptor(at, 9000, 0))).status, 0);
    assert!(memory.read(at, 8192) == data && memory.read(at + 8192, 1) == [0xaa]);
    // A chain of segments, with odd pieces.
    let pieces = [(0u64, 1u32), (4000, 4095), (100, 3), (9000, 4093)];
    let blocks: Vec<_> = pieces.iter().map(|(o, len)| descriptor(at + o, *len, 0)).collect();
    let last = segment(&driver, &blocks[2..]);
    let first = segment(&driver, &[blocks[0], blocks[1], descriptor(last.0, last.1, 0x30)]);
    memory.write(at, &[0; 16384]);
    let cqe = driver.run(1, with_sgl(read, descriptor(first.0, first.1, 0x20)));
    assert_eq!(cqe.status, 0);
    let got: Vec<u8> =
        pieces.iter().flat_map(|(o, len)| memory.read(at + o, *len as usize)).collect();
    assert!(got == data);
    // The other way.
    let write = Cmd::new(0x01, 1).blocks(100, 16);
    assert_eq!(driver.run(1, with_sgl(write, descriptor(first.0, first.1, 0x20))).status, 0);
    assert!(driver.read(1, 1, 100, 16, 8192).1 == data);
    // A last segment alone.
    let alone = segment(&driver, &blocks);
    assert_eq!(driver.run(1, with_sgl(write, descriptor(alone.0, alone.1, 0x30))).status, 0);
}

#[test]
fn a_bit_bucket_takes_what_the_host_does_not_want() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let memory = setup.machine.memory.clone();
    let (_, page) = driver.identify(1, 0, 0, 0);
    assert_eq!(super::number(&page, 536, 4), 1 | 1 << 16 | 1 << 18, "SGLS");
    let data = pattern(5, 256 << 10);
    assert_eq!(driver.write(1, 1, 0, 512, &data).status, 0);
    let read = Cmd::new(0x02, 1).blocks(0, 512);
    let at = memory.alloc(8192, 4096);
    // Only some bytes of the middle, past a bucket that is longer than any memory that backs it.
    let wanted = (200 << 10) + 3;
    let list = [
        descriptor(0xdead_beef_0000, wanted as u32, 0x10),
        descriptor(at + 1, 700, 0),
        descriptor(0, 0, 0x10),
        descriptor(0, u32::MAX, 0x10),
    ];
    let list = segment(&driver, &list);
    assert_eq!(driver.run(1, with_sgl(read, descriptor(list.0, list.1, 0x30))).status, 0);
    assert!(memory.read(at + 1, 700) == data[wanted..wanted + 700]);
    assert_eq!((memory.read(at, 1), memory.read(at + 701, 1)), (vec![0], vec![0]));
    // Nothing at all.
    assert_eq!(driver.run(1, with_sgl(read, descriptor(0, 256 << 10, 0x10))).status, 0);
    // A field of a data structure.
    let identify = Cmd::new(0x06, 0).dw(10, 1);
    let list = [descriptor(0, 24, 0x10), descriptor(at, 40, 0), descriptor(0, 8192, 0x10)];
    let list = segment(&driver, &list);
    assert_eq!(driver.admin(with_sgl(identify, descriptor(list.0, list.1, 0x30))).status, 0);
    assert!(memory.read(at, 40) == page[24..64]);
    // What the host sends has no such bytes: the descriptor counts for nothing.
    let source = memory.alloc(512, 512);
    memory.write(source, &[7; 512]);
    let list = segment(&driver, &[descriptor(0, 100, 0x10), descriptor(source, 512, 0)]);
    let write = Cmd::new(0x01, 1).blocks(4, 1);
    assert_eq!(driver.run(1, with_sgl(write, descriptor(list.0, list.1, 0x30))).status, 0);
    assert_eq!(driver.read(1, 1, 4, 1, 512).1, [7; 512]);
    let bucket = descriptor(0, 512, 0x10);
    assert_eq!(driver.run(1, with_sgl(write, bucket)).status, SGL_LENGTH);
}

#[test]
fn bad_sgls_are_refused() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let at = setup.machine.memory.alloc(4096, 4096);
    let data = descriptor(at, 4096, 0);
    let half = descriptor(at, 2048, 0);
    let two = segment(&driver, &[half, half]);
    let none_next = segment(&driver, &[half, half]);
    let inner = segment(&driver, &[descriptor(two.0, two.1, 0x30), half]);
    let last_then_last = segment(&driver, &[half, descriptor(two.0, two.1, 0x30)]);
    let cases = [
        ("shorter than the data", descriptor(at, 4095, 0), SGL_LENGTH),
        ("outside of RAM", descriptor(0x8000_0000, 4096, 0), TRANSFER),
        ("bit bucket that is too small", descriptor(0, 4095, 0x10), SGL_LENGTH),
        ("bit bucket with a subtype", descriptor(0, 4096, 0x11), SGL_TYPE),
        ("keyed data block", descriptor(at, 4096, 0x40), SGL_TYPE),
        ("offset subtype", descriptor(0, 4096, 0x01), SGL_TYPE),
        ("reserved type", descriptor(at, 4096, 0x60), SGL_TYPE),
        ("segment of no bytes", descriptor(two.0, 0, 0x30), SGL_SEGMENT),
        ("segment of half a descriptor", descriptor(two.0, 24, 0x30), SGL_SEGMENT),
        ("segment outside of RAM", descriptor(0x8000_0000, 32, 0x30), TRANSFER),
        ("segment without a next one", descriptor(none_next.0, 32, 0x20), SGL_SEGMENT),
        ("segment that is not the last descriptor", descriptor(inner.0, 32, 0x20), SGL_SEGMENT),
        ("last segment with a segment", descriptor(last_then_last.0, 32, 0x30), SGL_SEGMENT),
        ("more descriptors than can be", descriptor(0, 0xffff_fff0, 0x30), SGL_COUNT),
    ];
    for (what, descriptor, status) in cases {
        let cmd = with_sgl(Cmd::new(0x02, 1).blocks(0, 8), descriptor);
        let cqe = driver.run(1, cmd);
        assert_eq!((cqe.status, cqe.dnr), (status, true), "{what}");
    }
    let reserved = with_sgl(Cmd::new(0x02, 1).blocks(0, 8), data).flags(0xc0);
    assert_eq!(driver.run(1, reserved).status, FIELD);
    assert_eq!(driver.run(1, with_sgl(Cmd::new(0x02, 1).blocks(0, 8), data)).status, 0);
}

#[test]
fn a_loop_of_segments_ends() {
    let (mut driver, setup) = driver(4 << 20, |_| ());
    let at = setup.machine.memory.alloc(32, 16);
    setup.machine.memory.write(at, &descriptor(0x1000, 0, 0));
    setup.machine.memory.write(at + 16, &descriptor(at, 32, 0x20));
    let cmd = with_sgl(Cmd::new(0x02, 1).blocks(0, 8), descriptor(at, 32, 0x20));
    assert_eq!(driver.run(1, cmd).status, SGL_COUNT);
}

#[test]
fn larger_memory_pages_change_what_a_prp_covers() {
    let setup = super::machine(4 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    let memory = &setup.machine.memory;
    // 64 KiB pages: queues and PRP2 are aligned to them.
    let at = memory.alloc(6 << 16, 1 << 16);
    driver.place_admin(8);
    driver.sqs[0].at = at;
    driver.cqs[0].at = at + (1 << 16);
    driver.set(0x28, 8, at);
    driver.set(0x30, 8, at + (1 << 16));
    driver.set(0x14, 4, 0x0046_0001 | 4 << 7);
    setup.machine.turn();
    assert_eq!(driver.status(), 1);
    let mut pair = (driver.new_sq(1, 8), driver.new_cq(1, 8));
    pair.0.at = at + (2 << 16);
    pair.1.at = at + (3 << 16);
    assert_eq!(driver.admin(NvmeDriver::create_cq_cmd(&pair.1, 0)).status, 0);
    assert_eq!(driver.admin(NvmeDriver::create_sq_cmd(&pair.0, 1)).status, 0);
    driver.sqs.push(pair.0);
    driver.cqs.push(pair.1);
    let data = pattern(1, 64 << 10);
    memory.write(at + (4 << 16) + 512, &data);
    let cmd = Cmd::new(0x01, 1).data(at + (4 << 16) + 512, at + (5 << 16)).blocks(0, 128);
    assert_eq!(driver.run(1, cmd).status, 0);
    let cmd = Cmd::new(0x02, 1).data(at + (4 << 16), at + (5 << 16) + 4096).blocks(0, 128);
    assert_eq!(driver.run(1, cmd).status, 0, "one page is enough");
    assert!(memory.read(at + (4 << 16), 64 << 10) == data);
}
