//! Every register to the bit: configuration space, command block, bus master.

use spindle_devices::{
    Space,
    ide::Model,
    pci::Address,
    testkit::{Machine, driver::ide::IdeDriver},
};

use crate::{machine_at, one_disk};

#[test]
fn the_functions_are_those_of_the_chipset() {
    for (model, bridge, ide) in
        [(Model::Piix3, 0x7000_8086, 0x7010_8086), (Model::Piix4, 0x7110_8086, 0x7111_8086)]
    {
        let machine = Machine::new(1);
        let controller = machine.add_ide("ide", model);
        machine.assign();
        let at = controller.at;
        let isa = Address { function: 0, ..at };
        assert_eq!(machine.pci_read(isa, 0, 4), bridge);
        assert_eq!(machine.pci_read(isa, 8, 4) >> 8, 0x06_01_00, "ISA bridge");
        assert_eq!(machine.pci_read(isa, 0xe, 1), 0x80, "multifunction");
        assert_eq!(machine.pci_read(at, 0, 4), ide);
        assert_eq!(machine.pci_read(at, 8, 4) >> 8, 0x01_01_80, "IDE, legacy mode, bus master");
        assert_eq!(machine.pci_read(at, 0x3d, 1), 0, "no INTx");
        for bar in [0x10, 0x14, 0x18, 0x1c, 0x24] {
            machine.pci_write(at, bar, 4, 0xffff_ffff);
            assert_eq!(machine.pci_read(at, bar, 4), 0);
        }
        machine.pci_write(at, 0x20, 4, 0xffff_ffff);
        assert_eq!(machine.pci_read(at, 0x20, 4), 0xffff_fff1, "16 ports");
    }
}

#[test]
fn chipset_registers_keep_what_there_is_of_them() {
    // Offset, width, after power-on, writable.
    let common = [(0x40, 2, 0x8000, 0xf3ff), (0x42, 2, 0x8000, 0xf3ff), (0x44, 1, 0, 0xff)];
    let ultra = [(0x48, 1, 0, 0x0f), (0x4a, 2, 0, 0x3333)];
    for (model, more) in [(Model::Piix3, &[][..]), (Model::Piix4, &ultra[..])] {
        let machine = Machine::new(1);
        let at = machine.add_ide("ide", model).at;
        for (offset, width, reset, writable) in common.iter().chain(more) {
            assert_eq!(machine.pci_read(at, *offset, *width), *reset, "{offset:#x}");
            machine.pci_write(at, *offset, *width, u64::MAX);
            assert_eq!(machine.pci_read(at, *offset, *width), *writable, "{offset:#x}");
            machine.pci_write(at, *offset, *width, 0);
            assert_eq!(machine.pci_read(at, *offset, *width), 0, "{offset:#x}");
        }
        if model == Model::Piix3 {
            machine.pci_write(at, 0x48, 4, u64::MAX);
            assert_eq!(machine.pci_read(at, 0x48, 4), 0, "no Ultra DMA");
        }
    }
    let machine = Machine::new(1);
    let isa = Address { function: 0, ..machine.add_ide("ide", Model::Piix3).at };
    for offset in 0x60..0x64 {
        assert_eq!(machine.pci_read(isa, offset, 1), 0x80, "not routed");
        machine.pci_write(isa, offset, 1, 0xff);
        assert_eq!(machine.pci_read(isa, offset, 1), 0x8f);
    }
}

#[test]
fn ports_are_decoded_as_the_function_is_told() {
    let setup = machine_at(1 << 20, &[(0, 0), (1, 0)]);
    let (machine, at) = (&setup.machine, setup.ide.at);
    let status = |base: u64| machine.bus.read(Space::Port, base + 7, 1);
    assert_eq!((status(0x1f0), status(0x170)), (0x50, 0x50));
    machine.pci_write(at, 0x40, 2, 0);
    assert_eq!((status(0x1f0), status(0x170)), (0xff, 0x50), "IDETIM of the first channel");
    assert_eq!(machine.bus.read(Space::Port, 0x3f6, 1), 0xff);
    assert_eq!(machine.bus.read(Space::Port, 0x376, 1), 0x50);
    machine.pci_write(at, 0x40, 2, 0x8000);
    machine.pci_write(at, 0x42, 2, 0x73ff);
    assert_eq!((status(0x1f0), status(0x170)), (0x50, 0xff));
    machine.pci_write(at, 4, 2, 4);
    assert_eq!((status(0x1f0), status(0x170)), (0xff, 0xff), "no ports at all");
    machine.pci_write(at, 0x42, 2, 0x8000);
    machine.pci_write(at, 4, 2, 5);
    assert_eq!((status(0x1f0), status(0x170)), (0x50, 0x50));
}

#[test]
fn bus_master_registers_have_their_bits_at_every_width() {
    let (driver, _setup) = one_disk(1 << 20);
    for channel in [0u64, 8] {
        let at = |register: u64| driver.bus_master + channel + register;
        let read = |register, width| driver.machine.bus.read(Space::Port, at(register), width);
        let write = |register, width, value| {
            driver.machine.bus.write(Space::Port, at(register), width, value);
        };
        assert_eq!((read(0, 4), read(4, 4)), (0, 0), "after power-on");
        write(4, 4, 0xffff_ffff);
        assert_eq!(read(4, 4), 0xffff_fffc, "a table lies on a doubleword");
        write(5, 1, 0x12);
        write(6, 2, 0x3456);
        assert_eq!(read(4, 4), 0x3456_12fc);
        assert_eq!((read(4, 1), read(5, 2), read(7, 1)), (0xfc, 0x5612, 0x34));
        write(0, 1, 0x08);
        write(2, 1, 0xff);
        assert_eq!((read(0, 1), read(1, 1), read(2, 1), read(3, 1)), (0x08, 0, 0x60, 0));
        assert_eq!(read(0, 4), 0x60_0008);
        write(0, 4, 0);
        assert_eq!(read(0, 4), 0);
        write(0, 1, 0xf7);
        assert_eq!((read(0, 1), read(2, 1)), (0x01, 0x01), "started: active");
        write(2, 1, 0);
        assert_eq!(read(2, 1), 0x01, "which only a stop ends");
        write(0, 1, 0);
        assert_eq!(read(2, 1), 0);
    }
}

#[test]
fn both_drives_take_what_is_written_and_one_answers() {
    let setup = machine_at(1 << 20, &[(0, 0), (0, 1)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    for drive in [0, 1] {
        driver.drive = drive;
        driver.select();
        assert_eq!(driver.read(6), 0xa0 | drive << 4);
        for register in 2..6 {
            driver.write(register, (register as u8) << 4 | drive);
        }
        for register in 2..6 {
            assert_eq!(driver.read(register), (register as u8) << 4 | drive);
        }
        driver.drive = 1 - drive;
        driver.select();
        for register in 2..6 {
            assert_eq!(driver.read(register), (register as u8) << 4 | drive, "the other too");
        }
    }
}

#[test]
fn registers_hold_what_was_written_before() {
    let (driver, _setup) = one_disk(1 << 20);
    for register in 2..6 {
        driver.write(register, 0xa0 | register as u8);
        driver.write(register, 0x50 | register as u8);
        assert_eq!(driver.read(register), 0x50 | register as u8);
        driver.set_control(0x80);
        assert_eq!(driver.read(register), 0xa0 | register as u8, "HOB");
        assert_eq!(driver.read(6), 0xa0, "there is no more of DEVICE");
        // Any write to the command block shows what is now.
        driver.write(6, 0xa0);
        assert_eq!(driver.read(register), 0x50 | register as u8);
    }
}

#[test]
fn registers_that_are_read_together_are_the_same() {
    let (driver, _setup) = one_disk(1 << 20);
    (2..6).for_each(|register| driver.write(register, register as u8));
    let two = |register: u64| driver.machine.bus.read(Space::Port, driver.base + register, 2);
    assert_eq!((two(2), two(4)), (0x0302, 0x0504));
    driver.machine.bus.write(Space::Port, driver.base + 2, 4, 0x0d0c_0b0a);
    assert_eq!((two(2), two(4)), (0x0b0a, 0x0d0c));
}

#[test]
fn what_waits_in_a_coalesced_window_comes_before_what_traps() {
    let (driver, setup) = one_disk(1 << 20);
    let before = setup.machine.bus.traps();
    (1..7).for_each(|register| driver.write(register, 0xa0));
    driver.write_bm(4, 4, 0x1000);
    assert_eq!(setup.machine.bus.traps(), before, "taskfile and table address are collected");
    assert_eq!((driver.read(2), driver.read_bm(4, 4)), (0xa0, 0x1000));
}

#[test]
fn an_access_ends_where_the_command_block_does() {
    let (driver, setup) = one_disk(1 << 20);
    let bus = &setup.machine.bus;
    driver.select();
    // Device, command, and what is nobody's: no software reset.
    bus.write(Space::Port, 0x1f6, 4, 0x0404_e0a0);
    driver.machine.run();
    assert_eq!(driver.alternate(), 0x50);
    assert_eq!(bus.read(Space::Port, 0x1f6, 4), 0xffff_50a0);
    assert_eq!(bus.read(Space::Port, 0x3f6, 2), 0xff50);
}

/// What the drive is told before a reset is not told to the one that comes of it.
#[test]
fn writes_that_are_collected_come_before_a_reset() {
    let (driver, setup) = one_disk(1 << 20);
    driver.write(2, 0x55);
    setup.machine.reset(setup.ide.at);
    setup.machine.assign();
    let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    assert_eq!(driver.read(2), 1, "the signature");
}
