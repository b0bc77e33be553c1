//! WRITE UNCORRECTABLE EXT (ACS-3, 7.73).

use spindle_devices::{state_file::MemoryStore, testkit::driver::ide::IdeCommand};

use crate::{Host, host, is_aborted};

fn mark(host: &Host, feature: u16, lba: u64, count: u16) -> bool {
    let command = IdeCommand { features: feature, ..IdeCommand::lba48(0x45, lba, count) };
    host.driver.plain(&command).is_good()
}

#[test]
fn marked_sectors_cannot_be_read_until_they_are_written() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert_eq!(first.identify(119) >> 2 & 1, 1);
    assert!(first.driver.write_dma(0, &[7; 8192]).0.is_good());
    assert!(mark(&first, 0x55, 5, 2));
    assert!(mark(&first, 0x5a, 9, 1));
    for host in [&first, &host(&store)] {
        for (lba, count, bad) in [(0, 16, 5), (6, 1, 6), (7, 4, 9)] {
            let end = host.driver.plain(&IdeCommand::lba28(0x40, lba, count));
            assert_eq!((end.status & 1, end.error), (1, 0x40), "{lba}");
            assert_eq!(host.lba28(), bad);
        }
        assert!(host.driver.plain(&IdeCommand::lba28(0x40, 0, 5)).is_good());
        assert!(host.driver.plain(&IdeCommand::lba28(0x40, 7, 2)).is_good());
    }
    // By every way.
    let at = first.driver.machine.memory.alloc(4096, 4096);
    first.driver.set_table(&[(at, 4096, 0x8000)]);
    let (end, _) = first.driver.dma(&IdeCommand::lba28(0xc8, 0, 8), true);
    assert_eq!((end.error, first.lba28()), (0x40, 5));
    let (end, data) = first.driver.pio_in(&IdeCommand::lba28(0x20, 3, 4), 2048, 512);
    assert_eq!((end.error, data.len(), first.lba28()), (0x40, 1024, 5), "the good ones come");
    // Half of it is written.
    let end = first.driver.pio_out(&IdeCommand::lba28(0x30, 6, 1), &[8; 512], 512);
    assert!(end.is_good());
    assert!(first.driver.write_dma(9, &[9; 512]).0.is_good());
    assert_eq!(first.driver.read_dma(6, 512), [8; 512]);
    assert_eq!(first.driver.read_dma(9, 512), [9; 512]);
    assert_eq!(first.driver.plain(&IdeCommand::lba28(0x40, 5, 1)).error, 0x40);
    assert!(host(&store).driver.plain(&IdeCommand::lba28(0x40, 6, 8)).is_good(), "for good");
}

#[test]
fn only_logged_errors_are_counted() {
    let host = host(&MemoryStore::new());
    let errors = || {
        let read = IdeCommand {
            command: 0xb0,
            features: 0xd5,
            count: 1,
            lba: 0xc2_4f01,
            ..IdeCommand::default()
        };
        host.driver.pio_in(&read, 512, 512).1[452]
    };
    assert!(mark(&host, 0x5a, 1, 1));
    assert_eq!(host.driver.plain(&IdeCommand::lba28(0x40, 1, 1)).error, 0x40);
    assert_eq!(errors(), 0);
    assert!(mark(&host, 0x55, 1, 1));
    assert_eq!(host.driver.plain(&IdeCommand::lba28(0x40, 1, 1)).error, 0x40);
    assert_eq!(errors(), 1);
}

#[test]
fn marks_that_make_no_sense_are_refused() {
    let host = host(&MemoryStore::new());
    let command = |feature, lba, count| IdeCommand {
        features: feature,
        ..IdeCommand::lba48(0x45, lba, count)
    };
    assert!(is_aborted(host.driver.plain(&command(0xaa, 0, 1))));
    assert_eq!(host.driver.plain(&command(0x55, 16_384, 1)).error, 0x10);
    assert_eq!(host.driver.plain(&command(0x55, 0, 0)).error, 0x10, "65536 sectors");
}
