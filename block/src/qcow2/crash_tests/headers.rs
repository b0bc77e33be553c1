//! Headers that are replaced, in a crash: an image is what it was or what it becomes.

use std::sync::{Arc, Mutex};

use super::Cuts;
use crate::{
    Cx, Node,
    conformance::{
        Stage,
        crash::{Sectors, SharedSectors, Verify, cut},
        seeds,
    },
    nodes::{
        file::FileNode,
        testing::{close, read, write},
    },
    qcow2::{
        Amend, Options, amend,
        check::{Repair, check},
        create::{CreateOptions, create},
        open, read_header, set_backing,
    },
    ring::sim::{CrashImage, World},
};

const SIZE: u64 = 256 << 10;

/// A backing file: name and format.
type Backing = Option<(String, String)>;

/// What a header may say at a cut.
#[derive(Clone, Debug, Default)]
struct Allowed {
    backing: Vec<Backing>,
    /// Version, lazy refcounts, log2 of the refcount width.
    kind: Vec<(u32, bool, u32)>,
}

/// Looks with what is allowed at the moment of the cut.
struct Look(Arc<Mutex<Allowed>>);

impl Verify for Look {
    fn verify(&mut self, crash: &CrashImage, _: &SharedSectors) -> Result<(), String> {
        let world = World::new(1);
        let stage = Stage::sim(&world, 1).map_err(|e| e.to_string())?;
        let image = crash.file("image").ok_or("no image")?.clone();
        let len = image.len();
        let file = FileNode::over(world.create("image", image), len, 1, false);
        let allowed = self.0.lock().expect("no panic before").clone();
        stage.run(move |cx| async move { look(&cx, file as _, &allowed).await })?
    }
}

async fn look(cx: &Cx, file: Arc<dyn Node>, allowed: &Allowed) -> Result<(), String> {
    let header = read_header(cx, &file).await.map_err(|e| format!("header: {e}"))?;
    let format = header.backing_format().unwrap_or_default();
    let backing = header.backing_file.clone().map(|name| (name, format));
    if !allowed.backing.contains(&backing) {
        return Err(format!("it names {backing:?}, of {:?}", allowed.backing));
    }
    let kind = (header.version, header.lazy_refcounts(), header.refcount_order);
    if !allowed.kind.contains(&kind) {
        return Err(format!("it is {kind:?}, of {:?}", allowed.kind));
    }
    let found = check(cx, &file, Repair::None).await.map_err(|e| format!("check: {e}"))?;
    if found.corruptions + found.check_errors > 0 {
        return Err(format!("{:?}", found.messages));
    }
    let disk = open(cx, file, None, Options::default()).await.map_err(|e| format!("open: {e}"))?;
    let disk: Arc<dyn Node> = disk;
    let bytes = read(cx, &disk, 64 << 10, 64 << 10).await.map_err(|e| format!("read: {e}"))?;
    close(cx, &disk).await;
    if bytes.iter().any(|b| *b != 7) { Err("its data is gone".to_owned()) } else { Ok(()) }
}

fn backings() -> [Backing; 6] {
    let named = |name: String, format: &str| Some((name, format.to_owned()));
    [
        named("base".to_owned(), "raw"),
        named("n".repeat(900), "qcow2"),
        named("m".repeat(1000), "raw"),
        None,
        named("a/longer/name".repeat(20), "qcow2"),
        named("x".to_owned(), "raw"),
    ]
}

async fn work(cx: Cx, file: Arc<dyn Node>, allowed: Arc<Mutex<Allowed>>) -> Result<(), String> {
    let set = |change: &dyn Fn(&mut Allowed)| {
        change(&mut allowed.lock().expect("no panic before"));
    };
    for backing in backings() {
        set(&|a| a.backing.push(backing.clone()));
        let names = backing.as_ref().map(|(name, format)| (&**name, &**format));
        set_backing(&cx, &file, names).await.map_err(|e| format!("backing: {e}"))?;
        set(&|a| a.backing = vec![backing.clone()]);
    }
    let kinds = [
        ((3, true, 4), Amend { lazy_refcounts: Some(true), ..Amend::default() }),
        ((3, true, 6), Amend { refcount_bits: Some(64), ..Amend::default() }),
        ((3, true, 0), Amend { refcount_bits: Some(1), ..Amend::default() }),
        ((3, false, 0), Amend { lazy_refcounts: Some(false), ..Amend::default() }),
        ((3, false, 4), Amend { refcount_bits: Some(16), ..Amend::default() }),
        ((2, false, 4), Amend { version: Some(2), ..Amend::default() }),
        ((3, false, 4), Amend { version: Some(3), ..Amend::default() }),
    ];
    for (kind, wanted) in kinds {
        set(&|a| a.kind.push(kind));
        amend(&cx, &file, &wanted).await.map_err(|e| format!("{wanted:?}: {e}"))?;
        set(&|a| a.kind = vec![kind]);
    }
    Ok(())
}

/// Replaces the header of an image again and again, cut at every event.
pub(super) fn crash(seed: u64) -> Result<u64, String> {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 1).map_err(|e| e.to_string())?;
    let file: Arc<dyn Node> = FileNode::over(world.create_file("image", &[], 0), 0, 1, false);
    let made = Arc::clone(&file);
    stage.run(move |cx| async move {
        let options = CreateOptions { cluster_size: 4096, ..CreateOptions::new(SIZE) };
        create(&cx, &made, &options).await.expect("create");
        let disk = open(&cx, made, None, Options::default()).await.expect("open");
        let disk: Arc<dyn Node> = disk;
        write(&cx, &disk, 64 << 10, &[7; 64 << 10]).await.expect("write");
        close(&cx, &disk).await;
    })?;
    let start = Allowed { backing: vec![None], kind: vec![(3, false, 4)] };
    let allowed = Arc::new(Mutex::new(start));
    let sectors = Arc::new(Mutex::new(Sectors::new([])));
    let verify = Look(Arc::clone(&allowed));
    let cuts = Cuts { seed, every: 1, images: 2 };
    cut(&world, &sectors, cuts, verify, || stage.run(move |cx| work(cx, file, allowed))?)
}

#[test]
fn an_image_is_what_it_was_or_what_it_becomes() {
    for seed in seeds([1, 2, 3]) {
        let checked = crash(seed).unwrap_or_else(|e| panic!("seed {seed:#x}: {e}"));
        println!("{checked} images");
        assert!(checked > 60 || std::env::var_os("SPINDLE_SEED").is_some(), "{checked} images");
    }
}
