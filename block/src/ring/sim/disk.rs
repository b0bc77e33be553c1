//! One simulated file: what reads see, what is durable, and what lies between.

use super::image::Image;

/// What a disk writes or loses as a whole, in bytes.
pub(super) const SECTOR: u64 = 512;

/// A change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    /// With `grow`, a file that ends before the range's end grows to it.
    Zero {
        offset: u64,
        len: u64,
        grow: bool,
    },
    SetLen(u64),
    /// The length is at least this.
    Grow(u64),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { offset, data } => image.write(*offset, data),
            Self::Zero { offset, len, grow } => {
                image.zero(*offset, *len);
                if *grow {
                    image.grow(offset + len);
                }
            }
            Self::SetLen(len) => image.set_len(*len),
            Self::Grow(len) => image.grow(*len),
        }
    }

    fn is_length(&self) -> bool {
        matches!(self, Self::SetLen(_) | Self::Grow(_))
    }

    fn range(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, data } => (*offset, offset + data.len() as u64),
            Self::Zero { offset, len, .. } => (*offset, offset + len),
            Self::SetLen(_) | Self::Grow(_) => (0, 0),
        }
    }

    /// The part of this change within `start..end`, which lies in its range.
    fn part(&self, start: u64, end: u64) -> Self {
        match self {
            Self::Write { offset, data } => {
                let piece = &data[(start - offset) as usize..(end - offset) as usize];
                Self::Write { offset: start, data: piece.to_vec() }
            }
            Self::Zero { grow, .. } => Self::Zero { offset: start, len: end - start, grow: *grow },
            Self::SetLen(_) | Self::Grow(_) => self.clone(),
        }
    }

    /// What the first `sectors` sectors of the change do.
    pub fn first_sectors(&self, sectors: u64) -> Option<Self> {
        let (start, end) = self.range();
        let cut = ((start / SECTOR + sectors) * SECTOR).min(end);
        (cut > start).then(|| self.part(start, cut))
    }

    /// How many sectors the change touches.
    pub fn sectors(&self) -> u64 {
        let (start, end) = self.range();
        end.div_ceil(SECTOR) - start / SECTOR
    }

    /// Adds what is left of the change outside `start..end` to `out`.
    fn outside(self, start: u64, end: u64, out: &mut Vec<Self>) {
        let (from, to) = self.range();
        if self.is_length() || end <= from || to <= start {
            out.push(self);
            return;
        }
        if from < start {
            out.push(self.part(from, start));
        }
        if end < to {
            out.push(self.part(end, to));
        }
    }
}

/// A change that is visible and not durable.
#[derive(Debug)]
struct Pending {
    change: Change,
    /// When it completed.
    at: u64,
}

#[derive(Debug)]
pub(super) struct Disk {
    pub name: String,
    /// What reads see.
    pub visible: Image,
    /// What a power loss leaves at least.
    pub durable: Image,
    /// By time of completion.
    pending: Vec<Pending>,
}

impl Disk {
    pub fn new(name: &str, image: Image) -> Self {
        Self { name: name.to_owned(), visible: image.clone(), durable: image, pending: Vec::new() }
    }

    /// A change completes at time `at`.
    pub fn complete(&mut self, change: Change, at: u64, fua: bool) {
        change.apply(&mut self.visible);
        if !fua {
            self.pending.push(Pending { change, at });
            return;
        }
        // A file system that makes this durable has written its journal: lengths set before are
        // durable too. Older data in the range is superseded, other data stays where it is.
        self.settle_lengths();
        let (start, end) = change.range();
        self.supersede(self.pending.len(), start, end);
        change.apply(&mut self.durable);
    }

    /// A sync that was submitted at time `submitted` completes.
    pub fn sync(&mut self, submitted: u64) {
        let covered = self.pending.partition_point(|p| p.at < submitted);
        for pending in self.pending.drain(..covered) {
            pending.change.apply(&mut self.durable);
        }
    }

    fn settle_lengths(&mut self) {
        while let Some(index) = self.pending.iter().position(|p| p.change.is_length()) {
            let change = self.pending.remove(index).change;
            if let Change::SetLen(len) = change {
                self.supersede(index, len, u64::MAX);
            }
            change.apply(&mut self.durable);
        }
    }

    /// Forgets what the first `count` pending changes do to `start..end`.
    fn supersede(&mut self, count: usize, start: u64, end: u64) {
        let later = self.pending.split_off(count);
        let mut parts = Vec::new();
        for Pending { change, at } in std::mem::take(&mut self.pending) {
            change.outside(start, end, &mut parts);
            self.pending.extend(parts.drain(..).map(|change| Pending { change, at }));
        }
        self.pending.extend(later);
    }

    /// What a power loss leaves at this moment. `in_flight` are the changes under way.
    pub fn crash(&self, in_flight: &[Change], rng: &mut fastrand::Rng) -> Image {
        let changes: Vec<&Change> =
            self.pending.iter().map(|p| &p.change).chain(in_flight).collect();
        let order = crash_order(&changes, rng);
        // Lengths are kept in a journal: one that was kept implies those before it.
        let lengths = changes.iter().filter(|c| c.is_length()).count();
        let lengths_kept = rng.usize(0..=lengths);
        let mut lengths_seen = 0;
        let fates = Fates::choose(rng);
        let mut image = self.durable.clone();
        for change in order.into_iter().map(|index| changes[index]) {
            if change.is_length() {
                if lengths_seen < lengths_kept {
                    change.apply(&mut image);
                }
                lengths_seen += 1;
            } else {
                fates.apply(change, &mut image, rng);
            }
        }
        image
    }
}

/// The order in which changes reach the medium: as they completed, or any; lengths keep theirs.
fn crash_order(changes: &[&Change], rng: &mut fastrand::Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..changes.len()).collect();
    if rng.bool() {
        return order;
    }
    rng.shuffle(&mut order);
    let mut lengths = (0..changes.len()).filter(|index| changes[*index].is_length());
    for place in &mut order {
        if changes[*place].is_length()
            && let Some(next) = lengths.next()
        {
            *place = next;
        }
    }
    order
}

/// How likely the fates of a change are in one crash, in percent. They differ from crash to crash,
/// so that the extremes (all kept, all lost, all torn) are met as well.
struct Fates {
    kept: u8,
    torn: u8,
}

impl Fates {
    fn choose(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(0..8) {
            0 => Self { kept: 0, torn: 0 },
            1 => Self { kept: 100, torn: 0 },
            2 => Self { kept: 0, torn: 100 },
            _ => {
                let kept = rng.u8(5..=90);
                Self { kept, torn: rng.u8(0..=100 - kept) }
            }
        }
    }

    fn apply(&self, change: &Change, image: &mut Image, rng: &mut fastrand::Rng) {
        let fate = rng.u8(0..100);
        if fate < self.kept {
            change.apply(image);
        } else if fate < self.kept + self.torn {
            tear(change, image, rng);
        } else if rng.u8(0..4) == 0 {
            grow_without_data(change, image);
        }
    }
}

/// Some sectors of a change reach the medium.
fn tear(change: &Change, image: &mut Image, rng: &mut fastrand::Rng) {
    let (start, end) = change.range();
    let kept = rng.u8(1..=9);
    let mut sector = start / SECTOR;
    while sector * SECTOR < end {
        let (from, to) = ((sector * SECTOR).max(start), ((sector + 1) * SECTOR).min(end));
        if rng.u8(0..10) < kept {
            change.part(from, to).apply(image);
        }
        sector += 1;
    }
}

/// The file's new length reaches the medium, the data does not: it reads as zeros.
fn grow_without_data(change: &Change, image: &mut Image) {
    match change {
        Change::Write { .. } | Change::Zero { grow: true, .. } => image.grow(change.range().1),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn write(sector: u64, count: u64, value: u8) -> Change {
        Change::Write { offset: sector * SECTOR, data: vec![value; (count * SECTOR) as usize] }
    }

    /// Every outcome of many crashes: one value a sector.
    fn outcomes(disk: &Disk, in_flight: &[Change]) -> HashSet<Vec<u8>> {
        let mut rng = fastrand::Rng::with_seed(1);
        (0..3000)
            .map(|_| {
                let bytes = disk.crash(in_flight, &mut rng).to_vec();
                for sector in bytes.chunks(SECTOR as usize) {
                    assert!(sector.iter().all(|b| *b == sector[0]), "a sector is torn");
                }
                bytes.iter().step_by(SECTOR as usize).copied().collect()
            })
            .collect()
    }

    fn disk() -> Disk {
        Disk::new("disk", Image::from(&[9; 3 * SECTOR as usize][..]))
    }

    #[test]
    fn writes_that_were_not_synced_are_kept_lost_or_torn_by_sector() {
        let mut disk = disk();
        disk.complete(write(0, 2, 1), 1, false);
        let seen = outcomes(&disk, &[write(1, 2, 2)]);
        // The first sector is old or 1, the second old, 1 or 2, the third old or 2: all of them.
        assert_eq!(seen.len(), 2 * 3 * 2);
    }

    #[test]
    fn a_sync_covers_what_completed_before_it_was_submitted_and_nothing_else() {
        let mut disk = disk();
        disk.complete(write(0, 1, 1), 1, false);
        disk.complete(write(1, 1, 2), 3, false);
        disk.sync(2);
        let expected = [vec![1, 9, 9], vec![1, 2, 9]];
        assert_eq!(outcomes(&disk, &[]), HashSet::from(expected));
        disk.sync(4);
        assert_eq!(outcomes(&disk, &[]), HashSet::from([vec![1, 2, 9]]));
    }

    #[test]
    fn a_fua_write_is_durable_alone_and_supersedes_what_it_overwrites() {
        let mut disk = disk();
        disk.complete(write(0, 3, 1), 1, false);
        disk.complete(write(1, 1, 2), 2, true);
        let seen = outcomes(&disk, &[]);
        assert!(seen.iter().all(|s| s[1] == 2), "{seen:?}");
        assert_eq!(seen.len(), 4);
        disk.sync(3);
        assert_eq!(outcomes(&disk, &[]), HashSet::from([vec![1, 2, 1]]));
    }

    #[test]
    fn lengths_are_kept_in_their_order_and_made_durable_by_a_sync_or_a_later_fua_write() {
        let mut disk = disk();
        disk.complete(Change::SetLen(0), 1, false);
        disk.complete(Change::SetLen(SECTOR), 2, false);
        // Kept without the cut before it, the last length would show the old sector again.
        let expected = [vec![9, 9, 9], vec![], vec![0]];
        assert_eq!(outcomes(&disk, &[]), HashSet::from(expected));
        disk.complete(write(1, 1, 3), 3, true);
        assert_eq!(outcomes(&disk, &[]), HashSet::from([vec![0, 3]]));
    }

    #[test]
    fn a_file_may_have_grown_without_its_new_data() {
        let mut disk = disk();
        disk.complete(write(3, 1, 1), 1, false);
        let expected = [vec![9, 9, 9], vec![9, 9, 9, 0], vec![9, 9, 9, 1]];
        assert_eq!(outcomes(&disk, &[]), HashSet::from(expected));
    }

    #[test]
    fn reads_see_every_completed_change() {
        let mut disk = disk();
        disk.complete(write(0, 3, 1), 1, false);
        let hole = Change::Zero { offset: SECTOR, len: SECTOR, grow: false };
        disk.complete(hole, 2, false);
        disk.complete(Change::Grow(4 * SECTOR), 3, false);
        let by_sector: Vec<u8> =
            disk.visible.to_vec().iter().step_by(SECTOR as usize).copied().collect();
        assert_eq!(by_sector, [1, 0, 1, 0]);
    }
}
