//! Data through the data port.

use spindle_devices::{
    Space,
    testkit::driver::ide::{IdeCommand, IdeDriver},
};

use crate::{machine_with, one_disk, pattern};

#[test]
fn a_disk_identifies_itself() {
    let (driver, _setup) = one_disk(64 << 20);
    let identify = IdeCommand { command: 0xec, ..IdeCommand::default() };
    let (end, data) = driver.pio_in(&identify, 512, 512);
    assert_eq!((end.status, end.error), (0x50, 0));
    let word = |n: usize| u32::from(data[n * 2]) | u32::from(data[n * 2 + 1]) << 8;
    assert_eq!(word(60) | word(61) << 16, 131_072, "sectors");
    assert_eq!(word(76), 0, "no Serial ATA");
    assert_eq!(word(88), 0, "no Ultra DMA behind a PIIX3");
    assert_eq!(word(63) & 7, 7, "multiword DMA");
    assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
}

#[test]
fn every_read_and_write_by_pio_moves_the_same_sectors() {
    let (driver, _setup) = one_disk(4 << 20);
    let mut expected = vec![0; 64 * 512];
    // Command, 48 bits, sectors of a block.
    for (n, (write, read, wide, block)) in [
        (0x30, 0x20, false, 1),
        (0x31, 0x21, false, 1),
        (0x34, 0x24, true, 1),
        (0xc5, 0xc4, false, 16),
        (0x39, 0x29, true, 16),
        (0xce, 0x29, true, 16),
    ]
    .into_iter()
    .enumerate()
    {
        let command = |code, lba, count| match wide {
            false => IdeCommand::lba28(code, lba, count),
            true => IdeCommand::lba48(code, lba, count),
        };
        for (lba, count) in [(3, 1), (7, 5), (10, 40)] {
            let data = pattern((n * 16 + count) as u8, count * 512);
            let end = driver.pio_out(&command(write, lba, count as u16), &data, block * 512);
            assert!(end.is_good(), "{write:#x}: {end:?}");
            let at = lba as usize * 512;
            expected[at..at + data.len()].copy_from_slice(&data);
        }
        let (end, data) = driver.pio_in(&command(read, 0, 64), 64 * 512, block * 512);
        assert!(end.is_good(), "{read:#x}: {end:?}");
        assert_eq!(data, expected, "{read:#x}");
    }
}

#[test]
fn a_count_of_zero_is_the_most() {
    let (driver, _setup) = one_disk(64 << 20);
    let data = pattern(9, 256 * 512);
    assert!(driver.pio_out(&IdeCommand::lba28(0x30, 16, 0), &data, 512).is_good());
    let (end, read) = driver.pio_in(&IdeCommand::lba28(0x20, 16, 0), 256 * 512, 512);
    assert!(end.is_good());
    assert_eq!(read, data);
    // 65536 sectors end one beyond this disk.
    assert_eq!(driver.plain(&IdeCommand::lba48(0x42, 65537, 0)).error, 0x10);
    assert!(driver.plain(&IdeCommand::lba48(0x42, 65536, 0)).is_good());
}

#[test]
fn cylinders_heads_and_sectors_address_the_same_disk() {
    let (driver, _setup) = one_disk(64 << 20);
    let data = pattern(1, 512);
    // 16 heads, 63 sectors: cylinder 2, head 3, sector 5.
    let lba = (2 * 16 + 3) * 63 + 4;
    assert!(driver.pio_out(&IdeCommand::lba28(0x30, lba, 1), &data, 512).is_good());
    let chs = |cylinder: u64, head: u8, sector: u64| IdeCommand {
        command: 0x20,
        count: 1,
        lba: cylinder << 8 | sector,
        device: 0xa0 | head,
        ..IdeCommand::default()
    };
    assert_eq!(driver.pio_in(&chs(2, 3, 5), 512, 512).1, data);
    // INITIALIZE DEVICE PARAMETERS: 8 heads, 17 sectors.
    let set = IdeCommand { command: 0x91, count: 17, device: 0xa7, ..IdeCommand::default() };
    assert!(driver.plain(&set).is_good());
    let (track, sector) = (lba / 17, lba % 17 + 1);
    assert_eq!(driver.pio_in(&chs(track / 8, (track % 8) as u8, sector), 512, 512).1, data);
    for wrong in [chs(0, 8, 1), chs(0, 0, 18), chs(0, 0, 0), chs(0xffff, 0, 1)] {
        let end = driver.plain(&wrong);
        assert_eq!((end.status & 0x29, end.error), (0x01, 0x10), "ID NOT FOUND");
    }
}

#[test]
fn a_geometry_that_was_given_is_the_one_in_force() {
    let geometry = spindle_devices::ata::Geometry { cylinders: 100, heads: 4, sectors: 10 };
    let setup = machine_with(64 << 20, &[(0, 0)], |config| config.geometry = Some(geometry));
    let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    let data = pattern(1, 512);
    assert!(driver.pio_out(&IdeCommand::lba28(0x30, 51 * 40 + 25, 1), &data, 512).is_good());
    let chs = IdeCommand {
        command: 0x20,
        count: 1,
        lba: 51 << 8 | 6,
        device: 0xa2,
        ..IdeCommand::default()
    };
    assert_eq!(driver.pio_in(&chs, 512, 512).1, data);
}

#[test]
fn blocks_of_multiple_are_as_long_as_they_were_set() {
    let (driver, setup) = one_disk(4 << 20);
    let set = |count| IdeCommand { command: 0xc6, count, ..IdeCommand::default() };
    for sectors in [1, 2, 4, 8, 16] {
        assert!(driver.plain(&set(sectors)).is_good());
        let edges = setup.ide.wires[0].edges();
        let size = usize::from(sectors) * 512;
        let (end, _) = driver.pio_in(&IdeCommand::lba28(0xc4, 0, 19), 19 * 512, size);
        assert!(end.is_good());
        let blocks = 19u64.div_ceil(u64::from(sectors));
        assert_eq!(setup.ide.wires[0].edges() - edges, blocks, "blocks of {sectors}");
    }
    for wrong in [3, 17, 32, 128] {
        assert_eq!(driver.plain(&set(wrong)).error, 4, "{wrong}");
    }
    assert!(driver.plain(&set(0)).is_good());
    assert_eq!(driver.plain(&IdeCommand::lba28(0xc4, 0, 1)).error, 4, "switched off");
}

#[test]
fn a_command_is_busy_before_its_write_returns() {
    let (driver, setup) = one_disk(1 << 20);
    driver.issue(&IdeCommand::lba28(0x20, 0, 1));
    assert_eq!(driver.alternate() & 0x88, 0x80);
    // Nobody listens to a drive that is busy, and it listens to nobody.
    driver.write(2, 0x77);
    driver.write(7, 0x30);
    setup.machine.run();
    assert_eq!(driver.alternate() & 0x88, 0x08, "the first command goes on");
    let mut data = Vec::new();
    driver.read_block(&mut data, 512);
    assert_eq!(driver.alternate() & 0x88, 0, "and is over with its last word");
}

#[test]
fn the_data_port_wakes_nobody_within_a_block() {
    let (driver, setup) = one_disk(1 << 20);
    driver.issue(&IdeCommand::lba28(0x20, 0, 3));
    setup.machine.run();
    // Three sectors were read at once: no turn of the iothread comes between them.
    let mut data = Vec::new();
    for sector in 0..3 {
        assert_eq!(driver.read(7) & 0x88, 0x08, "sector {sector}");
        driver.read_block(&mut data, 512);
    }
    assert_eq!(driver.read(7) & 0x88, 0);
    driver.issue(&IdeCommand::lba28(0x30, 0, 1));
    setup.machine.run();
    for n in 0..256 {
        assert_eq!(driver.alternate() & 0x88, 0x08, "word {n}");
        driver.write_data(2, n);
    }
    assert_eq!(driver.alternate() & 0x88, 0x80, "a whole block makes it busy at once");
    assert!(driver.wait().is_good());
}

#[test]
fn the_data_port_has_every_width() {
    let (driver, setup) = one_disk(1 << 20);
    let data = pattern(3, 512);
    driver.issue(&IdeCommand::lba28(0x30, 0, 1));
    setup.machine.run();
    let mut at = 0;
    for width in [4u8, 2, 4, 2].into_iter().cycle() {
        let width = width.min((512 - at).min(4) as u8);
        let mut bytes = [0; 8];
        bytes[..usize::from(width)].copy_from_slice(&data[at..at + usize::from(width)]);
        driver.write_data(width, u64::from_le_bytes(bytes));
        at += usize::from(width);
        if at == 512 {
            break;
        }
    }
    assert!(driver.wait().is_good());
    driver.issue(&IdeCommand::lba28(0x20, 0, 1));
    setup.machine.run();
    let read: Vec<u8> = (0..128).flat_map(|_| (driver.read_data(4) as u32).to_le_bytes()).collect();
    assert_eq!(read, data);
}

#[test]
fn a_data_port_without_data_reads_as_zero_and_forgets() {
    let (driver, setup) = one_disk(1 << 20);
    assert_eq!((driver.read_data(2), driver.read_data(4)), (0, 0));
    driver.write_data(2, 0xffff);
    assert_eq!(driver.read(7), 0x50);
    driver.issue(&IdeCommand::lba28(0x20, 0, 1));
    setup.machine.run();
    // Data that go the other way are not taken.
    driver.write_data(2, 0xffff);
    let mut data = Vec::new();
    driver.read_block(&mut data, 512);
    assert_eq!(data, vec![0; 512]);
    assert_eq!(setup.machine.bus.read(Space::Port, 0x1f0, 2), 0);
}

#[test]
fn sectors_of_4096_bytes_move_whole() {
    let setup = machine_with(4 << 20, &[(0, 0)], |config| config.logical_block_size = 4096);
    let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    let data = pattern(5, 3 * 4096);
    assert!(driver.pio_out(&IdeCommand::lba28(0x30, 2, 3), &data, 4096).is_good());
    let (end, read) = driver.pio_in(&IdeCommand::lba28(0xc4, 2, 3), 3 * 4096, 16 * 4096);
    assert!(end.is_good());
    assert_eq!(read, data);
    assert_eq!(driver.plain(&IdeCommand::lba28(0x20, 1023, 2)).error, 0x10);
}

#[test]
fn buffers_are_written_and_read() {
    let (driver, _setup) = one_disk(1 << 20);
    let data = pattern(77, 512);
    let command = |command| IdeCommand { command, ..IdeCommand::default() };
    assert!(driver.pio_out(&command(0xe8), &data, 512).is_good());
    assert_eq!(driver.pio_in(&command(0xe4), 512, 512).1, data);
}
