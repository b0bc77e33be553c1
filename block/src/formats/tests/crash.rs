//! Images in a crash: what the last completed flush or FUA write made durable is there, and every
//! later sector is old or new; the tables are sound. And each rule switched off is noticed.

use std::{rc::Rc, sync::Mutex};

use super::*;
use crate::{
    conformance::{
        Stage, close_all,
        crash::{
            Cuts, History, Mix, Sectors, SharedSectors, Value, Verify, check_disk, cut, encode,
            lock, run,
        },
        seeds,
    },
    file::File,
    formats::{Alone, check},
    mapped::mutation::{Rule, without},
    ring::sim::{CrashImage, World},
};

const IMAGE: &str = "image";
const SIZE: u64 = 2 << 20;

/// The files of an image in one world.
#[derive(Clone)]
struct Files {
    image: Arc<File>,
    /// What is below, where there is something: raw bytes, each sector written.
    base: Option<Arc<File>>,
}

fn base() -> Vec<u8> {
    (0..SIZE / 512).flat_map(|lba| encode(lba, Value::Written(0))).collect()
}

async fn open_file(
    cx: &Cx,
    format: ImageFormat,
    files: &Files,
    len: u64,
) -> Result<Arc<dyn Node>, String> {
    let node: Arc<dyn Node> = FileNode::over(Arc::clone(&files.image), len, 1, false);
    let mut request = Request::read(node, &Alone);
    request.backing = files
        .base
        .as_ref()
        .map(|base| -> Arc<dyn Node> { FileNode::over(Arc::clone(base), SIZE, 1, true) });
    request.read_only = false;
    open(cx, format, request).await.map_err(|e| format!("open: {}", crate::error::with_causes(&e)))
}

/// What is asked of an image that a crash has left.
struct Recovery {
    case: Case,
    rng: fastrand::Rng,
    oracle: u32,
    above: bool,
    dir: Rc<tempfile::TempDir>,
}

impl Recovery {
    fn ask_qemu(&self, bytes: &[u8], sectors: &SharedSectors) -> Result<(), String> {
        let (image, raw) = (self.dir.path().join("image"), self.dir.path().join("raw"));
        std::fs::write(&image, bytes).map_err(|e| e.to_string())?;
        let name = self.case.format.name();
        let ask = |args: &[&str]| {
            let output = Command::new("qemu-img").args(args).output().map_err(|e| e.to_string())?;
            let code = output.status.code();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Leaks, and what was repaired, are no harm.
            if matches!(code, Some(0 | 3)) { Ok(()) } else { Err(format!("{args:?}: {said}")) }
        };
        // A VHDX log is replayed, a Parallels image is marked as closed.
        if matches!(self.case.format, ImageFormat::Vhdx | ImageFormat::Parallels) {
            ask(&["check", "-q", "-r", "all", "-f", name, text(&image)])?;
        }
        ask(&["convert", "-f", name, "-O", "raw", text(&image), text(&raw)])?;
        let bytes = std::fs::read(&raw).map_err(|e| e.to_string())?;
        lock(sectors).check_crashed(crate::Range::new(0, SIZE), &bytes)
    }
}

impl Verify for Recovery {
    fn verify(&mut self, crash: &CrashImage, sectors: &SharedSectors) -> Result<(), String> {
        let image = crash.file(IMAGE).ok_or("no image")?.clone();
        if self.oracle > 0 && self.rng.u32(0..self.oracle) == 0 {
            self.ask_qemu(&image.to_vec(), sectors).map_err(|e| format!("QEMU: {e}"))?;
        }
        let world = World::new(self.rng.u64(..));
        let stage = Stage::sim(&world, 1).map_err(|e| e.to_string())?;
        let len = image.len();
        let base = self.above.then(|| world.create_file("base", &base(), SIZE));
        let files = Files { image: world.create(IMAGE, image), base };
        let file = Arc::clone(&files.image);
        let (format, at_cut) = (self.case.format, Arc::clone(sectors));
        let opened = files.clone();
        stage.run(move |cx| async move {
            let node = open_file(&cx, format, &opened, len).await?;
            check_disk(Cx::clone(&cx), Arc::clone(&node), move |range, bytes| {
                lock(&at_cut).check_crashed(range, bytes)
            })
            .await?;
            // It goes on: nothing that is used again may be somebody's.
            let bytes = vec![0x5a; 96 << 10];
            crate::nodes::testing::write(&cx, &node, SIZE - (96 << 10), &bytes)
                .await
                .map_err(|e| format!("write after recovery: {e}"))?;
            close_all(cx, node).await.map_err(|e| format!("close: {e}"))
        })??;
        let len = world.contents(&file).len();
        let node: Arc<dyn Node> = FileNode::over(file, len, 1, true);
        let report = stage.run(move |cx| async move { check(&cx, format, &node, &Alone).await })?;
        match report {
            Ok(report) if report.corruptions > 0 => Err(format!("{:?}", report.messages)),
            Ok(_) | Err(FormatError::NoCheck) => Ok(()),
            Err(error) => Err(format!("check: {error}")),
        }
    }
}

fn crash(case: &Case, above: bool, seed: u64, every: u64, oracle: u32) -> Result<u64, String> {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 3).map_err(|e| e.to_string())?;
    let file = world.create_file(IMAGE, &[], 0);
    let base = above.then(|| world.create_file("base", &base(), SIZE));
    let files = Files { image: Arc::clone(&file), base };
    let (mut made, node) = (case.clone(), Arc::clone(&file));
    match &mut made.made {
        _ if !above => {}
        Made::Plain(options) => {
            let format = if case.format == ImageFormat::Qed { "raw" } else { case.format.name() };
            options.backing = Some(("base".to_owned(), format.to_owned()));
        }
        Made::Vmdk(options) => options.backing = Some(("base".to_owned(), [0; 16])),
    }
    stage.run(move |cx| async move {
        let node: Arc<dyn Node> = FileNode::over(node, 0, 1, false);
        made.make(&cx, &node, "image.vmdk", &NoFiles).await.expect("made");
        close_all(cx, node).await.expect("close");
    })?;
    let first = if above { Value::Written(0) } else { Value::Zero };
    let sectors = Arc::new(Mutex::new(Sectors::new((0..SIZE / 512).map(|_| first))));
    let dir = Rc::new(directory());
    let rng = fastrand::Rng::with_seed(seed);
    let recovery = Recovery { case: case.clone(), rng, oracle, above, dir };
    let format = case.format;
    let body = || {
        for session in 0..2_u64 {
            let (opened, len) = (files.clone(), world.contents(&file).len());
            let node = stage
                .run(move |cx| async move { open_file(&cx, format, &opened, len).await })??;
            let history = History {
                seed: seed ^ session << 56,
                tasks: 4,
                requests: 9,
                hot: 8,
                mix: Mix::default(),
                grow_to: None,
            };
            run(&stage, &node, &sectors, history)?;
            if session == 0 {
                let start = lock(&sectors).tick();
                stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
                lock(&sectors).flushed(start);
            }
        }
        Ok(())
    };
    cut(&world, &sectors, Cuts { seed, every, images: 1 }, recovery, body)
}

fn case(name: &str) -> Case {
    cases(SIZE).into_iter().find(|case| case.name == name).expect("a case")
}

#[test]
fn images_survive_every_cut() {
    for seed in seeds([1]) {
        for name in ["vmdk", "vmdk-zero", "vhdx-1m", "qed", "qed-4k", "vdi", "vpc", "parallels-64k"]
        {
            for above in [false, true] {
                if above && !case(name).format.has_backing() {
                    continue;
                }
                let oracle = if above { 0 } else { 40 };
                let checked = crash(&case(name), above, seed, 6, oracle);
                let checked = checked.unwrap_or_else(|e| panic!("{name}, seed {seed:#x}: {e}"));
                let replay = std::env::var_os("SPINDLE_SEED").is_some();
                assert!(checked > 10 || replay, "{name}: {checked}");
            }
        }
    }
}

#[test]
fn a_rule_that_is_missing_is_noticed() {
    for name in ["vmdk", "vhdx-1m"] {
        for rule in [Rule::DataBeforeMapping, Rule::SyncBeforeTable, Rule::FlushSyncs] {
            let noticed = (0..20).find(|seed| {
                let _off = without(rule);
                crash(&case(name), true, *seed, 3, 0).is_err()
            });
            assert!(noticed.is_some(), "{name} without {rule:?} was not noticed");
        }
    }
}
