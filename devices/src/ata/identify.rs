//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data (ACS-3, 7.12 and 7.13): pure, from what the drive
//! is and what it is set to.

use super::{
    DriveConfig, Settings, TransferMode, Transport,
    spec::{MULTIPLE_MAX, QUEUE_DEPTH, TRIM_BLOCKS_MAX},
};

/// 256 words, little-endian on the wire.
pub type Words = [u16; 256];

/// What is not in the configuration.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// How the drive was built.
    pub config: &'a DriveConfig,
    /// How it is set.
    pub settings: &'a Settings,
    /// Logical sectors; of a drive with PACKET, 0.
    pub sectors: u64,
    /// TRIM is done, and what is trimmed reads as zeros.
    pub trim: bool,
}

/// Words that say that they are valid: bits 15:14 are 01b.
const VALID: u16 = 1 << 14;

/// The model number of a disk for which none was given.
const DISK_MODEL: &str = "SPINDLE HARDDISK";
/// The model number of a CD/DVD drive for which none was given.
const PACKET_MODEL: &str = "SPINDLE DVD-ROM";

/// IDENTIFY DEVICE data, without the checksum.
#[must_use]
pub fn device(facts: &Facts<'_>) -> Words {
    let (config, settings) = (facts.config, facts.settings);
    let mut w = common(facts, DISK_MODEL);
    let made = config.geometry.unwrap_or_else(|| super::Geometry::of_size(facts.sectors));
    // Fixed.
    w[0] = 0x0040;
    w[1] = made.cylinders;
    // No SET FEATURES is needed to spin up, and these data are complete.
    w[2] = 0xc837;
    w[3] = made.heads.into();
    w[6] = made.sectors.into();
    w[47] = 0x8000 | u16::from(MULTIPLE_MAX);
    // IORDY, LBA, DMA.
    w[49] = 0x0f00;
    w[50] = VALID;
    // Words 88, 70:64 and 58:54 are valid.
    w[53] = 0x0007;
    let now = settings.geometry;
    w[54] = now.cylinders;
    w[55] = now.heads.into();
    w[56] = now.sectors.into();
    let reachable = u64::from(now.capacity()).min(facts.sectors) as u32;
    put_u32(&mut w, 57, reachable);
    if settings.multiple > 0 {
        w[59] = 0x0100 | u16::from(settings.multiple);
    }
    put_u32(&mut w, 60, facts.sectors.min(0x0fff_ffff) as u32);
    put_u64(&mut w, 100, facts.sectors.min((1 << 48) - 1));
    if config.is_serial() {
        w[75] = u16::from(QUEUE_DEPTH) - 1;
        // NCQ, and the log of the link's counters.
        w[76] |= 1 << 8 | 1 << 10;
        // SEND FPDMA QUEUED.
        if facts.trim {
            w[77] |= 1 << 6;
        }
    }
    // NOP, READ BUFFER, WRITE BUFFER, look-ahead, write cache.
    let on = |set: bool, bit: u32| u16::from(set) << bit;
    w[82] |= 1 << 14 | 1 << 13 | 1 << 12 | 1 << 6 | 1 << 5;
    w[85] |= 1 << 14 | 1 << 13 | 1 << 12 | on(settings.look_ahead, 6) | on(settings.write_cache, 5);
    // FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses.
    w[83] |= 1 << 13 | 1 << 12 | 1 << 10;
    w[86] |= 1 << 13 | 1 << 12 | 1 << 10;
    // WRITE DMA FUA EXT, general purpose logging, world wide name.
    let logging = 1 << 6 | 1 << 5 | on(config.wwn != 0, 8);
    w[84] |= logging;
    w[87] |= logging;
    // Words 119 and 120 are valid: READ LOG DMA EXT.
    w[86] |= 1 << 15;
    w[119] = VALID | 1 << 3;
    w[120] = VALID | 1 << 3;
    let (logical, physical) = (config.block_size(), config.physical_size());
    let shift = (physical / logical).max(1).trailing_zeros() as u16;
    w[106] = VALID | on(shift > 0, 13) | on(logical > 512, 12) | shift & 0x0f;
    if logical > 512 {
        put_u32(&mut w, 117, logical / 2);
    }
    // The first logical sector starts a physical one.
    w[209] = VALID;
    if facts.trim {
        w[105] = TRIM_BLOCKS_MAX;
        w[169] = 1;
        // What is trimmed reads as zeros.
        w[69] |= 1 << 14 | 1 << 5;
    }
    // All buffered commands may come by DMA: READ and WRITE BUFFER DMA.
    w[69] |= 1 << 11 | 1 << 10;
    w[217] = config.rotation_rate;
    w
}

/// IDENTIFY PACKET DEVICE data, without the checksum.
#[must_use]
pub fn packet(facts: &Facts<'_>) -> Words {
    let mut w = common(facts, PACKET_MODEL);
    // PACKET, CD/DVD, removable, DRQ within 50 µs, packets of 12 bytes.
    w[0] = 0x85c0;
    w[49] = 0x0f00;
    w[53] = 0x0006;
    // DEVICE RESET, PACKET, power management.
    w[82] |= 1 << 9 | 1 << 4 | 1 << 3;
    w[85] |= 1 << 9 | 1 << 4 | 1 << 3;
    w
}

fn common(facts: &Facts<'_>, model: &str) -> Words {
    let (config, settings) = (facts.config, facts.settings);
    let mut w = [0; 256];
    put_text(&mut w[10..20], config.serial());
    put_text(&mut w[23..27], &config.version);
    put_text(&mut w[27..47], if config.model.is_empty() { model } else { &config.model });
    let selected = |mode: u8| 1 << (8 + u16::from(mode));
    let dma = settings.dma;
    // Multiword DMA 0 to 2.
    w[63] = 0x0007;
    if let Some(TransferMode::Multiword(mode)) = dma {
        w[63] |= selected(mode);
    }
    // PIO 3 and 4; cycle times in ns.
    w[64] = 0x0003;
    w[65..69].fill(120);
    match config.transport {
        Transport::Serial => {
            // 1.5, 3 and 6 Gb/s; READ LOG DMA EXT does what READ LOG EXT does.
            w[76] = 0x000e;
            // It runs at 6 Gb/s.
            w[77] = 3 << 1;
            // Software settings preservation.
            w[78] = 1 << 6;
            w[79] = u16::from(settings.sata) & w[78];
            w[88] = 0x007f;
            // Serial ATA up to 3.1.
            w[222] = 0x107f;
        }
        Transport::Parallel { udma } => {
            w[88] = udma.map_or(0, |mode| (2 << u16::from(mode.min(6))) - 1);
            // Drive 0, found by jumper; an 80-conductor cable.
            w[93] = VALID | 1 << 13 | 0x000b;
            w[222] = 0x0001;
        }
    }
    if let Some(TransferMode::Ultra(mode)) = dma {
        w[88] |= selected(mode);
    }
    // ATA/ATAPI-4 to ACS-3; revision 5 of the last.
    w[80] = 0x07f0;
    w[81] = 0x006d;
    for word in [83, 84, 87] {
        w[word] = VALID;
    }
    if config.wwn != 0 {
        for (i, word) in w[108..112].iter_mut().enumerate() {
            *word = (config.wwn >> (48 - 16 * i)) as u16;
        }
    }
    w
}

/// The bytes that go over the wire, with checksum (ACS-3, 7.12.7.80).
#[must_use]
pub fn bytes(words: &Words) -> [u8; 512] {
    let mut bytes = [0; 512];
    for (pair, word) in bytes.chunks_exact_mut(2).zip(words) {
        pair.copy_from_slice(&word.to_le_bytes());
    }
    bytes[510] = 0xa5;
    bytes[511] = checksum(&bytes[..511]);
    bytes
}

/// What makes the sum of all bytes zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

fn put_u32(w: &mut Words, at: usize, value: u32) {
    w[at] = value as u16;
    w[at + 1] = (value >> 16) as u16;
}

fn put_u64(w: &mut Words, at: usize, value: u64) {
    put_u32(w, at, value as u32);
    put_u32(w, at + 2, (value >> 32) as u32);
}

/// An ATA string (ACS-3, 3.3.10): the first character of each pair in the high byte; spaces fill it
/// up; what is not printable is a question mark.
pub fn put_text(words: &mut [u16], text: &str) {
    let mut chars = text.bytes().map(|byte| if (0x20..0x7f).contains(&byte) { byte } else { b'?' });
    for word in words {
        let mut next = || u16::from(chars.next().unwrap_or(b' '));
        *word = next() << 8 | next();
    }
}
