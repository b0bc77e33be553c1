//! SMART (ACS-3, 4.20) and device statistics.

use spindle_block::{
    BlockError,
    nodes::fault::{Action, FaultOp, FaultRule},
};
use spindle_devices::{state_file::MemoryStore, testkit::driver::ide::IdeCommand};

use crate::{Host, host, is_aborted, sum};

fn smart(feature: u16, low: u64, count: u16) -> IdeCommand {
    IdeCommand {
        command: 0xb0,
        features: feature,
        count,
        lba: 0xc2_4f00 | low,
        ..IdeCommand::default()
    }
}

fn page(host: &Host, command: &IdeCommand) -> Vec<u8> {
    let (end, data) = host.driver.pio_in(command, 512, 512);
    assert!(end.is_good(), "{command:?}");
    data
}

/// Value, threshold and raw value of an attribute.
fn attribute(host: &Host, id: u8) -> (u8, u8, u64) {
    let (data, thresholds) = (page(host, &smart(0xd0, 0, 0)), page(host, &smart(0xd1, 0, 0)));
    assert_eq!((sum(&data), sum(&thresholds)), (0, 0), "checksums");
    let at = (2..362).step_by(12).find(|at| data[*at] == id).unwrap();
    assert_eq!(thresholds[at], id);
    let raw = data[at + 5..at + 11].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
    (data[at + 3], thresholds[at + 1], raw)
}

#[test]
fn attributes_count_what_happened() {
    let store = MemoryStore::new();
    let host = host(&store);
    assert_eq!(attribute(&host, 12).2, 1, "power cycles");
    let (written, read) = (attribute(&host, 241).2, attribute(&host, 242).2);
    assert!(host.driver.write_dma(0, &[1; 4096]).0.is_good());
    assert_eq!(host.driver.read_dma(0, 8192).len(), 8192);
    assert_eq!(attribute(&host, 241).2, written + 8);
    assert_eq!(attribute(&host, 242).2, read + 16);
    for id in [1, 5, 9, 12, 197, 198, 199, 241, 242] {
        let (value, threshold, _) = attribute(&host, id);
        assert!(value > threshold, "attribute {id}");
    }
    // The status of a drive that is well: the key as it went.
    assert!(host.driver.plain(&smart(0xda, 0, 0)).is_good());
    assert_eq!(host.lba28() >> 8 & 0xffff, 0xc24f);
}

#[test]
fn smart_is_switched_off_and_on_over_a_power_loss() {
    let store = MemoryStore::new();
    let first = host(&store);
    assert_eq!(first.identify(82) & 1, 1);
    assert_eq!(first.identify(85) & 1, 1);
    assert!(first.driver.plain(&smart(0xd9, 0, 0)).is_good());
    let again = host(&store);
    assert_eq!(again.identify(85) & 1, 0);
    for feature in [0xd0, 0xd1, 0xd2, 0xd4, 0xd5, 0xd9, 0xda] {
        assert!(is_aborted(again.driver.plain(&smart(feature, 1, 1))), "{feature:#x}");
    }
    assert!(again.driver.plain(&smart(0xd8, 0, 0)).is_good());
    assert_eq!(attribute(&again, 12).2, 2, "a second power cycle");
    assert_eq!(host(&store).identify(85) & 1, 1);
}

#[test]
fn commands_without_the_key_or_with_other_features_are_aborted() {
    let host = host(&MemoryStore::new());
    for command in [
        IdeCommand { lba: 0, ..smart(0xd0, 0, 0) },
        smart(0xd3, 0, 0),
        smart(0xd7, 0, 0),
        smart(0xd2, 0, 1),
        smart(0xd4, 3, 0),
        smart(0xd5, 0xe0, 1),
        smart(0xd5, 6, 2),
        smart(0xd5, 0x80, 17),
        smart(0xd4, 0x80, 0),
        smart(0xd4, 4, 0),
        smart(0xd5, 6, 0),
    ] {
        assert!(is_aborted(host.driver.plain(&command)), "{command:?}");
    }
    assert!(host.driver.plain(&smart(0xd2, 0, 0xf1)).is_good());
    assert!(host.driver.plain(&smart(0xd2, 0, 0)).is_good());
}

#[test]
fn self_tests_read_the_medium_and_are_logged() {
    let store = MemoryStore::new();
    let first = host(&store);
    let reads = attribute(&first, 242).2;
    assert!(first.driver.plain(&smart(0xd4, 1, 0)).is_good());
    let log = page(&first, &smart(0xd5, 6, 1));
    assert_eq!(sum(&log), 0);
    assert_eq!((log[508], log[2], log[3] >> 4), (1, 1, 0), "a short test that passed");
    assert!(first.driver.plain(&smart(0xd4, 0x82, 0)).is_good());
    let log = page(&first, &smart(0xd5, 6, 1));
    assert_eq!((log[508], log[26], log[27] >> 4), (2, 0x82, 0));
    let _ = reads;
    // A medium that cannot be read.
    let rule = FaultRule {
        op: FaultOp::Read,
        offset: 8 * 512,
        length: Some(512),
        ..FaultRule::new(Action::Error(BlockError::Medium))
    };
    first.fault.add(rule).unwrap();
    assert!(first.driver.plain(&smart(0xd4, 1, 0)).is_good(), "not captive: the log tells");
    let end = first.driver.plain(&smart(0xd4, 0x81, 0));
    assert_eq!((end.status & 1, end.error), (1, 4));
    assert_eq!(first.lba28() >> 8 & 0xffff, 0x2cf4, "captive: it failed");
    // The log survives.
    let again = host(&store);
    let log = page(&again, &smart(0xd5, 6, 1));
    assert_eq!((log[508], log[2 + 48 + 1] >> 4, log[2 + 72 + 1] >> 4), (4, 7, 7));
    assert_eq!(page(&again, &smart(0xd0, 0, 0))[363] >> 4, 7, "the last one failed");
    assert!(attribute(&again, 1).2 >= 2, "read errors");
    assert!(again.driver.plain(&smart(0xd4, 0x7f, 0)).is_good(), "none to abort");
    // The directory, and how many errors there were.
    let directory = page(&again, &smart(0xd5, 0, 1));
    assert_eq!((directory[0], directory[2], directory[12]), (1, 1, 1));
    let errors = page(&again, &smart(0xd5, 1, 1));
    assert_eq!((sum(&errors), errors[452]), (0, attribute(&again, 1).2 as u8));
}

#[test]
fn the_log_of_self_tests_keeps_the_last_ones() {
    let host = host(&MemoryStore::new());
    for _ in 0..23 {
        assert!(host.driver.plain(&smart(0xd4, 1, 0)).is_good());
    }
    assert_eq!(page(&host, &smart(0xd5, 6, 1))[508], 21);
}

#[test]
fn device_statistics_are_in_their_log() {
    let host = host(&MemoryStore::new());
    assert!(host.driver.write_dma(0, &[1; 512]).0.is_good());
    let log = |page: u64| IdeCommand {
        command: 0x2f,
        count: 1,
        lba: page << 8 | 4,
        wide: true,
        ..IdeCommand::default()
    };
    let list = page(&host, &log(0));
    assert_eq!((list[8], &list[9..14]), (5, &[0, 1, 4, 6, 7][..]));
    let general = page(&host, &log(1));
    let qword = |at: usize| u64::from_le_bytes(general[at..at + 8].try_into().unwrap());
    assert_eq!(qword(0), 0x1_0001);
    assert_eq!(qword(8), 3 << 62 | 1, "power-on resets");
    assert_eq!((qword(24), qword(32)), (3 << 62 | 1, 3 << 62 | 1), "one sector by one command");
    assert_eq!(page(&host, &log(4))[2], 4);
    assert_eq!(page(&host, &log(5)), [0; 512], "there is no such page");
    assert!(host.driver.reset().is_good());
    let link = page(&host, &log(6));
    assert_eq!((link[2], link[15] >> 6), (6, 3), "hardware resets");
    assert_eq!(page(&host, &log(7))[15] >> 5, 0b111, "percentage used, normalized");
    assert!(is_aborted(host.driver.plain(&log(8))));
    // It is in the directory of logs.
    assert_eq!(page(&host, &IdeCommand { lba: 0, ..log(0) })[8], 8);
}

/// The status of self-tests and of off-line data collection.
fn statuses(host: &Host) -> (u8, u8) {
    let data = page(host, &smart(0xd0, 0, 0));
    (data[363], data[362])
}

#[test]
fn a_test_goes_on_beside_commands_until_it_is_aborted() {
    let store = MemoryStore::new();
    let host = host(&store);
    let hang = FaultRule { op: FaultOp::Read, skip: 6, ..FaultRule::new(Action::Hang) };
    let rule = host.fault.add(hang).unwrap();
    assert!(host.driver.plain(&smart(0xd4, 1, 0)).is_good());
    // 6 of 12 steps are done.
    assert_eq!(statuses(&host).0, 0xf5);
    assert!(host.driver.write_dma(100, &[1; 512]).0.is_good());
    assert_eq!(page(&host, &smart(0xd5, 6, 1))[508], 0, "it is not in the log yet");
    assert!(host.driver.plain(&smart(0xd4, 0x7f, 0)).is_good());
    assert_eq!(statuses(&host).0, 0x10, "aborted by the host");
    // The step that hangs belongs to nobody; the next test waits for it.
    assert!(host.driver.plain(&smart(0xd4, 2, 0)).is_good());
    assert_eq!(statuses(&host).0 >> 4, 0xf);
    host.fault.delete(&rule).unwrap();
    host.driver.machine.run();
    assert_eq!(statuses(&host).0, 0, "passed");
    let log = page(&host, &smart(0xd5, 6, 1));
    assert_eq!((log[508], log[2], log[3] >> 4, log[26], log[27] >> 4), (2, 1, 1, 2, 0));
}

#[test]
fn a_reset_and_standby_end_a_test() {
    let host = host(&MemoryStore::new());
    let result = |host: &Host, number: usize| {
        let log = page(host, &smart(0xd5, 6, 1));
        assert_eq!(usize::from(log[508]), number);
        log[2 + (number - 1) * 24 + 1] >> 4
    };
    let hang = |host: &Host| {
        let rule = FaultRule { op: FaultOp::Read, ..FaultRule::new(Action::Hang) };
        let rule = host.fault.add(rule).unwrap();
        assert!(host.driver.plain(&smart(0xd4, 1, 0)).is_good());
        rule
    };
    let rule = hang(&host);
    assert!(host.plain(0xe0).is_good());
    assert_eq!(result(&host, 1), 1, "standby: aborted");
    host.fault.delete(&rule).unwrap();
    host.driver.machine.run();
    let rule = hang(&host);
    host.driver.set_control(4);
    host.driver.machine.run();
    host.driver.set_control(0);
    host.driver.machine.run();
    assert_eq!(host.driver.alternate() >> 7, 1, "the reset waits for the step");
    host.fault.delete(&rule).unwrap();
    host.driver.machine.run();
    assert_eq!(result(&host, 2), 2, "interrupted by the reset");
}

#[test]
fn a_selective_test_reads_its_spans() {
    let store = MemoryStore::new();
    let first = host(&store);
    let mut log = [0; 512];
    log[0] = 1;
    for (at, lba) in [(2, 100_u64), (10, 199), (18, 8000), (26, 8999)] {
        log[at..at + 8].copy_from_slice(&lba.to_le_bytes());
    }
    let write = |host: &Host, log: &[u8]| host.driver.pio_out(&smart(0xd6, 9, 1), log, 512);
    assert!(is_aborted(write(&first, &log)), "the checksum");
    log[511] = 0_u8.wrapping_sub(sum(&log));
    assert!(write(&first, &log).is_good());
    let bad = |lba: u64| FaultRule {
        op: FaultOp::Read,
        offset: lba * 512,
        length: Some(512),
        ..FaultRule::new(Action::Error(BlockError::Medium))
    };
    first.fault.add(bad(200)).unwrap();
    first.fault.add(bad(7999)).unwrap();
    for test in [4, 0x84] {
        assert!(first.driver.plain(&smart(0xd4, test, 0)).is_good(), "{test:#x}");
        assert_eq!(statuses(&first).0, 0, "{test:#x}: nothing else is read");
    }
    first.fault.add(bad(8500)).unwrap();
    assert!(first.driver.plain(&smart(0xd4, 4, 0)).is_good());
    assert_eq!(statuses(&first).0, 0x70);
    let shown = page(&first, &smart(0xd5, 9, 1));
    assert_eq!((sum(&shown), &shown[2..34]), (0, &log[2..34]));
    assert_eq!(shown[500], 2, "in the second span");
    let again = host(&store);
    assert_eq!(page(&again, &smart(0xd5, 9, 1))[2..34], log[2..34], "spans are kept");
    // A span beyond the end.
    log[26..34].copy_from_slice(&(crate::SIZE / 512).to_le_bytes());
    log[511] = 0;
    log[511] = 0_u8.wrapping_sub(sum(&log));
    assert!(write(&again, &log).is_good());
    assert!(is_aborted(again.driver.plain(&smart(0xd4, 4, 0))));
}

#[test]
fn data_are_collected_off_line() {
    let host = host(&MemoryStore::new());
    assert_eq!(statuses(&host), (0, 0));
    let hang = FaultRule { op: FaultOp::Read, ..FaultRule::new(Action::Hang) };
    let rule = host.fault.add(hang).unwrap();
    assert!(host.driver.plain(&smart(0xd4, 0, 0)).is_good());
    assert_eq!(statuses(&host), (0, 3), "in progress");
    host.fault.delete(&rule).unwrap();
    host.driver.machine.run();
    assert_eq!(statuses(&host), (0, 2), "completed");
    assert_eq!(page(&host, &smart(0xd5, 6, 1))[508], 0, "it is no test");
}

#[test]
fn sectors_that_were_marked_fail_a_test() {
    let host = host(&MemoryStore::new());
    let mark = IdeCommand { features: 0x55, ..IdeCommand::lba48(0x45, 10, 1) };
    assert!(host.driver.plain(&mark).is_good());
    assert!(host.driver.plain(&smart(0xd4, 1, 0)).is_good());
    assert_eq!(statuses(&host).0, 0x70);
    assert_eq!(page(&host, &smart(0xd5, 6, 1))[7], 10);
    let end = host.driver.plain(&smart(0xd4, 0x81, 0));
    assert_eq!((end.status & 1, end.error, host.lba28() >> 8 & 0xffff), (1, 4, 0x2cf4));
}

#[test]
fn the_extended_logs_are_read_by_read_log_ext() {
    let host = host(&MemoryStore::new());
    for _ in 0..21 {
        assert!(host.driver.plain(&smart(0xd4, 1, 0)).is_good());
    }
    assert!(host.driver.plain(&smart(0xd4, 0x82, 0)).is_good());
    let log = |address: u64| {
        let read = IdeCommand::lba48(0x2f, address, 1);
        let bytes = page(&host, &read);
        assert_eq!(sum(&bytes), 0, "{address:#x}");
        bytes
    };
    let tests = log(7);
    assert_eq!((tests[0], tests[2], tests[4 + 18 * 26]), (1, 19, 0x82), "the last one is there");
    let errors = log(3);
    assert_eq!((errors[0], errors[2], errors[500]), (1, 0, 0));
}
