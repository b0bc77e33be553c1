//! The card: what both kinds have in common.

use std::sync::Arc;

use spindle_block::{BlockError, Op, Range};

use super::{
    CardConfig, CardKind, CardLayoutError, Step, Stream,
    emmc::Emmc,
    erase::Selection,
    error_bits,
    job::Job,
    lock::{Lock, Outcome},
    protect::Protect,
    registers::{
        MMC_GROUP, Register, mmc_cid, mmc_csd, program_csd, programmed, sd_cid, sd_csd, wp_group,
    },
    sdcard::SdCard,
    size::STANDARD_MAX,
    spec::{BLOCK, State, status},
    table::{Name, Row, find},
};
use crate::state_file::{DiskState, Fields, Section, Truncated};

/// What a card answers on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Nothing.
    None,
    /// 48 bits with the command's number: R1, R1b, R6, R7.
    Normal(u32),
    /// 48 bits without number and CRC: R3.
    Ocr(u32),
    /// 136 bits: a CID or CSD, its first byte first.
    Long([u8; 16]),
}

/// What follows on the data lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The card is busy until its steps are done.
    Busy,
    /// It sends these bytes, in blocks of this length.
    Send(Vec<u8>, u32),
    /// It sends what [`Card::fetched`] makes of this range of the image, in blocks of 512 bytes.
    Fetch(Range),
    /// It takes this many blocks of this length for [`Card::received`].
    Take {
        /// Blocks.
        blocks: u32,
        /// Bytes of a block.
        block_len: u32,
    },
    /// Blocks of the medium: see [`Card::stream`].
    Stream,
}

/// An answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// On the command line.
    pub response: Response,
    /// On the data lines.
    pub then: Then,
}

impl Reply {
    pub(super) const SILENCE: Self = Self { response: Response::None, then: Then::Nothing };

    pub(super) fn new(response: Response) -> Self {
        Self { response, then: Then::Nothing }
    }
}

/// What the bytes are that a card takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    Lock,
    Csd,
    Cid,
    General,
    BusTest,
    Rpmb,
}

/// What only one kind has.
pub(super) enum Own {
    Sd(SdCard),
    Emmc(Box<Emmc>),
}

/// See the module's header.
pub struct Card {
    pub(super) config: CardConfig,
    pub(super) own: Own,
    pub(super) state: State,
    /// The state in which the command that is being answered came.
    before: State,
    /// Error bits that no response has told yet.
    pub(super) errors: u32,
    pub(super) rca: u16,
    /// CMD55 has just come.
    pub(super) app: bool,
    pub(super) block_len: u32,
    /// What CMD23 said: blocks, and whether they are to be durable.
    pub(super) count: Option<(u32, bool)>,
    /// Data lines in use.
    pub(super) width: u8,
    pub(super) erase: Selection,
    pub(super) protect: Protect,
    pub(super) lock: Lock,
    /// Bits of the CSD that a host has changed: [`programmed`].
    pub(super) programmed: u8,
    pub(super) stream: Option<Stream>,
    pub(super) taking: Option<Taking>,
    pub(super) job: Job,
    /// A step was handed out and has not been answered.
    stepping: bool,
    /// Something was written since the last flush.
    pub(super) dirty: bool,
}

/// The name of the section that keeps what both kinds have.
const SECTION: &str = "sd";
const SECTION_VERSION: u16 = 1;

impl Card {
    /// A card without power.
    ///
    /// # Errors
    /// When no card has the layout asked for.
    pub fn new(config: CardConfig) -> Result<Self, CardLayoutError> {
        config.check()?;
        let (own, group) = match config.kind {
            CardKind::Sd(version) => {
                let group = if config.size <= STANDARD_MAX { wp_group(config.size) } else { 0 };
                (Own::Sd(SdCard::new(version)), group)
            }
            CardKind::Emmc { .. } => (Own::Emmc(Box::new(Emmc::new(&config))), MMC_GROUP),
        };
        let mut card = Self {
            config,
            own,
            state: State::Idle,
            before: State::Idle,
            errors: 0,
            rca: 0,
            app: false,
            block_len: BLOCK,
            count: None,
            width: 1,
            erase: Selection::default(),
            protect: Protect::new(group),
            lock: Lock::default(),
            programmed: 0,
            stream: None,
            taking: None,
            job: Job::default(),
            stepping: false,
            dirty: false,
        };
        card.load();
        card.power_cycle();
        Ok(card)
    }

    /// Reads what was kept; what cannot be read is as if there were nothing.
    fn load(&mut self) {
        if let Some(section) = self.config.state.get(SECTION)
            && section.version == SECTION_VERSION
            && self.load_common(&mut Fields::new(&section.bytes)).is_err()
        {
            log::warn!("the kept registers of a card are damaged: it begins with new ones");
            self.programmed = 0;
            self.lock = Lock::default();
            self.protect = Protect::new(self.protect.group);
        }
    }

    fn load_common(&mut self, fields: &mut Fields<'_>) -> Result<(), Truncated> {
        self.programmed = fields.u8()?;
        let len = fields.u8()?;
        self.lock.password = fields.take(len.into())?.to_vec();
        self.protect.load(fields)
    }

    /// Keeps what both kinds have.
    pub(super) fn save(&mut self) {
        let mut bytes = vec![self.programmed, self.lock.password.len() as u8];
        bytes.extend(&self.lock.password);
        self.protect.save(&mut bytes);
        self.job.push(Step::Save(SECTION, Section { version: SECTION_VERSION, bytes }));
    }

    /// Power was off and is on again.
    pub fn power_cycle(&mut self) {
        self.lock.power_on();
        self.protect.power_on();
        self.errors = 0;
        if let Own::Sd(card) = &mut self.own {
            card.power_on();
        }
        let user_end = self.config.size;
        if let Own::Emmc(emmc) = &mut self.own {
            emmc.power_on(user_end);
        }
        self.go_idle();
        self.flush();
    }

    /// CMD0.
    fn go_idle(&mut self) {
        self.state = State::Idle;
        (self.rca, self.width, self.block_len) = (0, 1, BLOCK);
        (self.app, self.count, self.stream, self.taking) = (false, None, None, None);
        self.erase = Selection::default();
        self.job.clear();
        match &mut self.own {
            Own::Sd(card) => card.go_idle(),
            Own::Emmc(emmc) => emmc.go_idle(),
        }
    }

    pub(super) fn is_emmc(&self) -> bool {
        matches!(self.own, Own::Emmc(_))
    }

    /// Where what survives power loss is kept.
    #[must_use]
    pub fn state(&self) -> &Arc<DiskState> {
        &self.config.state
    }

    /// Data lines that the card uses: 1, 4 or 8.
    #[must_use]
    pub fn width(&self) -> u8 {
        self.width
    }

    /// The card holds its lines low until the host has changed the voltage (SD 4.2.4.2).
    #[must_use]
    pub fn is_switching_voltage(&self) -> bool {
        matches!(&self.own, Own::Sd(card) if card.switching)
    }

    /// The host has changed the voltage to 1.8 V.
    pub fn voltage_switched(&mut self) {
        if let Own::Sd(card) = &mut self.own {
            card.switched();
        }
    }

    /// Whether addresses count bytes.
    fn is_byte_addressed(&self) -> bool {
        let (start, end) = self.user_area();
        end - start <= STANDARD_MAX
    }

    /// The byte of the partition that an argument names.
    pub(super) fn address(&self, arg: u32) -> u64 {
        let unit = if self.is_byte_addressed() { 1 } else { u64::from(BLOCK) };
        u64::from(arg) * unit
    }

    /// Whether the card takes no writes at all.
    pub(super) fn is_protected(&self) -> bool {
        self.config.read_only
            || self.programmed & (programmed::PERMANENT | programmed::TEMPORARY) != 0
            || matches!(&self.own, Own::Emmc(emmc) if emmc.is_partition_protected())
    }

    /// Whether every write is to be durable when the card says it is done.
    pub(super) fn is_durable(&self) -> bool {
        matches!(&self.own, Own::Emmc(emmc) if !emmc.has_cache_on())
    }

    /// Start and end of the data area in the image.
    pub(super) fn user_area(&self) -> (u64, u64) {
        match &self.own {
            Own::Sd(_) => (0, self.config.size),
            Own::Emmc(emmc) => emmc.user_area(),
        }
    }

    /// Start in the image and length of the partition that is addressed.
    pub(super) fn area(&self) -> (u64, u64) {
        match &self.own {
            Own::Sd(_) => (0, self.config.size),
            Own::Emmc(emmc) => emmc.area(),
        }
    }

    pub(super) fn in_user_area(&self) -> bool {
        match &self.own {
            Own::Sd(_) => true,
            Own::Emmc(emmc) => emmc.in_user_area(),
        }
    }

    fn cid(&self) -> Register {
        if self.is_emmc() { mmc_cid(self.config.serial) } else { sd_cid(self.config.serial) }
    }

    fn csd(&self) -> Register {
        let (start, end) = self.user_area();
        match &self.own {
            Own::Sd(card) => sd_csd(self.config.size, card.is_fast(), self.programmed),
            Own::Emmc(_) => mmc_csd(end - start, self.programmed),
        }
    }

    /// Writes what was written to where it survives power loss.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.job.push(Step::Bare(Op::Flush, Range::default()));
        }
    }

    /// Executes a command. While the card is busy it takes only those that are legal then.
    pub fn command(&mut self, index: u8, arg: u32) -> Reply {
        let app = std::mem::take(&mut self.app);
        self.before = self.state;
        if self.state == State::Inactive {
            return Reply::SILENCE;
        }
        let Some(row) = find(self.is_emmc(), index, app) else { return self.refuse() };
        if row.addressed && row.name != Name::RelativeAddress {
            let named = (arg >> 16) as u16;
            if named != self.rca {
                return self.not_for_us(row);
            }
        }
        if self.lock.locked && !row.when_locked || !row.is_legal(self.state) {
            return self.refuse();
        }
        if !matches!(row.name, Name::EraseStart | Name::EraseEnd | Name::Erase | Name::SendStatus) {
            self.leave_erase();
        }
        let keeps_count = matches!(
            row.name,
            Name::SetBlockCount | Name::ReadMultiple | Name::WriteMultiple | Name::SendStatus
        );
        if !keeps_count {
            self.count = None;
        }
        self.execute(row, arg)
    }

    /// A command that is not legal: silence, and a bit in the next status.
    pub(super) fn refuse(&mut self) -> Reply {
        self.errors |= status::ILLEGAL_COMMAND;
        self.count = None;
        Reply::SILENCE
    }

    /// A command for another card.
    fn not_for_us(&mut self, row: &Row) -> Reply {
        if row.name == Name::Select {
            self.deselect();
        }
        Reply::SILENCE
    }

    fn deselect(&mut self) {
        match self.state {
            State::Transfer | State::Sending => {
                self.state = State::Standby;
                self.stream = None;
                self.flush();
            }
            State::Programming => self.state = State::Disconnect,
            _ => {}
        }
    }

    fn execute(&mut self, row: &Row, arg: u32) -> Reply {
        match row.name {
            Name::GoIdle => {
                self.go_idle();
                Reply::SILENCE
            }
            Name::AllSendCid => {
                self.state = State::Ident;
                Reply::new(Response::Long(self.cid().0))
            }
            Name::SendCid => Reply::new(Response::Long(self.cid().0)),
            Name::SendCsd => Reply::new(Response::Long(self.csd().0)),
            Name::SetDsr => Reply::SILENCE,
            Name::Select => self.select(),
            Name::StopTransmission => self.stop(),
            Name::SendStatus => self.send_status(arg),
            Name::GoInactive => {
                self.state = State::Inactive;
                Reply::SILENCE
            }
            Name::SetBlockLen => self.set_block_len(arg),
            Name::ReadSingle => self.read(arg, Some((1, false))),
            Name::ReadMultiple => {
                let count = self.count.take();
                self.read(arg, count)
            }
            Name::WriteSingle => self.write(arg, Some((1, false))),
            Name::WriteMultiple => {
                let count = self.count.take();
                self.write(arg, count)
            }
            Name::SetBlockCount => self.set_block_count(arg),
            Name::ProgramCsd => self.take(Taking::Csd, 16),
            Name::ProgramCid => self.take(Taking::Cid, 16),
            Name::LockUnlock => self.take(Taking::Lock, self.block_len),
            Name::GeneralCommand => self.general(arg),
            Name::SetWriteProtect => self.protect_group(arg, true),
            Name::ClearWriteProtect => self.protect_group(arg, false),
            Name::SendWriteProtect => self.send_protection(arg, false),
            Name::SendWriteProtectType => self.send_protection(arg, true),
            Name::EraseStart => {
                self.erase_start(arg);
                self.answer()
            }
            Name::EraseEnd => {
                self.erase_end(arg);
                self.answer()
            }
            Name::Erase => {
                self.erase(arg);
                self.busy()
            }
            Name::RelativeAddress if self.is_emmc() => {
                self.rca = (arg >> 16) as u16;
                self.state = State::Standby;
                self.answer()
            }
            name if self.is_emmc() => self.execute_emmc(name, arg),
            name => self.execute_sd(name, arg),
        }
    }

    /// The card status, as R1 tells it: errors are told once.
    pub(super) fn status(&mut self) -> u32 {
        let errors = std::mem::take(&mut self.errors);
        let mut bits = errors | u32::from(self.before as u8) << status::STATE_SHIFT;
        if self.before != State::Programming && self.job.is_empty() {
            bits |= status::READY_FOR_DATA;
        }
        if self.lock.locked {
            bits |= status::CARD_IS_LOCKED;
        }
        if matches!(&self.own, Own::Emmc(emmc) if emmc.has_exception()) {
            bits |= status::EXCEPTION_EVENT;
        }
        bits
    }

    /// R1.
    pub(super) fn answer(&mut self) -> Reply {
        Reply::new(Response::Normal(self.status()))
    }

    /// R1, and data.
    pub(super) fn send(&mut self, bytes: Vec<u8>) -> Reply {
        let len = bytes.len() as u32;
        let response = Response::Normal(self.status());
        Reply { response, then: Then::Send(bytes, len) }
    }

    /// R1b: busy as long as there are steps.
    pub(super) fn busy(&mut self) -> Reply {
        let response = Response::Normal(self.status());
        if !self.job.is_empty() {
            match self.state {
                State::Transfer | State::Receiving | State::Sending => {
                    self.state = State::Programming;
                }
                _ => {}
            }
        }
        Reply { response, then: Then::Busy }
    }

    pub(super) fn take(&mut self, what: Taking, len: u32) -> Reply {
        let response = Response::Normal(self.status());
        self.state = State::Receiving;
        self.taking = Some(what);
        Reply { response, then: Then::Take { blocks: 1, block_len: len } }
    }

    fn select(&mut self) -> Reply {
        if self.rca == 0 {
            self.deselect();
            return Reply::SILENCE;
        }
        match self.state {
            State::Standby => self.state = State::Transfer,
            State::Disconnect => self.state = State::Programming,
            // It is selected already.
            _ => return self.refuse(),
        }
        self.busy()
    }

    fn stop(&mut self) -> Reply {
        let writing = self.state == State::Receiving;
        self.stream = None;
        self.taking = None;
        self.state = State::Transfer;
        if writing { self.busy() } else { self.answer() }
    }

    fn send_status(&mut self, arg: u32) -> Reply {
        const HPI: u32 = 1;
        if arg & HPI != 0 && matches!(&self.own, Own::Emmc(emmc) if emmc.has_hpi_on()) {
            // What is under way ends; the rest is not begun.
            self.job.clear();
        }
        self.answer()
    }

    fn set_block_len(&mut self, len: u32) -> Reply {
        let max = 1 << self.csd().get(83, 80);
        if len == 0 || len > max {
            self.errors |= status::BLOCK_LEN_ERROR;
        } else {
            self.block_len = len;
        }
        self.answer()
    }

    fn set_block_count(&mut self, arg: u32) -> Reply {
        let (blocks, durable) = match &self.own {
            Own::Sd(card) if !card.has_block_count() => return self.refuse(),
            Own::Sd(_) => (arg, false),
            // Reliable write, forced programming.
            Own::Emmc(_) => (arg & 0xffff, arg & (1 << 31 | 1 << 24) != 0),
        };
        self.count = (blocks != 0).then_some((blocks, durable));
        self.answer()
    }

    /// Bytes of a block of data. High capacity cards know only one (SD 4.3.2).
    fn data_len(&self) -> u32 {
        if self.is_byte_addressed() { self.block_len } else { BLOCK }
    }

    /// Checks a data address; errors are noted.
    fn start(&mut self, arg: u32, write: bool) -> Option<u64> {
        let (address, len) = (self.address(arg), u64::from(self.data_len()));
        let (_, limit) = self.area();
        let block = u64::from(BLOCK);
        if write && len != block {
            self.errors |= status::BLOCK_LEN_ERROR;
        } else if address >= limit || limit - address < len {
            self.errors |= status::OUT_OF_RANGE;
        } else if address % block + len.min(block) > block {
            self.errors |= status::ADDRESS_ERROR;
        } else {
            return Some(address);
        }
        None
    }

    fn read(&mut self, arg: u32, count: Option<(u32, bool)>) -> Reply {
        if matches!(&self.own, Own::Emmc(emmc) if emmc.in_rpmb()) {
            return self.read_rpmb(count.map(|(blocks, _)| blocks));
        }
        let start = self.start(arg, false);
        let response = Response::Normal(self.status());
        let Some(address) = start else { return Reply::new(response) };
        self.stream_blocks(address, false, count);
        Reply { response, then: Then::Stream }
    }

    fn write(&mut self, arg: u32, count: Option<(u32, bool)>) -> Reply {
        if matches!(&self.own, Own::Emmc(emmc) if emmc.in_rpmb()) {
            return self.write_rpmb(count);
        }
        let start = self.start(arg, true);
        if start.is_some() && self.is_protected() {
            self.errors |= status::WP_VIOLATION;
        }
        if let Own::Sd(card) = &mut self.own {
            card.written = 0;
        }
        let response = Response::Normal(self.status());
        let Some(address) = start else { return Reply::new(response) };
        self.stream_blocks(address, true, count);
        Reply { response, then: Then::Stream }
    }

    fn stream_blocks(&mut self, address: u64, write: bool, count: Option<(u32, bool)>) {
        let (base, len) = self.area();
        self.state = if write { State::Receiving } else { State::Sending };
        self.stream = Some(Stream {
            write,
            durable: write && (self.is_durable() || count.is_some_and(|(_, durable)| durable)),
            block_len: self.data_len(),
            left: count.map(|(blocks, _)| blocks),
            offset: base + address,
            end: base + len,
        });
    }

    /// The blocks on their way, if any are.
    #[must_use]
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// How many of the next `wanted` blocks can go at once. A write that reaches protected blocks ends
    /// before them, with its error noted.
    pub fn next_blocks(&mut self, wanted: u32) -> u32 {
        let Some(stream) = self.stream else { return 0 };
        let mut blocks = stream.next(wanted);
        if stream.write && blocks > 0 {
            if self.is_protected() {
                blocks = 0;
            } else if self.in_user_area() {
                let mut range = stream.range(blocks);
                range.offset -= self.area().0;
                blocks = (self.protect.open(range) / u64::from(stream.block_len)) as u32;
            }
            if blocks == 0 {
                self.errors |= status::WP_VIOLATION;
            }
        }
        if blocks == 0 && !stream.is_over() && self.errors & status::WP_VIOLATION == 0 {
            self.errors |= status::OUT_OF_RANGE;
        }
        blocks
    }

    /// `blocks` have been moved, or could not be.
    pub fn moved(&mut self, blocks: u32, result: Result<(), BlockError>) {
        let Some(stream) = &mut self.stream else { return };
        match result {
            Ok(()) => {
                stream.offset += u64::from(blocks) * u64::from(stream.block_len);
                if let Some(left) = &mut stream.left {
                    *left = left.saturating_sub(blocks);
                }
                if stream.write {
                    self.dirty |= !stream.durable;
                    if let Own::Sd(card) = &mut self.own {
                        card.written = card.written.saturating_add(blocks);
                    }
                }
                let over = self.stream.is_some_and(|stream| stream.is_over());
                if over {
                    self.end_stream();
                }
            }
            Err(error) => {
                self.errors |= error_bits(error);
                if self.stream.is_some_and(|stream| stream.left.is_some()) {
                    self.end_stream();
                }
            }
        }
    }

    fn end_stream(&mut self) {
        self.stream = None;
        if matches!(self.state, State::Sending | State::Receiving) {
            self.state = State::Transfer;
        }
    }

    /// The host has stopped before the data phase was over: blocks that were counted are forgotten.
    /// An open-ended transfer goes on until the host stops it by command.
    pub fn cut_off(&mut self) {
        if self.stream.is_some_and(|stream| stream.left.is_some()) {
            self.end_stream();
        }
        if self.taking.take().is_some() {
            self.state = State::Transfer;
        }
    }

    /// What [`Then::Fetch`] asked for was read, or could not be.
    pub fn fetched(&mut self, read: Result<Vec<u8>, BlockError>) -> Vec<u8> {
        match &mut self.own {
            Own::Emmc(emmc) => emmc.rpmb.answer_read(read),
            Own::Sd(_) => Vec::new(),
        }
    }

    /// What [`Then::Take`] asked for. The card is busy afterwards if there are steps.
    pub fn received(&mut self, bytes: &[u8]) {
        let Some(what) = self.taking.take() else { return };
        self.state = State::Transfer;
        match what {
            Taking::Lock => self.lock_command(bytes),
            Taking::Csd => self.program_csd(bytes),
            // It is written by the maker, once.
            Taking::Cid => self.errors |= status::CSD_OVERWRITE,
            Taking::General => {}
            Taking::BusTest | Taking::Rpmb => self.received_emmc(what, bytes),
        }
        if !self.job.is_empty() {
            self.state = State::Programming;
        }
    }

    fn lock_command(&mut self, bytes: &[u8]) {
        // With permanent protection nothing can be erased (SD 4.3.7.3).
        let lasting = self.programmed & programmed::PERMANENT != 0 || self.protect.has_permanent();
        if bytes.first().is_some_and(|mode| mode & 8 != 0) && (lasting || self.config.read_only) {
            self.errors |= status::LOCK_UNLOCK_FAILED;
            return;
        }
        match self.lock.command(bytes) {
            Outcome::Failed => self.errors |= status::LOCK_UNLOCK_FAILED,
            Outcome::Done => {}
            Outcome::Changed => self.save(),
            Outcome::Erase => {
                self.programmed &= !programmed::TEMPORARY;
                self.protect.clear_temporary();
                // The password goes last: a card that lost power half-way is locked, and can be
                // erased again.
                self.erase_all();
                self.save();
            }
        }
    }

    fn program_csd(&mut self, bytes: &[u8]) {
        let csd = self.csd();
        let written = bytes.first_chunk().and_then(|bytes| program_csd(&csd, bytes));
        match written {
            None => self.errors |= status::CSD_OVERWRITE,
            Some(changed) if changed == self.programmed => {}
            Some(changed) => {
                self.programmed = changed;
                self.save();
            }
        }
    }

    /// CMD56: a block of the maker's own. There is nothing in it.
    fn general(&mut self, arg: u32) -> Reply {
        const READ: u32 = 1;
        if arg & READ == 0 {
            return self.take(Taking::General, self.data_len());
        }
        let len = self.data_len();
        self.send(vec![0; len as usize])
    }

    fn protect_group(&mut self, arg: u32, on: bool) -> Reply {
        if self.protect.group == 0 || !self.in_user_area() {
            return self.refuse();
        }
        let address = self.address(arg);
        if address >= self.area().1 {
            self.errors |= status::OUT_OF_RANGE;
            return self.answer();
        }
        if on {
            let kind = match &self.own {
                Own::Sd(_) => super::protect::Kind::Temporary,
                Own::Emmc(emmc) => emmc.protection(),
            };
            self.protect.set(address, kind);
        } else if !self.protect.clear(address) {
            self.errors |= status::ERROR;
        }
        self.save();
        self.busy()
    }

    /// CMD30: a bit for each of 32 groups. CMD31: two for each, and 64 bits.
    fn send_protection(&mut self, arg: u32, kinds: bool) -> Reply {
        if self.protect.group == 0 || !self.in_user_area() {
            return self.refuse();
        }
        let address = self.address(arg);
        if address >= self.area().1 {
            self.errors |= status::OUT_OF_RANGE;
            return self.answer();
        }
        let groups = self.protect.kinds(address, 32);
        let bytes = if kinds {
            let bits =
                groups.enumerate().fold(0_u64, |all, (i, kind)| all | u64::from(kind) << (2 * i));
            bits.to_be_bytes().to_vec()
        } else {
            let bits =
                groups.enumerate().fold(0_u32, |all, (i, kind)| all | u32::from(kind != 0) << i);
            bits.to_be_bytes().to_vec()
        };
        self.send(bytes)
    }

    /// The next thing to be done while the card is busy; `None`: it is ready.
    pub fn next_step(&mut self) -> Option<Step> {
        if let Some(step) = self.job.next() {
            self.stepping = true;
            return Some(step);
        }
        self.state = match self.state {
            State::Programming => State::Transfer,
            State::Disconnect => State::Standby,
            state => state,
        };
        None
    }

    /// The step that was handed out last is done, or failed.
    pub fn step_done(&mut self, result: Result<(), BlockError>) {
        if !std::mem::take(&mut self.stepping) {
            return;
        }
        if let Err(error) = result {
            self.errors |= error_bits(error);
            self.job.clear();
            if let Own::Emmc(emmc) = &mut self.own {
                emmc.rpmb.failed();
            }
        }
    }

    /// Whether there is something to be done.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        !self.job.is_empty()
    }
}
