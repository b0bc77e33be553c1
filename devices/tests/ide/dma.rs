//! The bus master: tables of every shape.

use spindle_devices::testkit::driver::ide::IdeCommand;

use crate::{machine_at, one_disk, pattern};

const END: u16 = 0x8000;

#[test]
fn both_forms_read_and_write() {
    let (driver, _setup) = one_disk(8 << 20);
    for (n, (read, write, wide)) in
        [(0xc8, 0xca, false), (0xc9, 0xcb, false), (0x25, 0x35, true), (0x25, 0x3d, true)]
            .into_iter()
            .enumerate()
    {
        let command = |code, lba, count| match wide {
            false => IdeCommand::lba28(code, lba, count),
            true => IdeCommand::lba48(code, lba, count),
        };
        let data = pattern(n as u8, 256 * 512);
        let at = driver.machine.memory.alloc(256 * 512, 4096);
        driver.machine.memory.write(at, &data);
        driver.set_pages(at, 256 * 512);
        let (end, status) = driver.dma(&command(write, 1000, 256), false);
        assert!(end.is_good() && status & 7 == 4, "{write:#x}: {end:?} {status:#x}");
        let back = driver.machine.memory.alloc(256 * 512, 4096);
        driver.set_pages(back, 256 * 512);
        let (end, status) = driver.dma(&command(read, 1000, 256), true);
        assert!(end.is_good() && status & 7 == 4, "{read:#x}: {end:?} {status:#x}");
        assert_eq!(driver.machine.memory.read(back, data.len()), data);
    }
}

#[test]
fn a_transfer_is_scattered_as_the_table_says() {
    let (driver, setup) = one_disk(1 << 20);
    let data = pattern(3, 4096);
    assert!(driver.write_dma(0, &data).0.is_good());
    let at = setup.machine.memory.alloc(0x2_0000, 0x1_0000);
    // Two bytes are the least; lengths need not be those of sectors.
    let pieces: [(u64, u16); 5] =
        [(2, 2), (0x100, 510), (0x1000, 1024), (0x500, 6), (0xf000, 2554)];
    let mut entries: Vec<_> = pieces.iter().map(|(offset, len)| (at + offset, *len, 0)).collect();
    entries[4].2 = END;
    driver.set_table(&entries);
    let (end, status) = driver.dma(&IdeCommand::lba28(0xc8, 0, 8), true);
    assert!(end.is_good() && status & 7 == 4);
    let read: Vec<u8> = pieces
        .iter()
        .flat_map(|(offset, len)| setup.machine.memory.read(at + offset, usize::from(*len)))
        .collect();
    assert_eq!(read, data);
    assert_eq!(setup.machine.memory.read(at + 0x504, 3), [data[1540], data[1541], 0]);
    // A length of 0 is 64 KiB.
    driver.set_table(&[(at, 0, 0), (at + 0x1_0000, 0, END)]);
    let (end, status) = driver.dma(&IdeCommand::lba28(0xc8, 0, 256), true);
    assert!(end.is_good() && status & 7 == 4);
    assert_eq!(setup.machine.memory.read(at, 4096), data);
}

#[test]
fn the_lowest_bits_of_address_and_length_do_not_exist() {
    let (driver, setup) = one_disk(1 << 20);
    let data = pattern(3, 512);
    assert!(driver.write_dma(0, &data).0.is_good());
    let at = setup.machine.memory.alloc(4096, 4096);
    driver.set_table(&[(at + 1, 0x101, 0x7fff), (at + 0x801, 0x101, 0xffff)]);
    let (end, status) = driver.dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    assert!(end.is_good() && status & 7 == 4, "{end:?} {status:#x}");
    assert_eq!(setup.machine.memory.read(at, 256), data[..256]);
    assert_eq!(setup.machine.memory.read(at + 0x800, 256), data[256..]);
}

#[test]
fn memory_that_is_left_over_leaves_the_bus_master_active() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(8192, 4096);
    for table in [
        vec![(at, 1024, END)],
        vec![(at, 512, 0), (at + 512, 512, END)],
        // The table does not say that it ends.
        vec![(at, 512, 0)],
    ] {
        driver.set_table(&table);
        driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
        setup.machine.run();
        assert_eq!(driver.read_bm(2, 1) & 7, 5, "interrupt, active");
        let (end, _) = driver.finish_dma();
        assert!(end.is_good());
        assert_eq!(driver.read_bm(2, 1) & 7, 0, "stopped");
    }
}

#[test]
fn a_table_that_is_too_short_leaves_the_drive_waiting() {
    let (driver, setup) = one_disk(1 << 20);
    let data = pattern(3, 2048);
    assert!(driver.write_dma(0, &data).0.is_good());
    let at = setup.machine.memory.alloc(8192, 4096);
    for (len, arrives) in [(2, 0), (510, 0), (512, 512), (1500, 1024)] {
        setup.machine.memory.write(at, &[0xee; 2048]);
        driver.set_table(&[(at, len, END)]);
        let edges = setup.ide.wires[0].edges();
        driver.start_dma(&IdeCommand::lba28(0xc8, 0, 4), true);
        setup.machine.run();
        assert_eq!(driver.read_bm(2, 1) & 7, 0, "neither active nor an interrupt");
        assert_eq!(setup.ide.wires[0].edges(), edges);
        assert_eq!(driver.alternate() & 0x89, 0x08, "it has more data");
        let memory = setup.machine.memory.read(at, 2048);
        assert_eq!(memory[..arrives], data[..arrives], "whole sectors arrive");
        assert!(memory[arrives..].iter().all(|byte| *byte == 0xee));
        driver.write_bm(0, 1, 0);
        assert!(driver.reset().is_good());
        assert_eq!(driver.read_dma(0, 2048), data, "and it works again");
    }
}

#[test]
fn a_write_with_a_short_table_writes_whole_sectors() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(4096, 4096);
    setup.machine.memory.write(at, &pattern(9, 4096));
    driver.set_table(&[(at, 1000, END)]);
    driver.start_dma(&IdeCommand::lba28(0xca, 0, 4), false);
    setup.machine.run();
    assert_eq!(driver.read_bm(2, 1) & 7, 0);
    driver.write_bm(0, 1, 0);
    assert!(driver.reset().is_good());
    let mut expected = pattern(9, 512);
    expected.resize(2048, 0);
    assert_eq!(driver.read_dma(0, 2048), expected);
}

#[test]
fn tables_and_memory_that_are_not_there_are_errors_of_the_bus() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(8192, 4096);
    let hole = 0xc000_0000;
    let read = IdeCommand::lba28(0xc8, 0, 1);
    setup.machine.memory.write(at, &[0xee; 512]);
    for table in [vec![(hole, 512, END)], vec![(at, 256, 0), (hole, 256, END)]] {
        driver.set_table(&table);
        let (end, status) = driver.dma(&read, true);
        assert_eq!((end.status & 0xa9, end.error), (0x01, 0x04), "the drive gives up");
        assert_eq!(status & 7, 6, "error, interrupt, not active");
    }
    driver.write_bm(4, 4, hole);
    let (end, status) = driver.dma(&read, true);
    assert_eq!((end.error, status & 7), (4, 6));
    assert_eq!(setup.machine.memory.read(at, 512), [0xee; 512], "nothing was moved");
    assert_eq!(driver.read_bm(2, 1) & 2, 0, "cleared by writing one");
    assert_eq!(driver.read_dma(0, 512), [0; 512]);
}

#[test]
fn a_transfer_the_wrong_way_is_an_error_of_the_bus() {
    let (driver, setup) = one_disk(1 << 20);
    assert!(driver.write_dma(0, &pattern(1, 512)).0.is_good());
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, END)]);
    for (command, to_memory) in [(0xc8, false), (0xca, true)] {
        let (end, status) = driver.dma(&IdeCommand::lba28(command, 0, 1), to_memory);
        assert_eq!((end.error, status & 7), (4, 6));
    }
    assert_eq!(setup.machine.memory.read(at, 512), [0; 512]);
    assert_eq!(driver.read_dma(0, 512), pattern(1, 512));
}

#[test]
fn a_table_is_no_longer_than_tables_can_be() {
    let (driver, setup) = one_disk(1 << 20);
    let table = setup.machine.memory.alloc(0x1_0010, 0x1_0000);
    let at = setup.machine.memory.alloc(4096, 4096);
    for i in 0..8193 {
        let bytes = at | 2 << 32;
        setup.machine.memory.write(table + i * 8, &u64::to_le_bytes(bytes));
    }
    driver.write_bm(4, 4, table);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 64), true);
    setup.machine.run();
    assert_eq!(driver.read_bm(2, 1) & 7, 0, "16 KiB of 32");
    driver.write_bm(0, 1, 0);
    assert!(driver.reset().is_good());
}

#[test]
fn a_command_waits_for_the_bus_master() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, END)]);
    driver.issue(&IdeCommand::lba28(0xc8, 0, 1));
    setup.machine.run();
    assert_eq!(driver.alternate() & 0x80, 0x80);
    assert_eq!(setup.machine.world.in_flight(), 0);
    driver.write_bm(0, 1, 9);
    setup.machine.run();
    let (end, status) = driver.finish_dma();
    assert!(end.is_good() && status & 7 == 4);
    // And the other way round.
    driver.write_bm(0, 1, 9);
    setup.machine.run();
    assert_eq!(driver.read_bm(2, 1) & 7, 1, "active, with nothing to do");
    driver.issue(&IdeCommand::lba28(0xc8, 0, 1));
    setup.machine.run();
    let (end, status) = driver.finish_dma();
    assert!(end.is_good() && status & 7 == 4);
}

#[test]
fn a_command_that_cannot_be_done_does_not_wait_for_it() {
    let (driver, _setup) = one_disk(1 << 20);
    for (command, error) in [
        (IdeCommand::lba28(0xc8, 2047, 2), 0x10),
        (IdeCommand::lba48(0x35, 1 << 40, 1), 0x10),
        (IdeCommand::lba28(0xc8, 2048, 0), 0x10),
    ] {
        let end = driver.plain(&command);
        assert_eq!((end.status & 0x89, end.error), (1, error));
    }
}

#[test]
fn a_function_that_may_not_reach_memory_does_not() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(512, 512);
    setup.machine.memory.write(at, &[0xee; 512]);
    driver.set_table(&[(at, 512, END)]);
    setup.machine.pci_write(setup.ide.at, 4, 2, 1);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.run();
    assert_eq!(driver.alternate() & 0x80, 0x80);
    assert_eq!(setup.machine.memory.read(at, 512), [0xee; 512]);
    // PIO needs no memory.
    driver.write_bm(0, 1, 0);
    assert!(driver.reset().is_good());
    let identify = IdeCommand { command: 0xec, ..IdeCommand::default() };
    assert!(driver.pio_in(&identify, 512, 512).0.is_good());
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.run();
    setup.machine.pci_write(setup.ide.at, 4, 2, 5);
    setup.machine.run();
    let (end, status) = driver.finish_dma();
    assert!(end.is_good() && status & 7 == 4, "it goes on once it may");
    assert_eq!(setup.machine.memory.read(at, 512), [0; 512]);
}

#[test]
fn a_stop_in_the_middle_is_over_when_the_transfer_is() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, END)]);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.turn();
    assert_eq!(setup.machine.world.in_flight(), 1);
    driver.write_bm(0, 1, 0);
    assert_eq!(driver.read_bm(2, 1) & 1, 1, "memory is still being written");
    setup.machine.run();
    assert_eq!(driver.read_bm(2, 1) & 1, 0);
    assert!(driver.wait().is_good());
}

#[test]
fn both_channels_work_at_once() {
    let setup = machine_at(1 << 20, &[(0, 0), (1, 0)]);
    let drivers = [0, 1].map(|channel| {
        let driver = spindle_devices::testkit::driver::ide::IdeDriver::new(
            &setup.machine,
            setup.ide.at,
            channel,
        );
        assert!(driver.write_dma(5, &pattern(channel, 4096)).0.is_good());
        driver
    });
    let memory = [0, 1].map(|_| setup.machine.memory.alloc(4096, 4096));
    for (driver, at) in drivers.iter().zip(memory) {
        driver.set_table(&[(at, 4096, END)]);
        driver.start_dma(&IdeCommand::lba28(0xc8, 5, 8), true);
    }
    setup.machine.turn();
    assert_eq!(setup.machine.world.in_flight(), 2);
    setup.machine.run();
    for (channel, (driver, at)) in drivers.iter().zip(memory).enumerate() {
        let (end, status) = driver.finish_dma();
        assert!(end.is_good() && status & 7 == 4);
        assert_eq!(setup.machine.memory.read(at, 4096), pattern(channel as u8, 4096));
        assert_eq!(setup.ide.wires[channel].edges(), 2);
    }
}

#[test]
fn discarded_sectors_read_as_zeros() {
    let (driver, setup) = one_disk(1 << 20);
    assert!(driver.write_dma(0, &pattern(1, 8192)).0.is_good());
    let at = setup.machine.memory.alloc(512, 512);
    // Two sectors from 4 on, three from 9.
    setup.machine.memory.write(at, &(4 | 2u64 << 48).to_le_bytes());
    setup.machine.memory.write(at + 8, &(9 | 3u64 << 48).to_le_bytes());
    driver.set_table(&[(at, 512, END)]);
    let trim =
        IdeCommand { command: 0x06, features: 1, count: 1, wide: true, ..IdeCommand::default() };
    let (end, status) = driver.dma(&trim, false);
    assert!(end.is_good() && status & 7 == 4, "{end:?} {status:#x}");
    let mut expected = pattern(1, 8192);
    expected[4 * 512..6 * 512].fill(0);
    expected[9 * 512..12 * 512].fill(0);
    assert_eq!(driver.read_dma(0, 8192), expected);
}

#[test]
fn replies_come_by_dma_too() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(1024, 1024);
    // READ LOG DMA EXT of the IDENTIFY DEVICE data log, page 1.
    let log =
        IdeCommand { command: 0x47, count: 1, lba: 0x0130, wide: true, ..IdeCommand::default() };
    driver.set_table(&[(at, 512, END)]);
    let (end, status) = driver.dma(&log, true);
    assert!(end.is_good() && status & 7 == 4, "{end:?} {status:#x}");
    let identify = IdeCommand { command: 0xec, ..IdeCommand::default() };
    assert_eq!(setup.machine.memory.read(at, 512), driver.pio_in(&identify, 512, 512).1);
    driver.set_table(&[(at, 256, END)]);
    driver.start_dma(&log, true);
    setup.machine.run();
    assert_eq!(driver.read_bm(2, 1) & 7, 0, "too short");
}
