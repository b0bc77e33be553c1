//! Namespace Management and Namespace Attachment (base 5.22, 5.23).

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, Weak},
};

use spindle_block::{
    Root,
    nodes::null::{NullNode, NullOptions},
    root::Policy,
};
use spindle_devices::{
    nvme::{Capacity, NamespacePool, NvmeNamespaceConfig, PoolDisk, PoolError, Subsystem},
    state_file::{DiskState, MemoryStore, Section},
    testkit::{
        Machine, NvmeDisk,
        driver::nvme::{Cmd, NvmeDriver},
    },
};

use super::{driver, number};

const FIELD: u16 = 0x02;
const NAMESPACE: u16 = 0x0b;
const DENIED: u16 = 0x15;
const FORMAT: u16 = 0x10a;
const CAPACITY: u16 = 0x115;
const UNAVAILABLE: u16 = 0x116;
const ATTACHED: u16 = 0x118;
const PRIVATE: u16 = 0x119;
const NOT_ATTACHED: u16 = 0x11a;
const THIN: u16 = 0x11b;
const LIST: u16 = 0x11c;

/// A pool of a mebibyte.
#[derive(Default)]
struct Pool(Mutex<Disks>);

#[derive(Default)]
struct Disks {
    disks: BTreeMap<u32, (u64, Weak<Root>)>,
    failing: bool,
}

const POOL: u64 = 1 << 20;

impl Disks {
    fn free(&self) -> u64 {
        POOL - self.disks.values().map(|(size, _)| size).sum::<u64>()
    }
}

impl NamespacePool for Pool {
    fn capacity(&self) -> Capacity {
        Capacity { total: POOL, free: self.0.lock().unwrap().free() }
    }

    fn create(
        &self,
        nsid: u32,
        size: u64,
        done: Box<dyn FnOnce(Result<PoolDisk, PoolError>) + Send>,
    ) {
        let mut pool = self.0.lock().unwrap();
        if pool.failing {
            return done(Err(PoolError::Failed("told to fail".into())));
        }
        let node = NullNode::new(NullOptions { size, ..NullOptions::default() });
        let root = Root::new("pooled", node, Policy::default());
        assert!(pool.disks.insert(nsid, (size, Arc::downgrade(&root))).is_none());
        done(Ok(PoolDisk { root, state: DiskState::volatile() }));
    }

    fn delete(&self, nsid: u32, done: Box<dyn FnOnce(Result<(), PoolError>) + Send>) {
        let (_, root) = self.0.lock().unwrap().disks.remove(&nsid).expect("a disk");
        assert!(root.upgrade().is_none(), "somebody still uses it");
        done(Ok(()));
    }
}

/// Two controllers of a subsystem with a pool.
fn setup() -> (Arc<Pool>, NvmeDriver, NvmeDriver, [NvmeDisk; 2]) {
    let machine = Machine::new(fastrand::u64(..));
    let subsystem = Subsystem::new("managed");
    let pool = Arc::new(Pool::default());
    let (root, _) = machine.add_root("fixed", 64 << 10);
    let a = machine.add_nvme("a", &[root], |config| {
        config.subsystem = Some(Arc::clone(&subsystem));
        config.pool = Some(Arc::clone(&pool) as _);
    });
    let b = machine.add_nvme("b", &[], |config| config.subsystem = Some(Arc::clone(&subsystem)));
    machine.assign();
    let machine = Rc::new(machine);
    let first = NvmeDriver::new(&machine, a.at, 1, 8);
    let second = NvmeDriver::new(&machine, b.at, 1, 8);
    (pool, first, second, [a, b])
}

/// What a host sends to create a namespace.
fn wanted(size: u64, capacity: u64, format: u8, sharing: u8) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(&size.to_le_bytes());
    bytes[8..16].copy_from_slice(&capacity.to_le_bytes());
    (bytes[26], bytes[30]) = (format, sharing);
    bytes
}

fn create(driver: &mut NvmeDriver, bytes: &[u8]) -> (u16, u64) {
    let cqe = driver.admin_write(Cmd::new(0x0d, 0), bytes);
    (cqe.status, cqe.result)
}

fn attach(driver: &mut NvmeDriver, nsid: u32, select: u32, controllers: &[u16]) -> u16 {
    let mut bytes = vec![0; 4096];
    bytes[..2].copy_from_slice(&(controllers.len() as u16).to_le_bytes());
    for (i, id) in controllers.iter().enumerate() {
        bytes[2 + i * 2..][..2].copy_from_slice(&id.to_le_bytes());
    }
    driver.admin_write(Cmd::new(0x15, nsid).dw(10, select), &bytes).status
}

fn delete(driver: &mut NvmeDriver, nsid: u32) -> u16 {
    driver.admin(Cmd::new(0x0d, nsid).dw(10, 1)).status
}

fn capacities(driver: &mut NvmeDriver) -> (u64, u64) {
    let (_, page) = driver.identify(1, 0, 0, 0);
    (number(&page, 280, 8), number(&page, 296, 8))
}

#[test]
fn a_namespace_is_created_attached_used_detached_and_deleted() {
    let (pool, mut a, mut b, _disks) = setup();
    let fixed = 64 << 10;
    assert_eq!(capacities(&mut a), (fixed + POOL, POOL));
    assert_eq!(create(&mut a, &wanted(64, 64, 1, 1)), (0, 2));
    assert_eq!(capacities(&mut a), (fixed + POOL, POOL - 64 * 4096));
    let (_, page) = a.identify(0x11, 2, 0, 0);
    assert_eq!((number(&page, 0, 8), page[26], page[30]), (64, 1, 1));
    assert_eq!(a.read(1, 2, 0, 1, 4096).0.status, FIELD, "not attached");
    assert_eq!(attach(&mut a, 2, 0, &[0, 1]), 0);
    assert_eq!(a.read(1, 2, 63, 1, 4096).0.status, 0);
    assert_eq!(b.read(1, 2, 63, 1, 4096).0.status, 0);
    let (_, list) = b.log(4, 0, 4096);
    assert_eq!(number(&list, 0, 4), 2, "the other host is told");
    assert_eq!(attach(&mut b, 2, 1, &[0]), 0);
    assert_eq!(a.read(1, 2, 0, 1, 4096).0.status, FIELD);
    assert_eq!(b.read(1, 2, 0, 1, 4096).0.status, 0);
    assert_eq!(delete(&mut a, 2), 0, "detached by it");
    assert_eq!(b.read(1, 2, 0, 1, 4096).0.status, FIELD);
    assert!(pool.0.lock().unwrap().disks.is_empty());
    assert_eq!(capacities(&mut a).1, POOL);
    // All that can be: what the machine was started with stays.
    for nsid in [2, 3, 4] {
        assert_eq!(create(&mut a, &wanted(8, 8, 0, 0)), (0, nsid));
    }
    assert_eq!(delete(&mut b, 0xffff_ffff), 0);
    assert!(pool.0.lock().unwrap().disks.is_empty());
    assert_eq!(a.read(1, 1, 0, 1, 512).0.status, 0);
}

#[test]
fn every_documented_error() {
    let (pool, mut a, mut b, _disks) = setup();
    let creates = [
        ("too large", wanted(4096, 4096, 0, 0), CAPACITY),
        ("larger than numbers", wanted(u64::MAX, u64::MAX, 0, 0), CAPACITY),
        ("thin", wanted(64, 32, 0, 0), THIN),
        ("nothing", wanted(0, 0, 0, 0), FIELD),
        ("format that is not there", wanted(8, 8, 2, 0), FORMAT),
    ];
    for (what, bytes, status) in creates {
        assert_eq!(create(&mut a, &bytes).0, status, "{what}");
    }
    let mut protected = wanted(8, 8, 0, 0);
    protected[29] = 1;
    assert_eq!(create(&mut a, &protected).0, FIELD, "protection information");
    let zns = Cmd::new(0x0d, 0).dw(11, 2 << 24);
    assert_eq!(a.admin_write(zns, &wanted(8, 8, 0, 0)).status, FIELD, "another command set");
    assert_eq!(a.admin(Cmd::new(0x0d, 0).dw(10, 2)).status, FIELD, "reserved select");
    assert_eq!(delete(&mut a, 1), DENIED, "not from the pool");
    assert_eq!(delete(&mut a, 9), FIELD, "not there");
    assert_eq!(delete(&mut a, 5000), NAMESPACE);
    pool.0.lock().unwrap().failing = true;
    assert_eq!(create(&mut a, &wanted(8, 8, 0, 0)).0, 0x06, "the pool fails");
    pool.0.lock().unwrap().failing = false;
    assert_eq!(create(&mut a, &wanted(8, 8, 0, 0)), (0, 2), "private");
    let attaches = [
        ("no controllers", 2, 0, vec![], LIST),
        ("no such controller", 2, 0, vec![7], LIST),
        ("not attached", 2, 1, vec![0], NOT_ATTACHED),
        ("no such namespace", 9, 0, vec![0], FIELD),
        ("invalid namespace", 0, 0, vec![0], NAMESPACE),
        ("reserved select", 2, 2, vec![0], FIELD),
        ("attached", 2, 0, vec![0], 0),
        ("attached already", 2, 0, vec![0], ATTACHED),
        ("private", 2, 0, vec![1], PRIVATE),
    ];
    for (what, nsid, select, controllers, status) in attaches {
        assert_eq!(attach(&mut b, nsid, select, &controllers), status, "{what}");
    }
}

#[test]
fn without_a_pool_there_is_no_capacity() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    assert_eq!(create(&mut driver, &wanted(8, 8, 0, 0)).0, CAPACITY);
    assert_eq!(capacities(&mut driver), (1 << 20, 0));
}

#[test]
fn a_detach_waits_for_what_is_in_flight() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let data = driver.alloc(512);
    for lba in 0..5 {
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(lba, 1));
    }
    driver.ring(1);
    setup.machine.turn();
    assert!(setup.machine.world.in_flight() > 0);
    let list = driver.alloc(4096);
    setup.machine.memory.write(list.at, &[1, 0, 0, 0]);
    driver.submit(0, Cmd::new(0x15, 1).dw(10, 1).data(list.prp1, 0));
    driver.ring(0);
    setup.machine.turn();
    assert!(driver.take(0).is_none(), "detached with commands in flight");
    setup.machine.run();
    assert_eq!(driver.take(0).unwrap().status, 0);
    assert_eq!((0..5).filter(|_| driver.take(1).unwrap().status == 0).count(), 5);
}

#[test]
fn a_subsystem_with_every_id_taken_makes_no_more() {
    let (_pool, mut a, _b, disks) = setup();
    for nsid in 2..=1024 {
        let options = NullOptions { size: 4096, ..NullOptions::default() };
        let root = Root::new("null", NullNode::new(options), Policy::default());
        let config = NvmeNamespaceConfig { nsid: Some(nsid), ..NvmeNamespaceConfig::new(root) };
        disks[0].device.subsystem().add(&config).unwrap();
    }
    assert_eq!(create(&mut a, &wanted(64, 64, 1, 1)).0, UNAVAILABLE);
}

/// Two controllers with the namespaces of some states; the second comes later.
fn restarted(states: &[(Arc<MemoryStore>, bool)]) -> (NvmeDriver, NvmeDriver, [NvmeDisk; 2]) {
    let machine = Machine::new(fastrand::u64(..));
    let subsystem = Subsystem::new("managed");
    let namespaces: Vec<_> = states
        .iter()
        .map(|(store, pooled)| {
            let options = NullOptions { size: 64 << 10, ..NullOptions::default() };
            let root = Root::new("null", NullNode::new(options), Policy::default());
            let mut config = NvmeNamespaceConfig::new(root);
            config.state = DiskState::open(Arc::clone(store) as _).unwrap();
            config.pooled = *pooled;
            config
        })
        .collect();
    let a = machine.add_nvme("a", &[], |config| {
        config.subsystem = Some(Arc::clone(&subsystem));
        config.namespaces = namespaces;
    });
    let b = machine.add_nvme("b", &[], |config| config.subsystem = Some(Arc::clone(&subsystem)));
    machine.assign();
    let machine = Rc::new(machine);
    let first = NvmeDriver::new(&machine, a.at, 1, 8);
    let second = NvmeDriver::new(&machine, b.at, 1, 8);
    (first, second, [a, b])
}

/// The namespaces that a controller has.
fn active(driver: &mut NvmeDriver) -> Vec<u64> {
    let (_, page) = driver.identify(2, 0, 0, 0);
    (0..1024).map(|i| number(&page, i * 4, 4)).take_while(|nsid| *nsid != 0).collect()
}

#[test]
fn attachments_outlive_the_machine() {
    let stores: Vec<_> = [false, false, true].map(|pooled| (MemoryStore::new(), pooled)).into();
    let (mut a, mut b, disks) = restarted(&stores);
    assert_eq!((active(&mut a), active(&mut b)), (vec![1, 2, 3], vec![]), "as configured");
    assert!(stores.iter().all(|(store, _)| store.saves() == 0), "nobody asked for anything");
    assert_eq!(attach(&mut a, 1, 1, &[0]), 0);
    assert_eq!(attach(&mut a, 2, 0, &[1]), 0);
    assert_eq!(attach(&mut b, 3, 1, &[0]), 0);
    assert_eq!(attach(&mut b, 3, 0, &[1]), 0);
    assert_eq!((active(&mut a), active(&mut b)), (vec![2], vec![2, 3]));
    drop((a, b, disks));
    let (mut a, mut b, disks) = restarted(&stores);
    assert_eq!((active(&mut a), active(&mut b)), (vec![2], vec![2, 3]));
    // What cannot be saved is an error.
    stores[0].0.fail(true);
    assert_eq!(attach(&mut a, 1, 0, &[0]), 0x06);
    stores[0].0.fail(false);
    drop((a, b, disks));
    // A pooled namespace is private if its host has made it so; bytes that make no sense count not.
    let put = |which: usize, bytes: &[u8]| {
        let state = DiskState::open(Arc::clone(&stores[which].0) as _).unwrap();
        let section = Section { version: 1, bytes: bytes.to_vec() };
        state.put("nvme/attachment", section, Box::new(|result| result.unwrap()));
    };
    put(0, &[1, 2, 0, 0, 0]);
    put(1, &[2, 0, 0]);
    put(2, &[0, 1, 0, 0, 0]);
    let (mut a, mut b, _disks) = restarted(&stores);
    assert_eq!((active(&mut a), active(&mut b)), (vec![1, 2, 3], vec![]));
    let (_, page) = a.identify(0x11, 3, 0, 0);
    assert_eq!(page[30], 0, "private");
    assert_eq!(attach(&mut a, 3, 0, &[1]), PRIVATE);
}
