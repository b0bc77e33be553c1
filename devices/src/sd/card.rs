//! The card: what both kinds have in common.

use std::sync::Arc;

use spindle_block::{BlockError, Op, Range};

use super::{
    CardConfig, CardKind, CardLayoutError, Step, Stream,
    emmc::Emmc,
    erase::Selection,
    error_bits,
    job::Job,
    lock::Lock,
    protect::Protect,
    registers::{MMC_GROUP, Register, mmc_cid, mmc_csd, programmed, sd_cid, sd_csd, wp_group},
    sdcard::SdCard,
    size::STANDARD_MAX,
    spec::{BLOCK, State},
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
    pub(super) before: State,
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
    pub(super) fn go_idle(&mut self) {
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
    pub(super) fn is_byte_addressed(&self) -> bool {
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

    pub(super) fn cid(&self) -> Register {
        if self.is_emmc() { mmc_cid(self.config.serial) } else { sd_cid(self.config.serial) }
    }

    pub(super) fn csd(&self) -> Register {
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
