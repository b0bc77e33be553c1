//! The snapshot table: read from hostile bytes, and made. Pure but for the reading.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Snapshots".

use super::super::{be, header::Header, host::Host};
use crate::{BlockError, Cx};

/// Bytes of the table at most, and snapshots; the limits that QEMU has.
pub(in super::super) const TABLE_MAX: u64 = 64 << 20;
pub(in super::super) const SNAPSHOTS_MAX: usize = 65536;
/// The fixed part of an entry.
const FIXED: usize = 40;
/// The largest extra data of an entry.
const EXTRA_MAX: usize = 1024;
/// Extra data that is known: state size, disk size, instruction count.
const EXTRA_KNOWN: usize = 24;
/// "No instruction count".
const NO_ICOUNT: u64 = u64::MAX;

/// A snapshot inside an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken: seconds since 1970.
    pub date_s: u64,
    /// And nanoseconds.
    pub date_ns: u32,
    /// The guest's clock then, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// Instructions that the guest had executed, where they were counted.
    pub icount: Option<u64>,
    /// Size of the disk then, in bytes; `None` where the entry does not say.
    pub disk_size: Option<u64>,
    pub(in super::super) l1_offset: u64,
    pub(in super::super) l1_size: u32,
    /// Extra data that came after what is known, kept as it is.
    pub(in super::super) unknown: Vec<u8>,
}

/// The snapshots that a header leads to, and the length of their table in bytes.
pub(in super::super) async fn read_snapshots(
    cx: &Cx,
    host: &Host,
    header: &Header,
) -> Result<(Vec<Snapshot>, u64), BlockError> {
    read(cx, host, header.snapshots, header.snapshots_offset).await
}

/// The same, for a table of `count` entries at `offset`.
pub(in super::super) async fn read(
    cx: &Cx,
    host: &Host,
    count: u32,
    offset: u64,
) -> Result<(Vec<Snapshot>, u64), BlockError> {
    let mut snapshots = Vec::new();
    let mut at = offset;
    for _ in 0..count {
        if at - offset > TABLE_MAX {
            return Err(BlockError::Corrupt);
        }
        let fixed = host.read(cx, at, FIXED).await?;
        let id_len = usize::from(be::u16_at(&fixed, 12));
        let name_len = usize::from(be::u16_at(&fixed, 14));
        let extra = be::u32_at(&fixed, 36) as usize;
        if extra > EXTRA_MAX {
            return Err(BlockError::Corrupt);
        }
        let rest = host.read(cx, at + FIXED as u64, extra + id_len + name_len).await?;
        snapshots.push(parse(&fixed, &rest, (extra, id_len, name_len)));
        at += (FIXED + rest.len()).next_multiple_of(8) as u64;
    }
    Ok((snapshots, at - offset))
}

fn parse(fixed: &[u8], rest: &[u8], (extra, id_len, name_len): (usize, usize, usize)) -> Snapshot {
    let text = |from: usize, len: usize| {
        String::from_utf8_lossy(rest.get(from..from + len).unwrap_or_default()).into_owned()
    };
    let vm_state_32 = u64::from(be::u32_at(fixed, 32));
    let icount = if extra >= EXTRA_KNOWN { be::u64_at(rest, 16) } else { NO_ICOUNT };
    Snapshot {
        id: text(extra, id_len),
        name: text(extra + id_len, name_len),
        date_s: u64::from(be::u32_at(fixed, 16)),
        date_ns: be::u32_at(fixed, 20),
        vm_clock_ns: be::u64_at(fixed, 24),
        vm_state_size: if extra >= 8 { be::u64_at(rest, 0) } else { vm_state_32 },
        icount: (icount != NO_ICOUNT).then_some(icount),
        disk_size: (extra >= 16).then(|| be::u64_at(rest, 8)),
        l1_offset: be::u64_at(fixed, 0),
        l1_size: be::u32_at(fixed, 8),
        unknown: rest.get(EXTRA_KNOWN..extra).unwrap_or_default().to_vec(),
    }
}

/// The bytes of a table. `size`: of a disk whose snapshot does not say.
pub(in super::super) fn to_bytes(snapshots: &[Snapshot], size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for one in snapshots {
        let short = |text: &str| (text.len().min(usize::from(u16::MAX))) as u16;
        let (id_len, name_len) = (short(&one.id), short(&one.name));
        bytes.extend(one.l1_offset.to_be_bytes());
        bytes.extend(one.l1_size.to_be_bytes());
        bytes.extend(id_len.to_be_bytes());
        bytes.extend(name_len.to_be_bytes());
        bytes.extend((one.date_s as u32).to_be_bytes());
        bytes.extend(one.date_ns.to_be_bytes());
        bytes.extend(one.vm_clock_ns.to_be_bytes());
        // Those that know only the short field must not take a part for the whole.
        bytes.extend(u32::try_from(one.vm_state_size).unwrap_or(0).to_be_bytes());
        bytes.extend(((EXTRA_KNOWN + one.unknown.len()) as u32).to_be_bytes());
        bytes.extend(one.vm_state_size.to_be_bytes());
        bytes.extend(one.disk_size.unwrap_or(size).to_be_bytes());
        bytes.extend(one.icount.unwrap_or(NO_ICOUNT).to_be_bytes());
        bytes.extend(&one.unknown);
        bytes.extend(&one.id.as_bytes()[..usize::from(id_len)]);
        bytes.extend(&one.name.as_bytes()[..usize::from(name_len)]);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// An identifier that is not taken: one more than the largest number that is.
pub(in super::super) fn new_id(snapshots: &[Snapshot]) -> String {
    let largest = snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok()).max().unwrap_or(0);
    largest.saturating_add(1).to_string()
}

/// The snapshot with this identifier, or else the first with this name.
pub(in super::super) fn find(snapshots: &[Snapshot], which: &str) -> Option<usize> {
    let by_id = snapshots.iter().position(|s| s.id == which);
    by_id.or_else(|| snapshots.iter().position(|s| s.name == which))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_it_was() {
        let one = Snapshot {
            id: "7".to_owned(),
            name: "before".to_owned(),
            date_s: 1_700_000_000,
            date_ns: 5,
            vm_clock_ns: 9,
            vm_state_size: 5 << 32,
            icount: Some(3),
            disk_size: Some(1 << 20),
            l1_offset: 0x50000,
            l1_size: 2,
            unknown: vec![1, 2, 3],
        };
        let bytes = to_bytes(std::slice::from_ref(&one), 0);
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(parse(&bytes[..FIXED], &bytes[FIXED..], (27, 1, 6)), one);
        assert_eq!(new_id(std::slice::from_ref(&one)), "8");
        assert_eq!(new_id(&[]), "1");
        let other = Snapshot { id: "8".to_owned(), name: "7".to_owned(), ..one.clone() };
        assert_eq!(find(&[other.clone(), one], "7"), Some(1));
        assert_eq!(find(&[other], "before"), None);
    }
}
