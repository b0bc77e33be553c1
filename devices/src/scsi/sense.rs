//! Sense data: why a command failed (SPC-5, 4.4).

use super::spec::{asc, key};

/// What the sense-key specific bytes say (SPC-5, 4.4.2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Specific {
    /// Nothing.
    #[default]
    None,
    /// The byte in the CDB (or else in the parameter list) that is wrong, and the highest bit of
    /// the field in it, where it is not the whole byte.
    Field {
        /// Byte.
        byte: u16,
        /// Bit, 7 to 0.
        bit: Option<u8>,
        /// It is a byte of the CDB.
        in_cdb: bool,
    },
    /// How far an operation is, in 65536ths.
    Progress(u16),
}

/// Why a command failed, or what else there is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code (high byte) and qualifier.
    pub code: u16,
    /// The INFORMATION field: usually an LBA.
    pub info: Option<u64>,
    /// See [`Specific`].
    pub specific: Specific,
}

/// Longest sense data made here, in bytes.
pub const SENSE_LEN: usize = 28;

/// Sense data as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseBytes {
    bytes: [u8; SENSE_LEN],
    len: u8,
}

impl SenseBytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Sense {
    /// A key and a code, and nothing else.
    #[must_use]
    pub const fn new(key: u8, code: u16) -> Self {
        Self { key, code, info: None, specific: Specific::None }
    }

    /// NO SENSE.
    #[must_use]
    pub const fn none() -> Self {
        Self::new(key::NO_SENSE, asc::NONE)
    }

    /// ILLEGAL REQUEST with `code`.
    #[must_use]
    pub const fn illegal(code: u16) -> Self {
        Self::new(key::ILLEGAL_REQUEST, code)
    }

    /// A unit attention.
    #[must_use]
    pub const fn attention(code: u16) -> Self {
        Self::new(key::UNIT_ATTENTION, code)
    }

    /// NOT READY with `code`.
    #[must_use]
    pub const fn not_ready(code: u16) -> Self {
        Self::new(key::NOT_READY, code)
    }

    /// INVALID COMMAND OPERATION CODE.
    #[must_use]
    pub const fn invalid_opcode() -> Self {
        Self::in_cdb(asc::INVALID_OPCODE, 0, None)
    }

    /// INVALID FIELD IN CDB: byte and highest bit of the field.
    #[must_use]
    pub const fn cdb_field(byte: u16, bit: Option<u8>) -> Self {
        Self::in_cdb(asc::INVALID_FIELD_IN_CDB, byte, bit)
    }

    const fn in_cdb(code: u16, byte: u16, bit: Option<u8>) -> Self {
        let specific = Specific::Field { byte, bit, in_cdb: true };
        Self { key: key::ILLEGAL_REQUEST, code, info: None, specific }
    }

    /// INVALID FIELD IN PARAMETER LIST: byte and highest bit of the field.
    #[must_use]
    pub const fn parameter(byte: u16, bit: Option<u8>) -> Self {
        let specific = Specific::Field { byte, bit, in_cdb: false };
        let code = asc::INVALID_FIELD_IN_PARAMETERS;
        Self { key: key::ILLEGAL_REQUEST, code, info: None, specific }
    }

    /// PARAMETER LIST LENGTH ERROR.
    #[must_use]
    pub const fn parameter_length() -> Self {
        Self::illegal(asc::PARAMETER_LIST_LENGTH)
    }

    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    #[must_use]
    pub const fn out_of_range(lba: u64) -> Self {
        Self::illegal(asc::LBA_OUT_OF_RANGE).with_info(lba)
    }

    /// Adds the INFORMATION field.
    #[must_use]
    pub const fn with_info(mut self, info: u64) -> Self {
        self.info = Some(info);
        self
    }

    /// Adds how far an operation is.
    #[must_use]
    pub const fn with_progress(mut self, progress: u16) -> Self {
        self.specific = Specific::Progress(progress);
        self
    }

    fn specific_bytes(&self) -> [u8; 3] {
        let valid = 0x80;
        match self.specific {
            Specific::None => [0; 3],
            Specific::Field { byte, bit, in_cdb } => {
                let bit_pointer = bit.map_or(0, |bit| 0x08 | bit & 7);
                let [high, low] = byte.to_be_bytes();
                [valid | if in_cdb { 0x40 } else { 0 } | bit_pointer, high, low]
            }
            Specific::Progress(progress) => {
                let [high, low] = progress.to_be_bytes();
                [valid, high, low]
            }
        }
    }

    /// As it is sent: in descriptor format or in fixed format.
    #[must_use]
    pub fn encode(&self, descriptor: bool) -> SenseBytes {
        if descriptor { self.encode_descriptors() } else { self.encode_fixed() }
    }

    /// Descriptor format (SPC-5, 4.4.2).
    fn encode_descriptors(&self) -> SenseBytes {
        let mut bytes = [0; SENSE_LEN];
        let mut len = 8;
        bytes[0] = 0x72;
        bytes[1] = self.key;
        bytes[2..4].copy_from_slice(&self.code.to_be_bytes());
        if let Some(info) = self.info {
            bytes[len..len + 3].copy_from_slice(&[0x00, 0x0a, 0x80]);
            bytes[len + 4..len + 12].copy_from_slice(&info.to_be_bytes());
            len += 12;
        }
        if self.specific != Specific::None {
            bytes[len..len + 2].copy_from_slice(&[0x02, 0x06]);
            bytes[len + 4..len + 7].copy_from_slice(&self.specific_bytes());
            len += 8;
        }
        bytes[7] = (len - 8) as u8;
        SenseBytes { bytes, len: len as u8 }
    }

    /// Fixed format (SPC-5, 4.4.3).
    fn encode_fixed(&self) -> SenseBytes {
        let mut bytes = [0; SENSE_LEN];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        bytes[7] = 10;
        // What does not fit the field is not valid in it.
        if let Some(info) = self.info.and_then(|info| u32::try_from(info).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&info.to_be_bytes());
        }
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        bytes[15..18].copy_from_slice(&self.specific_bytes());
        SenseBytes { bytes, len: 18 }
    }
}
