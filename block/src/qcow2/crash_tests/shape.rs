//! The images that are crashed, and the work that is done on them.

use std::sync::{Arc, Mutex};

use super::recovery::qemu_img;
use crate::{
    BlockError, Cx, IoBuf, Node,
    conformance::{
        Stage, close_all,
        crash::{History, Mix, SECTOR, Sectors, SharedSectors, Value, encode, run},
    },
    file::File,
    formats::Secret,
    luks::LuksOptions,
    nodes::file::FileNode,
    qcow2::{
        Encrypt, Files as Opened, Options, Qcow2,
        create::{CreateOptions, create},
        open_files,
    },
    ring::sim::{CrashImage, Image, World},
};

/// Names of the files in a world.
pub(super) const IMAGE: &str = "image.qcow2";
pub(super) const BASE: &str = "base.raw";
pub(super) const DATA: &str = "disk.data";

/// Where an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is new and empty.
    New,
    /// QEMU made it, with every sector written: compressed.
    Compressed,
    /// QEMU made it, with every sector written, and a snapshot that shares all clusters.
    Snapshot,
}

/// The passphrase of encrypted images.
pub(super) const WORD: &str = "correct horse";

/// The name of the snapshot.
pub(super) const SNAPSHOT: &str = "one";

/// Whether guest data is in a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataFile {
    /// No.
    None,
    /// Yes, to be read through the image.
    Mapped,
    /// Yes, and that file is the disk.
    Raw,
}

/// What an image is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub origin: Origin,
    pub cluster_bits: u32,
    pub version: u32,
    pub lazy: bool,
    /// Bytes of a backing file; 0 for none.
    pub base: u64,
    pub size: u64,
    /// Blocks of the file below in bytes.
    pub align: u32,
    /// The smallest cache of L2 entries.
    pub small_cache: bool,
    /// Clusters written before the first cut.
    pub prefill: u64,
    /// Free clusters at the end of the file that hold what was an L2 table once.
    pub stale: u64,
    /// The disk grows to this size (bytes) in the first history.
    pub grows_to: u64,
    /// Clusters are made of subclusters.
    pub extended: bool,
    /// Guest data is in a file of its own, which may be raw.
    pub data: DataFile,
    /// How the disk is encrypted, in QEMU's words.
    pub encrypted: Option<&'static str>,
}

impl Shape {
    pub const fn new(cluster_bits: u32, size: u64) -> Self {
        Self {
            origin: Origin::New,
            cluster_bits,
            version: 3,
            lazy: false,
            base: 0,
            size,
            align: 1,
            small_cache: false,
            prefill: 0,
            stale: 0,
            grows_to: size,
            extended: false,
            data: DataFile::None,
            encrypted: None,
        }
    }

    fn secret() -> Secret {
        Secret::new(WORD.as_bytes())
    }

    fn encrypt(&self) -> Option<Encrypt> {
        match self.encrypted? {
            "aes" => Some(Encrypt::Aes(Self::secret())),
            _ => {
                let options = LuksOptions::new(0, Self::secret());
                let alg = "aes-128".to_owned();
                Some(Encrypt::Luks(LuksOptions { cipher_alg: alg, iter_time_ms: 0, ..options }))
            }
        }
    }

    pub fn first_value(&self, lba: u64) -> Value {
        let at = lba * SECTOR;
        // What a disk gains is zeros, even where its backing file is longer than it was.
        let written = self.origin != Origin::New || at < self.base.min(self.size);
        if written { Value::Written(0) } else { Value::Zero }
    }

    pub fn sectors(&self) -> SharedSectors {
        let values = (0..self.grows_to / SECTOR).map(|lba| self.first_value(lba));
        Arc::new(Mutex::new(Sectors::new(values)))
    }

    fn data_len(&self) -> u64 {
        if self.data == DataFile::None { 0 } else { self.size }
    }

    fn options(&self) -> CreateOptions {
        CreateOptions {
            cluster_size: 1 << self.cluster_bits,
            version: self.version,
            lazy_refcounts: self.lazy,
            extended_l2: self.extended,
            data_file: (self.data != DataFile::None).then(|| DATA.to_owned()),
            data_file_raw: self.data == DataFile::Raw,
            backing: (self.base > 0).then(|| (BASE.to_owned(), "raw".to_owned())),
            encrypt: self.encrypt(),
            ..CreateOptions::new(self.size)
        }
    }

    /// Makes the image and its backing file.
    pub fn create(&self, world: &World, stage: &Stage) -> Result<Files, String> {
        let base: Vec<u8> =
            (0..self.base / SECTOR).flat_map(|lba| encode(lba, Value::Written(0))).collect();
        let base = Image::from(&*base);
        let image = if self.origin == Origin::New { Image::default() } else { self.by_qemu()? };
        let files = Files {
            image: world.create(IMAGE, image),
            base: world.create(BASE, base),
            data: world.create(DATA, Image::from(&*vec![0; self.data_len() as usize])),
            shape: *self,
        };
        if self.origin != Origin::New {
            return Ok(files);
        }
        let (file, options) = (Arc::clone(&files.image), self.options());
        let (align, stale) = (self.align, self.stale_tables());
        stage.run(move |cx| async move {
            let node: Arc<dyn Node> = FileNode::over(file, 0, align, false);
            create(&cx, &node, &options).await.map_err(|e| format!("create: {e}"))?;
            append(&cx, &node, &stale).await.map_err(|e| format!("stale clusters: {e}"))?;
            crate::submit::flush(&cx, &node).await.map_err(|e| format!("create: {e}"))
        })??;
        Ok(files)
    }
}

/// Makes a file longer by `bytes`.
async fn append(cx: &Cx, node: &Arc<dyn Node>, bytes: &[u8]) -> Result<(), BlockError> {
    let end = node.info().size;
    if bytes.is_empty() {
        return Ok(());
    }
    Arc::clone(node).resize(Cx::clone(cx), end + bytes.len() as u64).await?;
    crate::submit::write(cx, node, end, IoBuf::from_slice(bytes)).await
}

impl Shape {
    /// Entries that claim the first clusters of the file, be they tables or data.
    fn stale_tables(&self) -> Vec<u8> {
        let entry = |n: u64| ((1 << 63) | ((n % 16) << self.cluster_bits)).to_be_bytes();
        (0..(self.stale << self.cluster_bits) / 8).flat_map(entry).collect()
    }

    fn by_qemu(&self) -> Result<Image, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (raw, image) = (dir.path().join("raw"), dir.path().join(IMAGE));
        let bytes: Vec<u8> =
            (0..self.size / SECTOR).flat_map(|lba| encode(lba, Value::Written(0))).collect();
        std::fs::write(&raw, bytes).map_err(|e| e.to_string())?;
        let compat = if self.version == 2 { "0.10" } else { "1.1" };
        let lazy = if self.lazy { ",lazy_refcounts=on" } else { "" };
        let options = format!("cluster_size={},compat={compat}{lazy}", 1u64 << self.cluster_bits);
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &*options];
        if self.origin == Origin::Compressed {
            args.push("-c");
        }
        qemu_img(&[0], &args, &[&raw, &image])?;
        if self.origin == Origin::Snapshot {
            qemu_img(&[0], &["snapshot", "-c", SNAPSHOT], &[&image])?;
        }
        let bytes = std::fs::read(&image).map_err(|e| e.to_string())?;
        Ok(Image::from(&*bytes))
    }
}

/// The files of an image, in one world.
#[derive(Clone)]
pub(super) struct Files {
    pub image: Arc<File>,
    base: Arc<File>,
    data: Arc<File>,
    shape: Shape,
}

impl Files {
    /// The files that a crash has left, in a world of their own.
    pub fn crashed(shape: Shape, world: &World, crash: &CrashImage) -> Result<Self, String> {
        let file = |name: &str| {
            let image = crash.file(name).ok_or_else(|| format!("no file {name}"))?;
            Ok::<_, String>(world.create(name, image.clone()))
        };
        Ok(Self { image: file(IMAGE)?, base: file(BASE)?, data: file(DATA)?, shape })
    }

    /// The image file as a node; `len` is its present length in bytes.
    pub fn node(&self, len: u64, read_only: bool) -> Arc<dyn Node> {
        FileNode::over(Arc::clone(&self.image), len, self.shape.align, read_only)
    }

    /// Opens the image for writing.
    pub async fn open(self, cx: Cx, len: u64) -> Result<Arc<dyn Node>, String> {
        Ok(self.open_image(cx, len).await? as _)
    }

    /// The backing file, where there is one.
    pub fn backing(&self) -> Option<Arc<dyn Node>> {
        let Shape { base, align, .. } = self.shape;
        (base > 0).then(|| FileNode::over(Arc::clone(&self.base), base, align, true) as _)
    }

    /// The same, as what it is.
    pub async fn open_image(self, cx: Cx, len: u64) -> Result<Arc<Qcow2>, String> {
        let shape = self.shape;
        let cache_bytes = shape.small_cache.then_some(0);
        let secret = shape.encrypted.map(|_| Shape::secret());
        let options = Options { cache_bytes, secret, ..Options::default() };
        let data = (shape.data != DataFile::None)
            .then(|| FileNode::over(Arc::clone(&self.data), shape.size, shape.align, false) as _);
        let opened = Opened { file: self.node(len, false), backing: self.backing(), data };
        let node = open_files(&cx, opened, options).await;
        node.map_err(|e| format!("open: {e}"))
    }
}

/// The work that is cut: a history on a new image, and one on the image opened again.
pub(super) struct Sessions {
    pub seed: u64,
    pub iothreads: usize,
    pub tasks: usize,
    pub requests: u32,
    pub mix: Mix,
    pub hot: u64,
}

impl Sessions {
    pub fn new(seed: u64) -> Self {
        Self { seed, iothreads: 3, tasks: 6, requests: 12, mix: Mix::default(), hot: 6 }
    }

    /// Runs both, the first to its close.
    pub fn run(
        &self,
        world: &World,
        stage: &Stage,
        files: &Files,
        sectors: &SharedSectors,
    ) -> Result<(), String> {
        let Shape { size, grows_to, .. } = files.shape;
        for session in 0..2u64 {
            let len = world.contents(&files.image).len();
            let opened = files.clone();
            let node = stage.run(move |cx| opened.open(cx, len))??;
            let history = History {
                seed: self.seed ^ (session << 56),
                tasks: self.tasks,
                requests: self.requests,
                hot: self.hot,
                mix: self.mix,
                grow_to: (session == 0 && grows_to > size).then_some(grows_to),
            };
            run(stage, &node, sectors, history)?;
            if session == 0 {
                let start = super::lock(sectors).tick();
                stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
                super::lock(sectors).flushed(start);
            }
        }
        Ok(())
    }

    /// Writes the first `clusters` clusters, one request each, and closes the image.
    pub fn prefill(
        stage: &Stage,
        files: &Files,
        sectors: &SharedSectors,
        len: u64,
    ) -> Result<(), String> {
        let (files, sectors) = (files.clone(), Arc::clone(sectors));
        stage.run(move |cx| async move {
            let shape = files.shape;
            let node = files.open(Cx::clone(&cx), len).await?;
            for cluster in 0..shape.prefill {
                let bytes = 1 << shape.cluster_bits;
                let range = crate::Range::new(cluster * bytes, bytes);
                let change = super::lock(&sectors).start(range, true, false);
                let value = Value::Written(change.request);
                let first = range.offset / SECTOR;
                let data: Vec<u8> =
                    (first..first + bytes / SECTOR).flat_map(|lba| encode(lba, value)).collect();
                let buf = crate::IoBuf::from_slice(&data);
                let written = crate::submit::write(&cx, &node, range.offset, buf).await;
                written.map_err(|e| format!("prefill: {e}"))?;
                super::lock(&sectors).end(change, false);
            }
            let start = super::lock(&sectors).tick();
            close_all(cx, node).await.map_err(|e| format!("close: {e}"))?;
            super::lock(&sectors).flushed(start);
            Ok(())
        })?
    }
}
