//! Iothreads on threads of their own: task management, units that come and go, and resets while
//! they work. What the single thread of the other tests cannot show.

#[path = "../shared/threads.rs"]
mod shared;

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use shared::{Thread, until};
use spindle_block::{
    nodes::null::{NullNode, NullOptions},
    ring::sim::World,
};
use spindle_devices::{
    Device,
    scsi::UnitKind,
    testkit::{Machine, driver::ScsiDriver},
};

use super::setup::{ALL, ten};

#[test]
fn functions_resets_and_commands_on_real_threads() {
    let threads = [Thread::start(), Thread::start()];
    let machine = Machine::with_iothreads(World::new(1), Vec::new());
    let handles: Vec<_> = (0..4).map(|i| threads[i % 2].handle.clone()).collect();
    let adapter = machine.add_scsi("hba0", |config| config.iothreads = handles);
    // Requests take a while, so that functions and resets meet them in flight.
    let options = NullOptions { latency_ns: 20_000, read_zeroes: true, ..NullOptions::default() };
    let unit = |name: &str| machine.scsi_unit(name, UnitKind::Disk, NullNode::new(options), |_| ());
    let (fixed, guest) = (unit("fixed"), unit("guest"));
    adapter.device.add_lun(0, 0, fixed).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 4, 64);
        driver.function.enable_msix();
        adapter.device.add_lun(0, 1, Arc::clone(&guest)).unwrap();
        let offered: Vec<_> = (0..random.usize(1..24))
            .map(|i| {
                let lun = ScsiDriver::lun(0, random.u16(..2));
                let cdb = ten(*random.choice(&[0x28, 0x2f, 0x00]).unwrap(), 0, i as u32 * 8, 8);
                let ticket = driver.offer(i % 4, lun, &cdb, &[], 4096);
                driver.rings[i % 4].notify();
                ticket
            })
            .collect();
        let ended = |driver: &ScsiDriver| {
            offered.iter().filter(|ticket| driver.look(ticket, 0).response != 0xee).count()
        };
        let function = *random.choice(&[0, 1, 3, 4, 5, 6, 7]).unwrap();
        if random.u8(..3) > 0 {
            let lun = ScsiDriver::lun(0, random.u16(..2));
            let (_, response) = driver.offer_tmf(function, lun, offered[0].tag);
            until("the function", || machine.memory.read(response, 1) != [0xee]);
            let code = machine.memory.read(response, 1)[0];
            assert!(matches!(code, 0 | 10), "function {function}: {code}");
        }
        let gone = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&gone);
        let done = move || flag.store(true, SeqCst);
        adapter.device.remove_lun(0, 1, Box::new(done)).unwrap();
        if random.bool() {
            until("answers", || ended(&driver) == offered.len());
            until("the unit", || gone.load(SeqCst));
        }
        driver.function.set(20, 1, 0);
        until("the reset", || driver.function.status() == 0);
        until("the unit", || gone.load(SeqCst));
        let memory = machine.memory.read(0, 2 << 20);
        std::thread::sleep(Duration::from_micros(100));
        assert!(machine.memory.read(0, 2 << 20) == memory, "round {round}: DMA after the reset");
    }
}

#[test]
fn an_aborted_command_is_over_when_the_function_is_on_every_queue() {
    let threads = [Thread::start(), Thread::start()];
    let machine = Machine::with_iothreads(World::new(1), Vec::new());
    let handles: Vec<_> = (0..4).map(|i| threads[i % 2].handle.clone()).collect();
    let adapter = machine.add_scsi("hba0", |config| config.iothreads = handles);
    let options = NullOptions { latency_ns: 20_000, ..NullOptions::default() };
    let unit = machine.scsi_unit("disk0", UnitKind::Disk, NullNode::new(options), |_| ());
    adapter.device.add_lun(0, 0, unit).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 4, 64);
    let lun = ScsiDriver::lun(0, 0);
    for round in 0..100 {
        let offered: Vec<_> = (0..12)
            .map(|i| {
                let ticket = driver.offer(i % 4, lun, &ten(0x28, 0, 0, 1), &[], 512);
                if i % 3 == 0 {
                    driver.rings[i % 4].notify();
                }
                ticket
            })
            .collect();
        let function = if round % 2 == 0 { 1 } else { 5 };
        let (head, response) = driver.offer_tmf(function, lun, 0);
        until("the function", || driver.control.take() == Some((head, 1)));
        assert_eq!(machine.memory.read(response, 1), [0]);
        for ticket in &offered {
            let response = driver.look(ticket, 0).response;
            assert_ne!(response, 0xee, "round {round}: a command is still under way");
        }
        for ring in &mut driver.rings {
            while ring.take().is_some() {}
        }
    }
    driver.function.set(20, 1, 0);
    until("the reset", || driver.function.status() == 0);
}

#[test]
fn commands_that_wait_for_others_and_pauses_never_wait_for_each_other() {
    let threads = [Thread::start(), Thread::start()];
    let machine = Machine::with_iothreads(World::new(1), Vec::new());
    let options = NullOptions { latency_ns: 20_000, read_zeroes: true, ..NullOptions::default() };
    let unit = machine.scsi_unit("disk0", UnitKind::Disk, NullNode::new(options), |_| ());
    let adapters = [0, 1].map(|i| {
        let name = format!("hba{i}");
        let handles = [&threads[i], &threads[1 - i]].map(|thread| thread.handle.clone()).to_vec();
        let adapter = machine.add_scsi(&name, |config| config.iothreads = handles);
        adapter.device.add_lun(0, 0, Arc::clone(&unit)).unwrap();
        adapter
    });
    machine.assign();
    let machine = Rc::new(machine);
    let mut drivers = [&adapters[0], &adapters[1]]
        .map(|adapter| ScsiDriver::new(&machine, adapter.at, ALL, 2, 64));
    let lun = ScsiDriver::lun(0, 0);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let keys = |key: u64, action_key: u64| {
        [&key.to_be_bytes()[..], &action_key.to_be_bytes(), &[0; 8]].concat()
    };
    for round in 0..150 {
        let mut offered = Vec::new();
        for (i, driver) in drivers.iter_mut().enumerate() {
            for _ in 0..random.usize(1..8) {
                let queue = random.usize(..2);
                let mine = i as u64 + 1;
                let out = |action| [0x5f, action, 1, 0, 0, 0, 0, 0, 24, 0];
                let ticket = match random.u8(..6) {
                    0 => driver.offer(queue, lun, &ten(0x2a, 0, 0, 1), &[0; 512], 0),
                    1 => {
                        let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
                        driver.offer(queue, lun, &cdb, &[0; 1024], 0)
                    }
                    // Register, then preempt the other and end its commands.
                    2 => driver.offer(queue, lun, &out(6), &keys(0, mine), 0),
                    3 => driver.offer(queue, lun, &out(5), &keys(mine, 3 - mine), 0),
                    4 => driver.offer(queue, lun, &ten(0x41, 0, 0, 9), &[0; 512], 0),
                    _ => driver.offer(queue, lun, &ten(0x28, 0, 0, 1), &[], 512),
                };
                driver.rings[queue].notify();
                offered.push((i, ticket));
            }
        }
        let which = random.usize(..2);
        let function = adapters[which].device.function();
        let paused = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&paused);
        function.pause(Box::new(move || flag.store(true, SeqCst)));
        until("the pause", || paused.load(SeqCst));
        function.resume();
        let open = |drivers: &[ScsiDriver; 2]| {
            let ended = |(i, ticket): &(usize, _)| {
                ScsiDriver::look(&drivers[*i], ticket, 0).response != 0xee
            };
            offered.iter().filter(|one| !ended(one)).count()
        };
        until(&format!("answers in round {round}"), || open(&drivers) == 0);
        for driver in &mut drivers {
            for ring in &mut driver.rings {
                while ring.take().is_some() {}
            }
        }
    }
    for driver in &drivers {
        driver.function.set(20, 1, 0);
        until("the reset", || driver.function.status() == 0);
    }
}
