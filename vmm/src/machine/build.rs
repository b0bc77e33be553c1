//! From description to machine.

use std::{collections::VecDeque, fs::File, io, panic, path::PathBuf, sync::Arc, thread};

use spindle_block::iothread::thread::STACK;
use spindle_boot::{MemoryMap, RamState};
use spindle_devices::Dma;
use vm_memory::GuestMemoryMmap;

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
    accel::{self, Accelerator, Attached, CpuStart},
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
    let host = accel::open(spec)?;
    let map = MemoryMap::new(spec.memory, host.phys_addr_bits())?;
    let start = Start::open(spec)?;
    let memory = ram::guest_memory(spec.memory, &map)?;
    // To read a kernel takes as long as to make the rest: the host clears huge pages for it.
    let (entry, parts) = thread::scope(|scope| {
        let loader = thread::Builder::new().name("loader".to_owned()).stack_size(STACK);
        let filling = loader.spawn_scoped(scope, || start.fill(&memory, &map, RamState::Fresh));
        let filling = filling.map_err(resources("a thread"))?;
        let parts = Parts::make(spec, host, &start, &memory, &map);
        let entry = filling.join().unwrap_or_else(|payload| panic::resume_unwind(payload));
        Ok::<_, BuildError>((entry?, parts?))
    })?;
    let Parts { mut accelerator, session, board, mailbox, disks, sandbox, serial } = parts;
    accelerator.make_cpus(CpuStart { entry: &entry, mailbox: &mailbox, sandbox: &sandbox })?;
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

/// A machine without CPUs.
struct Parts {
    accelerator: Box<dyn Accelerator>,
    session: Option<qtest::Session>,
    board: Board,
    mailbox: Arc<Mailbox>,
    disks: Disks,
    sandbox: Sandbox,
    serial: HostEnd,
}

impl Parts {
    fn make(
        spec: &MachineSpec,
        host: Box<dyn accel::Host>,
        start: &Start,
        memory: &GuestMemoryMmap,
        map: &MemoryMap,
    ) -> Result<Self, BuildError> {
        let mailbox = Mailbox::new().map_err(resources("an eventfd"))?;
        let Attached { mut accelerator, session } = host.attach(memory)?;
        start.install(&mut *accelerator)?;
        let sandbox = Sandbox::new(spec.sandbox).map_err(resources("seccomp filters"))?;
        let serial = HostEnd::open(&spec.serial, &sandbox)?;
        let dma = Dma::new(memory.clone(), None);
        let mut board = Board::new(Connections {
            accelerator: &*accelerator,
            map,
            dma: &dma,
            fw_cfg: start.items(spec, map)?,
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
        start.assign_addresses(&board)?;
        Ok(Self { accelerator, session, board, mailbox, disks, sandbox, serial })
    }
}

impl Machine {
    /// Lets the CPUs run for the first time.
    pub(super) fn power_on(&mut self) {
        self.state = RunState::Running;
        self.accelerator.resume();
    }
}

fn resources(what: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Resources { what, source }
}

/// The file that firmware's messages go to.
fn firmware_log(spec: &MachineSpec) -> Result<Option<File>, BuildError> {
    let create = |path: &PathBuf| {
        File::create(path).map_err(|source| BuildError::Log { path: path.clone(), source })
    };
    spec.firmware_log.as_ref().map(create).transpose()
}
