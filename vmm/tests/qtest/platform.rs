//! Buses, clocks, lines and power.

use super::client::{Function, Qtest};

#[test]
fn configuration_space_is_the_same_by_ports_and_in_memory() {
    let mut q =
        Qtest::start(&["--device", "virtio-rng-pci", "--device", "virtio-rng-pci,addr=1e.3"]);
    for (slot, function, id) in [
        (0, 0, 0x29c0_8086),
        (0x1f, 0, 0x2918_8086),
        (2, 0, 0x1044_1af4),
        (0x1e, 3, 0x1044_1af4),
        (3, 0, 0xffff_ffff),
    ] {
        assert_eq!(q.pci_by_ports(slot, function, 0), id, "{slot:x}.{function}");
        let place = Function::new(slot, function);
        for at in (0..256).step_by(4) {
            let by_ports = q.pci_by_ports(slot, function, at);
            assert_eq!(place.get(&mut q, at, 4), by_ports, "{slot:x}.{function} at {at:#x}");
        }
    }
    assert_eq!(Function::new(0x1f, 0).get(&mut q, 0xe, 1) & 0x80, 0x80, "multifunction");
    // There is no firmware: nobody has given out addresses.
    assert_eq!(Function::new(2, 0).get(&mut q, 4, 2) & 3, 0);
    assert!(q.end().1.success());
}

#[test]
fn timers_follow_the_clock_and_nothing_else_does() {
    let mut q = Qtest::start(&[]);
    let timer = |q: &mut Qtest| q.inl(0x608);
    assert_eq!(timer(&mut q), 0);
    assert_eq!(q.send("clock_step 1000000000"), "OK 1000000000");
    assert_eq!(timer(&mut q), 3_579_545);
    assert_eq!(timer(&mut q), 3_579_545);
    let second = |q: &mut Qtest| {
        q.outb(0x70, 0);
        let bcd = q.inb(0x71);
        (bcd >> 4) * 10 + (bcd & 15)
    };
    let before = second(&mut q);
    assert_eq!(q.send("clock_set 8000000000"), "OK 8000000000");
    assert_eq!(second(&mut q), (before + 7) % 60);
    assert_eq!(q.send("clock_set 1"), "FAIL 8000000000");
    assert!(q.end().1.success());
}

#[test]
fn the_serial_port_and_the_power_button_have_their_lines() {
    let mut q = Qtest::start(&[]);
    q.ok("irq_intercept_in ioapic");
    // Transmitter empty: enabled, pending until it is identified.
    q.outb(0x3f9, 2);
    q.outb(0x3f8, b'x'.into());
    assert_eq!(q.irq(), (true, 4));
    assert_eq!(q.inb(0x3fa) & 0xf, 2);
    assert_eq!(q.irq(), (false, 4));
    q.ok("set_irq_in ioapic unnamed-gpio-in 9 1");
    assert_eq!(q.irq(), (true, 9));
    assert!(q.end().1.success());
}

#[test]
fn a_reset_is_over_before_the_next_access() {
    let mut q = Qtest::start(&["--device", "virtio-rng-pci"]);
    let rng = Function::new(2, 0);
    rng.enable(&mut q);
    let bar = q.load(0xb000_0000 + (2 << 15) + 0x10, 4);
    assert_ne!(bar & !0xf, 0);
    q.ok("writeb 0x1000 0x77");
    for _ in 0..20 {
        q.outb(0xcf9, 2);
        q.outb(0xcf9, 6);
        assert_eq!(rng.get(&mut q, 4, 2), 0);
        assert_eq!(rng.get(&mut q, 0x10, 4) & !0xf, 0);
        rng.enable(&mut q);
    }
    assert_eq!(q.load(0x1000, 1), 0x77, "memory is kept");
    assert!(q.end().1.success());
}

#[test]
fn a_power_off_and_the_debug_port_end_the_process() {
    let mut q = Qtest::start(&["--debug-exit=0x501"]);
    q.outb(0x501, 42);
    assert_eq!(q.ended().1.code(), Some(42));
    let mut q = Qtest::start(&[]);
    q.outw(0x604, 1 << 13);
    assert_eq!(q.ended().1.code(), Some(0));
}
