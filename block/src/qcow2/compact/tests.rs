//! A smaller file with the same bytes; and the same in a crash at every write and flush.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    Op,
    conformance::{
        Stage,
        crash::{Cuts, Sectors, SharedSectors, Verify, cut},
        seeds,
    },
    nodes::{
        file::FileNode,
        testing::{bare, close, read, write},
    },
    qcow2::{
        self, NewSnapshot, Options as Opening,
        create::{CreateOptions, create},
        info, open_snapshot,
    },
    ring::sim::{CrashImage, World},
};

/// An image to be compacted.
#[derive(Clone, Copy, Debug)]
struct Shape {
    cluster: u64,
    size: u64,
    version: u32,
    refcount_bits: u32,
    snapshots: u32,
    bitmaps: u32,
}

const PLAIN: Shape = Shape {
    cluster: 4096,
    size: 512 << 10,
    version: 3,
    refcount_bits: 16,
    snapshots: 0,
    bitmaps: 0,
};

/// What the disk holds, and what each snapshot does.
type Disks = Vec<(String, Vec<u8>)>;

async fn contents(cx: &Cx, file: &Arc<dyn Node>) -> Result<Disks, String> {
    let opening = Opening { read_only: true, ..Opening::default() };
    let disk = qcow2::open(cx, Arc::clone(file), None, opening.clone()).await;
    let disk: Arc<dyn Node> = disk.map_err(|e| format!("open: {e}"))?;
    let len = disk.info().size as usize;
    let bytes = read(cx, &disk, 0, len).await.map_err(|e| format!("read: {e}"))?;
    close(cx, &disk).await;
    let mut disks = vec![(String::new(), bytes)];
    let about = info::info(cx, file).await.map_err(|e| format!("info: {e}"))?;
    for snapshot in about.snapshots {
        let disk = open_snapshot(cx, Arc::clone(file), None, opening.clone(), &snapshot).await;
        let disk: Arc<dyn Node> = disk.map_err(|e| format!("snapshot: {e}"))?;
        let bytes = read(cx, &disk, 0, len).await.map_err(|e| format!("read: {e}"))?;
        disks.push((snapshot.name, bytes));
    }
    for bitmap in about.bitmaps {
        disks.push((format!("bitmap {}", bitmap.name), vec![u8::from(bitmap.inconsistent)]));
    }
    Ok(disks)
}

async fn sound(cx: &Cx, file: &Arc<dyn Node>, leaks: bool) -> Result<(), String> {
    let found = check::check(cx, file, Repair::None).await.map_err(|e| format!("check: {e}"))?;
    if found.corruptions + found.check_errors > 0 || (!leaks && found.leaks > 0) {
        return Err(format!("{:?}", found.messages));
    }
    Ok(())
}

/// An image with holes all over it.
async fn make(cx: Cx, file: Arc<dyn Node>, shape: Shape, seed: u64) -> Disks {
    let mut rng = fastrand::Rng::with_seed(seed);
    let options = CreateOptions {
        cluster_size: shape.cluster,
        version: shape.version,
        refcount_bits: shape.refcount_bits,
        ..CreateOptions::new(shape.size)
    };
    create(&cx, &file, &options).await.expect("create");
    let opened = qcow2::open(&cx, Arc::clone(&file), None, Opening::default()).await;
    let image = opened.expect("open");
    let disk: Arc<dyn Node> = Arc::clone(&image) as _;
    let clusters = shape.size / shape.cluster;
    for n in 0..shape.bitmaps {
        image.add_bitmap(&cx, &format!("b{n}"), Some(4096), true).await.expect("bitmap");
    }
    for round in 0..=shape.snapshots {
        for _ in 0..clusters / 2 {
            let mut bytes = vec![0; shape.cluster as usize];
            if rng.u32(0..4) > 0 {
                rng.fill(&mut bytes);
            }
            let at = rng.u64(0..clusters) * shape.cluster;
            write(&cx, &disk, at, &bytes).await.expect("write");
        }
        if round < shape.snapshots {
            let new = NewSnapshot { name: format!("s{round}"), ..NewSnapshot::default() };
            image.create_snapshot(&cx, new).await.expect("snapshot");
        }
    }
    if shape.snapshots > 1 {
        image.delete_snapshot(&cx, "s0").await.expect("delete");
    }
    for _ in 0..clusters / 3 {
        let (at, len) = (rng.u64(0..clusters) * shape.cluster, shape.cluster);
        let op = if rng.bool() {
            Op::Discard
        } else {
            Op::WriteZeroes { unmap: rng.bool(), fua: false }
        };
        bare(&cx, &disk, op, at, len).await.expect("discard");
    }
    close(&cx, &disk).await;
    contents(&cx, &file).await.expect("contents")
}

struct Scene {
    world: World,
    stage: Stage,
    file: Arc<crate::file::File>,
    before: Disks,
    length: u64,
}

fn scene(shape: Shape, seed: u64) -> Scene {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 1).expect("an iothread");
    let file = world.create_file("image", &[], 0);
    let node: Arc<dyn Node> = FileNode::over(Arc::clone(&file), 0, 1, false);
    let before = stage.run(move |cx| make(cx, node, shape, seed)).expect("made");
    let length = world.contents(&file).len();
    Scene { world, stage, file, before, length }
}

fn node(file: &Arc<crate::file::File>, length: u64) -> Arc<dyn Node> {
    FileNode::over(Arc::clone(file), length, 1, false)
}

const ALL: Options = Options { dry_run: false, zeros: true };

fn shapes() -> Vec<Shape> {
    vec![
        PLAIN,
        Shape { cluster: 512, size: 96 << 10, ..PLAIN },
        Shape { version: 2, snapshots: 1, ..PLAIN },
        Shape { snapshots: 3, bitmaps: 2, ..PLAIN },
        Shape { cluster: 512, size: 64 << 10, snapshots: 2, refcount_bits: 64, ..PLAIN },
        Shape { refcount_bits: 1, bitmaps: 1, ..PLAIN },
        Shape { cluster: 65536, size: 2 << 20, ..PLAIN },
    ]
}

#[test]
fn the_file_is_smaller_and_every_disk_in_it_the_same() {
    for (shape, seed) in shapes().into_iter().zip(std::iter::repeat_with(|| fastrand::u64(..))) {
        println!("{shape:?}, seed {seed:#x}");
        let Scene { world, stage, file, before, length } = scene(shape, seed);
        let image = Arc::clone(&file);
        let done = stage
            .run(move |cx| async move {
                let file = node(&image, length);
                let dry = Options { dry_run: true, ..ALL };
                let would = compact(&cx, &file, length, dry, &|_, _| ()).await.unwrap();
                let done = compact(&cx, &file, length, ALL, &|_, _| ()).await.unwrap();
                (would, done)
            })
            .unwrap();
        let (would, done) = done;
        println!("{done:?}");
        assert_eq!(world.contents(&file).len(), done.new_length);
        assert!(done.new_length < length, "{done:?}");
        assert_eq!(would.zeros, done.zeros);
        // What was foretold, or a table of refcounts less.
        let margin = 4 * shape.cluster;
        assert!(done.new_length.abs_diff(would.new_length) <= margin, "{would:?} {done:?}");
        let image = Arc::clone(&file);
        let after = stage
            .run(move |cx| async move {
                let file = node(&image, done.new_length);
                sound(&cx, &file, false).await.unwrap();
                let again = compact(&cx, &file, done.new_length, ALL, &|_, _| ()).await.unwrap();
                assert_eq!((again.moved, again.new_length), (0, done.new_length));
                contents(&cx, &file).await.unwrap()
            })
            .unwrap();
        assert_eq!(after, before);
    }
}

/// Whatever a crash leaves has leaks at most, and every byte.
struct Same(Disks);

impl Verify for Same {
    fn verify(&mut self, crash: &CrashImage, _: &SharedSectors) -> Result<(), String> {
        let world = World::new(1);
        let stage = Stage::sim(&world, 1).map_err(|e| e.to_string())?;
        let image = crash.file("image").ok_or("no image")?.clone();
        let len = image.len();
        let file = node(&world.create("image", image), len);
        let wanted = self.0.clone();
        stage.run(move |cx| async move {
            sound(&cx, &file, true).await?;
            if contents(&cx, &file).await? != wanted {
                return Err("bytes have changed".to_owned());
            }
            // Whoever starts it again comes to its end.
            compact(&cx, &file, len, ALL, &|_, _| ()).await.map_err(|e| e.to_string())?;
            sound(&cx, &file, false).await?;
            if contents(&cx, &file).await? == wanted {
                Ok(())
            } else {
                Err("bytes have changed the second time".to_owned())
            }
        })?
    }
}

fn crash(shape: Shape, seed: u64, every: u64) -> Result<u64, String> {
    let Scene { world, stage, file, before, length } = scene(shape, seed);
    let sectors = Arc::new(Mutex::new(Sectors::new([])));
    let cuts = Cuts { seed, every, images: 1 };
    cut(&world, &sectors, cuts, Same(before), || {
        stage.run(move |cx| async move {
            let file = node(&file, length);
            let done = compact(&cx, &file, length, ALL, &|_, _| ()).await;
            done.map(drop).map_err(|e| e.to_string())
        })?
    })
}

#[test]
fn a_crash_leaves_leaks_at_most() {
    for seed in seeds([1, 2]) {
        for shape in shapes() {
            let every = if shape.cluster == 512 { 9 } else { 3 };
            let checked = crash(shape, seed, every)
                .unwrap_or_else(|e| panic!("{shape:?}, seed {seed:#x}: {e}"));
            println!("{shape:?}: {checked} images");
            assert!(checked > 5, "{checked} images");
        }
    }
}

#[test]
fn each_rule_switched_off_is_noticed() {
    for rule in [Rule::CopyFirst, Rule::PointersFirst] {
        OFF.set(Some(rule));
        let noticed =
            (0..20).find(|seed| crash(Shape { snapshots: 1, ..PLAIN }, *seed, 1).is_err());
        OFF.set(None);
        assert!(noticed.is_some(), "nobody notices that {rule:?} is off");
    }
}

#[test]
fn images_that_cannot_be_compacted_are_refused_by_name() {
    let Scene { world, stage, file, length, .. } = scene(PLAIN, 5);
    for (at, value, part) in [(79, 16, "extended L2"), (95, 2, "does not know"), (79, 2, "damaged")]
    {
        let mut bytes = world.contents(&file).to_vec();
        bytes[at] = value;
        let image = world.create_file("other", &bytes, length);
        let error = stage
            .run(move |cx| async move {
                compact(&cx, &node(&image, length), length, ALL, &|_, _| ()).await.unwrap_err()
            })
            .unwrap();
        let text = crate::error::with_causes(&error);
        assert!(text.contains(part) || text.contains("not supported"), "{part}: {text}");
    }
}
