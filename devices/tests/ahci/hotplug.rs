//! Drives that come and go.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use spindle_devices::{
    ahci::{AhciError, Plug},
    ata::{DriveConfig, Transport},
};

use super::driver::{
    Driver, P_CI, P_IS, P_SACT, P_SERR, P_SSTS, P_TFD, PCS, PRCS, ata, queued, setup, setup_with,
};

fn plug(s: &super::driver::Setup, port: u8) -> Result<(), AhciError> {
    let config = DriveConfig::new("other", Transport::Serial);
    s.controller.device.plug(port, Plug::Disk(config, Arc::clone(&s.root)))
}

#[test]
fn a_drive_comes() {
    let s = setup_with(2, |_| (), |_| ());
    let driver = Driver::new(&s.machine, s.controller.at, 1);
    assert_eq!((driver.get(P_SSTS), driver.get(P_IS)), (0, 0));
    s.driver.set_global(8, 0xffff_ffff);
    plug(&s, 1).unwrap();
    s.machine.run();
    assert_eq!((driver.get(P_SSTS), driver.get(P_TFD)), (0x133, 0x150));
    assert_eq!(driver.get(P_IS), PCS | PRCS);
    assert_eq!((driver.global(8), s.controller.wire.level()), (2, true));
    driver.bring_up();
    driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
}

#[test]
fn a_drive_goes_in_mid_transfer() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    s.driver.place(0, &queued(0x60, 0, 1, 0), &[(at, 512, false)], 0);
    s.driver.set(P_SACT, 1);
    s.driver.set(P_CI, 1);
    s.machine.turn();
    let over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&over);
    s.controller.device.unplug(0, Box::new(move || flag.store(true, SeqCst))).unwrap();
    assert_eq!(s.driver.get(P_SSTS), 0);
    s.machine.turn();
    assert!(!over.load(SeqCst), "its image is in use");
    s.machine.run();
    assert!(over.load(SeqCst));
    assert_eq!(Arc::strong_count(&s.root), 1, "nothing holds its medium");
    assert_ne!(s.driver.get(P_IS) & PRCS, 0);
    assert_eq!(s.driver.get(P_TFD), 0x7f);
    // And comes back.
    s.driver.stop();
    s.driver.set(P_SERR, 0xffff_ffff);
    plug(&s, 0).unwrap();
    s.machine.run();
    s.driver.bring_up();
    s.driver.ok(&ata(0x25, 0, 0, 1), at, 512);
}

#[test]
fn ports_that_are_taken_or_empty_or_not_there() {
    let s = setup_with(2, |_| (), |_| ());
    let text = |result: Result<(), AhciError>| result.unwrap_err().to_string();
    assert_eq!(text(plug(&s, 0)), "port 0 of AHCI controller 'ahci0' is in use");
    assert_eq!(text(plug(&s, 2)), "AHCI controller 'ahci0' has no port 2: its ports are 0 to 1");
    let called = Rc::new(AtomicBool::new(false));
    let unplug = s.controller.device.unplug(1, Box::new(|| ()));
    assert_eq!(text(unplug), "port 1 of AHCI controller 'ahci0' is empty");
    drop(called);
}

#[test]
fn plugged_in_and_out_before_anything_runs() {
    let s = setup_with(2, |_| (), |_| ());
    for _ in 0..5 {
        plug(&s, 1).unwrap();
        s.controller.device.unplug(1, Box::new(|| ())).unwrap();
    }
    plug(&s, 1).unwrap();
    s.machine.run();
    let driver = Driver::new(&s.machine, s.controller.at, 1);
    driver.ok(&ata(0xe7, 0, 0, 0), 0, 0);
}
