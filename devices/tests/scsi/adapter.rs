//! The adapter itself: configuration, addresses of units, and drivers that break the rules.

use std::{rc::Rc, sync::Arc};

use spindle_block::nodes::null::{NullNode, NullOptions};
use spindle_devices::{
    scsi::UnitKind,
    testkit::{
        Machine,
        driver::{Descriptor, NEXT, ScsiDriver, WRITE},
    },
};

use super::setup::{ALL, assert_sense, setup, ten};

#[test]
fn the_configuration_has_its_golden_bytes() {
    let machine = Machine::new(1);
    let handles: Vec<_> = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let adapter = machine.add_scsi("hba0", |config| config.iothreads = handles);
    machine.assign();
    let machine = Rc::new(machine);
    assert_eq!(machine.pci_read(adapter.at, 0, 4), 0x1048_1af4);
    assert_eq!(machine.pci_read(adapter.at, 8, 4) >> 8, 0x01_0000);
    let driver = ScsiDriver::new(&machine, adapter.at, ALL, 2, 16);
    assert_eq!(driver.features & 0xf, 0b110, "HOTPLUG and CHANGE");
    let function = driver.function;
    assert_eq!(function.get(18, 2), 4, "queues");
    let expected = [2, 254, 0xffff, 128, 16, 96, 32, 255 << 16, 16383];
    for (i, value) in expected.into_iter().enumerate() {
        assert_eq!(function.config(i as u64 * 4, 4), value, "field {i}");
    }
    for (offset, width, value) in [(30, 2, 255), (28, 2, 0), (33, 1, 0x3f), (36, 1, 0xff)] {
        assert_eq!(function.config(offset, width), value, "offset {offset}");
    }
}

#[test]
fn every_width_and_alignment_reads_and_writes_the_same_bytes() {
    let t = setup(1 << 20, |_| ());
    let at = t.driver.function.config.at;
    let byte = |offset: u64| t.machine.read(at + offset, 1);
    for width in [1u8, 2, 4] {
        for offset in 0..=36 - u64::from(width) {
            let value = (0..u64::from(width)).map(|i| byte(offset + i) << (8 * i)).sum::<u64>();
            assert_eq!(t.machine.read(at + offset, width), value, "{width} at {offset}");
            // Nothing but the two sizes can be written, and they only to what makes sense.
            let before: Vec<_> = (0..36).map(byte).collect();
            t.machine.write(at + offset, width, u64::MAX);
            let after: Vec<_> = (0..36).map(byte).collect();
            let sizes = 20..28;
            for i in (0..36).filter(|i| !sizes.contains(i)) {
                assert_eq!(before[i], after[i], "{width} at {offset} changed byte {i}");
            }
            let size = |at: u64| t.machine.read(t.driver.function.config.at + at, 4);
            assert!(size(20) <= 252 && (1..=260).contains(&size(24)), "{width} at {offset}");
        }
    }
    t.machine.write(at + 20, 1, 200);
    assert_eq!(t.machine.read(at + 20, 4), 200, "a byte of it");
}

#[test]
fn sense_and_cdb_sizes_can_be_set() {
    let t = setup(1 << 20, |_| ());
    let machine = Rc::clone(&t.machine);
    let config = t.driver.function.config.at;
    t.driver.function.reset();
    for (offset, values) in [
        (20, [(18, 18), (253, 18), (0, 0), (96, 96)]),
        (24, [(16, 16), (0, 16), (261, 16), (260, 260)]),
    ] {
        for (written, read) in values {
            machine.write(config + offset, 4, written);
            assert_eq!(machine.read(config + offset, 4), read, "{written} at {offset}");
        }
    }
    for offset in [0, 4, 8, 12, 16, 28, 32] {
        let before = machine.read(config + offset, 4);
        machine.write(config + offset, 4, 0x1234_5678);
        assert_eq!(machine.read(config + offset, 4), before, "a fixed field");
    }
    t.driver.function.reset();
    assert_eq!((machine.read(config + 20, 4), machine.read(config + 24, 4)), (96, 32));
    // A request with a CDB of 16 bytes, and a response with room for 10 bytes of sense data.
    machine.write(config + 20, 4, 10);
    machine.write(config + 24, 4, 16);
    let function = &t.driver.function;
    function.set(20, 1, 3);
    function.accept(t.driver.features);
    function.set(20, 1, 11);
    machine.write(config + 20, 4, 10);
    machine.write(config + 24, 4, 16);
    let mut ring = function.queue(2, 16, t.driver.features);
    function.ready();
    let at = machine.memory.alloc(64, 8);
    machine.memory.write(at, &[0; 64]);
    machine.memory.write(at, &ScsiDriver::lun(0, 0));
    let head = ring.chain(&[(at, 35, false), (at + 40, 22, true)]);
    ring.offer(head);
    ring.notify();
    machine.run();
    assert_eq!(ring.take(), Some((head, 22)));
    assert_eq!(machine.memory.read(at + 40, 12), [10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(machine.memory.read(at + 52, 3), [0x70, 0, 6], "cut to what there is room for");
}

#[test]
fn units_have_their_addresses() {
    let mut t = setup(1 << 20, |_| ());
    let add = |target, lun| {
        let id = format!("disk-{target}-{lun}");
        let (unit, _) = t.machine.scsi_disk(&id, 1 << 20, |_| ());
        t.adapter.device.add_lun(target, lun, unit)
    };
    for (target, lun) in [(0, 255), (0, 256), (0, 16383), (255, 7)] {
        add(target, lun).unwrap();
    }
    assert!(add(0, 0).unwrap_err().to_string().contains("disk0"));
    assert!(add(0, 16384).is_err());
    t.machine.run();
    let answer =
        |driver: &mut ScsiDriver, lun| driver.send(lun, &[0x12, 1, 0x80, 0, 64, 0], &[], 64);
    for (lun, serial) in [
        ([1, 0, 0, 0, 0, 0, 0, 0], &b"disk0"[..]),
        ([1, 0, 0x40, 0, 0, 0, 0, 0], b"disk0"),
        ([1, 0, 0, 255, 0, 0, 0, 0], b"disk-0-255"),
        ([1, 0, 0x41, 0, 0, 0, 0, 0], b"disk-0-256"),
        ([1, 0, 0x7f, 255, 0, 0, 0, 0], b"disk-0-16383"),
        ([1, 255, 0, 7, 0, 0, 0, 0], b"disk-255-7"),
    ] {
        let reply = answer(&mut t.driver, lun);
        assert!(reply.is_good(), "{lun:?}");
        assert_eq!(reply.data[4..4 + serial.len()], *serial, "{lun:?}");
    }
    for lun in [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 0, 0, 0, 0],
        [1, 9, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 1, 0, 0],
        [1, 0, 1, 0, 0, 0, 0, 0],
        [1, 0, 0x80, 0, 0, 0, 0, 0],
        [1, 0, 0xc1, 0, 0, 0, 0, 0],
        [0xc1, 1, 0, 0, 0, 0, 0, 1],
    ] {
        let reply = answer(&mut t.driver, lun);
        assert_eq!((reply.response, reply.written), (3, 108), "{lun:?}");
    }
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    let reply = t.driver.command(&report, &[], 64);
    let mut expected = vec![0, 0, 0, 32, 0, 0, 0, 0];
    for lun in [[0, 0], [0, 255], [0x41, 0], [0x7f, 255]] {
        expected.extend(lun);
        expected.extend([0; 6]);
    }
    assert_eq!((reply.data[..40].to_vec(), reply.residual), (expected, 24));
    let well_known = t.driver.send([0xc1, 1, 0, 0, 0, 0, 0, 0], &report, &[], 64);
    assert_eq!(
        well_known.data[..24],
        [0, 0, 0, 40, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 255, 0, 0, 0, 0]
    );
    let inquiry = [0x12, 0, 0, 0, 36, 0];
    let well_known = |driver: &mut ScsiDriver, cdb: &[u8], len| {
        driver.send([0xc1, 1, 0, 0, 0, 0, 0, 0], cdb, &[], len)
    };
    assert_eq!(well_known(&mut t.driver, &inquiry, 36).data[0], 0x1e);
    assert!(well_known(&mut t.driver, &[0; 6], 0).is_good());
    assert_eq!(well_known(&mut t.driver, &[3, 0, 0, 0, 18, 0], 18).data[2], 0);
    let reply = well_known(&mut t.driver, &[0x12, 1, 0x83, 0, 36, 0], 36);
    assert_sense(&reply, (5, 0x24, 0), "vital product data");
    let reply = well_known(&mut t.driver, &ten(0x28, 0, 0, 1), 512);
    assert_sense(&reply, (5, 0x20, 0), "a read");
    for select in [1, 3] {
        let mut cdb = report;
        cdb[2] = select;
        let reply = t.driver.command(&cdb, &[], 64);
        if select == 1 {
            assert_eq!((reply.data[3], reply.residual), (0, 56), "no well known units");
        } else {
            assert_sense(&reply, (5, 0x24, 0), "a reserved SELECT REPORT");
        }
    }
}

#[test]
fn a_target_answers_for_units_that_it_does_not_have() {
    let mut t = setup(1 << 20, |_| ());
    let nobody = ScsiDriver::lun(0, 9);
    let inquiry = t.driver.send(nobody, &[0x12, 0, 0, 0, 36, 0], &[], 36);
    assert!(inquiry.is_good() && inquiry.data[0] == 0x7f);
    let luns = t.driver.send(nobody, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16);
    assert_eq!(luns.data[..4], [0, 0, 0, 8]);
    let sense = t.driver.send(nobody, &[3, 0, 0, 0, 18, 0], &[], 18);
    assert_eq!((sense.data[2], sense.data[12]), (5, 0x25));
    for cdb in [&[0; 6][..], &ten(0x28, 0, 0, 1), &[0x12, 1, 0x83, 0, 64, 0], &[0xff]] {
        assert_sense(&t.driver.send(nobody, cdb, &[], 512), (5, 0x25, 0), &format!("{cdb:x?}"));
    }
    assert_eq!(t.driver.send(nobody, &[0x12, 0, 0, 0, 36, 0], &[], 35).response, 1, "overrun");
}

#[test]
fn data_in_both_directions_or_outside_of_ram_fail() {
    let mut t = setup(1 << 20, |_| ());
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &ten(0x28, 0, 0, 1), &[1; 512], 512);
    t.driver.rings[0].notify();
    t.machine.run();
    assert_eq!(t.driver.reply(0, &ticket).unwrap().response, 9);
    let memory = t.machine.memory.clone();
    let at = memory.alloc(256, 8);
    memory.write(at, &[0; 256]);
    memory.write(at, &lun);
    memory.write(at + 19, &ten(0x28, 0, 0, 1));
    let ring = &mut t.driver.rings[0];
    let head = ring.chain(&[(at, 51, false), (at + 64, 108, true), (0xd000_0000, 512, true)]);
    ring.offer(head);
    ring.notify();
    t.machine.run();
    assert_eq!(t.driver.rings[0].take(), Some((head, 108)));
    assert_eq!(memory.read(at + 64 + 11, 1), [9]);
    assert!(!t.driver.function.needs_reset());
}

#[test]
fn broken_chains_need_a_reset() {
    type Chain = Vec<(u64, u32, bool)>;
    let buffers = |at: u64| -> Vec<(usize, Chain)> {
        vec![
            (2, vec![(at, 50, false), (at + 64, 108, true)]),
            (2, vec![(at, 51, false), (at + 64, 107, true)]),
            (2, vec![(at, 51, false)]),
            (2, vec![(at + 64, 108, true), (at, 51, false)]),
            (2, vec![(at, 51, false), (0xd000_0000, 108, true)]),
            (2, vec![(0xd000_0000, 51, false), (at + 64, 108, true)]),
            (0, vec![(at, 23, false), (at + 64, 1, true)]),
            (0, vec![(at, 24, false)]),
            (0, vec![(at + 128, 24, false), (at + 64, 5, true)]),
            (0, vec![(at + 192, 16, false), (at + 64, 4, true)]),
            (0, vec![(at + 64, 1, true), (at, 24, false)]),
        ]
    };
    for case in 0..11 {
        let mut t = setup(1 << 20, |_| ());
        let at = t.machine.memory.alloc(256, 8);
        t.machine.memory.write(at, &[0; 256]);
        t.machine.memory.set_number(at + 128, 4, 7);
        t.machine.memory.set_number(at + 192, 4, 1);
        let (queue, chain) = buffers(at).swap_remove(case);
        let ring = if queue == 0 { &mut t.driver.control } else { &mut t.driver.rings[0] };
        let head = ring.chain(&chain);
        ring.offer(head);
        ring.notify();
        t.machine.run();
        assert!(t.driver.function.needs_reset(), "case {case}");
        let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
        super::setup::settle(&mut driver, 0, 0);
    }
}

#[test]
fn broken_event_buffers_need_a_reset() {
    for buffers in
        [&[(0x8000u64, 15u32, true)][..], &[(0x8000, 16, false)], &[(0xd000_0000, 16, true)]]
    {
        let t = setup(1 << 20, |_| ());
        let mut driver = ScsiDriver::new(&t.machine, t.adapter.at, ALL, 1, 16);
        for _ in 0..4 {
            t.unit.resized();
            driver.event();
        }
        let head = driver.events.chain(buffers);
        driver.events.offer(head);
        driver.events.notify();
        t.unit.resized();
        t.machine.run();
        assert!(driver.function.needs_reset(), "{buffers:?}");
    }
}

#[test]
fn a_chain_that_is_offered_twice_needs_a_reset() {
    let mut t = setup(1 << 20, |_| ());
    let lun = ScsiDriver::lun(0, 0);
    let ticket = t.driver.offer(0, lun, &ten(0x28, 0, 0, 1), &[], 512);
    t.driver.rings[0].offer(ticket.head);
    t.driver.rings[0].notify();
    t.machine.run();
    assert!(t.driver.function.needs_reset());
}

#[test]
fn random_chains_and_commands_never_hang_or_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let mut t = setup(1 << 20, |_| ());
        let (other, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
        t.adapter.device.add_lun(1, 1, Arc::clone(&other)).unwrap();
        let options = NullOptions { size: 1 << 20, ..NullOptions::default() };
        let drive = t.machine.scsi_unit("cd0", UnitKind::Cd, NullNode::new(options), |_| ());
        t.adapter.device.add_lun(1, 2, drive).unwrap();
        for i in 0..40 {
            let mut cdb = [0u8; 32];
            random.fill(&mut cdb);
            cdb[0] = *random
                .choice(&[
                    0x00, 0x03, 0x04, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x28, 0x2a, 0x2e, 0x2f,
                    0x35, 0x41, 0x42, 0x48, 0x4c, 0x4d, 0x55, 0x5a, 0x5e, 0x5f, 0x88, 0x89, 0x93,
                    0x9e, 0xa0, 0xa3, 0xa8, 0x1e, 0x43, 0x46, 0x4a, 0x51, 0x52, 0xad, 0xbd, 0xbe,
                ])
                .unwrap();
            // Small numbers, so that some of it makes sense.
            for byte in &mut cdb[1..] {
                if random.u8(..) < 180 {
                    *byte = random.u8(..4) & random.u8(..);
                }
            }
            let lun = ScsiDriver::lun(random.u8(..2), random.u16(..3));
            let out = if random.bool() { random.u32(..2048) } else { 0 };
            let len = if out == 0 { random.u32(..4096) } else { 0 };
            let mut data = vec![0; out as usize];
            random.fill(&mut data[..(out as usize).min(32)]);
            t.driver.offer(0, lun, &cdb, &data, len);
            if random.u8(..) < 40 {
                t.driver.offer_tmf(random.u32(..10), lun, random.u64(..50));
            }
            t.driver.rings[0].notify();
            if i % 8 != 7 {
                t.machine.turn();
                continue;
            }
            t.machine.run();
            while t.driver.rings[0].take().is_some() {}
            while t.driver.control.take().is_some() {}
        }
        assert!(!t.driver.function.needs_reset());
        // And chains that make no sense at all.
        let at = t.machine.memory.alloc(4096, 8);
        for index in 0..16u16 {
            let flags = random.u16(..) & (NEXT | WRITE);
            let (len, next) = (random.u32(..200), random.u16(..18));
            let address = at + random.u64(..4096);
            t.driver.rings[0].set(index, Descriptor { address, len, flags, next });
        }
        for _ in 0..4 {
            t.driver.rings[0].offer(random.u16(..18));
        }
        t.driver.rings[0].notify();
        t.machine.run();
        t.driver.function.reset();
    }
}
