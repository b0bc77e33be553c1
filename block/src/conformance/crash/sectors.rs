//! What every sector of a disk may hold, now and after a power loss.

use crate::Range;

/// The unit that a medium writes as a whole, in bytes.
pub const SECTOR: u64 = 512;

const UNIT: usize = 16;
const MAGIC: u32 = 0x5ec7_0125;

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Zeros.
    Zero,
    /// What this request wrote; 0 for what was there at first.
    Written(u64),
}

/// The bytes of a sector with `value`: its address and the writer, again and again, so that a torn
/// or misplaced sector is seen.
#[must_use]
pub fn encode(lba: u64, value: Value) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    if let Value::Written(id) = value {
        for unit in bytes.as_chunks_mut::<UNIT>().0 {
            unit[..4].copy_from_slice(&MAGIC.to_le_bytes());
            unit[4..8].copy_from_slice(&(lba as u32).to_le_bytes());
            unit[8..].copy_from_slice(&id.to_le_bytes());
        }
    }
    bytes
}

/// What the bytes of a sector say.
///
/// # Errors
/// When they were never written there.
pub fn decode(lba: u64, bytes: &[u8]) -> Result<Value, String> {
    let (units, _) = bytes.as_chunks::<UNIT>();
    let first = units[0];
    if let Some(at) = units.iter().position(|unit| *unit != first) {
        return Err(format!(
            "sector {lba} is torn at byte {}: {first:x?}, {:x?}",
            at * UNIT,
            units[at]
        ));
    }
    if first == [0; UNIT] {
        return Ok(Value::Zero);
    }
    let field =
        |at: usize| u32::from_le_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]]);
    let id = u64::from(field(8)) | u64::from(field(12)) << 32;
    match (field(0), u64::from(field(4))) {
        (MAGIC, there) if there == lba => Ok(Value::Written(id)),
        (MAGIC, there) => Err(format!("sector {lba} holds data of sector {there}, request {id}")),
        _ => Err(format!("sector {lba} holds bytes that nobody wrote: {first:x?}")),
    }
}

/// A change of one sector.
#[derive(Clone, Copy, Debug)]
struct Entry {
    request: u64,
    value: Value,
    /// It may as well not have happened: a discard.
    optional: bool,
    start: u64,
    end: Option<u64>,
    durable: bool,
    /// Replaced durably: only reads that are under way may still show it.
    gone: bool,
}

impl Entry {
    /// Whether this change has certainly replaced `other`.
    fn replaces(&self, other: &Self) -> bool {
        !self.optional && other.end.is_some_and(|end| self.start > end)
    }
}

/// The changes of a disk that a read or a power loss may still show.
///
/// Requests may overlap: of changes that were under way at the same time either may be the one that
/// stays.
#[derive(Debug)]
pub struct Sectors {
    entries: Vec<Vec<Entry>>,
    /// Sectors with changes that are not durable.
    dirty: Vec<usize>,
    /// Reads under way.
    reads: usize,
    now: u64,
}

/// A change under way: see [`Sectors::start`].
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Its number, for [`Value::Written`].
    pub request: u64,
    range: Range,
}

fn lbas(range: Range) -> std::ops::Range<usize> {
    (range.offset / SECTOR) as usize..range.end().div_ceil(SECTOR) as usize
}

impl Sectors {
    /// A disk with these values, all of them durable.
    pub fn new(values: impl IntoIterator<Item = Value>) -> Self {
        let entry = |value| {
            let (start, end) = (0, Some(0));
            vec![Entry {
                request: 0,
                value,
                optional: false,
                start,
                end,
                durable: true,
                gone: false,
            }]
        };
        let entries = values.into_iter().map(entry).collect();
        Self { entries, dirty: Vec::new(), reads: 0, now: 0 }
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries.len() as u64 * SECTOR
    }

    /// The present time, for [`Sectors::flushed`].
    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A read begins. Returns the time, for [`Sectors::check_read`], which ends it.
    pub fn start_read(&mut self) -> u64 {
        self.reads += 1;
        self.tick()
    }

    /// A request begins to change `range`: to zeros, or with `writes` to its own number. With
    /// `optional` it need not.
    pub fn start(&mut self, range: Range, writes: bool, optional: bool) -> Change {
        let start = self.tick();
        let value = if writes { Value::Written(start) } else { Value::Zero };
        self.start_as(start, range, value, optional)
    }

    /// A change to what one sector held before begins.
    pub fn start_back(&mut self, lba: u64, value: Value) -> Change {
        let start = self.tick();
        self.start_as(start, Range::new(lba * SECTOR, SECTOR), value, false)
    }

    fn start_as(&mut self, start: u64, range: Range, value: Value, optional: bool) -> Change {
        let entry = Entry {
            request: start,
            value,
            optional,
            start,
            end: None,
            durable: false,
            gone: false,
        };
        for lba in lbas(range) {
            self.entries[lba].push(entry);
            self.dirty.push(lba);
        }
        Change { request: start, range }
    }

    /// The request has ended well; with `durable` it was FUA.
    pub fn end(&mut self, change: Change, durable: bool) {
        let now = self.tick();
        for lba in lbas(change.range) {
            let entries = &mut self.entries[lba];
            if let Some(entry) = entries.iter_mut().find(|e| e.request == change.request) {
                entry.end = Some(now);
                entry.durable |= durable;
            }
            prune(entries, self.reads);
        }
    }

    /// A flush that began at time `start` has ended well.
    pub fn flushed(&mut self, start: u64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        for lba in dirty {
            let entries = &mut self.entries[lba];
            for entry in entries.iter_mut() {
                entry.durable |= entry.end.is_some_and(|end| end < start);
            }
            prune(entries, self.reads);
            if entries.iter().any(|e| !e.durable) {
                self.dirty.push(lba);
            }
        }
    }

    /// Whether a read that began at time `start` may have seen `value` in a sector.
    fn read_may_see(&self, lba: usize, value: Value, start: u64) -> bool {
        let entries = &self.entries[lba];
        let replaced = |entry: &Entry| {
            entries.iter().any(|f| f.end.is_some_and(|end| end < start) && f.replaces(entry))
        };
        entries.iter().any(|e| e.value == value && !replaced(e))
    }

    /// Checks what a read of `range` that began at time `start` and ends now has seen.
    ///
    /// # Errors
    /// A sentence about the first sector that is wrong.
    pub fn check_read(&mut self, range: Range, start: u64, bytes: &[u8]) -> Result<(), String> {
        self.reads -= 1;
        for (lba, sector) in lbas(range).zip(bytes.chunks(SECTOR as usize)) {
            let value = decode(lba as u64, sector)?;
            if !self.read_may_see(lba, value, start) {
                return Err(format!("sector {lba} read as {value:?}: {:?}", self.entries[lba]));
            }
        }
        Ok(())
    }

    /// Checks what the range holds after a power loss at this moment.
    ///
    /// # Errors
    /// A sentence about the first sector that is wrong.
    pub fn check_crashed(&self, range: Range, bytes: &[u8]) -> Result<(), String> {
        for (lba, sector) in lbas(range).zip(bytes.chunks(SECTOR as usize)) {
            let value = decode(lba as u64, sector)?;
            let entries = &self.entries[lba];
            if !entries.iter().any(|e| e.value == value && !e.gone) {
                return Err(format!("sector {lba} is {value:?} after the crash: {entries:?}"));
            }
        }
        Ok(())
    }
}

/// Forgets what a durable change has replaced for good.
fn prune(entries: &mut Vec<Entry>, reads: usize) {
    let durable: Vec<Entry> = entries.iter().filter(|e| e.durable).copied().collect();
    for entry in entries.iter_mut() {
        entry.gone |= durable.iter().any(|f| f.replaces(entry));
    }
    entries.retain(|e| reads > 0 || !e.gone);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Range = Range { offset: 0, len: SECTOR };

    fn after_crash(sectors: &Sectors) -> Vec<u64> {
        let may = |id| sectors.check_crashed(ONE, &encode(0, Value::Written(id))).is_ok();
        let mut ids: Vec<u64> = (0..500).filter(|id| may(*id)).collect();
        if sectors.check_crashed(ONE, &encode(0, Value::Zero)).is_ok() {
            ids.push(999);
        }
        ids
    }

    fn readable(sectors: &mut Sectors) -> Vec<u64> {
        let now = sectors.tick();
        let may = |value| sectors.read_may_see(0, value, now);
        let mut ids: Vec<u64> = (0..500).filter(|id| may(Value::Written(*id))).collect();
        if may(Value::Zero) {
            ids.push(999);
        }
        ids
    }

    #[test]
    fn a_read_may_show_what_was_there_when_it_began() {
        let mut sectors = Sectors::new([Value::Written(0)]);
        let read = sectors.start_read();
        let one = sectors.start(ONE, true, false);
        sectors.end(one, true);
        assert_eq!(after_crash(&sectors), [one.request]);
        assert_eq!(sectors.check_read(ONE, read, &encode(0, Value::Written(0))), Ok(()));
        assert_eq!(readable(&mut sectors), [one.request]);
    }

    #[test]
    fn a_flush_makes_durable_what_ended_before_it_began() {
        let mut sectors = Sectors::new([Value::Written(0)]);
        let one = sectors.start(ONE, true, false);
        assert_eq!(after_crash(&sectors), [0, one.request]);
        sectors.end(one, false);
        let flush = sectors.tick();
        let two = sectors.start(ONE, true, false);
        sectors.end(two, false);
        assert_eq!(after_crash(&sectors), [0, one.request, two.request]);
        sectors.flushed(flush);
        assert_eq!(after_crash(&sectors), [one.request, two.request]);
        assert_eq!(readable(&mut sectors), [two.request]);
    }

    #[test]
    fn of_changes_at_the_same_time_either_may_stay() {
        let mut sectors = Sectors::new([Value::Written(0)]);
        let one = sectors.start(ONE, true, false);
        let two = sectors.start(ONE, true, false);
        assert_eq!(readable(&mut sectors), [0, one.request, two.request]);
        sectors.end(one, true);
        assert_eq!(after_crash(&sectors), [one.request, two.request]);
        sectors.end(two, false);
        let flush = sectors.tick();
        sectors.flushed(flush);
        assert_eq!(after_crash(&sectors), [one.request, two.request]);
        let three = sectors.start(ONE, true, false);
        sectors.end(three, true);
        assert_eq!(after_crash(&sectors), [three.request]);
    }

    #[test]
    fn a_discard_may_or_may_not_happen() {
        let mut sectors = Sectors::new([Value::Written(0)]);
        let discard = sectors.start(ONE, false, true);
        sectors.end(discard, false);
        let flush = sectors.tick();
        sectors.flushed(flush);
        assert_eq!(after_crash(&sectors), [0, 999]);
        let zeroes = sectors.start(ONE, false, false);
        sectors.end(zeroes, true);
        assert_eq!(after_crash(&sectors), [999]);
    }

    #[test]
    fn torn_misplaced_and_foreign_sectors_are_told_apart() {
        let good = encode(7, Value::Written(3));
        assert_eq!(decode(7, &good), Ok(Value::Written(3)));
        assert_eq!(decode(7, &[0; 512]), Ok(Value::Zero));
        assert!(decode(8, &good).expect_err("misplaced").contains("data of sector 7"));
        let mut torn = good;
        torn[256..].fill(0);
        assert!(decode(7, &torn).expect_err("torn").contains("torn"));
        assert!(decode(7, &[0xab; 512]).expect_err("foreign").contains("nobody"));
    }
}
