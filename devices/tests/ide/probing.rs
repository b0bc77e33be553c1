//! What is not there, as firmware and drivers look for it.

use spindle_devices::{ide::IdeError, testkit::driver::ide::IdeDriver};

use crate::{disk_config, machine_at};

/// Writes two registers and looks whether they hold it.
fn answers(driver: &IdeDriver) -> bool {
    driver.select();
    let mut holds = true;
    for (count, low) in [(0x55, 0xaa), (0xaa, 0x55), (0x55, 0xaa)] {
        driver.write(2, count);
        driver.write(3, low);
        holds = (driver.read(2), driver.read(3)) == (count, low);
    }
    holds
}

#[test]
fn an_empty_channel_floats() {
    let setup = machine_at(1 << 20, &[(0, 0)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 1);
    for drive in [0, 1] {
        driver.drive = drive;
        assert!(!answers(&driver));
        assert!((0..8).all(|register| driver.read(register) == 0x7f));
        assert_eq!((driver.alternate(), driver.read_data(2)), (0x7f, 0x7f7f));
        driver.write(7, 0xec);
        setup.machine.run();
        assert_eq!(driver.read(7), 0x7f);
        assert_eq!(setup.ide.wires[1].edges(), 0);
    }
}

#[test]
fn drive_0_answers_for_a_drive_1_that_is_not_there() {
    let setup = machine_at(1 << 20, &[(0, 0)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    assert!(answers(&driver));
    driver.drive = 1;
    assert!(answers(&driver), "it is drive 0 that answers");
    assert_eq!((driver.read(7), driver.alternate()), (0, 0), "but never with a status");
    assert_eq!(driver.read(6), 0xb0);
    for command in [0xec, 0xa1, 0x08, 0x20] {
        driver.write(7, command);
        setup.machine.run();
        assert_eq!((driver.read(7), driver.alternate()), (0, 0), "commands are not heard");
    }
    assert_eq!(setup.ide.wires[0].edges(), 0);
    // After a reset drive 0 has its signature, and drive 1 still no status.
    driver.set_control(4);
    setup.machine.run();
    driver.set_control(0);
    setup.machine.run();
    driver.select();
    assert_eq!((driver.read(1), driver.read(7)), (1, 0));
    driver.drive = 0;
    driver.select();
    assert_eq!((driver.read(1), driver.read(7)), (1, 0x50));
}

#[test]
fn drive_1_does_not_answer_for_a_drive_0_that_is_not_there() {
    let setup = machine_at(1 << 20, &[(1, 1)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 1);
    assert!(!answers(&driver));
    assert_eq!(driver.read(7), 0x7f);
    driver.drive = 1;
    assert!(answers(&driver));
    assert_eq!(driver.read(7), 0x50);
}

#[test]
fn a_place_holds_one_drive() {
    let setup = machine_at(1 << 20, &[(0, 1)]);
    let (root, _) = setup.machine.add_root("more", 1 << 20);
    let add = |channel, unit| setup.ide.device.add_disk(channel, unit, disk_config("x"), &root);
    assert!(matches!(add(0, 1), Err(IdeError::InUse { channel: 0, unit: 1, .. })));
    assert!(matches!(add(2, 0), Err(IdeError::NoSuchPlace { channel: 2, .. })));
    assert!(matches!(add(0, 2), Err(IdeError::NoSuchPlace { unit: 2, .. })));
    assert_eq!(add(1, 0), Ok(()));
}

#[test]
fn the_signature_of_each_kind_follows_a_reset() {
    let setup = machine_at(1 << 20, &[(0, 0), (0, 1)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    driver.drive = 1;
    driver.select();
    let end = driver.reset();
    assert_eq!((end.status, end.error), (0x50, 1));
    assert_eq!(driver.read(6) & 0x10, 0, "a reset selects drive 0");
    for drive in [0, 1] {
        driver.drive = drive;
        driver.write(6, drive << 4);
        let registers: Vec<u8> = (1..6).map(|register| driver.read(register)).collect();
        assert_eq!(registers, [1, 1, 1, 0, 0]);
    }
}
