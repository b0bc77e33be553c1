//! What is asked of an image that a crash has left: by ourselves and, for a sample, by QEMU.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::Arc,
};

use super::{
    lock,
    shape::{BASE, DATA, DataFile, Files, IMAGE, Origin, SNAPSHOT, Shape, WORD},
};
use crate::{
    Cx, Io, IoBuf, Node, Range,
    conformance::{
        Stage, close_all,
        crash::{SharedSectors, Value, Verify, check_disk, encode},
    },
    qcow2::{
        check::{Repair, Report, check},
        mutation::Uninterrupted,
        read_header,
    },
    ring::sim::{CrashImage, World},
    submit::node_io,
};

/// See the module.
pub(super) struct Recovery {
    shape: Shape,
    rng: fastrand::Rng,
    /// QEMU looks at one image in so many; 0: at none.
    oracle: u32,
    /// While one in so many images is recovered, it is crashed again; 0: none.
    again: u32,
    /// Where QEMU finds its files.
    dir: Rc<tempfile::TempDir>,
    /// What must be in the image beside the disk.
    beside: Option<Rc<dyn Beside>>,
}

/// Something in an image beside its disk, that a crash must not harm either.
pub(super) trait Beside {
    /// Looks at a recovered image that is closed.
    fn check(&self, stage: &Stage, files: &Files, len: u64) -> Result<(), String>;
}

impl Recovery {
    pub fn new(shape: Shape, seed: u64) -> Self {
        let dir = Rc::new(tempfile::tempdir().expect("a directory"));
        let rng = fastrand::Rng::with_seed(seed);
        Self { shape, rng, oracle: 60, again: 12, dir, beside: None }
    }

    /// QEMU looks at one image in so many; 0: at none.
    pub fn oracle(self, oracle: u32) -> Self {
        Self { oracle, ..self }
    }

    /// What must be in the image beside the disk.
    pub fn beside(self, beside: Rc<dyn Beside>) -> Self {
        Self { beside: Some(beside), ..self }
    }

    /// Version 2 cannot say that a snapshot is being taken: flags may be wrong, as long as they
    /// mislead nobody.
    fn flags_may_be_wrong(&self) -> bool {
        self.beside.is_some() && self.shape.version == 2
    }

    fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.rng.u32(0..n) == 0
    }

    fn recover(&mut self, crash: &CrashImage, sectors: &SharedSectors) -> Result<(), String> {
        let world = World::new(self.rng.u64(..));
        let stage = Stage::sim(&world, 1).map_err(|e| e.to_string())?;
        let files = Files::crashed(self.shape, &world, crash)?;
        let len = world.contents(&files.image).len();
        let looked = files.node(len, true);
        let flags = self.flags_may_be_wrong();
        stage.run(move |cx| async move { look(&cx, &looked, false, flags).await })??;
        let failed = self.one_in(self.again).then(|| self.crash_again(&world, sectors));
        let opened = files.clone();
        let node = stage.run(move |cx| opened.open(cx, len))??;
        if let Some(failed) = failed {
            world.observe(|_, _| ());
            if let Some(error) = failed.borrow_mut().take() {
                return Err(format!("a crash while it was recovered: {error}"));
            }
        }
        let (disk, at_cut) = (Arc::clone(&node), Arc::clone(sectors));
        stage.run(move |cx| {
            check_disk(cx, disk, move |range, bytes| lock(&at_cut).check_crashed(range, bytes))
        })??;
        if self.one_in(4) {
            let (disk, seed) = (Arc::clone(&node), self.rng.u64(..));
            stage.run(move |cx| use_on(cx, disk, seed))??;
        }
        stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
        let len = world.contents(&files.image).len();
        let looked = files.node(len, true);
        stage.run(move |cx| async move { look(&cx, &looked, true, flags).await })??;
        match &self.beside {
            Some(beside) => beside.check(&stage, &files, len),
            None => Ok(()),
        }
    }

    /// Lets the recovery in `world` be cut too.
    fn crash_again(
        &mut self,
        world: &World,
        sectors: &SharedSectors,
    ) -> Rc<RefCell<Option<String>>> {
        let failed = Rc::new(RefCell::new(None));
        let (found, sectors) = (Rc::clone(&failed), Arc::clone(sectors));
        let mut rng = self.rng.fork();
        let mut inner = Self {
            shape: self.shape,
            rng: self.rng.fork(),
            oracle: 0,
            again: 0,
            dir: Rc::clone(&self.dir),
            beside: self.beside.clone(),
        };
        world.observe(move |world, _| {
            if found.borrow().is_none() {
                let crash = world.crash(&mut rng);
                *found.borrow_mut() = inner.verify(&crash, &sectors).err();
            }
        });
        failed
    }

    /// What QEMU's tools say of the image.
    fn ask_qemu(&self, crash: &CrashImage, sectors: &SharedSectors) -> Result<(), String> {
        let path = |name: &str| self.dir.path().join(name);
        for name in [IMAGE, BASE, DATA] {
            let bytes = crash.file(name).ok_or("a file is missing")?.to_vec();
            std::fs::write(path(name), bytes).map_err(|e| e.to_string())?;
        }
        let (image, raw) = (path(IMAGE), path("disk.raw"));
        if self.shape.lazy || self.beside.is_some() {
            // With the dirty bit refcounts may be anything, and are rebuilt.
            self.qemu_img(&[0, 2, 3], &["check", "-q", "-r", "all"], &image, None)?;
        }
        self.qemu_img(&[0, 3], &["check", "-q"], &image, None)?;
        self.qemu_img(&[0], &["convert", "-O", "raw"], &image, Some(&raw))?;
        let bytes = std::fs::read(&raw).map_err(|e| e.to_string())?;
        let range = Range::new(0, bytes.len() as u64);
        lock(sectors).check_crashed(range, &bytes)?;
        if self.shape.data == DataFile::Raw {
            // Closed or not, it is the disk.
            let bytes = std::fs::read(path(DATA)).map_err(|e| e.to_string())?;
            lock(sectors).check_crashed(range, &bytes)?;
        }
        if self.shape.origin == Origin::Snapshot { self.check_snapshot(&image) } else { Ok(()) }
    }

    /// Runs qemu-img on the image, with its passphrase where it has one.
    fn qemu_img(
        &self,
        allowed: &[i32],
        args: &[&str],
        image: &Path,
        target: Option<&PathBuf>,
    ) -> Result<(), String> {
        let mut opened = format!("driver=qcow2,file.filename={}", image.display());
        let object = format!("secret,id=s,data={WORD}");
        let mut args = args.to_vec();
        if self.shape.encrypted.is_some() {
            args.extend(["--object", &object]);
            opened += ",encrypt.key-secret=s";
        }
        args.push("--image-opts");
        let opened = PathBuf::from(opened);
        let paths: Vec<&PathBuf> = std::iter::once(&opened).chain(target).collect();
        qemu_img_in(self.dir.path(), allowed, &args, &paths)
    }

    /// The snapshot holds what it held when it was taken.
    fn check_snapshot(&self, image: &PathBuf) -> Result<(), String> {
        let raw = self.dir.path().join("snapshot.raw");
        let args = ["convert", "-f", "qcow2", "-l", SNAPSHOT, "-O", "raw"];
        qemu_img(&[0], &args, &[image, &raw])?;
        let bytes = std::fs::read(&raw).map_err(|e| e.to_string())?;
        for (lba, sector) in (0..).zip(bytes.chunks(512)) {
            if sector != encode(lba, Value::Written(0)) {
                return Err(format!("sector {lba} of the snapshot was changed"));
            }
        }
        Ok(())
    }
}

impl Verify for Recovery {
    fn verify(&mut self, crash: &CrashImage, sectors: &SharedSectors) -> Result<(), String> {
        // The world that was cut stands still meanwhile.
        let _quiet = Uninterrupted::start();
        self.recover(crash, sectors)?;
        if self.one_in(self.oracle) {
            self.ask_qemu(crash, sectors).map_err(|e| format!("QEMU: {e}"))?;
        }
        Ok(())
    }
}

pub(super) fn qemu_img(allowed: &[i32], args: &[&str], paths: &[&PathBuf]) -> Result<(), String> {
    let dir = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new("."));
    qemu_img_in(dir, allowed, args, paths)
}

/// The same, started in `dir`: there QEMU looks for a data file.
fn qemu_img_in(
    dir: &Path,
    allowed: &[i32],
    args: &[&str],
    paths: &[&PathBuf],
) -> Result<(), String> {
    let paths = paths.iter().map(|path| -> &Path { path });
    let output = Command::new("qemu-img").args(args).args(paths).current_dir(dir).output();
    let output = output.map_err(|e| format!("qemu-img (package qemu-utils): {e}"))?;
    if output.status.code().is_some_and(|code| allowed.contains(&code)) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("qemu-img {args:?} ends with {}: {text}{errors}", output.status))
}

/// Leaks at most, unless the image says itself that its refcounts may be wrong.
async fn look(cx: &Cx, file: &Arc<dyn Node>, closed: bool, flags: bool) -> Result<(), String> {
    let header = read_header(cx, file).await.map_err(|e| format!("header: {e}"))?;
    let report = check(cx, file, Repair::None).await.map_err(|e| format!("check: {e}"))?;
    let Report { mut corruptions, check_errors, messages, harmless_flags, .. } = report;
    if flags {
        corruptions -= harmless_flags;
    }
    let dirty = header.is_dirty() && !closed;
    if header.is_corrupt() || check_errors > 0 || (corruptions > 0 && !dirty) {
        let when = if closed { "closed after its recovery" } else { "crashed" };
        return Err(format!("{when}, dirty {}: {messages:?}", header.is_dirty()));
    }
    Ok(())
}

/// The recovered image goes on: much of the disk is written, and all of it is what it should be.
async fn use_on(cx: Cx, node: Arc<dyn Node>, seed: u64) -> Result<(), String> {
    const OTHERS: u64 = 1 << 60;
    let mut rng = fastrand::Rng::with_seed(seed);
    let info = node.info();
    let step = u64::from(info.preferred_write).clamp(4096, 64 << 10);
    let mut written = Vec::new();
    for from in (0..info.size).step_by(step as usize) {
        let range = Range::new(from, step.min(info.size - from));
        if !rng.bool() {
            continue;
        }
        let value = Value::Written(OTHERS | from);
        let first = range.offset / 512;
        let bytes: Vec<u8> =
            (first..first + range.len / 512).flat_map(|lba| encode(lba, value)).collect();
        let io = Io::write(from, IoBuf::from_slice(&bytes));
        node_io(&cx, &node, io).await.1.map_err(|e| format!("write after recovery: {e}"))?;
        written.push((range, bytes));
    }
    for (range, bytes) in written {
        let io = Io::read(range.offset, IoBuf::zeroed(range.len as usize));
        let (io, result) = node_io(&cx, &node, io).await;
        result.map_err(|e| format!("read after recovery: {e}"))?;
        if io.buf.to_vec() != bytes {
            return Err(format!("{range:?} was written after the recovery and reads otherwise"));
        }
    }
    Ok(())
}
