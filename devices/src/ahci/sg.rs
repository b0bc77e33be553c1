//! From a command header to a command and its memory (AHCI 4.2.2, 4.2.3).

use spindle_block::IoBuf;

use super::spec::{header, table};
use crate::{Dma, ata::PACKET_LEN, dma::NotRam};

/// PRDs that are read together with the command FIS.
const PRDS_FIRST: usize = 4;
/// Bytes of a command table that are read at once.
const FIRST: usize = table::PRDT + PRDS_FIRST * table::PRD_LEN;

/// A command header, and the start of its table: read once, by value.
pub(super) struct Fetched {
    /// The first dword of the header.
    pub flags: u32,
    /// Where the table is.
    table: u64,
    /// The command FIS; what is not sent is zero.
    pub fis: [u8; 20],
    /// The packet.
    pub packet: [u8; PACKET_LEN],
    prds: [u8; PRDS_FIRST * table::PRD_LEN],
}

/// Why a command's memory could not be gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// The PRDs have less memory than the device moves.
    TooShort,
    /// Some of it is not RAM.
    NotRam,
}

impl From<NotRam> for Gap {
    fn from(_: NotRam) -> Self {
        Self::NotRam
    }
}

impl Fetched {
    /// Reads slot `slot` of the list at `list`.
    #[inline]
    pub fn read(dma: &Dma, list: u64, slot: u8) -> Result<Self, NotRam> {
        let mut head = [0; 16];
        dma.read_bytes(list.wrapping_add(u64::from(slot) * header::LEN), &mut head)?;
        let [flags, _, low, high] = dwords(&head);
        let at = u64::from(low & !0x7f) | u64::from(high) << 32;
        let prds = ((flags >> header::PRDTL_SHIFT) as usize).min(PRDS_FIRST);
        let mut bytes = [0; FIRST];
        dma.read_bytes(at, &mut bytes[..table::PRDT + prds * table::PRD_LEN])?;
        let mut fetched = Self {
            flags,
            table: at,
            fis: [0; 20],
            packet: [0; PACKET_LEN],
            prds: [0; PRDS_FIRST * table::PRD_LEN],
        };
        let sent = ((flags & header::CFL) as usize * 4).min(fetched.fis.len());
        fetched.fis[..sent].copy_from_slice(&bytes[..sent]);
        fetched.packet.copy_from_slice(&bytes[table::ACMD..table::ACMD + PACKET_LEN]);
        fetched.prds.copy_from_slice(&bytes[table::PRDT..]);
        Ok(fetched)
    }

    /// Gathers up to `len` bytes of the command's memory into `buf`, which is cleared first. Returns
    /// whether a PRD that was used up asks for an interrupt.
    ///
    /// # Errors
    /// When some of it is not RAM.
    #[inline]
    pub fn gather(&self, dma: &Dma, len: u64, buf: &mut IoBuf) -> Result<bool, NotRam> {
        buf.clear();
        let count = (self.flags >> header::PRDTL_SHIFT) as usize;
        let mut interrupt = false;
        let mut left = len;
        let mut prds = self.prds;
        let mut chunk = 0;
        for index in 0..count {
            if left == 0 {
                break;
            }
            let in_chunk = index % PRDS_FIRST;
            if in_chunk == 0 && index > 0 {
                chunk = index;
                let wanted = (count - index).min(PRDS_FIRST) * table::PRD_LEN;
                let at = (table::PRDT + index * table::PRD_LEN) as u64;
                dma.read_bytes(self.table.wrapping_add(at), &mut prds[..wanted])?;
            }
            debug_assert_eq!(index - chunk, in_chunk);
            let prd: &[u8] = &prds[in_chunk * table::PRD_LEN..][..table::PRD_LEN];
            let [low, high, _, control] = dwords(prd);
            // An odd address, and an even last byte, cannot be (AHCI 4.2.3.3): the bit is ignored.
            let address = u64::from(low & !1) | u64::from(high) << 32;
            let bytes = u64::from((control & table::DBC) | 1) + 1;
            let used = bytes.min(left);
            dma.push(buf, address, used)?;
            left -= used;
            interrupt |= control & table::INTERRUPT != 0 && used == bytes;
        }
        Ok(interrupt)
    }

    /// The same, of all of `len` bytes.
    ///
    /// # Errors
    /// When there are fewer, or some of them are not RAM.
    #[inline]
    pub fn gather_all(&self, dma: &Dma, len: u64, buf: &mut IoBuf) -> Result<bool, Gap> {
        let interrupt = self.gather(dma, len, buf)?;
        if buf.len() == len { Ok(interrupt) } else { Err(Gap::TooShort) }
    }
}

#[inline]
fn dwords(bytes: &[u8]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}
