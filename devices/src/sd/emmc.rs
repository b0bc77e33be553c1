//! What only eMMC devices have.

use super::{
    Card, CardConfig, CardKind, Reply, Response, Step, Then,
    card::{Own, Taking},
    ext_csd::{ExtCsd, Refused},
    protect::Kind,
    queue::TaskQueue,
    rpmb::Rpmb,
    size::STANDARD_MAX,
    spec::{BLOCK, State, TUNING_4, ext_csd as at, ocr, status, tuning_8},
    table::Name,
};
use crate::state_file::{Fields, Section};

/// An eMMC device's own state.
pub(super) struct Emmc {
    csd: ExtCsd,
    pub rpmb: Rpmb,
    pub tasks: TaskQueue,
    /// Bytes of a boot partition.
    boot: u64,
    user: (u64, u64),
    /// Start and length of the general purpose partitions.
    general: [(u64, u64); 4],
    /// What CMD19 has brought.
    bus_test: Vec<u8>,
}

/// Sections of the state.
const SECTION: &str = "emmc";
const SECTION_VERSION: u16 = 1;

/// BUS_WIDTH: eight lines with double data rate and enhanced strobe.
const STROBE_8: u8 = 0x86;
/// HS_TIMING.
const HS400: u8 = 3;

/// PARTITION_ACCESS of PARTITION_CONFIG.
mod access {
    pub const USER: u8 = 0;
    pub const RPMB: u8 = 3;
    pub const FIRST_GENERAL: u8 = 4;
}

impl Emmc {
    pub fn new(config: &CardConfig) -> Self {
        let CardKind::Emmc { boot, rpmb } = config.kind else {
            // Only eMMC devices are made with it.
            return Self::new(&CardConfig::emmc(config.size));
        };
        let mut csd = ExtCsd::new(config);
        let user = (config.user_start(), config.size);
        if let Some(section) = config.state.get(SECTION)
            && section.version == SECTION_VERSION
            && csd.load(&mut Fields::new(&section.bytes)).is_err()
        {
            log::warn!("the kept registers of an eMMC device are damaged: it begins with new ones");
            csd = ExtCsd::new(config);
        }
        csd.set_partition_max(user.1 - user.0);
        let rpmb = Rpmb::new(boot * 2, rpmb, &config.state);
        Self {
            csd,
            rpmb,
            boot,
            user,
            general: [(0, 0); 4],
            bus_test: Vec::new(),
            tasks: TaskQueue::default(),
        }
    }

    /// Power is on: partitions are as they were asked for.
    pub fn power_on(&mut self, image_end: u64) {
        self.csd.power_on();
        self.show_boot_protection();
        let sizes = self.csd.general_purpose();
        let start = self.user.0;
        let total = sizes.iter().sum::<u64>();
        let fits = self.csd.is_partitioned() && image_end.saturating_sub(start) > total;
        let mut at = image_end - if fits { total } else { 0 };
        self.user = (start, at);
        for (place, size) in self.general.iter_mut().zip(sizes) {
            let size = if fits { size } else { 0 };
            *place = (at, size);
            at += size;
        }
        self.csd.set_user_size(self.user.1 - self.user.0);
    }

    pub fn go_idle(&mut self) {
        self.csd.reset();
        self.bus_test.clear();
        self.tasks.clear();
        self.rpmb.reset();
    }

    fn access(&self) -> u8 {
        self.csd.get(at::PARTITION_CONFIG) & 7
    }

    fn place(&self, access: u8) -> (u64, u64) {
        match access {
            access::USER => (self.user.0, self.user.1 - self.user.0),
            1 => (0, self.boot),
            2 => (self.boot, self.boot),
            access::RPMB => self.rpmb.place(),
            general => self.general[usize::from((general - access::FIRST_GENERAL) & 3)],
        }
    }

    pub fn area(&self) -> (u64, u64) {
        self.place(self.access())
    }

    pub fn user_area(&self) -> (u64, u64) {
        self.user
    }

    pub fn in_user_area(&self) -> bool {
        self.access() == access::USER
    }

    pub fn in_rpmb(&self) -> bool {
        self.access() == access::RPMB
    }

    /// The boot partitions are write protected, and one of them is addressed.
    pub fn is_partition_protected(&self) -> bool {
        matches!(self.access(), 1 | 2) && self.csd.get(at::BOOT_WP) & 0x05 != 0
    }

    pub fn has_cache_on(&self) -> bool {
        self.csd.get(at::CACHE_CTRL) & 1 != 0
    }

    pub fn has_queue_on(&self) -> bool {
        self.csd.get(at::CMDQ_MODE_EN) & 1 != 0
    }

    pub fn has_hpi_on(&self) -> bool {
        self.csd.get(at::HPI_MGMT) & 1 != 0
    }

    /// No event of EXCEPTION_EVENTS_STATUS ever happens here.
    pub fn has_exception(&self) -> bool {
        false
    }

    /// The kind of protection that CMD28 sets (eMMC 7.4.69).
    pub fn protection(&self) -> Kind {
        let user = self.csd.get(at::USER_WP);
        if user & 0x14 == 0x04 {
            Kind::Permanent
        } else if user & 0x09 == 0x01 {
            Kind::PowerOn
        } else {
            Kind::Temporary
        }
    }

    fn show_boot_protection(&mut self) {
        let set = self.csd.get(at::BOOT_WP);
        let kind = match (set & 4 != 0, set & 1 != 0) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        };
        self.csd.set(at::BOOT_WP_STATUS, kind << 2 | kind);
    }

    /// Whether a byte may be written with this value, whatever its fields say.
    fn allows(&self, index: u8, value: u8) -> bool {
        let old = self.csd.get(index);
        match index {
            at::PARTITION_CONFIG => {
                // Tasks are of the partition that they were named in.
                if !self.tasks.is_empty() && (old ^ value) & 7 != 0 {
                    return false;
                }
                let fixed = self.csd.get(at::BOOT_CONFIG_PROT) != 0 && (old ^ value) & 0x78 != 0;
                self.place(value & 7).1 > 0 && !fixed
            }
            at::POWER_OFF_NOTIFICATION => value <= 4,
            // 1, 4 and 8 lines, the latter two with double data rate too.
            at::BUS_WIDTH => matches!(value, 0 | 1 | 2 | 5 | 6 | STROBE_8),
            // HS400 has eight lines with double data rate (eMMC 6.6.2.3).
            at::HS_TIMING => {
                let wide = matches!(self.csd.get(at::BUS_WIDTH), 6 | STROBE_8);
                value < HS400 || value == HS400 && wide
            }
            // It is switched while the queue is empty, and not in the RPMB (eMMC 6.6.39.1).
            at::CMDQ_MODE_EN => self.tasks.is_empty() && !self.in_rpmb(),
            at::BOOT_WP => {
                // What was disabled cannot be enabled.
                let set = value & !old;
                !(old & 0x40 != 0 && set & 1 != 0 || old & 0x10 != 0 && set & 4 != 0)
            }
            at::PARTITION_SETTING_COMPLETED => {
                let total = self.csd.general_purpose().iter().sum::<u64>();
                old != 0 || total < self.user.1 - self.user.0
            }
            _ => true,
        }
    }

    fn write(&mut self, index: u8, value: u8) -> Result<(), Refused> {
        if !self.allows(index, value) {
            return Err(Refused);
        }
        self.csd.write(index, value)?;
        if index == at::BOOT_WP {
            self.show_boot_protection();
        }
        Ok(())
    }
}

impl Card {
    /// A command that only eMMC devices have, or that means something else there.
    pub(super) fn execute_emmc(&mut self, name: Name, arg: u32) -> Reply {
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        match name {
            Name::SendOpCond => {
                let mut bits = ocr::VOLTAGES | ocr::LOW_VOLTAGE;
                if emmc.user.1 - emmc.user.0 > STANDARD_MAX {
                    bits |= ocr::CAPACITY;
                }
                // Without voltages it is only asked.
                if arg & (ocr::VOLTAGES | ocr::LOW_VOLTAGE) != 0 {
                    bits |= ocr::READY;
                    self.state = State::Ready;
                }
                Reply::new(Response::Ocr(bits))
            }
            Name::SleepAwake => {
                const SLEEP: u32 = 1 << 15;
                if arg & SLEEP != 0 {
                    self.state = State::Sleep;
                    self.flush();
                } else {
                    self.state = State::Standby;
                }
                self.busy()
            }
            Name::SendExtCsd => {
                let bytes = emmc.csd.0.to_vec();
                self.send(bytes)
            }
            Name::Switch => self.switch_emmc(arg),
            Name::BusTestWrite => {
                let len = u32::from(self.width.max(4));
                let reply = self.take(Taking::BusTest, len);
                self.state = State::BusTest;
                reply
            }
            Name::BusTestRead => {
                // Each line is sent back inverted (eMMC 6.6.4).
                let bytes = emmc.bus_test.iter().map(|byte| !byte).collect();
                self.state = State::Transfer;
                self.send(bytes)
            }
            Name::Tuning => match self.width {
                8 => self.send(tuning_8().to_vec()),
                4 => self.send(TUNING_4.to_vec()),
                _ => self.refuse(),
            },
            _ => self.refuse(),
        }
    }

    /// CMD6 (eMMC 6.6.1).
    fn switch_emmc(&mut self, arg: u32) -> Reply {
        let (index, value) = ((arg >> 16) as u8, (arg >> 8) as u8);
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        let old = emmc.csd.get(index);
        let new = match arg >> 24 & 3 {
            1 => old | value,
            2 => old & !value,
            3 => value,
            // Command sets: there is the standard one.
            _ => {
                if arg & 7 != 0 {
                    self.errors |= status::SWITCH_ERROR;
                }
                return self.busy();
            }
        };
        if self.act(index, new).is_err() {
            // It is told in the next status: the switch is executed after the response.
            let reply = self.busy();
            self.errors |= status::SWITCH_ERROR;
            return reply;
        }
        self.busy()
    }

    fn act(&mut self, index: u8, value: u8) -> Result<(), Refused> {
        let Own::Emmc(emmc) = &mut self.own else { return Err(Refused) };
        match index {
            at::FLUSH_CACHE if value & 1 != 0 => {
                self.dirty = true;
                self.flush();
                return Ok(());
            }
            // No operation is ever outstanding.
            at::BKOPS_START => return Ok(()),
            // What was discarded reads as zeros already; that it does is to be durable.
            at::SANITIZE_START => {
                self.dirty = true;
                self.flush();
                return Ok(());
            }
            _ => {}
        }
        let cached = emmc.has_cache_on();
        emmc.write(index, value)?;
        let lasting = ExtCsd::is_lasting(index);
        if lasting {
            let mut bytes = Vec::new();
            emmc.csd.save(&mut bytes);
            self.job.push(Step::Save(SECTION, Section { version: SECTION_VERSION, bytes }));
        }
        match index {
            at::BUS_WIDTH => {
                self.width = match value {
                    1 | 5 => 4,
                    2 | 6 | STROBE_8 => 8,
                    _ => 1,
                };
            }
            at::CACHE_CTRL if cached && value & 1 == 0 => self.flush(),
            // Power will go.
            at::POWER_OFF_NOTIFICATION if value >= 2 => self.flush(),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn received_emmc(&mut self, what: Taking, bytes: &[u8]) {
        let read_only = self.config.read_only;
        let Own::Emmc(emmc) = &mut self.own else { return };
        if what == Taking::BusTest {
            emmc.bus_test = bytes.to_vec();
            self.state = State::BusTest;
            return;
        }
        emmc.rpmb.receive(bytes, read_only, &mut self.job);
    }

    /// CMD18 in the RPMB: frames.
    pub(super) fn read_rpmb(&mut self, blocks: Option<u32>) -> Reply {
        let Some(blocks) = blocks else { return self.refuse() };
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        let fetch = emmc.rpmb.answer(blocks);
        let response = Response::Normal(self.status());
        let then = match fetch {
            Ok(frames) => Then::Send(frames, BLOCK),
            Err(range) => Then::Fetch(range),
        };
        Reply { response, then }
    }

    /// CMD25 in the RPMB: frames.
    pub(super) fn write_rpmb(&mut self, count: Option<(u32, bool)>) -> Reply {
        let Some((blocks, durable)) = count.filter(|(blocks, _)| *blocks <= RPMB_BLOCKS_MAX) else {
            return self.refuse();
        };
        let Own::Emmc(emmc) = &mut self.own else { return self.refuse() };
        emmc.rpmb.expect(durable);
        let mut reply = self.take(Taking::Rpmb, BLOCK);
        reply.then = Then::Take { blocks, block_len: BLOCK };
        reply
    }
}

/// The most frames of one write: 16 KiB.
const RPMB_BLOCKS_MAX: u32 = 64;
