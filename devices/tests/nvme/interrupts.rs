//! MSI-X, the wire, masks, and one interrupt a pass.

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{driver, machine};

fn data(driver: &NvmeDriver) -> Vec<u32> {
    driver.machine.irqs.take().iter().map(|message| message.data).collect()
}

#[test]
fn each_queue_has_its_vector() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.create_cq(2, 8, 5);
    driver.create_sq(2, 8, 2);
    data(&driver);
    driver.read(1, 1, 0, 1, 512);
    assert_eq!(data(&driver), [101]);
    driver.read(2, 1, 0, 1, 512);
    assert_eq!(data(&driver), [105]);
    driver.identify(1, 0, 0, 0);
    assert_eq!(data(&driver), [100]);
    assert_eq!(setup.machine.irqs.stray(), 0);
    assert!(!setup.disk.wire.level());
}

#[test]
fn a_queue_without_interrupts_raises_none() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let cq = driver.new_cq(2, 8);
    assert_eq!(driver.admin(NvmeDriver::create_cq_cmd(&cq, 2).dw(11, 1)).status, 0);
    driver.cqs.push(cq);
    driver.create_sq(2, 8, 2);
    data(&driver);
    driver.read(2, 1, 0, 1, 512);
    assert!(data(&driver).is_empty());
}

#[test]
fn completions_of_one_pass_raise_one_interrupt() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    data(&driver);
    // They are answered on the spot: in the pass that takes them.
    for _ in 0..10 {
        driver.submit(1, Cmd::new(0x02, 7));
    }
    driver.ring(1);
    setup.machine.run();
    assert_eq!(data(&driver), [101]);
    assert_eq!((0..10).filter(|_| driver.take(1).is_some()).count(), 10);
}

#[test]
fn the_wire_is_up_while_something_is_to_be_consumed() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.enable(8);
    let wire = &setup.disk.wire;
    let cq = driver.new_cq(1, 8);
    assert_eq!(driver.admin(NvmeDriver::create_cq_cmd(&cq, 1)).status, 0x108, "one vector");
    driver.create_cq(1, 8, 0);
    driver.create_sq(1, 8, 1);
    assert!(!wire.level(), "all consumed");
    let buffer = driver.alloc(512);
    for _ in 0..2 {
        driver.submit(1, Cmd::new(0x02, 1).data(buffer.prp1, 0).blocks(0, 1));
    }
    driver.ring(1);
    setup.machine.run();
    assert!(wire.level());
    // INTMS masks, INTMC brings it back.
    driver.set(0x0c, 4, 1);
    assert!(!wire.level());
    driver.set(0x10, 4, 1);
    assert!(wire.level());
    driver.take(1).unwrap();
    assert!(wire.level(), "one is left");
    driver.take(1).unwrap();
    assert!(!wire.level());
    assert!(setup.machine.irqs.take().is_empty());
}

#[test]
fn the_wire_falls_with_shadow_doorbells_too() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.enable(8);
    driver.create_cq(1, 8, 0);
    driver.create_sq(1, 8, 1);
    driver.use_shadows();
    let buffer = driver.alloc(512);
    for round in 0..40 {
        driver.submit(1, Cmd::new(0x02, 1).data(buffer.prp1, 0).blocks(0, 1));
        driver.ring(1);
        setup.machine.run();
        assert!(setup.disk.wire.level(), "round {round}");
        driver.take(1).unwrap();
        assert!(!setup.disk.wire.level(), "round {round}");
    }
}

#[test]
fn a_deleted_queue_leaves_the_wire() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.enable(8);
    driver.create_cq(1, 8, 0);
    driver.create_sq(1, 8, 1);
    driver.submit(1, Cmd::new(0x02, 9));
    driver.ring(1);
    setup.machine.run();
    assert!(setup.disk.wire.level());
    assert_eq!(driver.admin(Cmd::new(0x00, 0).dw(10, 1)).status, 0);
    assert_eq!(driver.admin(Cmd::new(0x04, 0).dw(10, 1)).status, 0);
    assert!(!setup.disk.wire.level());
}

#[test]
fn a_reset_takes_the_wire_down() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.enable(8);
    driver.submit(0, Cmd::new(0x06, 0).dw(10, 0xff));
    driver.ring(0);
    setup.machine.run();
    assert!(setup.disk.wire.level());
    driver.disable();
    assert!(!setup.disk.wire.level());
}

/// The offset of the MSI capability.
fn msi(driver: &NvmeDriver) -> u64 {
    let read = |at| driver.machine.pci_read(driver.address, at, 1);
    let mut at = read(0x34);
    while read(at) != 0x05 {
        at = read(at + 1);
        assert_ne!(at, 0, "no MSI");
    }
    at
}

/// Enables MSI with 2 to the power of `log` vectors and data 40h.
fn enable_msi(driver: &NvmeDriver, log: u64) {
    let at = msi(driver);
    let write = |offset, width, value| {
        driver.machine.pci_write(driver.address, at + offset, width, value);
    };
    write(4, 4, 0xfee0_0000);
    write(8, 4, 0);
    write(12, 2, 0x40);
    write(2, 2, log << 4 | 1);
}

#[test]
fn msi_is_there_with_as_many_vectors_as_it_can_have() {
    let setup = machine(1 << 20, |config| config.max_ioqpairs = 64);
    let driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    let at = msi(&driver);
    let control = |driver: &NvmeDriver| driver.machine.pci_read(driver.address, at + 2, 2);
    assert_eq!(control(&driver), 5 << 1 | 1 << 7, "32 vectors, 64 bits");
    driver.machine.pci_write(driver.address, at + 2, 2, 0xffff);
    assert_eq!(control(&driver), 7 << 4 | 5 << 1 | 1 << 7 | 1);
    driver.machine.pci_write(driver.address, at + 4, 4, 0xffff_ffff);
    assert_eq!(driver.machine.pci_read(driver.address, at + 4, 4), 0xffff_fffc);
}

#[test]
fn each_queue_has_its_msi_vector_as_far_as_they_go() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    enable_msi(&driver, 2);
    driver.enable(8);
    for id in 1..=3 {
        driver.create_pair(id, 8);
    }
    let cq = driver.new_cq(4, 8);
    assert_eq!(driver.admin(NvmeDriver::create_cq_cmd(&cq, 4)).status, 0x108, "four vectors");
    data(&driver);
    for id in 1..=3u16 {
        driver.read(id, 1, 0, 1, 512);
        assert_eq!(data(&driver), [0x40 + u32::from(id)]);
    }
    driver.identify(1, 0, 0, 0);
    assert_eq!(data(&driver), [0x40]);
    assert!(!setup.disk.wire.level(), "a function that uses MSI leaves its wire alone");
    assert_eq!(setup.machine.irqs.stray(), 0);
}

#[test]
fn a_masked_msi_waits_and_comes_once() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    enable_msi(&driver, 1);
    driver.enable(8);
    driver.create_pair(1, 8);
    data(&driver);
    driver.set(0x0c, 4, 2);
    driver.read(1, 1, 0, 1, 512);
    driver.read(1, 1, 0, 1, 512);
    assert!(data(&driver).is_empty());
    driver.set(0x10, 4, 2);
    assert_eq!(data(&driver), [0x41]);
    driver.set(0x10, 4, 2);
    assert!(data(&driver).is_empty());
}

#[test]
fn msi_x_replaces_msi_and_the_wire_comes_back_after_both() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    enable_msi(&driver, 0);
    driver.enable_msix();
    driver.enable(8);
    driver.create_pair(1, 8);
    data(&driver);
    driver.read(1, 1, 0, 1, 512);
    assert_eq!(data(&driver), [101]);
    setup.machine.reset(setup.disk.at);
    setup.machine.assign();
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.enable(8);
    driver.submit(0, Cmd::new(0x06, 0).dw(10, 0xff));
    driver.ring(0);
    setup.machine.run();
    assert!(setup.disk.wire.level());
    assert!(data(&driver).is_empty());
    assert_eq!(setup.machine.irqs.stray(), 0);
}
