//! What a command does: at once, as one request to the block layer, or as a job.

use std::sync::Arc;

use spindle_block::{IoBuf, Op, Range};

use super::{
    cmd::{Cdb, Command, Transfer, parse},
    inquiry,
    job::Job,
    log, mode, opcodes,
    reservation::ReserveOutcome,
    sense::Sense,
    spec::{Status, asc, key},
    unit::{LogicalUnit, Nexus, UnitHandle, UnitKind, flag},
};

/// Longest parameter list of PERSISTENT RESERVE OUT that is looked at: twice that of REGISTER AND
/// MOVE with the longest TransportID (SPC-5, 7.6.4).
const RESERVE_LIST_MAX: u32 = 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: Status,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Bytes for the initiator, no more than it allowed.
    pub data: Vec<u8>,
}

impl Answer {
    /// GOOD, without data.
    #[must_use]
    pub const fn good() -> Self {
        Self { status: Status::Good, sense: None, data: Vec::new() }
    }

    /// RESERVATION CONFLICT.
    #[must_use]
    pub const fn conflict() -> Self {
        Self { status: Status::ReservationConflict, sense: None, data: Vec::new() }
    }

    /// GOOD, with at most `allocation` bytes of `data`.
    #[must_use]
    pub fn reply(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(allocation as usize);
        Self { status: Status::Good, sense: None, data }
    }
}

impl From<Sense> for Answer {
    fn from(sense: Sense) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense), data: Vec::new() }
    }
}

/// What is to be done next about a command.
pub enum Step {
    /// One request for the block layer; with [`Op::has_data`] over the command's own memory, of
    /// which it uses as much as the range is long.
    Io {
        /// What to do.
        op: Op,
        /// Where.
        range: Range,
    },
    /// Answer.
    Answer(Answer),
    /// Run this, with the command's memory.
    Job(Box<Job>),
    /// The command's data does not fit the memory that came with it, or goes the other way: it was
    /// not begun.
    Overrun,
}

/// A command as it arrives.
pub struct Arrival<'a> {
    /// Where from.
    pub nexus: Nexus,
    /// The command.
    pub cdb: &'a Cdb,
    /// Memory that the initiator filled, in bytes.
    pub out_len: u64,
    /// Memory that is filled for the initiator, in bytes.
    pub in_len: u64,
    /// That memory.
    pub data: &'a IoBuf,
    /// The units that the target has, in the form of REPORT LUNS (SAM-5, 4.7.7).
    pub luns: &'a dyn Fn(LunSelect) -> Vec<[u8; 8]>,
}

/// Which units REPORT LUNS asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LunSelect {
    /// Logical units, not well known ones.
    Ordinary,
    /// Well known logical units.
    WellKnown,
    /// All of them.
    All,
}

impl UnitHandle {
    /// Begins a command.
    #[inline]
    pub fn begin(&mut self, arrival: &Arrival<'_>) -> Step {
        self.refresh();
        let command = parse(arrival.cdb, self.unit.config.kind);
        if let Ok(command) = &command {
            let fits = match command.transfer(self.block_size) {
                Transfer::None => true,
                Transfer::In(len) => len <= arrival.in_len && arrival.out_len == 0,
                Transfer::Out(len) => len <= arrival.out_len && arrival.in_len == 0,
            };
            if !fits {
                return Step::Overrun;
            }
        }
        let flags = self.unit.flags();
        if flags != 0
            && let Err(answer) = self.unit.admit(arrival.nexus, flags, &command)
        {
            return Step::Answer(answer);
        }
        match command {
            Ok(command) => self.execute(command, arrival, flags),
            Err(sense) => Step::Answer(sense.into()),
        }
    }

    #[inline]
    fn execute(&mut self, command: Command, arrival: &Arrival<'_>, flags: u32) -> Step {
        match command {
            Command::Read { lba, blocks } => match self.range(lba, blocks.into()) {
                Ok(range) => Step::Io { op: Op::Read, range },
                Err(sense) => Step::Answer(sense.into()),
            },
            Command::Write { lba, blocks, fua } => match self.range(lba, blocks.into()) {
                Ok(_) if self.read_only() => write_protected(),
                Ok(range) if flags & flag::ATOMIC == 0 => Step::Io { op: Op::Write { fua }, range },
                Ok(_) => self.job(command, 0),
                Err(sense) => Step::Answer(sense.into()),
            },
            _ => self
                .execute_rare(command, arrival)
                .unwrap_or_else(|sense| Step::Answer(sense.into())),
        }
    }

    /// Goes on with a command that failed in `phase`, after its unit was able to go on.
    pub fn resume(&mut self, arrival: &Arrival<'_>, phase: u8) -> Step {
        self.refresh();
        match parse(arrival.cdb, self.unit.config.kind) {
            Ok(command) if phase > 0 => self.job(command, phase),
            Ok(command) => self.execute(command, arrival, self.unit.flags()),
            Err(sense) => Step::Answer(sense.into()),
        }
    }

    /// The bytes of some blocks, if they are on the medium.
    #[inline]
    pub(super) fn range(&mut self, lba: u64, blocks: u64) -> Result<Range, Sense> {
        let all = self.blocks();
        match lba.checked_add(blocks) {
            Some(end) if end <= all => {
                let block = u64::from(self.block_size);
                Ok(Range::new(lba * block, blocks * block))
            }
            _ => Err(Sense::out_of_range(lba.max(all))),
        }
    }

    /// The same, of a command that takes long for many.
    fn bounded_range(&mut self, lba: u64, blocks: u32, arrival: &Arrival<'_>) -> Result<(), Sense> {
        if blocks > self.unit.config().transfer_blocks_max() {
            // NUMBER OF LOGICAL BLOCKS: at byte 10 of 16, 6 of 12.
            let sixteen = arrival.cdb[0] >> 5 == 4;
            return Err(Sense::cdb_field(if sixteen { 10 } else { 6 }, None));
        }
        self.range(lba, blocks.into()).map(drop)
    }

    fn job(&mut self, command: Command, phase: u8) -> Step {
        let Some(root) = self.unit.root() else {
            return Step::Answer(Sense::not_ready(asc::NO_MEDIUM).into());
        };
        Step::Job(Box::new(Job::new(&self.unit, &root, command, phase)))
    }

    fn medium(&mut self) -> mode::Medium {
        mode::Medium {
            blocks: self.blocks(),
            block_size: self.block_size,
            read_only: self.read_only(),
            locked: self.unit.lock().prevented(),
        }
    }

    fn execute_rare(&mut self, command: Command, arrival: &Arrival<'_>) -> Result<Step, Sense> {
        let unit = Arc::clone(&self.unit);
        let config = &unit.config;
        let reply = |data, allocation| Ok(Step::Answer(Answer::reply(data, allocation)));
        match command {
            Command::TestUnitReady => Ok(Step::Answer(Answer::good())),
            Command::RequestSense { descriptor, allocation } => {
                let sense = unit.pending_sense(arrival.nexus);
                reply(sense.encode(descriptor).as_slice().to_vec(), allocation)
            }
            Command::Inquiry { page: None, allocation } => {
                reply(inquiry::standard(config), allocation)
            }
            Command::Inquiry { page: Some(page), allocation } => {
                let info = self.root.as_mut().map(|root| *root.info());
                reply(inquiry::vital(config, page, info.as_ref())?, allocation)
            }
            Command::ReportLuns { select, allocation } => {
                reply(report_luns(select, arrival.luns)?, allocation)
            }
            Command::ReadCapacity10 => reply(inquiry::read_capacity_10(config, self.blocks()), 8),
            Command::ReadCapacity16 { allocation } => {
                reply(inquiry::read_capacity_16(config, self.blocks()), allocation)
            }
            Command::ModeSense { ten, long_lba, no_blocks, control, page, subpage, allocation } => {
                let request =
                    mode::SenseRequest { ten, long_lba, no_blocks, control, page, subpage };
                let medium = self.medium();
                reply(unit.lock().mode.sense(&request, medium)?, allocation)
            }
            Command::ModeSelect { ten, page_format, save, revert, len } => {
                let cannot = save && !unit.lock().mode.can_save();
                for (wrong, bit) in [(!page_format && len > 0, 4), (revert, 1), (cannot, 0)] {
                    if wrong {
                        return Err(Sense::cdb_field(1, Some(bit)));
                    }
                }
                let list = parameters(arrival.data, len);
                let medium = self.medium();
                unit.select_mode(arrival.nexus, (ten, save), &list, medium)?;
                Ok(if save { self.job(command, 0) } else { Step::Answer(Answer::good()) })
            }
            Command::LogSelect { reset, page, subpage, len } => {
                log::check_select(page, subpage, len)?;
                if reset {
                    unit.reset_logs(arrival.nexus);
                }
                Ok(Step::Answer(Answer::good()))
            }
            Command::LogSense { control, page, subpage, pointer, allocation } => {
                let stats = unit.root().map(|root| root.stats()).unwrap_or_default();
                let stats = log::since(&stats, &unit.lock().log_base);
                reply(
                    log::sense(control, page, subpage, pointer, &stats, self.block_size)?,
                    allocation,
                )
            }
            Command::ReportOpcodes { timeouts, options, opcode, action, allocation } => {
                let data = opcodes::report(config.kind, timeouts, options, opcode, action)?;
                reply(data, allocation)
            }
            Command::ReportTmfs { extended, allocation } => {
                if allocation < 4 {
                    return Err(Sense::cdb_field(6, None));
                }
                reply(opcodes::report_tmfs(extended), allocation)
            }
            Command::Synchronize { lba, blocks } => {
                self.range(lba, blocks.into())?;
                Ok(Step::Io { op: Op::Flush, range: Range::default() })
            }
            Command::PreventAllow { prevent } => {
                unit.change(|state| {
                    if let Some(nexus) = state.nexus(arrival.nexus) {
                        nexus.prevent = prevent;
                    }
                });
                Ok(Step::Answer(Answer::good()))
            }
            Command::ReserveIn { action, allocation } => {
                reply(unit.lock().reservations.read(action)?, allocation)
            }
            Command::ReserveOut { len, .. } if len > RESERVE_LIST_MAX => {
                Err(Sense::parameter_length())
            }
            Command::ReserveOut { action, scope, kind, len } => {
                let list = parameters(arrival.data, len);
                let root = unit.root().ok_or(Sense::not_ready(asc::NO_MEDIUM))?;
                let outcome = unit.reserve(arrival.nexus, (action, scope, kind), &list)?;
                Ok(match outcome {
                    None => Step::Answer(Answer::conflict()),
                    Some(outcome) if outcome == ReserveOutcome::default() => {
                        Step::Answer(Answer::good())
                    }
                    Some(outcome) => {
                        let job = Job::after_reserve(&unit, &root, command, outcome);
                        Step::Job(Box::new(job))
                    }
                })
            }
            Command::Verify { lba, blocks, .. } => {
                self.bounded_range(lba, blocks, arrival)?;
                Ok(self.job(command, 0))
            }
            Command::GetLbaStatus { lba, allocation } => {
                if lba >= self.blocks() {
                    return Err(Sense::out_of_range(lba));
                }
                if allocation < 24 {
                    return Err(Sense::cdb_field(10, None));
                }
                Ok(self.job(command, 0))
            }
            Command::StartStop { condition, load_eject, .. } => {
                if condition != 0 {
                    return Err(Sense::cdb_field(4, Some(7)));
                }
                if load_eject && config.kind == UnitKind::Disk {
                    return Err(Sense::cdb_field(4, Some(1)));
                }
                self.start_stop(command, arrival)
            }
            Command::WriteAndVerify { .. }
            | Command::CompareAndWrite { .. }
            | Command::WriteSame { .. }
            | Command::Unmap { .. }
            | Command::FormatUnit { .. }
            | Command::Sanitize { .. } => self.writer(command, arrival),
            _ => self.drive(command),
        }
    }

    /// Commands other than WRITE that change the medium: their fields are checked, the rest is a
    /// job's.
    fn writer(&mut self, command: Command, arrival: &Arrival<'_>) -> Result<Step, Sense> {
        match command {
            Command::WriteAndVerify { lba, blocks, .. } => {
                self.bounded_range(lba, blocks, arrival)?;
            }
            Command::CompareAndWrite { lba, blocks, .. } => {
                self.range(lba, blocks.into())?;
                if blocks > inquiry::COMPARE_BLOCKS_MAX {
                    return Err(Sense::cdb_field(13, None));
                }
            }
            Command::WriteSame { lba, blocks, .. } => {
                // WSNZ, MAXIMUM WRITE SAME LENGTH (SBC-4, 5.46).
                if blocks == 0 || blocks > self.unit.config.max_unmap_blocks {
                    let sixteen = arrival.cdb[0] == super::spec::op::WRITE_SAME_16;
                    return Err(Sense::cdb_field(if sixteen { 10 } else { 7 }, None));
                }
                self.range(lba, blocks.into())?;
            }
            _ => {}
        }
        if self.read_only() {
            return Ok(write_protected());
        }
        Ok(self.job(command, 0))
    }

    fn start_stop(&mut self, command: Command, arrival: &Arrival<'_>) -> Result<Step, Sense> {
        let Command::StartStop { load_eject, start, no_flush, .. } = command else {
            return Err(Sense::invalid_opcode());
        };
        if load_eject {
            return self
                .unit
                .load_eject(arrival.nexus, start)
                .map(|()| Step::Answer(Answer::good()));
        }
        if start || no_flush || self.read_only() {
            self.unit.change(|state| state.stopped = !start);
            return Ok(Step::Answer(Answer::good()));
        }
        Ok(self.job(command, 0))
    }
}

fn write_protected() -> Step {
    Step::Answer(Sense::new(key::DATA_PROTECT, asc::WRITE_PROTECTED).into())
}

/// A parameter list, copied out once.
pub(super) fn parameters(data: &IoBuf, len: u32) -> Vec<u8> {
    let mut list = vec![0; u64::from(len).min(data.len()) as usize];
    data.read_at(0, &mut list);
    list
}

/// The answer to REPORT LUNS (SPC-5, 6.33).
pub(super) fn report_luns(
    select: u8,
    luns: &dyn Fn(LunSelect) -> Vec<[u8; 8]>,
) -> Result<Vec<u8>, Sense> {
    let select = match select {
        0x00 => LunSelect::Ordinary,
        0x01 => LunSelect::WellKnown,
        0x02 => LunSelect::All,
        _ => return Err(Sense::cdb_field(2, None)),
    };
    let list = luns(select);
    let mut data = ((list.len() * 8) as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    list.iter().for_each(|lun| data.extend(lun));
    Ok(data)
}

impl LogicalUnit {
    /// Whether a command may run now, while something unusual is going on. In this order: a
    /// reservation (SAM-5, 5.3.3), unit attentions (SAM-5, 5.14), a unit that is not ready.
    fn admit(
        &self,
        nexus: Nexus,
        flags: u32,
        command: &Result<Command, Sense>,
    ) -> Result<(), Answer> {
        if let Ok(command) = command
            && flags & flag::RESERVED != 0
            && self.lock().reservation_conflicts(nexus, command)
        {
            return Err(Answer::conflict());
        }
        let always = matches!(
            command,
            Ok(Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. })
        );
        if matches!(command, Ok(Command::ReportLuns { .. })) {
            self.forget_attention(nexus, asc::LUNS_CHANGED);
        }
        if always {
            return Ok(());
        }
        if flags & flag::ATTENTION != 0
            && !matches!(
                command,
                Ok(Command::GetEventStatus { .. } | Command::GetConfiguration { .. })
            )
            && let Some(code) = self.take_attention(nexus)
        {
            return Err(Sense::attention(code).into());
        }
        let Ok(command) = command else { return Ok(()) };
        if flags & flag::BACKGROUND != 0 {
            self.admit_beside(command)?;
        }
        if flags & flag::NOT_READY != 0 && needs_medium(command) {
            return Err(self.lock().not_ready_sense().into());
        }
        if flags & flag::PROTECTED != 0 && writes(command) {
            return Err(Sense::new(key::DATA_PROTECT, asc::WRITE_PROTECTED).into());
        }
        Ok(())
    }

    /// Whether a command may run beside a format or sanitize (SBC-4, 4.33 and 4.11.2).
    fn admit_beside(&self, command: &Command) -> Result<(), Answer> {
        let state = self.lock();
        let Some(work) = &state.background else { return Ok(()) };
        let again = work.failed && matches!(command, Command::Sanitize { .. });
        let harmless = matches!(
            command,
            Command::ReportOpcodes { .. }
                | Command::ReportTmfs { .. }
                | Command::ModeSense { .. }
                | Command::LogSense { .. }
                | Command::ReadCapacity10
                | Command::ReadCapacity16 { .. }
                | Command::ReserveIn { .. }
        );
        if again || harmless { Ok(()) } else { Err(work.sense().into()) }
    }

    /// What REQUEST SENSE tells: a unit attention, or how the unit is.
    fn pending_sense(&self, nexus: Nexus) -> Sense {
        if let Some(code) = self.take_attention(nexus) {
            return Sense::attention(code);
        }
        let state = self.lock();
        if let Some(work) = &state.background {
            return work.sense();
        }
        if state.stopped { state.not_ready_sense() } else { Sense::none() }
    }

    /// The counters of the log pages begin again.
    fn reset_logs(&self, nexus: Nexus) {
        self.change(|state| {
            state.log_base = state.root.as_ref().map(|root| root.stats()).unwrap_or_default();
            state.attention(asc::LOG_CHANGED, |other, _| other != nexus);
        });
    }

    fn select_mode(
        &self,
        nexus: Nexus,
        (ten, save): (bool, bool),
        list: &[u8],
        medium: mode::Medium,
    ) -> Result<(), Sense> {
        self.change(|state| {
            if state.mode.select(ten, list, medium)? {
                state.mode.apply(state.root.as_deref());
                state.attention(asc::MODE_CHANGED, |other, _| other != nexus);
            }
            if save {
                state.mode.save();
            }
            Ok(())
        })
    }
}

impl super::unit::State {
    fn not_ready_sense(&self) -> Sense {
        if self.root.is_none() {
            return Sense::not_ready(self.tray.no_medium_code());
        }
        Sense::not_ready(asc::NOT_READY_INITIALIZING_REQUIRED)
    }
}

/// Whether a command changes the medium.
pub(super) fn writes(command: &Command) -> bool {
    matches!(
        command,
        Command::Write { .. }
            | Command::WriteSame { .. }
            | Command::Unmap { .. }
            | Command::WriteAndVerify { .. }
            | Command::CompareAndWrite { .. }
            | Command::FormatUnit { .. }
            | Command::Sanitize { .. }
    )
}

/// Whether a command cannot be done without a medium that is ready.
fn needs_medium(command: &Command) -> bool {
    writes(command)
        || matches!(
            command,
            Command::TestUnitReady
                | Command::Read { .. }
                | Command::Verify { .. }
                | Command::Synchronize { .. }
                | Command::ReadCapacity10
                | Command::ReadCapacity16 { .. }
                | Command::GetLbaStatus { .. }
                | Command::ReadToc { .. }
                | Command::ReadDiscInformation { .. }
                | Command::ReadTrackInformation { .. }
                | Command::ReadDiscStructure { .. }
                | Command::ReadCd { .. }
        )
}
