//! READ, WRITE and SYNCHRONIZE CACHE.

use super::setup::{assert_sense, pattern, read, setup, sixteen, ten, twelve, write};

#[test]
fn every_form_reads_and_writes_the_same_blocks() {
    let mut t = setup(1 << 20, |_| ());
    let driver = &mut t.driver;
    let forms: &[(&[u8], &[u8])] = &[
        (&[0x08, 0, 0, 9, 3, 0], &[0x0a, 0, 0, 9, 3, 0]),
        (&ten(0x28, 0, 9, 3), &ten(0x2a, 0, 9, 3)),
        (&twelve(0xa8, 0, 9, 3), &twelve(0xaa, 0, 9, 3)),
        (&sixteen(0x88, 0, 9, 3), &sixteen(0x8a, 0, 9, 3)),
    ];
    for (i, (_, write)) in forms.iter().enumerate() {
        let data = pattern(i as u8, 1536);
        let reply = driver.command(write, &data, 0);
        assert!(reply.is_good(), "{reply:?}");
        assert_eq!((reply.residual, reply.written), (0, 108));
        for (read, _) in forms {
            let reply = driver.command(read, &[], 1536);
            assert!(reply.is_good() && reply.data == data, "{read:x?} after {write:x?}");
            assert_eq!((reply.residual, reply.written), (0, 108 + 1536));
        }
    }
    let image = t.machine.world.contents(&t.file).to_vec();
    assert_eq!(image[9 * 512..][..1536], pattern(3, 1536));
}

#[test]
fn a_length_of_zero_is_256_blocks_in_the_short_form_and_nothing_in_others() {
    let mut t = setup(1 << 20, |_| ());
    let data = pattern(5, 256 * 512);
    assert!(t.driver.command(&[0x0a, 0, 0, 1, 0, 0], &data, 0).is_good());
    assert_eq!(t.driver.command(&[0x08, 0, 0, 1, 0, 0], &[], 131_072).data, data);
    for cdb in [ten(0x28, 0, 1, 0).to_vec(), sixteen(0x88, 0, 1, 0).to_vec()] {
        let reply = t.driver.command(&cdb, &[], 512);
        assert!(reply.is_good());
        assert_eq!((reply.residual, reply.written), (512, 108));
    }
    let reply = t.driver.command(&ten(0x2a, 0, 1, 0), &[9; 512], 0);
    assert!(reply.is_good());
    assert_eq!(reply.residual, 512);
    assert_eq!(read(&mut t.driver, 1, 1), data[..512]);
}

#[test]
fn blocks_beyond_the_end_are_out_of_range() {
    let mut t = setup(1 << 20, |_| ());
    let blocks = 2048u32;
    let expected = (5, 0x21, 0);
    for opcode in [0x28, 0x2a, 0x2f, 0x2e, 0x35] {
        for (lba, count) in [(blocks, 1u16), (blocks - 1, 2), (u32::MAX, 1), (blocks + 1, 0)] {
            let data = vec![0; usize::from(count) * 512];
            let len = data.len() as u32;
            let reply = match opcode {
                0x28 => t.driver.command(&ten(opcode, 0, lba, count), &[], len),
                0x2a | 0x2e => t.driver.command(&ten(opcode, 0, lba, count), &data, 0),
                _ => t.driver.command(&ten(opcode, 0, lba, count), &[], 0),
            };
            assert_sense(&reply, expected, &format!("{opcode:#x} at {lba}, {count}"));
        }
    }
    for (lba, count) in [(u64::MAX, 1), (1 << 62, 1), (u64::MAX, u32::MAX)] {
        let reply = t.driver.command(&sixteen(0x91, 0, lba, count), &[], 0);
        assert_sense(&reply, expected, "an LBA that overflows");
    }
    assert!(t.driver.command(&ten(0x28, 0, blocks, 0), &[], 0).is_good(), "nothing at the end");
}

#[test]
fn more_memory_than_needed_is_left_alone_and_less_is_an_overrun() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 0, &pattern(1, 1024));
    let reply = t.driver.command(&ten(0x28, 0, 0, 1), &[], 1024);
    assert!(reply.is_good());
    assert_eq!((reply.residual, reply.written), (512, 108 + 512));
    assert_eq!(reply.data, [pattern(1, 1024)[..512].to_vec(), vec![0; 512]].concat());
    let reply = t.driver.command(&ten(0x2a, 0, 4, 1), &[7; 1024], 0);
    assert!(reply.is_good());
    assert_eq!(reply.residual, 512);
    assert_eq!(read(&mut t.driver, 5, 1), [0; 512]);
    for (cdb, out, len) in [
        (ten(0x28, 0, 0, 2), 0, 512),
        (ten(0x28, 0, 0, 1), 512, 0),
        (ten(0x2a, 0, 0, 2), 512, 0),
        (ten(0x2a, 0, 0, 1), 0, 512),
    ] {
        let reply = t.driver.command(&cdb, &vec![9; out], len);
        assert_eq!((reply.response, reply.written), (1, 108), "{cdb:x?}");
    }
    assert_eq!(read(&mut t.driver, 0, 2), pattern(1, 1024), "nothing was done");
}

#[test]
fn fua_makes_a_write_durable() {
    let mut t = setup(1 << 20, |_| ());
    let data = pattern(2, 512);
    let durable = |t: &super::setup::Setup| t.machine.world.durable(&t.file).to_vec();
    assert!(t.driver.command(&ten(0x2a, 0, 0, 1), &data, 0).is_good());
    assert_ne!(durable(&t)[..512], data, "nothing asked for it yet");
    assert!(t.driver.command(&ten(0x2a, 0x08, 1, 1), &data, 0).is_good());
    assert_eq!(durable(&t)[512..1024], data);
    assert!(t.driver.command(&sixteen(0x8a, 0x08, 2, 1), &data, 0).is_good());
    assert_eq!(durable(&t)[1024..1536], data);
}

#[test]
fn a_flush_makes_what_was_written_durable() {
    let mut t = setup(1 << 20, |_| ());
    let data = pattern(2, 4096);
    for cdb in [ten(0x35, 0, 0, 0).to_vec(), sixteen(0x91, 0x02, 0, 0).to_vec()] {
        write(&mut t.driver, 8, &data);
        let reply = t.driver.command(&cdb, &[], 0);
        assert!(reply.is_good());
        assert_eq!((reply.residual, reply.written), (0, 108));
        assert_eq!(t.machine.world.durable(&t.file).to_vec()[4096..8192], data);
    }
}

#[test]
fn a_read_only_disk_refuses_writes() {
    use spindle_block::nodes::null::{NullNode, NullOptions};
    use spindle_devices::{
        scsi::UnitKind,
        testkit::{Machine, driver::ScsiDriver},
    };
    let machine = Machine::new(1);
    let adapter = machine.add_scsi("hba0", |_| ());
    let node = NullNode::new(NullOptions { read_only: true, ..NullOptions::default() });
    let unit = machine.scsi_unit("ro", UnitKind::Disk, node, |_| ());
    adapter.device.add_lun(0, 0, unit).unwrap();
    machine.assign();
    let machine = std::rc::Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, super::setup::ALL, 1, 16);
    super::setup::settle(&mut driver, 0, 0);
    let block = [1; 512];
    let cases: &[(&[u8], &[u8])] = &[
        (&ten(0x2a, 0, 0, 1), &block),
        (&ten(0x2e, 0, 0, 1), &block),
        (&ten(0x41, 0, 0, 1), &block),
        (&sixteen(0x93, 0x01, 0, 1), &[]),
        (&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        (&[0x04, 0, 0, 0, 0, 0], &[]),
        (&[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
    ];
    for (cdb, data) in cases {
        assert_sense(&driver.command(cdb, data, 0), (7, 0x27, 0), &format!("{cdb:x?}"));
    }
    assert!(driver.command(&ten(0x28, 0, 0, 1), &[], 512).is_good());
    let mode = driver.command(&[0x1a, 0x08, 0x3f, 0, 64, 0], &[], 64);
    assert_eq!(mode.data[2] & 0x80, 0x80, "WP");
}

#[test]
fn blocks_of_4096_bytes_are_counted_as_such() {
    let mut t = setup(1 << 20, |config| config.logical_block_size = 4096);
    let data = pattern(3, 8192);
    assert!(t.driver.command(&ten(0x2a, 0, 2, 2), &data, 0).is_good());
    assert_eq!(t.driver.command(&ten(0x28, 0, 2, 2), &[], 8192).data, data);
    assert_eq!(t.machine.world.contents(&t.file).to_vec()[8192..16384], data);
    assert_sense(&t.driver.command(&ten(0x28, 0, 256, 1), &[], 4096), (5, 0x21, 0), "the end");
    let capacity = t.driver.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).data;
    assert_eq!(capacity, [0, 0, 0, 255, 0, 0, 16, 0]);
}

#[test]
fn header_response_and_data_may_be_cut_anywhere() {
    let mut t = setup(1 << 20, |_| ());
    write(&mut t.driver, 4, &pattern(3, 1024));
    let memory = t.machine.memory.clone();
    for cut in [1u32, 7, 8, 18, 19, 20, 50] {
        let request = memory.alloc(51, 8);
        memory.write(request, &[0; 51]);
        memory.write(request, &super::setup::pattern(0, 0));
        memory.write(request, &spindle_devices::testkit::driver::ScsiDriver::lun(0, 0));
        memory.write(request + 19, &ten(0x28, 0, 4, 2));
        let at = memory.alloc(108 + 1024, 8);
        memory.write(at, &[0xee; 108]);
        let buffers = [
            (request, cut, false),
            (0, 0, false),
            (request + u64::from(cut), 51 - cut, false),
            (at, 5, true),
            (0, 0, true),
            // The response ends in the descriptor in which the data begin.
            (at + 5, 203, true),
            (at + 208, 924, true),
        ];
        let ring = &mut t.driver.rings[0];
        let head = ring.chain(&buffers);
        ring.offer(head);
        ring.notify();
        t.machine.run();
        assert_eq!(t.driver.rings[0].take(), Some((head, 1132)));
        assert_eq!(memory.read(at + 10, 2), [0, 0], "status and response");
        assert_eq!(memory.read(at + 108, 1024), pattern(3, 1024));
    }
}
