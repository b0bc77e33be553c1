//! Reads and writes by every command, and PRD tables of every shape.

use super::driver::{DHRS, DPS, HBFS, OFS, P_CI, P_IS, P_TFD, PSS, ata, pattern, setup};

/// Command, whether it writes, sectors.
const READS: [u8; 8] = [0x20, 0x21, 0x24, 0x25, 0x29, 0xc4, 0xc8, 0xc9];
const WRITES: [u8; 10] = [0x30, 0x31, 0x34, 0x35, 0x39, 0x3d, 0xc5, 0xca, 0xcb, 0xce];

#[test]
fn every_read_and_write_moves_its_sectors() {
    let s = setup();
    let memory = &s.machine.memory;
    let at = memory.alloc(16 * 512, 512);
    for (i, write) in WRITES.iter().enumerate() {
        let data = pattern(i as u8, 9 * 512);
        memory.write(at, &data);
        let lba = 100 + 10 * i as u64;
        s.driver.ok(&ata(*write, 0, lba, 9), at, 9 * 512);
        assert_eq!(s.contents(lba * 512, 9 * 512), data, "{write:#x}");
        assert_eq!(s.driver.moved(0), 9 * 512);
        for read in READS {
            memory.write(at, &[0; 10 * 512]);
            s.driver.ok(&ata(read, 0, lba, 9), at, 9 * 512);
            assert_eq!(memory.read(at, 9 * 512), data, "{write:#x} {read:#x}");
            assert_eq!(memory.read(at + 9 * 512, 512), [0; 512]);
        }
    }
}

#[test]
fn pio_in_ends_with_a_pio_setup_and_everything_else_with_a_register_fis() {
    let s = setup();
    let at = s.machine.memory.alloc(16 * 512, 512);
    let fis = |offset| s.machine.memory.read(s.driver.area + offset, 20);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.ok(&ata(0x24, 0, 5, 2), at, 1024);
    assert_eq!(s.driver.get(P_IS), PSS);
    let setup = fis(0x20);
    // To the host, interrupt; DRQ before, ready after; one sector in the last block.
    assert_eq!(setup[..4], [0x5f, 0x60, 0x58, 0]);
    assert_eq!((setup[4], setup[7], setup[15]), (5, 0x40, 0x50));
    assert_eq!(setup[16..18], [0, 2]);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.ok(&ata(0x34, 0, 5, 2), at, 1024);
    assert_eq!(s.driver.get(P_IS), PSS | DHRS);
    assert_eq!(fis(0x40)[..4], [0x34, 0x40, 0x50, 0]);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.ok(&ata(0x25, 0, 0x0102, 2), at, 1024);
    assert_eq!(s.driver.get(P_IS), DHRS);
    let register = fis(0x40);
    assert_eq!(register, [0x34, 0x40, 0x50, 0, 2, 1, 0, 0x40, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn prd_tables_of_every_shape() {
    let s = setup();
    let memory = &s.machine.memory;
    let data = pattern(7, 64 * 512);
    let at = memory.alloc(64 * 512, 4096);
    memory.write(at, &data);
    s.driver.ok(&ata(0x35, 0, 0, 64), at, 64 * 512);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let sectors = random.u16(1..=64);
        let mut left = u32::from(sectors) * 512;
        let mut prds = Vec::new();
        let mut interrupt = false;
        while left > 0 {
            let mut len = (random.u32(1..=left) + 1) & !1;
            if prds.len() == 63 {
                len = left;
            }
            // The last one may be longer than what is left.
            let spare = if len == left && random.bool() { 2 * random.u32(1..50) } else { 0 };
            let piece = memory.alloc(u64::from(len + spare) + 2, 2);
            let flag = random.bool();
            interrupt |= flag && spare == 0;
            prds.push((piece, len + spare, flag));
            memory.write(piece, &vec![0xee; (len + spare) as usize]);
            left -= len;
        }
        s.driver.set(P_IS, 0xffff_ffff);
        s.driver.place(3, &ata(0x25, 0, 0, sectors), &prds, 0);
        s.driver.set(P_CI, 1 << 3);
        s.machine.run();
        assert_eq!((s.driver.get(P_TFD), s.driver.get(P_CI)), (0x50, 0));
        assert_eq!(s.driver.get(P_IS), DHRS | if interrupt { DPS } else { 0 });
        let got: Vec<u8> =
            prds.iter().flat_map(|(at, len, _)| memory.read(*at, *len as usize)).collect();
        let len = usize::from(sectors) * 512;
        assert_eq!(got[..len], data[..len]);
        assert!(got[len..].iter().all(|byte| *byte == 0xee), "what is left over is not touched");
        assert_eq!(s.driver.moved(3), len as u64);
    }
}

#[test]
fn a_table_that_is_too_short_or_not_ram_stops_the_port() {
    let s = setup();
    let at = s.machine.memory.alloc(4096, 512);
    for (fis, at, len, bit) in [
        (ata(0x25, 0, 0, 8), at, 2048, OFS),
        (ata(0x35, 0, 0, 8), at, 2048, OFS),
        (ata(0x25, 0, 0, 8), 0x7000_0000_0000, 4096, HBFS),
        (ata(0x35, 0, 0, 8), u64::MAX - 1023, 4096, HBFS),
    ] {
        s.driver.set(P_IS, 0xffff_ffff);
        s.driver.run(&fis, at, len);
        assert_eq!(s.driver.get(P_IS), bit);
        assert_eq!(s.driver.get(P_CI), 1);
        // Nothing goes on until the port is reset.
        s.driver.place(1, &ata(0xe7, 0, 0, 0), &[], 0);
        s.driver.set(P_CI, 2);
        s.machine.run();
        assert_eq!(s.driver.get(P_CI), 3);
        s.driver.stop();
        s.driver.comreset();
        s.driver.bring_up();
        s.driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
    }
}

#[test]
fn lists_tables_and_areas_that_are_not_ram() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    let restart = |what: &str| {
        assert_ne!(s.driver.get(P_IS) & HBFS, 0, "{what}");
        s.machine.memory.heal();
        s.driver.stop();
        s.driver.comreset();
        s.driver.bring_up();
        s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
    };
    s.machine.memory.fail(s.driver.list, 32);
    s.driver.set(P_CI, 1);
    s.machine.run();
    restart("list");
    s.machine.memory.fail(s.driver.area, 256);
    s.driver.place(0, &ata(0x25, 0, 0, 1), &[(at, 512, false)], 0);
    s.driver.set(P_CI, 1);
    s.machine.run();
    restart("area");
    s.driver.place(0, &ata(0x25, 0, 0, 1), &[(at, 512, false)], 0);
    s.machine.memory.set_number(s.driver.list + 8, 8, 0xffff_ffff_ffff_ff80);
    s.driver.set(P_CI, 1);
    s.machine.run();
    restart("table");
}
