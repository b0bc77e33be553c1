//! From description to machine.

use std::{collections::VecDeque, sync::Arc};

use spindle_boot::{AcpiConfig, BootConfig, BootImage, BootProtocol, MemoryMap, RamState};
use spindle_devices::Dma;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{
    BuildError, Machine, Mailbox,
    board::{Board, Connections},
    disks::{Disks, Ground},
    iothreads::Iothreads,
};
use crate::{
    bus::Bus,
    kvm::{
        Host, KvmError, Vm, coalesced::CoalescedRing, irq::Routes, msi::KvmMsi, state::CpuReset,
    },
    monitor::schema::RunState,
    sandbox::{Kind, Sandbox},
    serial::HostEnd,
    spec::MachineSpec,
    vcpu::{CpuParts, Cpus},
};

/// What the main loop serves beside the machine.
pub struct Ends {
    pub(super) sandbox: Sandbox,
    pub(super) serial: HostEnd,
}

/// Makes the machine; its CPUs have not run yet.
///
/// # Errors
/// [`BuildError`]: nothing is left behind.
pub fn build(spec: &MachineSpec) -> Result<(Machine, Ends), BuildError> {
    let resources = |what| move |source| BuildError::Resources { what, source };
    let host = Host::open()?;
    if spec.cpus > host.cpus_max() {
        return Err(KvmError::TooManyCpus { wanted: spec.cpus, max: host.cpus_max() }.into());
    }
    let map = MemoryMap::new(spec.memory, host.phys_addr_bits())?;
    let image = BootImage::open(&boot_config(spec)?)?;
    let mailbox = Mailbox::new().map_err(resources("an eventfd"))?;
    let memory = guest_memory(spec.memory, &map)?;
    let vm = Vm::new(&host, &memory)?;
    let bus = Bus::new(Box::new(vm.accelerator()));
    let sandbox = Sandbox::new(spec.sandbox).map_err(resources("seccomp filters"))?;
    let serial = HostEnd::open(&spec.serial, &sandbox)?;
    let mut board = Board::new(Connections {
        vm: vm.fd(),
        bus: &bus,
        map: &map,
        mailbox: &mailbox,
        serial_output: Box::new(serial.tap()),
        serial_room: serial.room(),
        debug_exit: spec.debug_exit,
    })?;
    let routes = Routes::new(Arc::clone(vm.fd())).map_err(resources("interrupt routes"))?;
    let iothreads = Iothreads::start(spec, &mailbox, &sandbox)?;
    let ground = Ground {
        bus: Arc::clone(&bus) as _,
        vectors: Arc::new(KvmMsi::new(Arc::clone(vm.fd()), routes)),
        dma: Dma::new(memory.clone(), None),
        mailbox: Arc::clone(&mailbox),
    };
    let disks = Disks::build(spec, iothreads, ground, &mut board)?;
    board.assign_addresses()?;
    let entry = image.place(&memory, &map, RamState::Fresh)?;

    let mut parts = Vec::new();
    let mut ring = None;
    for index in 0..spec.cpus {
        let fd = vm.create_cpu(&host, index, spec.cpus)?;
        if ring.is_none() {
            ring = CoalescedRing::map(&fd).ok().map(Arc::new);
        }
        let reset = CpuReset::save(&host, index, &fd)?;
        reset.start(&fd, &entry)?;
        let run_size = vm.fd().run_size();
        parts.push(CpuParts { fd, reset, bus: bus.view(), ring: ring.clone(), run_size });
    }
    let main = sandbox.clone();
    let confine = move || sandbox.enter(Kind::Vcpu);
    let cpus = Cpus::spawn(parts, &mailbox, confine).map_err(resources("virtual CPU threads"))?;
    let machine = Machine {
        vm,
        memory,
        map,
        image,
        bus,
        ring,
        board,
        cpus,
        mailbox,
        disks,
        actions: spec.actions,
        spec: spec.clone(),
        state: RunState::Prelaunch,
        goals: VecDeque::new(),
        step: None,
        steps: 0,
        holds: Vec::new(),
        clock: None,
        outcome: None,
    };
    Ok((machine, Ends { sandbox: main, serial }))
}

impl Machine {
    /// Lets the CPUs run for the first time.
    pub(super) fn power_on(&mut self) {
        self.state = RunState::Running;
        self.cpus.resume();
    }
}

fn boot_config(spec: &MachineSpec) -> Result<BootConfig, BuildError> {
    Ok(BootConfig {
        kernel: spec.kernel.clone().ok_or(BuildError::NoKernel)?,
        initrd: spec.initrd.clone(),
        command_line: spec.append.clone(),
        protocol: BootProtocol::Auto,
        acpi: AcpiConfig::new(spec.cpus),
    })
}

/// Guest memory: address space only, which the host fills with pages as the guest touches them.
fn guest_memory(size: u64, map: &MemoryMap) -> Result<GuestMemoryMmap, BuildError> {
    let memory = GuestMemoryMmap::from_ranges(&map.ram_regions())
        .map_err(|e| BuildError::Memory { size, reason: e.to_string() })?;
    for region in memory.iter() {
        let (start, len) = (region.as_ptr(), region.len() as usize);
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // Advice only: a host without huge pages does without.
            // SAFETY: the whole mapping of the region, which stays mapped.
            unsafe { libc::madvise(start.cast(), len, advice) };
        }
    }
    Ok(memory)
}
