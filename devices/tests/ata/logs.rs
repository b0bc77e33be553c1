//! Logs that belong to the host (ACS-3, 9.1, 7.66 and 7.48.8).

use spindle_devices::{state_file::MemoryStore, testkit::driver::ide::IdeCommand};

use crate::{Host, host, is_aborted};

fn log(command: u8, address: u64, page: u64, pages: u16) -> IdeCommand {
    IdeCommand::lba48(command, page << 8 | address, pages)
}

fn read(host: &Host, address: u64, page: u64, pages: u16) -> Vec<u8> {
    let len = usize::from(pages) * 512;
    let (end, data) = host.driver.pio_in(&log(0x2f, address, page, pages), len, 512);
    assert!(end.is_good(), "{address:#x}");
    data
}

#[test]
fn what_a_host_writes_is_there_after_a_power_loss() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert_eq!(read(&first, 0x80, 0, 16), [0; 16 * 512]);
    let pages: Vec<u8> = (0..3 * 512).map(|i| (i / 7) as u8).collect();
    assert!(first.driver.pio_out(&log(0x3f, 0x9f, 13, 3), &pages, 512).is_good());
    assert_eq!(read(&first, 0x9f, 13, 3), pages);
    assert_eq!(read(&first, 0x9f, 12, 1), [0; 512]);
    assert_eq!(read(&first, 0x9e, 13, 3), [0; 3 * 512]);
    let again = host(&store);
    assert_eq!(read(&again, 0x9f, 13, 3), pages);
}

#[test]
fn smart_writes_and_reads_the_same_logs() {
    let host = host(&MemoryStore::new());
    let smart = |features: u16, address: u64, count: u16| IdeCommand {
        command: 0xb0,
        features,
        count,
        lba: 0xc2_4f00 | address,
        ..IdeCommand::default()
    };
    let pages = [0x5a; 1024];
    assert!(host.driver.pio_out(&smart(0xd6, 0x85, 2), &pages, 512).is_good());
    assert_eq!(read(&host, 0x85, 0, 2), pages);
    let (end, data) = host.driver.pio_in(&smart(0xd5, 0x85, 2), 1024, 512);
    assert!(end.is_good());
    assert_eq!(data, pages);
    let (_, directory) = host.driver.pio_in(&smart(0xd5, 0, 1), 512, 512);
    assert_eq!((directory[0x80 * 2], directory[0x9f * 2], directory[0xa0 * 2]), (16, 16, 0));
}

#[test]
fn there_are_no_others() {
    let host = host(&MemoryStore::new());
    let page = [1; 512];
    for (address, at) in [(0x80, 16), (0xa0, 0), (0x7f, 0), (0x04, 0), (0, 0)] {
        let end = host.driver.pio_out(&log(0x3f, address, at, 1), &page, 512);
        assert!(is_aborted(end), "{address:#x}, page {at}");
    }
    assert!(is_aborted(host.driver.pio_out(&log(0x3f, 0x80, 15, 2), &[1; 1024], 512)));
    assert!(is_aborted(host.driver.plain(&log(0x2f, 0x80, 15, 2))));
    let directory = read(&host, 0, 0, 1);
    assert_eq!((directory[0x80 * 2], directory[0xa0 * 2]), (16, 0));
}
