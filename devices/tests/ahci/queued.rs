//! Native command queuing.

use spindle_devices::testkit::{Event, Log, Machine, Memory};

use super::driver::{
    DPS, Driver, P_CI, P_IS, P_SACT, P_TFD, SDBS, Setup, ata, pattern, queued, setup, setup_on,
};

const READ: u8 = 0x60;
const WRITE: u8 = 0x61;

/// Issues commands in these slots, which are placed.
fn issue(driver: &Driver, slots: u64) {
    driver.set(P_SACT, slots);
    driver.set(P_CI, slots);
}

#[test]
fn thirty_two_commands_at_once() {
    let s = setup();
    let memory = &s.machine.memory;
    let at = memory.alloc(32 * 4096, 4096);
    for slot in 0..32u8 {
        let place = at + u64::from(slot) * 4096;
        memory.write(place, &pattern(slot, 4096));
        let fis = queued(WRITE, u64::from(slot) * 8, 8, slot);
        s.driver.place(slot, &fis, &[(place, 4096, false)], 0);
    }
    issue(&s.driver, 0xffff_ffff);
    s.machine.turn();
    // They are taken, and none has ended.
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_SACT)), (0, 0xffff_ffff));
    assert_eq!(s.driver.get(P_TFD), 0x50);
    s.machine.run();
    assert_eq!((s.driver.get(P_SACT), s.driver.get(P_IS)), (0, SDBS));
    let all: Vec<u8> = (0..32).flat_map(|slot| pattern(slot, 4096)).collect();
    assert_eq!(s.contents(0, 32 * 4096), all);
    memory.write(at, &[0; 32 * 4096]);
    for slot in 0..32u8 {
        let fis = queued(READ, u64::from(slot) * 8, 8, slot);
        s.driver.place(slot, &fis, &[(at + u64::from(slot) * 4096, 4096, false)], 0);
    }
    issue(&s.driver, 0xffff_ffff);
    s.machine.run();
    assert_eq!(s.driver.get(P_SACT), 0);
    assert_eq!(memory.read(at, 32 * 4096), all);
}

#[test]
fn the_frames_of_a_queued_command() {
    let s = setup();
    let at = s.machine.memory.alloc(4096, 4096);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.place(5, &queued(READ, 9, 8, 5), &[(at, 4096, true)], 0);
    issue(&s.driver, 1 << 5);
    s.machine.turn();
    let fis = |offset, len| s.machine.memory.read(s.driver.area + offset, len);
    // It is taken: no interrupt.
    assert_eq!(fis(0x40, 4), [0x34, 0, 0x50, 0]);
    assert_eq!(s.driver.get(P_IS), 0);
    s.machine.run();
    let setup = fis(0, 28);
    assert_eq!((&setup[..5], &setup[20..24]), (&[0x41, 0x20, 0, 0, 5][..], &[0, 16, 0, 0][..]));
    assert_eq!(fis(0x58, 8), [0xa1, 0x40, 0x50, 0, 0x20, 0, 0, 0]);
    assert_eq!(s.driver.get(P_IS), SDBS | DPS);
}

#[test]
fn the_order_that_a_driver_may_see() {
    let log = std::sync::Arc::new(Log::default());
    let mut machine = Machine::new(1);
    machine.memory = Memory::logged(std::sync::Arc::clone(&log));
    machine.irqs.log_to(std::sync::Arc::clone(&log));
    let s = setup_on(machine, 1, |_| (), |_| ());
    enable_msi(&s);
    let at = s.machine.memory.alloc(4096, 4096);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.place(0, &queued(READ, 0, 8, 0), &[(at, 4096, false)], 0);
    issue(&s.driver, 1);
    log.take();
    s.machine.run();
    let area = s.driver.area;
    let wrote = |address, len| Event::Wrote { address, len };
    assert_eq!(
        log.take(),
        [
            wrote(area, 28),
            wrote(area + 0x40, 20),
            wrote(at, 4096),
            wrote(area + 0x58, 8),
            Event::Interrupt { data: 0x55 },
        ]
    );
}

fn enable_msi(s: &Setup) {
    super::interrupts::enable_msi(&s.machine, s.controller.at);
}

#[test]
fn fua_is_durable() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    s.machine.memory.write(at, &pattern(1, 512));
    let mut fis = queued(WRITE, 3, 1, 0);
    fis.0[7] |= 0x80;
    s.driver.place(0, &fis, &[(at, 512, false)], 0);
    issue(&s.driver, 1);
    s.machine.run();
    assert_eq!(s.durable(3 * 512, 512), pattern(1, 512));
}

#[test]
fn queued_trim() {
    let s = setup();
    let memory = &s.machine.memory;
    let at = memory.alloc(4096, 512);
    memory.write(at, &pattern(1, 4096));
    s.driver.ok(&ata(0x35, 0, 0, 8), at, 4096);
    memory.write(at, &[0; 512]);
    memory.set_number(at, 8, 2 | 3 << 48);
    let mut fis = ata(0x64, 1, 0, 4 << 3);
    fis.0[16] = 1;
    s.driver.place(4, &fis, &[(at, 512, false)], 0);
    issue(&s.driver, 1 << 4);
    s.machine.run();
    assert_eq!((s.driver.get(P_SACT), s.driver.get(P_TFD)), (0, 0x50));
    let mut expected = pattern(1, 4096);
    expected[1024..2560].fill(0);
    assert_eq!(s.contents(0, 4096), expected);
}

#[test]
fn slots_are_taken_in_turn() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    // Not queued: one after the other, from the slot after the last one.
    for slot in [3u8, 30, 7, 31, 0] {
        let fis = ata(0x25, 0, u64::from(slot), 1);
        s.driver.place(slot, &fis, &[(at, 512, false)], 0);
    }
    s.driver.set(P_CI, 1 << 7);
    s.machine.run();
    s.driver.set(P_CI, 1 << 3 | 1 << 30 | 1 << 31 | 1);
    let mut order = Vec::new();
    for _ in 0..200 {
        let before = s.driver.get(P_CI);
        s.machine.turn();
        s.machine.world.step();
        let ended = before & !s.driver.get(P_CI);
        order.extend((0..32).filter(|slot| ended & 1 << slot != 0));
    }
    assert_eq!(order, [30, 31, 0, 3]);
}
