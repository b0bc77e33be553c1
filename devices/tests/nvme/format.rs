//! Format NVM (base 5.14).

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    Root,
    nodes::{
        fault::{Action, FaultNode, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    nvme::NvmeNamespaceConfig,
    state_file::{DiskState, MemoryStore},
    testkit::{
        Machine,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::{driver, number, pattern};

fn format(nsid: u32, dw10: u32) -> Cmd {
    Cmd::new(0x80, nsid).dw(10, dw10)
}

#[test]
fn a_format_erases_and_changes_the_block_size_for_every_queue() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.create_pair(2, 8);
    assert_eq!(driver.write(1, 1, 0, 64, &pattern(1, 32 << 10)).status, 0);
    assert_eq!(driver.read(2, 1, 0, 1, 512).0.status, 0);
    assert_eq!(driver.admin(format(1, 1)).status, 0);
    let (_, page) = driver.identify(0, 1, 0, 0);
    assert_eq!((number(&page, 0, 8), page[26]), (256, 1));
    assert!(setup.machine.world.contents(&setup.file).to_vec().iter().all(|byte| *byte == 0));
    for id in [1, 2] {
        assert_eq!(driver.read(id, 1, 255, 1, 4096).1, vec![0; 4096]);
        assert_eq!(driver.read(id, 1, 256, 1, 4096).0.status, 0x80);
    }
    assert_eq!(driver.write(2, 1, 3, 1, &pattern(1, 4096)).status, 0);
    assert_eq!(driver.admin(format(0xffff_ffff, 1 << 9)).status, 0, "all, user data erase");
    assert_eq!(number(&driver.identify(0, 1, 0, 0).1, 0, 8), 2048);
    assert_eq!(driver.read(1, 1, 24, 1, 512).1, vec![0; 512]);
}

#[test]
fn a_format_does_not_wait_for_a_fused_operation() {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let faults = FaultNode::new(FileNode::over(file, 1 << 20, 1, false));
    let root = Root::new("disk-node", Arc::clone(&faults) as _, Policy::default());
    let disk = machine.add_nvme("nvme0", &[root], |_| ());
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = NvmeDriver::new(&machine, disk.at, 1, 8);
    let hang = faults.add(FaultRule::new(Action::Hang)).unwrap();
    for (opcode, fuse) in [(5, 1), (1, 2)] {
        let data = driver.alloc(512);
        driver.submit(1, Cmd::new(opcode, 1).flags(fuse).blocks(0, 1).data(data.prp1, 0));
    }
    driver.ring(1);
    machine.run();
    assert_eq!(driver.admin(format(1, 0)).status, 0x21, "Command Interrupted");
    faults.delete(&hang).unwrap();
    machine.run();
    let ends: Vec<_> = std::iter::from_fn(|| driver.take(1)).map(|cqe| cqe.status).collect();
    assert_eq!(ends, [0, 0]);
    assert_eq!(driver.admin(format(1, 0)).status, 0, "a second try");
}

#[test]
fn every_documented_error() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let cases = [
        ("format that is not there", format(1, 2), 0x10a),
        ("format far away", format(1, 3 << 12), 0x10a),
        ("protection information", format(1, 1 << 5), 0x10a),
        ("cryptographic erase", format(1, 2 << 9), 0x02),
        ("reserved erase", format(1, 7 << 9), 0x02),
        ("no namespace", format(0, 0), 0x0b),
        ("inactive namespace", format(2, 0), 0x02),
        ("invalid namespace", format(5000, 0), 0x0b),
    ];
    for (what, cmd, status) in cases {
        assert_eq!(driver.admin(cmd).status, status, "{what}");
    }
    setup.root.set_policy(|policy| policy.read_only = true);
    assert_eq!(driver.admin(format(1, 0)).status, 0x20);
}

#[test]
fn a_format_waits_for_what_is_in_flight_and_refuses_what_comes_meanwhile() {
    for seed in 0..20 {
        let setup = super::seeded(seed, 1 << 20, |_| ());
        let machine = &setup.machine;
        let mut driver = NvmeDriver::new(machine, setup.disk.at, 2, 16);
        let data = driver.alloc(4096);
        machine.memory.write(data.at, &[0xaa; 4096]);
        for lba in 0..6 {
            driver.submit(1, Cmd::new(0x01, 1).data(data.prp1, 0).blocks(lba * 8, 8));
        }
        driver.ring(1);
        machine.turn();
        driver.submit(0, format(1, 1));
        driver.ring(0);
        machine.turn();
        assert!(driver.look(0).is_none(), "seed {seed}: formatted with commands in flight");
        driver.submit(2, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
        driver.ring(2);
        machine.turn();
        assert_eq!(driver.take(2).unwrap().status, 0x84, "format in progress");
        machine.run();
        assert_eq!(driver.take(0).unwrap().status, 0);
        assert_eq!((0..6).filter(|_| driver.take(1).unwrap().status == 0).count(), 6);
        let image = machine.world.contents(&setup.file).to_vec();
        assert!(image.iter().all(|byte| *byte == 0), "seed {seed}");
        assert_eq!(driver.read(1, 1, 0, 1, 4096).0.status, 0, "the gate is open again");
    }
}

#[test]
fn the_block_size_survives_a_restart() {
    let store = MemoryStore::new();
    let shift = |format_it: bool| {
        let machine = Machine::new(1);
        let (root, _) = machine.add_root("disk", 1 << 20);
        let mut config = NvmeNamespaceConfig::new(root);
        config.state = DiskState::open(Arc::clone(&store) as _).unwrap();
        let disk = machine.add_nvme("nvme0", &[], |c| c.namespaces.push(config));
        machine.assign();
        let machine = Rc::new(machine);
        let mut driver = NvmeDriver::new(&machine, disk.at, 0, 8);
        if format_it {
            assert_eq!(driver.admin(format(1, 1)).status, 0);
        }
        driver.identify(0, 1, 0, 0).1[26]
    };
    assert_eq!(shift(false), 0);
    assert_eq!(shift(true), 1);
    assert_eq!(shift(false), 1);
    store.fail(true);
    let machine = Machine::new(1);
    let (root, _) = machine.add_root("disk", 1 << 20);
    let mut config = NvmeNamespaceConfig::new(root);
    config.state = DiskState::open(store).unwrap();
    let disk = machine.add_nvme("nvme0", &[], |c| c.namespaces.push(config));
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = NvmeDriver::new(&machine, disk.at, 0, 8);
    assert_eq!(driver.admin(format(1, 0)).status, 0x06, "it could not be saved");
    assert_eq!(driver.identify(0, 1, 0, 0).1[26], 1);
}

#[test]
fn a_reset_ends_a_format() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let data = driver.alloc(512);
    driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    driver.ring(1);
    setup.machine.turn();
    driver.submit(0, format(1, 1));
    driver.ring(0);
    setup.machine.turn();
    driver.disable();
    driver.enable(8);
    driver.create_pair(1, 8);
    let (cqe, _) = driver.read(1, 1, 0, 1, 4096);
    assert_eq!(cqe.status, 0, "the gate is open");
}
