//! General purpose logs (ACS-3, 9): pages of 512 bytes under an address.

use super::{
    Taskfile,
    drive::Ending,
    identify::{self, checksum},
    spec::{log, microcode},
};

/// A page.
pub type Page = [u8; 512];

/// How a queued command failed, as its log tells it (ACS-3, 9.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// The command's tag; `None`: a command that was not queued came in between.
    pub tag: Option<u8>,
    /// What the registers hold.
    pub ending: Ending,
}

impl QueuedError {
    /// The page of the log. Without an error: that of a command that was not queued.
    pub(super) fn page(error: Option<&Self>) -> Page {
        /// NQ.
        const NOT_QUEUED: u8 = 0x80;
        let mut page = [0; 512];
        page[0] = NOT_QUEUED;
        if let Some(Self { tag, ending }) = error {
            page[0] = tag.map_or(NOT_QUEUED, |tag| tag & 0x1f);
            page[2] = ending.status;
            page[3] = ending.error;
            let lba = ending.lba.to_le_bytes();
            page[4..7].copy_from_slice(&lba[..3]);
            page[7] = ending.device;
            page[8..11].copy_from_slice(&lba[3..6]);
            page[12..14].copy_from_slice(&ending.count.to_le_bytes());
        }
        page[511] = checksum(&page[..511]);
        page
    }
}

/// The pages of a log, as a drive has them at this moment.
pub(super) trait Source {
    /// How many pages a log has; 0: there is no such log.
    fn pages(&self, address: u8) -> u16;
    /// One of them.
    fn page(&self, address: u8, page: u16) -> Page;
}

/// The log directory (ACS-3, 9.2).
pub(super) fn directory(source: &impl Source) -> Page {
    let mut page = [0; 512];
    page[..2].copy_from_slice(&1u16.to_le_bytes());
    for address in 1..=255u8 {
        let at = usize::from(address) * 2;
        page[at..at + 2].copy_from_slice(&source.pages(address).to_le_bytes());
    }
    page
}

/// The NCQ Send and Receive log (ACS-3, 9.15): SEND FPDMA QUEUED knows DATA SET MANAGEMENT, and that
/// knows TRIM.
pub(super) fn send_receive() -> Page {
    let mut page = [0; 512];
    page[0] = 1;
    page[4] = 1;
    page
}

/// Pages of the IDENTIFY DEVICE data log (ACS-3, 9.11).
pub(super) const IDENTIFY_PAGES: [u8; 4] = [0x00, 0x01, 0x02, 0x03];

/// A page of the IDENTIFY DEVICE data log: the list of pages, a copy of the data, the capacity, and
/// what DOWNLOAD MICROCODE can.
pub(super) fn identify_data(page: u16, words: &identify::Words, config_sector: u32) -> Page {
    let mut data = [0; 512];
    let mut qword = |at: usize, value: u64| {
        data[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    /// What is in a qword is valid.
    const VALID: u64 = 1 << 63;
    match page {
        0x00 => {
            qword(0, 1);
            data[8] = IDENTIFY_PAGES.len() as u8;
            data[9..9 + IDENTIFY_PAGES.len()].copy_from_slice(&IDENTIFY_PAGES);
        }
        0x01 => return identify::bytes(words),
        0x02 => {
            qword(0, VALID | 0x02 << 16 | 1);
            let sectors = (0..4).fold(0, |value, i| value | u64::from(words[100 + i]) << (16 * i));
            qword(8, VALID | sectors);
            // Logical to physical: valid, alignment, exponent.
            let (relation, alignment) = (u64::from(words[106]), u64::from(words[209] & 0x3fff));
            qword(16, VALID | 1 << 62 | 1 << 61 | alignment << 16 | relation & 0x0f);
            qword(24, VALID | u64::from(config_sector / 2));
        }
        0x03 => {
            qword(0, VALID | 0x03 << 16 | 1);
            // In pieces for later and for now, and whole.
            qword(16, VALID | 0b111 << 32 | u64::from(microcode::PIECE_MAX) << 16 | 1);
        }
        _ => {}
    }
    data
}

/// Whether a READ LOG reads the one log that ends the time after a failed queued command.
pub(super) fn is_recovery(tf: &Taskfile) -> bool {
    tf.log_address() == log::NCQ_ERROR && tf.log_page() == 0
}
