//! Power management (ACS-3, 4.15).

use spindle_devices::state_file::MemoryStore;

use crate::{host, is_aborted};

#[test]
fn a_drive_is_as_awake_as_it_was_told_to_be() {
    let host = host(&MemoryStore::new());
    let mode = || {
        assert!(host.plain(0xe5).is_good());
        host.driver.read(2)
    };
    assert_eq!(mode(), 0xff, "active");
    for (command, count) in [(0xe0, 0x00), (0xe1, 0x80), (0xe2, 0x00), (0xe3, 0x80)] {
        assert!(host.plain(command).is_good());
        assert_eq!(mode(), count, "{command:#x}");
        assert!(host.plain(0xe7).is_good());
        assert_eq!(mode(), 0xff, "a command wakes it");
    }
}

#[test]
fn only_a_reset_wakes_a_drive_that_sleeps() {
    let host = host(&MemoryStore::new());
    assert!(host.plain(0xe6).is_good());
    for command in [0xe5, 0xec, 0xe1, 0xe7] {
        assert!(is_aborted(host.plain(command)), "{command:#x}");
    }
    assert!(host.driver.reset().is_good());
    assert!(host.plain(0xe5).is_good());
    assert_eq!(host.driver.read(2), 0xff);
}

#[test]
fn standby_writes_the_cache_first() {
    let host = host(&MemoryStore::new());
    use spindle_block::{
        BlockError,
        nodes::fault::{Action, FaultOp, FaultRule},
    };
    let rule = FaultRule {
        op: FaultOp::Flush,
        count: Some(1),
        ..FaultRule::new(Action::Error(BlockError::Unsupported))
    };
    host.fault.add(rule).unwrap();
    assert!(is_aborted(host.plain(0xe0)), "the flush failed");
    assert!(host.plain(0xe5).is_good());
    assert_eq!(host.driver.read(2), 0xff, "and it stays awake");
}
