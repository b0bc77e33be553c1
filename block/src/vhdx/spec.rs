//! Headers (MS-VHDX 2.2). Little-endian.

use super::crc::crc32c;
use crate::{
    BlockError, Cx,
    formats::{FormatError, new_uuid, refuse},
    mapped::le,
    qcow2::host::Host,
};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
/// Bytes of a header.
pub(super) const HEADER: usize = 4096;
/// What the file begins with.
pub(super) const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";
/// The longest log that is read, in bytes.
const LOG_MAX: u64 = 256 * MIB;

/// Where the header in slot 0 or 1 is.
pub(super) fn header_at(slot: u64) -> u64 {
    64 * KIB * (slot + 1)
}

/// A header (2.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    slot: u64,
    pub sequence: u64,
    pub file_write: [u8; 16],
    pub data_write: [u8; 16],
    pub log_id: [u8; 16],
    pub log_at: u64,
    pub log_len: u64,
}

impl Header {
    /// The header of a new image.
    pub fn new(log_at: u64, log_len: u64) -> Self {
        Self {
            slot: 1,
            sequence: 0,
            file_write: new_uuid(),
            data_write: new_uuid(),
            log_id: [0; 16],
            log_at,
            log_len,
        }
    }

    /// Takes a header apart; `None` where there is no whole one.
    pub fn parse(bytes: &[u8], slot: u64) -> Result<Option<Self>, FormatError> {
        if !bytes.starts_with(b"head") || le::u32_at(bytes, 4) != crc32c(bytes, 4) {
            return Ok(None);
        }
        let version = le::u16_at(bytes, 66);
        if version != 1 {
            return Err(FormatError::Unsupported(format!(
                "VHDX version {version} is not supported, only 1"
            )));
        }
        let header = Self {
            slot,
            sequence: le::u64_at(bytes, 8),
            file_write: le::bytes_at(bytes, 16),
            data_write: le::bytes_at(bytes, 32),
            log_id: le::bytes_at(bytes, 48),
            log_len: u64::from(le::u32_at(bytes, 68)),
            log_at: le::u64_at(bytes, 72),
        };
        if le::u16_at(bytes, 64) != 0 && header.has_log() {
            return Err(FormatError::Unsupported(
                "the VHDX log is of an unknown version".to_owned(),
            ));
        }
        let at = header.log_at;
        if !at.is_multiple_of(MIB) || !(MIB..=1 << 60).contains(&at) {
            return Err(refuse("LogOffset", format!("is {at:#x}: no MiB behind the headers")));
        }
        if !header.log_len.is_multiple_of(MIB) || header.log_len == 0 || header.log_len > LOG_MAX {
            return Err(refuse(
                "LogLength",
                format!("is {}: no multiple of 1 MiB up to 256 MiB", header.log_len),
            ));
        }
        Ok(Some(header))
    }

    /// Whether there may be a log to replay.
    pub fn has_log(&self) -> bool {
        self.log_id != [0; 16]
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at, value: &[u8]| le::put(&mut bytes, at, value);
        put(0, b"head");
        put(8, &self.sequence.to_le_bytes());
        put(16, &self.file_write);
        put(32, &self.data_write);
        put(48, &self.log_id);
        put(66, &1_u16.to_le_bytes());
        put(68, &(self.log_len as u32).to_le_bytes());
        put(72, &self.log_at.to_le_bytes());
        let sum = crc32c(&bytes, 4);
        le::put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }

    /// Writes `self` durably as the newer one, into the other slot.
    pub async fn replace(&self, cx: &Cx, host: &Host) -> Result<Self, BlockError> {
        let next =
            Self { slot: 1 - self.slot, sequence: self.sequence.wrapping_add(1), ..self.clone() };
        host.write_bytes(cx, header_at(next.slot), &next.to_bytes()).await?;
        host.sync(cx).await?;
        Ok(next)
    }

    /// The image is in use, with a log of its own.
    pub async fn opened(&self, cx: &Cx, host: &Host) -> Result<Self, BlockError> {
        let (file_write, data_write, log_id) = (new_uuid(), new_uuid(), new_uuid());
        Self { file_write, data_write, log_id, ..self.clone() }.replace(cx, host).await
    }

    /// The log is empty. In both slots, so that the other one does not bring it back.
    pub async fn closed(&self, cx: &Cx, host: &Host) -> Result<Self, BlockError> {
        let header = Self { log_id: [0; 16], ..self.clone() }.replace(cx, host).await?;
        header.replace(cx, host).await
    }
}
