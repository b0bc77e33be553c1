//! Every request type, and what is wrong with each.

use spindle_block::{
    nodes::null::{NullNode, NullOptions},
    root::Account,
};
use spindle_devices::testkit::driver::BlkDriver;

use super::{ALL, EVENT_IDX, INDIRECT, driver, machine, pattern};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

#[test]
fn what_was_written_is_read_back_with_every_combination_of_ring_features() {
    for features in [0, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX] {
        let (machine, disk) = machine(1 << 20, |_| ());
        let mut driver = BlkDriver::new(&machine, disk.at, features, 1, 8);
        driver.indirect = features & INDIRECT != 0;
        // More requests than the ring has entries, so that every index wraps.
        for round in 0..40u64 {
            let data = pattern(round as u8, 1536);
            let reply = driver.write(round * 3, &data);
            assert_eq!((reply.status, reply.written), (OK, 1));
            let reply = driver.read(round * 3, 1536);
            assert_eq!((reply.status, reply.written), (OK, 1537));
            assert_eq!(reply.data, data, "features {features:#x}, round {round}");
        }
        let image = machine.world.contents(disk.file.as_ref().unwrap()).to_vec();
        assert_eq!(image[39 * 1536..][..1536], pattern(39, 1536));
    }
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let memory = driver.function.machine.memory.clone();
    let data = pattern(3, 1024);
    driver.write(4, &data);
    for cut in 1..16u64 {
        let header = memory.alloc(16, 8);
        memory.write(header, &[0; 16]);
        memory.set_number(header + 8, 8, 4);
        let at = memory.alloc(1025, 1);
        memory.write(at + 1024, &[0xee]);
        // The status byte shares a descriptor with data; there are empty descriptors between.
        let buffers = [
            (header, cut as u32, false),
            (0, 0, false),
            (header + cut, 16 - cut as u32, false),
            (at, 100, true),
            (0, 0, true),
            (at + 100, 925, true),
            (0, 0, true),
        ];
        let head = driver.rings[0].chain(&buffers);
        driver.rings[0].offer(head);
        driver.rings[0].notify();
        driver.function.machine.run();
        assert_eq!(driver.rings[0].take(), Some((head, 1025)));
        assert_eq!(memory.read(at, 1024), data);
        assert_eq!(memory.read(at + 1024, 1), [OK]);
    }
}

#[test]
fn a_header_and_its_data_may_share_a_descriptor() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let memory = driver.function.machine.memory.clone();
    let data = pattern(9, 512);
    let at = memory.alloc(16 + 512 + 1, 8);
    memory.set_number(at, 4, 1);
    memory.set_number(at + 8, 8, 7);
    memory.write(at + 16, &data);
    let head = driver.rings[0].chain(&[(at, 528, false), (at + 528, 1, true)]);
    driver.rings[0].offer(head);
    driver.rings[0].notify();
    driver.function.machine.run();
    assert_eq!(driver.rings[0].take(), Some((head, 1)));
    assert_eq!(driver.read(7, 512).data, data);
}

#[test]
fn data_may_lie_above_4_gib_and_across_its_own_pages() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let memory = driver.function.machine.memory.clone();
    let data = pattern(5, 8192);
    driver.write(8, &data);
    let high = (4u64 << 30) + 0x1234;
    let small = memory.alloc(17, 8);
    memory.write(small, &[0; 17]);
    memory.set_number(small + 8, 8, 8);
    let head = driver.rings[0].chain(&[
        (small, 16, false),
        (high, 4000, true),
        (high + 4000, 4192, true),
        (small + 16, 1, true),
    ]);
    driver.rings[0].offer(head);
    driver.rings[0].notify();
    driver.function.machine.run();
    assert_eq!(driver.rings[0].take(), Some((head, 8193)));
    assert_eq!(memory.read(high, 8192), data);
}

#[test]
fn reads_and_writes_that_make_no_sense_are_errors() {
    let sectors = 2048;
    let (mut driver, _) = driver(sectors * 512, |_| ());
    let cases: &[(u32, u64, u32, &str)] = &[
        (0, sectors, 512, "beyond the end"),
        (0, sectors - 1, 1024, "across the end"),
        (0, u64::MAX, 512, "a sector that overflows as bytes"),
        (0, u64::MAX / 512, 512, "an end that overflows"),
        (0, 0, 511, "a part of a sector"),
        (0, 0, 513, "a sector and a byte"),
    ];
    for (kind, sector, len, what) in cases {
        let reply = driver.request(*kind, *sector, &[], *len);
        assert_eq!((reply.status, reply.written), (IOERR, 0), "reading {what}");
        let reply = driver.request(1, *sector, &vec![1; *len as usize], 0);
        assert_eq!((reply.status, reply.written), (IOERR, 1), "writing {what}");
    }
    assert_eq!(driver.request(0, 0, &[], 0).status, OK, "a read of nothing");
}

#[test]
fn data_in_the_wrong_direction_is_an_error() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let memory = driver.function.machine.memory.clone();
    for (kind, expected) in [(0, IOERR), (1, IOERR), (8, IOERR), (10, IOERR), (11, IOERR)] {
        let at = memory.alloc(2048, 8);
        memory.write(at, &[0; 2048]);
        memory.set_number(at, 4, kind);
        let buffers = [(at, 16, false), (at + 512, 512, false), (at + 1024, 513, true)];
        let head = driver.rings[0].chain(&buffers);
        driver.rings[0].offer(head);
        driver.rings[0].notify();
        driver.function.machine.run();
        assert!(driver.rings[0].take().is_some(), "request {kind}");
        assert_eq!(memory.read(at + 1536, 1), [expected], "request {kind}");
        assert!(!driver.function.needs_reset());
    }
}

#[test]
fn sectors_smaller_than_the_block_size_are_refused() {
    let (mut driver, _) = driver(1 << 20, |config| config.logical_block_size = 4096);
    assert_eq!(driver.write(8, &pattern(1, 4096)).status, OK);
    assert_eq!(driver.write(1, &pattern(1, 4096)).status, IOERR, "a misaligned start");
    assert_eq!(driver.write(8, &pattern(1, 512)).status, IOERR, "a misaligned length");
    assert_eq!(driver.segment(11, 1, 8, 0).status, IOERR);
    assert_eq!(driver.segment(11, 8, 8, 0).status, OK);
}

#[test]
fn a_flush_makes_what_was_written_durable() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    let (world, file) = (driver.function.machine.world.clone(), disk.file.unwrap());
    let data = pattern(2, 4096);
    driver.write(0, &data);
    assert_ne!(world.durable(&file).to_vec()[..4096], data, "nothing asked for it yet");
    let reply = driver.flush();
    assert_eq!((reply.status, reply.written), (OK, 1));
    assert_eq!(world.durable(&file).to_vec()[..4096], data);
}

#[test]
fn without_flush_and_cache_control_every_write_is_durable() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let flush_and_wce = 1 << 9 | 1 << 11;
    let mut driver = BlkDriver::new(&machine, disk.at, ALL & !flush_and_wce, 1, 16);
    let data = pattern(2, 4096);
    driver.write(0, &data);
    let file = disk.file.unwrap();
    assert_eq!(machine.world.durable(&file).to_vec()[..4096], data);
    // The next driver may know better.
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
    driver.write(8, &data);
    assert_ne!(machine.world.durable(&file).to_vec()[4096..8192], data);
}

#[test]
fn the_cache_mode_can_be_switched() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    let (world, file) = (driver.function.machine.world.clone(), disk.file.unwrap());
    let at = driver.function.config.at + 32;
    let machine = driver.function.machine.clone();
    assert_eq!(machine.read(at, 1), 1, "write-back");
    machine.write(at, 1, 0);
    assert_eq!(machine.read(at, 1), 0);
    let data = pattern(8, 512);
    driver.write(1, &data);
    assert_eq!(world.durable(&file).to_vec()[512..1024], data);
    machine.write(at, 1, 1);
    driver.write(2, &data);
    assert_ne!(world.durable(&file).to_vec()[1024..1536], data);
    machine.write(at, 1, 0);
    driver.function.reset();
    assert_eq!(machine.read(at, 1), 1, "a reset brings the default back");
}

#[test]
fn the_serial_number_is_answered() {
    for (serial, len, expected) in [
        ("", 20, vec![0; 20]),
        ("disk", 20, [b"disk".to_vec(), vec![0; 16]].concat()),
        ("exactly twenty bytes", 20, b"exactly twenty bytes".to_vec()),
        ("more than twenty bytes", 20, b"more than twenty byt".to_vec()),
        ("short buffer", 5, b"short".to_vec()),
    ] {
        let (mut driver, _) = driver(1 << 20, |config| config.serial = serial.into());
        let reply = driver.request(8, 0, &[], len);
        assert_eq!((reply.status, reply.data), (OK, expected));
        assert_eq!(reply.written, len + 1);
    }
    // A buffer that is longer than the answer.
    let (mut driver, _) = driver(1 << 20, |config| config.serial = "x".into());
    let reply = driver.request(8, 0, &[], 32);
    assert_eq!((reply.status, reply.written), (OK, 20));
    assert_eq!(driver.request(8, 0, &[], 0).status, IOERR, "nowhere to put it");
}

#[test]
fn the_state_of_wear_is_answered() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let reply = driver.request(10, 0, &[], 6);
    assert_eq!((reply.status, reply.written, reply.data), (OK, 7, vec![0; 6]));
    assert_eq!(driver.request(10, 0, &[], 5).status, IOERR);
    let (machine, disk) = machine(1 << 20, |_| ());
    let mut driver = BlkDriver::new(&machine, disk.at, 0, 1, 16);
    assert_eq!(driver.request(10, 0, &[], 6).status, UNSUPP, "without the feature");
}

#[test]
fn discards_write_zeroes_and_secure_erases_do_what_they_say() {
    for (kind, flags) in [(11, 0), (13, 0), (13, 1), (14, 0)] {
        let (mut driver, disk) = driver(1 << 20, |_| ());
        driver.write(0, &pattern(1, 65536));
        let reply = driver.segment(kind, 8, 64, flags);
        assert_eq!((reply.status, reply.written), (OK, 1), "request {kind}");
        let mut expected = pattern(1, 65536);
        expected[8 * 512..72 * 512].fill(0);
        assert_eq!(driver.read(0, 65536).data, expected, "request {kind}");
        if kind == 14 {
            let durable = driver.function.machine.world.durable(disk.file.as_ref().unwrap());
            assert!(durable.to_vec()[8 * 512..72 * 512].iter().all(|b| *b == 0));
        }
    }
}

#[test]
fn segments_that_make_no_sense_are_errors() {
    let sectors = 2048;
    let (mut driver, _) = driver(sectors * 512, |config| {
        config.max_discard_sectors = 128;
        config.max_write_zeroes_sectors = 64;
    });
    for kind in [11, 13, 14] {
        let max = if kind == 13 { 64 } else { 128 };
        assert_eq!(driver.segment(kind, 0, max, 0).status, OK, "{kind}: the largest");
        assert_eq!(driver.segment(kind, 0, max + 1, 0).status, IOERR, "{kind}: too large");
        assert_eq!(driver.segment(kind, sectors, 8, 0).status, IOERR, "{kind}: beyond the end");
        assert_eq!(driver.segment(kind, sectors - 1, 8, 0).status, IOERR, "{kind}: across it");
        assert_eq!(driver.segment(kind, u64::MAX, 8, 0).status, IOERR, "{kind}: overflow");
        assert_eq!(driver.segment(kind, 0, 8, 2).status, UNSUPP, "{kind}: a reserved flag");
        let unmap = if kind == 13 { OK } else { UNSUPP };
        assert_eq!(driver.segment(kind, 0, 8, 1).status, unmap, "{kind}: unmap");
        assert_eq!(driver.segment(kind, 0, 0, 0).status, OK, "{kind}: nothing");
        assert_eq!(driver.request(kind, 0, &[0; 15], 0).status, IOERR, "{kind}: cut short");
        assert_eq!(driver.request(kind, 0, &[0; 32], 0).status, IOERR, "{kind}: two segments");
        assert_eq!(driver.request(kind, 0, &[], 0).status, IOERR, "{kind}: no segment");
    }
}

#[test]
fn what_was_not_negotiated_is_unsupported() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let mut driver = BlkDriver::new(&machine, disk.at, 0, 1, 16);
    for kind in [11, 13, 14] {
        assert_eq!(driver.segment(kind, 0, 8, 0).status, UNSUPP, "request {kind}");
    }
    for kind in [2, 3, 5, 7, 9, 12, 15, 24, u32::MAX] {
        let reply = driver.request(kind, 0, &[], 512);
        assert_eq!((reply.status, reply.written), (UNSUPP, 0), "request {kind}");
    }
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let machine = spindle_devices::testkit::Machine::new(1);
    let node = NullNode::new(NullOptions { read_only: true, ..NullOptions::default() });
    let disk = machine.add_disk_over("ro", node, |_| ());
    machine.assign();
    let machine = std::rc::Rc::new(machine);
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
    assert_eq!(driver.features & (1 << 5 | 1 << 13 | 1 << 14 | 1 << 16), 1 << 5);
    assert_eq!(driver.write(0, &[1; 512]).status, IOERR);
    assert_eq!(driver.flush().status, OK);
    assert_eq!(driver.read(0, 512).status, OK);
}

#[test]
fn requests_are_counted() {
    let (mut driver, disk) = driver(1 << 20, |_| ());
    driver.write(0, &pattern(1, 4096));
    driver.read(0, 2048);
    driver.read(1 << 30, 512);
    driver.flush();
    driver.segment(11, 0, 8, 0);
    let stats = disk.root.stats();
    let of = |kind: Account| (stats[kind as usize].operations, stats[kind as usize].bytes);
    assert_eq!(of(Account::Read), (1, 2048));
    assert_eq!(stats[Account::Read as usize].failed, 1);
    assert_eq!(of(Account::Write), (1, 4096));
    assert_eq!(of(Account::Flush).0, 1);
    assert_eq!(of(Account::Unmap), (1, 4096));
    assert!(stats[Account::Read as usize].total_time_ns > 0);
}

#[test]
fn many_requests_on_many_queues_and_iothreads_each_get_their_own_answer() {
    let machine = spindle_devices::testkit::Machine::new(fastrand::u64(..));
    let handles: Vec<_> = (0..4).map(|i| machine.iothreads[i % 2].handle()).collect();
    let disk = machine.add_disk("mq", 4 << 20, |config| config.iothreads = handles);
    machine.assign();
    let machine = std::rc::Rc::new(machine);
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 4, 64);
    assert_eq!(driver.function.config(34, 2), 4, "num_queues");
    let mut tickets = Vec::new();
    for i in 0..4 * 20u64 {
        let queue = (i % 4) as usize;
        let ticket = driver.offer(queue, 1, i * 8, &pattern(i as u8, 4096), 0);
        tickets.push((queue, ticket));
    }
    driver.rings.iter().for_each(|ring| ring.notify());
    machine.run();
    let mut ended = std::collections::HashSet::new();
    for (queue, ring) in driver.rings.iter_mut().enumerate() {
        while let Some((head, written)) = ring.take() {
            assert_eq!(written, 1);
            assert!(ended.insert((queue, head)), "answered twice");
        }
    }
    for (queue, ticket) in &tickets {
        assert!(ended.contains(&(*queue, BlkDriver::head(ticket))));
        assert_eq!(driver.look(ticket, 1).status, OK);
    }
    for i in 0..80u64 {
        assert_eq!(driver.read(i * 8, 4096).data, pattern(i as u8, 4096));
    }
}
