//! Snapshots that are taken, gone back to and deleted, in a crash: a snapshot is there or it is not,
//! and one that is there holds what the disk held.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Cuts, mutation,
    recovery::{Beside, Recovery},
    shape::{Files, Shape},
};
use crate::{
    Cx, Node,
    conformance::{
        Stage, close_all,
        crash::{History, Mix, SECTOR, SharedSectors, Value, check_disk, cut, decode, lock, run},
        seeds,
    },
    qcow2::{NewSnapshot, Options, Qcow2, info, open_snapshot},
    ring::sim::World,
};

/// What is known of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    There,
    Going,
}

#[derive(Clone, Debug)]
struct Taken {
    name: String,
    state: State,
    values: Vec<Value>,
}

#[derive(Clone, Default)]
struct Known(Arc<Mutex<Vec<Taken>>>);

impl Known {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Taken>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, name: &str, state: State) {
        self.with(|all| all.iter_mut().filter(|t| t.name == name).for_each(|t| t.state = state));
    }
}

impl Beside for Known {
    fn check(&self, stage: &Stage, files: &Files, len: u64) -> Result<(), String> {
        let (known, files) = (self.with(|all| all.clone()), files.clone());
        stage.run(move |cx| async move {
            let about = info::info(&cx, &files.node(len, true)).await;
            let about = about.map_err(|e| format!("info: {e}"))?;
            for taken in known {
                match about.snapshots.iter().find(|s| s.name == taken.name) {
                    Some(found) => {
                        let file = files.node(len, true);
                        let options = Options { read_only: true, ..Options::default() };
                        let disk = open_snapshot(&cx, file, files.backing(), options, found).await;
                        let disk = disk.map_err(|e| format!("snapshot: {e}"))?;
                        let wanted = taken.values;
                        let values = values(&cx, disk as _).await?;
                        if let Some(at) = (0..wanted.len()).find(|n| values[*n] != wanted[*n]) {
                            let (is, was) = (values[at], wanted[at]);
                            return Err(format!(
                                "snapshot {}: sector {at} is {is:?}, was {was:?}",
                                taken.name
                            ));
                        }
                    }
                    None if taken.state == State::There => {
                        return Err(format!("snapshot {} is missing", taken.name));
                    }
                    None => {}
                }
            }
            Ok(())
        })?
    }
}

/// What every sector of a disk at rest holds.
pub(super) async fn values(cx: &Cx, disk: Arc<dyn Node>) -> Result<Vec<Value>, String> {
    let values = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&values);
    check_disk(Cx::clone(cx), disk, move |range, bytes| {
        let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
        for (lba, sector) in (range.offset / SECTOR..).zip(bytes.chunks(SECTOR as usize)) {
            into.push(decode(lba, sector)?);
        }
        Ok(())
    })
    .await?;
    let values = values.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(values.clone())
}

async fn take(cx: Cx, image: Arc<Qcow2>, known: Known, name: String) -> Result<(), String> {
    let values = values(&cx, Arc::clone(&image) as _).await?;
    known.with(|all| all.push(Taken { name: name.clone(), state: State::Coming, values }));
    let new = NewSnapshot { name: name.clone(), ..NewSnapshot::default() };
    image.create_snapshot(&cx, new).await.map_err(|e| format!("create: {e}"))?;
    known.set(&name, State::There);
    Ok(())
}

async fn go_back(
    cx: Cx,
    image: Arc<Qcow2>,
    taken: Taken,
    sectors: SharedSectors,
) -> Result<(), String> {
    let changes: Vec<_> = {
        let mut sectors = lock(&sectors);
        (0..).zip(&taken.values).map(|(lba, value)| sectors.start_back(lba, *value)).collect()
    };
    image.apply_snapshot(&cx, &taken.name).await.map_err(|e| format!("apply: {e}"))?;
    changes.into_iter().for_each(|change| lock(&sectors).end(change, true));
    Ok(())
}

async fn remove(cx: Cx, image: Arc<Qcow2>, known: Known, name: String) -> Result<(), String> {
    known.set(&name, State::Going);
    image.delete_snapshot(&cx, &name).await.map_err(|e| format!("delete: {e}"))?;
    known.with(|all| all.retain(|t| t.name != name));
    Ok(())
}

/// Some requests, something with a snapshot, and again.
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
    for round in 0..5u64 {
        let history = History {
            seed: seed ^ (round << 48),
            tasks: 4,
            requests: 5,
            hot: 8,
            mix: Mix::default(),
            grow_to: None,
        };
        run(stage, &node, sectors, history)?;
        let start = lock(sectors).tick();
        let (disk, known) = (Arc::clone(&image), known.clone());
        let old = known.with(|all| {
            let n = all.len();
            (n > 0 && round > 0).then(|| all[rng.usize(0..n)].clone())
        });
        match (old, rng.u8(0..3)) {
            (Some(taken), 0) => {
                let sectors = Arc::clone(sectors);
                stage.run(move |cx| go_back(cx, disk, taken, sectors))??;
            }
            (Some(taken), 1) => stage.run(move |cx| remove(cx, disk, known, taken.name))??,
            _ => {
                let name = format!("s{round}");
                stage.run(move |cx| take(cx, disk, known, name))??;
            }
        }
        lock(sectors).flushed(start);
    }
    let start = lock(sectors).tick();
    drop(image);
    stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
    lock(sectors).flushed(start);
    Ok(())
}

/// Runs a session on a new image and cuts it. Returns the number of images that were checked.
pub(super) fn crash(shape: Shape, seed: u64, cuts: Cuts, oracle: u32) -> Result<u64, String> {
    let world = World::new(seed);
    let stage = Rc::new(Stage::sim(&world, 2).map_err(|e| e.to_string())?);
    let sectors = shape.sectors();
    let files = shape.create(&world, &stage)?;
    let known = Known::default();
    let recovery = Recovery::new(shape, seed).oracle(oracle).beside(Rc::new(known.clone()));
    let others = Rc::clone(&stage);
    mutation::interrupt_with(Some(Box::new(move || others.interrupt())));
    let body = || session(&world, &stage, &files, (&sectors, &known), seed);
    let result = cut(&world, &sectors, cuts, recovery, body);
    mutation::interrupt_with(None);
    result
}

fn survives(shape: Shape, every: u64) {
    let mut checked = 0;
    for seed in seeds([1, 2]) {
        let cuts = Cuts { seed, every, images: 1 };
        checked += crash(shape, seed, cuts, 60)
            .unwrap_or_else(|e| panic!("{shape:?}, seed {seed:#x}: {e}"));
    }
    println!("{checked} images");
    assert!(checked >= 100 || std::env::var_os("SPINDLE_SEED").is_some(), "{checked} images");
}

#[test]
fn of_version_3() {
    survives(Shape::new(12, 96 << 10), 1);
    survives(Shape { base: 40 << 10, ..Shape::new(9, 48 << 10) }, 1);
}

#[test]
fn of_version_2() {
    survives(Shape { version: 2, base: 64 << 10, ..Shape::new(12, 96 << 10) }, 1);
}

#[test]
fn with_lazy_refcounts() {
    survives(Shape { lazy: true, ..Shape::new(12, 96 << 10) }, 1);
}
