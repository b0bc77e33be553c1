//! Every register × width × alignment, reset values, and what a guest can write.

use super::driver::{P_CMD, P_SCTL, setup_with};

/// Offset, reset value, bits that stay as written, with a device that has not been started.
const PORT: &[(u64, u64, u64)] = &[
    (0x00, 0, 0xffff_fc00),
    (0x04, 0, 0xffff_ffff),
    (0x08, 0, 0xffff_ff00),
    (0x0c, 0, 0xffff_ffff),
    (0x14, 0, 0xfdc0_00ff),
    (0x1c, 0, 0),
    (0x20, 0x7f, 0),
    (0x24, 0xffff_ffff, 0),
    (0x28, 0, 0),
    (0x34, 0, 0),
    (0x38, 0, 0),
    (0x3c, 0, 0),
    (0x40, 0, 0),
    (0x44, 0, 0),
    (0x48, 0, 0),
    (0x7c, 0, 0),
];

/// An empty port, whose registers nothing moves.
fn empty() -> (super::driver::Setup, u64) {
    let s = setup_with(3, |_| (), |_| ());
    let base = s.driver.abar + 0x100 + 0x80;
    (s, base)
}

#[test]
fn reset_values_and_writable_bits() {
    let (s, base) = empty();
    for (offset, reset, writable) in PORT {
        let at = base + offset;
        assert_eq!(s.machine.read(at, 4), *reset, "{offset:#x}");
        s.machine.write(at, 4, 0xffff_ffff);
        let expected = reset & !writable | writable;
        assert_eq!(s.machine.read(at, 4), expected, "{offset:#x}");
        s.machine.write(at, 4, 0);
        assert_eq!(s.machine.read(at, 4), reset & !writable, "{offset:#x}");
    }
    assert_eq!(s.machine.read(base + P_CMD, 4), 1 << 18 | 6);
    s.machine.write(base + P_CMD, 4, 3 << 24);
    assert_eq!(s.machine.read(base + P_CMD, 4), 3 << 24 | 1 << 18 | 6);
    s.machine.write(base + P_SCTL, 4, 0xffff_f330);
    assert_eq!(s.machine.read(base + P_SCTL, 4), 0x330);
}

#[test]
fn every_width_and_alignment_reads_and_writes_the_same_bytes() {
    let (s, base) = empty();
    let plain: Vec<_> = PORT.iter().filter(|row| row.2 != 0).collect();
    for offset in 0..0x1cu64 {
        for width in [1u8, 2, 4, 8] {
            for (at, _, writable) in &plain {
                s.machine.write(base + at, 4, 0x5a5a_a5a5 & writable);
            }
            let whole = |base: u64| -> Vec<u8> {
                (0..0x24u64)
                    .step_by(4)
                    .flat_map(|at| (s.machine.read(base + at, 4) as u32).to_le_bytes())
                    .collect()
            };
            let bytes = whole(base);
            let got = s.machine.read(base + offset, width);
            let expected = (0..usize::from(width))
                .fold(0, |v, i| v | u64::from(bytes[offset as usize + i]) << (8 * i));
            assert_eq!(got, expected, "read {offset:#x} {width}");
            s.machine.write(base + offset, width, 0x0102_0408_1020_4080);
            let mut expected = bytes;
            for i in 0..usize::from(width) {
                let at = offset as usize + i;
                let row = plain.iter().find(|row| row.0 == (at as u64 & !3));
                let mask = row.map_or(0, |row| (row.2 >> (8 * (at & 3))) as u8);
                let byte = (0x0102_0408_1020_4080u64 >> (8 * i)) as u8;
                expected[at] = expected[at] & !mask | byte & mask;
            }
            let now = whole(base);
            // PxCMD acts.
            assert_eq!(now[..0x18], expected[..0x18], "write {offset:#x} {width}");
            s.machine.write(base + P_CMD, 4, 0);
            s.machine.run();
        }
    }
}

#[test]
fn global_registers() {
    for ports in [1, 3, 6, 31, 32] {
        let s = setup_with(ports, |_| (), |_| ());
        let cap = 0xc130_ff00 & !0xe0 | 1 << 18 | 0x6000 | 0x8000 | (ports as u64 - 1);
        // Coalescing, where IS has a bit left for it.
        let coalescing = u64::from(ports < 32);
        let cap = cap & !0x3_0000 | 31 << 8 | coalescing << 7;
        assert_eq!(s.driver.global(0), cap, "{ports} ports");
        assert_eq!(s.driver.global(0x0c), u64::from(u32::MAX >> (32 - ports)));
        assert_eq!(s.driver.global(0x10), 0x1_0301);
        for offset in [0, 0x0c, 0x10, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0xa0, 0xfc] {
            let before = s.driver.global(offset);
            s.driver.set_global(offset, 0xffff_ffff);
            assert_eq!(s.driver.global(offset), before, "{offset:#x}");
        }
        assert_eq!(s.driver.global(4), 0x8000_0002);
        s.driver.set_global(4, 0);
        assert_eq!(s.driver.global(4), 0x8000_0000, "it knows nothing but AHCI");
    }
}

#[test]
fn configuration_space() {
    let s = setup_with(6, |_| (), |_| ());
    let get = |offset, width| s.machine.pci_read(s.controller.at, offset, width);
    assert_eq!(get(0, 4), 0x2922_8086);
    assert_eq!(get(8, 4) >> 8, 0x01_0601);
    s.machine.pci_write(s.controller.at, 0x24, 4, 0xffff_ffff);
    assert_eq!(get(0x24, 4), 0xffff_f000);
    // The Serial ATA capability points at the index-data pair.
    let mut cap = get(0x34, 1);
    while get(cap, 1) != 0x12 {
        cap = get(cap + 1, 1);
        assert_ne!(cap, 0);
    }
    assert_eq!((get(cap + 2, 2), get(cap + 4, 4)), (0x10, 0x48));
}

#[test]
fn the_index_data_pair_reaches_the_same_registers() {
    use spindle_devices::Space;
    let s = setup_with(1, |_| (), |_| ());
    let base = s.machine.pci_read(s.controller.at, 0x20, 4) & !3;
    let bus = &s.machine.bus;
    for offset in [0u64, 4, 0x0c, 0x10, 0x100, 0x118, 0x120, 0x128] {
        bus.write(Space::Port, base + 0x10, 4, offset);
        assert_eq!(bus.read(Space::Port, base + 0x10, 4), offset);
        let got = bus.read(Space::Port, base + 0x14, 4);
        assert_eq!(got, s.machine.read(s.driver.abar + offset, 4), "{offset:#x}");
    }
    bus.write(Space::Port, base + 0x10, 4, 0x114);
    bus.write(Space::Port, base + 0x14, 4, 0x40);
    assert_eq!(s.driver.get(0x14), 0x40);
}

#[test]
fn without_a_start_nothing_is_issued() {
    let (s, base) = empty();
    for offset in [0x34, 0x38] {
        s.machine.write(base + offset, 4, 0xffff_ffff);
        assert_eq!(s.machine.read(base + offset, 4), 0);
    }
    // ST alone does not start a port without a device.
    s.machine.write(base + P_CMD, 4, 0x11);
    s.machine.run();
    assert_eq!(s.machine.read(base + P_CMD, 4) & 1 << 15, 0);
    s.machine.write(base + P_CMD, 4, 0);
    s.machine.run();
    assert_eq!(s.machine.read(base + P_CMD, 4) & 0xc011, 0);
}
