//! INQUIRY: standard data and vital product data (SPC-5, 6.7 and 7.7; SBC-4, 6.6).

use spindle_block::Info;

use super::{
    sense::Sense,
    unit::{UnitConfig, UnitKind},
};

/// Page codes (SPC-5, 7.7.1; SBC-4, 6.6.1).
mod page {
    pub const SUPPORTED: u8 = 0x00;
    pub const SERIAL: u8 = 0x80;
    pub const IDENTIFICATION: u8 = 0x83;
    pub const EXTENDED: u8 = 0x86;
    pub const BLOCK_LIMITS: u8 = 0xb0;
    pub const CHARACTERISTICS: u8 = 0xb1;
    pub const PROVISIONING: u8 = 0xb2;
}

/// Version descriptors (SPC-5, table 144): SAM-5, SPC-5 and SPC-4, then SBC-4 and SBC-3, or MMC-6.
const VERSIONS_DISK: &[u16] = &[0x00a0, 0x05c0, 0x0460, 0x0600, 0x04c0];
const VERSIONS_CD: &[u16] = &[0x00a0, 0x05c0, 0x0460, 0x04e0];
/// Length of standard data with version descriptors, in bytes.
const STANDARD_LEN: usize = 96;
/// Most descriptors of one UNMAP: its parameter list stays below 4 KiB.
pub(super) const UNMAP_DESCRIPTORS_MAX: u32 = 255;
/// Most logical blocks of one COMPARE AND WRITE.
pub(super) const COMPARE_BLOCKS_MAX: u8 = 128;
/// What a byte of identification is that no character fits.
const PAD: u8 = b' ';

fn device_type(kind: UnitKind) -> u8 {
    match kind {
        UnitKind::Disk => 0x00,
        UnitKind::Cd => 0x05,
    }
}

/// `text` as ASCII, left-aligned, padded with spaces (SPC-5, 4.3.1).
fn ascii(text: &str, len: usize) -> Vec<u8> {
    let printable = text.bytes().map(|b| if (0x20..0x7f).contains(&b) { b } else { PAD });
    printable.chain(std::iter::repeat(PAD)).take(len).collect()
}

/// Standard INQUIRY data.
pub(super) fn standard(config: &UnitConfig) -> Vec<u8> {
    let mut data = vec![0; STANDARD_LEN];
    let cd = config.kind == UnitKind::Cd;
    data[0] = device_type(config.kind);
    // RMB: the medium can be taken out.
    data[1] = if cd || config.removable { 0x80 } else { 0 };
    // HISUP, response data format 2.
    data[2] = config.scsi_version;
    data[3] = 0x12;
    data[4] = (STANDARD_LEN - 5) as u8;
    // CMDQUE.
    data[7] = 0x02;
    data[8..16].copy_from_slice(&ascii(&config.vendor, 8));
    data[16..32].copy_from_slice(&ascii(&config.product, 16));
    data[32..36].copy_from_slice(&ascii(&config.version, 4));
    let versions = if cd { VERSIONS_CD } else { VERSIONS_DISK };
    for (at, version) in data[58..].chunks_exact_mut(2).zip(versions) {
        at.copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// Standard INQUIRY data of the REPORT LUNS well known logical unit, or where there is no unit
/// (SPC-5, 6.7.2: device type 1Eh; peripheral qualifier 011b).
pub(super) fn elsewhere(well_known: bool) -> Vec<u8> {
    let mut data = vec![0; 36];
    data[0] = if well_known { 0x1e } else { 0x7f };
    data[2] = 0x07;
    data[3] = 0x12;
    data[4] = 31;
    data[8..36].fill(PAD);
    data
}

/// A page of vital product data.
pub(super) fn vital(config: &UnitConfig, page: u8, info: Option<&Info>) -> Result<Vec<u8>, Sense> {
    let disk = config.kind == UnitKind::Disk;
    let body = match page {
        page::SUPPORTED => {
            let common = [page::SUPPORTED, page::SERIAL, page::IDENTIFICATION, page::EXTENDED];
            let disks = [page::BLOCK_LIMITS, page::CHARACTERISTICS, page::PROVISIONING];
            let of_disk: &[u8] = if disk { &disks } else { &[] };
            [&common, of_disk].concat()
        }
        page::SERIAL => ascii(config.serial(), config.serial().len().min(36)),
        page::IDENTIFICATION => identification(config),
        page::EXTENDED => extended(config),
        page::BLOCK_LIMITS if disk => block_limits(config, info),
        page::CHARACTERISTICS if disk => characteristics(config),
        page::PROVISIONING if disk => provisioning(),
        _ => return Err(Sense::cdb_field(2, None)),
    };
    let mut data = vec![device_type(config.kind), page];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Ok(data)
}

/// One designation descriptor of the logical unit (SPC-5, 7.7.6.1).
fn designator(code_set: u8, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut descriptor = vec![code_set, kind, 0, bytes.len() as u8];
    descriptor.extend(bytes);
    descriptor
}

/// Device identification (SPC-5, 7.7.6): vendor and serial number; an NAA designator; what else was
/// given of the unit and of its target port.
fn identification(config: &UnitConfig) -> Vec<u8> {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const T10_VENDOR: u8 = 1;
    const NAA: u8 = 3;
    const VENDOR_SPECIFIC: u8 = 0;
    const RELATIVE_PORT: u8 = 4;
    // PIV, association with the target port; the protocol is SAS, which has such names.
    const OF_PORT: u8 = 0x80 | 0x10;
    const SAS: u8 = 6 << 4;
    let serial = config.serial();
    let mut text = ascii(&config.vendor, 8);
    text.extend(ascii(serial, serial.len().min(36)));
    let name = if config.wwn == 0 { local_name(serial) } else { config.wwn };
    let mut all = designator(ASCII, T10_VENDOR, &text);
    all.extend(designator(BINARY, NAA, &name.to_be_bytes()));
    if !config.device_id.is_empty() {
        let text = ascii(&config.device_id, config.device_id.len().min(36));
        all.extend(designator(ASCII, VENDOR_SPECIFIC, &text));
    }
    if config.port_wwn != 0 {
        all.extend(designator(SAS | BINARY, OF_PORT | NAA, &config.port_wwn.to_be_bytes()));
    }
    if config.port_index != 0 {
        let index = u32::from(config.port_index).to_be_bytes();
        all.extend(designator(SAS | BINARY, OF_PORT | RELATIVE_PORT, &index));
    }
    all
}

/// A locally assigned NAA identifier (SPC-5, 7.7.6.6.4): 3, and 60 bits of the serial number's hash
/// (FNV-1a, so that it is the same everywhere and for ever).
pub(super) fn local_name(serial: &str) -> u64 {
    let hash = serial.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    3 << 60 | hash & (u64::MAX >> 4)
}

/// Extended INQUIRY data (SPC-5, 7.7.7).
fn extended(config: &UnitConfig) -> Vec<u8> {
    let mut body = vec![0; 60];
    // HEADSUP, ORDSUP, SIMPSUP.
    body[1] = 0x07;
    // V_SUP: there is a volatile cache.
    body[2] = u8::from(config.kind == UnitKind::Disk);
    body
}

/// Block limits (SBC-4, 6.6.4).
fn block_limits(config: &UnitConfig, info: Option<&Info>) -> Vec<u8> {
    let block = config.block_size();
    let granularity =
        config.discard_granularity.or(info.map(|info| info.discard_granularity)).unwrap_or(0);
    let granularity = granularity.max(block) / block;
    let mut body = vec![0; 60];
    // WSNZ: a WRITE SAME to the end of the medium has to say how many blocks that is.
    body[0] = 0x01;
    body[1] = COMPARE_BLOCKS_MAX;
    let optimal_granularity = (config.min_io_size.max(config.physical_size()) / block) as u16;
    body[2..4].copy_from_slice(&optimal_granularity.to_be_bytes());
    body[4..8].copy_from_slice(&config.transfer_blocks_max().to_be_bytes());
    body[8..12].copy_from_slice(&(config.opt_io_size / block).to_be_bytes());
    body[16..20].copy_from_slice(&config.max_unmap_blocks.to_be_bytes());
    body[20..24].copy_from_slice(&UNMAP_DESCRIPTORS_MAX.to_be_bytes());
    body[24..28].copy_from_slice(&granularity.to_be_bytes());
    // UGAVALID: the alignment below, zero, is valid.
    body[28] = 0x80;
    body[32..40].copy_from_slice(&u64::from(config.max_unmap_blocks).to_be_bytes());
    body
}

/// Block device characteristics (SBC-4, 6.6.2).
fn characteristics(config: &UnitConfig) -> Vec<u8> {
    let mut body = vec![0; 60];
    body[0..2].copy_from_slice(&config.rotation_rate.to_be_bytes());
    // FUAB: SYNCHRONIZE CACHE and FUA make things durable.
    body[4] = 0x02;
    body
}

/// Logical block provisioning (SBC-4, 6.6.7).
fn provisioning() -> Vec<u8> {
    // LBPU, LBPWS, LBPWS10; LBPRZ 001b: what is unmapped reads as zeros. Thin.
    vec![0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0]
}

/// READ CAPACITY(16) (SBC-4, 5.21.2).
pub(super) fn read_capacity_16(config: &UnitConfig, blocks: u64) -> Vec<u8> {
    let block = config.block_size();
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&blocks.saturating_sub(1).to_be_bytes());
    data[8..12].copy_from_slice(&block.to_be_bytes());
    data[13] = (config.physical_size() / block).ilog2() as u8;
    // LBPME, LBPRZ.
    data[14] = 0xc0;
    data
}

/// READ CAPACITY(10) (SBC-4, 5.20.2).
pub(super) fn read_capacity_10(config: &UnitConfig, blocks: u64) -> Vec<u8> {
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), config.block_size().to_be_bytes()].concat()
}
