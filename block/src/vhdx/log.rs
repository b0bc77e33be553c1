//! The log (MS-VHDX 2.3): writing entries, and replaying what a crash left.

use super::{
    bat::PAGE,
    crc::crc32c,
    spec::{Header, MIB},
};
use crate::{
    BlockError, Cx, Range,
    formats::{FormatError, io, refuse},
    mapped::le,
    qcow2::host::Host,
};

/// Pages in one entry of ours: the entry fits into the smallest log, with its descriptors in one
/// sector.
pub(super) const PAGES_MAX: usize = 100;

const SECTOR: usize = PAGE as usize;
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// Where the next entry goes.
pub(super) struct Log {
    at: u64,
    len: u64,
    id: [u8; 16],
    next: u64,
    sequence: u64,
}

impl Log {
    pub fn new(header: &Header) -> Self {
        Self { at: header.log_at, len: header.log_len, id: header.log_id, next: 0, sequence: 1 }
    }

    /// An entry that says that `pages` (place in the file, 4 KiB) are to be written to a file of
    /// `length` bytes, and its place. It stands for itself: what came before is durable.
    pub fn entry(&mut self, pages: &[(u64, Vec<u8>)], length: u64) -> (u64, Vec<u8>) {
        let bytes = (1 + pages.len()) * SECTOR;
        if self.next + bytes as u64 > self.len {
            self.next = 0;
        }
        let mut entry = vec![0; bytes];
        let mut put = |at, value: &[u8]| le::put(&mut entry, at, value);
        let sequence = self.sequence;
        put(0, b"loge");
        put(8, &(bytes as u32).to_le_bytes());
        put(12, &(self.next as u32).to_le_bytes());
        put(16, &sequence.to_le_bytes());
        put(24, &(pages.len() as u32).to_le_bytes());
        put(32, &self.id);
        put(48, &length.to_le_bytes());
        put(56, &length.to_le_bytes());
        for (n, (page, data)) in pages.iter().enumerate() {
            let at = ENTRY_HEADER + n * DESCRIPTOR;
            put(at, b"desc");
            put(at + 4, data.get(SECTOR - 4..).unwrap_or_default());
            put(at + 8, data.get(..8).unwrap_or_default());
            put(at + 16, &page.to_le_bytes());
            put(at + 24, &sequence.to_le_bytes());
            let at = (1 + n) * SECTOR;
            put(at, b"data");
            put(at + 4, &((sequence >> 32) as u32).to_le_bytes());
            put(at + 8, data.get(8..SECTOR - 4).unwrap_or_default());
            put(at + SECTOR - 4, &(sequence as u32).to_le_bytes());
        }
        let sum = crc32c(&entry, 4);
        le::put(&mut entry, 4, &sum.to_le_bytes());
        let at = self.at + self.next;
        self.next += bytes as u64;
        self.sequence += 1;
        (at, entry)
    }
}

/// An entry that is whole.
#[derive(Clone, Debug)]
struct Found {
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    flushed: u64,
    last: u64,
    descriptors: usize,
}

/// Reads `len` bytes of the log from `at`, around its end.
async fn read_log(
    cx: &Cx,
    host: &Host,
    header: &Header,
    at: u64,
    len: u64,
) -> Result<Vec<u8>, BlockError> {
    let first = len.min(header.log_len - at);
    let mut bytes = host.read(cx, header.log_at + at, first as usize).await?;
    if len > first {
        bytes.extend(host.read(cx, header.log_at, (len - first) as usize).await?);
    }
    Ok(bytes)
}

/// The entry at `at`, if there is a whole one of this log.
async fn entry_at(
    cx: &Cx,
    host: &Host,
    header: &Header,
    at: u64,
) -> Result<Option<Found>, BlockError> {
    let first = read_log(cx, host, header, at, PAGE).await?;
    let len = u64::from(le::u32_at(&first, 8));
    let found = Found {
        at,
        len,
        tail: u64::from(le::u32_at(&first, 12)),
        sequence: le::u64_at(&first, 16),
        flushed: le::u64_at(&first, 48),
        last: le::u64_at(&first, 56),
        descriptors: le::u32_at(&first, 24) as usize,
    };
    let ours = first.starts_with(b"loge") && le::bytes_at(&first, 32) == header.log_id;
    let fits = len.is_multiple_of(PAGE) && (PAGE..=header.log_len).contains(&len);
    let tail = found.tail.is_multiple_of(PAGE) && found.tail < header.log_len;
    if !ours || !fits || !tail || found.sequence == 0 {
        return Ok(None);
    }
    let whole = read_log(cx, host, header, at, len).await?;
    Ok((le::u32_at(&whole, 4) == crc32c(&whole, 4)).then_some(found))
}

/// The sequence of entries that counts (2.3.3): the one whose last entry is newest, from its tail.
async fn active(cx: &Cx, host: &Host, header: &Header) -> Result<Vec<Found>, BlockError> {
    let mut best: Vec<Found> = Vec::new();
    let mut at = 0;
    while at < header.log_len {
        let mut sequence: Vec<Found> = Vec::new();
        let mut next = at;
        let mut covered = 0;
        while let Some(found) = entry_at(cx, host, header, next).await? {
            let follows = sequence.last().is_none_or(|last| found.sequence == last.sequence + 1);
            covered += found.len;
            if !follows || covered > header.log_len {
                break;
            }
            next = (next + found.len) % header.log_len;
            sequence.push(found);
        }
        at += sequence.first().map_or(PAGE, |first| first.len);
        let Some(last) = sequence.last() else { continue };
        let Some(from) = sequence.iter().position(|found| found.at == last.tail) else { continue };
        if best.last().is_none_or(|other| other.sequence < last.sequence) {
            best = sequence.split_off(from);
        }
    }
    Ok(best)
}

/// What one descriptor says.
enum Step {
    Zeros(Range),
    Page(u64, Vec<u8>),
}

fn steps(bytes: &[u8], found: &Found) -> Result<Vec<Step>, FormatError> {
    let bad = |what: String| refuse("log", what);
    let sectors = (ENTRY_HEADER + found.descriptors.saturating_mul(DESCRIPTOR)).div_ceil(SECTOR);
    if sectors * SECTOR > bytes.len() {
        return Err(bad(format!("has an entry with {} descriptors", found.descriptors)));
    }
    let mut data = bytes.get(sectors * SECTOR..).unwrap_or_default().chunks_exact(SECTOR);
    let mut steps = Vec::new();
    for n in 0..found.descriptors {
        let at = ENTRY_HEADER + n * DESCRIPTOR;
        let descriptor = bytes.get(at..at + DESCRIPTOR).unwrap_or_default();
        let place = le::u64_at(descriptor, 16);
        if le::u64_at(descriptor, 24) != found.sequence || !place.is_multiple_of(PAGE) {
            return Err(bad(format!("has a descriptor of another entry, or for byte {place:#x}")));
        }
        let zeros = descriptor.starts_with(b"zero");
        let len = if zeros { le::u64_at(descriptor, 8) } else { PAGE };
        let end = place.checked_add(len).filter(|end| *end <= found.last);
        if !len.is_multiple_of(PAGE) || end.is_none() {
            return Err(bad(format!("writes {len} bytes at {place:#x}, outside the file")));
        }
        if zeros {
            steps.push(Step::Zeros(Range::new(place, len)));
            continue;
        }
        let sector = data.next().filter(|_| descriptor.starts_with(b"desc"));
        let sector = sector.ok_or_else(|| bad("has a descriptor without data".to_owned()))?;
        let high = le::u32_at(sector, 4);
        let low = le::u32_at(sector, SECTOR - 4);
        if !sector.starts_with(b"data") || u64::from(high) << 32 | u64::from(low) != found.sequence
        {
            return Err(bad("has data of another entry".to_owned()));
        }
        let mut page = sector.to_vec();
        le::put(&mut page, 0, descriptor.get(8..16).unwrap_or_default());
        le::put(&mut page, SECTOR - 4, descriptor.get(4..8).unwrap_or_default());
        steps.push(Step::Page(place, page));
    }
    Ok(steps)
}

/// Does what the log says was to be done, durably.
pub(super) async fn replay(cx: &Cx, host: &Host, header: &Header) -> Result<(), FormatError> {
    let replaying = io("replaying the log");
    let entries = active(cx, host, header).await.map_err(&replaying)?;
    let Some(last) = entries.last() else { return Ok(()) };
    let length = host.node().info().size;
    let log = Range::new(header.log_at, header.log_len);
    if last.flushed > length || last.last > 1 << 47 {
        return Err(refuse(
            "log",
            format!(
                "speaks of a file of {} to {} bytes, and this one has {length}",
                last.flushed, last.last
            ),
        ));
    }
    if last.last > length {
        let end = last.last.next_multiple_of(MIB);
        host.set_len(cx, end).await.map_err(&replaying)?;
    }
    for found in &entries {
        let bytes = read_log(cx, host, header, found.at, found.len).await.map_err(&replaying)?;
        for step in steps(&bytes, found)? {
            let (range, page) = match step {
                Step::Zeros(range) => (range, None),
                Step::Page(at, page) => (Range::new(at, PAGE), Some(page)),
            };
            if range.len == 0 {
                continue;
            }
            // Neither the headers nor the log itself are ever changed through the log.
            if range.offset < 192 << 10 || range.overlaps(log) {
                return Err(refuse("log", format!("writes to itself, at {:#x}", range.offset)));
            }
            match page {
                None => host.zero(cx, range, true).await.map_err(&replaying)?,
                Some(page) => {
                    host.write_bytes(cx, range.offset, &page).await.map_err(&replaying)?;
                }
            }
        }
    }
    host.sync(cx).await.map_err(&replaying)
}
