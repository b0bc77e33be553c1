//! Iothreads on threads of their own, and a driver that resets while they work: what the single
//! thread of the other tests cannot show.

#[path = "../shared/threads.rs"]
mod shared;

use std::{rc::Rc, time::Duration};

use shared::{Thread, until};
use spindle_block::{
    nodes::null::{NullNode, NullOptions},
    ring::sim::World,
};
use spindle_devices::testkit::{Machine, driver::BlkDriver};

use super::ALL;

#[test]
fn resets_and_requests_on_real_threads() {
    let threads = [Thread::start(), Thread::start()];
    let machine = Machine::with_iothreads(World::new(1), Vec::new());
    let handles: Vec<_> = (0..4).map(|i| threads[i % 2].handle.clone()).collect();
    // Requests take a while, so that resets meet them in flight.
    let options = NullOptions { latency_ns: 20_000, read_zeroes: true, ..NullOptions::default() };
    let disk = machine.add_disk_over("disk0", NullNode::new(options), |config| {
        config.iothreads = handles;
    });
    machine.assign();
    let machine = Rc::new(machine);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let mut driver = BlkDriver::new(&machine, disk.at, ALL, 4, 16);
        driver.function.enable_msix();
        let mut answered = 0;
        let offered = random.usize(1..12);
        for i in 0..offered {
            let queue = i % 4;
            driver.offer(queue, 0, i as u64 * 8, &[], 4096);
            driver.rings[queue].notify();
        }
        if random.bool() {
            until("answers", || {
                answered += driver.rings.iter_mut().filter_map(|ring| ring.take()).count();
                answered == offered
            });
        }
        driver.function.set(20, 1, 0);
        until("the reset", || driver.function.status() == 0);
        let memory = machine.memory.read(0, 2 << 20);
        std::thread::sleep(Duration::from_micros(100));
        assert!(machine.memory.read(0, 2 << 20) == memory, "round {round}: DMA after the reset");
    }
}
