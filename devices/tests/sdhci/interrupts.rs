//! The interrupt output: what raises it and what lowers it.

use super::driver::{Data, Kind, Way, controller, sd};
use spindle_devices::sd::CardConfig;

#[test]
fn the_wire_is_status_and_signal() {
    let driver = sd(1 << 20);
    driver.set(0x08, 4, driver.rca.into());
    driver.set(0x0e, 2, 13 << 8 | 0x1a);
    driver.machine.run();
    assert_eq!((driver.wire.level(), driver.get(0xfc, 2)), (true, 1));
    driver.set(0x38, 2, 0);
    assert!(!driver.wire.level(), "not signalled");
    driver.set(0x38, 2, 1);
    assert!(driver.wire.level());
    driver.set(0x30, 2, 1);
    assert_eq!((driver.wire.level(), driver.get(0xfc, 2)), (false, 0));
}

#[test]
fn what_is_not_enabled_is_not_latched() {
    let driver = sd(1 << 20);
    driver.set(0x34, 2, 0);
    driver.set(0x08, 4, driver.rca.into());
    driver.set(0x0e, 2, 13 << 8 | 0x1a);
    driver.machine.run();
    driver.set(0x34, 2, 0xff);
    assert_eq!((driver.get(0x30, 2), driver.get(0x24, 4) & 1), (0, 0));
    assert!(!driver.wire.level());
    // And disabling takes away what was latched.
    driver.set(0x0e, 2, 13 << 8 | 0x1a);
    driver.machine.run();
    assert_eq!(driver.get(0x30, 2), 1);
    driver.set(0x34, 2, 0xfe);
    assert_eq!(driver.get(0x30, 2), 0);
}

#[test]
fn an_error_is_summed_up_in_the_normal_status() {
    let driver = controller(1 << 20, |_| ());
    driver.insert(CardConfig::sd(1 << 20));
    driver.power_on();
    assert_eq!(driver.try_cmd(17, 0, Kind::Short), Err(1), "no answer in idle");
    assert_eq!(driver.get(0x30, 4), 0);
}

#[test]
fn a_message_is_sent_for_each_time_the_output_is_up() {
    let driver = sd(1 << 20);
    let at = driver.machine.pci_read(driver.at, 0x34, 1);
    let capability = (0..8)
        .scan(at, |at, _| {
            let now = *at;
            *at = driver.machine.pci_read(driver.at, now + 1, 1);
            (now != 0).then_some(now)
        })
        .find(|at| driver.machine.pci_read(driver.at, *at, 1) == 5)
        .expect("MSI");
    driver.machine.pci_write(driver.at, capability + 4, 4, 0xfee0_0000);
    driver.machine.pci_write(driver.at, capability + 12, 2, 0x4041);
    driver.machine.pci_write(driver.at, capability + 2, 2, 1);
    let before = driver.wire.edges();
    driver.card_status();
    let messages = driver.machine.irqs.take();
    assert_eq!(messages.iter().map(|m| m.data).collect::<Vec<_>>(), [0x4041]);
    assert_eq!((driver.wire.edges(), driver.machine.irqs.stray()), (before, 0));
}

#[test]
fn command_and_data_are_told_by_one_interrupt() {
    let driver = sd(1 << 20);
    for way in [Way::Sdma, Way::Adma2, Way::Adma2Wide] {
        let before = driver.wire.edges();
        let at = driver.machine.memory.alloc(4096, 4096);
        driver.start(18, 0, Data::read(way, 8), at);
        assert_eq!((driver.get(0x30, 2), driver.wire.edges() - before), (3, 1), "{way:?}");
        driver.status();
    }
}

/// What Linux does for a read of 4 KiB costs this many accesses that leave the guest.
#[test]
fn a_read_of_4_kib_costs_few_exits() {
    let mut driver = sd(4 << 30);
    driver.use_four_lines();
    let at = driver.machine.memory.alloc(4096, 4096);
    let table = driver.table(Way::Adma2, at, 4096, 4096);
    driver.set(0x28, 1, 0x12);
    let bus = std::sync::Arc::clone(&driver.machine.bus);
    let before = bus.traps();
    assert_eq!(driver.get(0x24, 4) & 3, 0);
    let control = driver.get(0x28, 1);
    driver.set(0x28, 1, control);
    driver.set(0x58, 4, table);
    driver.set(0x5c, 4, 0);
    driver.go(18, 0, Data { auto: 2, ..Data::read(Way::Adma2, 8) });
    assert_eq!(driver.get(0x30, 4), 3);
    driver.set(0x30, 4, 3);
    driver.response();
    assert_eq!(driver.get(0x30, 4), 0);
    assert_eq!(bus.traps() - before, 8);
}

#[test]
fn insertion_and_removal_are_told() {
    let driver = controller(1 << 20, |_| ());
    driver.power_on();
    driver.insert(CardConfig::sd(1 << 20));
    assert_eq!((driver.get(0x30, 2), driver.wire.level()), (0x40, true));
    assert_eq!(driver.get(0x24, 4) >> 16 & 0xf, 0xf);
    driver.status();
    driver.machine.finish(|done| driver.sdhci.remove(done));
    assert_eq!((driver.get(0x30, 2), driver.get(0x24, 4) >> 16 & 0xf), (0x80, 2));
    assert_eq!(driver.get(0x29, 1), 0x0e, "power goes with the card");
}
