//! Iothreads on threads of their own: sleeping and waking through shadow doorbells, and resets while
//! they work. What the single thread of the other tests cannot show.

#[path = "../shared/threads.rs"]
mod shared;

use std::rc::Rc;

use shared::{Thread, until};
use spindle_block::{
    Root,
    nodes::null::{NullNode, NullOptions},
    ring::sim::World,
    root::Policy,
};
use spindle_devices::testkit::{
    Machine,
    driver::nvme::{Cmd, Cqe, NvmeDriver},
};

/// Waits for another thread to make something come.
fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let mut value = None;
    until(what, || {
        value = ready();
        value.is_some()
    });
    value.expect("it was waited for")
}

fn run(driver: &mut NvmeDriver, id: u16, cmd: Cmd) -> Cqe {
    driver.submit(id, cmd);
    driver.ring(id);
    wait("a command never ended", || driver.take(id))
}

fn enable(driver: &mut NvmeDriver) {
    driver.place_admin(16);
    driver.set(0x14, 4, 0x0046_0001);
    until("never ready", || driver.status() & 1 == 1);
}

fn create(driver: &mut NvmeDriver, id: u16) {
    let (cq, sq) = (driver.new_cq(id, 8), driver.new_sq(id, 8));
    assert_eq!(run(driver, 0, NvmeDriver::create_cq_cmd(&cq, id)).status, 0);
    assert_eq!(run(driver, 0, NvmeDriver::create_sq_cmd(&sq, id)).status, 0);
    driver.cqs.push(cq);
    driver.sqs.push(sq);
}

/// A controller on a disk that takes no time, with two pairs of queues on two threads.
fn setup(threads: &[Thread; 2]) -> NvmeDriver {
    let machine = Machine::with_iothreads(World::new(1), Vec::new());
    let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
    let root = Root::new("null", NullNode::new(NullOptions::default()), Policy::default());
    let disk = machine.add_nvme("nvme0", &[root], |config| config.iothreads = handles);
    machine.assign();
    let mut driver = NvmeDriver::probe(&Rc::new(machine), disk.at);
    driver.enable_msix();
    enable(&mut driver);
    driver
}

/// A host that submits exactly when the iothread goes to sleep would never be heard if the event
/// index were not looked at again: each round lets it sleep.
#[test]
fn no_command_is_lost_between_the_last_look_and_sleep() {
    let threads = [Thread::start(), Thread::start()];
    let mut driver = setup(&threads);
    (1..=2).for_each(|id| create(&mut driver, id));
    let pages = (driver.machine.memory.alloc(4096, 4096), driver.machine.memory.alloc(4096, 4096));
    assert_eq!(run(&mut driver, 0, Cmd::new(0x7c, 0).data(pages.0, pages.1)).status, 0);
    driver.shadows = Some(pages);
    let data = driver.alloc(4096);
    for round in 0..4_000u32 {
        let id = 1 + (round & 1) as u16;
        let cmd = Cmd::new(0x02, 1).data(data.prp1, 0).blocks(round.into(), 8);
        // Some rounds begin at once, some when the thread has had time to fall asleep.
        for _ in 0..round % 64 * 8 {
            std::hint::spin_loop();
        }
        assert_eq!(run(&mut driver, id, cmd).status, 0, "round {round}");
    }
    assert!(driver.rung < 8_000);
}

#[test]
fn resets_and_commands_on_real_threads() {
    let threads = [Thread::start(), Thread::start()];
    let mut driver = setup(&threads);
    let data = driver.alloc(4096);
    for round in 0..100u32 {
        (1..=2).for_each(|id| create(&mut driver, id));
        for n in 0..u64::from(round % 7) {
            for id in 1..=2 {
                driver.submit(id, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(n, 8));
                driver.ring(id);
            }
        }
        if round % 3 == 0 {
            driver.submit(0, Cmd::new(0x00, 0).dw(10, 1));
            driver.ring(0);
        }
        driver.set(0x14, 4, 0x0046_0000);
        until("a reset never ended", || driver.status() & 1 == 0);
        // Nothing is answered any more.
        let before: Vec<_> = driver
            .cqs
            .iter()
            .map(|cq| driver.machine.memory.read(cq.at, cq.size as usize * 16))
            .collect();
        std::thread::yield_now();
        for (cq, before) in driver.cqs.iter().zip(before) {
            assert!(driver.machine.memory.read(cq.at, cq.size as usize * 16) == before);
        }
        // Memory is not given back: use the same queues again.
        let (sqs, cqs) = (driver.sqs.clone(), driver.cqs.clone());
        for (sq, cq) in sqs.iter().zip(&cqs) {
            driver.machine.memory.write(sq.at, &vec![0; sq.size as usize * 64]);
            driver.machine.memory.write(cq.at, &vec![0; cq.size as usize * 16]);
        }
        enable(&mut driver);
    }
}
