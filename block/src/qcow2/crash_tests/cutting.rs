//! Compressed writes, shrinking and emptying, in a crash.

use std::{rc::Rc, sync::Arc};

use super::{
    Cuts, mutation,
    recovery::Recovery,
    shape::{Files, Shape},
};
use crate::{
    Cx, Node, Range,
    conformance::{
        Stage, close_all,
        crash::{History, Mix, SECTOR, SharedSectors, Value, cut, encode, lock, run},
        seeds,
    },
    qcow2::{ClusterPacker, PackedCluster, Qcow2},
    ring::sim::World,
};

/// Writes a few clusters, compressed.
async fn pack(
    cx: Cx,
    image: Arc<Qcow2>,
    sectors: SharedSectors,
    mut rng: fastrand::Rng,
) -> Result<(), String> {
    let cluster = image.cluster_size();
    let mut packer = ClusterPacker::new(image.compression()).map_err(|e| e.to_string())?;
    let count = image.info().size / cluster;
    let (mut changes, mut clusters) = (Vec::new(), Vec::new());
    let first = rng.u64(0..count);
    for number in first..count.min(first + rng.u64(1..6)) {
        let range = Range::new(number * cluster, cluster);
        let change = lock(&sectors).start(range, true, false);
        let value = Value::Written(change.request);
        let lbas = range.offset / SECTOR..range.end() / SECTOR;
        let bytes: Vec<u8> = lbas.flat_map(|lba| encode(lba, value)).collect();
        let bytes = packer.pack(&bytes).ok_or("it does not pack")?;
        clusters.push(PackedCluster { offset: range.offset, bytes });
        changes.push(change);
    }
    image.write_compressed(&cx, &clusters).await.map_err(|e| format!("compressed: {e}"))?;
    changes.into_iter().for_each(|change| lock(&sectors).end(change, false));
    Ok(())
}

/// Makes the disk shorter and long again: what was cut off reads as zeros.
async fn shrink(
    cx: Cx,
    image: Arc<Qcow2>,
    sectors: SharedSectors,
    mut rng: fastrand::Rng,
) -> Result<(), String> {
    let old = image.info().size;
    let size = rng.u64(1..old / SECTOR) * SECTOR;
    let change = lock(&sectors).start(Range::new(size, old - size), false, false);
    image.shrink(&cx, size).await.map_err(|e| format!("shrink: {e}"))?;
    let node: Arc<dyn Node> = image;
    node.resize(cx, old).await.map_err(|e| format!("grow: {e}"))?;
    lock(&sectors).end(change, true);
    Ok(())
}

/// Empties the image: its disk reads as the backing file does.
async fn empty(
    cx: Cx,
    image: Arc<Qcow2>,
    sectors: SharedSectors,
    shape: Shape,
) -> Result<(), String> {
    let changes: Vec<_> = {
        let mut sectors = lock(&sectors);
        let lbas = 0..shape.size / SECTOR;
        lbas.map(|lba| sectors.start_back(lba, shape.first_value(lba))).collect()
    };
    image.make_empty(&cx).await.map_err(|e| format!("empty: {e}"))?;
    changes.into_iter().for_each(|change| lock(&sectors).end(change, true));
    Ok(())
}

fn session(
    world: &World,
    stage: &Stage,
    files: &Files,
    sectors: &SharedSectors,
    (shape, seed): (Shape, u64),
) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (len, opened) = (world.contents(&files.image).len(), files.clone());
    let image = stage.run(move |cx| opened.open_image(cx, len))??;
    let node: Arc<dyn Node> = Arc::clone(&image) as _;
    for round in 0..6u64 {
        let history = History {
            seed: seed ^ (round << 48),
            tasks: 4,
            requests: 5,
            hot: 8,
            mix: Mix::default(),
            grow_to: None,
        };
        run(stage, &node, sectors, history)?;
        let (disk, followed, dice) = (Arc::clone(&image), Arc::clone(sectors), rng.fork());
        match rng.u8(0..4) {
            0 => stage.run(move |cx| shrink(cx, disk, followed, dice))??,
            1 => stage.run(move |cx| empty(cx, disk, followed, shape))??,
            _ => stage.run(move |cx| pack(cx, disk, followed, dice))??,
        }
    }
    let start = lock(sectors).tick();
    drop(image);
    stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
    lock(sectors).flushed(start);
    Ok(())
}

fn crash(shape: Shape, seed: u64) -> Result<u64, String> {
    let world = World::new(seed);
    let stage = Rc::new(Stage::sim(&world, 2).map_err(|e| e.to_string())?);
    let sectors = shape.sectors();
    let files = shape.create(&world, &stage)?;
    let recovery = Recovery::new(shape, seed);
    let others = Rc::clone(&stage);
    mutation::interrupt_with(Some(Box::new(move || others.interrupt())));
    let body = || session(&world, &stage, &files, &sectors, (shape, seed));
    let result = cut(&world, &sectors, Cuts { seed, every: 1, images: 1 }, recovery, body);
    mutation::interrupt_with(None);
    result
}

fn survives(shape: Shape) {
    for seed in seeds([1, 2]) {
        let checked = crash(shape, seed);
        let checked = checked.unwrap_or_else(|e| panic!("{shape:?}, seed {seed:#x}: {e}"));
        println!("{checked} images");
        assert!(checked >= 50 || std::env::var_os("SPINDLE_SEED").is_some(), "{checked} images");
    }
}

#[test]
fn over_a_backing_file() {
    survives(Shape { base: 64 << 10, ..Shape::new(12, 96 << 10) });
}

#[test]
fn of_version_2_and_small_clusters() {
    survives(Shape { version: 2, ..Shape::new(10, 48 << 10) });
}

#[test]
fn with_lazy_refcounts() {
    survives(Shape { lazy: true, base: 40 << 10, ..Shape::new(12, 96 << 10) });
}
