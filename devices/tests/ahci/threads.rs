//! Iothreads on threads of their own: doorbells, stops and resets while they work. What the single
//! thread of the other tests cannot show.

#[path = "../shared/threads.rs"]
mod shared;

use std::{
    rc::Rc,
    sync::{Arc, mpsc},
    time::Duration,
};

use shared::{Thread, until};
use spindle_block::{
    Root,
    nodes::null::{NullNode, NullOptions},
    ring::sim::World,
    root::Policy,
};
use spindle_devices::{
    ahci::Plug,
    ata::{DriveConfig, Transport},
    testkit::Machine,
};

use super::driver::{CR, Driver, FRE, P_CI, P_CMD, P_SACT, P_SCTL, P_SSTS, P_TFD, ST, queued};

#[test]
fn commands_stops_and_resets_on_real_threads() {
    let threads = [Thread::start(), Thread::start()];
    let machine = Machine::with_iothreads(World::new(1), Vec::new());
    let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
    let controller = machine.add_ahci("ahci0", 2, |config| config.iothreads = handles);
    // Requests take a while, so that stops and resets meet them in flight.
    let options = NullOptions { latency_ns: 20_000, read_zeroes: true, ..NullOptions::default() };
    for port in 0..2 {
        let root = Root::new("null", NullNode::new(options), Policy::default());
        let config = DriveConfig::new("disk", Transport::Serial);
        controller.device.plug(port, Plug::Disk(config, root)).unwrap();
    }
    machine.assign();
    let machine = Rc::new(machine);
    let drivers: Vec<Driver> =
        (0..2).map(|port| Driver::quiet(&machine, controller.at, port)).collect();
    for driver in &drivers {
        until("ready", || driver.get(P_TFD) & 0x88 == 0);
        driver.set(P_CMD, FRE | ST);
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let at = machine.memory.alloc(32 * 512, 512);
    for driver in &drivers {
        for slot in 0..32u8 {
            let prd = (at + u64::from(slot) * 512, 512, false);
            driver.place(slot, &queued(0x60, slot.into(), 1, slot), &[prd], 0);
        }
    }
    for _ in 0..400 {
        let driver = random.choice(&drivers).unwrap();
        let slots = u64::from(random.u32(..)) & !driver.get(P_SACT);
        driver.set(P_SACT, slots);
        driver.set(P_CI, slots);
        match random.u8(..8) {
            0 => {
                driver.set(P_CMD, FRE);
                until("stopped", || driver.get(P_CMD) & CR == 0);
                assert_eq!((driver.get(P_CI), driver.get(P_SACT)), (0, 0));
                driver.set(P_CMD, FRE | ST);
            }
            1 => {
                driver.set(P_SCTL, 1);
                driver.set(P_SCTL, 0);
                until("up", || driver.get(P_SSTS) & 0xf == 3 && driver.get(P_TFD) & 0x88 == 0);
                until("running", || driver.get(P_CMD) & CR != 0);
            }
            2..=4 => until("all done", || driver.get(P_SACT) == 0 && driver.get(P_CI) == 0),
            _ => {}
        }
        assert_eq!(driver.get(P_TFD) & 1, 0, "an error");
    }
    for driver in &drivers {
        until("all done", || driver.get(P_SACT) == 0 && driver.get(P_CI) == 0);
    }
    let (tell, told) = mpsc::channel();
    let function: Arc<dyn spindle_devices::Device> = controller.device.function();
    function.reset(Box::new(move || tell.send(()).unwrap()));
    told.recv_timeout(Duration::from_secs(20)).unwrap();
}
