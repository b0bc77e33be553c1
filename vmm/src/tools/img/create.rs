//! `create`: what it is asked for, how that is checked, and the making.
use super::encrypt::{self, EncryptPlan};
use super::files::{backing_path, block_layer, open_to_read};
use super::formats::{self, ImagePlan};
use super::words;
use super::{ImgError, Look};
use crate::spec::format::Format;
use crate::spec::keyval::{self, Options};
use crate::spec::props::{self, Kind, Mode, Prop, prop};
use crate::spec::{SpecError, size};
use serde_json::Value;
use spindle_block::formats::Secret;
use spindle_block::nodes::file::{FileNode, FileOptions};
use spindle_block::qcow2 as qcow2_image;
use spindle_block::qcow2::create::{self as qcow2, CreateError, CreateOptions};
use spindle_block::qcow2::header::Compression;
use spindle_block::submit::node_io;
use spindle_block::{Cx, Io, IoBuf, Node};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The file.
    pub path: PathBuf,
    /// The size of the disk, in bytes; `None`: that of the backing file.
    pub size: Option<u64>,
    /// The backing file and its format.
    pub backing: Option<(String, Format)>,
    /// The format's own options.
    pub format: FormatPlan,
}

/// Options by format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatPlan {
    /// raw.
    Raw {
        /// How much is allocated beforehand.
        preallocation: Preallocation,
    },
    /// qcow2.
    Qcow2(Qcow2Plan),
    /// Another format.
    Image(ImagePlan),
}

/// Options of qcow2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Plan {
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// Whether clusters are compressed with zstd instead of zlib.
    pub zstd: bool,
    /// Whether refcount updates are put off.
    pub lazy_refcounts: bool,
    /// Bits of a refcount: a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// How much is allocated beforehand.
    pub preallocation: Preallocation,
    /// Whether clusters are made of subclusters.
    pub extended_l2: bool,
    /// The file that guest data will be in, where that is another one.
    pub data_file: Option<String>,
    /// Whether that file is to be the disk, to be read without the image.
    pub data_file_raw: bool,
    /// How the disk is encrypted.
    pub encrypt: EncryptPlan,
}

/// A request as far as its parts have been told apart.
pub(super) struct Outline {
    pub(super) options: Options,
    pub(super) size: Option<u64>,
    pub(super) backing: Option<(String, Format)>,
}

/// How much of an image is allocated beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    Off,
    /// The tables (qcow2 only).
    Metadata,
    /// All of it, by posix_fallocate(3).
    Falloc,
    /// All of it, by writing zeros.
    Full,
}

/// What the command line of `create` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The file.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// SIZE.
    pub size: Option<String>,
    /// `-b`.
    pub backing: Option<String>,
    /// `-F`.
    pub backing_format: Option<String>,
    /// Each `-o`.
    pub options: Vec<String>,
}

const DISK_SIZE: Kind = Kind::Size { min: 0, max: i64::MAX as u64 };
const SIZE: Prop = prop("size", DISK_SIZE, "size of the disk");

/// `-o` of raw.
const RAW: &[Prop] =
    &[SIZE, prop("preallocation", Kind::Enum(&["off", "falloc", "full"]), "allocate beforehand")];

/// `-o` of qcow2.
const QCOW2: &[Prop] = &{
    let [a, b, c, d, e, f, g, h, i] = encrypt::QCOW2;
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        SIZE,
        prop("backing_file", Kind::Str { len_max: 1023 }, "file name of a base image"),
        prop("backing_fmt", Kind::Enum(Format::NAMES), "format of the base image"),
        prop("cluster_size", Kind::BlockSize { min: 512, max: 2 << 20 }, "cluster size").or("64k"),
        prop(
            "compat",
            Kind::Enum(&["1.1", "v3", "0.10", "v2"]),
            "compatibility level; default: 1.1",
        ),
        prop("compression_type", Kind::Enum(&["zlib", "zstd"]), "how clusters are compressed")
            .or("zlib"),
        prop("lazy_refcounts", Kind::Bool, "postpone refcount updates").or("off"),
        prop(
            "preallocation",
            Kind::Enum(&["off", "metadata", "falloc", "full"]),
            "allocate beforehand",
        ),
        prop("refcount_bits", Kind::Uint { min: 0, max: 1 << 16 }, "width of a refcount in bits")
            .or("16"),
        prop("extended_l2", Kind::Bool, "clusters are made of 32 subclusters").or("off"),
        prop("data_file", Kind::Str { len_max: 1023 }, "file name of an external data file"),
        prop("data_file_raw", Kind::Bool, "the external data file is a raw image by itself"),
    ]
};

/// What `-o help` prints for a format; with a file's name also the options of files.
///
/// # Errors
///
/// A format in which nothing is created.
pub fn options_help(format: Format, with_file: bool) -> Result<String, ImgError> {
    super::option_help::text(format, with_file).map_err(ImgError::said)
}

pub(super) fn rows(format: Format) -> &'static [Prop] {
    match format {
        Format::Raw => RAW,
        Format::Qcow2 => QCOW2,
        Format::Image(format) => formats::rows(format),
    }
}

/// The format called `name`.
///
/// # Errors
///
/// A name that is no format's, with the near ones.
pub fn format_called(name: &str) -> Result<Format, SpecError> {
    Format::called(name).ok_or_else(|| SpecError::Unknown {
        of: format!("-f (known: {})", Format::NAMES.join(", ")),
        what: "format",
        near: crate::spec::names::near(name, Format::NAMES.iter().copied()),
        name: name.to_owned(),
    })
}

impl Request {
    /// The format to create: `-f`, or what the file's ending says, or raw as with qemu-img.
    ///
    /// # Errors
    ///
    /// An unknown format.
    pub fn format(&self) -> Result<Format, SpecError> {
        match (&self.format, self.path.extension().and_then(|ending| ending.to_str())) {
            (Some(name), _) => format_called(name),
            (None, Some("qcow2")) => Ok(Format::Qcow2),
            (None, _) => Ok(Format::Raw),
        }
    }

    /// Checks the request.
    ///
    /// # Errors
    ///
    /// An unknown option, a value that does not fit, options that contradict each other, or no
    /// size at all.
    pub fn plan(&self) -> Result<Plan, SpecError> {
        let format = self.format()?;
        let Outline { options, size, backing } = self.outline(rows(format))?;
        let preallocation = match options.get("preallocation").and_then(Value::as_str) {
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            _ => Preallocation::Off,
        };
        let format = match format {
            Format::Raw => FormatPlan::Raw { preallocation },
            Format::Qcow2 => FormatPlan::Qcow2(Qcow2Plan::new(&options, preallocation)?),
            Format::Image(format) => FormatPlan::Image(ImagePlan::new(format, options)?),
        };
        Ok(Plan { path: self.path.clone(), size, backing, format })
    }

    /// Checks the request as far as `rows` do.
    pub(super) fn outline(&self, rows: &[Prop]) -> Result<Outline, SpecError> {
        let format = self.format()?;
        let of = format!("-o for {}", format.name());
        let mut given = Options::new();
        for text in &self.options {
            given.extend(encrypt::flat(keyval::parse(&of, text, None, &[])?));
        }
        for (name, value) in
            [("backing_file", &self.backing), ("backing_fmt", &self.backing_format)]
        {
            if let Some(value) = value {
                if !format.has_backing() {
                    let (path, name) = (self.path.display(), format.name());
                    return Err(SpecError::Conflict(format!(
                        "{path}: Backing file not supported for file format '{name}'"
                    )));
                }
                given.insert(name.to_owned(), Value::String(value.clone()));
            }
        }
        let options = props::apply(&of, rows, given, Mode::Lenient)?;
        let text = |name: &str| options.get(name).and_then(Value::as_str);
        let backing = backing(text("backing_file"), text("backing_fmt"), &self.path)?;
        let size = self.size(options.get("size").and_then(Value::as_u64))?;
        if size.is_none() && backing.is_none() {
            return Err(SpecError::Conflict(no_size(&self.path)));
        }
        Ok(Outline { options, size, backing })
    }

    /// SIZE, or the option `size`, in bytes, rounded up to a sector as with qemu-img.
    fn size(&self, option: Option<u64>) -> Result<Option<u64>, SpecError> {
        let size = match &self.size {
            None => option,
            Some(text) => {
                Some(size::parse(text, 1).map_err(|e| SpecError::bad("create", "SIZE", e))?)
            }
        };
        let too_large = || SpecError::bad("create", "SIZE", "a disk has less than 8E bytes");
        size.map(|size| {
            let size = size.checked_next_multiple_of(512).ok_or_else(too_large)?;
            i64::try_from(size).map(|_| size).map_err(|_| too_large())
        })
        .transpose()
    }
}

/// A backing file must come with its format: a guest could write any header into a raw one.
fn backing(
    file: Option<&str>,
    format: Option<&str>,
    path: &Path,
) -> Result<Option<(String, Format)>, SpecError> {
    let path_shown = path.display();
    match (file, format) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(SpecError::Conflict(format!(
            "{path_shown}: Backing format cannot be used without backing file"
        ))),
        (Some(file), None) => Err(SpecError::Conflict(match backing_path(path, file) {
            Ok(below) => match super::files::format_of(&below, None) {
                Ok(format) => format!(
                    "{path_shown}: Backing file specified without backing format\nDetected format \
                     of {}.",
                    format.name()
                ),
                Err(_) => format!(
                    "{path_shown}: Could not open '{}': No such file or directory\nCould not open \
                     backing image.",
                    below.display()
                ),
            },
            Err(error) => error.to_string(),
        })),
        (Some(file), Some(format)) => Ok(Some((file.to_owned(), format_called(format)?))),
    }
}

impl Qcow2Plan {
    fn new(options: &Options, preallocation: Preallocation) -> Result<Self, SpecError> {
        let text = |name: &str| options.get(name).and_then(Value::as_str).unwrap_or_default();
        let plan = Self {
            cluster_size: options.get("cluster_size").and_then(Value::as_u64).unwrap_or(65536),
            version: if matches!(text("compat"), "0.10" | "v2") { 2 } else { 3 },
            zstd: text("compression_type") == "zstd",
            lazy_refcounts: options.get("lazy_refcounts").and_then(Value::as_bool).unwrap_or(false),
            refcount_bits: options
                .get("refcount_bits")
                .and_then(Value::as_u64)
                .and_then(|bits| u32::try_from(bits).ok())
                .unwrap_or(16),
            preallocation,
            extended_l2: options.get("extended_l2").and_then(Value::as_bool).unwrap_or(false),
            data_file: options.get("data_file").and_then(Value::as_str).map(str::to_owned),
            data_file_raw: options.get("data_file_raw").and_then(Value::as_bool).unwrap_or(false),
            encrypt: EncryptPlan::new(options),
        };
        if plan.cluster_size == 0 {
            return Err(SpecError::bad("-o for qcow2", "cluster_size", "it is 512 to 2M"));
        }
        for (what, given) in [
            (
                "Lazy refcounts only supported with compatibility level 1.1 and above",
                plan.lazy_refcounts,
            ),
            (
                "Non-zlib compression type is only supported with compatibility level 1.1 and above",
                plan.zstd,
            ),
            (
                "Different refcount widths than 16 bits require compatibility level 1.1 or above",
                plan.refcount_bits != 16,
            ),
        ] {
            if plan.version == 2 && given {
                return Err(SpecError::BadValue {
                    of: "-o for qcow2".to_owned(),
                    name: "compat".to_owned(),
                    reason: format!("{what} (use version=v3 or greater)"),
                });
            }
        }
        Ok(plan)
    }
}

impl Plan {
    /// The passphrase's option and its id, where the image is encrypted.
    fn key(&self) -> Option<(&'static str, &str)> {
        match &self.format {
            FormatPlan::Raw { .. } => None,
            FormatPlan::Qcow2(own) => Some(("encrypt.key-secret", own.encrypt.key_secret()?)),
            FormatPlan::Image(own) => Some(("key-secret", own.key_secret()?)),
        }
    }

    /// Whether the image is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.key().is_some()
    }

    /// Whether more than what is written is allocated.
    pub(super) fn is_preallocated(&self) -> bool {
        let preallocation = match &self.format {
            FormatPlan::Raw { preallocation } => *preallocation,
            FormatPlan::Qcow2(own) => own.preallocation,
            FormatPlan::Image(_) => Preallocation::Off,
        };
        preallocation != Preallocation::Off
    }

    /// How the image is named so that it is opened with its passphrase.
    pub(super) fn opened(&self) -> PathBuf {
        let (key, id) = self.key().unzip();
        encrypt::opened_with(&self.path, self.format.name(), key.unwrap_or_default(), id)
    }
}

impl FormatPlan {
    /// The format's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Raw { .. } => Format::Raw.name(),
            Self::Qcow2(_) => Format::Qcow2.name(),
            Self::Image(own) => own.format.name(),
        }
    }
}

/// Makes the image and returns the size of its disk, in bytes. With `blind`, the backing file is
/// not looked at.
///
/// # Errors
///
/// As for [`size()`] and [`make`].
pub fn run(plan: &Plan, blind: bool) -> Result<u64, ImgError> {
    let size = size(plan, blind)?;
    make(plan, size)?;
    Ok(size)
}

/// The size that the disk will have, in bytes: as given, or the backing file's. With `blind`, that is
/// not looked at.
///
/// # Errors
///
/// A backing file that cannot be opened, no size at all.
pub fn size(plan: &Plan, blind: bool) -> Result<u64, ImgError> {
    disk_size(&plan.path, plan.size, plan.backing.as_ref(), blind)
}

/// The same of what is not known to be a plan yet.
pub(super) fn outline_size(path: &Path, outline: &Outline, blind: bool) -> Result<u64, ImgError> {
    disk_size(path, outline.size, outline.backing.as_ref(), blind)
}

fn disk_size(
    path: &Path,
    size: Option<u64>,
    backing: Option<&(String, Format)>,
    blind: bool,
) -> Result<u64, ImgError> {
    let backing_size = match backing {
        Some((name, format)) if !blind => Some(backing_size(path, name, *format)?),
        _ => None,
    };
    size.or(backing_size).ok_or_else(|| ImgError::said(no_size(path)))
}

fn no_size(path: &Path) -> String {
    format!("{}: Image creation needs a size parameter", path.display())
}

/// Makes the image, with a disk of `size` bytes.
///
/// # Errors
///
/// A file that cannot be made, no space. A file that did not exist before does not exist then
/// either.
pub fn make(plan: &Plan, size: u64) -> Result<(), ImgError> {
    let existed = plan.path.symlink_metadata().is_ok();
    let result = match &plan.format {
        FormatPlan::Raw { preallocation } => make_raw(&plan.path, size, *preallocation),
        FormatPlan::Qcow2(own) => make_qcow2(plan, own, size, existed),
        FormatPlan::Image(own) => formats::make(plan, own, size, existed),
    };
    if result.is_err() && !existed {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&plan.path);
    }
    result
}

/// The size of the backing file's disk. It must be there and be what it is said to be.
fn backing_size(made: &Path, name: &str, format: Format) -> Result<u64, ImgError> {
    let path = backing_path(made, name)?;
    let look = Look { format: Some(format), ..Look::default() };
    let file = open_to_read(&path, look)?;
    let itself = |made: &Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(made).is_ok_and(|m| file.identity() == Some((m.dev(), m.ino())))
    };
    if itself(made) {
        return Err(ImgError::refused(made, "an image cannot be its own backing file"));
    }
    drop(file);
    let chain = super::info::run(&path, look, false)?;
    Ok(chain.first().map_or(0, |report| report.virtual_size))
}

fn make_raw(path: &Path, size: u64, preallocation: Preallocation) -> Result<(), ImgError> {
    let node = FileNode::create(&FileOptions::new(path), size)?;
    let allocated = match preallocation {
        // The first block has storage, so that its alignment can be found out (QEMU does so).
        Preallocation::Off | Preallocation::Metadata => write_zeros(path, size.min(4096)),
        Preallocation::Falloc => allocate(path),
        Preallocation::Full => write_zeros(path, size),
    };
    drop(node);
    allocated.map_err(|source| ImgError::Allocate { path: path.to_owned(), source })
}

/// What the block layer makes of a plan.
pub(super) fn create_options(
    plan: &Plan,
    own: &Qcow2Plan,
    size: u64,
) -> Result<CreateOptions, ImgError> {
    let encrypt = own.encrypt.block().map_err(|reason| ImgError::not_made(&plan.path, reason))?;
    Ok(CreateOptions {
        encrypt,
        cluster_size: own.cluster_size,
        version: own.version,
        lazy_refcounts: own.lazy_refcounts,
        refcount_bits: own.refcount_bits,
        compression: if own.zstd { Compression::Zstd } else { Compression::Zlib },
        backing: plan
            .backing
            .as_ref()
            .map(|(name, format)| (name.clone(), format.name().to_owned())),
        preallocation: match own.preallocation {
            Preallocation::Off => qcow2::Preallocation::Off,
            _ => qcow2::Preallocation::Metadata,
        },
        extended_l2: own.extended_l2,
        data_file: own.data_file.clone(),
        data_file_raw: own.data_file_raw,
        ..CreateOptions::new(size)
    })
}

fn make_qcow2(plan: &Plan, own: &Qcow2Plan, size: u64, existed: bool) -> Result<(), ImgError> {
    let options = create_options(plan, own, size)?;
    let secret = options.encrypt.as_ref().map(|encrypt| encrypt.secret().clone());
    let path = &plan.path;
    let refused = |source: CreateError| match source {
        CreateError::PreallocatedBacking
        | CreateError::ExtendedClusterSize
        | CreateError::ExtendedVersion
        | CreateError::DataFileVersion
        | CreateError::RawWithoutDataFile
        | CreateError::RawBacking
        | CreateError::RawEncrypted => ImgError::said(format!("{}: {source}", path.display())),
        source => ImgError::Create { path: path.clone(), source },
    };
    qcow2::check(&options).map_err(refused)?;
    let data = own.data_file.as_deref().map(|name| make_data_file(path, name, size)).transpose()?;
    let file_options = FileOptions::new(path);
    // What is there already keeps its content until the options are known to be good.
    let file: Arc<dyn Node> =
        if existed { FileNode::open(&file_options)? } else { FileNode::create(&file_options, 0)? };
    let cx = block_layer()?;
    let (on, task) = (cx.clone(), Arc::clone(&file));
    cx.block_on(async move { qcow2::create(&on, &task, &options).await }).map_err(refused)?;
    let failed = |source| ImgError::Allocate { path: path.clone(), source };
    match (own.preallocation, data) {
        (Preallocation::Off | Preallocation::Metadata, _) => Ok(()),
        (Preallocation::Falloc, Some(data)) => allocate(&data).map_err(failed),
        (Preallocation::Full, Some(data)) if secret.is_none() => {
            write_zeros(&data, size).map_err(failed)
        }
        (Preallocation::Falloc, None) => allocate(path).map_err(failed),
        (Preallocation::Full, data) => {
            let data = data.map(|path| FileNode::open(&FileOptions::new(path))).transpose()?;
            let files =
                qcow2_image::Files { file, backing: None, data: data.map(|node| node as _) };
            let on = cx.clone();
            let filled = cx.block_on(async move { fill_disk(&on, files, secret).await });
            filled.map_err(|error| failed(io::Error::other(error)))
        }
    }
}

/// Makes the file that guest data of a new image will be in.
fn make_data_file(image: &Path, name: &str, size: u64) -> Result<PathBuf, ImgError> {
    let shown = image.display();
    let path = PathBuf::from(name);
    let itself = |path: &Path| path.canonicalize().ok();
    if path == image || (itself(&path).is_some() && itself(&path) == itself(image)) {
        return Err(ImgError::said(format!(
            "{shown}: Failed to get shared \"resize\" lock\nIs another process using the image \
             [{shown}]?"
        )));
    }
    let made = FileNode::create(&FileOptions::new(&path), size);
    let made = made
        .map_err(|error| ImgError::said(format!("{shown}: {}", words::of_making_file(&error))))?;
    drop(made);
    Ok(path)
}

/// Writes zeros over the whole disk of a new image.
async fn fill_disk(
    cx: &Cx,
    files: qcow2_image::Files,
    secret: Option<Secret>,
) -> Result<(), spindle_block::BlockError> {
    const PIECE: u64 = 1 << 20;
    let options = qcow2_image::Options { secret, ..Default::default() };
    let image = qcow2_image::open_files(cx, files, options).await;
    let image = image.map_err(|_| spindle_block::BlockError::Corrupt)?;
    let node: Arc<dyn Node> = image;
    let size = node.info().size;
    for at in (0..size).step_by(PIECE as usize) {
        let zeros = IoBuf::zeroed(PIECE.min(size - at) as usize);
        node_io(cx, &node, Io::write(at, zeros)).await.1?;
    }
    node.close(Cx::clone(cx)).await
}

/// Sets space aside for the whole file (posix_fallocate(3)).
fn allocate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let len = i64::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(());
    }
    // SAFETY: no memory is passed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn write_zeros(path: &Path, size: u64) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    let zeros = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        file.write_all(&zeros[..len])?;
        left -= len as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, size: Option<&str>, options: &[&str]) -> Request {
        Request {
            path: path.into(),
            size: size.map(str::to_owned),
            options: options.iter().map(|&o| o.to_owned()).collect(),
            ..Request::default()
        }
    }

    #[test]
    fn the_format_is_given_or_the_endings_or_raw() {
        let format = |path, given: Option<&str>| {
            Request { format: given.map(str::to_owned), ..request(path, None, &[]) }.format()
        };
        assert_eq!(format("a.qcow2", None).unwrap(), Format::Qcow2);
        assert_eq!(format("a.qcow2", Some("raw")).unwrap(), Format::Raw);
        assert_eq!(format("a.img", None).unwrap(), Format::Raw);
        assert!(format("a", Some("qcow3")).unwrap_err().to_string().contains("'qcow2'"));
    }

    #[test]
    fn contradictions_are_refused() {
        let error = |request: Request| request.plan().unwrap_err().to_string();
        assert!(error(request("a.qcow2", None, &[])).contains("needs a size parameter"));
        assert!(error(request("a.qcow2", Some("1G"), &["clustersize=1"])).contains("cluster_size"));
        assert!(error(request("a.qcow2", Some("1G"), &["cluster_size=3000"])).contains("power"));
        assert!(error(request("a.qcow2", Some("1G"), &["refcount_bits=x"])).contains("refcount"));
        assert!(
            error(request("a.qcow2", Some("1G"), &["compat=0.10,lazy_refcounts=on"]))
                .contains("compatibility level 1.1")
        );
        assert!(error(request("a.raw", Some("9E"), &[])).contains("8E"));
        let backing = Some("x".to_owned());
        let no_format = Request { backing: backing.clone(), ..request("a.qcow2", None, &[]) };
        assert!(error(no_format).contains("Could not open 'x'"));
        let raw = Request { backing, ..request("a.raw", Some("1G"), &[]) };
        assert!(error(raw).contains("Backing file not supported"));
        let alone = request("a.qcow2", Some("1G"), &["backing_fmt=raw"]);
        assert!(error(alone).contains("cannot be used without backing file"));
    }
}
