//! COMRESET, software reset, reset of the HBA and of the function: idle, and in mid-transfer.

use spindle_devices::Device;

use super::driver::{
    CR, DHRS, FR, FRE, Fis, P_CI, P_CMD, P_FB, P_IE, P_IS, P_SACT, P_SCTL, P_SERR, P_SIG, P_SSTS,
    P_TFD, PCS, PRCS, ST, Setup, ata, pattern, queued, setup, setup_with,
};

/// Issues four queued reads, which are in flight then, and returns where to.
fn in_flight(s: &Setup) -> u64 {
    let at = s.machine.memory.alloc(4096, 4096);
    s.machine.memory.write(at, &[0xaa; 4096]);
    for slot in 0..4u8 {
        let fis = queued(0x60, 0, 1, slot);
        s.driver.place(slot, &fis, &[(at + u64::from(slot) * 512, 512, false)], 0);
    }
    s.driver.set(P_SACT, 0xf);
    s.driver.set(P_CI, 0xf);
    s.machine.turn();
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_SACT)), (0, 0xf));
    at
}

/// After `over`, nothing is written to memory any more.
fn quiet_after(s: &Setup, at: u64, over: impl Fn() -> bool) {
    let mut rounds = 0;
    while !over() {
        s.machine.turn();
        s.machine.world.step();
        rounds += 1;
        assert!(rounds < 1000, "it never ends");
    }
    s.machine.memory.write(at, &[0xbb; 4096]);
    s.machine.run();
    assert_eq!(s.machine.memory.read(at, 4096), [0xbb; 4096]);
}

#[test]
fn a_stop_waits_for_what_is_in_flight() {
    let s = setup();
    let at = in_flight(&s);
    s.driver.set(P_IS, 0xffff_ffff);
    s.driver.set(P_CMD, s.driver.get(P_CMD) & !ST);
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_SACT)), (0, 0));
    assert_ne!(s.driver.get(P_CMD) & CR, 0);
    // It cannot be started as long as it runs.
    quiet_after(&s, at, || s.driver.get(P_CMD) & CR == 0);
    assert_eq!(s.driver.get(P_IS), 0, "nothing is told of what was stopped");
    s.driver.start();
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn a_start_before_the_stop_is_over_waits_for_it() {
    let s = setup();
    let at = in_flight(&s);
    s.driver.set(P_CMD, s.driver.get(P_CMD) & !ST);
    s.driver.set(P_CMD, s.driver.get(P_CMD) | ST);
    s.driver.place(9, &ata(0x25, 0, 0, 1), &[(at, 512, false)], 0);
    s.driver.set(P_CI, 1 << 9);
    s.machine.run();
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_TFD)), (0, 0x50));
}

#[test]
fn comreset() {
    let s = setup();
    let at = in_flight(&s);
    s.driver.set(P_SCTL, 1);
    assert_eq!(s.driver.get(P_SSTS), 0);
    assert_eq!(s.driver.get(P_TFD) & 0x80, 0x80);
    s.driver.set(P_SCTL, 0);
    quiet_after(&s, at, || s.driver.get(P_SSTS) & 0xf == 3);
    s.machine.run();
    assert_eq!(s.driver.get(P_SSTS), 0x133);
    assert_eq!(s.driver.get(P_IS) & (PCS | PRCS), PCS | PRCS);
    assert_eq!(s.driver.get(P_SERR), 1 << 26 | 1 << 16);
    s.driver.set(P_SERR, 0xffff_ffff);
    assert_eq!(s.driver.get(P_IS) & (PCS | PRCS), 0);
    assert_eq!((s.driver.get(P_SIG), s.driver.get(P_TFD)), (0x0101, 0x0150));
    let fis = s.machine.memory.read(s.driver.area + 0x40, 20);
    assert_eq!((fis[0], fis[1], fis[2], fis[4], fis[12]), (0x34, 0, 0x50, 1, 1));
    // The list was not stopped: it goes on.
    assert_ne!(s.driver.get(P_CMD) & CR, 0);
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn without_a_place_for_it_the_signature_waits() {
    let s = setup();
    s.driver.stop();
    s.driver.set(P_CMD, s.driver.get(P_CMD) & !FRE);
    s.machine.run();
    assert_eq!(s.driver.get(P_CMD) & FR, 0);
    s.driver.comreset();
    assert_eq!((s.driver.get(P_SSTS), s.driver.get(P_TFD)), (0x133, 0xff));
    s.driver.set(P_CMD, s.driver.get(P_CMD) | FRE);
    s.machine.run();
    assert_eq!((s.driver.get(P_SIG), s.driver.get(P_TFD)), (0x0101, 0x0150));
}

#[test]
fn offline_and_back() {
    let s = setup();
    s.driver.stop();
    s.driver.set(P_SCTL, 4);
    assert_eq!(s.driver.get(P_SSTS), 4);
    s.driver.set(P_SCTL, 1);
    s.driver.set(P_SCTL, 0);
    s.machine.run();
    s.driver.start();
    s.driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
}

fn control(srst: bool) -> Fis {
    let mut fis = [0; 20];
    fis[0] = 0x27;
    fis[15] = if srst { 0x0c } else { 0x08 };
    Fis(fis)
}

fn soft_reset(s: &Setup) {
    s.driver.place(0, &control(true), &[], 1 << 8 | 1 << 10);
    s.driver.set(P_CI, 1);
    s.machine.turn();
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_TFD) & 0x80), (0, 0));
    s.driver.place(1, &control(false), &[], 0);
    s.driver.set(P_CI, 2);
}

#[test]
fn software_reset_in_mid_transfer() {
    let s = setup();
    let at = in_flight(&s);
    soft_reset(&s);
    s.machine.turn();
    assert_eq!(s.driver.get(P_TFD) & 0x80, 0x80, "busy until it is quiet");
    quiet_after(&s, at, || s.driver.get(P_TFD) & 0x80 == 0);
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_TFD), s.driver.get(P_SIG)), (0, 0x150, 0x101));
    s.driver.stop();
    s.driver.start();
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn which_settings_a_reset_keeps() {
    let s = setup();
    let cache = || {
        let at = s.machine.memory.alloc(512, 512);
        s.driver.ok(&ata(0xec, 0, 0, 0), at, 512);
        s.machine.memory.number(at + 170, 2) & 0x20 != 0
    };
    let soft = || {
        soft_reset(&s);
        s.machine.run();
    };
    let feature = |feature: u16, count: u16| s.driver.ok(&ata(0xef, feature, 0, count), 0, 0);
    feature(0x82, 0);
    soft();
    assert!(!cache(), "a software reset keeps them");
    feature(0xcc, 0);
    soft();
    assert!(cache(), "unless it is told to revert");
    feature(0x82, 0);
    s.driver.comreset();
    assert!(!cache(), "COMRESET keeps them, with settings preservation");
    feature(0x90, 6);
    s.driver.comreset();
    assert!(cache());
    feature(0x82, 0);
    s.machine.reset(s.controller.at);
    s.machine.assign();
    let again = super::driver::Driver::new(&s.machine, s.controller.at, 0);
    let at = s.machine.memory.alloc(512, 512);
    again.ok(&ata(0xec, 0, 0, 0), at, 512);
    assert_ne!(s.machine.memory.number(at + 170, 2) & 0x20, 0, "power-on brings them back");
}

#[test]
fn the_hba_is_reset() {
    let s = setup();
    let at = in_flight(&s);
    s.driver.set_global(4, 0x8000_0003);
    assert_eq!(s.driver.global(4) & 1, 1);
    quiet_after(&s, at, || s.driver.global(4) & 1 == 0);
    assert_eq!((s.driver.global(4), s.driver.global(8)), (0x8000_0000, 0));
    assert_eq!((s.driver.get(P_IE), s.driver.get(P_SCTL)), (0, 0));
    assert_eq!(s.driver.get(P_CMD) & (ST | FRE | CR), 0);
    assert_eq!(s.driver.get(P_FB), s.driver.area, "the bases stay");
    assert_eq!(s.driver.get(P_SSTS), 0x133);
    s.driver.set_global(4, 0x8000_0002);
    s.driver.bring_up();
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn the_function_is_reset_while_paused() {
    let s = setup();
    let at = in_flight(&s);
    let function = s.controller.device.function();
    s.machine.finish(|done| function.pause(done));
    s.machine.reset(s.controller.at);
    s.machine.assign();
    function.resume();
    let again = super::driver::Driver::new(&s.machine, s.controller.at, 0);
    s.machine.memory.write(at, &[0xbb; 4096]);
    s.machine.run();
    assert_eq!(s.machine.memory.read(at, 4096), [0xbb; 4096]);
    again.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn a_pause_drains_and_takes_nothing() {
    let s = setup();
    let at = in_flight(&s);
    let function = s.controller.device.function();
    s.machine.finish(|done| function.pause(done));
    assert_eq!(s.driver.get(P_SACT), 0);
    s.driver.place(0, &ata(0x35, 0, 0, 1), &[(at, 512, false)], 0);
    s.driver.set(P_CI, 1);
    s.machine.run();
    assert_eq!(s.driver.get(P_CI), 1);
    function.resume();
    s.machine.run();
    assert_eq!(s.driver.get(P_CI), 0);
}

#[test]
fn without_bus_master_nothing_is_taken() {
    let s = setup();
    s.machine.pci_write(s.controller.at, 4, 2, 3);
    s.driver.place(0, &ata(0xe7, 0, 0, 0), &[], 0);
    s.driver.set(P_CI, 1);
    s.machine.run();
    assert_eq!(s.driver.get(P_CI), 1);
    s.machine.pci_write(s.controller.at, 4, 2, 7);
    s.machine.run();
    assert_eq!((s.driver.get(P_CI), s.driver.get(P_IS) & DHRS), (0, DHRS));
}

#[test]
fn command_list_override_frees_a_port_that_hangs() {
    let s = setup();
    let at = s.machine.memory.alloc(4096, 512);
    // Too short a table leaves the drive busy.
    s.driver.run(&ata(0x25, 0, 0, 8), at, 512);
    assert_ne!(s.driver.get(P_TFD) & 0x80, 0);
    s.driver.stop();
    s.driver.set(P_CMD, s.driver.get(P_CMD) | ST);
    assert_eq!(s.driver.get(P_CMD) & CR, 0, "it waits for the drive");
    s.driver.set(P_CMD, s.driver.get(P_CMD) & !ST);
    s.driver.set(P_CMD, s.driver.get(P_CMD) | 8);
    assert_eq!((s.driver.get(P_TFD) & 0x88, s.driver.get(P_CMD) & 8), (0, 0));
    s.driver.start();
    soft_reset(&s);
    s.machine.run();
    s.driver.ok(&ata(0x25, 0, 0, 8), at, 4096);
}

#[test]
fn a_job_in_flight_is_ended() {
    let s = setup_with(1, |_| (), |_| ());
    s.driver.place(0, &ata(0x42, 0, 0, 16000), &[], 0);
    s.driver.set(P_CI, 1);
    s.machine.turn();
    let reads = || s.machine.world.contents(&s.file);
    let _ = reads();
    s.driver.stop();
    s.driver.comreset();
    s.driver.bring_up();
    let at = s.machine.memory.alloc(512, 512);
    s.machine.memory.write(at, &pattern(1, 512));
    s.driver.ok(&ata(0x35, 0, 0, 1), at, 512);
}

#[test]
fn spin_up_one_by_one() {
    let s = setup_with(2, |config| config.staggered = true, |_| ());
    assert_ne!(s.driver.global(0) & 1 << 27, 0);
    assert_eq!(s.driver.get(P_SSTS), 0);
    assert_eq!(s.driver.get(P_CMD) & 2, 0);
    s.driver.set(P_CMD, s.driver.get(P_CMD) | 2);
    s.machine.run();
    assert_eq!((s.driver.get(P_SSTS), s.driver.get(P_TFD)), (0x133, 0x150));
    s.driver.bring_up();
    s.driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
}

#[test]
fn partial_and_slumber() {
    let s = setup();
    let power = |icc: u64| {
        s.driver.set(P_CMD, s.driver.get(P_CMD) | icc << 28);
        assert_eq!(s.driver.get(P_CMD) >> 28, 0);
        s.driver.get(P_SSTS) >> 8
    };
    assert_eq!([power(2), power(1), power(6), power(1)], [2, 1, 6, 1]);
    s.driver.set(P_SCTL, 0x300);
    assert_eq!([power(2), power(6)], [1, 1]);
    s.driver.set(P_SCTL, 0);
    assert_eq!(power(6), 6);
    s.driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
    assert_eq!(s.driver.get(P_SSTS) >> 8, 1, "a command wakes the link");
}
