//! Numbers of the specifications.

/// Card status (SD 4.10.1, eMMC 6.13).
pub mod status {
    /// The argument was out of range.
    pub const OUT_OF_RANGE: u32 = 1 << 31;
    /// A misaligned address.
    pub const ADDRESS_ERROR: u32 = 1 << 30;
    /// The block length is not allowed, or did not match.
    pub const BLOCK_LEN_ERROR: u32 = 1 << 29;
    /// Erase commands in the wrong order.
    pub const ERASE_SEQ_ERROR: u32 = 1 << 28;
    /// A wrong selection of blocks to erase.
    pub const ERASE_PARAM: u32 = 1 << 27;
    /// A write to a protected block.
    pub const WP_VIOLATION: u32 = 1 << 26;
    /// The card is locked.
    pub const CARD_IS_LOCKED: u32 = 1 << 25;
    /// A lock or unlock command failed.
    pub const LOCK_UNLOCK_FAILED: u32 = 1 << 24;
    /// The command is not legal in this state.
    pub const ILLEGAL_COMMAND: u32 = 1 << 22;
    /// The data could not be corrected.
    pub const CARD_ECC_FAILED: u32 = 1 << 21;
    /// An internal error of the card.
    pub const CC_ERROR: u32 = 1 << 20;
    /// Any other error.
    pub const ERROR: u32 = 1 << 19;
    /// What is fixed in the CSD was to be changed, or the CID.
    pub const CSD_OVERWRITE: u32 = 1 << 16;
    /// Only part of the blocks was erased, because of protected ones.
    pub const WP_ERASE_SKIP: u32 = 1 << 15;
    /// An erase sequence was left before it was executed.
    pub const ERASE_RESET: u32 = 1 << 13;
    /// The state, in bits 12 to 9.
    pub const STATE_SHIFT: u32 = 9;
    /// The card takes data.
    pub const READY_FOR_DATA: u32 = 1 << 8;
    /// eMMC: the card did not switch.
    pub const SWITCH_ERROR: u32 = 1 << 7;
    /// eMMC: an exception event is pending.
    pub const EXCEPTION_EVENT: u32 = 1 << 6;
    /// An application command is expected, or was understood as one.
    pub const APP_CMD: u32 = 1 << 5;
}

/// States (SD 4.10.1, eMMC 6.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// idle
    Idle = 0,
    /// ready
    Ready = 1,
    /// ident
    Ident = 2,
    /// stby
    Standby = 3,
    /// tran
    Transfer = 4,
    /// data
    Sending = 5,
    /// rcv
    Receiving = 6,
    /// prg
    Programming = 7,
    /// dis
    Disconnect = 8,
    /// btst, eMMC only
    BusTest = 9,
    /// slp, eMMC only
    Sleep = 10,
    /// ina: there is no way back but power
    Inactive = 15,
}

/// Bits of OCR (SD 5.1, eMMC 7.1).
pub mod ocr {
    /// 2.7 V to 3.6 V.
    pub const VOLTAGES: u32 = 0x00ff_8000;
    /// eMMC: 1.70 V to 1.95 V too.
    pub const LOW_VOLTAGE: u32 = 1 << 7;
    /// S18A, S18R: signalling at 1.8 V.
    pub const S18: u32 = 1 << 24;
    /// CCS and HCS: high capacity; eMMC: sector access.
    pub const CAPACITY: u32 = 1 << 30;
    /// Power-up is complete.
    pub const READY: u32 = 1 << 31;
}

/// A block of the medium, in bytes.
pub const BLOCK: u32 = 512;
/// Tasks of the command queue (eMMC 6.6.39).
pub const QUEUE_DEPTH: usize = 32;

/// Bytes of a tuning block on 4 lines (SD 4.2.4.5).
pub const TUNING_4: [u8; 64] = [
    0xff, 0x0f, 0xff, 0x00, 0xff, 0xcc, 0xc3, 0xcc, 0xc3, 0x3c, 0xcc, 0xff, 0xfe, 0xff, 0xfe, 0xef,
    0xff, 0xdf, 0xff, 0xdd, 0xff, 0xfb, 0xff, 0xfb, 0xbf, 0xff, 0x7f, 0xff, 0x77, 0xf7, 0xbd, 0xef,
    0xff, 0xf0, 0xff, 0xf0, 0x0f, 0xfc, 0xcc, 0x3c, 0xcc, 0x33, 0xcc, 0xcf, 0xff, 0xef, 0xff, 0xee,
    0xff, 0xfd, 0xff, 0xfd, 0xdf, 0xff, 0xbf, 0xff, 0xbb, 0xff, 0xf7, 0xff, 0xf7, 0x7f, 0x7b, 0xde,
];

/// Bytes of EXT_CSD (eMMC 7.4): those that a switch command can name are `u8`.
pub mod ext_csd {
    /// CMDQ_MODE_EN
    pub const CMDQ_MODE_EN: u8 = 15;
    /// FLUSH_CACHE
    pub const FLUSH_CACHE: u8 = 32;
    /// CACHE_CTRL
    pub const CACHE_CTRL: u8 = 33;
    /// POWER_OFF_NOTIFICATION
    pub const POWER_OFF_NOTIFICATION: u8 = 34;
    /// ENH_START_ADDR, 4 bytes
    pub const ENH_START_ADDR: u8 = 136;
    /// GP_SIZE_MULT, 4 times 3 bytes
    pub const GP_SIZE_MULT: u8 = 143;
    /// PARTITION_SETTING_COMPLETED
    pub const PARTITION_SETTING_COMPLETED: u8 = 155;
    /// PARTITIONS_ATTRIBUTE
    pub const PARTITIONS_ATTRIBUTE: u8 = 156;
    /// MAX_ENH_SIZE_MULT, 3 bytes
    pub const MAX_ENH_SIZE_MULT: u8 = 157;
    /// PARTITIONING_SUPPORT
    pub const PARTITIONING_SUPPORT: u8 = 160;
    /// HPI_MGMT
    pub const HPI_MGMT: u8 = 161;
    /// RST_n_FUNCTION
    pub const RST_N_FUNCTION: u8 = 162;
    /// BKOPS_EN
    pub const BKOPS_EN: u8 = 163;
    /// BKOPS_START
    pub const BKOPS_START: u8 = 164;
    /// SANITIZE_START
    pub const SANITIZE_START: u8 = 165;
    /// WR_REL_PARAM
    pub const WR_REL_PARAM: u8 = 166;
    /// WR_REL_SET
    pub const WR_REL_SET: u8 = 167;
    /// RPMB_SIZE_MULT
    pub const RPMB_SIZE_MULT: u8 = 168;
    /// USER_WP
    pub const USER_WP: u8 = 171;
    /// BOOT_WP
    pub const BOOT_WP: u8 = 173;
    /// BOOT_WP_STATUS
    pub const BOOT_WP_STATUS: u8 = 174;
    /// ERASE_GROUP_DEF
    pub const ERASE_GROUP_DEF: u8 = 175;
    /// BOOT_BUS_CONDITIONS
    pub const BOOT_BUS_CONDITIONS: u8 = 177;
    /// BOOT_CONFIG_PROT
    pub const BOOT_CONFIG_PROT: u8 = 178;
    /// PARTITION_CONFIG
    pub const PARTITION_CONFIG: u8 = 179;
    /// BUS_WIDTH
    pub const BUS_WIDTH: u8 = 183;
    /// STROBE_SUPPORT
    pub const STROBE_SUPPORT: u8 = 184;
    /// HS_TIMING
    pub const HS_TIMING: u8 = 185;
    /// POWER_CLASS
    pub const POWER_CLASS: u8 = 187;
    /// EXT_CSD_REV
    pub const EXT_CSD_REV: u8 = 192;
    /// CSD_STRUCTURE
    pub const CSD_STRUCTURE: u8 = 194;
    /// DEVICE_TYPE
    pub const DEVICE_TYPE: u8 = 196;
    /// DRIVER_STRENGTH
    pub const DRIVER_STRENGTH: u8 = 197;
    /// OUT_OF_INTERRUPT_TIME
    pub const OUT_OF_INTERRUPT_TIME: u8 = 198;
    /// PARTITION_SWITCH_TIME
    pub const PARTITION_SWITCH_TIME: u8 = 199;
    /// SEC_COUNT, 4 bytes
    pub const SEC_COUNT: u8 = 212;
    /// S_A_TIMEOUT
    pub const S_A_TIMEOUT: u8 = 217;
    /// HC_WP_GRP_SIZE
    pub const HC_WP_GRP_SIZE: u8 = 221;
    /// REL_WR_SEC_C
    pub const REL_WR_SEC_C: u8 = 222;
    /// ERASE_TIMEOUT_MULT
    pub const ERASE_TIMEOUT_MULT: u8 = 223;
    /// HC_ERASE_GRP_SIZE
    pub const HC_ERASE_GRP_SIZE: u8 = 224;
    /// ACC_SIZE
    pub const ACC_SIZE: u8 = 225;
    /// BOOT_SIZE_MULT
    pub const BOOT_SIZE_MULT: u8 = 226;
    /// SEC_FEATURE_SUPPORT
    pub const SEC_FEATURE_SUPPORT: u8 = 231;
    /// TRIM_MULT
    pub const TRIM_MULT: u8 = 232;
    /// INI_TIMEOUT_AP
    pub const INI_TIMEOUT_AP: u8 = 241;
    /// POWER_OFF_LONG_TIME
    pub const POWER_OFF_LONG_TIME: u8 = 247;
    /// GENERIC_CMD6_TIME
    pub const GENERIC_CMD6_TIME: u8 = 248;
    /// CACHE_SIZE, 4 bytes
    pub const CACHE_SIZE: usize = 249;
    /// PRE_EOL_INFO
    pub const PRE_EOL_INFO: usize = 267;
    /// DEVICE_LIFE_TIME_EST_TYP_A
    pub const DEVICE_LIFE_TIME_A: usize = 268;
    /// DEVICE_LIFE_TIME_EST_TYP_B
    pub const DEVICE_LIFE_TIME_B: usize = 269;
    /// CMDQ_DEPTH
    pub const CMDQ_DEPTH: usize = 307;
    /// CMDQ_SUPPORT
    pub const CMDQ_SUPPORT: usize = 308;
    /// BKOPS_SUPPORT
    pub const BKOPS_SUPPORT: usize = 502;
    /// HPI_FEATURES
    pub const HPI_FEATURES: usize = 503;
    /// S_CMD_SET
    pub const S_CMD_SET: usize = 504;
}

/// A tuning block on 8 lines: each byte of that on 4 lines, once as it is for the upper and once for
/// the lower lines (eMMC 6.6.5.1).
#[must_use]
pub fn tuning_8() -> [u8; 128] {
    std::array::from_fn(|i| {
        let byte = TUNING_4[i / 2];
        let nibble = if i % 2 == 0 { byte >> 4 } else { byte & 0xf };
        nibble << 4 | nibble
    })
}
