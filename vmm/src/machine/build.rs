//! From description to machine.

use std::{collections::VecDeque, sync::Arc};

use spindle_boot::{AcpiConfig, BootConfig, BootImage, BootProtocol, MemoryMap, RamState};
use spindle_devices::Dma;

use super::{
    BuildError, Machine, Mailbox,
    board::{Board, Connections},
    disks::{Disks, Ground},
    firmware,
    iothreads::Iothreads,
    ram,
};
use crate::{
    accel::{self, Attached, CpuStart},
    monitor::schema::RunState,
    qtest,
    sandbox::Sandbox,
    serial::HostEnd,
    spec::MachineSpec,
};

/// What the main loop serves beside the machine.
pub struct Ends {
    pub(super) sandbox: Sandbox,
    pub(super) serial: HostEnd,
    pub(super) session: Option<qtest::Session>,
}

/// Makes the machine; its CPUs have not run yet.
///
/// # Errors
/// [`BuildError`]: nothing is left behind.
pub fn build(spec: &MachineSpec) -> Result<(Machine, Ends), BuildError> {
    let resources = |what| move |source| BuildError::Resources { what, source };
    let host = accel::open(spec)?;
    let map = MemoryMap::new(spec.memory, host.phys_addr_bits())?;
    let image = boot_config(spec).map(|config| BootImage::open(&config)).transpose()?;
    let mailbox = Mailbox::new().map_err(resources("an eventfd"))?;
    let memory = ram::guest_memory(spec.memory, &map)?;
    let Attached { mut accelerator, session } = host.attach(&memory)?;
    let sandbox = Sandbox::new(spec.sandbox).map_err(resources("seccomp filters"))?;
    let serial = HostEnd::open(&spec.serial, &sandbox)?;
    let dma = Dma::new(memory.clone(), None);
    let mut board = Board::new(Connections {
        accelerator: &*accelerator,
        map: &map,
        dma: &dma,
        fw_cfg: firmware::items(spec, &map),
        mailbox: &mailbox,
        serial_output: Box::new(serial.tap()),
        serial_room: serial.room(),
        debug_exit: spec.debug_exit,
    })?;
    let iothreads = Iothreads::start(spec, &mailbox, &sandbox)?;
    let ground = Ground {
        bus: Arc::clone(accelerator.bus()) as _,
        vectors: accelerator.vectors(),
        dma,
        mailbox: Arc::clone(&mailbox),
    };
    let disks = Disks::build(spec, iothreads, ground, &mut board)?;
    firmware::set_boot_order(spec, &board);
    // Firmware would give out addresses; where nothing is booted, whoever drives the machine does.
    let entry = match &image {
        Some(image) => {
            board.assign_addresses()?;
            Some(image.place(&memory, &map, RamState::Fresh)?)
        }
        None => None,
    };
    accelerator.make_cpus(CpuStart {
        entry: entry.as_ref(),
        mailbox: &mailbox,
        sandbox: &sandbox,
    })?;
    let machine = Machine {
        accelerator,
        memory,
        map,
        image,
        board,
        mailbox,
        disks,
        actions: spec.actions,
        spec: spec.clone(),
        state: RunState::Prelaunch,
        goals: VecDeque::new(),
        step: None,
        steps: 0,
        holds: Vec::new(),
        media: 0,
        outcome: None,
    };
    Ok((machine, Ends { sandbox, serial, session }))
}

impl Machine {
    /// Lets the CPUs run for the first time.
    pub(super) fn power_on(&mut self) {
        self.state = RunState::Running;
        self.accelerator.resume();
    }
}

/// What is booted directly, if anything is.
fn boot_config(spec: &MachineSpec) -> Option<BootConfig> {
    Some(BootConfig {
        kernel: spec.kernel.clone()?,
        initrd: spec.initrd.clone(),
        command_line: spec.append.clone(),
        protocol: BootProtocol::Auto,
        acpi: AcpiConfig::new(spec.cpus),
    })
}
