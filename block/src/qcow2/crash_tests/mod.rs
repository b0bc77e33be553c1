//! Images in a crash: random histories of several iothreads, cut at their writes and flushes. What
//! is left opens again with leaks at most, holds every byte of the last completed flush or FUA
//! write, and every later sector is old or new.
//!
//! `SPINDLE_SOAK=SECONDS` goes on with fresh seeds; `SPINDLE_SEED=N` runs one.

mod bitmaps;
mod cutting;
mod headers;
mod mutations;
mod recovery;
mod shape;
mod snapshots;

use std::rc::Rc;

use super::mutation;
use crate::{
    conformance::{
        Stage,
        crash::{Cuts, Mix, cut, lock},
        seeds,
    },
    ring::sim::World,
};
use recovery::Recovery;
use shape::{DataFile, Origin, Sessions, Shape};

/// Runs `sessions` on an image and cuts them; QEMU looks at one image in `oracle`. Returns the number
/// of images that were checked.
fn crash(shape: Shape, sessions: &Sessions, cuts: Cuts, oracle: u32) -> Result<u64, String> {
    let world = World::new(sessions.seed);
    let stage = Rc::new(Stage::sim(&world, sessions.iothreads).map_err(|e| e.to_string())?);
    let sectors = shape.sectors();
    let files = shape.create(&world, &stage)?;
    if shape.prefill > 0 {
        let len = world.contents(&files.image).len();
        Sessions::prefill(&stage, &files, &sectors, len)?;
    }
    let recovery = Recovery::new(shape, sessions.seed).oracle(oracle);
    let others = Rc::clone(&stage);
    mutation::interrupt_with(Some(Box::new(move || others.interrupt())));
    let run = || sessions.run(&world, &stage, &files, &sectors);
    let result = cut(&world, &sectors, cuts, recovery, run);
    mutation::interrupt_with(None);
    result
}

fn survives(shape: Shape, every: u64, at_least: u64) {
    let mut checked = 0;
    for seed in seeds([1]) {
        let cuts = Cuts { seed, every, images: 1 };
        let result = crash(shape, &Sessions::new(seed), cuts, 60);
        checked += result.unwrap_or_else(|e| panic!("{shape:?}, seed {seed:#x}: {e}"));
    }
    println!("{checked} images");
    // A replay is one history alone.
    assert!(checked >= at_least || std::env::var_os("SPINDLE_SEED").is_some(), "{checked} images");
}

#[test]
fn clusters_of_512_bytes() {
    survives(Shape { base: 40 << 10, ..Shape::new(9, 64 << 10) }, 1, 300);
}

#[test]
fn clusters_of_4_kib() {
    survives(Shape::new(12, 256 << 10), 1, 300);
}

#[test]
fn clusters_of_4_kib_over_a_backing_file() {
    survives(Shape { base: 200 << 10, align: 512, ..Shape::new(12, 256 << 10) }, 1, 300);
}

#[test]
fn lazy_refcounts() {
    survives(Shape { lazy: true, base: 40 << 10, ..Shape::new(9, 64 << 10) }, 1, 300);
    survives(Shape { lazy: true, ..Shape::new(12, 256 << 10) }, 1, 300);
}

#[test]
fn version_2() {
    survives(Shape { version: 2, base: 100 << 10, ..Shape::new(10, 128 << 10) }, 1, 300);
}

#[test]
fn clusters_of_64_kib_with_a_small_cache() {
    survives(
        Shape { base: 1 << 20, align: 4096, small_cache: true, ..Shape::new(16, 2 << 20) },
        2,
        150,
    );
}

#[test]
fn many_tables_and_a_small_cache() {
    // An L2 table of 512-byte clusters maps 32 KiB.
    survives(Shape { small_cache: true, ..Shape::new(9, 512 << 10) }, 2, 150);
}

#[test]
fn compressed_clusters() {
    survives(Shape { origin: Origin::Compressed, ..Shape::new(12, 256 << 10) }, 1, 300);
}

#[test]
fn a_snapshot_is_not_harmed() {
    survives(Shape { origin: Origin::Snapshot, ..Shape::new(12, 128 << 10) }, 1, 300);
}

#[test]
fn clusters_that_were_tables_once() {
    // Whatever is made, data or table, lies where an L2 table was.
    survives(Shape { stale: 200, ..Shape::new(9, 512 << 10) }, 1, 300);
    survives(Shape { stale: 60, base: 40 << 10, align: 512, ..Shape::new(12, 256 << 10) }, 1, 300);
    let lazy = Shape { stale: 200, lazy: true, ..Shape::new(9, 512 << 10) };
    survives(Shape { small_cache: true, ..lazy }, 1, 300);
}

#[test]
fn encrypted_disks() {
    let aes = Shape { encrypted: Some("aes"), ..Shape::new(12, 256 << 10) };
    survives(aes, 1, 300);
    survives(Shape { base: 200 << 10, align: 512, stale: 60, ..aes }, 1, 300);
    // Sectors are numbered by their place in the file.
    let luks = Shape { encrypted: Some("luks"), ..Shape::new(9, 64 << 10) };
    survives(Shape { base: 40 << 10, stale: 200, ..luks }, 4, 40);
    survives(Shape { lazy: true, grows_to: 300 << 10, ..Shape { size: 126 << 10, ..luks } }, 4, 40);
}

#[test]
fn disks_that_grow() {
    // An L1 table of one 512-byte cluster maps 2 MiB.
    survives(Shape { base: 96 << 10, grows_to: 2200 << 10, ..Shape::new(9, 64 << 10) }, 2, 150);
    survives(Shape { lazy: true, grows_to: 300 << 10, ..Shape::new(12, 126 << 10) }, 2, 150);
}

#[test]
fn clusters_of_2_mib() {
    survives(Shape { base: 3 << 20, ..Shape::new(21, 8 << 20) }, 8, 30);
}

#[test]
fn clusters_of_subclusters() {
    let shape = Shape { extended: true, ..Shape::new(14, 512 << 10) };
    survives(Shape { base: 300 << 10, ..shape }, 1, 300);
    survives(Shape { lazy: true, small_cache: true, ..shape }, 1, 300);
    survives(Shape { base: 300 << 10, align: 512, grows_to: 700 << 10, ..shape }, 2, 150);
}

#[test]
fn data_files() {
    let shape = Shape { data: DataFile::Mapped, ..Shape::new(12, 256 << 10) };
    survives(Shape { base: 200 << 10, ..shape }, 1, 300);
    survives(Shape { data: DataFile::Raw, ..shape }, 1, 300);
    let extended = Shape { extended: true, ..Shape::new(14, 512 << 10) };
    survives(Shape { data: DataFile::Mapped, base: 300 << 10, ..extended }, 1, 300);
    survives(Shape { data: DataFile::Raw, ..extended }, 1, 300);
}

#[test]
fn refcount_tables_that_outgrow_their_place() {
    // A refcount table of one 512-byte cluster counts 8 MiB of file.
    let shape = Shape { prefill: 15_700, ..Shape::new(9, 10 << 20) };
    let mut checked = 0;
    for seed in seeds([1]) {
        let mix = Mix { discard: 2, zeroes: 2, write: 80, ..Mix::default() };
        let sessions = Sessions { mix, hot: 20_000, requests: 30, ..Sessions::new(seed) };
        let cuts = Cuts { seed, every: 25, images: 1 };
        let result = crash(shape, &sessions, cuts, 0);
        checked += result.unwrap_or_else(|e| panic!("seed {seed:#x}: {e}"));
    }
    println!("{checked} images");
}
