//! UNMAP, WRITE SAME, GET LBA STATUS, and commands that compare.

use super::setup::{assert_sense, pattern, read, setup, sixteen, ten, twelve, write};

/// An UNMAP's parameter list.
fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let len = ranges.len() as u16 * 16;
    let mut bytes = (len + 6).to_be_bytes().to_vec();
    bytes.extend(len.to_be_bytes());
    bytes.extend([0; 4]);
    for (lba, blocks) in ranges {
        bytes.extend(lba.to_be_bytes());
        bytes.extend(blocks.to_be_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

fn unmap(len: usize) -> [u8; 10] {
    let [high, low] = (len as u16).to_be_bytes();
    [0x42, 0, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn what_is_unmapped_reads_as_zeros() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 0, &pattern(1, 65536));
    let ranges = list(&[(8, 16), (100, 0), (64, 1)]);
    let reply = t.driver.command(&unmap(ranges.len()), &ranges, 0);
    assert!(reply.is_good(), "{reply:?}");
    assert_eq!(reply.residual, 0);
    let mut expected = pattern(1, 65536);
    expected[8 * 512..24 * 512].fill(0);
    expected[64 * 512..65 * 512].fill(0);
    assert_eq!(read(&mut t.driver, 0, 128), expected);
    for nothing in [&[][..], &list(&[])] {
        assert!(t.driver.command(&unmap(nothing.len()), nothing, 0).is_good());
    }
}

#[test]
fn unmap_lists_that_make_no_sense_are_refused_as_a_whole() {
    let mut t = setup(1 << 20, |config| config.max_unmap_blocks = 100);
    write(&mut t.driver, 0, &pattern(1, 4096));
    let mut send = |bytes: &[u8]| t.driver.command(&unmap(bytes.len()), bytes, 0);
    assert_sense(&send(&[0; 7]), (5, 0x1a, 0), "no header");
    assert_sense(&send(&list(&[(0, 1)])[..20]), (5, 0x1a, 0), "a list cut short");
    assert_sense(&send(&list(&[(0, 8), (2048, 1)])), (5, 0x21, 0), "beyond the end");
    assert_sense(&send(&list(&[(0, 8), (u64::MAX, 1)])), (5, 0x21, 0), "an overflow");
    assert_sense(&send(&list(&[(0, 50), (50, 51)])), (5, 0x26, 0), "too many blocks");
    assert_sense(&send(&list(&vec![(0, 0); 256])), (5, 0x26, 0), "too many ranges");
    assert_sense(
        &t.driver.command(&[0x42, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0),
        (5, 0x24, 0),
        "an anchor",
    );
    assert_eq!(read(&mut t.driver, 0, 8), pattern(1, 4096), "nothing was unmapped");
}

#[test]
fn one_block_is_written_over_many() {
    let mut t = setup(1 << 20, |_| ());
    let block = pattern(7, 512);
    for (i, cdb) in
        [ten(0x41, 0, 16, 1000).to_vec(), sixteen(0x93, 0, 16, 1000).to_vec()].iter().enumerate()
    {
        write(&mut t.driver, 0, &pattern(1, 65536));
        let block: Vec<u8> = block.iter().map(|byte| byte ^ i as u8).collect();
        let reply = t.driver.command(cdb, &block, 0);
        assert!(reply.is_good(), "{reply:?}");
        assert_eq!(reply.residual, 0);
        let image = t.machine.world.contents(&t.file).to_vec();
        assert_eq!(image[..8192], pattern(1, 65536)[..8192]);
        assert!(image[8192..].chunks(512).take(1000).all(|chunk| chunk == block));
        assert!(image[1016 * 512..].iter().all(|byte| *byte == 0));
    }
    for cdb in [
        ten(0x41, 0x08, 16, 8).to_vec(),
        ten(0x41, 0, 16, 8).to_vec(),
        sixteen(0x93, 0x08, 16, 8).to_vec(),
        sixteen(0x93, 0x01, 16, 8).to_vec(),
        sixteen(0x93, 0x09, 16, 8).to_vec(),
    ] {
        write(&mut t.driver, 0, &pattern(1, 65536));
        let no_data = cdb[0] == 0x93 && cdb[1] & 1 != 0;
        let reply = t.driver.command(&cdb, if no_data { &[] } else { &[0; 512] }, 0);
        assert!(reply.is_good(), "{cdb:x?}: {reply:?}");
        let mut expected = pattern(1, 65536);
        expected[16 * 512..24 * 512].fill(0);
        assert_eq!(read(&mut t.driver, 0, 128), expected, "{cdb:x?}");
    }
    // UNMAP with data that are not zeros is a write.
    assert!(t.driver.command(&sixteen(0x93, 0x08, 16, 8), &block, 0).is_good());
    assert_eq!(read(&mut t.driver, 16, 8), block.repeat(8));
}

#[test]
fn write_same_refuses_what_it_cannot_do() {
    let mut t = setup(1 << 20, |config| config.max_unmap_blocks = 100);
    let data = [1; 512];
    for (cdb, key, what) in [
        (sixteen(0x93, 0, 0, 0), (5, 0x24, 0), "no number of blocks"),
        (sixteen(0x93, 0, 0, 101), (5, 0x24, 0), "too many"),
        (sixteen(0x93, 0, 2048, 1), (5, 0x21, 0), "beyond the end"),
        (sixteen(0x93, 0, 2000, 100), (5, 0x21, 0), "across the end"),
        (sixteen(0x93, 0x10, 0, 1), (5, 0x24, 0), "an anchor"),
        (sixteen(0x93, 0x20, 0, 1), (5, 0x24, 0), "protection"),
    ] {
        assert_sense(&t.driver.command(&cdb, &data, 0), key, what);
    }
    assert_sense(&t.driver.command(&ten(0x41, 0, 0, 0), &data, 0), (5, 0x24, 0), "none");
    assert_eq!(t.driver.command(&ten(0x41, 0, 0, 1), &[], 0).response, 1, "no block");
    assert!(t.machine.world.contents(&t.file).to_vec().iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_mapped_is_told() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 128, &pattern(1, 65536));
    let mut cdb = sixteen(0x9e, 0x12, 0, 0);
    cdb[10..14].copy_from_slice(&256u32.to_be_bytes());
    let reply = t.driver.command(&cdb, &[], 256);
    assert!(reply.is_good(), "{reply:?}");
    let len = u32::from_be_bytes(reply.data[..4].try_into().unwrap());
    assert_eq!(len + 4, 256 - reply.residual);
    let mut at = 0;
    for descriptor in reply.data[8..4 + len as usize].chunks(16) {
        assert_eq!(descriptor[..8], u64::to_be_bytes(at), "ranges follow each other");
        let blocks = u32::from_be_bytes(descriptor[8..12].try_into().unwrap());
        assert!(descriptor[12] <= 1 && blocks > 0);
        if descriptor[12] == 1 {
            assert!(at + u64::from(blocks) <= 128 || at >= 256, "data told as unmapped");
        }
        at += u64::from(blocks);
    }
    assert_eq!(at, 2048);
    cdb[2..10].copy_from_slice(&2048u64.to_be_bytes());
    assert_sense(&t.driver.command(&cdb, &[], 256), (5, 0x21, 0), "beyond the end");
    let mut small = sixteen(0x9e, 0x12, 0, 0);
    small[13] = 23;
    assert_sense(&t.driver.command(&small, &[], 23), (5, 0x24, 0), "no room for a range");
}

#[test]
fn verify_compares_as_asked() {
    let mut t = setup(4 << 20, |_| ());
    let data = pattern(1, 4096);
    write(&mut t.driver, 8, &data);
    let mut wrong = data.clone();
    wrong[1000] ^= 1;
    for form in 0..3 {
        let cdb = |flags| match form {
            0 => ten(0x2f, flags, 8, 8).to_vec(),
            1 => twelve(0xaf, flags, 8, 8).to_vec(),
            _ => sixteen(0x8f, flags, 8, 8).to_vec(),
        };
        assert!(t.driver.command(&cdb(0), &[], 0).is_good());
        assert!(t.driver.command(&cdb(2), &data, 0).is_good());
        let reply = t.driver.command(&cdb(2), &wrong, 0);
        assert_sense(&reply, (0xe, 0x1d, 0), "other data");
        assert_eq!(reply.sense[..7], [0xf0, 0, 0xe, 0, 0, 3, 0xe8], "byte 1000 differs");
        assert_sense(&t.driver.command(&cdb(4), &[], 0), (5, 0x24, 0), "BYTCHK 2");
        assert_sense(&t.driver.command(&cdb(0x20), &[], 0), (5, 0x24, 0), "protection");
        assert_sense(&t.driver.command(&cdb(6), &data[..512], 0), (0xe, 0x1d, 0), "one block");
    }
    assert!(t.driver.command(&sixteen(0x93, 0, 8, 2100), &[3; 512], 0).is_good());
    assert!(t.driver.command(&sixteen(0x8f, 6, 8, 2100), &[3; 512], 0).is_good());
    write(&mut t.driver, 2100, &[4; 512]);
    let reply = t.driver.command(&sixteen(0x8f, 6, 8, 2100), &[3; 512], 0);
    assert_sense(&reply, (0xe, 0x1d, 0), "a block beyond the first mebibyte");
    assert_eq!(reply.sense[3..7], (2092u32 * 512).to_be_bytes());
    assert!(t.driver.command(&ten(0x2f, 6, 8, 0), &[], 0).is_good(), "nothing to verify");
    let many = (1 << 22) + 1;
    let reply = t.driver.command(&sixteen(0x8f, 0, 0, many), &[], 0);
    assert_sense(&reply, (5, 0x24, 0), "too many");
    assert_sense(&t.driver.command(&twelve(0xaf, 0, 0, many), &[], 0), (5, 0x24, 0), "too many");
}

#[test]
fn write_and_verify_writes_durably() {
    let mut t = setup(1 << 20, |_| ());
    for (i, flags) in [0, 2].into_iter().enumerate() {
        for (j, cdb) in [
            ten(0x2e, flags, 8, 2).to_vec(),
            twelve(0xae, flags, 8, 2).to_vec(),
            sixteen(0x8e, flags, 8, 2).to_vec(),
        ]
        .iter()
        .enumerate()
        {
            let data = pattern((i * 3 + j) as u8, 1024);
            let reply = t.driver.command(cdb, &data, 0);
            assert!(reply.is_good() && reply.residual == 0, "{reply:?}");
            assert_eq!(t.machine.world.durable(&t.file).to_vec()[4096..5120], data);
        }
    }
    assert_sense(&t.driver.command(&ten(0x2e, 6, 8, 2), &[0; 1024], 0), (5, 0x24, 0), "BYTCHK 3");
}

#[test]
fn compare_and_write_does_both_or_neither() {
    let mut t = setup(1 << 20, |_| ());
    let (old, new) = (pattern(1, 1024), pattern(2, 1024));
    write(&mut t.driver, 8, &old);
    let cdb = |lba: u64, blocks: u8| {
        let mut cdb = sixteen(0x89, 0, lba, 0);
        cdb[13] = blocks;
        cdb
    };
    let both = [old.clone(), new.clone()].concat();
    let reply = t.driver.command(&cdb(8, 2), &both, 0);
    assert!(reply.is_good() && reply.residual == 0, "{reply:?}");
    assert_eq!(read(&mut t.driver, 8, 2), new);
    let reply = t.driver.command(&cdb(8, 2), &both, 0);
    assert_sense(&reply, (0xe, 0x1d, 0), "the old data are gone");
    let first = old.iter().zip(&new).position(|(a, b)| a != b).unwrap() as u32;
    assert_eq!(reply.sense[3..7], first.to_be_bytes());
    assert_eq!(read(&mut t.driver, 8, 2), new, "nothing was written");
    assert!(t.driver.command(&cdb(8, 0), &[], 0).is_good(), "nothing");
    assert_sense(&t.driver.command(&cdb(2047, 2), &both, 0), (5, 0x21, 0), "across the end");
    let many = vec![0; 2 * 129 * 512];
    assert_sense(&t.driver.command(&cdb(8, 129), &many, 0), (5, 0x24, 0), "too many");
    let mut protect = cdb(8, 2);
    protect[1] = 0x20;
    assert_sense(&t.driver.command(&protect, &both, 0), (5, 0x24, 0), "protection");
    assert_eq!(t.driver.command(&cdb(8, 2), &both[..1024], 0).response, 1, "half of the data");
}

#[test]
fn of_many_that_compare_and_write_the_same_block_one_wins() {
    let mut t = setup(1 << 20, |_| ());
    let mut cdb = sixteen(0x89, 0, 8, 0);
    cdb[13] = 1;
    let lun = spindle_devices::testkit::driver::ScsiDriver::lun(0, 0);
    let tickets: Vec<_> = (1..=4u8)
        .map(|i| {
            let data = [vec![0; 512], vec![i; 512]].concat();
            t.driver.offer(0, lun, &cdb, &data, 0)
        })
        .collect();
    // A write that comes while they are under way is not lost between a compare and its write.
    t.driver.offer(0, lun, &ten(0x2a, 0, 9, 1), &[9; 512], 0);
    t.driver.rings[0].notify();
    t.machine.run();
    while t.driver.rings[0].take().is_some() {}
    let good: Vec<_> = tickets.iter().filter(|ticket| t.driver.look(ticket, 0).is_good()).collect();
    assert_eq!(good.len(), 1, "one compares with zeros");
    let winner = t.machine.memory.read(good[0].data + 512, 1)[0];
    assert_eq!(read(&mut t.driver, 8, 1), [winner; 512]);
    assert_eq!(read(&mut t.driver, 9, 1), [9; 512]);
}

#[test]
fn a_compare_and_write_is_not_mixed_with_writes_of_others() {
    use spindle_devices::testkit::{Machine, driver::ScsiDriver};
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let machine = Machine::new(random.u64(..));
        let handles = machine.iothreads.iter().map(|cx| cx.handle()).collect();
        let adapter = machine.add_scsi("hba0", |config| config.iothreads = handles);
        let (unit, _) = machine.scsi_disk("disk0", 1 << 20, |_| ());
        adapter.device.add_lun(0, 0, unit).unwrap();
        machine.assign();
        let machine = std::rc::Rc::new(machine);
        let mut driver = ScsiDriver::new(&machine, adapter.at, super::setup::ALL, 2, 32);
        super::setup::settle(&mut driver, 0, 0);
        let lun = ScsiDriver::lun(0, 0);
        // Zeros become ones, unless others write first: then nothing may be lost.
        let mut cdb = sixteen(0x89, 0, 0, 0);
        cdb[13] = 1;
        let data = [vec![0; 512], vec![1; 512]].concat();
        let writers: &[(&[u8], &[u8])] = &[
            (&ten(0x2a, 0, 0, 1), &[2; 512]),
            (&ten(0x2e, 0, 0, 1), &[2; 512]),
            (&ten(0x41, 0, 0, 1), &[2; 512]),
        ];
        let (write, written) = writers[random.usize(..3)];
        let mut swap = None;
        let first = random.bool();
        for turn in [first, !first] {
            if turn {
                swap = Some(driver.offer(0, lun, &cdb, &data, 0));
                driver.rings[0].notify();
            } else {
                driver.offer(1, lun, write, written, 0);
                driver.rings[1].notify();
            }
            for _ in 0..random.u8(..3) {
                machine.turn();
            }
            for _ in 0..random.u8(..3) {
                machine.world.step();
            }
        }
        machine.run();
        let won = driver.look(&swap.unwrap(), 0).is_good();
        while driver.rings[0].take().is_some() {}
        // Whoever came first, the write is what is left: after the swap, or because it failed.
        assert_eq!(read(&mut driver, 0, 1), [2; 512], "won: {won}");
    }
}
