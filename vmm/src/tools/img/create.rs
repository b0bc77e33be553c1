//! What `create` is asked for: formats, their options, and how they are checked.
use crate::spec::format::Format;
use crate::spec::keyval::{self, Options};
use crate::spec::props::{self, Kind, Mode, Prop, prop};
use crate::spec::{SpecError, size};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

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
    /// How much is allocated beforehand.
    pub preallocation: Preallocation,
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
const RAW: &[Prop] = &[
    SIZE,
    prop("preallocation", Kind::Enum(&["off", "falloc", "full"]), "allocate beforehand").or("off"),
];

/// `-o` of qcow2.
const QCOW2: &[Prop] = &[
    SIZE,
    prop("backing_file", Kind::Str { len_max: 1023 }, "file name of a base image"),
    prop("backing_fmt", Kind::Enum(Format::NAMES), "format of the base image"),
    prop("cluster_size", Kind::BlockSize { min: 512, max: 2 << 20 }, "cluster size").or("64k"),
    prop("compat", Kind::Enum(&["1.1", "v3", "0.10", "v2"]), "compatibility level").or("1.1"),
    prop("compression_type", Kind::Enum(&["zlib", "zstd"]), "how clusters are compressed")
        .or("zlib"),
    prop("lazy_refcounts", Kind::Bool, "postpone refcount updates").or("off"),
    prop(
        "preallocation",
        Kind::Enum(&["off", "metadata", "falloc", "full"]),
        "allocate beforehand",
    )
    .or("off"),
    prop("refcount_bits", Kind::Enum(&["16"]), "width of a refcount").or("16"),
    prop("extended_l2", Kind::Enum(&["off"]), "subclusters").or("off"),
];

/// What `-o help` prints for a format.
#[must_use]
pub fn options_help(format: Format) -> String {
    let mut out = format!("Supported {} options:\n", format.name());
    for row in rows(format) {
        let left = format!("{}=<{}>", row.name, props::type_text(row.kind));
        let default = row.default.map_or(String::new(), |text| format!(" (default: {text})"));
        let _ = writeln!(out, "  {left:<44} - {}{default}", row.help);
    }
    out
}

fn rows(format: Format) -> &'static [Prop] {
    match format {
        Format::Raw => RAW,
        Format::Qcow2 => QCOW2,
    }
}

/// The format called `name`.
///
/// # Errors
///
/// A name that is no format's, with the near ones.
pub fn format_called(name: &str) -> Result<Format, SpecError> {
    match name {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => Err(SpecError::Unknown {
            of: format!("-f (known: {})", Format::NAMES.join(", ")),
            what: "format",
            near: crate::spec::names::near(name, Format::NAMES.iter().copied()),
            name: name.to_owned(),
        }),
    }
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
        let of = format!("-o for {}", format.name());
        let mut given = Options::new();
        for text in &self.options {
            given.extend(keyval::parse(&of, text, None, &[])?);
        }
        for (name, value) in
            [("backing_file", &self.backing), ("backing_fmt", &self.backing_format)]
        {
            if let Some(value) = value {
                if format == Format::Raw {
                    let reason = "a raw image has no backing file; type -f qcow2".to_owned();
                    return Err(SpecError::Conflict(reason));
                }
                given.insert(name.to_owned(), Value::String(value.clone()));
            }
        }
        let options = props::apply(&of, rows(format), given, Mode::Lenient)?;
        let text = |name: &str| options.get(name).and_then(Value::as_str);
        let backing = backing(text("backing_file"), text("backing_fmt"))?;
        let size = self.size(options.get("size").and_then(Value::as_u64))?;
        if size.is_none() && backing.is_none() {
            return Err(SpecError::Conflict(
                "the image needs a size: spindle img create FILE SIZE".to_owned(),
            ));
        }
        let preallocation = match text("preallocation") {
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            _ => Preallocation::Off,
        };
        let format = match format {
            Format::Raw => FormatPlan::Raw { preallocation },
            Format::Qcow2 => FormatPlan::Qcow2(Qcow2Plan::new(&options, preallocation)?),
        };
        Ok(Plan { path: self.path.clone(), size, backing, format })
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
) -> Result<Option<(String, Format)>, SpecError> {
    match (file, format) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(SpecError::Conflict(
            "a backing format is given, but no backing file (-b)".to_owned(),
        )),
        (Some(file), None) => Err(SpecError::Conflict(format!(
            "backing file '{file}' is given without its format; type -F raw or -F qcow2"
        ))),
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
            preallocation,
        };
        if plan.cluster_size == 0 {
            return Err(SpecError::bad("-o for qcow2", "cluster_size", "it is 512 to 2M"));
        }
        for (name, given) in
            [("lazy_refcounts", plan.lazy_refcounts), ("compression_type", plan.zstd)]
        {
            if plan.version == 2 && given {
                let reason = format!("{name} needs compat=1.1 (version 3)");
                return Err(SpecError::Conflict(reason));
            }
        }
        Ok(plan)
    }
}

impl Plan {
    /// The line that says what is being created, as qemu-img prints it; `size` is the disk's.
    #[must_use]
    pub fn announce(&self, size: u64) -> String {
        let path: &Path = &self.path;
        let on = |flag: bool| if flag { "on" } else { "off" };
        let mut out = format!("Formatting '{}', fmt={}", path.display(), self.format.name());
        match &self.format {
            FormatPlan::Raw { preallocation } => {
                let _ = write!(out, " size={size}");
                preallocation.announce(&mut out);
            }
            FormatPlan::Qcow2(plan) => {
                let _ = write!(out, " cluster_size={} extended_l2=off", plan.cluster_size);
                plan.preallocation.announce(&mut out);
                let compression = if plan.zstd { "zstd" } else { "zlib" };
                let _ = write!(out, " compression_type={compression} size={size}");
                if let Some((file, format)) = &self.backing {
                    let _ = write!(out, " backing_file={file} backing_fmt={}", format.name());
                }
                let _ = write!(out, " lazy_refcounts={} refcount_bits=16", on(plan.lazy_refcounts));
            }
        }
        out.push('\n');
        out
    }
}

impl FormatPlan {
    /// The format's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Raw { .. } => Format::Raw.name(),
            Self::Qcow2(_) => Format::Qcow2.name(),
        }
    }
}

impl Preallocation {
    fn announce(self, out: &mut String) {
        let name = match self {
            Self::Off => return,
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        };
        let _ = write!(out, " preallocation={name}");
    }
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
        assert!(format("a", Some("qcow")).unwrap_err().to_string().contains("'qcow2'"));
    }

    #[test]
    fn a_plan_is_announced_as_qemu_img_does() {
        let plan = request("a.qcow2", Some("1G"), &[]).plan().unwrap();
        assert_eq!(
            plan.announce(1 << 30),
            "Formatting 'a.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off \
             compression_type=zlib size=1073741824 lazy_refcounts=off refcount_bits=16\n"
        );
        let mut with_backing = request("b.qcow2", None, &["cluster_size=4k,lazy_refcounts=on"]);
        with_backing.backing = Some("a.qcow2".to_owned());
        with_backing.backing_format = Some("qcow2".to_owned());
        let plan = with_backing.plan().unwrap();
        assert_eq!(plan.size, None);
        assert_eq!(
            plan.announce(512),
            "Formatting 'b.qcow2', fmt=qcow2 cluster_size=4096 extended_l2=off \
             compression_type=zlib size=512 backing_file=a.qcow2 backing_fmt=qcow2 \
             lazy_refcounts=on refcount_bits=16\n"
        );
        let raw = request("c.raw", Some("1"), &["preallocation=full"]).plan().unwrap();
        assert_eq!(raw.size, Some(512));
        assert_eq!(raw.announce(512), "Formatting 'c.raw', fmt=raw size=512 preallocation=full\n");
    }

    #[test]
    fn contradictions_are_refused() {
        let error = |request: Request| request.plan().unwrap_err().to_string();
        assert!(error(request("a.qcow2", None, &[])).contains("needs a size"));
        assert!(error(request("a.qcow2", Some("1G"), &["clustersize=1"])).contains("cluster_size"));
        assert!(error(request("a.qcow2", Some("1G"), &["cluster_size=3000"])).contains("power"));
        assert!(error(request("a.qcow2", Some("1G"), &["refcount_bits=64"])).contains("16"));
        assert!(
            error(request("a.qcow2", Some("1G"), &["compat=0.10,lazy_refcounts=on"]))
                .contains("compat=1.1")
        );
        assert!(error(request("a.raw", Some("9E"), &[])).contains("8E"));
        let backing = Some("x".to_owned());
        let no_format = Request { backing: backing.clone(), ..request("a.qcow2", None, &[]) };
        assert!(error(no_format).contains("-F raw"));
        let raw = Request { backing, ..request("a.raw", Some("1G"), &[]) };
        assert!(error(raw).contains("no backing file"));
        let alone = request("a.qcow2", Some("1G"), &["backing_fmt=raw"]);
        assert!(error(alone).contains("no backing file (-b)"));
    }
}
