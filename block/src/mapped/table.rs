//! The table in memory: places of blocks, read without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::{Change, Shape};
use crate::{Range, qcow2::sync::lock};

/// Blocks whose entries are loaded, changed and stored together.
pub(crate) const PIECE: u64 = 512;

/// Where a block is. Offsets are multiples of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in this image: the backing file decides, or zeros.
    Unallocated,
    /// Reads as zeros, whatever the backing file has.
    Zero,
    /// At this byte of the file.
    Data(u64),
    /// Some of its sectors are at this byte of the file, the others in the backing file.
    Partial(u64),
    /// Compressed, at this byte of the file (or what else the format makes of the number, below
    /// 2^60).
    Packed(u64),
    /// The entry means nothing.
    Bad,
}

impl Place {
    fn pack(self) -> u64 {
        match self {
            Self::Unallocated => 0,
            Self::Zero => 1,
            Self::Data(at) => at | 2,
            Self::Partial(at) => at | 3,
            Self::Packed(number) => number << 3 | 4,
            Self::Bad => 5,
        }
    }

    fn unpack(word: u64) -> Self {
        match word & 7 {
            0 => Self::Unallocated,
            1 => Self::Zero,
            2 => Self::Data(word & !7),
            3 => Self::Partial(word & !7),
            4 => Self::Packed(word >> 3),
            _ => Self::Bad,
        }
    }
}

/// The same bytes as ranges that are sorted and do not touch.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable_by_key(|r| r.offset);
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.offset <= last.end() => {
                last.len = last.end().max(range.end()) - last.offset;
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Places of one piece.
type Piece = Box<[AtomicU64]>;

/// See the module. Pieces are loaded at first use and stay.
pub(super) struct Table {
    pieces: Box<[OnceLock<Piece>]>,
    blocks: AtomicU64,
    block: u64,
    reserved: Vec<Range>,
    /// No entry of the file points to or beyond this.
    end: u64,
    /// Changes published, and how many of them are durable.
    published: AtomicU64,
    durable: AtomicU64,
    /// Changed blocks that no store has taken.
    dirty: Mutex<BTreeMap<u64, Vec<usize>>>,
}

impl Table {
    pub fn new(shape: &Shape, size_max: u64) -> Self {
        let blocks = shape.size.div_ceil(shape.block);
        let most = size_max.max(shape.size).div_ceil(shape.block);
        let pieces = (0..most.div_ceil(PIECE)).map(|_| OnceLock::new()).collect();
        Self {
            pieces,
            blocks: AtomicU64::new(blocks),
            block: shape.block,
            reserved: merged(shape.reserved.clone()),
            end: shape.next,
            published: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            dirty: Mutex::new(BTreeMap::new()),
        }
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(SeqCst)
    }

    /// The disk has grown.
    pub fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, SeqCst);
    }

    /// Pieces that hold an entry.
    pub fn pieces(&self) -> u64 {
        self.blocks().div_ceil(PIECE)
    }

    /// The place of a block; `None` while its piece is not in memory.
    pub fn get(&self, block: u64) -> Option<Place> {
        let piece = self.pieces.get(usize::try_from(block / PIECE).ok()?)?.get()?;
        let word = piece.get((block % PIECE) as usize)?.load(SeqCst);
        Some(Place::unpack(word))
    }

    /// Takes the entries of a piece as the file has them. Those that point where no data can be are
    /// bad.
    pub fn fill(&self, piece: u64, places: &[Place]) {
        let Some(slot) = usize::try_from(piece).ok().and_then(|n| self.pieces.get(n)) else {
            return;
        };
        let word = |index: usize| {
            let place = places.get(index).copied().unwrap_or(Place::Unallocated);
            AtomicU64::new(self.vetted(place).pack())
        };
        // Whoever comes second has read the same.
        let _ = slot.set((0..PIECE as usize).map(word).collect());
    }

    fn vetted(&self, place: Place) -> Place {
        let (Place::Data(at) | Place::Partial(at)) = place else { return place };
        if self.may_hold_data(at) { place } else { Place::Bad }
    }

    /// Whether a block can be there: within the file, and no metadata.
    pub fn may_hold_data(&self, at: u64) -> bool {
        let Some(end) = at.checked_add(self.block) else { return false };
        let next = self.reserved.partition_point(|r| r.end() <= at);
        let free = self.reserved.get(next).is_none_or(|r| r.offset >= end);
        at & 7 == 0 && at < self.end && free
    }

    /// Publishes new places: readers see them from now on, and the next store takes them.
    pub fn publish(&self, first: u64, places: &[Place]) {
        let mut dirty = lock(&self.dirty);
        self.published.fetch_add(1, SeqCst);
        for (block, place) in (first..).zip(places) {
            self.set(block, *place);
            dirty.entry(block / PIECE).or_default().push((block % PIECE) as usize);
        }
    }

    /// Sets a place that the file has already.
    pub fn set(&self, block: u64, place: Place) {
        let piece = usize::try_from(block / PIECE).ok().and_then(|n| self.pieces.get(n)?.get());
        if let Some(word) = piece.and_then(|piece| piece.get((block % PIECE) as usize)) {
            word.store(place.pack(), SeqCst);
        }
    }

    /// Whether every change is durable.
    pub fn is_settled(&self) -> bool {
        self.published.load(SeqCst) == self.durable.load(SeqCst)
    }

    /// Takes what has changed, and the number of the last change.
    pub fn take_changes(&self) -> (u64, Vec<Change>) {
        let mut dirty = lock(&self.dirty);
        let number = self.published.load(SeqCst);
        let taken = std::mem::take(&mut *dirty);
        let change = |(piece, mut changed): (u64, Vec<usize>)| {
            changed.sort_unstable();
            changed.dedup();
            let first = piece * PIECE;
            let count = PIECE.min(self.blocks().saturating_sub(first));
            let entries =
                (first..first + count).map(|b| self.get(b).unwrap_or(Place::Bad)).collect();
            Change { first, entries, changed }
        };
        (number, taken.into_iter().map(change).collect())
    }

    /// The changes up to `number` are durable.
    pub fn settle(&self, number: u64) {
        self.durable.fetch_max(number, SeqCst);
    }

    /// They are not: they are to be taken again.
    pub fn put_back(&self, changes: Vec<Change>) {
        let mut dirty = lock(&self.dirty);
        for change in changes {
            dirty.entry(change.first / PIECE).or_default().extend(change.changed);
        }
    }
}
