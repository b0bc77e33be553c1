//! Command completion coalescing (AHCI 11).

use std::time::Duration;

use super::{
    driver::{P_CI, P_IE, P_IS, P_SACT, Setup, ata, queued, setup, setup_with},
    interrupts::enable_msi,
};

const CCC_CTL: u64 = 0x14;
const CCC_PORTS: u64 = 0x18;
const IS: u64 = 0x08;

/// Completions and milliseconds, on port 0, whose own interrupts are off.
fn enable(s: &Setup, completions: u64, time: u64) {
    s.driver.set(P_IE, 0);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.set_global(IS, 0xffff_ffff);
    s.driver.set_global(CCC_CTL, time << 16 | completions << 8);
    s.driver.set_global(CCC_PORTS, 1);
    s.driver.set_global(CCC_CTL, time << 16 | completions << 8 | 1);
}

/// Completes commands one after the other, without letting time pass on its own account.
fn complete(s: &Setup, commands: usize) {
    for _ in 0..commands {
        s.driver.place(0, &ata(0xe5, 0, 0, 0), &[], 0);
        s.driver.set(P_CI, 1);
        s.machine.turn();
        assert_eq!(s.driver.get(P_CI), 0);
    }
}

#[test]
fn registers_are_fixed_while_it_is_enabled() {
    let s = setup_with(3, |_| (), |_| ());
    let interrupt = 3 << 3;
    assert_eq!(s.driver.global(CCC_CTL), 0x0001_0100 | interrupt);
    assert_eq!(s.driver.global(CCC_PORTS), 0);
    s.driver.set_global(CCC_PORTS, 0xffff_ffff);
    assert_eq!(s.driver.global(CCC_PORTS), 7);
    s.driver.set_global(CCC_CTL, 0x1234_5600);
    assert_eq!(s.driver.global(CCC_CTL), 0x1234_5600 | interrupt);
    s.driver.set_global(CCC_CTL, 0x1234_5601);
    s.driver.set_global(CCC_CTL, 0xffff_ffff);
    assert_eq!(s.driver.global(CCC_CTL), 0x1234_5601 | interrupt);
    s.driver.set_global(CCC_CTL, 0);
    assert_eq!(s.driver.global(CCC_CTL), 0x1234_5600 | interrupt);
    // A reset of the controller.
    s.driver.set_global(4, 0x8000_0001);
    s.machine.run();
    assert_eq!((s.driver.global(CCC_CTL), s.driver.global(CCC_PORTS)), (0x0001_0118, 0));
    let full = setup_with(32, |_| (), |_| ());
    full.driver.set_global(CCC_CTL, 0xffff_ffff);
    full.driver.set_global(CCC_PORTS, 0xffff_ffff);
    assert_eq!((full.driver.global(CCC_CTL), full.driver.global(CCC_PORTS)), (0, 0));
}

#[test]
fn an_interrupt_comes_after_so_many_completions() {
    let s = setup();
    enable(&s, 4, 60_000);
    complete(&s, 3);
    assert!(!s.controller.wire.level());
    assert_eq!(s.driver.global(IS), 0);
    complete(&s, 1);
    assert!(s.controller.wire.level());
    assert_eq!(s.driver.global(IS), 2, "the bit behind that of the port");
    s.driver.set_global(IS, 2);
    assert!(!s.controller.wire.level());
    complete(&s, 3);
    assert!(!s.controller.wire.level(), "it begins anew");
    complete(&s, 1);
    assert!(s.controller.wire.level());
}

#[test]
fn and_never_later_than_the_time_after_the_first() {
    let s = setup();
    enable(&s, 200, 5);
    complete(&s, 2);
    s.machine.world.advance(Duration::from_micros(4999));
    s.machine.turn();
    assert!(!s.controller.wire.level());
    s.machine.world.advance(Duration::from_micros(1));
    s.machine.turn();
    assert!(s.controller.wire.level());
    s.driver.set_global(IS, 2);
    // Without completions there is nothing to tell.
    s.machine.world.advance(Duration::from_secs(1));
    s.machine.turn();
    assert!(!s.controller.wire.level());
    // 0 completions: only the time counts.
    s.driver.set_global(CCC_CTL, 0);
    enable(&s, 0, 5);
    complete(&s, 300);
    assert!(!s.controller.wire.level());
    s.machine.world.advance(Duration::from_millis(5));
    s.machine.turn();
    assert!(s.controller.wire.level());
}

#[test]
fn queued_commands_count_when_they_are_done() {
    let s = setup();
    enable(&s, 8, 60_000);
    let at = s.machine.memory.alloc(8 * 512, 512);
    for tag in 0..8u8 {
        let fis = queued(0x60, u64::from(tag), 1, tag);
        s.driver.place(tag, &fis, &[(at + u64::from(tag) * 512, 512, false)], 0);
    }
    s.driver.set(P_SACT, 0xff);
    s.driver.set(P_CI, 0xff);
    s.machine.turn();
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_SACT)), (0, 0xff), "taken, not done");
    assert!(!s.controller.wire.level());
    while s.driver.get(P_SACT) != 0 {
        s.machine.world.step();
        s.machine.turn();
        let left = s.driver.get(P_SACT);
        assert_eq!(s.controller.wire.level(), left == 0, "{left:#x}");
    }
}

#[test]
fn other_ports_and_a_controller_without_it_interrupt_as_ever() {
    let s = setup();
    enable(&s, 1, 1);
    s.driver.set_global(CCC_PORTS, 0);
    complete(&s, 3);
    s.machine.run();
    assert_eq!(s.driver.global(IS), 0, "no port is watched");
    s.driver.set(P_IE, 1);
    assert!(s.controller.wire.level(), "the port's own interrupt");
}

#[test]
fn it_has_messages_too() {
    let s = setup();
    enable_msi(&s.machine, s.controller.at);
    enable(&s, 2, 60_000);
    s.machine.irqs.take();
    complete(&s, 1);
    assert!(s.machine.irqs.take().is_empty());
    complete(&s, 1);
    assert_eq!(s.machine.irqs.take().len(), 1);
    // Switched on again, it shows what nobody has taken.
    s.driver.set_global(4, 0x8000_0000);
    s.driver.set_global(4, 0x8000_0002);
    assert_eq!(s.machine.irqs.take().len(), 1);
}
