//! A load on several queues of one controller, each served by an iothread on a thread of its own, which
//! also plays the queue's guest.

use std::{
    rc::Rc,
    sync::{
        Arc, Barrier,
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use spindle_block::{
    Iothread, Root,
    iothread::{Clock, Handle},
    ring::{self, Aio, sim::World},
};
use spindle_devices::{
    ahci::Plug,
    ata::{DriveConfig, Transport},
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    testkit::{
        Machine,
        driver::{
            BlkDriver, ScsiDriver,
            nvme::{Cmd, NvmeDriver},
        },
        load::{Guest, RandomReads},
    },
};

use super::{Load, Outcome};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the load goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// A virtio-blk disk.
    VirtioBlk,
    /// An NVMe controller with shadow doorbells.
    Nvme,
    /// A virtio-scsi adapter with one disk.
    VirtioScsi,
    /// An AHCI controller with a disk for each queue: its ports are the queues.
    Ahci,
}

struct Thread {
    handle: Handle,
    guest: Sender<Box<dyn Guest>>,
    /// When its guest began and ended.
    join: JoinHandle<(Instant, Instant)>,
}

impl Thread {
    fn start(count: u64, together: Arc<Barrier>) -> Self {
        let (tell, told) = mpsc::channel();
        let (guest, guests) = mpsc::channel();
        let join = std::thread::spawn(move || {
            let (engine, _) = ring::open(Aio::IoUring).expect("a ring");
            let cx = Iothread::new("load", engine, Clock::Real).expect("an iothread");
            tell.send(cx.handle()).expect("somebody listens");
            let mut guest: Option<Box<dyn Guest>> = None;
            // Driver and device are set up by messages to this loop.
            cx.run_until(|| {
                guest = guest.take().or_else(|| guests.try_recv().ok());
                guest.is_some()
            });
            let mut guest = guest.expect("a guest");
            together.wait();
            let begun = Instant::now();
            guest.start();
            cx.run_until(|| {
                guest.step(count);
                guest.completed() == count
            });
            (begun, Instant::now())
        });
        Self { handle: told.recv().expect("an iothread"), guest, join }
    }
}

/// Waits for another thread to make something true.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Does `load.count` random reads on each of `queues` queues of a controller over `root`.
///
/// # Panics
/// When there is no ring to be had, or a request fails.
#[must_use]
pub fn spread(controller: Controller, queues: u16, root: &Arc<Root>, load: Load) -> Outcome {
    let together = Arc::new(Barrier::new(usize::from(queues)));
    let threads: Vec<Thread> =
        (0..queues).map(|_| Thread::start(load.count, Arc::clone(&together))).collect();
    let handles: Vec<Handle> = threads.iter().map(|thread| thread.handle.clone()).collect();
    let depth = u16::try_from(load.depth).unwrap_or(1024);
    let reads = RandomReads { depth, count: load.count, seed: load.seed };
    let machine = Machine::with_iothreads(World::new(load.seed), Vec::new());
    let guests = match controller {
        Controller::VirtioBlk => blk(machine, reads, handles, root),
        Controller::Nvme => nvme(machine, reads, handles, root),
        Controller::VirtioScsi => scsi(machine, reads, handles, root),
        Controller::Ahci => ahci(machine, reads, handles, root),
    };
    for (thread, guest) in threads.iter().zip(guests) {
        thread.guest.send(guest).expect("the thread waits for it");
        thread.handle.post(|_| ());
    }
    let times: Vec<_> =
        threads.into_iter().map(|thread| thread.join.join().expect("no panic")).collect();
    let begun = times.iter().map(|t| t.0).min().unwrap_or_else(Instant::now);
    let ended = times.iter().map(|t| t.1).max().unwrap_or(begun);
    Outcome {
        requests: load.count * u64::from(queues),
        elapsed: ended - begun,
        system_calls: 0,
        steady_allocations: 0,
    }
}

type Guests = Vec<Box<dyn Guest>>;

fn blk(machine: Machine, reads: RandomReads, handles: Vec<Handle>, root: &Arc<Root>) -> Guests {
    let queues = handles.len() as u16;
    let disk = machine.add_disk_on("load", Arc::clone(root), |config| config.iothreads = handles);
    machine.assign();
    let driver = BlkDriver::new(&Rc::new(machine), disk.at, u64::MAX, queues, reads.ring_size());
    driver.function.enable_msix();
    reads.guests_of_blk(&driver)
}

fn scsi(machine: Machine, reads: RandomReads, handles: Vec<Handle>, root: &Arc<Root>) -> Guests {
    let queues = handles.len() as u16;
    let adapter = machine.add_scsi("load", |config| config.iothreads = handles);
    let config = UnitConfig::new("load-disk", UnitKind::Disk);
    let unit = LogicalUnit::new(config, Some(Arc::clone(root)));
    adapter.device.add_lun(0, 0, unit).expect("a free address");
    machine.assign();
    let mut driver =
        ScsiDriver::new(&Rc::new(machine), adapter.at, u64::MAX, queues, reads.ring_size());
    driver.function.enable_msix();
    // The first command learns of the power-on.
    driver.offer(0, ScsiDriver::lun(0, 0), &[0; 6], &[], 0);
    driver.rings[0].notify();
    until("the first command never ended", || driver.rings[0].take());
    reads.guests_of_scsi(&driver, root)
}

fn ahci(machine: Machine, reads: RandomReads, handles: Vec<Handle>, root: &Arc<Root>) -> Guests {
    let ports = handles.len();
    let controller = machine.add_ahci("load", ports, |config| config.iothreads = handles);
    for port in 0..ports as u8 {
        let config = DriveConfig::new(&format!("load-disk{port}"), Transport::Serial);
        let plug = Plug::Disk(config, Arc::clone(root));
        controller.device.plug(port, plug).expect("an empty port");
    }
    machine.assign();
    reads.guests_of_ahci(&Rc::new(machine), &controller, root, |ready| {
        until("a drive never told who it is", || ready().then_some(()));
    })
}

fn nvme(machine: Machine, reads: RandomReads, handles: Vec<Handle>, root: &Arc<Root>) -> Guests {
    let queues = handles.len() as u16;
    let disk = machine.add_nvme("load", &[Arc::clone(root)], |config| config.iothreads = handles);
    machine.assign();
    let mut driver = NvmeDriver::probe(&Rc::new(machine), disk.at);
    driver.enable_msix();
    driver.place_admin(16);
    driver.set(0x14, 4, 0x0046_0001);
    until("never ready", || (driver.status() & 1 == 1).then_some(()));
    let admin = |driver: &mut NvmeDriver, cmd: Cmd| {
        driver.submit(0, cmd);
        driver.ring(0);
        let answer = until("an admin command never ended", || driver.take(0));
        assert_eq!(answer.status, 0, "an admin command failed");
    };
    for id in 1..=queues {
        let size = u32::from(reads.depth) + 1;
        let (cq, sq) = (driver.new_cq(id, size), driver.new_sq(id, size));
        admin(&mut driver, NvmeDriver::create_cq_cmd(&cq, id));
        admin(&mut driver, NvmeDriver::create_sq_cmd(&sq, id));
        driver.cqs.push(cq);
        driver.sqs.push(sq);
    }
    let pages = (driver.machine.memory.alloc(4096, 4096), driver.machine.memory.alloc(4096, 4096));
    admin(&mut driver, Cmd::new(0x7c, 0).data(pages.0, pages.1));
    driver.shadows = Some(pages);
    reads.guests_of_nvme(&driver, root)
}
