//! Commands and their parameter lists: right ones, and a bit that is wrong now and then.

use arbitrary::{Result, Unstructured};

use super::DISK;
use crate::targets::virtio::number;

/// A command for a unit.
pub(super) struct Command {
    pub lun: [u8; 8],
    pub cdb: Vec<u8>,
    /// What goes to the device.
    pub out: Vec<u8>,
    /// Bytes of room for what comes from it.
    pub len: u32,
}

/// A unit's address in one of the forms there are, and its block size.
pub(super) fn lun(u: &mut Unstructured<'_>) -> Result<([u8; 8], u32)> {
    let (target, lun, block) = match u.int_in_range(0..=7u8)? {
        0..=4 => (0, 0, 512),
        5 => (1, 1, 512),
        6 => (1, 2, 2048),
        _ => (u.int_in_range(0..=2u8)?, u.int_in_range(0..=3u8)?, 512),
    };
    let mut bytes = [1, target, 0, lun, 0, 0, 0, 0];
    match u.int_in_range(0..=31u8)? {
        0 => bytes[2] = u.arbitrary()?,
        1 => bytes = [0xc1, 1, 0, 0, 0, 0, 0, 0],
        2 => bytes = u.arbitrary()?,
        3..=7 => bytes[2] = 0x40,
        _ => {}
    }
    Ok((bytes, block))
}

/// The length of a CDB, by its group (SPC-5, 4.2.5.1).
fn cdb_len(opcode: u8) -> usize {
    match opcode >> 5 {
        0 => 6,
        1 | 2 => 10,
        4 => 16,
        5 => 12,
        _ => 32,
    }
}

/// A CDB with an address and a number of blocks where its group has them.
fn with_blocks(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![0; cdb_len(opcode)];
    (cdb[0], cdb[1]) = (opcode, flags);
    let low = (lba as u32).to_be_bytes();
    let count = blocks.to_be_bytes();
    match cdb.len() {
        6 => {
            cdb[1..4].copy_from_slice(&[low[1] & 0x1f, low[2], low[3]]);
            cdb[4] = count[3];
        }
        10 => {
            cdb[2..6].copy_from_slice(&low);
            cdb[7..9].copy_from_slice(&count[2..]);
        }
        12 => {
            cdb[2..6].copy_from_slice(&low);
            cdb[6..10].copy_from_slice(&count);
        }
        _ => {
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&count);
        }
    }
    cdb
}

/// A command that reads, writes, compares or flushes blocks.
fn blocks(u: &mut Unstructured<'_>, block: u32) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    const OPCODES: &[u8] = &[
        0x08, 0x28, 0xa8, 0x88, 0x0a, 0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e, 0x2f, 0xaf, 0x8f, 0x41,
        0x93, 0x89, 0x35, 0x91,
    ];
    const FLAGS: &[u8] = &[0, 0, 0, 0x02, 0x06, 0x08, 0x01, 0x09, 0x10, 0x04, 0x20];
    let opcode = *u.choose(OPCODES)?;
    let flags = if cdb_len(opcode) == 6 { 0 } else { *u.choose(FLAGS)? };
    let last = DISK / u64::from(block) - 1;
    let lba = if u.ratio(1, 16u8)? { number(u)? } else { u.int_in_range(0..=last)? };
    let count = u.int_in_range(0..=8u32)?;
    let cdb = with_blocks(opcode, flags, lba, count);
    let one = block as usize;
    let all = one * count as usize;
    let (out, len) = match opcode {
        0x08 | 0x28 | 0xa8 | 0x88 => (0, count * block),
        0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e => (all, 0),
        0x2f | 0xaf | 0x8f => match flags & 6 {
            2 => (all, 0),
            6 => (one, 0),
            _ => (0, 0),
        },
        0x41 | 0x93 if flags & 1 == 0 => (one, 0),
        0x89 => (2 * all, 0),
        _ => (0, 0),
    };
    let byte = if u.arbitrary()? { 0 } else { u.arbitrary()? };
    Ok((cdb, vec![byte; out], len))
}

/// Commands that tell something: operation code, what may be in bytes 1 and 2.
const TELLING: &[(u8, &[u8], &[u8])] = &[
    (0x12, &[0, 1, 1], &[0, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]),
    (0x03, &[0, 1], &[0]),
    (0x1a, &[0, 8], &[0x3f, 0x08, 0x0a, 0x01, 0x1c, 0x2a, 0x48, 0x88, 0xc8]),
    (0x5a, &[0, 8, 0x10], &[0x3f, 0x08, 0x0a, 0x01, 0x1c, 0x2a, 0x48, 0x88, 0xc8]),
    (0x4d, &[0], &[0x40, 0x42, 0x43, 0x45, 0x4c, 0x4d, 0x4e, 0x50, 0x6f]),
    (0x5e, &[0, 1, 2, 3], &[0]),
    (0x9e, &[0x10, 0x12], &[0]),
    (0xa0, &[0], &[0, 1, 2, 0x10, 0x11, 0x12]),
    (0xa3, &[0x0c, 0x0d], &[0, 1, 2, 3, 0x80]),
    (0x25, &[0], &[0]),
    (0x43, &[0, 2], &[0, 1, 2, 4]),
    (0x46, &[0, 1, 2], &[0]),
    (0x4a, &[1, 0], &[0]),
    (0x51, &[0, 1], &[0]),
    (0x52, &[0, 1], &[0]),
    (0xad, &[0], &[0]),
    (0xbd, &[0], &[0]),
];

fn telling(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    let (opcode, first, second) = u.choose(TELLING)?;
    let len = if u.arbitrary()? { 252 } else { u.int_in_range(0..=600u32)? };
    let mut cdb = with_blocks(*opcode, 0, 0, len);
    (cdb[1], cdb[2]) = (*u.choose(first)?, *u.choose(second)?);
    match opcode {
        0x12 => cdb[3..5].copy_from_slice(&(len as u16).to_be_bytes()),
        0xad | 0xbd => {
            cdb[8..10].copy_from_slice(&(len as u16).to_be_bytes());
            cdb[7] = u.int_in_range(0..=4u8)?;
        }
        0xa3 => cdb[3] = u.arbitrary()?,
        0x9e => cdb[9] = u.arbitrary()?,
        0x4a => cdb[4] = 0x10,
        0x43 | 0x46 | 0x52 => cdb[if *opcode == 0x46 { 3 } else { 5 }] = u.int_in_range(0..=2u8)?,
        _ => {}
    }
    Ok((cdb, Vec::new(), len))
}

fn unmap(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    let ranges = u.int_in_range(0..=4u16)?;
    let mut list = (ranges * 16 + 6).to_be_bytes().to_vec();
    list.extend((ranges * 16).to_be_bytes());
    list.extend([0; 4]);
    for _ in 0..ranges {
        list.extend(u.int_in_range(0..=DISK / 512 - 1)?.to_be_bytes());
        list.extend(u.int_in_range(0..=40u32)?.to_be_bytes());
        list.extend([0; 4]);
    }
    Ok((with_blocks(0x42, 0, 0, list.len() as u32), list, 0))
}

/// MODE SELECT of what can be changed: the write cache, the format of sense data, write protection.
fn mode_select(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    let ten = u.arbitrary::<bool>()?;
    let mut list = vec![0; if ten { 8 } else { 4 }];
    if u.arbitrary()? {
        list.extend([0x08, 0x12, if u.arbitrary()? { 4 } else { 0 }]);
        list.extend([0; 17]);
    }
    if u.arbitrary()? {
        let sense = if u.arbitrary()? { 4 } else { 0 };
        let protect = if u.arbitrary()? { 8 } else { 0 };
        list.extend([0x0a, 0x0a, sense | 2, 0x10, protect, 0, 0, 0, 0xff, 0xff, 0, 0]);
    }
    let mut cdb = with_blocks(if ten { 0x55 } else { 0x15 }, 0, 0, list.len() as u32);
    cdb[1] = 0x10;
    Ok((cdb, list, 0))
}

fn reserve(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    let mut cdb = vec![0; 10];
    (cdb[0], cdb[1], cdb[2]) = (0x5f, u.int_in_range(0..=7u8)?, u.int_in_range(0..=8u8)?);
    let mut list = u.int_in_range(0..=2u64)?.to_be_bytes().to_vec();
    list.extend(u.int_in_range(0..=2u64)?.to_be_bytes());
    list.extend([0, 0, 0, 0, u.int_in_range(0..=15u8)?, 0, 0, 0]);
    if cdb[1] == 7 {
        // REGISTER AND MOVE: whom to, as a transport ID of eight bytes and more.
        list[18] = 0;
        list[19] = 1;
        let name = u.int_in_range(0..=24u32)?;
        list[20..24].copy_from_slice(&name.to_be_bytes());
        list.extend((0..name).map(|i| if i == 0 { 5 } else { 0 }));
    }
    cdb[8] = list.len() as u8;
    Ok((cdb, list, 0))
}

fn overwrite(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    if u.arbitrary()? {
        let flags = *u.choose(&[0u8, 0x80, 0x82, 0x02, 0x88, 0xa8])?;
        let mut list = vec![0, flags, 0, 0];
        if flags & 8 != 0 {
            list.extend([0, 1, 0, 1, u.arbitrary()?]);
        }
        let given = u.ratio(3, 4u8)?;
        let cdb = vec![0x04, if given { 0x10 } else { 0 }, 0, 0, 0, 0];
        return Ok((cdb, if given { list } else { Vec::new() }, 0));
    }
    let action = *u.choose(&[1u8, 2, 2, 3, 0x1f])? | *u.choose(&[0u8, 0x80, 0x20])?;
    let list = if action & 0x1f == 1 {
        vec![u.int_in_range(1..=2u8)?, 0, 0, 1, u.arbitrary()?]
    } else {
        Vec::new()
    };
    Ok((vec![0x48, action, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list, 0))
}

/// Commands without data.
fn plain(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.int_in_range(0..=3u8)? {
        0 => vec![0; 6],
        1 => vec![0x1b, u.int_in_range(0..=1u8)?, 0, 0, *u.choose(&[0u8, 1, 1, 2, 3, 5])?, 0],
        2 => vec![0x1e, 0, 0, 0, u.int_in_range(0..=3u8)?, 0],
        _ => {
            let mut cdb = vec![0; 32];
            cdb[0] = u.arbitrary()?;
            for byte in &mut cdb[1..16] {
                *byte = if u.ratio(1, 8u8)? { u.arbitrary()? } else { 0 };
            }
            cdb
        }
    })
}

/// READ CD (MMC-6, 6.20).
fn read_cd(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    let mut cdb = vec![0; 12];
    let count = u.int_in_range(0..=3u8)?;
    (cdb[0], cdb[1], cdb[8]) = (0xbe, *u.choose(&[0u8, 8, 4, 0x10])?, count);
    cdb[5] = u.int_in_range(0..=(DISK / 2048) as u8)?;
    (cdb[9], cdb[10]) = (*u.choose(&[0x10u8, 0xf8, 0, 0x70])?, u.int_in_range(0..=4u8)?);
    Ok((cdb, Vec::new(), 2448 * u32::from(count)))
}

/// Any command.
pub(super) fn any(u: &mut Unstructured<'_>) -> Result<Command> {
    let (lun, block) = lun(u)?;
    let (mut cdb, mut out, mut len) = match u.int_in_range(0..=31u8)? {
        0..=13 => blocks(u, block)?,
        14..=21 => telling(u)?,
        22 | 23 => unmap(u)?,
        24 => mode_select(u)?,
        25..=27 => reserve(u)?,
        28 => overwrite(u)?,
        29 | 30 => (plain(u)?, Vec::new(), 0),
        _ => read_cd(u)?,
    };
    if u.ratio(1, 10u8)? {
        let at = u.choose_index(cdb.len())?;
        cdb[at] ^= 1 << u.int_in_range(0..=7u8)?;
    }
    if !out.is_empty() && u.ratio(1, 8u8)? {
        let at = u.choose_index(out.len().min(32))?;
        out[at] ^= 1 << u.int_in_range(0..=7u8)?;
    }
    if u.ratio(1, 12u8)? {
        out.truncate(u.int_in_range(0..=600usize)?);
    }
    if u.ratio(1, 12u8)? {
        len = u.int_in_range(0..=5000u32)?;
    }
    Ok(Command { lun, cdb, out, len })
}
