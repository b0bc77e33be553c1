//! A machine without KVM, for tests of controllers and of drivers.
//!
//! Guest memory is on the heap, interrupts are counted, the clock steps, and everything happens on
//! one thread: the test is the guest's CPU, and lets the iothreads run when it wants. Windows and
//! doorbells are honoured as a machine would: a doorbell write signals its eventfd and never reaches
//! the register half. Nothing is left to chance but for the seed that the machine is made with.
//!
//! | to | there is |
//! |---|---|
//! | make a machine, give its functions addresses | [`Machine::new`], [`Machine::assign`] |
//! | put a controller on any block node | [`Machine::add_disk`], [`Machine::add_disk_over`], [`Machine::add_disk_on`], [`Machine::slot`] |
//! | be its CPU | [`Machine::read`], [`Machine::write`], [`Machine::pci_read`], [`Machine::pci_write`], [`Bus`] for ports |
//! | let devices work | [`Machine::turn`] (take what is new), [`Machine::run`] (all there is to do) |
//! | step the clock | [`World::step`](spindle_block::ring::sim::World::step) and [`World::advance`](spindle_block::ring::sim::World::advance) of [`Machine::world`] |
//! | see interrupts | [`Irqs::take`] for messages, [`Wire`] for lines, [`Log`] for their order with writes to memory |
//! | look into guest memory, and fail it | [`Memory::read`], [`Memory::write`], [`Memory::fail`], [`Memory::heal`] |
//! | make the disk fail | a [`FaultNode`](spindle_block::nodes::fault::FaultNode) below the controller, or [`World::add_fault`](spindle_block::ring::sim::World::add_fault) below the node |
//!
//! [`driver`] has virtio and NVMe drivers that share neither code nor constants with the devices; a
//! driver of your own needs nothing but the accesses above.
//!
//! # A driver meets a disk that fails
//!
//! A plain `#[test]`: virtio-blk over a fault filter over a simulated file. The first function stands
//! for the driver that is tested; it finds the disk's capacity by the accesses that a CPU makes.
//!
//! ```
//! use std::rc::Rc;
//! use spindle_block::{
//!     BlockError,
//!     nodes::{fault::{Action, FaultNode, FaultOp, FaultRule}, file::FileNode},
//! };
//! use spindle_devices::{pci::Address, testkit::{Machine, driver::BlkDriver}};
//!
//! /// Sectors of the virtio disk at `at` (virtio 1.2, 4.1.4 and 5.2.4).
//! fn capacity(machine: &Machine, at: Address) -> u64 {
//!     machine.pci_write(at, 4, 2, 6); // decode memory, be a bus master
//!     let mut cap = machine.pci_read(at, 0x34, 1);
//!     // A vendor-specific capability of type 4 says where the device's configuration is.
//!     while machine.pci_read(at, cap, 1) != 9 || machine.pci_read(at, cap + 3, 1) != 4 {
//!         cap = machine.pci_read(at, cap + 1, 1);
//!         assert_ne!(cap, 0, "no device configuration");
//!     }
//!     let bar = 0x10 + 4 * machine.pci_read(at, cap + 4, 1);
//!     let base = machine.pci_read(at, bar, 4) & !0xf | machine.pci_read(at, bar + 4, 4) << 32;
//!     machine.read(base + machine.pci_read(at, cap + 8, 4), 8)
//! }
//!
//! let machine = Machine::new(7);
//! let file = machine.world.create_file("disk.raw", b"boot sector", 1 << 20);
//! let fault = FaultNode::new(FileNode::over(file, 1 << 20, 512, false));
//! let disk = machine.add_disk_over("disk0", fault.clone(), |config| config.queue_size = 64);
//! machine.assign();
//! assert_eq!(capacity(&machine, disk.at), 2048);
//!
//! let machine = Rc::new(machine);
//! let mut driver = BlkDriver::new(&machine, disk.at, BlkDriver::PLAIN, 1, 16);
//! assert_eq!(&driver.read(0, 512).data[..11], b"boot sector");
//!
//! // The second write from now on meets a bad medium.
//! let bad = FaultRule {
//!     op: FaultOp::Write,
//!     skip: 1,
//!     count: Some(1),
//!     ..FaultRule::new(Action::Error(BlockError::Medium))
//! };
//! fault.add(bad).unwrap();
//! assert_eq!(driver.write(8, &[1; 512]).status, 0);
//! assert_eq!(driver.write(9, &[2; 512]).status, 1); // VIRTIO_BLK_S_IOERR
//! assert_eq!(driver.write(9, &[3; 512]).status, 0);
//! assert_eq!(driver.read(9, 512).data, [3; 512]);
//! assert_eq!(machine.errors.take().len(), 1);
//! ```
//!
//! # Every interrupt, every step, memory that is not there
//!
//! Nothing completes before the test says so: what is between a request and its interrupt can be
//! looked at.
//!
//! ```
//! use std::{rc::Rc, time::Duration};
//! use spindle_devices::testkit::{Machine, driver::BlkDriver};
//!
//! let machine = Machine::new(1);
//! let disk = machine.add_disk("disk0", 1 << 20, |_| ());
//! machine.assign();
//! let machine = Rc::new(machine);
//! let mut driver = BlkDriver::new(&machine, disk.at, BlkDriver::PLAIN, 1, 16);
//!
//! // Two reads are under way on the simulated file; nothing has come back.
//! let first = driver.offer(0, 0, 0, &[], 512);
//! let second = driver.offer(0, 0, 8, &[], 512);
//! driver.rings[0].notify();
//! machine.turn();
//! assert_eq!((machine.world.in_flight(), disk.wire.level()), (2, false));
//!
//! // One of them completes: the device writes its status, then asserts its wire.
//! assert!(machine.world.step());
//! machine.turn();
//! let done = [&first, &second].map(|ticket| machine.memory.read(ticket.status(), 1)[0] == 0);
//! assert_eq!(done.iter().filter(|done| **done).count(), 1);
//! assert!(disk.wire.level());
//! // Reading the ISR status acknowledges it.
//! assert_eq!(machine.read(driver.function.isr.at, 1), 1);
//! assert!(!disk.wire.level());
//! machine.run();
//! assert_eq!(disk.wire.edges(), 2);
//! while driver.rings[0].take().is_some() {}
//!
//! // With MSI-X it is a message, and the wire is left alone.
//! driver.function.enable_msix();
//! driver.function.use_vectors(0, 0, 1);
//! driver.read(0, 512);
//! let data: Vec<u32> = machine.irqs.take().iter().map(|message| message.data).collect();
//! assert_eq!((data, disk.wire.edges()), (vec![101], 2));
//!
//! // The buffer of a read is not there: that request fails, and the device goes on.
//! let ticket = driver.offer(0, 0, 0, &[], 512);
//! machine.memory.fail(ticket.data(), 512);
//! driver.rings[0].notify();
//! machine.run();
//! assert_eq!(driver.reply(0, &ticket).unwrap().status, 1);
//! machine.memory.heal();
//! assert_eq!(driver.read(0, 512).status, 0);
//!
//! // Time passes when it is told to.
//! let before = machine.iothreads[0].now();
//! machine.world.advance(Duration::from_secs(3600));
//! assert_eq!(machine.iothreads[0].now() - before, Duration::from_secs(3600));
//! ```

mod bus;
pub mod driver;
mod irq;
pub mod load;
mod log;
mod machine;
mod memory;

pub use bus::Bus;
pub use irq::{Irqs, Wire};
pub use log::{Event, Log};
pub use machine::{AhciController, Disk, Errors, IdeController, Machine, NvmeDisk, ScsiAdapter};
pub use memory::Memory;
