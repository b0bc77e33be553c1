//! Data by every way and in every shape.

use spindle_devices::{sd::CardConfig, sdhci::SdhciVersion};

use super::{
    driver::{Data, Driver, Kind, Way, controller, sd},
    pattern,
};

const WAYS: [Way; 4] = [Way::Port, Way::Sdma, Way::Adma2, Way::Adma2Wide];

fn round_trip(driver: &Driver, way: Way, block: u64, blocks: u64) {
    let bytes = pattern(blocks as u8 ^ block as u8, (blocks * 512) as usize);
    driver.write(way, block, &bytes);
    assert_eq!(driver.contents(block * 512, bytes.len()), bytes, "{way:?} {blocks} written");
    assert_eq!(driver.read(way, block, blocks), bytes, "{way:?} {blocks} read");
    assert_eq!(driver.card_status() & !0x100, 0x0800, "{way:?} {blocks}");
}

#[test]
fn blocks_go_and_come_by_every_way() {
    for size in [4 << 20, 4 << 30] {
        let driver = sd(size);
        for way in WAYS {
            for blocks in [1, 2, 8, 129, 300] {
                round_trip(&driver, way, 7, blocks);
            }
        }
    }
}

#[test]
fn a_megabyte_goes_in_pieces() {
    let driver = sd(8 << 20);
    for way in WAYS {
        round_trip(&driver, way, 11, 2500);
    }
}

#[test]
fn four_lines_move_the_same_bytes() {
    let mut driver = sd(4 << 30);
    driver.use_four_lines();
    for way in WAYS {
        round_trip(&driver, way, 1000, 9);
    }
}

#[test]
fn the_old_descriptors_work_with_the_old_versions() {
    for version in [SdhciVersion::V1, SdhciVersion::V2] {
        let mut driver = controller(1 << 20, |c| c.version = version);
        driver.insert(CardConfig::sd(1 << 20));
        driver.power_on();
        driver.identify_sd();
        for way in [Way::Port, Way::Sdma, Way::Adma1, Way::Adma2] {
            for blocks in [1, 8, 24] {
                round_trip(&driver, way, 3, blocks);
            }
        }
    }
}

#[test]
fn a_transfer_is_ended_by_a_count_or_by_a_stop() {
    let driver = sd(4 << 30);
    let bytes = pattern(1, 4096);
    driver.write(Way::Adma2, 0, &bytes);
    for way in WAYS {
        // Auto CMD12 leaves its response in the last word.
        driver.data(18, 0, Data::read(way, 8), &[]);
        assert_eq!(driver.get(0x1c, 4), 0x0b00, "{way:?}");
        if way != Way::Sdma {
            let data = Data { auto: 2, ..Data::read(way, 8) };
            assert_eq!(driver.data(18, 0, data, &[]), bytes);
            assert_eq!(driver.get(0x1c, 4), 0x0900, "{way:?}");
        }
        driver.cmd(23, 8, Kind::Short);
        assert_eq!(driver.data(18, 0, Data { auto: 0, ..Data::read(way, 8) }, &[]), bytes);
        assert_eq!(driver.card_status() >> 9 & 15, 4);
        driver.data(18, 0, Data { auto: 0, ..Data::read(way, 8) }, &[]);
        assert_eq!(driver.card_status() >> 9 & 15, 5, "still sending");
        driver.cmd(12, 0, Kind::Busy);
        assert_eq!(driver.card_status() >> 9 & 15, 4);
    }
}

#[test]
fn descriptors_of_every_shape_describe_the_same_memory() {
    let driver = sd(4 << 30);
    let bytes = pattern(5, 8 * 512);
    driver.write(Way::Adma2, 40, &bytes);
    for way in [Way::Adma2, Way::Adma2Wide] {
        for piece in [4, 12, 508, 512, 516, 1000, 4096] {
            let at = driver.machine.memory.alloc(8 * 512 + 64, 4);
            let table = driver.table(way, at, 8 * 512, piece);
            driver.set(0x28, 1, if way == Way::Adma2 { 0x10 } else { 0x18 });
            driver.set(0x58, 4, table);
            driver.set(0x5c, 4, 0);
            driver.go(18, 40, Data::read(way, 8));
            assert_eq!(driver.status(), (3, 0), "{way:?} {piece}");
            assert_eq!(driver.machine.memory.read(at, 8 * 512), bytes, "{way:?} {piece}");
            let step = if way == Way::Adma2 { 8 } else { 12 };
            assert_eq!(driver.get(0x58, 4), table + (8_u64 * 512).div_ceil(piece) * step);
        }
    }
}

/// Writes a table of raw descriptors with 32-bit addresses.
fn raw(driver: &Driver, at: u64, descriptors: &[(u32, u32)]) {
    for (i, (word, address)) in descriptors.iter().enumerate() {
        driver.machine.memory.set_number(at + 8 * i as u64, 4, (*word).into());
        driver.machine.memory.set_number(at + 8 * i as u64 + 4, 4, (*address).into());
    }
}

fn go_raw(driver: &Driver, table: u64, blocks: u64) -> (u64, u64) {
    driver.set(0x28, 1, 0x10);
    driver.set(0x58, 4, table);
    driver.set(0x5c, 4, 0);
    driver.go(18, 0, Data::read(Way::Adma2, blocks));
    let status = driver.status();
    if status.1 != 0 {
        driver.set(0x2f, 1, 6);
        driver.machine.run();
        // The card may still be sending.
        let _ = driver.try_cmd(12, 0, Kind::Busy);
    }
    status
}

#[test]
fn links_are_followed_and_interrupts_are_asked_for() {
    let driver = sd(4 << 30);
    driver.write(Way::Adma2, 0, &pattern(9, 1024));
    let memory = &driver.machine.memory;
    let (first, second, at) = (memory.alloc(64, 8), memory.alloc(64, 8), memory.alloc(1024, 512));
    // A nop, a transfer, a link; then a transfer that asks for an interrupt, and a nop that ends.
    let low = |at: u64| at as u32;
    raw(&driver, first, &[(0x01, 0), (512 << 16 | 0x21, low(at)), (0x31, low(second))]);
    raw(&driver, second, &[(512 << 16 | 0x25, low(at) + 512), (0x03, 0)]);
    assert_eq!(go_raw(&driver, first, 2), (0x0b, 0));
    assert_eq!(memory.read(at, 1024), pattern(9, 1024));
    assert_eq!(driver.get(0x58, 4), second + 8);
}

#[test]
fn wrong_tables_are_errors_and_never_more() {
    let driver = sd(4 << 30);
    let table = driver.machine.memory.alloc(64, 8);
    let at = driver.machine.memory.alloc(4096, 512) as u32;
    let adma = 0x0200;
    let state = |driver: &Driver| driver.get(0x54, 1);
    raw(&driver, table, &[(512 << 16 | 0x20, at)]);
    assert_eq!(go_raw(&driver, table, 2).1, adma, "not valid");
    assert_eq!((state(&driver), driver.get(0x58, 4)), (1, table));
    raw(&driver, table, &[(512 << 16 | 0x23, at)]);
    assert_eq!(go_raw(&driver, table, 2).1, adma, "too short");
    assert_eq!(state(&driver), 7);
    raw(&driver, table, &[(2048 << 16 | 0x23, at)]);
    assert_eq!(go_raw(&driver, table, 2).1, adma, "too long");
    assert_eq!(state(&driver), 7);
    raw(&driver, table, &[(0x31, table as u32)]);
    assert_eq!(go_raw(&driver, table, 2).1, adma, "a link to itself");
    raw(&driver, table, &[(1024 << 16 | 0x23, 0xf000_0000)]);
    assert_eq!(go_raw(&driver, table, 2).1, adma, "no memory");
    assert_eq!(state(&driver), 3);
    assert_eq!(go_raw(&driver, 0xf000_0000, 2).1, adma, "a table that is no memory");
    assert_eq!(state(&driver), 1);
    driver.set(0x28, 1, 0);
    driver.set(0x00, 4, 0xf000_0000);
    driver.go(17, 0, Data { auto: 0, ..Data::read(Way::Sdma, 1) });
    assert_eq!(driver.status().1, 0x1000);
    driver.set(0x2f, 1, 6);
    driver.machine.run();
    round_trip(&driver, Way::Adma2, 0, 2);
}

#[test]
fn a_boundary_may_cut_a_block() {
    let driver = sd(4 << 30);
    let bytes = pattern(3, 16 * 512);
    driver.write(Way::Adma2, 0, &bytes);
    // Boundaries of 4 KiB, and memory that is not aligned with blocks.
    let run = |index: u64, at: u64, write: bool| {
        driver.set(0x28, 1, 0);
        driver.set(0x00, 4, at);
        driver.set(0x04, 2, 512);
        driver.set(0x06, 2, 16);
        driver.set(0x08, 4, if write { 100 } else { 0 });
        driver.set(0x0c, 2, if write { 0x27 } else { 0x37 });
        driver.set(0x0e, 2, index << 8 | 0x3a);
        driver.machine.run();
        let mut stops = 0;
        loop {
            let (normal, error) = driver.status();
            assert_eq!(error, 0);
            if normal & 2 != 0 {
                return stops;
            }
            assert_eq!(normal & 8, 8, "neither over nor at a boundary");
            let address = driver.get(0x00, 4);
            assert_eq!(address % 4096, 0);
            driver.set(0x00, 4, address);
            driver.machine.run();
            stops += 1;
        }
    };
    for misaligned in [0, 4, 256, 508] {
        let at = driver.machine.memory.alloc(3 * 4096, 4096) + misaligned;
        let stops = if misaligned == 0 { 1 } else { 2 };
        assert_eq!(run(18, at, false), stops, "{misaligned}");
        assert_eq!(driver.machine.memory.read(at, bytes.len()), bytes, "{misaligned}");
        driver.machine.memory.write(at, &pattern(misaligned as u8, bytes.len()));
        assert_eq!(run(25, at, true), stops, "{misaligned}");
        assert_eq!(driver.contents(51200, bytes.len()), pattern(misaligned as u8, bytes.len()));
    }
}

#[test]
fn a_transfer_without_a_count_goes_on_until_it_is_stopped() {
    let driver = sd(1 << 20);
    let bytes = pattern(8, 4096);
    driver.write(Way::Adma2, 0, &bytes);
    // ADMA: the table says how much it is.
    let at = driver.machine.memory.alloc(4096, 4096);
    driver.set(0x58, 4, driver.table(Way::Adma2, at, 4096, 1024));
    driver.set(0x5c, 4, 0);
    driver.set(0x28, 1, 0x10);
    driver.set(0x04, 2, 512);
    driver.set(0x08, 4, 0);
    driver.set(0x0c, 2, 0x31);
    driver.set(0x0e, 2, 18 << 8 | 0x3a);
    driver.machine.run();
    assert_eq!(driver.status(), (3, 0));
    assert_eq!(driver.machine.memory.read(at, 4096), bytes);
    driver.cmd(12, 0, Kind::Busy);
    // The data port: as long as the guest reads.
    driver.set(0x0c, 2, 0x30);
    driver.set(0x0e, 2, 18 << 8 | 0x3a);
    driver.machine.run();
    let mut read = Vec::new();
    while read.len() < 1024 {
        read.extend((driver.get(0x20, 4) as u32).to_le_bytes());
    }
    assert_eq!(read, bytes[..1024]);
    driver.status();
    driver.set(0x0e, 2, 12 << 8 | 0xdb);
    driver.machine.run();
    assert_eq!((driver.status().0 & 3, driver.get(0x24, 4) & 0xb03), (3, 0));
    assert_eq!(driver.card_status() >> 9 & 15, 4);
}

#[test]
fn a_transfer_stops_at_the_gap_and_goes_on() {
    let driver = sd(1 << 20);
    let bytes = pattern(6, 4 * 512);
    driver.write(Way::Adma2, 0, &bytes);
    let at = driver.machine.memory.alloc(4096, 4096);
    driver.set(0x2a, 1, 1);
    driver.start(18, 0, Data::read(Way::Adma2, 4), at);
    assert_eq!(driver.status(), (7, 0));
    assert_eq!(
        (driver.get(0x06, 2), driver.machine.memory.read(at, 512)),
        (3, bytes[..512].to_vec())
    );
    driver.set(0x2a, 1, 2);
    driver.machine.run();
    assert_eq!((driver.status(), driver.get(0x06, 2)), ((2, 0), 0));
    assert_eq!(driver.machine.memory.read(at, 2048), bytes);
}

#[test]
fn odd_widths_at_the_data_port_take_as_many_bytes() {
    let driver = sd(1 << 20);
    let bytes = pattern(2, 512);
    driver.write(Way::Port, 0, &bytes);
    driver.start(17, 0, Data { auto: 0, ..Data::read(Way::Port, 1) }, 0);
    let mut read: Vec<u8> = Vec::new();
    for (offset, width) in [(0x20, 1), (0x21, 1), (0x22, 2), (0x20, 2), (0x20, 4)].iter().cycle() {
        let n = (*width as usize).min(512 - read.len());
        read.extend(&driver.get(*offset, n.next_power_of_two() as u8).to_le_bytes()[..n]);
        if read.len() == 512 {
            break;
        }
    }
    assert_eq!(read, bytes);
    driver.machine.run();
    assert_eq!(driver.status().0 & 2, 2);
}

#[test]
fn registers_of_the_card_come_as_data() {
    let driver = sd(4 << 30);
    driver.cmd(55, driver.rca, Kind::Short);
    assert_eq!(driver.register(51, 0, 8)[..4], [0x02, 0x05, 0x84, 0x83]);
    driver.cmd(55, driver.rca, Kind::Short);
    assert_eq!(driver.register(13, 0, 64)[8], 4, "class 10");
    let status = driver.register(6, 0x80ff_fff1, 64);
    assert_eq!(status[16] & 0xf, 1, "high speed");
    driver.write(Way::Adma2, 0, &pattern(0, 512 * 3));
    driver.cmd(55, driver.rca, Kind::Short);
    assert_eq!(driver.register(22, 0, 4), [0, 0, 0, 3]);
}
