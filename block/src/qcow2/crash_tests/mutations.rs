//! Every rule switched off is noticed: histories that an image survives, it does not survive without
//! the rule.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::qcow2::mutation::{Rule, without};

/// Histories that are tried before a rule counts as not noticed.
const SEEDS: u64 = 40;

/// What a rule is looked for with.
struct Search {
    shape: Shape,
    mix: Mix,
    hot: u64,
    oracle: u32,
    tasks: usize,
    requests: u32,
    every: u64,
}

impl Search {
    fn new(shape: Shape) -> Self {
        let mix = Mix::default();
        Self { shape, mix, hot: 6, oracle: 0, tasks: 6, requests: 12, every: 1 }
    }

    fn run(&self, seed: u64) -> Result<u64, String> {
        let Self { mix, hot, tasks, requests, every, .. } = *self;
        let sessions = Sessions { mix, hot, tasks, requests, ..Sessions::new(seed) };
        crash(self.shape, &sessions, Cuts { seed, every, images: 1 }, self.oracle)
    }

    fn notices(&self, rule: Rule) {
        missed(rule, |seed| self.run(seed));
    }
}

/// What is wrong without the rule: an image that is found damaged, or a check that gives up.
fn run_without(rule: Rule, run: impl Fn() -> Result<u64, String>) -> Option<String> {
    let _off = without(rule);
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.err(),
        Err(_) => Some("a panic".to_owned()),
    }
}

/// The rule is missed, and nothing else is wrong with the history that misses it.
fn missed(rule: Rule, run: impl Fn(u64) -> Result<u64, String>) {
    let missed = (0..SEEDS).find_map(|seed| Some((seed, run_without(rule, || run(seed))?)));
    mutation::interrupt_with(None);
    let Some((seed, what)) = missed else { panic!("{rule:?} was not missed") };
    println!("{rule:?}, seed {seed}: {what}");
    run(seed).unwrap_or_else(|e| panic!("with {rule:?} in force, seed {seed}: {e}"));
}

fn small() -> Shape {
    Shape::new(12, 256 << 10)
}

/// Many L2 tables and refcount blocks.
fn tables() -> Shape {
    Shape::new(9, 512 << 10)
}

/// Much is freed and used again.
fn churn() -> Mix {
    Mix { read: 25, write: 45, zeroes: 5, discard: 25, flush: 10, fua: 10 }
}

#[test]
fn sync_before_l2() {
    Search::new(small()).notices(Rule::SyncBeforeL2);
}

#[test]
fn sync_before_reftable() {
    // A refcount block counts 256 clusters; the second is made while it is watched.
    let shape = Shape { prefill: 215, ..tables() };
    Search { hot: 1000, ..Search::new(shape) }.notices(Rule::SyncBeforeReftable);
}

#[test]
fn refcounts_before_l2() {
    Search::new(small()).notices(Rule::RefcountsBeforeL2);
}

#[test]
fn data_before_mapping() {
    // What is not written yet would hide the backing file.
    let shape = Shape { base: 256 << 10, ..small() };
    let mix = Mix { flush: 25, ..Mix::default() };
    Search { mix, hot: 64, ..Search::new(shape) }.notices(Rule::DataBeforeMapping);
}

#[test]
fn limbo_until_durable() {
    Search { mix: churn(), ..Search::new(small()) }.notices(Rule::LimboUntilDurable);
}

#[test]
fn limbo_until_unpinned() {
    // A slow request, and much that happens around it.
    let search = Search { mix: churn(), tasks: 12, requests: 60, ..Search::new(small()) };
    Search { every: 40, ..search }.notices(Rule::LimboUntilUnpinned);
}

#[test]
fn dirty_bit_first() {
    Search::new(Shape { lazy: true, ..small() }).notices(Rule::DirtyBitFirst);
}

#[test]
fn cluster_lock() {
    Search::new(small()).notices(Rule::ClusterLock);
}

#[test]
fn fill_recycled() {
    Search { mix: churn(), ..Search::new(small()) }.notices(Rule::FillRecycled);
}

#[test]
fn fill_tables() {
    Search::new(Shape { stale: 200, ..tables() }).notices(Rule::FillTables);
}

#[test]
fn flush_syncs() {
    Search::new(small()).notices(Rule::FlushSyncs);
}

#[test]
fn copy_shared() {
    let shape = Shape { origin: Origin::Snapshot, ..Shape::new(12, 128 << 10) };
    Search { oracle: 20, ..Search::new(shape) }.notices(Rule::CopyShared);
}

#[test]
fn snapshot_order() {
    Search::new(small()).notices(Rule::SnapshotOrder);
}

#[test]
fn durable_leaf() {
    Search::new(small()).notices(Rule::DurableLeaf);
}

/// Snapshots of an image of this version, cut at every event.
fn snapshots(version: u32) -> impl Fn(u64) -> Result<u64, String> {
    let shape = Shape { version, ..Shape::new(12, 96 << 10) };
    move |seed| super::snapshots::crash(shape, seed, Cuts { seed, every: 1, images: 1 }, 0)
}

#[test]
fn snapshot_dirty_bit() {
    missed(Rule::SnapshotDirtyBit, snapshots(3));
}

#[test]
fn snapshot_refs_first() {
    missed(Rule::SnapshotRefsFirst, snapshots(2));
}

#[test]
fn shared_flags_first() {
    missed(Rule::SharedFlagsFirst, snapshots(2));
}

#[test]
fn snapshot_table_first() {
    missed(Rule::SnapshotTableFirst, snapshots(3));
}

#[test]
fn snapshot_gone_first() {
    missed(Rule::SnapshotGoneFirst, snapshots(3));
}

#[test]
fn header_in_one_sector() {
    missed(Rule::HeaderInOneSector, super::headers::crash);
}

/// Bitmaps of an image, cut at every event.
fn bitmaps() -> impl Fn(u64) -> Result<u64, String> {
    let shape = Shape::new(12, 96 << 10);
    move |seed| super::bitmaps::crash(shape, seed, Cuts { seed, every: 1, images: 1 })
}

#[test]
fn bitmap_before_data() {
    missed(Rule::BitmapBeforeData, bitmaps());
}

#[test]
fn bitmap_refs_first() {
    missed(Rule::BitmapRefsFirst, bitmaps());
}

#[test]
fn bitmap_tables_first() {
    missed(Rule::BitmapTablesFirst, bitmaps());
}

#[test]
fn bitmap_gone_first() {
    missed(Rule::BitmapGoneFirst, bitmaps());
}

#[test]
fn data_file_before_l2() {
    let shape = Shape { data: DataFile::Mapped, base: 256 << 10, ..small() };
    Search::new(shape).notices(Rule::DataFileBeforeL2);
}

#[test]
fn fill_subclusters() {
    // What is not there yet would hide the backing file.
    let shape = Shape { extended: true, base: 512 << 10, ..Shape::new(14, 512 << 10) };
    let mix = Mix { flush: 25, ..Mix::default() };
    Search { mix, hot: 64, ..Search::new(shape) }.notices(Rule::FillSubclusters);
}

#[test]
fn every_rule_has_its_test() {
    let name = |rule: &Rule| {
        let mut name = String::new();
        for c in format!("{rule:?}").chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    };
    let source = include_str!("mutations.rs");
    for rule in Rule::ALL {
        assert!(source.contains(&format!("fn {}()", name(&rule))), "{rule:?} has no test");
    }
}
