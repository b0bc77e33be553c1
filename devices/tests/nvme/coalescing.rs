//! Interrupt coalescing (base 5.27.1.6, 5.27.1.7).

use std::time::Duration;

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{Setup, driver};

fn set(driver: &mut NvmeDriver, id: u32, value: u32) {
    assert_eq!(driver.admin(Cmd::new(0x09, 0).dw(10, id).dw(11, value)).status, 0);
}

/// Reads in flight, interrupts forgotten.
fn load(driver: &mut NvmeDriver, setup: &Setup, count: u64) {
    for lba in 0..count {
        let data = driver.alloc(512);
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(lba, 1));
    }
    driver.ring(1);
    setup.machine.turn();
    setup.machine.irqs.take();
}

/// Lets one read complete, without letting time pass beyond that.
fn one(setup: &Setup) -> usize {
    assert!(setup.machine.world.step());
    setup.machine.turn();
    setup.machine.irqs.take().len()
}

#[test]
fn a_completion_waits_for_others_up_to_the_threshold() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    // Four completions, 25.5 ms.
    set(&mut driver, 8, 255 << 8 | 3);
    load(&mut driver, &setup, 10);
    let interrupts: Vec<_> = (0..10).map(|_| one(&setup)).collect();
    // At the end nothing of the queue is in flight: nothing is held back any more.
    assert_eq!(interrupts, [0, 0, 0, 1, 0, 0, 0, 1, 0, 1]);
}

#[test]
fn it_never_waits_beyond_the_time() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    set(&mut driver, 8, 10 << 8 | 99);
    load(&mut driver, &setup, 5);
    assert_eq!(one(&setup), 0);
    let started = setup.machine.iothreads[0].now();
    let until = setup.machine.iothreads[0].next_deadline().unwrap();
    assert!(until - started <= Duration::from_millis(1));
    setup.machine.world.advance(until - started - Duration::from_nanos(1));
    setup.machine.turn();
    assert!(setup.machine.irqs.take().is_empty());
    setup.machine.world.advance(Duration::from_nanos(1));
    setup.machine.turn();
    assert_eq!(setup.machine.irqs.take().len(), 1);
    assert!(setup.machine.world.in_flight() > 0, "others are still in flight");
}

#[test]
fn one_vector_can_be_left_out() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    set(&mut driver, 8, 255 << 8 | 9);
    set(&mut driver, 9, 1 << 16 | 1);
    load(&mut driver, &setup, 4);
    assert_eq!((one(&setup), one(&setup)), (1, 1));
    set(&mut driver, 9, 1);
    setup.machine.run();
    while driver.take(1).is_some() {}
    load(&mut driver, &setup, 4);
    assert_eq!((one(&setup), one(&setup)), (0, 0));
}

#[test]
fn the_admin_queue_is_never_coalesced_and_no_time_is_no_coalescing() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    set(&mut driver, 8, 255 << 8 | 99);
    setup.machine.irqs.take();
    driver.identify(1, 0, 0, 0);
    assert_eq!(setup.machine.irqs.take().len(), 1);
    set(&mut driver, 8, 99);
    load(&mut driver, &setup, 4);
    assert_eq!(one(&setup), 1);
}

#[test]
fn a_reset_and_a_deleted_queue_forget_what_was_held_back() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    set(&mut driver, 8, 255 << 8 | 99);
    load(&mut driver, &setup, 4);
    assert_eq!(one(&setup), 0);
    driver.disable();
    setup.machine.irqs.take();
    setup.machine.world.advance(Duration::from_secs(1));
    setup.machine.run();
    assert!(setup.machine.irqs.take().is_empty());
}
