//! EXT_CSD (eMMC 7.4).

use super::{
    CardConfig, CardKind,
    config::PARTITION_UNIT,
    registers::MMC_GROUP,
    spec::{BLOCK, QUEUE_DEPTH, ext_csd as at},
};
use crate::state_file::{Fields, Truncated};

/// What becomes of a field that a host writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// It starts anew with power, a reset or CMD0.
    Volatile,
    /// Bits that were set stay set until power is off.
    Power,
    /// It survives power loss.
    Lasting,
    /// It survives, and bits that were set stay set.
    Once,
}

/// A field that a host can write.
struct Field {
    index: u8,
    mask: u8,
    keep: Keep,
}

const fn field(index: u8, mask: u8, keep: Keep) -> Field {
    Field { index, mask, keep }
}

/// Fields whose bits behave alike; a byte may have several.
const FIELDS: &[Field] = &[
    field(at::CMDQ_MODE_EN, 0x01, Keep::Volatile),
    field(at::CACHE_CTRL, 0x01, Keep::Volatile),
    field(at::POWER_OFF_NOTIFICATION, 0xff, Keep::Volatile),
    field(at::PARTITION_SETTING_COMPLETED, 0x01, Keep::Once),
    field(at::PARTITIONS_ATTRIBUTE, 0x1f, Keep::Lasting),
    field(at::HPI_MGMT, 0x01, Keep::Volatile),
    field(at::RST_N_FUNCTION, 0x03, Keep::Once),
    field(at::BKOPS_EN, 0x01, Keep::Once),
    field(at::BKOPS_EN, 0x02, Keep::Lasting),
    field(at::USER_WP, 0x05, Keep::Volatile),
    field(at::USER_WP, 0x08, Keep::Power),
    field(at::USER_WP, 0x10, Keep::Once),
    field(at::BOOT_WP, 0x41, Keep::Power),
    field(at::BOOT_WP, 0x14, Keep::Once),
    field(at::ERASE_GROUP_DEF, 0x01, Keep::Volatile),
    field(at::BOOT_BUS_CONDITIONS, 0x1f, Keep::Lasting),
    field(at::BOOT_CONFIG_PROT, 0x01, Keep::Power),
    field(at::BOOT_CONFIG_PROT, 0x10, Keep::Once),
    field(at::PARTITION_CONFIG, 0x07, Keep::Volatile),
    field(at::PARTITION_CONFIG, 0x78, Keep::Lasting),
    field(at::BUS_WIDTH, 0x8f, Keep::Volatile),
    field(at::HS_TIMING, 0x0f, Keep::Volatile),
    field(at::POWER_CLASS, 0x0f, Keep::Volatile),
];

/// A write that the device does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// The register.
#[derive(Clone)]
pub(super) struct ExtCsd(pub Box<[u8; 512]>);

impl ExtCsd {
    /// The register of a new device.
    pub fn new(config: &CardConfig) -> Self {
        let mut bytes = Box::new([0; 512]);
        let mut put = |index: u8, value: u8| bytes[usize::from(index)] = value;
        let CardKind::Emmc { boot, rpmb } = config.kind else { return Self(bytes) };
        // Enhanced attributes and partitions; reliable writes are enhanced ones, in the RPMB too.
        put(at::PARTITIONING_SUPPORT, 0x03);
        put(at::WR_REL_PARAM, 0x14);
        put(at::WR_REL_SET, 0x1f);
        put(at::RPMB_SIZE_MULT, (rpmb / PARTITION_UNIT) as u8);
        put(at::EXT_CSD_REV, 8);
        put(at::CSD_STRUCTURE, 2);
        put(at::STROBE_SUPPORT, 1);
        // 26 and 52 MHz, DDR at 52 MHz, HS200 and HS400 at 1.8 V.
        put(at::DEVICE_TYPE, 0x57);
        put(at::DRIVER_STRENGTH, 0x01);
        put(at::OUT_OF_INTERRUPT_TIME, 10);
        put(at::PARTITION_SWITCH_TIME, 3);
        put(at::S_A_TIMEOUT, 0x11);
        put(at::HC_WP_GRP_SIZE, 1);
        put(at::REL_WR_SEC_C, 1);
        put(at::ERASE_TIMEOUT_MULT, 1);
        put(at::HC_ERASE_GRP_SIZE, (MMC_GROUP >> 19) as u8);
        put(at::ACC_SIZE, 8);
        put(at::BOOT_SIZE_MULT, (boot / PARTITION_UNIT) as u8);
        // Sanitize, and trim.
        put(at::SEC_FEATURE_SUPPORT, 0x50);
        put(at::TRIM_MULT, 1);
        put(at::INI_TIMEOUT_AP, 10);
        put(at::POWER_OFF_LONG_TIME, 60);
        put(at::GENERIC_CMD6_TIME, 10);
        let mut put16 = |index: usize, value: u8| bytes[index] = value;
        // 512 KiB, in kilobits.
        put16(at::CACHE_SIZE + 1, 0x10);
        put16(at::PRE_EOL_INFO, 1);
        put16(at::DEVICE_LIFE_TIME_A, 1);
        put16(at::DEVICE_LIFE_TIME_B, 1);
        put16(at::CMDQ_DEPTH, QUEUE_DEPTH as u8 - 1);
        put16(at::CMDQ_SUPPORT, 1);
        put16(at::BKOPS_SUPPORT, 1);
        // HPI by CMD13.
        put16(at::HPI_FEATURES, 1);
        put16(at::S_CMD_SET, 1);
        Self(bytes)
    }

    pub fn get(&self, index: u8) -> u8 {
        self.0[usize::from(index)]
    }

    pub fn set(&mut self, index: u8, value: u8) {
        self.0[usize::from(index)] = value;
    }

    /// Says how large the data area is, in bytes.
    pub fn set_user_size(&mut self, bytes: u64) {
        let sectors = u32::try_from(bytes / u64::from(BLOCK)).unwrap_or(u32::MAX);
        let start = usize::from(at::SEC_COUNT);
        self.0[start..start + 4].copy_from_slice(&sectors.to_le_bytes());
    }

    /// Says how many groups can be given to other partitions.
    pub fn set_partition_max(&mut self, bytes: u64) {
        let groups = (bytes / MMC_GROUP).min(0xff_ffff) as u32;
        let start = usize::from(at::MAX_ENH_SIZE_MULT);
        self.0[start..start + 3].copy_from_slice(&groups.to_le_bytes()[..3]);
    }

    /// Bytes of the four general purpose partitions as a host has asked for them.
    pub fn general_purpose(&self) -> [u64; 4] {
        std::array::from_fn(|i| {
            let start = usize::from(at::GP_SIZE_MULT) + i * 3;
            let groups = self.0[start..start + 3].iter().rev();
            groups.fold(0_u64, |value, byte| value << 8 | u64::from(*byte)) * MMC_GROUP
        })
    }

    /// Partitions that a host has asked for, and said that it is done.
    pub fn is_partitioned(&self) -> bool {
        self.get(at::PARTITION_SETTING_COMPLETED) & 1 != 0
    }

    /// Writes a byte by the rules of its fields.
    pub fn write(&mut self, index: u8, value: u8) -> Result<(), Refused> {
        let old = self.get(index);
        let changed = old ^ value;
        if is_partition_size(index) {
            if self.is_partitioned() {
                return Err(Refused);
            }
            self.set(index, value);
            return Ok(());
        }
        let mut fields = FIELDS.iter().filter(|field| field.index == index).peekable();
        if fields.peek().is_none() {
            return Err(Refused);
        }
        let mut open = 0;
        for field in fields {
            open |= field.mask;
            let sticky = matches!(field.keep, Keep::Power | Keep::Once);
            if sticky && old & !value & field.mask != 0 {
                return Err(Refused);
            }
        }
        if changed & !open != 0 {
            return Err(Refused);
        }
        self.set(index, value);
        Ok(())
    }

    /// Whether a write to this byte is to be kept.
    pub fn is_lasting(index: u8) -> bool {
        let lasting = |field: &Field| matches!(field.keep, Keep::Lasting | Keep::Once);
        is_partition_size(index) || FIELDS.iter().any(|f| f.index == index && lasting(f))
    }

    /// CMD0 or a reset: volatile fields start anew.
    pub fn reset(&mut self) {
        self.forget(|keep| keep == Keep::Volatile);
    }

    /// Power was off.
    pub fn power_on(&mut self) {
        self.forget(|keep| matches!(keep, Keep::Volatile | Keep::Power));
        // Partitions that were not completed were never asked for.
        if !self.is_partitioned() {
            (at::ENH_START_ADDR..at::PARTITION_SETTING_COMPLETED).for_each(|i| self.set(i, 0));
            self.set(at::PARTITIONS_ATTRIBUTE, 0);
        }
    }

    fn forget(&mut self, which: impl Fn(Keep) -> bool) {
        for field in FIELDS.iter().filter(|field| which(field.keep)) {
            let old = self.get(field.index);
            self.set(field.index, old & !field.mask);
        }
    }

    /// What survives power loss.
    pub fn save(&self, out: &mut Vec<u8>) {
        for index in 0..=u8::MAX {
            let mut mask = if is_partition_size(index) { 0xff } else { 0 };
            for field in FIELDS.iter().filter(|field| field.index == index) {
                if matches!(field.keep, Keep::Lasting | Keep::Once) {
                    mask |= field.mask;
                }
            }
            let value = self.get(index) & mask;
            if value != 0 {
                out.extend([index, value]);
            }
        }
    }

    pub fn load(&mut self, fields: &mut Fields<'_>) -> Result<(), Truncated> {
        while !fields.is_empty() {
            let (index, value) = (fields.u8()?, fields.u8()?);
            if Self::is_lasting(index) {
                self.set(index, value);
            }
        }
        Ok(())
    }
}

/// ENH_START_ADDR, ENH_SIZE_MULT and GP_SIZE_MULT: bytes as a host likes until it says that it is done.
fn is_partition_size(index: u8) -> bool {
    (at::ENH_START_ADDR..at::PARTITION_SETTING_COMPLETED).contains(&index)
}
