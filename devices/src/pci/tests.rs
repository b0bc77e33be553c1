//! Configuration space, by both ways in.

use std::sync::{Arc, Mutex};

use super::{
    Address, Bar, BarKind, BarWindows, BusError, ConfigPorts, Ecam, HostBridge, Identity, PciBus,
    PciFunction, config::Config,
};
use crate::{Access, Device, Registers, device::Done, register::width_mask};

/// A function of plain memory, which notes what it was asked.
struct Plain {
    bytes: Mutex<[u8; 4096]>,
    seen: Mutex<Vec<Access>>,
    bars: Vec<Bar>,
}

impl Plain {
    fn new(bars: Vec<Bar>) -> Arc<Self> {
        let bytes = std::array::from_fn(|i| (i as u8).wrapping_mul(7) ^ (i >> 8) as u8);
        Arc::new(Self { bytes: Mutex::new(bytes), seen: Mutex::default(), bars })
    }
}

impl PciFunction for Plain {
    fn config_read(&self, access: Access) -> u32 {
        self.seen.lock().unwrap().push(access);
        let bytes = self.bytes.lock().unwrap();
        (0..usize::from(access.width))
            .fold(0, |v, i| v | u32::from(bytes[access.offset as usize + i]) << (i * 8))
    }
    fn config_write(&self, access: Access, value: u32) {
        self.seen.lock().unwrap().push(access);
        let mut bytes = self.bytes.lock().unwrap();
        for i in 0..usize::from(access.width) {
            bytes[access.offset as usize + i] = (value >> (i * 8)) as u8;
        }
    }
    fn bars(&self) -> Vec<Bar> {
        self.bars.clone()
    }
}

impl Device for Plain {
    fn id(&self) -> &str {
        "plain"
    }
    fn pause(&self, done: Done) {
        done();
    }
    fn resume(&self) {}
    fn reset(&self, done: Done) {
        done();
    }
}

const AT: Address = Address { slot: 3, function: 2 };

fn bus() -> (Arc<PciBus>, Arc<Plain>) {
    let bus = PciBus::new();
    let plain = Plain::new(Vec::new());
    bus.add(AT, Arc::clone(&plain) as Arc<dyn PciFunction>).unwrap();
    (bus, plain)
}

fn access(offset: u64, width: u8) -> Access {
    Access { offset, width }
}

#[test]
fn ecam_reaches_every_byte_at_every_width_and_alignment() {
    let (bus, plain) = bus();
    let ecam = Ecam::new(bus);
    let base = 3 << 15 | 2 << 12;
    let bytes = *plain.bytes.lock().unwrap();
    for offset in (0..64).chain(4080..4096) {
        for width in [1u8, 2, 4, 8] {
            let expected = (0..width).fold(0, |v, i| {
                let at = offset as usize + usize::from(i);
                // What lies beyond belongs to the next function, which is not there.
                v | u64::from(bytes.get(at).copied().unwrap_or(0xff)) << (i * 8)
            });
            assert_eq!(ecam.read(access(base + offset, width)), expected, "{offset}+{width}");
        }
    }
    for seen in plain.seen.lock().unwrap().iter() {
        assert!(matches!(seen.width, 1 | 2 | 4) && seen.offset % u64::from(seen.width) == 0);
    }
    ecam.write(access(base + 0x103, 8), 0x1122_3344_5566_7788);
    assert_eq!(ecam.read(access(base + 0x103, 8)), 0x1122_3344_5566_7788);
}

#[test]
fn absent_functions_read_as_ones() {
    let (bus, _) = bus();
    let (ecam, ports) = (Ecam::new(Arc::clone(&bus)), ConfigPorts::new(bus, None));
    for width in [1u8, 2, 4, 8] {
        assert_eq!(ecam.read(access(5 << 15, width)), width_mask(width));
        assert_eq!(ecam.read(access(7 << 20, width)), width_mask(width), "another bus");
        ecam.write(access(5 << 15, width), 0);
    }
    for address in [0x8000_2800u32, 0x8001_1a00, 0] {
        ports.write(access(0, 4), address.into());
        for width in [1u8, 2, 4] {
            assert_eq!(ports.read(access(4, width)), width_mask(width), "{address:#x}");
        }
        ports.write(access(4, 4), 0);
    }
}

#[test]
fn ports_reach_every_byte_of_the_selected_doubleword() {
    let (bus, plain) = bus();
    let ports = ConfigPorts::new(bus, None);
    let bytes = *plain.bytes.lock().unwrap();
    for doubleword in (0..0x100u64).step_by(4) {
        ports.write(access(0, 4), 0x8000_1a00 | doubleword | 3);
        assert_eq!(ports.read(access(0, 4)), 0x8000_1a00 | doubleword, "reserved bits");
        for at in 0..4u64 {
            for width in [1u8, 2, 4] {
                let expected = (0..u64::from(width)).fold(0, |v, i| {
                    let byte =
                        if at + i < 4 { bytes[(doubleword + at + i) as usize] } else { 0xff };
                    v | u64::from(byte) << (i * 8)
                });
                assert_eq!(ports.read(access(4 + at, width)), expected, "{doubleword}+{at}");
            }
        }
    }
    ports.write(access(0, 4), 0x8000_1a40);
    ports.write(access(6, 2), 0xbeef);
    assert_eq!(plain.bytes.lock().unwrap()[0x42..0x44], [0xef, 0xbe]);
    // Narrow accesses to the address register are no configuration accesses.
    ports.write(access(0, 1), 0);
    ports.write(access(2, 2), 0);
    assert_eq!(ports.read(access(0, 4)), 0x8000_1a40);
    ports.reset();
    assert_eq!(ports.read(access(0, 4)), 0);
}

#[test]
fn byte_accesses_to_cf9_are_the_reset_registers() {
    struct Reset(Mutex<u64>);
    impl Registers for Reset {
        fn read(&self, access: Access) -> u64 {
            assert_eq!(access, Access { offset: 0, width: 1 });
            *self.0.lock().unwrap()
        }
        fn write(&self, _access: Access, value: u64) {
            *self.0.lock().unwrap() = value;
        }
    }
    let reset = Arc::new(Reset(Mutex::new(0)));
    let ports = ConfigPorts::new(PciBus::new(), Some(Arc::clone(&reset) as Arc<dyn Registers>));
    ports.write(access(0, 4), 0x8000_0000);
    ports.write(access(1, 1), 6);
    assert_eq!(*reset.0.lock().unwrap(), 6);
    assert_eq!(ports.read(access(1, 1)), 6);
    assert_eq!(ports.read(access(0, 4)), 0x8000_0000, "the address register is as it was");
}

#[test]
fn the_host_bridge_is_there_and_nothing_else_is_written() {
    let bridge = HostBridge::new();
    assert_eq!(bridge.config_read(access(0, 4)), 0x29c0_8086);
    assert_eq!(bridge.config_read(access(8, 4)), 0x0600_0000);
    bridge.config_write(access(0, 4), 0);
    bridge.config_write(access(0x10, 4), u32::MAX);
    assert_eq!(bridge.config_read(access(0, 4)), 0x29c0_8086);
    assert_eq!(bridge.config_read(access(0x10, 4)), 0);
}

#[test]
fn header_registers_take_what_they_may() {
    let identity = Identity {
        vendor: 0x1234,
        device: 0x5678,
        revision: 9,
        class: 0x0a0b0c,
        subsystem_vendor: 0x1111,
        subsystem: 0x2222,
    };
    let bars = [
        Bar { index: 0, kind: BarKind::Memory64 { prefetchable: true }, size: 1 << 20 },
        Bar { index: 2, kind: BarKind::Memory32, size: 4096 },
        Bar { index: 4, kind: BarKind::Io, size: 16 },
    ];
    let mut config = Config::new(identity, true, 2, &bars, &[]).unwrap();
    for offset in (0..0x100).step_by(4) {
        config.write(access(offset, 4), u32::MAX);
    }
    let expected = [
        (0x00, 0x5678_1234),
        (0x04, 0x0000_0547),
        (0x08, 0x0a0b_0c09),
        (0x0c, 0x0080_00ff),
        (0x10, 0xfff0_000c),
        (0x14, 0xffff_ffff),
        (0x18, 0xffff_f000),
        (0x1c, 0),
        (0x20, 0xffff_fff1),
        (0x24, 0),
        (0x2c, 0x2222_1111),
        (0x30, 0),
        (0x34, 0),
        (0x3c, 0x0000_02ff),
        (0x40, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(config.read(access(offset, 4), false), value, "register {offset:#x}");
        for byte in 0..4 {
            let one = config.read(access(offset + byte, 1), false);
            assert_eq!(one, value >> (byte * 8) & 0xff, "byte {:#x}", offset + byte);
        }
    }
    assert_eq!(config.read(access(6, 2), true), 8, "interrupt status");
    assert!(bars.iter().all(|bar| config.bar_base(bar).is_none()), "all ones is no address");
}

#[test]
fn bars_get_addresses_that_are_aligned_and_do_not_overlap() {
    let bus = PciBus::new();
    let sizes = [4096u64, 1 << 20, 65536, 16384];
    for (i, size) in sizes.iter().enumerate() {
        let at = Address { slot: i as u8 + 1, function: 0 };
        let kind =
            if i == 1 { BarKind::Memory32 } else { BarKind::Memory64 { prefetchable: false } };
        let bars =
            [Bar { index: 0, kind, size: *size }, Bar { index: 4, kind: BarKind::Io, size: 32 }];
        let config = Config::new(Identity::default(), false, 0, &bars, &[]).unwrap();
        bus.add(at, Arc::new(Whole(Mutex::new(config)))).unwrap();
    }
    let windows = BarWindows {
        low: 0xc000_0000..0xc100_0000,
        high: 1 << 36..(1 << 36) + 0x1_5000,
        ports: 0xc000..0xd000,
    };
    windows.assign(&bus).unwrap();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for (_, function) in bus.functions() {
        let read = |at| u64::from(function.config_read(access(at, 4)));
        assert_eq!(read(4) & 7, 3, "decoding on, bus mastering off");
        let bar = function.bars()[0];
        let high = if bar.kind.is_64() { read(0x14) } else { 0 };
        let base = high << 32 | read(0x10) & !0xf;
        assert_eq!(base % bar.size, 0);
        assert!((0xc000_0000..0xc100_0000).contains(&base) || high == 0x10);
        assert!(taken.iter().all(|(other, len)| base + bar.size <= *other || other + len <= base));
        taken.push((base, bar.size));
    }
    let none = BarWindows { low: 0..0x1000, high: 0..0, ports: 0..0 };
    let error = none.assign(&bus).unwrap_err().to_string();
    assert!(error.contains("'whole'") && error.contains("BAR 0"), "{error}");
}

/// A function that is all configuration space.
struct Whole(Mutex<Config>);

impl PciFunction for Whole {
    fn config_read(&self, access: Access) -> u32 {
        self.0.lock().unwrap().read(access, false)
    }
    fn config_write(&self, access: Access, value: u32) {
        self.0.lock().unwrap().write(access, value);
    }
    fn bars(&self) -> Vec<Bar> {
        self.0.lock().unwrap().bars().to_vec()
    }
}

impl Device for Whole {
    fn id(&self) -> &str {
        "whole"
    }
    fn pause(&self, done: Done) {
        done();
    }
    fn resume(&self) {}
    fn reset(&self, done: Done) {
        done();
    }
}

#[test]
fn places_are_taken_once() {
    let (bus, plain) = bus();
    let again = bus.add(AT, Arc::clone(&plain) as Arc<dyn PciFunction>);
    assert!(matches!(again, Err(BusError::Taken(AT, ref id)) if id == "plain"));
    let nowhere = Address { slot: 32, function: 0 };
    assert!(matches!(bus.add(nowhere, plain), Err(BusError::NoSuchAddress(_))));
    assert_eq!(bus.free_slot(3).unwrap(), Address { slot: 4, function: 0 });
    assert!(bus.remove(AT).is_some());
    assert_eq!(bus.free_slot(3).unwrap(), Address { slot: 3, function: 0 });
    assert_eq!(bus.config_read(AT, access(0, 4)), u32::MAX);
}
