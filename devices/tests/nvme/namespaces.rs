//! Namespaces: many, hot-plugged, shared between controllers.

use std::{rc::Rc, sync::Arc};

use spindle_devices::{
    nvme::{NvmeConfig, NvmeError, NvmeNamespaceConfig, SizeHints, Subsystem},
    testkit::{
        Machine,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::{driver, number, pattern};

fn active(driver: &mut NvmeDriver) -> Vec<u64> {
    let (_, page) = driver.identify(2, 0, 0, 0);
    (0..1024).map(|i| number(&page, i * 4, 4)).take_while(|nsid| *nsid != 0).collect()
}

#[test]
fn many_namespaces_are_each_their_own() {
    let machine = Machine::new(1);
    let roots: Vec<_> = (0..40).map(|i| machine.add_root(&format!("d{i}"), 64 << 10).0).collect();
    let disk = machine.add_nvme("nvme0", &roots, |config| {
        config.namespaces[39].nsid = Some(1024);
        config.namespaces[38].block_size = 4096;
    });
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = NvmeDriver::new(&machine, disk.at, 1, 8);
    let expected: Vec<u64> = (1..=39).chain([1024]).collect();
    assert_eq!(active(&mut driver), expected);
    for (i, nsid) in expected.iter().enumerate() {
        let len = if *nsid == 39 { 4096 } else { 512 };
        assert_eq!(driver.write(1, *nsid as u32, 1, 1, &pattern(i as u8, len)).status, 0);
    }
    for (i, nsid) in expected.iter().enumerate() {
        let len = if *nsid == 39 { 4096 } else { 512 };
        assert_eq!(driver.read(1, *nsid as u32, 1, 1, len).1, pattern(i as u8, len));
    }
}

#[test]
fn sizes_that_were_given_are_what_the_host_is_told_to_prefer() {
    let (mut driver, _) = driver(1 << 20, |config| {
        config.event_requests_z = 3;
        config.namespaces[0].hints =
            SizeHints { write: Some(8192), optimal_write: Some(65536), discard: Some(32768) };
    });
    let (_, page) = driver.identify(0, 1, 0, 0);
    // NPWG, NPWA, NPDG, NPDA, NOWS: in blocks, less one.
    let told = [64, 66, 68, 70, 72].map(|at| number(&page, at, 2));
    assert_eq!(told, [15, 15, 63, 63, 127]);
    let (_, page) = driver.identify(1, 0, 0, 0);
    assert_eq!(page[259], 3);
    // That many are parked, one more is refused.
    for _ in 0..5 {
        driver.submit(0, Cmd::new(0x0c, 0));
    }
    driver.ring(0);
    driver.machine.run();
    assert_eq!(driver.take(0).map(|cqe| cqe.status), Some(0x105));
    assert!(driver.take(0).is_none());
}

#[test]
fn a_namespace_comes_and_goes_and_the_host_is_told() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let event = |driver: &mut NvmeDriver| {
        driver.submit(0, Cmd::new(0x0c, 0));
        driver.ring(0);
        setup.machine.run();
        let result = driver.take(0).map(|cqe| cqe.result);
        let (_, list) = driver.log(4, 0, 4096);
        (result, number(&list, 0, 4), number(&list, 4, 4))
    };
    let (root, _) = setup.machine.add_root("hot", 1 << 20);
    let mut config = NvmeNamespaceConfig::new(root);
    config.nsid = Some(7);
    // What was there when the host came is no event.
    driver.log(4, 0, 4096);
    setup.disk.device.add_namespace(&config).unwrap();
    assert_eq!(event(&mut driver), (Some(0x0004_0002), 7, 0));
    assert_eq!(active(&mut driver), [1, 7]);
    assert_eq!(driver.write(1, 7, 0, 1, &[1; 512]).status, 0);
    assert!(matches!(setup.disk.device.add_namespace(&config), Err(NvmeError::Taken(7))));
    setup.machine.finish(|done| setup.disk.device.remove_namespace(7, done));
    assert_eq!(event(&mut driver), (Some(0x0004_0002), 7, 0));
    assert_eq!(active(&mut driver), [1]);
    assert_eq!(driver.write(1, 7, 0, 1, &[1; 512]).status, 0x02);
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn a_namespace_that_is_removed_in_mid_io_is_let_go_of_afterwards() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let machine = &setup.machine;
    let (root, file) = machine.add_root("hot", 1 << 20);
    let weak = Arc::downgrade(&root);
    setup.disk.device.add_namespace(&NvmeNamespaceConfig::new(root)).unwrap();
    let data = driver.alloc(4096);
    for lba in 0..6 {
        driver.submit(1, Cmd::new(0x01, 2).data(data.prp1, 0).blocks(lba * 8, 8));
    }
    driver.ring(1);
    machine.turn();
    assert!(machine.world.in_flight() > 0);
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&over);
    let done = move || flag.store(true, std::sync::atomic::Ordering::SeqCst);
    setup.disk.device.remove_namespace(2, Box::new(done));
    machine.turn();
    assert!(!over.load(std::sync::atomic::Ordering::SeqCst), "commands are in flight");
    machine.run();
    assert!(over.load(std::sync::atomic::Ordering::SeqCst));
    for _ in 0..6 {
        assert_eq!(driver.take(1).unwrap().status, 0);
    }
    assert!(weak.upgrade().is_none(), "somebody holds its root");
    drop(file);
}

fn two_controllers(shared: bool) -> (Rc<Machine>, NvmeDriver, NvmeDriver, Arc<Subsystem>) {
    let machine = Machine::new(2);
    let subsystem = Subsystem::named("shared", "nqn.2026-01.test:shared");
    let (root, _) = machine.add_root("disk", 1 << 20);
    let handles: Vec<_> = machine.iothreads.iter().map(|cx| cx.handle()).collect();
    let in_subsystem = |config: &mut NvmeConfig, iothread: usize| {
        config.subsystem = Some(Arc::clone(&subsystem));
        config.iothreads = vec![handles[iothread].clone()];
    };
    let a = machine.add_nvme("a", &[root], |config| {
        in_subsystem(config, 0);
        config.namespaces[0].shared = shared;
    });
    let b = machine.add_nvme("b", &[], |config| in_subsystem(config, 1));
    assert_eq!((a.device.cntlid(), b.device.cntlid()), (0, 1));
    assert_eq!(b.device.attach(1).is_ok(), shared);
    machine.assign();
    let machine = Rc::new(machine);
    let drivers = [a.at, b.at].map(|at| NvmeDriver::new(&machine, at, 1, 8));
    let [first, second] = drivers;
    // The controllers live as long as the bus has their functions.
    (machine, first, second, subsystem)
}

#[test]
fn two_controllers_share_a_namespace() {
    let (_, mut a, mut b, _) = two_controllers(true);
    assert_eq!(a.write(1, 1, 3, 1, &pattern(1, 512)).status, 0);
    assert_eq!(b.read(1, 1, 3, 1, 512).1, pattern(1, 512));
    let nqn = |driver: &mut NvmeDriver| driver.identify(1, 0, 0, 0).1[768..1024].to_vec();
    assert_eq!(nqn(&mut a), nqn(&mut b));
    assert!(nqn(&mut a).starts_with(b"nqn.2026-01.test:shared\0"));
    let (_, list) = a.identify(0x12, 1, 0, 0);
    assert_eq!((number(&list, 0, 2), number(&list, 2, 4)), (2, 1 << 16));
    assert_eq!(number(&a.identify(0x13, 0, 0, 0).1, 0, 2), 2);
    assert_eq!(a.identify(3, 1, 0, 0).1, b.identify(3, 1, 0, 0).1);
    // CMIC and NMIC say so.
    assert_eq!(a.identify(1, 0, 0, 0).1[76], 2);
    assert_eq!(a.identify(0, 1, 0, 0).1[30], 1);
}

#[test]
fn a_private_namespace_has_one_controller() {
    let (_, mut a, mut b, _) = two_controllers(false);
    assert_eq!(active(&mut a), [1]);
    assert!(active(&mut b).is_empty());
    assert_eq!(number(&b.identify(0x10, 0, 0, 0).1, 0, 4), 1, "it is allocated");
    assert_eq!(b.read(1, 1, 0, 1, 512).0.status, 0x02);
}

#[test]
fn a_reset_of_the_subsystem_resets_all_its_controllers() {
    let (machine, a, b, _) = two_controllers(true);
    a.set(0x20, 4, 0x4e56_4d65);
    machine.run();
    assert_eq!((a.status(), b.status()), (0x10, 0x10));
}

#[test]
fn what_makes_no_sense_is_one_sentence() {
    type Change<'a> = &'a dyn Fn(&mut NvmeConfig);
    let machine = Machine::new(1);
    let (root, _) = machine.add_root("disk", 1 << 20);
    let (small, _) = machine.add_root("small", 3584);
    let build = |change: Change<'_>| {
        let handles = machine.iothreads.iter().map(|cx| cx.handle()).collect();
        let mut config = NvmeConfig::new("n", handles);
        config.namespaces.push(NvmeNamespaceConfig::new(Arc::clone(&root)));
        change(&mut config);
        let (_, slot, _) = machine.slot();
        let events = Arc::clone(&machine.errors) as Arc<dyn spindle_devices::policy::BlockEvents>;
        let dma = machine.memory.dma().clone();
        spindle_devices::nvme::Nvme::new(config, dma, slot, events).map(|_| ()).map_err(|e| {
            let text = e.to_string();
            assert!(!text.contains('\n'), "{text}");
            text
        })
    };
    build(&|_| ()).unwrap();
    let cases: &[(&str, Change<'_>)] = &[
        ("no iothread", &|c| c.iothreads.clear()),
        ("max_ioqpairs is 0", &|c| c.max_ioqpairs = 0),
        ("max_ioqpairs is 65", &|c| c.max_ioqpairs = 65),
        ("max_entries is 1", &|c| c.max_entries = 1),
        ("max_entries is 5000", &|c| c.max_entries = 5000),
        ("mdts is 13", &|c| c.mdts = 13),
        ("give it vectors=65", &|c| c.vectors = Some(3)),
        ("vectors is 300", &|c| c.vectors = Some(300)),
        ("block size is 1024", &|c| c.namespaces[0].block_size = 1024),
        ("nsid is 0", &|c| c.namespaces[0].nsid = Some(0)),
        ("nsid is 1025", &|c| c.namespaces[0].nsid = Some(1025)),
        ("namespace 3 is there already", &|c| {
            c.namespaces.push(c.namespaces[0].clone());
            c.namespaces.iter_mut().for_each(|ns| ns.nsid = Some(3));
        }),
        ("smaller than a block", &|c| {
            c.namespaces[0].root = Arc::clone(&small);
            c.namespaces[0].block_size = 4096;
        }),
    ];
    for (expected, change) in cases {
        let text = build(change).unwrap_err();
        assert!(text.contains(expected), "{text}");
    }
}
