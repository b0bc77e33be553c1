//! The largest address (ACS-3, 4.4; ATA-6, 6.21).

use spindle_devices::{state_file::MemoryStore, testkit::driver::ide::IdeCommand};

use crate::{Host, SIZE, host, is_aborted};

const SECTORS: u64 = SIZE / 512;

fn sectors(host: &Host) -> u64 {
    u64::from(host.identify(60)) | u64::from(host.identify(61)) << 16
}

fn native(host: &Host) {
    assert!(host.driver.plain(&IdeCommand::lba28(0xf8, 0, 0)).is_good());
    assert_eq!(u64::from(host.lba28()), SECTORS - 1);
}

#[test]
fn a_host_protected_area_hides_the_end_of_the_disk() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert_eq!((first.identify(82) >> 10 & 1, sectors(&first)), (1, SECTORS));
    let set = |host: &Host, lba, keep: bool| {
        host.driver.plain(&IdeCommand::lba28(0xf9, lba, keep.into()))
    };
    assert!(is_aborted(set(&first, 999, false)), "READ NATIVE MAX ADDRESS comes first");
    native(&first);
    assert_eq!(set(&first, SECTORS, false).error, 0x10);
    native(&first);
    assert!(set(&first, 999, false).is_good());
    assert_eq!(sectors(&first), 1000);
    assert!(first.driver.plain(&IdeCommand::lba28(0x40, 999, 1)).is_good());
    assert_eq!(first.driver.plain(&IdeCommand::lba28(0x40, 1000, 1)).error, 0x10);
    first.power_cycle();
    assert_eq!(sectors(&first), SECTORS, "it was volatile");
    native(&first);
    assert!(set(&first, 499, true).is_good());
    native(&first);
    assert_eq!(set(&first, 599, true).error, 0x10, "once between power-ons");
    let again = host(&store);
    assert_eq!(sectors(&again), 500);
    native(&again);
    // The whole disk again, by 48 bits.
    assert!(again.driver.plain(&IdeCommand::lba48(0x27, 0, 0)).is_good());
    assert_eq!(again.lba48(), SECTORS - 1);
    assert!(again.driver.plain(&IdeCommand::lba48(0x37, SECTORS - 1, 1)).is_good());
    assert_eq!(sectors(&again), SECTORS);
    assert_eq!(sectors(&host(&store)), SECTORS);
}

#[test]
fn an_accessible_max_address_is_kept() {
    let store = MemoryStore::new();
    let first = host(&store);
    let configure = |host: &Host, features, lba| {
        let command = IdeCommand { features, ..IdeCommand::lba48(0x78, lba, 0) };
        host.driver.plain(&command)
    };
    assert_eq!(first.identify(119) >> 8 & 1, 1);
    assert!(configure(&first, 0, 0).is_good());
    assert_eq!(first.lba48(), SECTORS - 1);
    assert_eq!(configure(&first, 1, SECTORS).error, 0x10);
    assert!(configure(&first, 1, 99).is_good());
    assert_eq!(sectors(&first), 100);
    assert!(is_aborted(configure(&first, 1, 199)), "once between power-ons");
    let again = host(&store);
    assert_eq!(sectors(&again), 100);
    assert!(configure(&again, 2, 0).is_good());
    assert!(is_aborted(configure(&again, 1, SECTORS - 1)), "frozen");
    again.power_cycle();
    assert!(configure(&again, 1, SECTORS - 1).is_good());
    assert_eq!(sectors(&again), SECTORS);
    assert!(is_aborted(configure(&again, 3, 0)));
}

#[test]
fn a_password_keeps_the_largest_address() {
    let host = host(&MemoryStore::new());
    let security =
        |feature: u16| IdeCommand { command: 0xf9, features: feature, ..Default::default() };
    let secret = |byte: u8| {
        let mut data = [0; 512];
        data[2..34].fill(byte);
        data
    };
    let send = |feature, data: &[u8]| host.driver.pio_out(&security(feature), data, 512);
    let set = |lba| {
        native(&host);
        host.driver.plain(&IdeCommand::lba28(0xf9, lba, 0))
    };
    assert_eq!((host.identify(83) >> 8 & 1, host.identify(86) >> 8 & 1), (1, 0));
    for feature in [2, 4] {
        assert!(is_aborted(host.driver.plain(&security(feature))), "{feature}: no password");
    }
    assert!(send(1, &secret(7)).is_good());
    assert_eq!(host.identify(86) >> 8 & 1, 1);
    assert!(set(999).is_good());
    assert!(host.driver.plain(&security(2)).is_good());
    assert!(is_aborted(set(1999)));
    assert!(is_aborted(send(1, &secret(8))), "locked");
    assert!(is_aborted(send(3, &secret(8))));
    assert!(send(3, &secret(7)).is_good());
    assert!(set(1999).is_good());
    // Five wrong ones.
    assert!(host.driver.plain(&security(2)).is_good());
    for _ in 0..5 {
        assert!(is_aborted(send(3, &secret(8))));
    }
    assert!(is_aborted(send(3, &secret(7))));
    assert!(host.driver.reset().is_good());
    assert!(is_aborted(set(2999)), "a reset does not open it");
    host.power_cycle();
    assert_eq!(host.identify(86) >> 8 & 1, 0, "a power loss does");
    assert!(set(2999).is_good());
    assert!(send(1, &secret(7)).is_good());
    assert!(host.driver.plain(&security(4)).is_good());
    assert!(is_aborted(set(3999)), "frozen");
    assert!(is_aborted(send(3, &secret(7))));
}
