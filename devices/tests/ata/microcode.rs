//! DOWNLOAD MICROCODE (ACS-3, 7.7 and 7.8).

use spindle_devices::{
    state_file::MemoryStore,
    testkit::driver::ide::{IdeCommand, IdeEnd},
};

use crate::{Host, host, is_aborted};

/// An image of so many blocks.
fn image(revision: &str, blocks: u32) -> Vec<u8> {
    let mut bytes = b"spndlFW1".to_vec();
    bytes.extend(format!("{revision:8}").bytes());
    bytes.extend(blocks.to_le_bytes());
    bytes.resize(blocks as usize * 512, 0x77);
    bytes
}

fn command(mode: u16, blocks: u64, offset: u64) -> IdeCommand {
    IdeCommand {
        command: 0x92,
        features: mode,
        count: blocks as u16 & 0xff,
        lba: blocks >> 8 | offset << 8,
        ..IdeCommand::default()
    }
}

/// Sends a piece; what COUNT holds then.
fn send(host: &Host, mode: u16, offset: u64, bytes: &[u8]) -> Result<u16, IdeEnd> {
    let end = host.driver.pio_out(&command(mode, bytes.len() as u64 / 512, offset), bytes, 512);
    if end.is_good() { Ok(host.count()) } else { Err(end) }
}

fn revision(host: &Host) -> String {
    let bytes = (23..27).flat_map(|word| host.identify(word).to_be_bytes()).collect();
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

#[test]
fn a_whole_image_is_in_force_at_once() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert_eq!((first.identify(83) & 1, first.identify(86) & 1), (1, 1));
    assert_eq!(first.identify(119) >> 4 & 1, 1, "in pieces");
    assert_eq!(revision(&first), "1.0");
    assert!(send(&first, 7, 0, &image("2.0", 300)).is_ok());
    assert_eq!(revision(&first), "2.0");
    assert_eq!(revision(&host(&store)), "2.0", "after a power loss");
}

#[test]
fn an_image_comes_in_pieces() {
    let store = MemoryStore::new();
    let first = host(&store);
    let bytes = image("3.1", 10);
    assert_eq!(send(&first, 3, 0, &bytes[..2048]), Ok(1), "more is to come");
    assert_eq!(revision(&first), "1.0");
    assert!(send(&first, 3, 5, &bytes[2560..]).is_err(), "not the next one");
    assert!(send(&first, 3, 4, &bytes[2048..]).is_err(), "it begins anew");
    assert_eq!(send(&first, 3, 0, &bytes[..2048]), Ok(1));
    assert!(send(&first, 0x0e, 4, &bytes[2048..]).is_err(), "not for another time");
    assert_eq!(send(&first, 3, 0, &bytes[..2048]), Ok(1));
    assert_eq!(send(&first, 3, 4, &bytes[2048..]), Ok(2), "applied");
    assert_eq!(revision(&first), "3.1");
}

#[test]
fn an_image_waits_for_its_activation() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert!(is_aborted(first.driver.plain(&command(0x0f, 0, 0))), "there is none");
    let bytes = image("4.0", 4);
    assert_eq!(send(&first, 0x0e, 0, &bytes[..1024]), Ok(1));
    assert_eq!(send(&first, 0x0e, 2, &bytes[1024..]), Ok(3), "saved");
    assert_eq!(revision(&first), "1.0");
    assert!(first.driver.reset().is_good());
    assert_eq!(revision(&first), "1.0");
    assert!(first.driver.plain(&command(0x0f, 0, 0)).is_good());
    assert_eq!(revision(&first), "4.0");
    assert_eq!(send(&first, 0x0e, 0, &image("5.0", 1)), Ok(3));
    assert_eq!(revision(&host(&store)), "5.0", "a power loss activates it");
}

#[test]
fn what_is_no_image_is_refused() {
    let host = host(&MemoryStore::new());
    let good = image("6.0", 2);
    let mut other = good.clone();
    other[0] = b'x';
    let mut longer = good.clone();
    longer.extend([0; 512]);
    for bytes in [&other, &longer] {
        assert!(send(&host, 7, 0, bytes).is_err());
        assert!(send(&host, 3, 0, bytes).is_err());
    }
    for bad in [command(0, 1, 0), command(1, 1, 0), command(3, 0, 0), command(3, 0x81, 0)] {
        assert!(is_aborted(host.driver.plain(&bad)), "{bad:?}");
    }
    assert_eq!(revision(&host), "1.0");
}

#[test]
fn images_come_by_dma_too() {
    let host = host(&MemoryStore::new());
    let bytes = image("7.0", 4);
    let at = host.driver.machine.memory.alloc(2048, 4096);
    host.driver.machine.memory.write(at, &bytes);
    host.driver.set_pages(at, 2048);
    let (end, _) = host.driver.dma(&IdeCommand { command: 0x93, ..command(7, 4, 0) }, false);
    assert!(end.is_good());
    assert_eq!(revision(&host), "7.0");
}
