//! Images with their backing chains, open.
use super::ImgError;
use super::files::{backing_path, format_of};
use super::formats;
use super::source::{self, Backing, Bottom, Place, Top};
use crate::spec::format::Format;
use spindle_block::formats::{ImageFormat, Request, Secret};
use spindle_block::lock::{CONSISTENT_READ, LockError, RESIZE, WRITE};
use spindle_block::nodes::fault::FaultNode;
use spindle_block::nodes::file::{FileError, FileNode, FileOptions, Reason};
use spindle_block::qcow2::{self, HeaderError, OpenError, Qcow2};
use spindle_block::root::Policy;
use spindle_block::{BlockError, Cx, Node};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest backing chain that is opened.
const CHAIN_MAX: usize = 200;

/// `-t` and `-T`: how the host's page cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// It is bypassed.
    pub direct: bool,
    /// Every write is durable before it counts as done.
    pub write_through: bool,
    /// Nothing is made durable.
    pub no_flush: bool,
}

impl Cache {
    /// Nothing is made durable: for images that are worth nothing before they are complete.
    pub const UNSAFE: Self = Self { direct: false, write_through: false, no_flush: true };

    /// The mode of this name (QEMU, bdrv_parse_cache_mode).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (direct, write_through, no_flush) = match name {
            "none" | "off" => (true, false, false),
            "directsync" => (true, true, false),
            "writeback" => (false, false, false),
            "unsafe" => (false, false, true),
            "writethrough" => (false, true, false),
            _ => return None,
        };
        Some(Self { direct, write_through, no_flush })
    }
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Its format; `None`: what it begins like.
    pub format: Option<Format>,
    /// It is written to.
    pub writable: bool,
    /// Even while somebody else writes to it.
    pub force_share: bool,
    /// The page cache.
    pub cache: Cache,
}

impl OpenMode {
    /// To be read.
    #[must_use]
    pub fn read(format: Option<Format>, force_share: bool) -> Self {
        Self { format, force_share, ..Self::default() }
    }

    /// To be written to.
    #[must_use]
    pub fn write(format: Option<Format>) -> Self {
        Self { format, writable: true, ..Self::default() }
    }
}

/// An open image, on its backing chain.
pub struct Image {
    /// Its file's name.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// What holds its bytes: a file, or a filter or window over one.
    pub file: Arc<dyn Node>,
    /// The host's file at the bottom, where there is one.
    pub host: Option<Arc<FileNode>>,
    /// The filter `blkdebug` between them.
    pub fault: Option<Arc<FaultNode>>,
    /// What has to be closed after the image, parents first.
    pub(super) below: Vec<Arc<dyn Node>>,
    /// What its options ask of requests.
    pub policy: Policy,
    /// It is written to.
    pub writable: bool,
    /// Its format was guessed from what it begins like.
    pub probed: bool,
    /// The file that guest data is in, where that is another one.
    pub data: Option<PathBuf>,
    /// Its disk.
    pub node: Arc<dyn Node>,
    /// The same, where it is qcow2.
    pub qcow2: Option<Arc<Qcow2>>,
    /// What is below.
    pub backing: Option<Box<Image>>,
    /// Space may be mapped that was never written (`preallocation=metadata`).
    pub(super) preallocated: bool,
    /// Its passphrase, where it is encrypted.
    pub(super) secret: Option<Secret>,
}

/// Where a chain is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nowhere.
    None,
    /// Above the first backing file.
    First,
    /// Above the backing file of this name.
    Named(PathBuf),
}

/// An image of a chain that is being opened.
struct Level {
    top: Top,
    format: Format,
    probed: bool,
    /// What the image above calls it by.
    id: Option<[u8; 16]>,
    data: Option<(PathBuf, Bottom)>,
}

impl Image {
    /// Opens an image and everything below it.
    ///
    /// # Errors
    ///
    /// One sentence in qemu-img's words. Nothing stays open then.
    pub async fn open(cx: &Cx, path: &Path, mode: OpenMode) -> Result<Self, ImgError> {
        Ok(Self::open_above(cx, path, mode, &Base::None).await?.0)
    }

    /// Opens an image and what is below it as far as `base`, which is not opened. Returns where that
    /// is and its format, where it was found; what it has then reads as zeros.
    ///
    /// # Errors
    ///
    /// As for [`Image::open`].
    pub async fn open_above(
        cx: &Cx,
        path: &Path,
        mode: OpenMode,
        base: &Base,
    ) -> Result<(Self, Option<(PathBuf, Option<Format>)>), ImgError> {
        let mut found = None;
        let mut levels: Vec<Level> = Vec::new();
        let mut seen = HashSet::new();
        let given = source::place(path).map_err(|detail| cannot_open(path, 0, &detail))?;
        let mut next = Some((given, mode));
        while let Some((place, level_mode)) = next.take() {
            let wrap = |detail: String| cannot_open(path, levels.len(), &detail);
            let (mut top, format) = open_place(cx, place, level_mode, &wrap).await?;
            let mut data = top.data.take();
            let identity = top.bottom.host.as_ref().and_then(|file| file.identity());
            if levels.len() >= CHAIN_MAX || !identity.is_none_or(|id| seen.insert(id)) {
                return Err(wrap("the backing chain is endless".to_owned()));
            }
            let probed = top.format.is_none();
            let mut id = None;
            let named = match format {
                // What is in it cannot be told before it is unlocked.
                Format::Raw | Format::Image(ImageFormat::Luks) => None,
                Format::Qcow2 => {
                    let header = qcow2::read_header(cx, &top.bottom.node).await;
                    let header = header.map_err(|e| wrap(open_detail(&e)))?;
                    if data.is_none() {
                        data = open_data_file(&top.path, &header, top.mode).map_err(&wrap)?;
                    }
                    let format = header.backing_format();
                    header.backing_file.map(|name| (name, format))
                }
                Format::Image(format) => {
                    let options = file_options(&top.path, OpenMode { writable: false, ..top.mode });
                    let facts =
                        formats::facts(cx, format, &top.path, &top.bottom.node, &options).await;
                    let facts = facts.map_err(&wrap)?;
                    id = facts.id;
                    facts.backing.map(|named| (named.file, named.format.map(str::to_owned)))
                }
            };
            let below_mode = OpenMode { format: None, writable: false, ..mode };
            match (&top.backing, named) {
                (Backing::None, _) | (Backing::FromHeader | Backing::Named(_), None) => {}
                (Backing::Tree(options), _) => {
                    next = Some((Place::Tree(options.clone()), below_mode));
                }
                (below_options, Some((name, format))) => {
                    let below = backing_path(&top.path, &name)?;
                    let format = named_format(format.as_deref()).map_err(&wrap)?;
                    let below_mode = OpenMode { format, ..below_mode };
                    let is_base = match base {
                        Base::None => false,
                        Base::First => true,
                        Base::Named(wanted) => Path::new(&name) == wanted || below == *wanted,
                    };
                    if is_base {
                        found = Some((below, format));
                    } else if let Backing::Named(options) = below_options {
                        let tree = source::named_tree(&below, format, options.clone());
                        next = Some((Place::Tree(tree), OpenMode { format: None, ..below_mode }));
                    } else {
                        next = Some((Place::File(below), below_mode));
                    }
                }
            }
            levels.push(Level { top, format, probed, id, data });
        }
        Ok((assemble(cx, path, levels).await?, found))
    }

    /// The images of the chain, this one first.
    #[must_use]
    pub fn layers(&self) -> Vec<&Self> {
        let mut layers = vec![self];
        let mut at = self;
        while let Some(below) = &at.backing {
            layers.push(below);
            at = below;
        }
        layers
    }

    /// The size of the disk, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.node.info().size
    }

    /// A temporary overlay (`-s`): what is written goes there, and is gone when it is closed.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub(crate) async fn with_scratch(self, cx: &Cx) -> Result<Self, ImgError> {
        let dir = std::env::var_os("TMPDIR").map_or("/var/tmp".into(), PathBuf::from);
        let path = dir.join(format!("vl.{}", uuid::Uuid::new_v4().simple()));
        let file = FileNode::create(&FileOptions { no_flush: true, ..FileOptions::new(&path) }, 0);
        let file = file.map_err(|error| {
            ImgError::said(format!("Could not create temporary overlay: {}", file_detail(&error)))
        })?;
        // Nobody else needs its name.
        let _ = std::fs::remove_file(&path);
        let bottom = Bottom::of_file(file);
        let options = qcow2::create::CreateOptions::new(self.size());
        qcow2::create::create(cx, &bottom.node, &options)
            .await
            .map_err(|source| ImgError::Create { path: path.clone(), source })?;
        let (file, backing) = (Arc::clone(&bottom.node), Arc::clone(&self.node));
        let opened = qcow2::open(cx, file, Some(backing), qcow2::Options::default()).await;
        let opened = opened.map_err(|source| ImgError::Open { path, source })?;
        Ok(Self {
            path: self.path.clone(),
            format: Format::Qcow2,
            file: bottom.node,
            host: bottom.host,
            fault: self.fault.clone(),
            below: bottom.below,
            policy: Policy { read_only: false, ..self.policy },
            writable: true,
            probed: false,
            data: None,
            node: Arc::clone(&opened) as _,
            qcow2: Some(opened),
            backing: Some(Box::new(self)),
            preallocated: false,
            secret: None,
        })
    }

    /// Closes the image and everything below it: what was written is in the file.
    ///
    /// # Errors
    ///
    /// The first; everything is closed all the same.
    pub async fn close(self, cx: &Cx) -> Result<(), BlockError> {
        let mut result = Ok(());
        let mut next = Some(Box::new(self));
        while let Some(image) = next {
            if image.format != Format::Raw {
                result = result.and(Arc::clone(&image.node).close(Cx::clone(cx)).await);
            }
            for node in &image.below {
                result = result.and(Arc::clone(node).close(Cx::clone(cx)).await);
            }
            next = image.backing;
        }
        result
    }
}

/// Opens what holds the bytes of the image `path`, and finds its format.
///
/// # Errors
///
/// As for [`Image::open`].
pub(super) async fn open_bytes(
    cx: &Cx,
    path: &Path,
    mode: OpenMode,
) -> Result<(Top, Format), ImgError> {
    let wrap = |detail: String| cannot_open(path, 0, &detail);
    let place = source::place(path).map_err(wrap)?;
    open_place(cx, place, mode, &wrap).await
}

async fn open_place(
    cx: &Cx,
    place: Place,
    mode: OpenMode,
    wrap: &impl Fn(String) -> ImgError,
) -> Result<(Top, Format), ImgError> {
    let top = match place {
        Place::File(path) => open_path(path, mode).map_err(wrap)?,
        Place::Tree(options) => source::open(options, mode).map_err(wrap)?,
    };
    let format = match (&top.bottom.host, top.format) {
        (_, Some(format)) => format,
        (Some(_), None) if top.bottom.below.len() == 1 => format_of(&top.path, None)?,
        (_, None) => source::probe(cx, &top.bottom.node).await.map_err(wrap)?,
    };
    Ok((top, format))
}

/// Opens the file that a header names for guest data, if it does.
///
/// # Errors
///
/// QEMU's sentence about a file that cannot be opened.
pub(super) fn open_data_file(
    image: &Path,
    header: &qcow2::Header,
    mode: OpenMode,
) -> Result<Option<(PathBuf, Bottom)>, String> {
    let Some(name) = header.data_file() else { return Ok(None) };
    let path = qcow2::data_path(Some(image), &name)
        .ok_or_else(|| format!("Could not open '{name}': the name of a data file is a file's"))?;
    let file = open_file(&path, mode).map_err(|e| file_detail(&e))?;
    Ok(Some((path, Bottom::of_file(file))))
}

/// Opens a file that was given by its name alone.
fn open_path(path: PathBuf, mode: OpenMode) -> Result<Top, String> {
    let file = open_file(&path, mode).map_err(|e| file_detail(&e))?;
    Ok(Top::new(path, Bottom::of_file(file), mode))
}

pub(super) fn open_file(path: &Path, mode: OpenMode) -> Result<Arc<FileNode>, FileError> {
    FileNode::open(&file_options(path, mode))
}

pub(super) fn file_options(path: &Path, mode: OpenMode) -> FileOptions {
    FileOptions {
        read_only: !mode.writable,
        force_share: mode.force_share && !mode.writable,
        direct: mode.cache.direct,
        no_flush: mode.cache.no_flush,
        ..FileOptions::new(path)
    }
}

async fn assemble(cx: &Cx, path: &Path, levels: Vec<Level>) -> Result<Image, ImgError> {
    let mut image: Option<Image> = None;
    let mut backing_id = None;
    for (depth, level) in levels.into_iter().enumerate().rev() {
        let Level { mut top, format, probed, id, data } = level;
        let secret = top.crypt.secret().map_err(|detail| cannot_open(path, depth, &detail))?;
        let mut qcow2 = None;
        let mut node = Arc::clone(&top.bottom.node);
        let writable = depth == 0 && top.mode.writable;
        if format == Format::Qcow2 {
            let backing = image.as_ref().map(|image| Arc::clone(&image.node));
            let options = qcow2::Options {
                read_only: !writable,
                secret: secret.clone(),
                encrypt_format: top.crypt.format.take(),
                ..top.qcow2
            };
            let beside = data.as_ref().map(|(_, bottom)| Arc::clone(&bottom.node));
            let files = qcow2::Files { file: node, backing, data: beside };
            let opened = qcow2::open_files(cx, files, options).await;
            let opened = opened.map_err(|e| cannot_open(path, depth, &open_detail(&e)))?;
            node = Arc::clone(&opened) as _;
            qcow2 = Some(opened);
        }
        if let Format::Image(format) = format {
            let options = file_options(&top.path, OpenMode { writable, ..top.mode });
            let files = formats::Files::of(&top.path, &options);
            let request = Request {
                backing: image.as_ref().map(|image| Arc::clone(&image.node)),
                backing_id,
                read_only: !writable,
                once: true,
                secret: secret.clone(),
                header: top.crypt.header.as_ref().map(|header| Arc::clone(&header.node)),
                ..Request::read(node, &files)
            };
            let opened = spindle_block::formats::open(cx, format, request).await;
            node = opened.map_err(|e| cannot_open(path, depth, &formats::detail(format, &e)))?;
        }
        backing_id = id;
        let preallocated = match (&top.bottom.host, &qcow2) {
            // What is mapped is in the image's own file.
            (Some(file), Some(qcow2)) if !qcow2.has_data_file() => is_preallocated(file, qcow2),
            _ => false,
        };
        if let Some(header) = top.crypt.header {
            top.bottom.below.extend(header.below);
        }
        let mut policy = top.policy;
        policy.read_only = !writable;
        policy.write_through = top.mode.cache.write_through;
        policy.ignore_flush = top.mode.cache.no_flush;
        let data = data.map(|(path, bottom)| {
            top.bottom.below.extend(bottom.below);
            path
        });
        image = Some(Image {
            path: top.path,
            format,
            file: top.bottom.node,
            host: top.bottom.host,
            fault: top.bottom.fault,
            below: top.bottom.below,
            policy,
            writable,
            probed,
            data,
            node,
            qcow2,
            backing: image.map(Box::new),
            preallocated,
            secret,
        });
    }
    image.ok_or_else(|| ImgError::said(format!("Could not open '{}'", shown(path))))
}

/// Whether a file has clearly less storage than clusters: then mapped clusters may be holes (QEMU,
/// qcow2_detect_metadata_preallocation, which counts used clusters where this takes all).
fn is_preallocated(file: &FileNode, image: &Qcow2) -> bool {
    let (Some(allocated), Some(Ok(length))) = (file.allocated(), file.length()) else {
        return false;
    };
    let real = allocated / image.cluster_size();
    length.div_ceil(image.cluster_size()) >= (real * 10 / 9).max(real + 2)
}

/// The format that a header gives for its backing file; `None`: what that begins like.
fn named_format(name: Option<&str>) -> Result<Option<Format>, String> {
    match name {
        None => Ok(None),
        Some("file" | "host_device") => Ok(Some(Format::Raw)),
        Some(name) if Format::called(name).is_some() => Ok(Format::called(name)),
        Some(other) => Err(format!("Unknown driver '{}'", other.escape_debug())),
    }
}

/// `Could not open 'top': …`, for what is wrong `depth` backing files below.
pub(super) fn cannot_open(top: &Path, depth: usize, detail: &str) -> ImgError {
    let below = "Could not open backing file: ".repeat(depth);
    ImgError::said(format!("Could not open '{}': {below}{detail}", shown(top)))
}

/// An image as it was named on the command line.
pub(crate) fn shown(path: &Path) -> std::borrow::Cow<'_, str> {
    match path.to_string_lossy() {
        std::borrow::Cow::Borrowed(text) => {
            text.strip_prefix(source::OPTIONS).unwrap_or(text).into()
        }
        owned => owned,
    }
}

/// What qemu-img says of a file that cannot be opened.
pub(crate) fn file_detail(error: &FileError) -> String {
    let path = error.path.display();
    let because = |reason: &str| format!("Could not open '{path}': {reason}");
    match &error.reason {
        Reason::Missing | Reason::NoDirectory => because("No such file or directory"),
        Reason::Permission { .. } => because("Permission denied"),
        Reason::ReadOnlyMedium => because("Read-only file system"),
        Reason::NoSpace => because("No space left on device"),
        Reason::NotAnImage("a directory") => {
            format!("'file' driver requires '{path}' to be a regular file")
        }
        Reason::Locked { error } => {
            let (shared, what) = match error {
                LockError::InUse { used } => ("shared ", *used),
                LockError::Denied { wanted } => ("", *wanted),
                other => return format!("Failed to lock '{path}': {other}"),
            };
            let name = match what {
                CONSISTENT_READ => "consistent read",
                WRITE => "write",
                RESIZE => "resize",
                _ => "write unchanged",
            };
            format!(
                "Failed to get {shared}\"{name}\" lock\nIs another process using the image \
                 [{path}]?"
            )
        }
        other => because(&other.to_string()),
    }
}

/// What qemu-img says of an image that cannot be opened.
pub(super) fn open_detail(error: &OpenError) -> String {
    match error {
        OpenError::Header(HeaderError::Magic(_)) => "Image is not in qcow2 format".to_owned(),
        OpenError::Header(HeaderError::Version(version)) => {
            format!("Unsupported qcow2 version {version}")
        }
        other => spindle_block::error::with_causes(other),
    }
}

/// strerror(3) of what went wrong.
pub(crate) fn errno_text(error: BlockError) -> &'static str {
    match error {
        BlockError::OutOfRange | BlockError::Medium | BlockError::Corrupt => "Input/output error",
        BlockError::Misaligned => "Invalid argument",
        BlockError::ReadOnly => "Operation not permitted",
        BlockError::NoSpace => "No space left on device",
        BlockError::Unsupported => "Operation not supported",
        BlockError::Aborted => "Operation canceled",
        BlockError::TimedOut => "Connection timed out",
        BlockError::NoMemory => "Cannot allocate memory",
        BlockError::Permission => "Permission denied",
        BlockError::Gone => "No such device",
    }
}

/// The format called `name`, for an image that is to be opened.
///
/// # Errors
///
/// qemu-img's sentence about a driver that there is not.
pub fn driver_called(path: &Path, name: Option<&str>) -> Result<Option<Format>, ImgError> {
    match name {
        None => Ok(None),
        Some(name) if Format::called(name).is_some() => Ok(Format::called(name)),
        Some(other) => Err(ImgError::said(format!(
            "Could not open '{}': Unknown driver '{other}'",
            shown(path)
        ))),
    }
}

/// Says on the error stream that a raw image was only guessed, before it is written to.
pub(crate) fn warn_of_probing(image: &Image, given: Option<Format>) {
    if image.format == Format::Raw && image.probed {
        warn_of_raw_guess(&image.path, given);
    }
}

/// The same for a raw image that is not open.
pub(super) fn warn_of_raw_guess(path: &Path, given: Option<Format>) {
    if given.is_none() {
        eprintln!(
            "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         \
             Automatically detecting the format is dangerous for raw images, write operations on \
             block 0 will be restricted.\n         Specify the 'raw' format explicitly to remove \
             the restrictions.",
            shown(path)
        );
    }
}
