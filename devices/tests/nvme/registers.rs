//! Every register at every width and alignment, and what writing does (base 3.1.3).

use spindle_devices::testkit::driver::nvme::NvmeDriver;

use super::{driver, machine};

/// Offset, width, value after a reset, writable bits while disabled.
const REGISTERS: &[(&str, u64, u64, u64, u64)] = &[
    ("CAP", 0x00, 8, 0x0840_0030_f003_0fff, 0),
    ("VS", 0x08, 4, 0x0002_0000, 0),
    ("INTMS", 0x0c, 4, 0, 0),
    ("INTMC", 0x10, 4, 0, 0),
    ("CC", 0x14, 4, 0, 0x00ff_3ff0),
    ("reserved", 0x18, 4, 0, 0),
    ("CSTS", 0x1c, 4, 0, 0),
    ("NSSR", 0x20, 4, 0, 0),
    ("AQA", 0x24, 4, 0, 0x0fff_0fff),
    ("ASQ", 0x28, 8, 0, 0xffff_ffff_ffff_f000),
    ("ACQ", 0x30, 8, 0, 0xffff_ffff_ffff_f000),
    ("CMBLOC", 0x38, 4, 0, 0),
    ("CMBSZ", 0x3c, 4, 0, 0),
    ("BPINFO", 0x40, 4, 0, 0),
    ("BPRSEL", 0x44, 4, 0, 0),
    ("BPMBL", 0x48, 8, 0, 0),
    ("CMBMSC", 0x50, 8, 0, 0),
    ("CMBSTS", 0x58, 4, 0, 0),
    ("CMBEBS", 0x5c, 4, 0, 0),
    ("CMBSWTP", 0x60, 4, 0, 0),
    ("NSSD", 0x64, 4, 0, 0),
    ("CRTO", 0x68, 4, 0xf0, 0),
    ("reserved", 0x6c, 4, 0, 0),
];

const END: u64 = 0x70;

/// What memory with these registers would hold.
fn bytes(value: impl Fn(&(&str, u64, u64, u64, u64)) -> u64) -> Vec<u8> {
    let mut bytes = vec![0; END as usize];
    for register in REGISTERS {
        for i in 0..register.2 {
            bytes[(register.1 + i) as usize] = (value(register) >> (i * 8)) as u8;
        }
    }
    bytes
}

fn all(driver: &NvmeDriver) -> Vec<u8> {
    (0..END).map(|at| driver.get(at, 1) as u8).collect()
}

#[test]
fn every_register_reads_its_reset_value_at_every_width_and_alignment() {
    let setup = machine(1 << 20, |_| ());
    let driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    let expected = bytes(|register| register.3);
    for at in 0..END {
        for width in [1, 2, 4, 8] {
            let value = (0..width).rev().fold(0, |value, i| {
                value << 8 | u64::from(expected.get((at + i) as usize).copied().unwrap_or(0))
            });
            assert_eq!(driver.get(at, width as u8), value, "{width} bytes at {at:#x}");
        }
    }
}

#[test]
fn exactly_the_writable_bits_can_be_written_at_every_width_and_alignment() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    let writable = bytes(|register| register.4);
    let reset = bytes(|register| register.3);
    for at in 0..END {
        for width in [1u64, 2, 4, 8] {
            // Neither enable nor ask for a shutdown; INTMS and INTMC are tested elsewhere.
            let mut value = 0u64;
            for i in 0..width {
                let offset = at + i;
                let byte: u8 = match offset {
                    0x0c..0x14 => 0,
                    0x14 => 0xfe,
                    0x15 => 0x3f,
                    _ => 0xff,
                };
                value |= u64::from(byte) << (i * 8);
            }
            driver.set(at, width as u8, value);
            let mut expected = reset.clone();
            for i in at..(at + width).min(END) {
                let i = i as usize;
                expected[i] |= writable[i];
            }
            assert!(all(&driver) == expected, "{width} bytes at {at:#x}");
            // Back to zero for the next round.
            for (_, at, width, ..) in REGISTERS.iter().filter(|register| register.4 != 0) {
                driver.set(*at, *width as u8, 0);
            }
        }
    }
    driver.enable(8);
    assert_eq!(driver.status(), 1);
}

#[test]
fn interrupt_masks_are_set_and_cleared_by_ones() {
    let setup = machine(1 << 20, |_| ());
    let driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.set(0x0c, 4, 0x8001_0005);
    assert_eq!((driver.get(0x0c, 4), driver.get(0x10, 4)), (0x8001_0005, 0x8001_0005));
    driver.set(0x10, 1, 0x04);
    driver.set(0x0d, 1, 0x80);
    assert_eq!(driver.get(0x0c, 4), 0x8001_8001);
    driver.set(0x10, 4, 0xffff_ffff);
    assert_eq!(driver.get(0x10, 4), 0);
}

/// CC fields that the controller must refuse: what, CC.
const REFUSED: &[(&str, u64)] = &[
    ("MPS beyond CAP.MPSMAX", 0x0046_0001 | 5 << 7),
    ("CSS without that command set", 0x0046_0001 | 1 << 4),
    ("CSS admin only", 0x0046_0001 | 7 << 4),
    ("AMS vendor specific", 0x0046_0001 | 7 << 11),
    ("AMS reserved", 0x0046_0001 | 2 << 11),
];

#[test]
fn unsupported_settings_are_fatal_and_a_reset_helps() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    for (what, cc) in REFUSED {
        driver.place_admin(8);
        driver.set(0x14, 4, *cc);
        setup.machine.run();
        assert_eq!(driver.status(), 2, "{what}");
        driver.disable();
        assert_eq!(driver.status(), 0, "{what}");
    }
    for (what, asq, acq, aqa) in [
        ("admin queues of one entry", 0x10000, 0x11000, 0),
        ("ASQ outside of RAM", 0x8000_0000, 0x11000, 0x0007_0007),
        ("ACQ outside of RAM", 0x10000, 0x8000_0000, 0x0007_0007),
    ] {
        driver.set(0x24, 4, aqa);
        driver.set(0x28, 8, asq);
        driver.set(0x30, 8, acq);
        driver.set(0x14, 4, 0x0046_0001);
        setup.machine.run();
        assert_eq!(driver.status(), 2, "{what}");
        driver.disable();
    }
    driver.enable(8);
}

#[test]
fn the_admin_queue_cannot_be_moved_while_enabled_and_survives_a_controller_reset() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let before = [driver.get(0x24, 4), driver.get(0x28, 8), driver.get(0x30, 8)];
    driver.set(0x24, 4, 0x0001_0001);
    driver.set(0x28, 8, 0x1000);
    driver.set(0x30, 4, 0x1000);
    let after = [driver.get(0x24, 4), driver.get(0x28, 8), driver.get(0x30, 8)];
    assert_eq!(before, after);
    driver.disable();
    let kept = [driver.get(0x24, 4), driver.get(0x28, 8), driver.get(0x30, 8)];
    assert_eq!(before, kept);
    assert_eq!(driver.get(0x14, 4), 0);
    setup.machine.reset(setup.disk.at);
    setup.machine.assign();
    let gone = [driver.get(0x24, 4), driver.get(0x28, 8), driver.get(0x30, 8)];
    assert_eq!(gone, [0; 3]);
}

#[test]
fn a_subsystem_reset_needs_its_magic_and_says_that_it_occurred() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.set(0x20, 4, 0x4e56_4d64);
    driver.set(0x20, 2, 0x4d65);
    setup.machine.run();
    assert_eq!(driver.status(), 1);
    driver.set(0x20, 4, 0x4e56_4d65);
    setup.machine.run();
    assert_eq!(driver.status(), 0x10, "NSSRO");
    assert_eq!(driver.get(0x28, 8), 0);
    driver.enable(8);
    assert_eq!(driver.status(), 0x11, "it stays over a controller reset");
    driver.disable();
    driver.set(0x1c, 4, 0x0f);
    assert_eq!(driver.status(), 0x10);
    driver.set(0x1c, 4, 0x10);
    assert_eq!(driver.status(), 0);
}

#[test]
fn the_function_is_what_it_says() {
    let setup = machine(1 << 20, |config| config.pci_ids = (0x1c36, 0x0042));
    let read = |at, width| setup.machine.pci_read(setup.disk.at, at, width);
    assert_eq!(read(0, 4), 0x0042_1c36);
    assert_eq!(read(8, 4) >> 8, 0x01_0802);
    let other = super::machine(1 << 20, |_| ());
    let ids = other.machine.pci_read(other.disk.at, 0, 4);
    for known in [0x0010_1b36, 0x5845_8086] {
        assert_ne!(ids, known, "drivers have workarounds for it");
    }
}
