//! What the image tool does with the formats other than raw and qcow2.
use super::create::{FormatPlan, Plan};
use super::files::block_layer;
use super::image::{OpenMode, cannot_open, file_detail, file_options};
use super::info::{ChildReport, FormatSpecific, ImageReport};
use super::source::Bottom;
use super::{ImgError, Look};
use crate::spec::SpecError;
use crate::spec::format::Format;
use crate::spec::keyval::Options;
use crate::spec::props::{Kind, Prop, prop};
use serde_json::Value;
use spindle_block::formats::{
    self, CreateOptions, Directory, Facts, FormatError, ImageFormat, Report, Subformat,
};
use spindle_block::nodes::file::{FileNode, FileOptions};
use spindle_block::vmdk::{self, VmdkOptions};
use spindle_block::{Cx, Node};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ANY_SIZE: Kind = Kind::Size { min: 0, max: i64::MAX as u64 };
const TEXT: Kind = Kind::Str { len_max: 1023 };
const SIZE: Prop = prop("size", ANY_SIZE, "Virtual disk size");
const BACKING_FILE: Prop = prop("backing_file", TEXT, "File name of a base image");
const BACKING_FMT: Prop =
    prop("backing_fmt", Kind::Enum(Format::NAMES), "Image format of the base image");

const VDI: &[Prop] =
    &[SIZE, prop("static", Kind::Bool, "VDI static (pre-allocated) image").or("off")];

const VPC: &[Prop] = &[
    SIZE,
    BACKING_FILE,
    BACKING_FMT,
    prop("subformat", Kind::Enum(&["dynamic", "fixed"]), "Type of virtual hard disk format"),
    prop("force_size", Kind::Bool, "exactly this size, whatever geometry is near"),
];

const VHDX: &[Prop] = &[
    SIZE,
    BACKING_FILE,
    BACKING_FMT,
    prop("log_size", ANY_SIZE, "Log size; min 1MB.").or("1M"),
    prop("block_size", ANY_SIZE, "Block Size; min 1MB, max 256MB. 0 means auto-calculate").or("0"),
    prop("subformat", Kind::Enum(&["dynamic", "fixed"]), "VHDX format type"),
    prop("block_state_zero", Kind::Bool, "taken for compatibility; reads of new blocks are zeros"),
];

const PARALLELS: &[Prop] =
    &[SIZE, prop("cluster_size", ANY_SIZE, "Parallels image cluster size").or("1M")];

const QED: &[Prop] = &[
    SIZE,
    BACKING_FILE,
    BACKING_FMT,
    prop("cluster_size", ANY_SIZE, "Cluster size (in bytes)").or("64k"),
    prop("table_size", ANY_SIZE, "L1/L2 table size (in clusters)"),
];

const VMDK: &[Prop] = &[
    SIZE,
    prop(
        "adapter_type",
        Kind::Enum(&["ide", "lsilogic", "buslogic", "legacyESX"]),
        "Virtual adapter type",
    ),
    BACKING_FILE,
    prop("backing_fmt", Kind::Enum(&["vmdk"]), "Must be 'vmdk' if present"),
    prop("compat6", Kind::Bool, "VMDK version 6 image").or("off"),
    prop("hwversion", TEXT, "VMDK hardware version").or("undefined"),
    prop("toolsversion", TEXT, "VMware guest tools version"),
    prop(
        "subformat",
        Kind::Enum(&[
            "monolithicSparse",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "streamOptimized",
        ]),
        "VMDK flat extent format",
    ),
    prop("zeroed_grain", Kind::Bool, "Enable efficient zero writes"),
];

const LUKS: &[Prop] = &{
    let [a, b, c, d, e, f, g, h, i] = super::encrypt::LUKS;
    [SIZE, a, b, c, d, e, f, g, h, i]
};

/// Whether images of this format can be made.
pub(super) fn is_made(format: ImageFormat) -> bool {
    use ImageFormat::{Bochs, Cloop, Dmg, Qcow};
    !matches!(format, Qcow | Dmg | Cloop | Bochs)
}

/// `-o` of a format.
pub(super) fn rows(format: ImageFormat) -> &'static [Prop] {
    match format {
        ImageFormat::Vmdk => VMDK,
        ImageFormat::Vdi => VDI,
        ImageFormat::Vpc => VPC,
        ImageFormat::Vhdx => VHDX,
        ImageFormat::Parallels => PARALLELS,
        ImageFormat::Qed => QED,
        ImageFormat::Luks => LUKS,
        // They are not made.
        ImageFormat::Qcow | ImageFormat::Dmg | ImageFormat::Cloop | ImageFormat::Bochs => &[SIZE],
    }
}

/// Options of an image of one of these formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePlan {
    /// The format.
    pub format: ImageFormat,
    options: Options,
}

impl ImagePlan {
    pub(super) fn new(format: ImageFormat, options: Options) -> Result<Self, SpecError> {
        let plan = Self { format, options };
        if plan.flag("compat6") && plan.text("hwversion").is_some_and(|v| v != "undefined") {
            return Err(SpecError::Conflict(
                "compat6 cannot be enabled with hwversion set".to_owned(),
            ));
        }
        Ok(plan)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).and_then(Value::as_str)
    }

    fn flag(&self, name: &str) -> bool {
        self.options.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn bytes(&self, name: &str) -> Option<u64> {
        self.options.get(name).and_then(Value::as_u64)
    }

    /// The bytes of the file that such a LUKS disk is in.
    ///
    /// # Errors
    ///
    /// qemu-img's sentence about options that cannot be.
    pub(super) fn luks_file(&self, size: u64) -> Result<u64, String> {
        let luks = super::encrypt::luks(&self.options, "", size)?;
        let header = luks.header_len().map_err(|error| error.to_string())?;
        let too_large = || "The image size is too large".to_owned();
        header.checked_add(if luks.detached { 0 } else { size }).ok_or_else(too_large)
    }

    /// The id of the passphrase, where the image is encrypted.
    pub(super) fn key_secret(&self) -> Option<&str> {
        self.text("key-secret").filter(|_| self.format == ImageFormat::Luks)
    }

    /// Whether the image is written in one go.
    pub(super) fn is_stream(&self) -> bool {
        self.text("subformat") == Some("streamOptimized")
    }

    fn plain(&self, size: u64, id: Option<[u8; 16]>) -> CreateOptions {
        let fixed = self.flag("static") || self.text("subformat") == Some("fixed");
        let backing = self.text("backing_file").map(str::to_owned);
        CreateOptions {
            size,
            cluster_size: self.bytes("cluster_size").or(self.bytes("block_size")),
            table_size: self.bytes("table_size"),
            force_size: self.flag("force_size"),
            log_size: self.bytes("log_size"),
            subformat: if fixed { Subformat::Fixed } else { Subformat::Dynamic },
            backing: backing.zip(self.text("backing_fmt").map(str::to_owned)),
            backing_id: id,
        }
    }

    fn vmdk(&self, size: u64, id: Option<[u8; 16]>) -> VmdkOptions {
        let mut options = VmdkOptions::new(size);
        let named = |name| vmdk::Subformat::ALL.into_iter().find(|s| Some(s.name()) == name);
        options.subformat = named(self.text("subformat")).unwrap_or_default();
        if let Some(adapter) = self.text("adapter_type") {
            adapter.clone_into(&mut options.adapter_type);
        }
        match self.text("hwversion") {
            Some(version) if version != "undefined" => version.clone_into(&mut options.hwversion),
            _ if self.flag("compat6") => "6".clone_into(&mut options.hwversion),
            _ => {}
        }
        if let Some(version) = self.text("toolsversion") {
            version.clone_into(&mut options.toolsversion);
        }
        options.zeroed_grain = self.flag("zeroed_grain");
        options.backing =
            self.text("backing_file").map(|name| (name.to_owned(), id.unwrap_or_default()));
        options
    }
}

/// Files beside an image.
pub(super) struct Files {
    dir: PathBuf,
    template: FileOptions,
}

impl Files {
    /// Those beside `path`, opened as it is.
    pub fn of(path: &Path, template: &FileOptions) -> Self {
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        Self { dir, template: template.clone() }
    }
}

impl formats::Beside for Files {
    fn open(&self, name: &str, read_only: bool) -> Result<Arc<dyn Node>, String> {
        Directory(|name: &Path, read_only: bool| {
            let path = self.dir.join(name);
            let options = FileOptions { path, read_only, ..self.template.clone() };
            let file = FileNode::open(&options).map_err(|e| file_detail(&e))?;
            Ok(file as Arc<dyn Node>)
        })
        .open(name, read_only)
    }
}

impl vmdk::Make for Files {
    fn make(&self, name: &str) -> Result<Arc<dyn Node>, String> {
        let path = self.dir.join(name);
        let options = FileOptions { path, ..self.template.clone() };
        let made = if options.path.exists() {
            FileNode::open(&options)
        } else {
            FileNode::create(&options, 0)
        };
        Ok(made.map_err(|e| file_detail(&e))? as Arc<dyn Node>)
    }
}

/// What is said of an image that cannot be opened.
pub(super) fn detail(format: ImageFormat, error: &FormatError) -> String {
    match error {
        FormatError::Magic(_) => match format {
            ImageFormat::Parallels => "Image not in Parallels format".to_owned(),
            ImageFormat::Vhdx => "Failed to open image: not in VHDX format".to_owned(),
            other => format!("Image not in {} format", other.name().to_uppercase()),
        },
        other => spindle_block::error::with_causes(other),
    }
}

/// Reads what an image says of itself.
pub(super) async fn facts(
    cx: &Cx,
    format: ImageFormat,
    path: &Path,
    file: &Arc<dyn Node>,
    template: &FileOptions,
) -> Result<Facts, String> {
    let facts = formats::facts(cx, format, file, &Files::of(path, template)).await;
    facts.map_err(|e| detail(format, &e))
}

/// The report that `info` shows.
pub(super) fn report(
    cx: &Cx,
    format: ImageFormat,
    path: &Path,
    file: &Arc<dyn Node>,
    look: Look,
) -> Result<(ImageReport, Facts), ImgError> {
    let template = FileOptions { force_share: look.force_share, ..FileOptions::new(path) };
    let (task, owned, file) = (Cx::clone(cx), path.to_owned(), Arc::clone(file));
    let facts = cx
        .block_on(async move { facts(&task, format, &owned, &file, &template).await })
        .map_err(|reason| cannot_open(path, 0, &reason))?;
    let backing = facts.backing.clone();
    let full = backing.as_ref().map(|b| super::files::backing_path(path, &b.file)).transpose()?;
    let (mut others, mut extents) = (0, Vec::new());
    let specific = match (format, facts.specific.clone()) {
        (ImageFormat::Vmdk, Some(mut value)) => {
            (others, extents) = name_extents(&mut value, path);
            Some(FormatSpecific::Vmdk(value))
        }
        (ImageFormat::Luks, Some(value)) => Some(FormatSpecific::Luks(value)),
        _ => None,
    };
    let report = ImageReport {
        virtual_size: facts.size,
        filename: path.to_string_lossy().into_owned(),
        cluster_size: facts.cluster,
        format: format.name().to_owned(),
        actual_size: Some(others),
        format_specific: specific,
        full_backing_filename: full.map(|path| path.to_string_lossy().into_owned()),
        backing_filename: backing.as_ref().map(|b| b.file.clone()),
        backing_filename_format: backing.and_then(|b| b.format).map(str::to_owned),
        encrypted: facts.encrypted,
        // Parallels' driver does not say it, as with qemu-img.
        dirty_flag: (format != ImageFormat::Parallels).then_some(facts.dirty.unwrap_or(false)),
        children: extents,
        ..ImageReport::default()
    };
    Ok((report, facts))
}

/// Extents are shown with the names by which they are opened. Returns the bytes of storage that those
/// in files of their own use.
fn name_extents(value: &mut Value, path: &Path) -> (u64, Vec<ChildReport>) {
    use std::os::unix::fs::MetadataExt;
    let (mut used, mut children) = (0, Vec::new());
    let extents = value.get_mut("extents").and_then(Value::as_array_mut);
    for extent in extents.into_iter().flatten() {
        let Some(Value::String(name)) = extent.get_mut("filename") else { continue };
        let full = if name.is_empty() {
            path.to_owned()
        } else {
            let full = path.parent().map_or_else(|| PathBuf::from(&*name), |dir| dir.join(&*name));
            if let Ok(meta) = std::fs::metadata(&full) {
                let (length, own) = (meta.len(), meta.blocks() * 512);
                used += own;
                let child = format!("extents.{}", children.len());
                children.push(ChildReport::file(&child, &full, "file", length, Some(own)));
            }
            full
        };
        *name = full.to_string_lossy().into_owned();
    }
    (used, children)
}

/// Adds a value to what `info` prints for people, as qemu-img does.
pub(super) fn human(value: &Value, depth: usize, out: &mut String) {
    let indent = " ".repeat(4 * depth);
    let mut line = |key: String, value: &Value| match value {
        Value::Object(_) | Value::Array(_) => {
            let _ = writeln!(out, "{indent}{key}:");
            human(value, depth + 1, out);
        }
        Value::String(text) => {
            let _ = writeln!(out, "{indent}{key}: {text}");
        }
        other => {
            let _ = writeln!(out, "{indent}{key}: {other}");
        }
    };
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| line(key.replace('-', " "), value));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, value)| line(format!("[{n}]"), value));
        }
        _ => {}
    }
}

/// Checks an image, and mends it as far as that can be done; the file is closed then.
pub(super) fn check(
    cx: &Cx,
    path: &Path,
    format: ImageFormat,
    bottom: Bottom,
    mode: OpenMode,
) -> Result<Option<Report>, ImgError> {
    let beside = Files::of(path, &file_options(path, mode));
    let task = Cx::clone(cx);
    let found = cx.block_on(async move {
        let mended = if mode.writable {
            formats::repair(&task, format, &bottom.node, &beside).await
        } else {
            Ok(())
        };
        let found = match mended {
            Ok(()) => formats::check(&task, format, &bottom.node, &beside).await,
            Err(error) => Err(error),
        };
        for node in &bottom.below {
            // The repair is durable, or has failed already.
            let _ = Arc::clone(node).close(Cx::clone(&task)).await;
        }
        found
    });
    match found {
        Ok(report) => Ok(Some(report)),
        Err(FormatError::NoCheck) => Ok(None),
        Err(error) => Err(cannot_open(path, 0, &detail(format, &error))),
    }
}

/// Makes an image.
pub(super) fn make(plan: &Plan, own: &ImagePlan, size: u64, existed: bool) -> Result<(), ImgError> {
    let path = plan.path.clone();
    let luks = match own.format {
        ImageFormat::Luks => {
            let luks = super::encrypt::luks(&own.options, "", size);
            Some(luks.map_err(|reason| ImgError::not_made(&path, reason))?)
        }
        _ => None,
    };
    let options = FileOptions::new(&path);
    let cx = block_layer()?;
    let id = match &plan.backing {
        Some((name, Format::Image(format))) => backing_id(&cx, plan, name, *format)?,
        _ => None,
    };
    let file: Arc<dyn Node> =
        if existed { FileNode::open(&options)? } else { FileNode::create(&options, 0)? };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (task, own, shown) = (Cx::clone(&cx), own.clone(), path.clone());
    let made = cx.block_on(async move {
        let made = if own.format == ImageFormat::Vmdk {
            let (name, files) = (name.unwrap_or_default(), Files::of(&path, &options));
            vmdk::create(&task, &file, &name, &own.vmdk(size, id), &files).await
        } else if let Some(luks) = luks {
            spindle_block::luks::create(&task, &file, &luks).await
        } else {
            formats::create(&task, own.format, &file, &own.plain(size, id)).await
        };
        let closed = file.close(Cx::clone(&task)).await;
        made.map_err(|e| spindle_block::error::with_causes(&e))?;
        closed.map_err(|e| e.to_string())
    });
    made.map_err(|reason| ImgError::not_made(shown, reason))
}

/// What an image calls its backing file by. One that is not there has none.
fn backing_id(
    cx: &Cx,
    plan: &Plan,
    name: &str,
    format: ImageFormat,
) -> Result<Option<[u8; 16]>, ImgError> {
    let path = super::files::backing_path(&plan.path, name)?;
    let options = FileOptions { read_only: true, ..FileOptions::new(&path) };
    let Ok(file) = FileNode::open(&options) else { return Ok(None) };
    let (task, file) = (Cx::clone(cx), file as Arc<dyn Node>);
    let shown = path.clone();
    let facts = cx.block_on(async move { facts(&task, format, &path, &file, &options).await });
    Ok(facts.map_err(|reason| cannot_open(&shown, 0, &reason))?.id)
}

/// The plan of a new image, where it is one of these.
pub(super) fn stream_plan(format: &FormatPlan) -> bool {
    matches!(format, FormatPlan::Image(own) if own.is_stream())
}

/// Whether an image is one file that does not say its own name.
pub(super) fn is_one_file(own: &ImagePlan) -> bool {
    own.format != ImageFormat::Vmdk
}

/// What the block layer makes of a plan for a VMDK without a backing file.
pub(super) fn vmdk_options(own: &ImagePlan, size: u64) -> VmdkOptions {
    own.vmdk(size, None)
}
