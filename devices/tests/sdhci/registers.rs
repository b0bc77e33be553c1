//! Every register, at every width and alignment.

use spindle_devices::{
    sd::CardConfig,
    sdhci::{SdhciConfig, SdhciVersion, SlotKind},
};

use super::driver::{Driver, controller};

/// Offset, width, value after a reset, bits that can be written.
const REGISTERS: &[(u64, u8, u64, u64)] = &[
    (0x00, 4, 0, 0xffff_ffff),
    (0x04, 2, 0, 0x7fff),
    (0x06, 2, 0, 0xffff),
    (0x08, 4, 0, 0xffff_ffff),
    (0x0c, 2, 0, 0x3f),
    (0x10, 4, 0, 0),
    (0x14, 4, 0, 0),
    (0x18, 4, 0, 0),
    (0x1c, 4, 0, 0),
    (0x20, 4, 0, 0),
    (0x24, 4, 0x01f2_0000, 0),
    (0x28, 1, 0, 0x3f),
    (0x2a, 1, 0, 0x09),
    (0x2b, 1, 0, 0x07),
    (0x2e, 1, 0, 0x0f),
    (0x30, 2, 0, 0),
    (0x32, 2, 0, 0),
    (0x34, 2, 0, 0xff),
    (0x36, 2, 0, 0x17ff),
    (0x38, 2, 0, 0xff),
    (0x3a, 2, 0, 0x17ff),
    (0x3c, 2, 0, 0),
    (0x40, 4, 0x156e_c8b2, 0),
    (0x44, 4, 0x0000_0077, 0),
    (0x48, 8, 0, 0),
    (0x50, 4, 0, 0),
    (0x54, 1, 0, 0),
    (0x55, 1, 0, 0),
    (0x58, 8, 0, u64::MAX),
    // 400 kHz, 25, 50, 25, 50, 100, 200 and 50 MHz from 200 MHz.
    (0x60, 2, 250, 0),
    (0x62, 2, 4, 0),
    (0x64, 2, 2, 0),
    (0x66, 2, 4, 0),
    (0x68, 2, 2, 0),
    (0x6a, 2, 1, 0),
    (0x6c, 2, 0, 0),
    (0x6e, 2, 2, 0),
    (0x70, 8, 0, 0),
    (0xf0, 8, 0, 0),
    (0xfc, 2, 0, 0),
    (0xfe, 2, 0x1002, 0),
];

fn reset(driver: &Driver) {
    driver.set(0x2f, 1, 1);
    driver.machine.run();
}

#[test]
fn registers_have_their_values_after_a_reset() {
    let driver = controller(1 << 20, |_| ());
    for &(offset, width, value, _) in REGISTERS {
        assert_eq!(driver.get(offset, width), value, "{offset:#x}");
    }
}

#[test]
fn every_width_and_alignment_reads_the_same_bytes() {
    let driver = controller(1 << 20, |_| ());
    let bytes: Vec<u64> = (0..0x100).map(|offset| driver.get(offset, 1)).collect();
    for width in [1_u8, 2, 4, 8] {
        for offset in 0..=0x100 - u64::from(width) {
            let expected = (0..u64::from(width))
                .fold(0, |value, i| value | bytes[(offset + i) as usize] << (8 * i));
            assert_eq!(driver.get(offset, width), expected, "{offset:#x} width {width}");
        }
    }
}

#[test]
fn every_width_and_alignment_writes_the_bits_that_can_be_written() {
    let driver = controller(1 << 20, |_| ());
    for &(offset, width, value, writable) in REGISTERS {
        for piece in [1_u8, 2, 4, 8].into_iter().filter(|piece| *piece <= width) {
            for at in (0..width).step_by(piece.into()) {
                reset(&driver);
                driver.set(offset + u64::from(at), piece, u64::MAX);
                let mask = if piece == 8 { u64::MAX } else { (1 << (piece * 8)) - 1 };
                let covered = mask << (at * 8);
                let expected = value & !(covered & writable) | covered & writable;
                // The card detect test bits are left out of the table: they change another register.
                let read = driver.get(offset, width) & if offset == 0x28 { 0x3f } else { u64::MAX };
                assert_eq!(read, expected, "{offset:#x} width {piece} at {at}");
            }
        }
    }
    reset(&driver);
}

#[test]
fn a_continue_request_clears_itself() {
    let driver = controller(1 << 20, |_| ());
    driver.set(0x2a, 1, 0x02);
    assert_eq!(driver.get(0x2a, 1), 0);
}

#[test]
fn the_clock_is_stable_when_it_runs() {
    let driver = controller(1 << 20, |_| ());
    assert_eq!(driver.get(0x2c, 2), 0);
    driver.set(0x2c, 2, 0xffff);
    assert_eq!(driver.get(0x2c, 2), 0xffc7);
    driver.set(0x2c, 2, 0xff00);
    assert_eq!(driver.get(0x2c, 2), 0xff00);
}

#[test]
fn preset_values_set_the_divider() {
    let driver = controller(1 << 20, |_| ());
    driver.set(0x2c, 2, 0x8005);
    driver.set(0x3e, 2, 0x8000);
    assert_eq!(driver.get(0x2c, 2), 0x0407, "default speed");
    driver.set(0x28, 1, 4);
    assert_eq!(driver.get(0x2c, 2), 0x0207, "high speed");
    driver.set(0x3e, 2, 0x800a);
    assert_eq!(driver.get(0x2c, 2), 0x0107, "SDR50");
    driver.set(0x3e, 2, 0x000a);
    assert_eq!(driver.get(0x2c, 2), 0x8007);
}

#[test]
fn power_needs_a_card() {
    let driver = controller(1 << 20, |_| ());
    driver.set(0x29, 1, 0x0f);
    assert_eq!(driver.get(0x29, 1), 0x0e);
    driver.insert(CardConfig::sd(1 << 20));
    driver.set(0x29, 1, 0xff);
    assert_eq!(driver.get(0x29, 1), 0x0f);
}

#[test]
fn errors_can_be_forced() {
    let driver = controller(1 << 20, |_| ());
    driver.set(0x52, 2, 0x0010);
    assert_eq!(driver.get(0x30, 4), 0, "not enabled");
    driver.set(0x36, 2, 0x17ff);
    driver.set(0x52, 2, 0x0210);
    assert_eq!(driver.get(0x30, 4), 0x0210_8000);
    driver.set(0x50, 2, 0x0002);
    assert_eq!((driver.get(0x30, 4), driver.get(0x3c, 2)), (0x0310_8000, 2));
    driver.set(0x30, 4, 0x0100_0000);
    assert_eq!(driver.get(0x30, 4), 0x0210_8000);
    driver.set(0x30, 4, 0xffff_ffff);
    assert_eq!(driver.get(0x30, 4), 0);
}

#[test]
fn the_card_detect_test_level_replaces_the_pin() {
    let driver = controller(1 << 20, |_| ());
    driver.set(0x28, 1, 0xc0);
    assert_eq!(driver.get(0x24, 4) >> 16 & 7, 0b011);
    driver.set(0x28, 1, 0x80);
    assert_eq!(driver.get(0x24, 4) >> 16 & 7, 0b010);
}

fn capabilities(configure: impl FnOnce(&mut SdhciConfig)) -> (u64, u64, Driver) {
    let driver = controller(1 << 20, configure);
    (driver.get(0x40, 8), driver.get(0xfe, 2), driver)
}

#[test]
fn versions_have_what_they_had() {
    let (caps, version, driver) = capabilities(|c| c.version = SdhciVersion::V1);
    assert_eq!((caps, version), (0x0572_32b2, 0x1000), "ADMA1 and no ADMA2");
    driver.set(0x3e, 2, 0xffff);
    driver.set(0x0c, 2, 0xffff);
    driver.set(0x2c, 2, 0xffc0);
    assert_eq!((driver.get(0x3e, 2), driver.get(0x0c, 2), driver.get(0x2c, 2)), (0, 0x37, 0xff00));
    assert_eq!(driver.get(0x60, 8), 0, "no presets");
    let (caps, version, _) = capabilities(|c| c.version = SdhciVersion::V2);
    assert_eq!((caps, version), (0x157a_32b2, 0x1001));
    let (caps, ..) = capabilities(|c| c.uhs = false);
    assert_eq!(caps, 0x156e_c8b2);
    let (caps, ..) = capabilities(|c| c.slot = SlotKind::Embedded);
    assert_eq!(caps >> 30 & 3, 1);
    let (caps, ..) = capabilities(|c| c.capabilities = Some(0x057834b4));
    assert_eq!(caps, 0x0578_34b4);
}

#[test]
fn configuration_space_says_what_it_is() {
    let driver = controller(1 << 20, |_| ());
    let pci = |at, width| driver.machine.pci_read(driver.at, at, width);
    assert_eq!((pci(0, 4), pci(8, 4)), (0x0007_1b36, 0x0805_0100));
    assert_eq!(pci(0x3d, 1), 1, "INTA");
    assert_eq!(pci(0x40, 1), 0, "one slot, at the first BAR");
}
