//! The Sanitize feature set (ACS-3, 4.18).

use spindle_block::{
    BlockError,
    nodes::fault::{Action, FaultOp, FaultRule},
};
use spindle_devices::{
    state_file::MemoryStore,
    testkit::driver::ide::{IdeCommand, IdeEnd},
};

use crate::{Host, host, is_aborted};

const ERASE: (u16, u64) = (0x12, 0x426b_4572);
const FREEZE: (u16, u64) = (0x20, 0x4672_4c6b);
const ANTIFREEZE: (u16, u64) = (0x40, 0x416e_7469);

fn sanitize(host: &Host, command: (u16, u64)) -> IdeEnd {
    with_options(host, command, 0)
}

fn with_options(host: &Host, (feature, lba): (u16, u64), count: u16) -> IdeEnd {
    host.driver.plain(&IdeCommand { features: feature, ..IdeCommand::lba48(0xb4, lba, count) })
}

/// What SANITIZE STATUS says: COUNT and LBA.
fn status(host: &Host) -> (u16, u64) {
    assert!(sanitize(host, (0, 0)).is_good());
    (host.count(), host.lba48())
}

#[test]
fn a_block_erase_leaves_nothing() {
    let store = MemoryStore::new();
    let host = host(&store);
    assert_eq!(host.identify(59) >> 12, 0b1111);
    assert!(host.driver.write_dma(0, &[7; 4096]).0.is_good());
    assert!(host.driver.write_dma(16_000, &[7; 4096]).0.is_good());
    assert!(is_aborted(sanitize(&host, (0x12, 1))), "not without the key");
    assert!(sanitize(&host, (0, 0)).is_good());
    assert_eq!(host.count(), 0, "there was none");
    assert!(sanitize(&host, ERASE).is_good());
    assert_eq!((host.count(), host.lba48()), (0x4000, 0), "the command does not wait");
    assert!(sanitize(&host, (0, 0)).is_good());
    assert_eq!((host.count(), host.lba48()), (0x8000, 0xffff), "succeeded");
    assert_eq!(host.driver.read_dma(0, 4096), [0; 4096]);
    assert_eq!(host.driver.read_dma(16_000, 4096), [0; 4096]);
    let again = crate::host(&store);
    assert!(sanitize(&again, (0, 0)).is_good());
    assert_eq!(again.count(), 0x8000);
    for other in [(0x11, 0x426b_4572), (0x14, 0x4f58_0000_0000), (0x99, 0)] {
        assert!(is_aborted(sanitize(&again, other)), "{other:x?}");
    }
}

#[test]
fn a_drive_whose_erase_failed_gives_out_nothing() {
    let store = MemoryStore::new();
    let first = host(&store);
    let rule = FaultRule {
        op: FaultOp::WriteZeroes,
        count: Some(1),
        ..FaultRule::new(Action::Error(BlockError::Unsupported))
    };
    first.fault.add(rule).unwrap();
    assert!(sanitize(&first, ERASE).is_good());
    assert!(sanitize(&first, (0, 0)).is_good());
    assert_eq!(first.count(), 0, "neither under way nor a success");
    let again = host(&store);
    for host in [&first, &again] {
        assert!(is_aborted(host.driver.plain(&IdeCommand::lba28(0x20, 0, 1))));
        assert!(is_aborted(host.driver.plain(&IdeCommand::lba28(0xca, 0, 1))));
        assert_ne!(host.identify(59), 0);
    }
    assert!(sanitize(&again, ERASE).is_good(), "another one helps");
    assert_eq!(again.driver.read_dma(0, 512), [0; 512]);
}

#[test]
fn freezing_and_its_opposite_hold_until_the_next_power_on() {
    let host = host(&MemoryStore::new());
    assert!(sanitize(&host, FREEZE).is_good());
    assert_eq!(host.count() & 0x3000, 0x2000);
    assert!(is_aborted(sanitize(&host, ERASE)));
    assert!(is_aborted(sanitize(&host, ANTIFREEZE)));
    host.power_cycle();
    assert!(sanitize(&host, ANTIFREEZE).is_good());
    assert_eq!(host.count() & 0x3000, 0x1000);
    assert!(is_aborted(sanitize(&host, FREEZE)));
    assert!(sanitize(&host, ERASE).is_good());
}

#[test]
fn a_crypto_scramble_leaves_nothing_to_be_read() {
    let host = host(&MemoryStore::new());
    assert!(host.driver.write_dma(5000, &[7; 4096]).0.is_good());
    assert!(sanitize(&host, (0x11, 0x4372_7970)).is_good());
    assert_eq!(status(&host), (0x8000, 0xffff));
    assert_ne!(host.driver.read_dma(5000, 4096), [7; 4096]);
}

#[test]
fn an_overwrite_writes_its_pattern_as_often_as_it_was_told() {
    let host = host(&MemoryStore::new());
    // Two passes, the second one inverted.
    let overwrite = (0x14, 0x4f57_1234_5678);
    assert!(with_options(&host, overwrite, 0x82).is_good());
    assert_eq!(status(&host), (0x8000, 0xffff));
    let inverted = (!0x1234_5678_u32).to_le_bytes();
    assert_eq!(host.driver.read_dma(0, 512), inverted.repeat(128));
    assert_eq!(host.driver.read_dma(16_383, 512), inverted.repeat(128));
    assert!(with_options(&host, overwrite, 1).is_good());
    assert_eq!(status(&host), (0x8000, 0xffff));
    assert_eq!(host.driver.read_dma(8000, 512), 0x1234_5678_u32.to_le_bytes().repeat(128));
}

#[test]
fn an_operation_goes_on_after_a_power_loss() {
    let store = MemoryStore::new();
    let first = host(&store);
    let hang = FaultRule { op: FaultOp::Write, skip: 3, ..FaultRule::new(Action::Hang) };
    first.fault.add(hang).unwrap();
    assert!(with_options(&first, (0x14, 0x4f57_a5a5_a5a5), 1).is_good());
    let (count, progress) = status(&first);
    // Three of eight MiB.
    assert_eq!((count, progress), (0x4000, 3 * 0x1_0000 / 8));
    for command in [IdeCommand::lba28(0x20, 0, 1), IdeCommand::lba28(0xe7, 0, 0)] {
        assert!(is_aborted(first.driver.plain(&command)), "{command:?}");
    }
    assert!(is_aborted(sanitize(&first, ERASE)), "there is one");
    let again = host(&store);
    assert_eq!(status(&again), (0x8000, 0xffff));
    assert_eq!(again.driver.read_dma(16_000, 512), [0xa5; 512]);
    first.fault.release(None).unwrap();
}

#[test]
fn a_failure_is_forgotten_only_where_that_was_agreed() {
    let fail = |host: &Host| {
        let error = Action::Error(BlockError::Unsupported);
        let op = FaultOp::WriteZeroes;
        host.fault.add(FaultRule { op, count: Some(1), ..FaultRule::new(error) }).unwrap();
    };
    let host = host(&MemoryStore::new());
    fail(&host);
    assert!(with_options(&host, ERASE, 0x10).is_good());
    assert!(is_aborted(host.driver.plain(&IdeCommand::lba28(0x20, 0, 1))));
    assert!(with_options(&host, (0, 0), 1).is_good());
    assert_eq!(host.driver.read_dma(0, 512), [0; 512], "it is forgotten");
    fail(&host);
    assert!(sanitize(&host, ERASE).is_good());
    assert!(with_options(&host, (0, 0), 1).is_good());
    assert!(is_aborted(host.driver.plain(&IdeCommand::lba28(0x20, 0, 1))), "it is not");
    assert!(is_aborted(with_options(&host, ERASE, 0x10)));
    assert!(sanitize(&host, ERASE).is_good());
    assert_eq!(status(&host), (0x8000, 0xffff));
}
