//! The Security feature set (ACS-3, 4.19).

use spindle_devices::{
    state_file::MemoryStore,
    testkit::driver::ide::{IdeCommand, IdeEnd},
};

use crate::{Host, host, is_aborted};

const SET: u8 = 0xf1;
const UNLOCK: u8 = 0xf2;
const PREPARE: u8 = 0xf3;
const ERASE: u8 = 0xf4;
const FREEZE: u8 = 0xf5;
const DISABLE: u8 = 0xf6;

const ENABLED: u16 = 1 << 1;
const LOCKED: u16 = 1 << 2;
const FROZEN: u16 = 1 << 3;
const EXPIRED: u16 = 1 << 4;
const MAXIMUM: u16 = 1 << 8;

/// A command with a password; `control` is word 0 of its data.
fn send(host: &Host, command: u8, control: u16, password: &str) -> IdeEnd {
    let mut data = [0; 512];
    data[..2].copy_from_slice(&control.to_le_bytes());
    data[2..2 + password.len()].copy_from_slice(password.as_bytes());
    let command = IdeCommand { command, ..IdeCommand::default() };
    host.driver.pio_out(&command, &data, 512)
}

fn status(host: &Host) -> u16 {
    host.identify(128) & (ENABLED | LOCKED | FROZEN | EXPIRED | MAXIMUM)
}

#[test]
fn a_password_locks_the_drive_with_the_next_power_on() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert_eq!((first.identify(82) & 2, status(&first)), (2, 0));
    assert!(first.driver.write_dma(0, &[7; 512]).0.is_good());
    assert!(send(&first, SET, 0, "secret").is_good());
    assert_eq!((status(&first), first.identify(85) & 2), (ENABLED, 2));
    assert_eq!(first.driver.read_dma(0, 512), [7; 512], "not locked yet");
    first.power_cycle();
    assert_eq!(status(&first), ENABLED | LOCKED);
    for command in [0x20, 0x24, 0x30, 0xc4, 0x40, 0xe7] {
        assert!(is_aborted(first.driver.plain(&IdeCommand::lba28(command, 0, 1))), "{command:#x}");
    }
    assert!(is_aborted(first.driver.plain(&IdeCommand::lba28(0xc8, 0, 1))));
    assert!(is_aborted(send(&first, SET, 0, "other")), "nor are passwords set");
    assert!(is_aborted(send(&first, DISABLE, 0, "secret")));
    assert!(is_aborted(first.plain(FREEZE)));
    assert!(is_aborted(send(&first, UNLOCK, 0, "wrong")));
    assert!(send(&first, UNLOCK, 0, "secret").is_good());
    assert_eq!(status(&first), ENABLED);
    assert_eq!(first.driver.read_dma(0, 512), [7; 512]);
    // It is in the state file.
    let again = host(&store);
    assert_eq!(status(&again), ENABLED | LOCKED);
    assert!(send(&again, UNLOCK, 0, "secret").is_good());
    assert!(is_aborted(send(&again, DISABLE, 0, "wrong")));
    assert!(send(&again, DISABLE, 0, "secret").is_good());
    assert_eq!(status(&again), 0);
    assert_eq!(status(&host(&store)), 0);
}

#[test]
fn the_master_password_opens_unless_the_level_is_maximum() {
    let store = MemoryStore::new();
    let host = host(&store);
    assert_eq!(host.identify(92), 0xfffe);
    assert!(send(&host, SET, 1, "master").is_good());
    assert_eq!(status(&host), 0, "it enables nothing");
    assert!(send(&host, SET, 0, "user").is_good());
    host.power_cycle();
    assert!(send(&host, UNLOCK, 1, "master").is_good());
    assert!(send(&host, DISABLE, 1, "master").is_good());
    assert_eq!(status(&host), 0);
    assert!(send(&host, SET, 0x100, "user").is_good());
    assert_eq!(status(&host), ENABLED | MAXIMUM);
    host.power_cycle();
    assert!(is_aborted(send(&host, UNLOCK, 1, "master")));
    assert!(is_aborted(send(&host, DISABLE, 1, "master")));
    assert!(send(&host, UNLOCK, 0, "user").is_good());
}

#[test]
fn five_wrong_passwords_are_the_last() {
    let host = host(&MemoryStore::new());
    assert!(send(&host, SET, 0, "user").is_good());
    host.power_cycle();
    for n in 0..5 {
        assert_eq!(status(&host) & EXPIRED, 0, "{n}");
        assert!(is_aborted(send(&host, UNLOCK, 0, "guess")));
    }
    assert_eq!(status(&host), ENABLED | LOCKED | EXPIRED);
    assert!(is_aborted(send(&host, UNLOCK, 0, "user")), "even the right one");
    assert!(host.driver.reset().is_good());
    assert!(is_aborted(send(&host, UNLOCK, 0, "user")), "a software reset is no power-on");
    host.power_cycle();
    assert!(send(&host, UNLOCK, 0, "user").is_good());
}

#[test]
fn a_frozen_drive_changes_nothing_until_the_next_power_on() {
    let host = host(&MemoryStore::new());
    assert!(host.plain(FREEZE).is_good());
    assert_eq!(status(&host), FROZEN);
    for command in [SET, UNLOCK, DISABLE] {
        assert!(is_aborted(send(&host, command, 0, "user")), "{command:#x}");
    }
    assert!(is_aborted(host.plain(PREPARE)));
    assert!(host.driver.reset().is_good());
    assert_eq!(status(&host), FROZEN);
    host.power_cycle();
    assert_eq!(status(&host), 0);
    assert!(send(&host, SET, 0, "user").is_good());
}

#[test]
fn an_erase_takes_data_and_password() {
    let store = MemoryStore::new();
    let host = host(&store);
    assert!(host.driver.write_dma(100, &[7; 4096]).0.is_good());
    assert!(send(&host, SET, 0, "user").is_good());
    host.power_cycle();
    assert!(is_aborted(send(&host, ERASE, 0, "user")), "it was not prepared");
    assert!(host.plain(PREPARE).is_good());
    assert!(host.plain(0xe5).is_good());
    assert!(is_aborted(send(&host, ERASE, 0, "user")), "not just before");
    assert!(host.plain(PREPARE).is_good());
    assert!(is_aborted(send(&host, ERASE, 0, "wrong")));
    assert_eq!(status(&host), ENABLED | LOCKED);
    assert!(host.plain(PREPARE).is_good());
    assert!(send(&host, ERASE, 0, "user").is_good());
    assert_eq!(status(&host), 0);
    assert_eq!(host.driver.read_dma(100, 4096), [0; 4096]);
    assert_eq!(status(&crate::host(&store)), 0);
}

#[test]
fn a_state_that_cannot_be_written_fails_the_command() {
    let store = MemoryStore::new();
    let host = host(&store);
    store.fail(true);
    assert!(is_aborted(send(&host, SET, 0, "user")));
    store.fail(false);
}
