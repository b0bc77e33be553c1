//! Resets, pauses, and cards that go, in the middle of things.

use spindle_devices::{Device, sd::CardConfig};

use super::{
    driver::{Data, Driver, Kind, Way, sd},
    pattern,
};

/// A read that is in flight below, and where its data will be.
fn in_flight(driver: &Driver) -> u64 {
    driver.write(Way::Adma2, 0, &[7; 4096]);
    let at = driver.machine.memory.alloc(4096, 4096);
    let table = driver.table(Way::Adma2, at, 4096, 4096);
    driver.set(0x28, 1, 0x10);
    driver.set(0x58, 4, table);
    driver.set(0x04, 4, 8 << 16 | 0x7200);
    driver.set(0x08, 4, 0);
    driver.set(0x0c, 2, 0x37);
    driver.set(0x0e, 2, 18 << 8 | 0x3a);
    driver.machine.turn();
    assert_eq!(driver.machine.world.in_flight(), 1);
    at
}

#[test]
fn a_reset_is_over_only_when_nothing_can_touch_memory() {
    for which in [1, 4, 6, 7] {
        let mut driver = sd(1 << 20);
        let at = in_flight(&driver);
        driver.set(0x2f, 1, which);
        driver.machine.turn();
        assert_eq!(driver.get(0x2f, 1), which, "done with a read in flight");
        driver.machine.run();
        assert_eq!((driver.get(0x2f, 1), driver.get(0x24, 4) & 0xb03), (0, 0));
        assert_eq!(driver.get(0x30, 4) & 2, 0, "nothing is told of it");
        driver.machine.memory.write(at, &[9; 4096]);
        if which & 1 != 0 {
            driver.power_on();
            driver.identify_sd();
        } else {
            driver.set(0x30, 4, 0xffff_ffff);
            driver.cmd(12, 0, Kind::Busy);
        }
        assert_eq!(driver.read(Way::Adma2, 0, 8), [7; 4096]);
        assert_eq!(driver.machine.memory.read(at, 4096), [9; 4096]);
    }
}

#[test]
fn a_reset_of_the_machine_waits_for_the_same() {
    let mut driver = sd(1 << 20);
    in_flight(&driver);
    let function = driver.sdhci.function();
    driver.machine.finish(|done| function.reset(done));
    assert_eq!(driver.machine.world.in_flight(), 0);
    assert!(!driver.wire.level());
    driver.machine.pci_write(driver.at, 0x10, 4, driver.base);
    driver.machine.pci_write(driver.at, 4, 2, 6);
    assert_eq!((driver.get(0x28, 1), driver.get(0x30, 4), driver.get(0x58, 4)), (0, 0, 0));
    driver.power_on();
    driver.identify_sd();
    assert_eq!(driver.read(Way::Sdma, 0, 8), [7; 4096]);
}

#[test]
fn a_paused_machine_can_be_reset() {
    let driver = sd(1 << 20);
    let function = driver.sdhci.function();
    driver.machine.finish(|done| function.pause(done));
    driver.machine.finish(|done| function.reset(done));
    function.resume();
}

#[test]
fn a_pause_waits_and_a_resume_goes_on() {
    let driver = sd(1 << 20);
    in_flight(&driver);
    let function = driver.sdhci.function();
    driver.machine.finish(|done| function.pause(done));
    assert_eq!(driver.machine.world.in_flight(), 0);
    driver.status();
    driver.set(0x08, 4, driver.rca.into());
    driver.set(0x0e, 2, 13 << 8 | 0x1a);
    driver.machine.run();
    assert_eq!((driver.get(0x30, 2), driver.get(0x24, 4) & 1), (0, 1), "paused");
    function.resume();
    driver.machine.run();
    assert_eq!((driver.get(0x30, 2), driver.get(0x24, 4) & 1), (1, 0));
}

#[test]
fn a_card_may_go_in_the_middle_of_a_transfer() {
    let mut driver = sd(1 << 20);
    in_flight(&driver);
    driver.machine.finish(|done| {
        driver.sdhci.remove(done);
        driver.machine.turn();
        assert_eq!(driver.get(0x24, 4) >> 16 & 1, 1, "gone with a read in flight");
    });
    assert_eq!(driver.machine.world.in_flight(), 0);
    let (normal, error) = driver.status();
    assert_eq!((normal & 0x80, error), (0x80, 0x10));
    assert_eq!(driver.get(0x24, 4) & 3, 0);
    // Another one comes.
    driver.insert(CardConfig::sd(1 << 20));
    driver.status();
    driver.power_on();
    driver.identify_sd();
    assert_eq!(driver.read(Way::Port, 0, 8), [7; 4096]);
}

#[test]
fn dma_waits_for_the_bus_master_bit() {
    let driver = sd(1 << 20);
    driver.write(Way::Adma2, 0, &pattern(1, 512));
    driver.machine.pci_write(driver.at, 4, 2, 2);
    let at = driver.machine.memory.alloc(512, 512);
    driver.start(17, 0, Data::read(Way::Adma2, 1), at);
    assert_eq!(driver.get(0x30, 4), 0);
    driver.machine.pci_write(driver.at, 4, 2, 6);
    driver.machine.run();
    assert_eq!(driver.status(), (3, 0));
    assert_eq!(driver.machine.memory.read(at, 512), pattern(1, 512));
    // The data port needs none.
    driver.machine.pci_write(driver.at, 4, 2, 2);
    assert_eq!(driver.read(Way::Port, 0, 1), pattern(1, 512));
}
