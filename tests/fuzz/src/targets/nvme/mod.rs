//! Two NVMe controllers of a subsystem, under hosts that go wrong: registers, doorbells, and commands
//! that are right but for a dword, a pointer or an address now and then.

mod command;
mod transfer;

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arbitrary::{Result, Unstructured};
use spindle_block::{
    Root,
    nodes::null::{NullNode, NullOptions},
    root::Policy,
};
use spindle_devices::{
    Device,
    nvme::{Capacity, NamespacePool, PoolDisk, PoolError, Subsystem},
    state_file::DiskState,
    testkit::{Machine, NvmeDisk, driver::nvme::NvmeDriver},
};

use self::transfer::Arena;
use super::virtio::{is_bar, number};

/// Bytes of the namespace that is there from the beginning.
const DISK: u64 = 256 << 10;
/// Bytes from which hosts create namespaces.
const POOL: u64 = 1 << 20;
/// Pairs of I/O queues, and their entries.
const PAIRS: u16 = 2;
const ENTRIES: u32 = 16;
/// Resets in one program: each takes memory for new queues.
const RESETS: u32 = 32;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

/// Disks that hosts have created: nobody may use one when it goes.
#[derive(Default)]
struct Pool(Mutex<BTreeMap<u32, (u64, Weak<Root>)>>);

impl NamespacePool for Pool {
    fn capacity(&self) -> Capacity {
        let disks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used: u64 = disks.values().map(|(size, _)| size).sum();
        Capacity { total: POOL, free: POOL.checked_sub(used).expect("more than there is") }
    }

    fn create(
        &self,
        nsid: u32,
        size: u64,
        done: Box<dyn FnOnce(Result<PoolDisk, PoolError>) + Send>,
    ) {
        if size > self.capacity().free {
            return done(Err(PoolError::NoSpace(size)));
        }
        let node = NullNode::new(NullOptions { size, ..NullOptions::default() });
        let root = Root::new("pooled", node, Policy::default());
        let mut disks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = disks.insert(nsid, (size, Arc::downgrade(&root)));
        assert!(old.is_none(), "namespace {nsid} was made twice");
        drop(disks);
        done(Ok(PoolDisk { root, state: DiskState::volatile() }));
    }

    fn delete(&self, nsid: u32, done: Box<dyn FnOnce(Result<(), PoolError>) + Send>) {
        let disk = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&nsid);
        let (_, root) = disk.expect("a disk that was made");
        assert!(root.upgrade().is_none(), "somebody still uses namespace {nsid}");
        done(Ok(()));
    }
}

/// A host with a controller.
struct Host {
    driver: NvmeDriver,
    arena: Arena,
    /// Commands that have not ended, of each pair of I/O queues.
    under_way: [u32; PAIRS as usize],
    /// Admin commands so far.
    admin: u32,
    /// It does nothing that is wrong with the controller itself or writes to its queues: every
    /// command ends.
    sound: bool,
}

impl Host {
    fn new(machine: &Rc<Machine>, disk: &NvmeDisk, sound: bool) -> Self {
        Self {
            driver: NvmeDriver::new(machine, disk.at, PAIRS, ENTRIES),
            arena: Arena::new(&machine.memory, sound),
            under_way: [0; PAIRS as usize],
            admin: 0,
            sound,
        }
    }

    /// Takes what has ended.
    fn drain(&mut self) {
        for id in 0..=PAIRS {
            // A queue that lies in memory that was written over may seem to have entries for ever.
            for _ in 0..64 {
                let Some(cqe) = self.driver.take(id) else { break };
                if !self.sound {
                    continue;
                }
                assert_eq!(cqe.sq, id, "{cqe:x?}");
                if let Some(count) = self.slot(id) {
                    *count = count.checked_sub(1).expect("a command that was under way");
                }
            }
        }
    }

    fn slot(&mut self, id: u16) -> Option<&mut u32> {
        self.under_way.get_mut(usize::from(id).checked_sub(1)?)
    }

    /// Lets everything end that can.
    fn finish(&mut self) {
        let machine = Rc::clone(&self.driver.machine);
        for _ in 0..2 {
            machine.run();
            self.drain();
        }
        if self.sound {
            assert_eq!(self.under_way, [0; PAIRS as usize], "commands that never end");
        }
    }

    /// A controller reset, or (of a machine that was reset) a new beginning.
    fn reset(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if self.sound {
            self.driver.disable();
            self.driver.enable(32);
            (1..=PAIRS).for_each(|id| self.driver.create_pair(id, ENTRIES));
        } else {
            let (machine, at) = (Rc::clone(&self.driver.machine), self.driver.address);
            self.driver = NvmeDriver::new(&machine, at, PAIRS, ENTRIES);
        }
        self.under_way = [0; PAIRS as usize];
        if u.arbitrary()? {
            self.driver.use_shadows();
        }
        Ok(())
    }

    /// An access to a register, of any width.
    fn register(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        const KNOWN: &[u64] =
            &[0x00, 0x08, 0x0c, 0x10, 0x14, 0x14, 0x1c, 0x20, 0x24, 0x28, 0x30, 0x38, 0x68, 0xe00];
        let width = *u.choose(&[4u8, 4, 4, 8, 1, 2])?;
        let offset = match u.int_in_range(0..=3u8)? {
            0 => u.int_in_range(0..=0x3fffu64)?,
            1 => 0x1000 + 4 * u.int_in_range(0..=9u64)?,
            _ => *u.choose(KNOWN)?,
        };
        if self.sound || u.arbitrary()? {
            let _ = self.driver.get(offset, width);
            return Ok(());
        }
        let value = match u.int_in_range(0..=3u8)? {
            // CC as a driver writes it, with a bit or two changed; the magic of NSSR.
            0 => 0x0046_0001 ^ number(u)?,
            1 => *u.choose(&[0x0046_0000, 0x0046_4001, 0x0046_8001, 0x4e56_4d65])?,
            2 => u.int_in_range(0..=u64::from(ENTRIES))?,
            _ => number(u)?,
        };
        self.driver.set(offset, width, value);
        Ok(())
    }

    /// A shadow doorbell, or what the controller says in return.
    fn shadow(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some((doorbells, events)) = self.driver.shadows.filter(|_| !self.sound) else {
            return Ok(());
        };
        let page = if u.arbitrary()? { doorbells } else { events };
        let at = page + 4 * u.int_in_range(0..=9u64)?;
        let value =
            if u.ratio(1, 4u8)? { number(u)? } else { u.int_in_range(0..=u64::from(ENTRIES))? };
        self.driver.machine.memory.set_number(at, 4, value & 0xffff_ffff);
        Ok(())
    }
}

pub(super) fn run(data: &[u8]) {
    let machine = Machine::new(1);
    let subsystem = Subsystem::new("fuzz");
    let pool: Arc<dyn NamespacePool> = Arc::new(Pool::default());
    let (root, _) = machine.add_root("disk", DISK);
    let roots = [vec![root], Vec::new()];
    let disks = ["nvme0", "nvme1"].map(|id| {
        let roots = if id == "nvme0" { &roots[0] } else { &roots[1] };
        machine.add_nvme(id, roots, |config| {
            config.max_ioqpairs = 4;
            config.subsystem = Some(Arc::clone(&subsystem));
            config.pool = Some(Arc::clone(&pool));
        })
    });
    machine.assign();
    let machine = Rc::new(machine);
    let mut u = Unstructured::new(data);
    let sound = u.arbitrary().unwrap_or(true);
    let mut hosts = [&disks[0], &disks[1]].map(|disk| Host::new(&machine, disk, sound));
    let mut resets = 0;
    while !u.is_empty() && step(&mut hosts, &disks, &mut resets, &mut u).is_ok() {}
    hosts.iter_mut().for_each(Host::finish);
    machine.memory.heal();
    disks.iter().for_each(|disk| machine.reset(disk.at));
    machine.assign();
    disks.iter().for_each(|disk| works(&machine, disk));
    assert_eq!(machine.irqs.stray(), 0, "an interrupt without a message");
}

fn step(
    hosts: &mut [Host; 2],
    disks: &[NvmeDisk; 2],
    resets: &mut u32,
    u: &mut Unstructured<'_>,
) -> Result<()> {
    let which = usize::from(u.ratio(1, 4u8)?);
    let host = &mut hosts[which];
    let machine = Rc::clone(&host.driver.machine);
    match u.int_in_range(0..=31u8)? {
        0..=11 => command::io(host, u)?,
        12..=18 => command::admin(host, u)?,
        19 => host.register(u)?,
        20 => host.shadow(u)?,
        21 if !host.sound => {
            let (offset, width) = (u.int_in_range(0..=0xffu64)?, *u.choose(&[1u8, 2, 4])?);
            let value = number(u)?;
            if !is_bar(offset, width) {
                machine.pci_write(host.driver.address, offset, width, value);
            }
        }
        22 => host.arena.fail(&machine.memory, u)?,
        23 => machine.memory.heal(),
        24 => {
            let function = disks[which].device.function();
            machine.finish(|done| function.pause(done));
            function.resume();
        }
        25 if *resets < RESETS => {
            *resets += 1;
            if host.sound {
                return host.reset(u);
            }
            // What one host does wrong may meet the queues of the other.
            disks.iter().for_each(|disk| machine.reset(disk.at));
            machine.assign();
            for host in hosts {
                host.reset(u)?;
            }
        }
        26 | 27 => drop(machine.world.step()),
        28 | 29 => machine.turn(),
        30 => host.drain(),
        _ => host.finish(),
    }
    Ok(())
}

/// Whatever happened, after a reset it is a controller, and keeps what is written to it.
fn works(machine: &Rc<Machine>, disk: &NvmeDisk) {
    machine.run();
    let mut driver = NvmeDriver::new(machine, disk.at, 1, ENTRIES);
    machine.run();
    let (cqe, _) = driver.identify(1, 0, 0, 0);
    assert_eq!(cqe.status, 0, "Identify Controller");
    let (cqe, namespace) = driver.identify(0, 1, 0, 0);
    assert_eq!(cqe.status, 0, "Identify Namespace");
    if namespace.iter().all(|byte| *byte == 0) {
        return; // It is not attached.
    }
    let format = usize::from(namespace[26] & 0xf);
    let data = vec![0x5a; 1 << namespace[128 + 4 * format + 2]];
    match driver.write(1, 1, 0, 1, &data).status {
        0 => {
            let (cqe, read) = driver.read(1, 1, 0, 1, data.len());
            assert_eq!(cqe.status, 0, "Read");
            assert!(read == data, "what is read is not what was written");
        }
        // Somebody holds a reservation.
        status => assert_eq!(status, 0x83, "Write"),
    }
}
