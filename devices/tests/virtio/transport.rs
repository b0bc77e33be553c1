//! Configuration space, BARs, capabilities, negotiation: what a driver meets before the first
//! request.

use spindle_devices::testkit::driver::{BlkDriver, Function};

use super::{ALL, INDIRECT, driver, machine, pattern};

#[test]
fn the_function_says_what_it_is() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let read = |at, width| machine.pci_read(disk.at, at, width);
    assert_eq!(read(0, 4), 0x1042_1af4);
    assert_eq!(read(8, 4) >> 8, 0x01_0000, "class");
    assert!(read(8, 1) >= 1, "revision of a non-transitional device");
    assert!(read(0x2e, 2) >= 0x40, "subsystem of a non-transitional device");
    assert_eq!(read(0x0e, 1), 0, "type 0 header");
    assert_eq!(read(0x3d, 1), 1, "INTA");
}

#[test]
fn structures_are_where_their_capabilities_say_and_do_not_overlap() {
    let (machine, disk) = machine(1 << 20, |config| {
        config.iothreads = vec![config.iothreads[0].clone(); 1024];
        config.vectors = Some(1025);
    });
    let function = Function::probe(&machine, disk.at);
    let mut places = [
        function.common,
        function.notify,
        function.isr,
        function.config,
        function.table,
        function.pending,
    ];
    places.sort_by_key(|place| place.at);
    for pair in places.windows(2) {
        assert!(pair[0].at + pair[0].len <= pair[1].at, "{pair:x?}");
    }
    assert!(function.common.len >= 56 && function.config.len >= 60);
    assert_eq!(function.get(18, 2), 1024);
    assert_eq!(function.table.len, 1025 * 16);
    assert_ne!(function.window, 0);
    let bells: std::collections::HashSet<_> = (0..1024).map(|i| function.bell(i)).collect();
    assert_eq!(bells.len(), 1024, "one notification address a queue");
}

#[test]
fn a_notification_rings_the_eventfd_and_traps_nothing() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let machine = driver.function.machine.clone();
    let (traps, rung) = (machine.bus.traps(), machine.bus.rung());
    let ticket = driver.offer(0, 0, 0, &[], 512);
    driver.rings[0].notify();
    machine.run();
    assert!(driver.reply(0, &ticket).is_some());
    assert_eq!((machine.bus.traps(), machine.bus.rung()), (traps, rung + 1));
}

#[test]
fn a_notification_that_reaches_the_register_half_rings_too() {
    // As on a machine without room for one more ioeventfd.
    let (mut driver, _) = driver(1 << 20, |_| ());
    let machine = driver.function.machine.clone();
    let ticket = driver.offer(0, 0, 0, &[], 512);
    let bell = driver.rings[0].bell;
    let windows = machine.bus.windows(1);
    let window = windows.ranges.iter().find(|w| (w.base..w.base + w.len).contains(&bell)).unwrap();
    let offset = bell - window.base + window.target_offset;
    window.target.write(spindle_devices::Access { offset, width: 2 }, 0);
    machine.run();
    assert!(driver.reply(0, &ticket).is_some());
}

#[test]
fn bars_are_sized_moved_and_switched_off() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let function = Function::probe(&machine, disk.at);
    let at = function.common.at;
    let base = at & !0xffff;
    assert_eq!(machine.read(at + 18, 2), 1);
    function.set_pci(4, 2, 0);
    assert_eq!(machine.read(at + 18, 2), 0xffff, "decoding is off");
    function.set_pci(0x10, 4, 0xffff_ffff);
    function.set_pci(0x14, 4, 0xffff_ffff);
    let size = !(function.pci(0x14, 4) << 32 | function.pci(0x10, 4) & !0xf) + 1;
    assert_eq!(size, 0x1_0000);
    let moved = base + 0x10_0000;
    function.set_pci(0x10, 4, moved & 0xffff_ffff);
    function.set_pci(0x14, 4, moved >> 32);
    function.set_pci(4, 2, 2);
    assert_eq!(machine.read(at + 18, 2), 0xffff);
    assert_eq!(machine.read(moved + (at - base) + 18, 2), 1);
    let windows = machine.bus.windows(1);
    assert!(windows.doorbells.iter().all(|bell| bell.address >= moved && bell.width == 0));
    assert_eq!(windows.doorbells.len(), 1);
}

#[test]
fn the_bar_is_reached_through_configuration_space() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let function = &driver.function;
    let cap = function.window;
    let bar_offset = function.common.at & 0xffff;
    let window = |offset: u64, len: u64| {
        function.set_pci(cap + 4, 1, 0);
        function.set_pci(cap + 8, 4, bar_offset + offset);
        function.set_pci(cap + 12, 4, len);
    };
    window(18, 2);
    assert_eq!(function.pci(cap + 16, 2), 1, "num_queues");
    window(20, 1);
    assert_eq!(function.pci(cap + 16, 1), function.status());
    window(22, 2);
    function.set_pci(cap + 16, 2, 7);
    assert_eq!(function.get(22, 2), 7, "queue_select");
    window(21, 4);
    assert_eq!(function.pci(cap + 16, 4), 0xffff_ffff, "misaligned");
    function.set_pci(cap + 4, 1, 3);
    assert_eq!(function.pci(cap + 16, 2), 0xffff, "no such BAR");
    // A notification, for a driver without any other way.
    let ticket = driver.offer(0, 0, 0, &[], 512);
    let function = &driver.function;
    let bell = driver.rings[0].bell & 0xffff;
    function.set_pci(cap + 4, 1, 0);
    function.set_pci(cap + 8, 4, bell);
    function.set_pci(cap + 12, 4, 2);
    function.set_pci(cap + 16, 2, 0);
    driver.function.machine.run();
    assert!(driver.reply(0, &ticket).is_some());
}

#[test]
fn features_are_agreed_or_refused() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let function = Function::probe(&machine, disk.at);
    let offered = function.offered();
    for (features, taken, what) in [
        (offered, true, "all that is offered"),
        (1 << 32, true, "VERSION_1 alone"),
        (0, false, "no VERSION_1"),
        (offered & !(1 << 32), false, "all but VERSION_1"),
        (1 << 32 | 1 << 34, false, "packed rings, which are not offered"),
        (1 << 32 | 1 << 63, false, "a bit that does not exist"),
    ] {
        assert!(offered & features == features || !taken);
        assert_eq!(function.negotiate(features), taken, "{what}");
        function.set(20, 1, 15);
        assert_eq!(function.status() & 4 != 0, taken, "DRIVER_OK after {what}");
    }
}

#[test]
fn features_do_not_change_once_agreed() {
    let (driver, _) = driver(1 << 20, |_| ());
    let function = driver.function;
    function.accept(1 << 32);
    function.set(8, 4, 0);
    assert_eq!(function.get(12, 4), driver.features & 0xffff_ffff);
    function.set(8, 4, 2);
    assert_eq!(function.get(12, 4), 0, "beyond 64 bits");
    function.set(0, 4, 2);
    assert_eq!(function.get(4, 4), 0);
}

#[test]
fn status_bits_are_only_added() {
    let (driver, _) = driver(1 << 20, |_| ());
    let function = driver.function;
    function.set(20, 1, 1);
    assert_eq!(function.status(), 15);
    function.set(20, 1, 0x40);
    assert_eq!(function.status(), 15, "DEVICE_NEEDS_RESET is the device's");
    function.set(20, 1, 0x80);
    assert_eq!(function.status(), 0x8f);
}

/// Offset, width, value after a reset, bits that can be written, of the common configuration with
/// queue 0 selected (virtio 1.2, 4.1.4.3).
const COMMON: &[(u64, u8, u64, u64)] = &[
    (0, 4, 0, 0xffff_ffff),
    (8, 4, 0, 0xffff_ffff),
    (12, 4, 0, 0xffff_ffff),
    (18, 2, 1, 0),
    (21, 1, 0, 0),
    (30, 2, 0, 0),
    (32, 8, 0, u64::MAX),
    (40, 8, 0, u64::MAX),
    (48, 8, 0, u64::MAX),
    (56, 2, 0, 0),
];

#[test]
fn every_register_takes_every_width_at_every_alignment() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let function = Function::probe(&machine, disk.at);
    for (offset, width, initial, writable) in COMMON {
        for part in [1u8, 2, 4, 8] {
            for at in 0..*width {
                if at + part > *width {
                    continue;
                }
                function.reset();
                assert_eq!(function.get(*offset, *width), *initial, "register {offset}");
                let ones = if part == 8 { u64::MAX } else { (1 << (u32::from(part) * 8)) - 1 };
                function.set(offset + u64::from(at), part, ones);
                let expected = initial | (ones << (at * 8)) & writable;
                assert_eq!(function.get(*offset, *width), expected, "{offset}+{at}, {part} bytes");
                for byte in 0..*width {
                    let one = function.get(offset + u64::from(byte), 1);
                    assert_eq!(one, expected >> (byte * 8) & 0xff, "byte {byte} of {offset}");
                }
            }
        }
    }
    // Accesses across registers and beyond the structure neither fail nor reach anything else.
    for offset in 0..80 {
        for width in [1, 2, 4, 8] {
            let _ = function.get(offset, width);
        }
    }
}

#[test]
fn queue_registers_belong_to_the_selected_queue() {
    let (machine, disk) = machine(1 << 20, |config| {
        config.iothreads = vec![config.iothreads[0].clone(); 3];
        config.queue_size = 128;
    });
    let function = Function::probe(&machine, disk.at);
    for queue in 0..3u64 {
        function.set(22, 2, queue);
        assert_eq!(function.get(24, 2), 128);
        function.set(24, 2, 16 << queue);
        function.set(32, 8, 0x1000 * (queue + 1));
    }
    for queue in 0..3u64 {
        function.set(22, 2, queue);
        assert_eq!(function.get(24, 2), 16 << queue);
        assert_eq!(function.get(32, 4), 0x1000 * (queue + 1));
    }
    function.set(22, 2, 3);
    assert_eq!(function.get(24, 2), 0, "there is no queue 3");
    function.set(28, 2, 1);
    assert_eq!(function.get(28, 2), 0);
    for refused in [0, 3, 129, 256, 0xffff] {
        function.set(22, 2, 0);
        function.set(24, 2, refused);
        assert_eq!(function.get(24, 2), 16, "size {refused}");
    }
}

#[test]
fn a_queue_that_is_enabled_stays_where_it_is() {
    let (driver, _) = driver(1 << 20, |_| ());
    let function = &driver.function;
    function.set(22, 2, 0);
    function.set(32, 4, 0x5000);
    function.set(24, 2, 4);
    function.set(28, 2, 0);
    assert_eq!(function.get(32, 4), driver.rings[0].desc);
    assert_eq!(function.get(24, 2), 16);
    assert_eq!(function.get(28, 2), 1);
}

#[test]
fn nothing_is_served_before_driver_ok_and_what_waits_is_served_then() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let driver = BlkDriver::new(&machine, disk.at, ALL, 0, 16);
    assert!(driver.function.negotiate(driver.features));
    let ring = driver.function.queue(0, 16, driver.features);
    let mut driver = BlkDriver { rings: vec![ring], ..driver };
    let ticket = driver.offer(0, 1, 0, &pattern(1, 512), 0);
    driver.rings[0].notify();
    machine.run();
    assert!(driver.reply(0, &ticket).is_none());
    driver.function.ready();
    machine.run();
    assert_eq!(driver.reply(0, &ticket).unwrap().status, 0);
}

#[test]
fn a_function_that_may_not_reach_memory_waits_until_it_may() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    driver.function.set_pci(4, 2, 2);
    let ticket = driver.offer(0, 1, 0, &pattern(1, 512), 0);
    driver.rings[0].notify();
    driver.function.machine.run();
    assert!(driver.reply(0, &ticket).is_none());
    driver.function.set_pci(4, 2, 6);
    driver.function.machine.run();
    assert_eq!(driver.reply(0, &ticket).unwrap().status, 0);
}

#[test]
fn offers_follow_the_configuration() {
    let offered = |configure: fn(&mut spindle_devices::virtio::VirtioBlkConfig)| {
        let (machine, disk) = machine(1 << 20, configure);
        Function::probe(&machine, disk.at).offered()
    };
    let all = offered(|_| ());
    for bit in [1, 2, 4, 6, 9, 10, 11, 13, 14, 15, 16, 28, 29, 32, 40] {
        assert_ne!(all & 1 << bit, 0, "feature {bit}");
    }
    assert_eq!(all & (1 << 5 | 1 << 12), 0, "writable, one queue");
    assert_eq!(all & !offered(|c| c.config_wce = false), 1 << 11);
    assert_eq!(all & !offered(|c| c.discard = false), 1 << 13);
    assert_eq!(all & !offered(|c| c.write_zeroes = false), 1 << 14);
    assert_eq!(all & !offered(|c| c.secure_erase = false), 1 << 16);
    assert_eq!(all & !offered(|c| c.indirect_desc = false), INDIRECT);
    assert_eq!(all & !offered(|c| c.event_idx = false), 1 << 29);
    assert_eq!(all & !offered(|c| c.queue_reset = false), 1 << 40);
    let mq = offered(|c| c.iothreads = vec![c.iothreads[0].clone(); 2]);
    assert_eq!(mq & !all, 1 << 12);
}
