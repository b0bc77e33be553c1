//! A logical unit: what all queues of all controllers that reach it share (SAM-5, 4.6.8).
//!
//! Commands run on the queues' own threads, over a [`RootHandle`] each. What they share is small: a
//! word of flags, read without a lock, that says whether anything but the usual is going on; and
//! behind a mutex, held for nanoseconds and never over I/O, what the flags stand for.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use spindle_block::{Root, RootHandle, bounce::Serial, root::Stats};

use super::{
    background::Background,
    cmd::{Cdb, Transfer, parse},
    mode::Mode,
    order::Order,
    reservation::Reservations,
    spec::asc,
    tray::Tray,
};
use crate::{device::Countdown, policy::ErrorPolicy, state_file::DiskState};

/// The version of SPC-5 in INQUIRY (SPC-5, table 142).
pub const SPC_5: u8 = 7;
/// Most logical blocks that one command transfers or verifies, whatever is configured.
const TRANSFER_BLOCKS_MAX: u32 = 1 << 22;

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// A direct access block device (SBC-4).
    Disk,
    /// A CD/DVD drive (MMC-6).
    Cd,
}

/// How a unit is built. Sizes are in bytes unless they say otherwise; the names are those of QEMU's
/// `scsi-hd` and `scsi-cd` properties.
#[derive(Clone)]
pub struct UnitConfig {
    /// The unit's id: in events, and its identity where there is no serial number.
    pub id: String,
    /// Disk or drive.
    pub kind: UnitKind,
    /// T10 vendor identification, at most 8 characters.
    pub vendor: String,
    /// Product identification, at most 16 characters.
    pub product: String,
    /// Product revision level, at most 4 characters.
    pub version: String,
    /// Serial number, at most 36 characters; empty: the id.
    pub serial: String,
    /// World wide name, as an NAA designator; 0: one is derived from the serial number.
    pub wwn: u64,
    /// An identification of its own, besides that by vendor and serial number; empty: none. At most
    /// 36 characters.
    pub device_id: String,
    /// World wide name of the target port; 0: none.
    pub port_wwn: u64,
    /// Relative target port identifier; 0: none.
    pub port_index: u16,
    /// The version of SPC that it tells, as in byte 2 of INQUIRY: 7 is SPC-5.
    pub scsi_version: u8,
    /// Whether a disk's medium is told to be removable.
    pub removable: bool,
    /// Longest transfer in bytes; never more than 4 Mi blocks.
    pub max_io_size: u64,
    /// Logical block size: a power of two, at least 512; 0: 512, or 2048 for a CD.
    pub logical_block_size: u32,
    /// Physical block size, a power of two, at least the logical one; 0: the same.
    pub physical_block_size: u32,
    /// Advertised minimum I/O size, 0: none.
    pub min_io_size: u32,
    /// Advertised optimal I/O size, 0: none.
    pub opt_io_size: u32,
    /// Advertised unmap granularity; `None`: as the disk says.
    pub discard_granularity: Option<u32>,
    /// Rotations per minute; 1: not a rotating medium; 0: not said.
    pub rotation_rate: u16,
    /// Most logical blocks of one UNMAP or WRITE SAME.
    pub max_unmap_blocks: u32,
    /// Whether the write cache is on after power-on.
    pub write_cache: bool,
    /// What a failed write, flush or unmap does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Is told that the tray was opened (`true`) or closed, by the initiator or from outside.
    pub on_tray: Option<Arc<dyn Fn(bool) + Send + Sync>>,
    /// Where persistent reservations and saved mode pages are kept over a power loss; `None`: they are
    /// not.
    pub state: Option<Arc<DiskState>>,
}

impl UnitConfig {
    /// A unit with QEMU's defaults.
    #[must_use]
    pub fn new(id: &str, kind: UnitKind) -> Self {
        let product = match kind {
            UnitKind::Disk => "HARDDISK",
            UnitKind::Cd => "CD-ROM",
        };
        Self {
            id: id.to_owned(),
            kind,
            vendor: "SPINDLE".to_owned(),
            product: product.to_owned(),
            version: "1.0".to_owned(),
            serial: String::new(),
            wwn: 0,
            device_id: String::new(),
            port_wwn: 0,
            port_index: 0,
            scsi_version: SPC_5,
            removable: false,
            max_io_size: u64::MAX,
            logical_block_size: 0,
            physical_block_size: 0,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: None,
            rotation_rate: 0,
            max_unmap_blocks: 1 << 22,
            write_cache: true,
            werror: ErrorPolicy::Enospc,
            rerror: ErrorPolicy::Report,
            on_tray: None,
            state: None,
        }
    }

    /// The logical block size that initiators see.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        match (self.logical_block_size, self.kind) {
            (0, UnitKind::Disk) => 512,
            (0, UnitKind::Cd) => 2048,
            (size, _) => size,
        }
    }

    /// The physical block size that initiators see.
    #[must_use]
    pub fn physical_size(&self) -> u32 {
        self.physical_block_size.max(self.block_size())
    }

    /// Most logical blocks that one command transfers or verifies.
    #[must_use]
    pub fn transfer_blocks_max(&self) -> u32 {
        let blocks = (self.max_io_size / u64::from(self.block_size())).max(1);
        u32::try_from(blocks).unwrap_or(u32::MAX).min(TRANSFER_BLOCKS_MAX)
    }

    /// What identifies the unit.
    #[must_use]
    pub fn serial(&self) -> &str {
        if self.serial.is_empty() { &self.id } else { &self.serial }
    }
}

/// The path from one initiator port to a unit (SAM-5, 4.7), as the unit numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexus(pub(super) u32);

/// Why commands are ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// They were aborted.
    Aborted,
    /// Their initiator was preempted. Whoever asked waits for it in a command of its own, so that a
    /// controller that is paused must let go of the token at once.
    Preempted,
    /// The unit was reset.
    Reset,
}

/// The port of a controller through which units are reached. Called on any thread; it may not wait.
pub trait Initiator: Send + Sync {
    /// Ends all commands of `nexus`; lets go of `token` once none of them is in flight.
    fn end_all(&self, nexus: Nexus, why: Ended, token: Countdown);

    /// Something about the unit has changed: the code of the unit attention that says so.
    fn changed(&self, nexus: Nexus, code: u16);

    /// Lets go of `token` once no write of `nexus` that was begun before is in flight, but for jobs
    /// that are not [free writers](super::Job::is_free_writer). It may not wait for a paused
    /// controller.
    fn barrier(&self, nexus: Nexus, token: Countdown);

    /// Lets go of `token` once no command of `nexus` that was begun before is in flight, but for those
    /// that wait for their [turn](super::Turn). It may not wait for a paused controller.
    fn settle(&self, nexus: Nexus, token: Countdown);

    /// The medium was overwritten, or could not be: [`LogicalUnit::overwritten`] has the answer to
    /// the command that asked for it.
    fn overwritten(&self, nexus: Nexus);

    /// The medium was changed. Lets go of `token` once nothing that was begun before is in flight,
    /// and nothing holds the medium of the time before.
    fn refresh(&self, nexus: Nexus, token: Countdown);
}

/// Most unit attentions that wait for one initiator; more than there are kinds.
const ATTENTIONS_MAX: usize = 16;

pub(super) struct NexusState {
    /// The initiator port's name: the same after a restart.
    pub port: String,
    initiator: Weak<dyn Initiator>,
    /// Unit attentions that it has not been told of.
    attentions: VecDeque<u16>,
    /// It has locked the medium in.
    pub prevent: bool,
}

impl NexusState {
    /// Adds a unit attention. That of a reset comes before all others (SAM-5, 5.14.1).
    fn add(&mut self, code: u16) {
        if self.attentions.contains(&code) {
            return;
        }
        if code >> 8 == 0x29 {
            // The first reset says it all.
            if self.attentions.front().is_none_or(|first| first >> 8 != 0x29) {
                self.attentions.push_front(code);
            }
        } else if self.attentions.len() < ATTENTIONS_MAX {
            self.attentions.push_back(code);
        }
    }
}

/// Bits of [`LogicalUnit::flags`].
pub(super) mod flag {
    /// Some initiator has a unit attention coming.
    pub const ATTENTION: u32 = 1 << 0;
    /// There is a persistent reservation.
    pub const RESERVED: u32 = 1 << 1;
    /// A format or sanitize is under way, or a sanitize has failed.
    pub const BACKGROUND: u32 = 1 << 2;
    /// START STOP UNIT stopped it, or there is no medium.
    pub const NOT_READY: u32 = 1 << 3;
    /// The initiator protects it (SWP).
    pub const PROTECTED: u32 = 1 << 4;
    /// A COMPARE AND WRITE is under way.
    pub const ATOMIC: u32 = 1 << 5;
}

pub(super) struct State {
    pub root: Option<Arc<Root>>,
    pub nexuses: Vec<Option<NexusState>>,
    pub mode: Mode,
    /// What the root's counters were when the log pages were reset.
    pub log_base: Stats,
    pub reservations: Reservations,
    pub background: Option<Background>,
    /// The last format failed.
    pub format_failed: bool,
    pub stopped: bool,
    pub tray: Tray,
}

impl State {
    pub fn nexus(&mut self, nexus: Nexus) -> Option<&mut NexusState> {
        self.nexuses.get_mut(nexus.0 as usize)?.as_mut()
    }

    /// Name of the port of `nexus`.
    pub fn port(&self, nexus: Nexus) -> String {
        let state = self.nexuses.get(nexus.0 as usize).and_then(Option::as_ref);
        state.map_or_else(String::new, |state| state.port.clone())
    }

    /// Whether the medium is locked in.
    pub fn prevented(&self) -> bool {
        self.nexuses.iter().flatten().any(|nexus| nexus.prevent)
    }

    /// A unit attention for the initiators that `whom` picks.
    pub fn attention(&mut self, code: u16, mut whom: impl FnMut(Nexus, &str) -> bool) {
        for (i, state) in self.nexuses.iter_mut().enumerate() {
            if let Some(state) = state
                && whom(Nexus(i as u32), &state.port)
            {
                state.add(code);
            }
        }
    }

    fn flags(&self) -> u32 {
        let if_set = |on: bool, bit| if on { bit } else { 0 };
        if_set(self.nexuses.iter().flatten().any(|n| !n.attentions.is_empty()), flag::ATTENTION)
            | if_set(self.reservations.is_reserved(), flag::RESERVED)
            | if_set(self.background.is_some(), flag::BACKGROUND)
            | if_set(self.stopped || self.root.is_none(), flag::NOT_READY)
            | if_set(self.mode.write_protected(), flag::PROTECTED)
    }
}

/// See the module.
pub struct LogicalUnit {
    pub(super) config: UnitConfig,
    flags: AtomicU32,
    /// COMPARE AND WRITEs that wait or run.
    atomics: AtomicU32,
    /// Moves with the medium.
    generation: AtomicU64,
    /// Sense data goes out in descriptor format.
    descriptor_sense: AtomicU32,
    state: Mutex<State>,
    /// Held over the reads and the write of a COMPARE AND WRITE.
    pub(super) atomic: Serial,
    /// ORDERED commands, and those that wait for them.
    pub(super) order: Order,
    /// Held while reservations go to the state file: what is stored last is the latest.
    pub(super) saving: Mutex<()>,
}

impl LogicalUnit {
    /// A unit over `root`; a drive may have none.
    #[must_use]
    pub fn new(config: UnitConfig, root: Option<Arc<Root>>) -> Arc<Self> {
        let reservations = Reservations::load(config.state.clone());
        let mode = Mode::new(&config, root.as_deref());
        mode.apply(root.as_deref());
        let state = State {
            tray: Tray::default(),
            root,
            nexuses: Vec::new(),
            mode,
            log_base: Stats::default(),
            reservations,
            background: None,
            format_failed: false,
            stopped: false,
        };
        let flags = AtomicU32::new(state.flags());
        Arc::new(Self {
            config,
            flags,
            atomics: AtomicU32::new(0),
            generation: AtomicU64::new(1),
            descriptor_sense: AtomicU32::new(0),
            state: Mutex::new(state),
            atomic: Serial::default(),
            order: Order::default(),
            saving: Mutex::default(),
        })
    }

    /// How it was built.
    #[must_use]
    pub fn config(&self) -> &UnitConfig {
        &self.config
    }

    /// What its medium is in, if there is one.
    #[must_use]
    pub fn root(&self) -> Option<Arc<Root>> {
        self.lock().root.clone()
    }

    /// Whether sense data goes out in descriptor format (D_SENSE).
    #[must_use]
    pub fn descriptor_sense(&self) -> bool {
        self.descriptor_sense.load(SeqCst) != 0
    }

    /// Adds an initiator port; `port` is its name, the same after a restart.
    pub fn attach(&self, port: &str, initiator: Weak<dyn Initiator>) -> Nexus {
        let mut nexus = NexusState {
            port: port.to_owned(),
            initiator,
            attentions: VecDeque::new(),
            prevent: false,
        };
        nexus.add(asc::POWER_ON);
        self.change(|state| {
            let free = state.nexuses.iter().position(Option::is_none);
            let index = free.unwrap_or_else(|| {
                state.nexuses.push(None);
                state.nexuses.len() - 1
            });
            state.nexuses[index] = Some(nexus);
            Nexus(index as u32)
        })
    }

    /// Takes an initiator port away. Nothing of it is in flight. Registrations stay.
    pub fn detach(&self, nexus: Nexus) {
        self.change(|state| {
            if let Some(place) = state.nexuses.get_mut(nexus.0 as usize) {
                *place = None;
            }
        });
    }

    /// An I_T nexus was lost, or lost and found again (SAM-5, 6.3.4).
    pub fn nexus_lost(&self, nexus: Nexus) {
        self.change(|state| {
            state.attention(asc::NEXUS_LOSS, |other, _| other == nexus);
            if let Some(state) = state.nexus(nexus) {
                state.prevent = false;
            }
        });
    }

    /// A logical unit reset (SAM-5, 6.3.3): commands of all initiators end, what is not saved goes
    /// back to its defaults. `token` is let go of once no command is left. `by` is the initiator
    /// that asked; its own commands are ended by its controller.
    pub fn reset(&self, by: Option<Nexus>, token: &Countdown) {
        for (nexus, initiator) in self.initiators() {
            if Some(nexus) != by {
                initiator.end_all(nexus, Ended::Reset, token.clone());
            }
        }
        self.change(|state| {
            state.attention(asc::DEVICE_RESET, |_, _| true);
            state.nexuses.iter_mut().flatten().for_each(|nexus| nexus.prevent = false);
            state.stopped = false;
            state.mode.reset();
            state.mode.apply(state.root.as_deref());
        });
    }

    /// As after power-on, for one initiator: its controller was reset. Once no initiator is left
    /// that has seen anything since its own reset, the unit too is as after power-on.
    pub fn power_on(&self, nexus: Nexus) {
        self.change(|state| {
            if let Some(state) = state.nexus(nexus) {
                state.attentions.clear();
                state.prevent = false;
                state.add(asc::POWER_ON);
            }
            let fresh = |nexus: &NexusState| nexus.attentions.front() == Some(&asc::POWER_ON);
            if state.nexuses.iter().flatten().all(fresh) {
                state.stopped = false;
                state.mode.reset();
                state.mode.apply(state.root.as_deref());
            }
        });
    }

    /// The commands of every initiator but `by` on this unit are cleared (CLEAR TASK SET).
    pub fn clear_task_set(&self, by: Nexus, token: &Countdown) {
        for (nexus, initiator) in self.initiators() {
            if nexus != by {
                initiator.end_all(nexus, Ended::Aborted, token.clone());
            }
        }
        self.change(|state| state.attention(asc::COMMANDS_CLEARED, |other, _| other != by));
    }

    /// The medium's size has changed: initiators are told. Call it after [`Root::changed`].
    pub fn resized(&self) {
        self.announce(asc::CAPACITY_CHANGED);
    }

    /// The list of units that its target has has changed.
    pub fn luns_changed(&self) {
        self.change(|state| state.attention(asc::LUNS_CHANGED, |_, _| true));
    }

    /// A unit attention for everybody, and an asynchronous notification.
    pub(super) fn announce(&self, code: u16) {
        self.change(|state| state.attention(code, |_, _| true));
        for (nexus, initiator) in self.initiators() {
            initiator.changed(nexus, code);
        }
    }

    /// Ends what the initiators that `whom` picks have in flight.
    pub(super) fn end_commands(&self, whom: &[Nexus], token: &Countdown) {
        for (nexus, initiator) in self.initiators() {
            if whom.contains(&nexus) {
                initiator.end_all(nexus, Ended::Preempted, token.clone());
            }
        }
    }

    pub(super) fn initiators(&self) -> Vec<(Nexus, Arc<dyn Initiator>)> {
        let state = self.lock();
        let all = state.nexuses.iter().enumerate();
        all.filter_map(|(i, nexus)| Some((Nexus(i as u32), nexus.as_ref()?.initiator.upgrade()?)))
            .collect()
    }

    /// Takes the unit attention that `nexus` is told of next.
    pub(super) fn take_attention(&self, nexus: Nexus) -> Option<u16> {
        self.change(|state| state.nexus(nexus)?.attentions.pop_front())
    }

    /// Takes one certain unit attention back.
    pub(super) fn forget_attention(&self, nexus: Nexus, code: u16) {
        self.change(|state| {
            if let Some(nexus) = state.nexus(nexus) {
                nexus.attentions.retain(|other| *other != code);
            }
        });
    }

    /// Changes the shared state, and the flags with it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = change(&mut state);
        self.flags.store(state.flags(), SeqCst);
        self.descriptor_sense.store(state.mode.descriptor_sense().into(), SeqCst);
        value
    }

    /// Another medium is there, or none: handles look again.
    pub(super) fn medium_moved(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn flags(&self) -> u32 {
        let flags = self.flags.load(SeqCst);
        if self.atomics.load(SeqCst) == 0 { flags } else { flags | flag::ATOMIC }
    }

    /// Counts a COMPARE AND WRITE in: writes that come from now on wait for it.
    pub(super) fn begin_atomic(self: &Arc<Self>) -> AtomicGuard {
        self.atomics.fetch_add(1, SeqCst);
        AtomicGuard(Arc::clone(self))
    }

    /// A handle, for one queue.
    #[must_use]
    pub fn handle(self: &Arc<Self>) -> UnitHandle {
        let generation = self.generation.load(SeqCst);
        let root = self.root().map(|root| root.handle());
        UnitHandle {
            unit: Arc::clone(self),
            generation,
            root,
            block_size: self.config.block_size(),
        }
    }
}

/// Ends what [`LogicalUnit::begin_atomic`] began.
pub(super) struct AtomicGuard(Arc<LogicalUnit>);

impl Drop for AtomicGuard {
    fn drop(&mut self) {
        self.0.atomics.fetch_sub(1, SeqCst);
    }
}

/// One queue's view of a unit: what reads and writes need without a lock.
pub struct UnitHandle {
    pub(super) unit: Arc<LogicalUnit>,
    generation: u64,
    pub(super) root: Option<RootHandle>,
    pub(super) block_size: u32,
}

impl UnitHandle {
    /// The unit.
    #[must_use]
    pub fn unit(&self) -> &Arc<LogicalUnit> {
        &self.unit
    }

    /// The medium, to submit to; `None` when there is none.
    #[inline]
    pub fn root(&mut self) -> Option<&mut RootHandle> {
        self.root.as_mut()
    }

    /// Lets go of a medium that was taken out.
    pub fn look_again(&mut self) {
        self.refresh();
    }

    /// Bytes from the initiator that a command uses.
    #[must_use]
    pub fn out_len(&self, cdb: &Cdb) -> u64 {
        match parse(cdb, self.unit.config.kind).map(|command| command.transfer(self.block_size)) {
            Ok(Transfer::Out(len)) => len,
            Ok(Transfer::None | Transfer::In(_)) | Err(_) => 0,
        }
    }

    /// Looks up the medium anew when it was changed.
    #[inline]
    pub(super) fn refresh(&mut self) {
        if self.unit.generation.load(SeqCst) != self.generation {
            *self = self.unit.handle();
        }
    }

    /// Logical blocks on the medium.
    #[inline]
    pub(super) fn blocks(&mut self) -> u64 {
        let block = u64::from(self.block_size);
        self.root.as_mut().map_or(0, |root| root.info().size / block)
    }

    /// Whether the medium cannot be written.
    pub(super) fn read_only(&mut self) -> bool {
        self.root.as_mut().is_none_or(|root| root.info().read_only)
    }
}
