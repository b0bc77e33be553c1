//! Another guest: the drivers of the crate `virtio-drivers`, which knows nothing of us. Its PCI code
//! walks our configuration space; its drivers reach the device's structures where it found them.

use std::{cell::RefCell, ptr::NonNull, rc::Rc};

use spindle_devices::{
    pci::Address,
    testkit::{Machine, driver::Function},
};
use virtio_drivers::{
    BufferDirection, Error, Hal, PhysAddr, Result,
    device::{blk::VirtIOBlk, rng::VirtIORng},
    transport::{
        DeviceStatus, DeviceType, InterruptStatus, Transport,
        pci::{
            bus::{BarInfo, ConfigurationAccess, DeviceFunction, HeaderType, PciRoot},
            virtio_device_type,
        },
    },
};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{machine, pattern};

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

fn here() -> Rc<Machine> {
    MACHINE.with_borrow(|machine| machine.clone().unwrap())
}

struct TestHal;

// SAFETY: pages come from the machine's memory, which is never given out twice and lives, in
// `MACHINE`, as long as the thread.
unsafe impl Hal for TestHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let machine = here();
        let at = machine.memory.alloc(pages as u64 * 4096, 4096);
        let host = machine.memory.ram().get_host_address(GuestAddress(at)).unwrap();
        (at, NonNull::new(host).unwrap())
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("registers are not memory here")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let machine = here();
        let at = machine.memory.alloc(buffer.len() as u64, 8);
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller's buffer is valid and nobody else uses it.
            machine.memory.write(at, unsafe { buffer.as_ref() });
        }
        at
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            let bytes = here().memory.read(paddr, buffer.len());
            // SAFETY: the caller's buffer is valid and nobody else uses it.
            unsafe { buffer.as_mut() }.copy_from_slice(&bytes);
        }
    }
}

struct Config(Rc<Machine>);

fn address(at: DeviceFunction) -> Address {
    Address { slot: at.device, function: at.function }
}

impl ConfigurationAccess for Config {
    fn read_word(&self, at: DeviceFunction, offset: u8) -> u32 {
        self.0.pci_read(address(at), offset.into(), 4) as u32
    }
    fn write_word(&mut self, at: DeviceFunction, offset: u8, data: u32) {
        self.0.pci_write(address(at), offset.into(), 4, data.into());
    }
    unsafe fn unsafe_clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// Its idea of a transport, over loads and stores on the test machine's bus. A notification lets the
/// machine run, because the drivers then spin.
struct Bus {
    function: Function,
    kind: DeviceType,
}

impl Transport for Bus {
    fn device_type(&self) -> DeviceType {
        self.kind
    }
    fn read_device_features(&mut self) -> u64 {
        self.function.offered()
    }
    fn write_driver_features(&mut self, features: u64) {
        self.function.accept(features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.function.set(22, 2, queue.into());
        self.function.get(24, 2) as u32
    }
    fn notify(&mut self, queue: u16) {
        let bell = self.function.bell(queue);
        self.function.machine.write(bell, 2, queue.into());
        self.function.machine.run();
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.function.status() as u32)
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.function.set(20, 1, status.bits().into());
        self.function.machine.run();
    }
    fn set_guest_page_size(&mut self, _size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, desc: u64, driver: u64, device: u64) {
        let function = &self.function;
        function.set(22, 2, queue.into());
        function.set(24, 2, size.into());
        function.set(32, 8, desc);
        function.set(40, 8, driver);
        function.set(48, 8, device);
        function.set(28, 2, 1);
    }
    fn queue_unset(&mut self, _queue: u16) {
        // A queue is only disabled with the device.
        self.function.reset();
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.function.set(22, 2, queue.into());
        self.function.get(28, 2) == 1
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        let isr = self.function.machine.read(self.function.isr.at, 1);
        InterruptStatus::from_bits_truncate(isr as u32)
    }
    fn read_config_generation(&self) -> u32 {
        self.function.get(21, 1) as u32
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        for (i, byte) in value.as_mut_bytes().iter_mut().enumerate() {
            *byte = self.function.config((offset + i) as u64, 1) as u8;
        }
        Ok(value)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        for (i, byte) in value.as_bytes().iter().enumerate() {
            let at = self.function.config.at + (offset + i) as u64;
            self.function.machine.write(at, 1, (*byte).into());
        }
        Ok(())
    }
}

fn install(machine: &Rc<Machine>) {
    MACHINE.set(Some(Rc::clone(machine)));
}

#[test]
fn its_bus_walk_finds_what_is_there() {
    let (machine, _) = machine(1 << 20, |_| ());
    let mut root = PciRoot::new(Config(Rc::clone(&machine)));
    let found: Vec<_> = root.enumerate_bus(0).collect();
    assert_eq!(found.len(), 2, "host bridge and disk");
    let (at, disk) = found[1].clone();
    assert_eq!(disk.header_type, HeaderType::Standard);
    assert_eq!(virtio_device_type(&disk), Some(DeviceType::Block));
    let before = root.bars(at).unwrap();
    let Some(BarInfo::Memory { address, size, .. }) = &before[0] else { panic!("{before:?}") };
    assert_eq!((*size, address % size), (0x1_0000, 0));
    assert_eq!(root.bars(at).unwrap(), before, "sizing leaves no trace");
    let ids: Vec<u8> = root.capabilities(at).map(|capability| capability.id).collect();
    assert_eq!(ids, [9, 9, 9, 9, 9, 0x10, 0x11]);
}

#[test]
fn its_disk_driver_reads_and_writes() {
    let (machine, disk) = machine(1 << 20, |config| config.serial = "independent".into());
    install(&machine);
    let bus = Bus { function: Function::probe(&machine, disk.at), kind: DeviceType::Block };
    let mut driver = VirtIOBlk::<TestHal, _>::new(bus).unwrap();
    assert_eq!(driver.capacity(), 2048);
    assert!(!driver.readonly());
    for i in 0..60usize {
        let data = pattern(i as u8, 512 * (1 + i % 4));
        driver.write_blocks(i * 7, &data).unwrap();
        let mut back = vec![0; data.len()];
        driver.read_blocks(i * 7, &mut back).unwrap();
        assert_eq!(back, data);
    }
    driver.flush().unwrap();
    let durable = machine.world.durable(disk.file.as_ref().unwrap()).to_vec();
    assert_eq!(durable[59 * 7 * 512..][..2048], pattern(59, 2048));
    let mut id = [0; 20];
    assert_eq!(driver.device_id(&mut id).unwrap(), 11);
    assert_eq!(&id[..11], b"independent");
    assert_eq!(driver.read_blocks(2048, &mut [0; 512]), Err(Error::IoError));
    assert!(driver.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
}

#[test]
fn its_random_number_driver_gets_random_numbers() {
    let machine = Machine::new(1);
    let (at, _) = machine.add_rng(|_| ());
    machine.assign();
    let machine = Rc::new(machine);
    install(&machine);
    let bus = Bus { function: Function::probe(&machine, at), kind: DeviceType::EntropySource };
    let mut driver = VirtIORng::<TestHal, _>::new(bus).unwrap();
    let (mut one, mut two) = ([0; 64], [0; 64]);
    assert_eq!(driver.request_entropy(&mut one).unwrap(), 64);
    assert_eq!(driver.request_entropy(&mut two).unwrap(), 64);
    assert_ne!(one, two);
}
