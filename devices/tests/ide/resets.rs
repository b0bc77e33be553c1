//! SRST, DEVICE RESET, diagnostics and the function's reset, at rest and in the middle of things.

use spindle_devices::testkit::driver::ide::{IdeCommand, IdeDriver};

use crate::{machine_at, one_disk, pattern};

#[test]
fn a_software_reset_lasts_as_long_as_its_bit() {
    let (driver, setup) = one_disk(1 << 20);
    driver.set_control(4);
    assert_eq!(driver.alternate(), 0x80);
    setup.machine.run();
    assert_eq!(driver.alternate(), 0x80);
    driver.write(7, 0xec);
    setup.machine.run();
    assert_eq!(driver.alternate(), 0x80, "no command is heard");
    driver.set_control(0);
    assert_eq!(driver.alternate(), 0x80);
    setup.machine.run();
    assert_eq!((driver.alternate(), driver.read(1)), (0x50, 1));
    assert_eq!(setup.ide.wires[0].edges(), 0, "a reset does not interrupt");
}

#[test]
fn a_reset_in_the_middle_of_a_read_is_over_when_memory_is_left_alone() {
    let (driver, setup) = one_disk(1 << 20);
    assert!(driver.write_dma(0, &pattern(1, 512)).0.is_good());
    let edges = setup.ide.wires[0].edges();
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, 0x8000)]);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.turn();
    assert_eq!(setup.machine.world.in_flight(), 1);
    driver.set_control(4);
    setup.machine.turn();
    driver.set_control(0);
    setup.machine.turn();
    assert_eq!(driver.alternate(), 0x80, "the kernel still has the memory");
    setup.machine.run();
    assert_eq!((driver.alternate(), driver.read(1)), (0x50, 1));
    assert_eq!(setup.ide.wires[0].edges(), edges, "nobody hears of the command");
    // From now on the memory is the guest's.
    setup.machine.memory.write(at, &[0x11; 512]);
    setup.machine.run();
    assert_eq!(setup.machine.memory.read(at, 512), [0x11; 512]);
    assert_eq!(driver.read_bm(2, 1) & 5, 0);
    driver.write_bm(0, 1, 0);
    assert_eq!(driver.read_dma(0, 512), pattern(1, 512));
}

#[test]
fn a_reset_in_the_middle_of_pio_forgets_the_data() {
    let (driver, setup) = one_disk(1 << 20);
    for command in [IdeCommand::lba28(0x20, 0, 4), IdeCommand::lba28(0x30, 0, 4)] {
        driver.issue(&command);
        setup.machine.run();
        for _ in 0..100 {
            let _ = driver.read_data(2);
            driver.write_data(2, 0xffff);
        }
        let end = driver.reset();
        assert_eq!((end.status, end.error), (0x50, 1));
        assert_eq!(driver.read_data(2), 0);
    }
    assert_eq!(driver.read_dma(0, 512), [0; 512], "half a block was not written");
    // A block that was complete, and is being written.
    driver.issue(&IdeCommand::lba28(0x30, 0, 2));
    setup.machine.run();
    (0..256).for_each(|_| driver.write_data(2, 0x5555));
    setup.machine.turn();
    let end = driver.reset();
    assert_eq!((end.status, end.error), (0x50, 1));
    assert_eq!(driver.read_dma(0, 512), [0x55; 512]);
}

#[test]
fn a_reset_reaches_both_drives_of_one_channel() {
    let setup = machine_at(1 << 20, &[(0, 0), (0, 1), (1, 0)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    let other = IdeDriver::new(&setup.machine, setup.ide.at, 1);
    other.issue(&IdeCommand::lba28(0x20, 0, 1));
    setup.machine.run();
    driver.drive = 1;
    driver.issue(&IdeCommand::lba28(0x20, 0, 1));
    setup.machine.run();
    assert!(driver.reset().is_good());
    for drive in [0, 1] {
        driver.drive = drive;
        driver.select();
        assert_eq!(driver.alternate(), 0x50);
    }
    assert_eq!(other.alternate() & 0x88, 0x08, "the other channel goes on");
}

#[test]
fn diagnostics_are_those_of_both_drives() {
    let setup = machine_at(1 << 20, &[(0, 0), (0, 1)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    driver.drive = 1;
    driver.issue(&IdeCommand { command: 0x90, ..IdeCommand::default() });
    assert_eq!(driver.alternate(), 0x80);
    setup.machine.run();
    assert_eq!(driver.read(6) & 0x10, 0, "drive 0 tells the result");
    assert!(setup.ide.wires[0].level());
    let end = driver.wait();
    assert_eq!((end.status, end.error), (0x50, 1));
    let registers: Vec<u8> = (2..6).map(|register| driver.read(register)).collect();
    assert_eq!(registers, [1, 1, 0, 0]);
}

#[test]
fn settings_survive_a_software_reset_unless_told_otherwise() {
    let (driver, _setup) = one_disk(1 << 20);
    let set = |command, features, count| {
        let command = IdeCommand { command, features, count, ..IdeCommand::default() };
        assert!(driver.plain(&command).is_good());
    };
    let multiple = || {
        let identify = IdeCommand { command: 0xec, ..IdeCommand::default() };
        driver.pio_in(&identify, 512, 512).1[118]
    };
    set(0xc6, 0, 4);
    assert!(driver.reset().is_good());
    assert_eq!(multiple(), 4);
    set(0xef, 0xcc, 0);
    assert!(driver.reset().is_good());
    assert_eq!(multiple(), 16);
}

#[test]
fn a_reset_of_the_function_is_as_after_power_on() {
    let (driver, setup) = one_disk(1 << 20);
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, 0x8000)]);
    driver.set_control(2);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.turn();
    assert_eq!(setup.machine.world.in_flight(), 1);
    setup.machine.reset(setup.ide.at);
    assert_eq!(setup.machine.world.in_flight(), 0);
    assert_eq!(setup.machine.pci_read(setup.ide.at, 4, 2), 0);
    assert_eq!(driver.read(7), 0xff, "not decoded");
    setup.machine.assign();
    let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    assert_eq!((driver.read(7), driver.read_bm(0, 4), driver.read_bm(4, 4)), (0x50, 0, 0));
    assert_eq!(driver.read_dma(0, 512), [0; 512]);
    assert!(!setup.ide.wires[0].level());
    driver.issue(&IdeCommand { command: 0xe7, ..IdeCommand::default() });
    setup.machine.run();
    assert!(setup.ide.wires[0].level(), "nIEN is clear");
}
