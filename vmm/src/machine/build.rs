//! From description to machine.

use std::{collections::VecDeque, fs::File, path::PathBuf, sync::Arc};

use spindle_boot::{MemoryMap, RamState};
use spindle_devices::Dma;

use super::{
    BuildError, Machine, Mailbox,
    board::{Board, Connections},
    disks::{Disks, Ground},
    firmware,
    iothreads::Iothreads,
    ram,
    start::Start,
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
    let start = Start::open(spec)?;
    let mailbox = Mailbox::new().map_err(resources("an eventfd"))?;
    let memory = ram::guest_memory(spec.memory, &map)?;
    let Attached { mut accelerator, session } = host.attach(&memory)?;
    let sandbox = Sandbox::new(spec.sandbox).map_err(resources("seccomp filters"))?;
    let serial = HostEnd::open(&spec.serial, &sandbox)?;
    start.install(&mut *accelerator)?;
    let dma = Dma::new(memory.clone(), None);
    let mut board = Board::new(Connections {
        accelerator: &*accelerator,
        map: &map,
        dma: &dma,
        fw_cfg: start.items(spec, &map)?,
        firmware_log: firmware_log(spec)?,
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
    let entry = start.place(&board, &memory, &map, RamState::Fresh)?;
    let cpus = CpuStart { entry: &entry, mailbox: &mailbox, sandbox: &sandbox };
    accelerator.make_cpus(cpus)?;
    let machine = Machine {
        accelerator,
        memory,
        map,
        start,
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

/// The file that firmware's messages go to.
fn firmware_log(spec: &MachineSpec) -> Result<Option<File>, BuildError> {
    let create = |path: &PathBuf| {
        File::create(path).map_err(|source| BuildError::Log { path: path.clone(), source })
    };
    spec.firmware_log.as_ref().map(create).transpose()
}
