//! Power management (ACS-3, 4.15).

use spindle_devices::{state_file::MemoryStore, testkit::driver::ide::IdeCommand};

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

#[test]
fn a_timer_ends_in_standby() {
    let host = host(&MemoryStore::new());
    let mode = || {
        assert!(host.plain(0xe5).is_good());
        host.driver.read(2)
    };
    let wait = |seconds| host.driver.machine.world.advance(std::time::Duration::from_secs(seconds));
    let set = |command, count| {
        let command = IdeCommand { command, count, ..IdeCommand::default() };
        assert!(host.driver.plain(&command).is_good());
    };
    // 20 seconds.
    set(0xe3, 4);
    wait(19);
    assert_eq!(mode(), 0x80, "idle");
    wait(2);
    assert_eq!(mode(), 0x00, "to ask does not start it again");
    assert!(host.plain(0xe7).is_good());
    wait(19);
    assert_eq!(mode(), 0xff);
    assert!(host.plain(0xe7).is_good());
    wait(19);
    assert_eq!(mode(), 0xff, "a command starts it again");
    // An hour; and never.
    set(0xe2, 242);
    assert!(host.plain(0xe7).is_good());
    wait(3599);
    assert_eq!(mode(), 0xff);
    wait(1);
    assert_eq!(mode(), 0x00);
    set(0xe3, 0);
    wait(1_000_000);
    assert_eq!(mode(), 0x80);
}
