//! One virtual machine: its memory slots, interrupt controllers, timer and virtual CPUs.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_X2APIC_API, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, KVM_X2APIC_API_USE_32BIT_IDS, kvm_clock_data,
    kvm_enable_cap, kvm_irqchip, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use spindle_boot::memory_map::HYPERVISOR_PAGES;
use vm_memory::{
    Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion, VolatileMemory,
};

use super::{Host, KvmError, cpuid, windows::KvmOffload};

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
const PAGE: u64 = 0x1000;

/// The interrupt controllers and the timer as they were when the machine was made.
#[derive(Debug)]
struct Board {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

/// A virtual machine in KVM.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    board: Board,
    coalesces_ports: bool,
    /// Kept mapped for as long as KVM knows it.
    memory: GuestMemoryMmap,
    /// As that.
    rom: Option<MmapRegion>,
}

impl Vm {
    /// Makes a machine with this memory, an in-kernel interrupt controller and a PIT.
    ///
    /// # Errors
    /// When KVM refuses a part of it.
    pub fn new(host: &Host, memory: &GuestMemoryMmap) -> Result<Self, KvmError> {
        let fd = host.kvm.create_vm().map_err(KvmError::call("make a virtual machine"))?;
        let pages = HYPERVISOR_PAGES.start;
        fd.set_identity_map_address(pages)
            .map_err(KvmError::call("place the identity page table"))?;
        fd.set_tss_address((pages + PAGE) as usize)
            .map_err(KvmError::call("place the task state segment"))?;
        add_memory(&fd, memory)?;
        fd.create_irq_chip().map_err(KvmError::call("make the interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(KvmError::call("make the timer"))?;
        wide_apic_ids(&fd)?;
        let board = Board::save(&fd)?;
        Ok(Self {
            fd: Arc::new(fd),
            board,
            coalesces_ports: host.coalesces_ports(),
            memory: memory.clone(),
            rom: None,
        })
    }

    /// The file descriptor, for what is registered on it.
    #[must_use]
    pub fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// Registers doorbells and coalesced zones with this machine.
    #[must_use]
    pub fn offload(&self) -> KvmOffload {
        KvmOffload::new(Arc::clone(&self.fd), self.coalesces_ports)
    }

    /// Puts the machine's one ROM at `address`: writes to it exit, and come to nothing.
    ///
    /// # Errors
    /// When the host has no memory for it, or KVM refuses it.
    pub fn add_rom(&mut self, address: u64, content: &[u8]) -> Result<(), KvmError> {
        let rom = MmapRegion::new(content.len())
            .map_err(|e| KvmError::Memory { what: "the firmware", reason: e.to_string() })?;
        rom.as_volatile_slice().copy_from(content);
        let argument = kvm_userspace_memory_region {
            slot: self.memory.num_regions() as u32,
            guest_phys_addr: address,
            memory_size: content.len() as u64,
            userspace_addr: rom.as_ptr().addr() as u64,
            flags: KVM_MEM_READONLY,
        };
        let what = format!("give the machine its ROM at {address:#x}");
        // SAFETY: the region stays mapped as long as the machine exists (`Vm::rom`, set once); KVM
        // itself refuses one that overlaps another.
        unsafe { self.fd.set_user_memory_region(argument) }.map_err(KvmError::call(what))?;
        self.rom = Some(rom);
        Ok(())
    }

    /// Makes virtual CPU `index` of `cpus`.
    ///
    /// # Errors
    /// When KVM refuses it or its CPUID leaves.
    pub fn create_cpu(&self, host: &Host, index: u32, cpus: u32) -> Result<VcpuFd, KvmError> {
        let what = format!("make virtual CPU {index}");
        let vcpu = self.fd.create_vcpu(u64::from(index)).map_err(KvmError::call(what))?;
        let leaves = cpuid::for_cpu(host, index, cpus)?;
        vcpu.set_cpuid2(&leaves).map_err(KvmError::call("set the CPUID leaves"))?;
        Ok(vcpu)
    }

    /// Puts interrupt controllers and timer back as they were at the start.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn reset_board(&self) -> Result<(), KvmError> {
        for chip in &self.board.chips {
            self.fd.set_irqchip(chip).map_err(KvmError::call("reset the interrupt controllers"))?;
        }
        self.fd.set_pit2(&self.board.pit).map_err(KvmError::call("reset the timer"))
    }

    /// The guest's clock in nanoseconds, to be handed to [`Vm::set_clock`] after a pause.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn clock(&self) -> Result<u64, KvmError> {
        self.fd.get_clock().map(|c| c.clock).map_err(KvmError::call("read the guest's clock"))
    }

    /// Sets the guest's clock: time during a pause does not pass for it.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_clock(&self, clock: u64) -> Result<(), KvmError> {
        let data = kvm_clock_data { clock, ..Default::default() };
        self.fd.set_clock(&data).map_err(KvmError::call("set the guest's clock"))
    }
}

impl Board {
    fn save(fd: &VmFd) -> Result<Self, KvmError> {
        let chips = CHIPS.map(|chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            fd.get_irqchip(&mut chip).map(|()| chip)
        });
        let chips: Result<_, _> = chips.into_iter().collect();
        Ok(Self {
            chips: chips.map_err(KvmError::call("read the interrupt controllers"))?,
            pit: fd.get_pit2().map_err(KvmError::call("read the timer"))?,
        })
    }
}

fn add_memory(fd: &VmFd, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let start = region.start_addr().raw_value();
        let argument = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: region.as_ptr().addr() as u64,
            flags: 0,
        };
        let what = format!("give the machine its memory at {start:#x}");
        // SAFETY: the region stays mapped as long as the machine exists (`Vm::memory`), and regions
        // of one `GuestMemoryMmap` do not overlap.
        unsafe { fd.set_user_memory_region(argument) }.map_err(KvmError::call(what))?;
    }
    Ok(())
}

/// Interrupt messages carry APIC ids above 255 in the upper half of the address.
fn wide_apic_ids(fd: &VmFd) -> Result<(), KvmError> {
    if !fd.check_extension(Cap::X2ApicApi) {
        return Ok(());
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
    cap.args[0] = u64::from(KVM_X2APIC_API_USE_32BIT_IDS);
    fd.enable_cap(&cap).map_err(KvmError::call("use 32-bit APIC ids"))
}
