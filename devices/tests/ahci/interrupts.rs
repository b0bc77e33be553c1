//! PxIS, PxIE, IS, GHC.IE; the wire and messages.

use std::rc::Rc;

use spindle_devices::{pci::Address, testkit::Machine};

use super::driver::{DHRS, Driver, P_IE, P_IS, Setup, ata, setup, setup_with};

/// Finds the MSI capability, and enables it with data 55h.
pub fn enable_msi(machine: &Rc<Machine>, at: Address) {
    let mut cap = machine.pci_read(at, 0x34, 1);
    while machine.pci_read(at, cap, 1) != 5 {
        cap = machine.pci_read(at, cap + 1, 1);
        assert_ne!(cap, 0, "no MSI");
    }
    machine.pci_write(at, cap + 4, 4, 0xfee0_0000);
    machine.pci_write(at, cap + 12, 2, 0x55);
    machine.pci_write(at, cap + 2, 2, 1);
}

fn flush(driver: &Driver) {
    driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
}

#[test]
fn the_wire_follows_three_enables() {
    let s = setup();
    let Setup { driver, controller, .. } = &s;
    driver.set_global(8, 0xffff_ffff);
    assert!(!controller.wire.level());
    flush(driver);
    assert!(controller.wire.level());
    assert_eq!((driver.get(P_IS), driver.global(8)), (DHRS, 1));
    // GHC.IE.
    driver.set_global(4, 0x8000_0000);
    assert!(!controller.wire.level());
    driver.set_global(4, 0x8000_0002);
    assert!(controller.wire.level());
    // IS comes back while the port is pending.
    driver.set_global(8, 1);
    assert!(controller.wire.level());
    driver.set(P_IS, DHRS);
    assert!(controller.wire.level(), "IS is sticky");
    driver.set_global(8, 1);
    assert!(!controller.wire.level());
    // PxIE.
    driver.set(P_IE, 0);
    flush(driver);
    assert_eq!((driver.get(P_IS), driver.global(8)), (DHRS, 0));
    assert!(!controller.wire.level());
    driver.set(P_IE, DHRS);
    assert!(controller.wire.level());
}

#[test]
fn a_message_for_each_time_that_something_is_new() {
    let s = setup();
    let Setup { machine, driver, controller, .. } = &s;
    driver.set_global(8, 0xffff_ffff);
    enable_msi(machine, controller.at);
    machine.irqs.take();
    flush(driver);
    assert_eq!(machine.irqs.take().len(), 1);
    assert!(!controller.wire.level());
    // Still pending: nothing new.
    flush(driver);
    assert_eq!(machine.irqs.take().len(), 0);
    // The port first, then IS, as drivers do it; and a port alone, as those with one message a
    // port do.
    driver.set(P_IS, DHRS);
    driver.set_global(8, 1);
    assert_eq!(machine.irqs.take().len(), 0);
    flush(driver);
    driver.set(P_IS, DHRS);
    flush(driver);
    assert_eq!(machine.irqs.take().len(), 2);
    assert_eq!(machine.irqs.stray(), 0);
}

#[test]
fn something_that_comes_between_the_acknowledgements_is_not_lost() {
    let s = setup();
    let Setup { machine, driver, controller, .. } = &s;
    driver.set_global(8, 0xffff_ffff);
    enable_msi(machine, controller.at);
    machine.irqs.take();
    flush(driver);
    machine.irqs.take();
    driver.set(P_IS, driver.get(P_IS));
    flush(driver);
    driver.set_global(8, 1);
    assert_eq!(driver.global(8), 1, "the port is pending");
    assert_eq!(machine.irqs.take().len(), 1);
}

#[test]
fn one_interrupt_for_what_ends_together() {
    let s = setup();
    let Setup { machine, driver, controller, .. } = &s;
    driver.set_global(8, 0xffff_ffff);
    enable_msi(machine, controller.at);
    let at = machine.memory.alloc(4096, 4096);
    for slot in 0..8u8 {
        let fis = super::driver::queued(0x60, 0, 1, slot);
        driver.place(slot, &fis, &[(at, 512, false)], 0);
    }
    driver.set(0x34, 0xff);
    driver.set(0x38, 0xff);
    machine.run();
    assert_eq!(driver.get(0x34), 0);
    assert_eq!(machine.irqs.take().len(), 1);
}

#[test]
fn without_msi_there_is_no_capability() {
    let s = setup_with(1, |config| config.msi = false, |_| ());
    let mut cap = s.machine.pci_read(s.controller.at, 0x34, 1);
    while cap != 0 {
        assert_ne!(s.machine.pci_read(s.controller.at, cap, 1), 5);
        cap = s.machine.pci_read(s.controller.at, cap + 1, 1);
    }
}
