//! Drivers that break the ring: the device asks for a reset, and works again after one.

use spindle_devices::testkit::driver::{BlkDriver, Descriptor, NEXT, WRITE};

use super::{ALL, INDIRECT, driver, machine, pattern};

/// IN, sector 0.
fn header(driver: &BlkDriver) -> u64 {
    let at = driver.function.machine.memory.alloc(16, 8);
    driver.function.machine.memory.write(at, &[0; 16]);
    at
}

fn ring_and_run(driver: &mut BlkDriver, head: u16) {
    driver.rings[0].offer(head);
    driver.rings[0].notify();
    driver.function.machine.run();
}

/// The device wants a reset, says so by interrupt, answers nothing; after the reset it works.
fn is_broken_and_recovers(driver: BlkDriver, what: &str) {
    let machine = driver.function.machine.clone();
    assert!(driver.function.needs_reset(), "{what}: no DEVICE_NEEDS_RESET");
    assert_eq!(driver.function.status() & 0xf, 0xf, "{what}: the driver's bits stay");
    assert_eq!(machine.read(driver.function.isr.at, 1) & 2, 2, "{what}: no notification");
    assert_eq!(machine.memory.number(driver.rings[0].used + 2, 2), 0, "{what}: answered");
    let address = driver.function.address;
    let mut driver = BlkDriver::new(&machine, address, ALL, 1, 16);
    assert!(!driver.function.needs_reset(), "{what}: still broken");
    assert_eq!(driver.write(0, &pattern(1, 512)).status, 0, "{what}: not recovered");
}

#[test]
fn a_chain_that_loops() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let at = header(&driver);
    let ring = &driver.rings[0];
    ring.set(0, Descriptor { address: at, len: 16, flags: NEXT, next: 1 });
    ring.set(1, Descriptor { address: at, len: 16, flags: NEXT, next: 0 });
    ring_and_run(&mut driver, 0);
    is_broken_and_recovers(driver, "a loop");
}

#[test]
fn a_chain_that_is_its_own_successor() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let at = header(&driver);
    driver.rings[0].set(3, Descriptor { address: at, len: 16, flags: NEXT, next: 3 });
    ring_and_run(&mut driver, 3);
    is_broken_and_recovers(driver, "a self-loop");
}

#[test]
fn a_chain_that_leaves_the_table() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let at = header(&driver);
    driver.rings[0].set(0, Descriptor { address: at, len: 16, flags: NEXT, next: 16 });
    ring_and_run(&mut driver, 0);
    is_broken_and_recovers(driver, "a cut chain");
}

#[test]
fn a_head_that_is_no_descriptor() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    ring_and_run(&mut driver, 16);
    is_broken_and_recovers(driver, "a wild head");
}

#[test]
fn an_index_that_jumps() {
    let (driver, _) = driver(1 << 20, |_| ());
    let memory = &driver.function.machine.memory;
    memory.set_number(driver.rings[0].avail + 2, 2, 17);
    driver.rings[0].notify();
    driver.function.machine.run();
    is_broken_and_recovers(driver, "an index jump");
}

#[test]
fn an_index_that_goes_back() {
    let (driver, _) = driver(1 << 20, |_| ());
    let memory = &driver.function.machine.memory;
    memory.set_number(driver.rings[0].avail + 2, 2, 0xffff);
    driver.rings[0].notify();
    driver.function.machine.run();
    is_broken_and_recovers(driver, "an index going back");
}

#[test]
fn a_request_without_a_whole_header() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let at = header(&driver);
    let head = driver.rings[0].chain(&[(at, 15, false), (at, 1, true)]);
    ring_and_run(&mut driver, head);
    is_broken_and_recovers(driver, "half a header");
}

#[test]
fn a_request_without_a_status_byte() {
    for buffers in [vec![], vec![(0, 0, true)]] {
        let (mut driver, _) = driver(1 << 20, |_| ());
        let mut all = vec![(header(&driver), 16, false)];
        all.extend(buffers);
        let head = driver.rings[0].chain(&all);
        ring_and_run(&mut driver, head);
        is_broken_and_recovers(driver, "no status");
    }
}

#[test]
fn what_the_device_reads_behind_what_it_writes() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let at = header(&driver);
    let head = driver.rings[0].chain(&[(at, 16, false), (at, 1, true), (at, 16, false)]);
    ring_and_run(&mut driver, head);
    is_broken_and_recovers(driver, "the wrong order");
}

#[test]
fn a_status_byte_or_header_outside_of_ram() {
    for wild in [0xc000_0000, 0xfee0_0000, 16 << 20, u64::MAX, 1 << 63] {
        let (mut driver, _) = driver(1 << 20, |_| ());
        let at = header(&driver);
        let head = driver.rings[0].chain(&[(at, 16, false), (wild, 1, true)]);
        ring_and_run(&mut driver, head);
        is_broken_and_recovers(driver, "a wild status byte");
        let (mut driver, _) = self::driver(1 << 20, |_| ());
        let at = header(&driver);
        let head = driver.rings[0].chain(&[(wild, 16, false), (at, 1, true)]);
        ring_and_run(&mut driver, head);
        is_broken_and_recovers(driver, "a wild header");
    }
}

#[test]
fn data_outside_of_ram_is_an_error_of_that_request() {
    // The device's own BAR, the interrupt controller, the end of RAM, the end of everything.
    for wild in [0xc000_0000, 1 << 40, 0xfee0_0000, (16 << 20) - 256, u64::MAX - 100] {
        for write in [true, false] {
            let (mut driver, _) = driver(1 << 20, |_| ());
            let memory = driver.function.machine.memory.clone();
            let at = header(&driver);
            memory.set_number(at, 4, u64::from(!write));
            let status = memory.alloc(1, 1);
            memory.write(status, &[0xee]);
            let traps = driver.function.machine.bus.traps();
            let buffers = [(at, 16, false), (wild, 512, write), (status, 1, true)];
            let head = driver.rings[0].chain(&buffers);
            ring_and_run(&mut driver, head);
            assert_eq!(memory.read(status, 1), [1], "{wild:#x}");
            assert!(driver.rings[0].take().is_some());
            assert_eq!(driver.function.machine.bus.traps(), traps, "it reached a register");
            assert!(!driver.function.needs_reset());
            assert_eq!(driver.read(0, 512).status, 0, "the device goes on");
        }
    }
}

#[test]
fn lengths_beyond_all_memory() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let memory = driver.function.machine.memory.clone();
    let at = header(&driver);
    let head = driver.rings[0].chain(&[(at, 16, false), (0, 0xffff_fe00, true), (at, 1, true)]);
    ring_and_run(&mut driver, head);
    assert_eq!(memory.read(at, 1), [1]);
    // Together they are longer than 4 GiB: a malformed chain.
    driver.rings[0].take();
    driver.function.reset();
    let mut driver = BlkDriver::new(&driver.function.machine, driver.function.address, ALL, 1, 16);
    let at = header(&driver);
    let buffers = [(at, 16, false), (0, u32::MAX, true), (0, u32::MAX, true), (at, 1, true)];
    let head = driver.rings[0].chain(&buffers);
    ring_and_run(&mut driver, head);
    is_broken_and_recovers(driver, "more than 4 GiB");
}

#[test]
fn a_descriptor_made_available_twice() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let ticket = driver.offer(0, 0, 0, &[], 512);
    driver.rings[0].offer(BlkDriver::head(&ticket));
    driver.rings[0].notify();
    driver.function.machine.turn();
    assert!(driver.function.needs_reset());
}

#[test]
fn indirect_tables_inside_indirect_tables_and_other_broken_ones() {
    let broken: [(&str, u32, Descriptor); 4] = [
        ("nested", 16, Descriptor { flags: 4, len: 16, address: 0x8000, next: 0 }),
        ("of odd length", 17, Descriptor::default()),
        ("of no length", 0, Descriptor::default()),
        ("leaving itself", 16, Descriptor { flags: NEXT, len: 16, address: 0x8000, next: 1 }),
    ];
    for (what, len, inner) in broken {
        let (machine, disk) = machine(1 << 20, |_| ());
        let mut driver = BlkDriver::new(&machine, disk.at, INDIRECT, 1, 16);
        let table = machine.memory.alloc(32, 16);
        machine.memory.write(table, &inner.bytes());
        driver.rings[0].set(0, Descriptor { address: table, len, flags: 4, next: 0 });
        ring_and_run(&mut driver, 0);
        is_broken_and_recovers(driver, what);
    }
    for wild in [0xc000_0000, (16 << 20) - 8, u64::MAX - 7] {
        let (machine, disk) = machine(1 << 20, |_| ());
        let mut driver = BlkDriver::new(&machine, disk.at, INDIRECT, 1, 16);
        driver.rings[0].set(0, Descriptor { address: wild, len: 32, flags: 4, next: 0 });
        ring_and_run(&mut driver, 0);
        is_broken_and_recovers(driver, "outside of RAM");
    }
}

#[test]
fn an_indirect_table_longer_than_any_request() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let mut driver = BlkDriver::new(&machine, disk.at, INDIRECT, 1, 16);
    let entries = 5000u16;
    let table = machine.memory.alloc(u64::from(entries) * 16, 16);
    let at = header(&driver);
    for i in 0..entries {
        let flags = if i == 0 { NEXT } else { NEXT | WRITE };
        let one = Descriptor { address: at, len: 16, flags, next: i + 1 };
        machine.memory.write(table + u64::from(i) * 16, &one.bytes());
    }
    let len = u32::from(entries) * 16;
    driver.rings[0].set(0, Descriptor { address: table, len, flags: 4, next: 0 });
    ring_and_run(&mut driver, 0);
    is_broken_and_recovers(driver, "5000 segments");
}

#[test]
fn rings_outside_of_ram_or_misaligned() {
    for (which, address) in
        [(32, 0xc000_0000u64), (40, 16 << 20), (48, !3), (32, 8), (40, 1), (48, 2)]
    {
        let (machine, disk) = machine(1 << 20, |_| ());
        let driver = BlkDriver::new(&machine, disk.at, ALL, 0, 16);
        let function = driver.function;
        assert!(function.negotiate(driver.features));
        let ring = function.queue(0, 16, driver.features);
        // Enabled queues cannot move, so place it anew.
        assert!(function.negotiate(driver.features));
        function.place(0, &ring);
        function.set(which, 4, address & 0xffff_ffff);
        function.set(which + 4, 4, address >> 32);
        function.set(28, 2, 1);
        function.ready();
        assert!(function.needs_reset(), "{which} at {address:#x}");
        assert_eq!(function.get(which, 8), address, "it reads back as written");
        function.reset();
        let mut driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
        assert_eq!(driver.read(0, 512).status, 0);
    }
}

#[test]
fn a_broken_queue_leaves_the_others_of_the_device_at_work() {
    let machine = spindle_devices::testkit::Machine::new(3);
    let handles = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let disk = machine.add_disk("mq", 1 << 20, |config| config.iothreads = handles);
    machine.assign();
    let machine = std::rc::Rc::new(machine);
    let mut driver = BlkDriver::new(&machine, disk.at, ALL, 2, 16);
    machine.memory.set_number(driver.rings[1].avail + 2, 2, 99);
    driver.rings[1].notify();
    machine.run();
    assert!(driver.function.needs_reset());
    assert_eq!(driver.write(0, &pattern(1, 512)).status, 0);
}
