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

fn sanitize(host: &Host, (feature, lba): (u16, u64)) -> IdeEnd {
    host.driver.plain(&IdeCommand { features: feature, ..IdeCommand::lba48(0xb4, lba, 0) })
}

#[test]
fn a_block_erase_leaves_nothing() {
    let store = MemoryStore::new();
    let host = host(&store);
    assert_eq!(host.identify(59) >> 12 & 0xd, 0b1001, "block erase only");
    assert!(host.driver.write_dma(0, &[7; 4096]).0.is_good());
    assert!(host.driver.write_dma(16_000, &[7; 4096]).0.is_good());
    assert!(is_aborted(sanitize(&host, (0x12, 1))), "not without the key");
    assert!(sanitize(&host, (0, 0)).is_good());
    assert_eq!(host.count(), 0, "there was none");
    assert!(sanitize(&host, ERASE).is_good());
    assert_eq!((host.count(), host.lba48()), (0x8000, 0xffff), "succeeded");
    assert_eq!(host.driver.read_dma(0, 4096), [0; 4096]);
    assert_eq!(host.driver.read_dma(16_000, 4096), [0; 4096]);
    let again = crate::host(&store);
    assert!(sanitize(&again, (0, 0)).is_good());
    assert_eq!(again.count(), 0x8000);
    for other in [(0x11, 0x4372_7970), (0x14, 0x4f57_0000_0000), (0x99, 0)] {
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
    assert!(is_aborted(sanitize(&first, ERASE)));
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
