//! Bitmaps in a crash: what has changed since one was added is dirty in it, whatever else is.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Cuts, mutation,
    recovery::{Beside, Recovery},
    shape::{Files, Shape},
    snapshots::values,
};
use crate::{
    Cx, Node,
    conformance::{
        Stage, close_all,
        crash::{History, Mix, SECTOR, SharedSectors, Value, cut, lock, run},
        seeds,
    },
    qcow2::{Options, Qcow2, open},
    ring::sim::World,
};

/// What the disk held when a bitmap began to record, and whether the bitmap must be there.
#[derive(Clone, Debug)]
struct Since {
    values: Vec<Value>,
    there: bool,
}

#[derive(Clone, Default)]
struct Known(Arc<Mutex<BTreeMap<String, Since>>>);

impl Known {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Since>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn there(&self, name: &str, there: bool) {
        self.with(|all| all.get_mut(name).into_iter().for_each(|since| since.there = there));
    }
}

impl Beside for Known {
    fn check(&self, stage: &Stage, files: &Files, len: u64) -> Result<(), String> {
        let (known, files) = (self.with(|all| all.clone()), files.clone());
        stage.run(move |cx| async move {
            let options = Options { read_only: true, ..Options::default() };
            let image = open(&cx, files.node(len, true), files.backing(), options).await;
            let image = image.map_err(|e| format!("open: {e}"))?;
            let now = values(&cx, Arc::clone(&image) as _).await?;
            let list = image.bitmaps(&cx).await.map_err(|e| format!("bitmaps: {e}"))?;
            for (name, since) in known {
                let Some(one) = list.iter().find(|one| one.name == name) else {
                    if since.there {
                        return Err(format!("bitmap {name} is missing"));
                    }
                    continue;
                };
                if one.inconsistent {
                    return Err(format!("bitmap {name} is marked as in use"));
                }
                let bits = image.bitmap_bits(&cx, &name).await;
                let bits = bits.map_err(|e| format!("bitmap {name}: {e}"))?;
                let changed = (0..now.len()).filter(|n| now[*n] != since.values[*n]);
                for lba in changed {
                    if !bits.is_dirty(lba as u64 * SECTOR) {
                        return Err(format!("sector {lba} has changed, and is clean in {name}"));
                    }
                }
            }
            Ok(())
        })?
    }
}

async fn add(cx: Cx, image: Arc<Qcow2>, known: Known, name: String) -> Result<(), String> {
    let values = values(&cx, Arc::clone(&image) as _).await?;
    known.with(|all| all.insert(name.clone(), Since { values, there: false }));
    let granularity = Some(if name.len().is_multiple_of(2) { 512 } else { 4096 });
    let added = image.add_bitmap(&cx, &name, granularity, true).await;
    added.map_err(|e| format!("add: {e}"))?;
    known.there(&name, true);
    Ok(())
}

async fn clear(cx: Cx, image: Arc<Qcow2>, known: Known, name: String) -> Result<(), String> {
    // Until it is clear it says more than it must.
    let values = values(&cx, Arc::clone(&image) as _).await?;
    known.with(|all| all.insert(name.clone(), Since { values, there: true }));
    image.clear_bitmap(&cx, &name).await.map_err(|e| format!("clear: {e}"))
}

async fn remove(cx: Cx, image: Arc<Qcow2>, known: Known, name: String) -> Result<(), String> {
    known.there(&name, false);
    image.remove_bitmap(&cx, &name).await.map_err(|e| format!("remove: {e}"))?;
    known.with(|all| all.remove(&name));
    Ok(())
}

fn session(
    world: &World,
    stage: &Stage,
    files: &Files,
    (sectors, known): (&SharedSectors, &Known),
    seed: u64,
) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (len, opened) = (world.contents(&files.image).len(), files.clone());
    let image = stage.run(move |cx| opened.open_image(cx, len))??;
    let node: Arc<dyn Node> = Arc::clone(&image) as _;
    for round in 0..5usize {
        let (disk, bitmaps) = (Arc::clone(&image), known.clone());
        let old = known.with(|all| {
            let n = all.len();
            (n > 0).then(|| all.keys().nth(rng.usize(0..n)).cloned().unwrap_or_default())
        });
        let start = lock(sectors).tick();
        match (old, rng.u8(0..4)) {
            (Some(name), 0) => stage.run(move |cx| remove(cx, disk, bitmaps, name))??,
            (Some(name), 1) => stage.run(move |cx| clear(cx, disk, bitmaps, name))??,
            _ => {
                let name = "b".repeat(round + 1);
                stage.run(move |cx| add(cx, disk, bitmaps, name))??;
            }
        }
        lock(sectors).flushed(start);
        let history = History {
            seed: seed ^ ((round as u64) << 48),
            tasks: 4,
            requests: 5,
            hot: 8,
            mix: Mix::default(),
            grow_to: None,
        };
        run(stage, &node, sectors, history)?;
    }
    let start = lock(sectors).tick();
    drop(image);
    stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
    lock(sectors).flushed(start);
    Ok(())
}

/// Runs a session on a new image and cuts it. Returns the number of images that were checked.
pub(super) fn crash(shape: Shape, seed: u64, cuts: Cuts) -> Result<u64, String> {
    let world = World::new(seed);
    let stage = Rc::new(Stage::sim(&world, 2).map_err(|e| e.to_string())?);
    let sectors = shape.sectors();
    let files = shape.create(&world, &stage)?;
    let known = Known::default();
    let recovery = Recovery::new(shape, seed).beside(Rc::new(known.clone()));
    let others = Rc::clone(&stage);
    mutation::interrupt_with(Some(Box::new(move || others.interrupt())));
    let body = || session(&world, &stage, &files, (&sectors, &known), seed);
    let result = cut(&world, &sectors, cuts, recovery, body);
    mutation::interrupt_with(None);
    result
}

fn survives(shape: Shape) {
    for seed in seeds([1, 2]) {
        let checked = crash(shape, seed, Cuts { seed, every: 1, images: 1 });
        let checked = checked.unwrap_or_else(|e| panic!("{shape:?}, seed {seed:#x}: {e}"));
        println!("{checked} images");
        assert!(checked >= 80 || std::env::var_os("SPINDLE_SEED").is_some(), "{checked} images");
    }
}

#[test]
fn what_has_changed_is_dirty() {
    survives(Shape::new(12, 96 << 10));
    survives(Shape { base: 40 << 10, ..Shape::new(10, 48 << 10) });
}

#[test]
fn with_lazy_refcounts() {
    survives(Shape { lazy: true, ..Shape::new(12, 96 << 10) });
}
