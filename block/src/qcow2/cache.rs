//! The L2 tables in memory, in slices of at most 4 KiB.
//!
//! Readers take no lock: a flat table leads from a slice's number to a slot, and a slot's *tag*
//! says which slice it holds and in which incarnation. Whoever reads entries compares the tag
//! before and after; a slot that was given to another slice meanwhile shows another tag. Everything
//! that changes (loading, publishing, writing back, evicting) goes through one mutex that is held
//! for nanoseconds and never across an await.
//!
//! A slice is absent → loading → clean ⇄ dirty → writing → clean. Only clean ones are evicted.

#[cfg(loom)]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};
#[cfg(not(loom))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};
use std::{
    collections::HashMap,
    sync::OnceLock,
    task::{Context, Waker},
};

use super::{
    layout::{Layout, Raw},
    sync::{lock, remember},
};

/// Slices in a chunk of the lookup table.
const CHUNK_BITS: u32 = if cfg!(loom) { 1 } else { 13 };
/// Slots that are allocated at once.
const SLOT_CHUNK_BITS: u32 = if cfg!(loom) { 0 } else { 4 };
/// Slots beyond the capacity, for loads that find every other slot busy.
const OVERFLOW: usize = 1024;
/// The fewest slots of a cache.
const SLOTS_MIN: usize = if cfg!(loom) { 1 } else { 16 };
/// Bits of a tag that count incarnations; the rest is the slice's number.
const GENERATION_BITS: u32 = 24;
const NO_TAG: u64 = u64::MAX;
const NO_SLICE: u64 = u64::MAX;

/// The place of one slice.
#[derive(Debug)]
struct Slot {
    tag: AtomicU64,
    /// Looked at since the clock hand came by.
    used: AtomicBool,
    /// Holds entries that are not durable yet.
    unsettled: AtomicBool,
    /// Holds an entry that points into the image's own metadata.
    tainted: AtomicBool,
    /// Counts the beginnings and ends of changes where an entry has two words, which no reader must
    /// take from different entries. Not used otherwise.
    version: AtomicU64,
    entries: Box<[AtomicU64]>,
}

#[derive(Clone, Copy, Debug)]
struct Meta {
    slice: u64,
    dirty: bool,
    writing: bool,
    loading: bool,
}

#[derive(Debug)]
struct State {
    meta: Vec<Meta>,
    free: Vec<u32>,
    loading: HashMap<u64, Vec<Waker>>,
    /// Slots that are dirty, in no order.
    dirty: Vec<u32>,
    hand: usize,
    generation: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SliceCache {
    layout: Layout,
    table: Box<[OnceLock<Box<[AtomicU32]>>]>,
    slots: Box<[OnceLock<Box<[Slot]>>]>,
    capacity: usize,
    state: Mutex<State>,
    /// Counts changes of the metadata; a flush compares it with `settled`.
    changed: AtomicU64,
    settled: AtomicU64,
}

/// A slice as a reader found it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    slot: &'a Slot,
    tag: u64,
    /// The slot's version, where entries are extended.
    version: Option<u64>,
}

impl View<'_> {
    /// The entry at `index`.
    #[inline]
    pub fn load(&self, index: usize) -> Raw {
        if self.version.is_none() {
            return Raw::plain(self.slot.entries[index].load(SeqCst));
        }
        let word = self.slot.entries[2 * index].load(SeqCst);
        Raw { word, subs: self.slot.entries[2 * index + 1].load(SeqCst) }
    }

    /// Whether what was loaded belongs to the slice that was looked for.
    pub fn holds(&self) -> bool {
        self.slot.tag.load(SeqCst) == self.tag
            && self.version.is_none_or(|version| self.slot.version.load(SeqCst) == version)
    }

    /// Whether every entry is durable.
    pub fn settled(&self) -> bool {
        !self.slot.unsettled.load(SeqCst)
    }

    /// Whether nothing may be written through this slice.
    pub fn tainted(&self) -> bool {
        self.slot.tainted.load(SeqCst)
    }
}

/// What a task has to do that needs a slice.
pub(super) enum Step<'a> {
    /// It is there.
    Present,
    /// Somebody loads it; the waker is remembered.
    Wait,
    /// Load it, into this place.
    Load(Loading<'a>),
    /// Every slot is dirty: write back first.
    Pressure,
}

/// A load under way. Dropping it lets somebody else try.
pub(super) struct Loading<'a> {
    cache: &'a SliceCache,
    slice: u64,
    slot: u32,
    done: bool,
}

/// A copy of a dirty slice, for writing back.
#[derive(Debug)]
pub(super) struct DirtySlice {
    pub slot: u32,
    pub slice: u64,
    pub bytes: Vec<u8>,
}

/// Why entries could not be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotPublished {
    /// The slice was evicted: load it again.
    Absent,
    /// The slice must not be written.
    Tainted,
}

impl SliceCache {
    /// A cache of `bytes` for `slices` slices at most.
    pub fn new(layout: Layout, bytes: u64, slices: u64) -> Self {
        let capacity = (bytes / layout.slice_bytes()) as usize;
        let capacity = capacity.max(SLOTS_MIN);
        let chunks = slices.div_ceil(1 << CHUNK_BITS) as usize;
        let slot_chunks = (capacity + OVERFLOW).div_ceil(1 << SLOT_CHUNK_BITS);
        Self {
            layout,
            table: (0..chunks).map(|_| OnceLock::new()).collect(),
            slots: (0..slot_chunks).map(|_| OnceLock::new()).collect(),
            capacity,
            state: Mutex::new(State {
                meta: Vec::new(),
                free: Vec::new(),
                loading: HashMap::new(),
                dirty: Vec::new(),
                hand: 0,
                generation: 0,
            }),
            changed: AtomicU64::new(0),
            settled: AtomicU64::new(0),
        }
    }

    /// Slices that have a number: the most a disk can grow to.
    pub fn slices_max(&self) -> u64 {
        (self.table.len() as u64) << CHUNK_BITS
    }

    /// The slice, if it is in memory. Takes no lock.
    pub fn find(&self, slice: u64) -> Option<View<'_>> {
        let chunk = self.table.get((slice >> CHUNK_BITS) as usize)?.get()?;
        let number = chunk[(slice & ((1 << CHUNK_BITS) - 1)) as usize].load(SeqCst);
        let slot = self.slot(number.checked_sub(1)?)?;
        let tag = slot.tag.load(SeqCst);
        if tag >> GENERATION_BITS != slice {
            return None;
        }
        let version = self.layout.extended.then(|| slot.version.load(SeqCst));
        // Odd: it is being changed this moment, under the lock.
        if version.is_some_and(|version| version & 1 == 1) {
            return None;
        }
        if !slot.used.load(std::sync::atomic::Ordering::Relaxed) {
            slot.used.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        Some(View { slot, tag, version })
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        let chunk = self.slots.get((index >> SLOT_CHUNK_BITS) as usize)?.get()?;
        Some(&chunk[(index & ((1 << SLOT_CHUNK_BITS) - 1)) as usize])
    }

    fn make_slot(&self, index: u32) -> Option<&Slot> {
        let entries = self.layout.slice_words();
        let chunk = self.slots.get((index >> SLOT_CHUNK_BITS) as usize)?;
        chunk.get_or_init(|| {
            let slot = || Slot {
                tag: AtomicU64::new(NO_TAG),
                used: AtomicBool::new(false),
                unsettled: AtomicBool::new(false),
                tainted: AtomicBool::new(false),
                version: AtomicU64::new(0),
                entries: (0..entries).map(|_| AtomicU64::new(0)).collect(),
            };
            (0..1 << SLOT_CHUNK_BITS).map(|_| slot()).collect()
        });
        self.slot(index)
    }

    fn cell(&self, slice: u64) -> Option<&AtomicU32> {
        let chunk = self.table.get((slice >> CHUNK_BITS) as usize)?;
        let chunk = chunk.get_or_init(|| (0..1 << CHUNK_BITS).map(|_| AtomicU32::new(0)).collect());
        Some(&chunk[(slice & ((1 << CHUNK_BITS) - 1)) as usize])
    }

    /// What to do to have `slice` in memory. `task` is woken when a load by somebody else ends.
    pub fn step(&self, slice: u64, task: &mut Context<'_>) -> Step<'_> {
        let mut state = lock(&self.state);
        if self.find(slice).is_some() {
            return Step::Present;
        }
        if let Some(waiting) = state.loading.get_mut(&slice) {
            remember(waiting, task.waker());
            return Step::Wait;
        }
        let Some(slot) = self.take_slot(&mut state) else { return Step::Pressure };
        state.meta[slot as usize] =
            Meta { slice: NO_SLICE, dirty: false, writing: false, loading: true };
        state.loading.insert(slice, Vec::new());
        Step::Load(Loading { cache: self, slice, slot, done: false })
    }

    /// A slot that holds nothing: a free one, a new one, or a clean one that the clock gives up.
    fn take_slot(&self, state: &mut State) -> Option<u32> {
        if let Some(slot) = state.free.pop() {
            return Some(slot);
        }
        if state.meta.len() < self.capacity {
            return self.add_slot(state);
        }
        let count = state.meta.len();
        for _ in 0..2 * count {
            let index = state.hand;
            state.hand = (index + 1) % count;
            let meta = state.meta[index];
            let Some(slot) = self.slot(index as u32) else { continue };
            if meta.dirty || meta.writing || meta.loading {
                continue;
            }
            if slot.used.swap(false, SeqCst) {
                continue;
            }
            // Readers that looked before this see the tag change; later ones find nothing.
            if let Some(cell) = self.cell(meta.slice) {
                cell.store(0, SeqCst);
            }
            slot.tag.store(NO_TAG, SeqCst);
            return Some(index as u32);
        }
        let busy = state.meta.iter().all(|m| m.loading);
        if busy { self.add_slot(state) } else { None }
    }

    fn add_slot(&self, state: &mut State) -> Option<u32> {
        let index = state.meta.len() as u32;
        self.make_slot(index)?;
        state.meta.push(Meta { slice: NO_SLICE, dirty: false, writing: false, loading: false });
        Some(index)
    }

    /// Replaces entries of a slice, all at once for those who write back. Returns the number of
    /// this change.
    pub fn publish(&self, slice: u64, changes: &[(usize, Raw)]) -> Result<u64, NotPublished> {
        let mut state = lock(&self.state);
        let view = self.find(slice).ok_or(NotPublished::Absent)?;
        if view.tainted() {
            return Err(NotPublished::Tainted);
        }
        // Before the entries: whoever sees one of them must not take it for durable.
        view.slot.unsettled.store(true, SeqCst);
        if view.version.is_none() {
            for &(index, entry) in changes {
                view.slot.entries[index].store(entry.word, SeqCst);
            }
        } else {
            view.slot.version.fetch_add(1, SeqCst);
            for &(index, entry) in changes {
                view.slot.entries[2 * index].store(entry.word, SeqCst);
                view.slot.entries[2 * index + 1].store(entry.subs, SeqCst);
            }
            view.slot.version.fetch_add(1, SeqCst);
        }
        let number = self.table_value(slice);
        if let Some(slot) = number {
            let meta = &mut state.meta[slot as usize];
            if !meta.dirty {
                meta.dirty = true;
                state.dirty.push(slot);
            }
        }
        Ok(self.note_change())
    }

    fn table_value(&self, slice: u64) -> Option<u32> {
        self.cell(slice)?.load(SeqCst).checked_sub(1)
    }

    /// Counts a change of metadata that the next flush must make durable.
    pub fn note_change(&self) -> u64 {
        self.changed.fetch_add(1, SeqCst) + 1
    }

    /// The number of the latest change.
    pub fn changes(&self) -> u64 {
        self.changed.load(SeqCst)
    }

    /// Everything up to change `number` is durable.
    pub fn settle(&self, number: u64) {
        self.settled.fetch_max(number, SeqCst);
    }

    /// The number of the latest change up to which all are durable.
    pub fn settled(&self) -> u64 {
        self.settled.load(SeqCst)
    }

    /// Whether every change is durable.
    pub fn is_settled(&self) -> bool {
        self.changed.load(SeqCst) == self.settled.load(SeqCst)
    }

    /// Copies of all dirty slices, which count as being written from now on.
    pub fn begin_write(&self) -> Vec<DirtySlice> {
        let mut state = lock(&self.state);
        let dirty = std::mem::take(&mut state.dirty);
        let mut copies = Vec::with_capacity(dirty.len());
        for index in dirty {
            let Some(slot) = self.slot(index) else { continue };
            let meta = &mut state.meta[index as usize];
            meta.dirty = false;
            meta.writing = true;
            let bytes = slot.entries.iter().flat_map(|e| e.load(SeqCst).to_be_bytes()).collect();
            copies.push(DirtySlice { slot: index, slice: meta.slice, bytes });
        }
        copies
    }

    /// Forgets every slice that is clean: the file has other entries now.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        for index in 0..state.meta.len() {
            let meta = state.meta[index];
            if meta.dirty || meta.writing || meta.loading || meta.slice == NO_SLICE {
                continue;
            }
            if let (Some(slot), Some(cell)) = (self.slot(index as u32), self.cell(meta.slice)) {
                cell.store(0, SeqCst);
                slot.tag.store(NO_TAG, SeqCst);
                state.meta[index].slice = NO_SLICE;
                state.free.push(index as u32);
            }
        }
    }

    /// The writing of these slots has ended. What failed is dirty again.
    pub fn end_write(&self, slots: &[u32], durable: bool) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        for &index in slots {
            let meta = &mut state.meta[index as usize];
            meta.writing = false;
            if !durable && !meta.dirty {
                meta.dirty = true;
                state.dirty.push(index);
            }
            if durable
                && !meta.dirty
                && let Some(slot) = self.slot(index)
            {
                slot.unsettled.store(false, SeqCst);
            }
        }
    }
}

impl Loading<'_> {
    /// The slice is loaded.
    pub fn finish(mut self, entries: &[u64], tainted: bool) {
        self.done = true;
        let cache = self.cache;
        let waiting = {
            let mut state = lock(&cache.state);
            state.generation += 1;
            let generation = state.generation & ((1 << GENERATION_BITS) - 1);
            state.meta[self.slot as usize] =
                Meta { slice: self.slice, dirty: false, writing: false, loading: false };
            if let (Some(slot), Some(cell)) = (cache.slot(self.slot), cache.cell(self.slice)) {
                for (at, entry) in slot.entries.iter().enumerate() {
                    at_or_zero(entries, at, entry);
                }
                slot.used.store(true, SeqCst);
                slot.unsettled.store(false, SeqCst);
                slot.tainted.store(tainted, SeqCst);
                slot.tag.store(self.slice << GENERATION_BITS | generation, SeqCst);
                cell.store(self.slot + 1, SeqCst);
            }
            state.loading.remove(&self.slice).unwrap_or_default()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

fn at_or_zero(entries: &[u64], at: usize, place: &AtomicU64) {
    place.store(entries.get(at).copied().unwrap_or(0), SeqCst);
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let waiting = {
            let mut state = lock(&self.cache.state);
            state.meta[self.slot as usize].loading = false;
            state.free.push(self.slot);
            state.loading.remove(&self.slice).unwrap_or_default()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

// make test runs these: tests/loom.
#[cfg(all(test, loom))]
mod models {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Two entries in a slice, and room for one slice.
    fn cache() -> SliceCache {
        SliceCache::new(Layout::standard(4, 3), 0, 2)
    }

    fn load(cache: &SliceCache, slice: u64, entries: [u64; 2]) {
        loop {
            match cache.step(slice, &mut Context::from_waker(Waker::noop())) {
                Step::Load(place) => return place.finish(&entries, false),
                // The reader looks at the only slot again and again.
                Step::Pressure => thread::yield_now(),
                _ => panic!("slice {slice} is not to be loaded"),
            }
        }
    }

    /// What a reader takes for the entries of a slice, and whether they are durable.
    fn look(cache: &SliceCache, slice: u64) -> Option<([u64; 2], bool)> {
        let view = cache.find(slice)?;
        let entries = [view.load(0).word, view.load(1).word];
        view.holds().then(|| (entries, view.settled()))
    }

    #[test]
    fn entries_of_another_slice_are_never_taken() {
        loom::model(|| {
            let cache = Arc::new(cache());
            load(&cache, 0, [10, 11]);
            let reader = {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    for (slice, entries) in [(0, [10, 11]), (1, [20, 21])] {
                        if let Some((found, settled)) = look(&cache, slice) {
                            assert_eq!((found, settled), (entries, true), "slice {slice}");
                        }
                    }
                })
            };
            // It takes the place of slice 0.
            load(&cache, 1, [20, 21]);
            reader.join().expect("reader");
            assert!(look(&cache, 0).is_none());
            assert_eq!(look(&cache, 1), Some(([20, 21], true)));
        });
    }

    #[test]
    fn an_entry_that_is_not_durable_is_never_taken_for_one_that_is() {
        loom::model(|| {
            let cache = Arc::new(cache());
            load(&cache, 0, [10, 11]);
            let reader = {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    let (found, settled) = look(&cache, 0).expect("nobody evicts it");
                    assert!(found == [10, 11] || !settled, "{found:?} counts as durable");
                })
            };
            let writer = {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    cache.publish(0, &[(1, Raw::plain(31))]).expect("it is there")
                })
            };
            // A write-back that may or may not have seen the new entry, and ends well.
            let copies = cache.begin_write();
            let slots: Vec<u32> = copies.iter().map(|copy| copy.slot).collect();
            let seen = copies.iter().any(|copy| copy.bytes[8..] == 31u64.to_be_bytes());
            reader.join().expect("reader");
            cache.end_write(&slots, true);
            writer.join().expect("writer");
            assert_eq!(look(&cache, 0), Some(([10, 31], seen)));
        });
    }

    #[test]
    fn the_two_words_of_an_entry_are_never_of_different_entries() {
        loom::model(|| {
            let layout = Layout { extended: true, ..Layout::standard(5, 3) };
            let cache = Arc::new(SliceCache::new(layout, 0, 2));
            match cache.step(0, &mut Context::from_waker(Waker::noop())) {
                Step::Load(place) => place.finish(&[0, 0, 10, 11], false),
                _ => panic!("it is not there yet"),
            }
            let reader = {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    let Some(view) = cache.find(0) else { return };
                    let found = view.load(1);
                    if view.holds() {
                        assert!([(10, 11), (20, 21)].contains(&(found.word, found.subs)));
                    }
                })
            };
            let new = Raw { word: 20, subs: 21 };
            cache.publish(0, &[(1, new)]).expect("it is there");
            reader.join().expect("reader");
            assert_eq!(cache.find(0).map(|view| view.load(1)), Some(new));
        });
    }
}
