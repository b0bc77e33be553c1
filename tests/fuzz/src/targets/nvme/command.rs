//! Commands: right ones, and what may be wrong with them.

use arbitrary::{Result, Unstructured};
use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{DISK, ENTRIES, Host, PAIRS};
use crate::targets::virtio::number;

const BLOCKS: u64 = DISK / 512;

/// A small number most of the time.
fn small(u: &mut Unstructured<'_>, max: u32) -> Result<u32> {
    if u.ratio(1, 24u8)? { Ok(number(u)? as u32) } else { u.int_in_range(0..=max) }
}

/// An opcode that there is, most of the time.
fn opcode(u: &mut Unstructured<'_>, known: &[u8]) -> Result<u8> {
    if u.ratio(1, 32u8)? { u.arbitrary() } else { u.choose(known).copied() }
}

fn namespace(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=15u8)? {
        0..=10 => 1,
        11 => 0,
        12 | 13 => 2,
        14 => u32::MAX,
        _ => number(u)? as u32,
    })
}

/// Changes a dword now and then, where that does no harm.
fn flip(host: &Host, cmd: &mut Cmd, u: &mut Unstructured<'_>) -> Result<()> {
    if !host.sound && u.ratio(1, 12u8)? {
        let dword = u.int_in_range(1..=15usize)?;
        cmd.0[dword] ^= 1 << u.int_in_range(0..=31u8)?;
    }
    Ok(())
}

/// Offers an I/O command, and rings most of the time.
pub(super) fn io(host: &mut Host, u: &mut Unstructured<'_>) -> Result<()> {
    const OPCODES: &[u8] = &[
        0x01, 0x01, 0x01, 0x02, 0x02, 0x02, 0x00, 0x04, 0x05, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x0e,
        0x11, 0x15, 0x19,
    ];
    let id = u.int_in_range(1..=PAIRS)?;
    if host.slot(id).is_some_and(|count| *count + 1 >= ENTRIES) {
        host.finish();
    }
    let opcode = opcode(u, OPCODES)?;
    let lba = if u.ratio(1, 16u8)? { number(u)? } else { u.int_in_range(0..=BLOCKS - 1)? };
    let count = u.int_in_range(1..=24u32)?;
    let mut bytes = Vec::new();
    let mut len = 4096;
    let mut cmd = Cmd::new(opcode, namespace(u)?);
    match opcode {
        0x0d | 0x11 | 0x15 => {
            let [action, ignore, kind, persist] =
                [small(u, 3)?, small(u, 1)?, small(u, 6)?, u.int_in_range(0..=3u32)?];
            cmd = cmd.dw(10, action ^ ignore << 3 ^ kind << 8 ^ persist << 30);
            for _ in 0..2 {
                bytes.extend(u.int_in_range(0..=2u64)?.to_le_bytes());
            }
            len = 16;
        }
        0x0e => cmd = cmd.dw(10, small(u, 1023)?).dw(11, small(u, 1)?),
        0x09 => {
            let ranges = u.int_in_range(0..=3u32)?;
            cmd = cmd.dw(10, ranges).dw(11, small(u, 7)?);
            for _ in 0..=ranges {
                bytes.extend([0; 4]);
                bytes.extend(small(u, 32)?.to_le_bytes());
                bytes.extend((lba ^ u64::from(small(u, 63)?)).to_le_bytes());
            }
            len = bytes.len();
        }
        0x19 => {
            let ranges = u.int_in_range(0..=3u32)?;
            cmd = cmd.dw(10, lba as u32).dw(11, (lba >> 32) as u32).dw(12, ranges);
            for _ in 0..=ranges {
                let mut range = [0; 32];
                range[8..16].copy_from_slice(&u64::from(small(u, BLOCKS as u32)?).to_le_bytes());
                range[16..18].copy_from_slice(&(small(u, 15)? as u16).to_le_bytes());
                bytes.extend(range);
            }
            len = bytes.len();
        }
        _ => {
            let flags = *u.choose(&[0u32, 0, 0, 0, 1 << 30, 1 << 25, 1 << 31])?;
            cmd = cmd.dw(12, flags).blocks(lba, count);
            bytes = vec![u.arbitrary()?; 512];
            len = count as usize * 512;
        }
    }
    cmd = host.arena.place(&host.driver.machine.memory, cmd, &bytes, len, u)?;
    if !host.sound && u.ratio(1, 16u8)? {
        // Half of a fused operation waits for the other one.
        cmd = cmd.flags(u.int_in_range(1..=3u8)?);
    }
    flip(host, &mut cmd, u)?;
    host.driver.submit(id, cmd);
    if let Some(count) = host.slot(id) {
        *count += 1;
    }
    if !host.sound && u.ratio(1, 32u8)? {
        host.driver.ring_with(id, number(u)? as u32);
    } else {
        host.driver.ring(id);
    }
    Ok(())
}

/// Offers an admin command, and rings.
pub(super) fn admin(host: &mut Host, u: &mut Unstructured<'_>) -> Result<()> {
    const OPCODES: &[u8] = &[
        0x00, 0x01, 0x02, 0x02, 0x04, 0x05, 0x06, 0x06, 0x06, 0x08, 0x09, 0x09, 0x0a, 0x0a, 0x0c,
        0x0d, 0x10, 0x11, 0x14, 0x15, 0x15, 0x18, 0x7c, 0x80, 0x84,
    ];
    const FEATURES: &[u32] = &[
        0x01, 0x02, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0e, 0x0f, 0x16, 0x81, 0x82,
        0x83,
    ];
    const LOGS: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 0x12, 0x80, 0x81];
    let memory = host.driver.machine.memory.clone();
    let opcode = opcode(u, OPCODES)?;
    let mut cmd = Cmd::new(opcode, namespace(u)?);
    let mut bytes = Vec::new();
    let mut len = 4096;
    let mut transfers = true;
    match opcode {
        // Without its queues, and with a timer, commands may never end.
        0x00 | 0x01 | 0x04 | 0x05 | 0x7c if host.sound => return Ok(()),
        0x00 | 0x04 => {
            cmd = cmd.dw(10, small(u, 5)?);
            transfers = false;
        }
        0x01 | 0x05 => {
            cmd = queue(host, opcode == 0x01, u)?;
            transfers = false;
        }
        0x02 => {
            let dwords = if u.arbitrary()? { 127 } else { small(u, 1023)? };
            let log = if u.ratio(1, 16u8)? { number(u)? as u32 } else { *u.choose(LOGS)? };
            let keep = u.int_in_range(0..=1u32)? << 15;
            cmd = cmd.dw(10, log & 0xff | keep | dwords << 16).dw(11, dwords >> 16);
            if u.ratio(1, 4u8)? {
                cmd = cmd.dw(12, small(u, 255)? << 2).dw(13, small(u, 0)?);
            }
            len = (dwords as usize + 1).min(4096) * 4;
        }
        0x06 => cmd = cmd.dw(10, small(u, 0x1c)? ^ small(u, 2)? << 16).dw(11, small(u, 0)?),
        0x08 => {
            cmd = cmd.dw(10, u.int_in_range(0..=u32::from(PAIRS))? | small(u, 40)? << 16);
            transfers = false;
        }
        0x09 | 0x0a => {
            let feature = if u.ratio(1, 16u8)? { number(u)? as u32 } else { *u.choose(FEATURES)? };
            let choice = if opcode == 0x09 {
                if host.sound && feature & 0xff == 0x0f {
                    return Ok(());
                }
                u.int_in_range(0..=1u32)? << 31
            } else {
                u.int_in_range(0..=3u32)? << 8
            };
            cmd = cmd.dw(10, feature & 0xff | choice).dw(11, small(u, 15)?);
            if opcode == 0x09 && matches!(feature, 0x08 | 0x09) {
                cmd = cmd.dw(11, small(u, 5)? | small(u, 3)? << 16);
            }
            bytes = vec![u.arbitrary()?; 16];
        }
        0x0d => {
            let size = u64::from(small(u, 128)?);
            bytes = vec![0; 384];
            bytes[..8].copy_from_slice(&size.to_le_bytes());
            bytes[8..16].copy_from_slice(&size.to_le_bytes());
            bytes[26] = small(u, 1)? as u8;
            bytes[30] = small(u, 1)? as u8;
            cmd = cmd.dw(10, small(u, 1)?);
        }
        0x10 => {
            cmd = cmd.dw(10, small(u, 3)? | small(u, 7)? << 3);
            transfers = false;
        }
        0x11 => {
            let dwords = small(u, 1023)?;
            cmd = cmd.dw(10, dwords).dw(11, small(u, 8)? << 10);
            bytes = vec![u.arbitrary()?; 64];
            len = (dwords as usize + 1).min(4096) * 4;
        }
        0x14 => {
            cmd = cmd.dw(10, *u.choose(&[1u32, 2, 0xf, 0xe, 0])?);
            transfers = false;
        }
        0x15 => {
            cmd = cmd.dw(10, small(u, 1)?);
            bytes = vec![small(u, 2)? as u8, 0, small(u, 2)? as u8, 0, small(u, 2)? as u8, 0];
        }
        0x7c => {
            cmd = cmd.data(host.arena.address(u)?, host.arena.address(u)?);
            transfers = false;
        }
        0x80 => {
            cmd = cmd.dw(10, small(u, 1)? | small(u, 2)? << 9);
            transfers = false;
        }
        0x84 => {
            let [action, passes, flags] = [small(u, 4)?, small(u, 2)?, small(u, 3)?];
            cmd = cmd.dw(10, action ^ flags << 8 ^ passes << 4).dw(11, u.arbitrary()?);
            transfers = false;
        }
        _ => transfers = false,
    }
    if transfers {
        cmd = host.arena.place(&memory, cmd, &bytes, len, u)?;
    }
    flip(host, &mut cmd, u)?;
    host.driver.submit(0, cmd);
    host.driver.ring(0);
    host.driver.machine.turn();
    host.admin += 1;
    if host.admin.is_multiple_of(16) {
        host.finish();
    }
    Ok(())
}

/// A command that creates a queue which there is, or was: its memory is that of the old one.
fn queue(host: &mut Host, submission: bool, u: &mut Unstructured<'_>) -> Result<Cmd> {
    let id = u.int_in_range(1..=PAIRS)?;
    let place = usize::from(id);
    let other = small(u, 3)? as u16;
    let mut cmd = if submission {
        let sq = &mut host.driver.sqs[place];
        sq.tail = 0;
        NvmeDriver::create_sq_cmd(sq, other)
    } else {
        let cq = &mut host.driver.cqs[place];
        (cq.head, cq.phase) = (0, 1);
        host.driver.machine.memory.write(cq.at, &vec![0; ENTRIES as usize * 16]);
        NvmeDriver::create_cq_cmd(cq, other)
    };
    if u.ratio(1, 8u8)? {
        cmd = cmd.data(number(u)?, 0);
    }
    if u.ratio(1, 8u8)? {
        cmd.0[10] = small(u, 6)? | small(u, 40)? << 16;
    }
    Ok(cmd)
}
