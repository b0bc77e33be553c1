//! The block graph: nodes with QEMU's drivers and options.
use super::blkdebug::{BLKDEBUG, BlkdebugSpec};
use super::props::{Kind, Prop, Table, prop};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A node of the block graph. Children are named, never nested: lowering gives an inline child
/// the name `PARENT.file` and puts it before its parent, so the list is in opening order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevSpec {
    /// The node's name: unique.
    pub node_name: String,
    /// What the node is, with the options of its driver.
    #[serde(flatten)]
    pub driver: DriverSpec,
    /// Whether the node refuses writes.
    pub read_only: bool,
    /// Whether discards reach the node's file.
    pub discard: DiscardMode,
    /// Whether written zeros become write-zeroes (or, with `unmap`, discards).
    pub detect_zeroes: DetectZeroes,
    /// How the host's page cache is used.
    pub cache: CacheSpec,
    /// The node in whose place it was written, and with which it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
}

/// A node's driver and its options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum DriverSpec {
    /// A file on the host.
    File(FileSpec),
    /// A block device of the host.
    #[serde(rename = "host_device")]
    HostDevice(FileSpec),
    /// Bytes as they are.
    Raw(RawSpec),
    /// A qcow2 image.
    Qcow2(Qcow2Spec),
    /// An image of this format.
    Vmdk(ImageSpec),
    /// An image of this format.
    Vdi(ImageSpec),
    /// An image of this format.
    Vpc(ImageSpec),
    /// An image of this format.
    Vhdx(ImageSpec),
    /// An image of this format.
    Parallels(ImageSpec),
    /// An image of this format.
    Qed(ImageSpec),
    /// An image of this format.
    Qcow(ImageSpec),
    /// An image of this format.
    Dmg(ImageSpec),
    /// An image of this format.
    Cloop(ImageSpec),
    /// An image of this format.
    Bochs(ImageSpec),
    /// An encrypted disk.
    Luks(LuksSpec),
    /// Zeros that take no time.
    #[serde(rename = "null-co")]
    Null(NullSpec),
    /// A filter that makes requests fail, hang, take their time, tear or corrupt data.
    Fault(FaultSpec),
    /// The same with QEMU's name and rules.
    Blkdebug(BlkdebugSpec),
}

/// `file` and `host_device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileSpec {
    /// The file.
    pub filename: PathBuf,
    /// The engine that moves its bytes.
    pub aio: AioMode,
    /// Whether it is locked against other writers.
    pub locking: Locking,
}

/// `raw`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RawSpec {
    /// The node below.
    pub file: String,
    /// Where the disk starts in it, in bytes.
    pub offset: u64,
    /// How long the disk is, in bytes; `None`: to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// `qcow2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2Spec {
    /// The node that holds the image.
    pub file: String,
    /// Where unallocated clusters are read from.
    #[serde(default, skip_serializing_if = "Backing::is_from_header")]
    pub backing: Backing,
    /// The node that guest data is in, where it is not in the image; `None`: the file that the image
    /// names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether refcount updates are put off; `None`: as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Memory for L2 tables, in bytes; `None`: enough for the whole disk, up to a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2_cache_size: Option<u64>,
    /// How it is unlocked, where it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<EncryptSpec>,
}

/// `encrypt` of `qcow2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EncryptSpec {
    /// How the image is encrypted; `None`: as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The id of the passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
}

/// `luks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LuksSpec {
    /// The node that holds the disk.
    pub file: String,
    /// The node that holds the header, where that is not before the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The id of the passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
}

/// `vmdk`, `vdi`, and the other formats of the block layer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageSpec {
    /// The node that holds the image.
    pub file: String,
    /// Where is read from what the image does not have.
    #[serde(default, skip_serializing_if = "Backing::is_from_header")]
    pub backing: Backing,
}

/// Where a qcow2 node's unallocated clusters are read from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub enum Backing {
    /// From the file that the image's header names, if any (the key is absent).
    #[default]
    FromHeader,
    /// From nowhere: they read as zeros, whatever the header says (`null`).
    None,
    /// From this node.
    Node(String),
}

impl Backing {
    fn is_from_header(&self) -> bool {
        *self == Self::FromHeader
    }
}

impl From<Option<String>> for Backing {
    fn from(name: Option<String>) -> Self {
        name.map_or(Self::None, Self::Node)
    }
}

impl From<Backing> for Option<String> {
    fn from(backing: Backing) -> Self {
        match backing {
            Backing::Node(name) => Some(name),
            Backing::FromHeader | Backing::None => None,
        }
    }
}

/// `null-co`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NullSpec {
    /// Its size, in bytes.
    pub size: u64,
    /// How long each request takes, in nanoseconds.
    pub latency_ns: u64,
    /// Whether reads store zeros in the buffer or leave it as it is.
    pub read_zeroes: bool,
}

/// `fault`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FaultSpec {
    /// The node below.
    pub file: String,
    /// The rules it starts with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<FaultRule>,
}

/// When a request of a `fault` node fails, hangs or takes its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FaultRule {
    /// The rule's name; given one when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The requests it is for.
    pub op: FaultOp,
    /// Where the range starts that a request must touch, in bytes.
    pub offset: u64,
    /// How long the range is, in bytes; `None`: to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// How many matching requests pass before it acts.
    pub skip: u64,
    /// How many requests it acts on before it is spent; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How often it acts on a request that is left after that, in millionths.
    pub chance_ppm: u32,
    /// Seed of what is left to chance.
    pub seed: u64,
    /// What happens to the request.
    pub action: FaultAction,
    /// The error of `action=error` and `action=torn`.
    pub errno: FaultErrno,
    /// How many bytes of a torn write reach the medium; `None`: left to chance, less than all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    /// Whether the writer of a torn write is told that all went well.
    pub silent: bool,
    /// How long `action=delay` takes, in nanoseconds.
    pub delay_ns: u64,
}

/// The requests a [`FaultRule`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultOp {
    /// All.
    Any,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes (they have no range: any rule's range matches).
    Flush,
    /// Discards.
    Discard,
    /// Write-zeroes.
    WriteZeroes,
}

/// What a [`FaultRule`] does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultAction {
    /// It fails with the rule's error.
    Error,
    /// It starts after the rule's delay.
    Delay,
    /// It waits until `x-fault-release`.
    Hang,
    /// Only the beginning of a write reaches the medium.
    Torn,
    /// A byte of what is read or written is changed.
    Corrupt,
}

/// The error of a [`FaultRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum FaultErrno {
    /// Input/output error.
    Eio,
    /// No space left on device.
    Enospc,
    /// Operation not permitted.
    Eperm,
    /// Invalid argument.
    Einval,
    /// Out of memory.
    Enomem,
    /// Connection timed out.
    Etimedout,
    /// Read-only file system: the disk is read-only.
    Erofs,
    /// Operation not supported.
    Eopnotsupp,
    /// Operation canceled: the request was aborted.
    Ecanceled,
    /// No such device: the device is gone.
    Enodev,
    /// Structure needs cleaning: the image is corrupt.
    Euclean,
    /// Numerical result out of range: the range lies beyond the disk.
    Erange,
}

/// Whether discards reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiscardMode {
    /// No.
    Ignore,
    /// Yes.
    Unmap,
}

/// What happens to writes of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectZeroes {
    /// They are not looked for.
    Off,
    /// They become write-zeroes.
    On,
    /// They become write-zeroes that may unmap.
    Unmap,
}

/// How the host's page cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CacheSpec {
    /// Not at all (O_DIRECT).
    pub direct: bool,
    /// Flushes are skipped: data is lost when the host dies.
    pub no_flush: bool,
}

/// The engine that moves a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AioMode {
    /// io_uring.
    IoUring,
    /// A pool of threads.
    Threads,
}

/// Whether a file is locked against other writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locking {
    /// Yes, unless its file system has no locks.
    Auto,
    /// Yes, or it is not opened.
    On,
    /// No.
    Off,
}

impl BlockdevSpec {
    /// The names of the nodes directly below.
    #[must_use]
    pub fn children(&self) -> Vec<&str> {
        match &self.driver {
            DriverSpec::File(_) | DriverSpec::HostDevice(_) | DriverSpec::Null(_) => vec![],
            DriverSpec::Raw(raw) => vec![&raw.file],
            DriverSpec::Fault(fault) => vec![&fault.file],
            DriverSpec::Blkdebug(blkdebug) => vec![&blkdebug.image],
            DriverSpec::Luks(luks) => {
                let header = luks.header.iter().map(String::as_str);
                std::iter::once(&*luks.file).chain(header).collect()
            }
            DriverSpec::Qcow2(qcow2) => {
                let mut below: Vec<&str> = vec![&qcow2.file];
                below.extend(qcow2.data_file.as_deref());
                if let Backing::Node(backing) = &qcow2.backing {
                    below.push(backing);
                }
                below
            }
            DriverSpec::Vmdk(image)
            | DriverSpec::Vdi(image)
            | DriverSpec::Vpc(image)
            | DriverSpec::Vhdx(image)
            | DriverSpec::Parallels(image)
            | DriverSpec::Qed(image)
            | DriverSpec::Qcow(image)
            | DriverSpec::Dmg(image)
            | DriverSpec::Cloop(image)
            | DriverSpec::Bochs(image) => match &image.backing {
                Backing::Node(backing) => vec![&image.file, backing],
                Backing::FromHeader | Backing::None => vec![&image.file],
            },
        }
    }

    /// The driver's QEMU name.
    #[must_use]
    pub fn driver_name(&self) -> &'static str {
        match self.driver {
            DriverSpec::File(_) => FILE.name,
            DriverSpec::HostDevice(_) => HOST_DEVICE.name,
            DriverSpec::Raw(_) => RAW.name,
            DriverSpec::Qcow2(_) => QCOW2.name,
            DriverSpec::Vmdk(_) => VMDK.name,
            DriverSpec::Vdi(_) => VDI.name,
            DriverSpec::Vpc(_) => VPC.name,
            DriverSpec::Vhdx(_) => VHDX.name,
            DriverSpec::Parallels(_) => PARALLELS.name,
            DriverSpec::Qed(_) => QED.name,
            DriverSpec::Qcow(_) => QCOW.name,
            DriverSpec::Dmg(_) => DMG.name,
            DriverSpec::Cloop(_) => CLOOP.name,
            DriverSpec::Bochs(_) => BOCHS.name,
            DriverSpec::Luks(_) => LUKS.name,
            DriverSpec::Null(_) => NULL.name,
            DriverSpec::Fault(_) => FAULT.name,
            DriverSpec::Blkdebug(_) => BLKDEBUG.name,
        }
    }
}

/// All driver tables.
pub const DRIVERS: &[&Table] = &[
    &FILE,
    &HOST_DEVICE,
    &RAW,
    &QCOW2,
    &NULL,
    &FAULT,
    &BLKDEBUG,
    &VMDK,
    &VDI,
    &VPC,
    &VHDX,
    &PARALLELS,
    &QED,
    &QCOW,
    &DMG,
    &CLOOP,
    &BOCHS,
    &LUKS,
];

/// Other names that drivers go by.
pub const DRIVER_ALIASES: &[(&str, &str)] = &[("null", "null-co")];

/// The options every node has.
pub const COMMON: &[Prop] = &[
    prop("node-name", Kind::Id, "name of the node").required(),
    prop("read-only", Kind::Bool, "refuse writes").alias(&["readonly"]).or("off"),
    prop("discard", Kind::Enum(&["ignore", "unmap"]), "what becomes of discards").or("unmap"),
    prop("detect-zeroes", Kind::Enum(&["off", "on", "unmap"]), "make zero writes sparse").or("off"),
    prop("cache", Kind::Group(CACHE), "use of the host's page cache"),
    prop("part-of", Kind::Id, "node that it is closed with; default: none, or that around it"),
];

/// The options a child inherits from the node it is written in.
pub const INHERITED: &[&str] = &["read-only", "discard", "cache"];

const CACHE: &[Prop] = &[
    prop("direct", Kind::Bool, "bypass the host's page cache (O_DIRECT)").or("off"),
    prop("no-flush", Kind::Bool, "ignore flushes: unsafe").or("off"),
];

pub(super) const ANY_SIZE: Kind = Kind::Size { min: 0, max: i64::MAX as u64 };
const CHILD: Prop = prop("file", Kind::Id, "node below, by name or in place").required();

const FILE_PROPS: &[Prop] = &[
    prop("filename", Kind::Path, "file to open").required(),
    prop("aio", Kind::Enum(&["io_uring", "threads"]), "engine").or("io_uring"),
    prop("locking", Kind::Enum(&["auto", "on", "off"]), "lock out other writers").or("auto"),
];

/// `file`.
pub const FILE: Table =
    Table { what: "blockdev driver", name: "file", help: "file of the host", props: FILE_PROPS };

/// `host_device`.
pub const HOST_DEVICE: Table = Table {
    what: "blockdev driver",
    name: "host_device",
    help: "block device of the host",
    props: FILE_PROPS,
};

/// `raw`.
pub const RAW: Table = Table {
    what: "blockdev driver",
    name: "raw",
    help: "bytes as they are, or a window of them",
    props: &[
        CHILD,
        prop("offset", ANY_SIZE, "where the disk starts").or("0"),
        prop("size", ANY_SIZE, "how long it is; default: to the end"),
    ],
};

/// `qcow2`.
pub const QCOW2: Table = Table {
    what: "blockdev driver",
    name: "qcow2",
    help: "qcow2 image",
    props: &[
        CHILD,
        prop("backing", Kind::IdOrNull, "node below, null for none; default: the header's"),
        prop("data-file", Kind::Id, "node with the guest data; default: what the image names"),
        prop("lazy-refcounts", Kind::Bool, "put off refcount updates; default: the image's"),
        prop("l2-cache-size", ANY_SIZE, "memory for L2 tables; default: for the whole disk"),
        prop("encrypt", Kind::Group(ENCRYPT), "how an encrypted image is unlocked"),
    ],
};

const SECRET: Kind = Kind::Str { len_max: 127 };

const ENCRYPT: &[Prop] = &[
    prop("format", Kind::Enum(&["aes", "luks"]), "what it is encrypted with; default: as it says"),
    prop("key-secret", SECRET, "secret object that unlocks it"),
];

/// `luks`.
pub const LUKS: Table = Table {
    what: "blockdev driver",
    name: "luks",
    help: "encrypted disk (LUKS 1 and 2)",
    props: &[
        CHILD,
        prop("header", Kind::Id, "node with the header; default: before the disk"),
        prop("key-secret", SECRET, "secret object that unlocks it"),
    ],
};

const IMAGE: &[Prop] =
    &[CHILD, prop("backing", Kind::IdOrNull, "node below, null for none; default: the header's")];

const fn image(name: &'static str, help: &'static str) -> Table {
    Table { what: "blockdev driver", name, help, props: IMAGE }
}

/// `vmdk`.
pub const VMDK: Table = image("vmdk", "VMware image");

/// `vdi`.
pub const VDI: Table = image("vdi", "VirtualBox image");

/// `vpc`.
pub const VPC: Table = image("vpc", "VHD image");

/// `vhdx`.
pub const VHDX: Table = image("vhdx", "VHDX image");

/// `parallels`.
pub const PARALLELS: Table = image("parallels", "Parallels image");

/// `qed`.
pub const QED: Table = image("qed", "QED image");

/// `qcow`.
pub const QCOW: Table = image("qcow", "qcow (version 1) image, read-only");

/// `dmg`.
pub const DMG: Table = image("dmg", "DMG image, read-only");

/// `cloop`.
pub const CLOOP: Table = image("cloop", "cloop image, read-only");

/// `bochs`.
pub const BOCHS: Table = image("bochs", "Bochs image, read-only");

/// `null-co`.
pub const NULL: Table = Table {
    what: "blockdev driver",
    name: "null-co",
    help: "zeros that take no time",
    props: &[
        prop("size", ANY_SIZE, "size of the disk").or("1G"),
        prop("latency-ns", Kind::Uint { min: 0, max: 1 << 40 }, "time of a request").or("0"),
        prop("read-zeroes", Kind::Bool, "reads store zeros").or("off"),
    ],
};

/// `fault`.
pub const FAULT: Table = Table {
    what: "blockdev driver",
    name: "fault",
    help: "filter that makes requests fail, hang, take their time, tear or corrupt data",
    props: &[CHILD, prop("rules", Kind::Groups(FAULT_RULE), "rules to start with")],
};

/// A rule of a `fault` node, also the arguments of `x-fault-add`.
pub const FAULT_RULE: &[Prop] = &[
    prop("id", Kind::Id, "name of the rule; default: one is made up"),
    prop(
        "op",
        Kind::Enum(&["any", "read", "write", "flush", "discard", "write-zeroes"]),
        "requests it is for",
    )
    .or("any"),
    prop("offset", ANY_SIZE, "start of the range").or("0"),
    prop("length", ANY_SIZE, "length of the range; default: to the end"),
    prop("skip", Kind::Uint { min: 0, max: u64::MAX }, "matches to let pass first").or("0"),
    prop("count", Kind::Uint { min: 1, max: u64::MAX }, "matches to act on; default: all"),
    prop("chance-ppm", Kind::Uint { min: 1, max: 1_000_000 }, "chance to act, in millionths")
        .or("1000000"),
    prop("seed", Kind::Uint { min: 0, max: u64::MAX }, "seed of what is left to chance").or("0"),
    prop("action", Kind::Enum(&["error", "delay", "hang", "torn", "corrupt"]), "what happens")
        .or("error"),
    prop(
        "errno",
        Kind::Enum(&[
            "EIO",
            "ENOSPC",
            "EPERM",
            "EINVAL",
            "ENOMEM",
            "ETIMEDOUT",
            "EROFS",
            "EOPNOTSUPP",
            "ECANCELED",
            "ENODEV",
            "EUCLEAN",
            "ERANGE",
        ]),
        "error of action=error and torn",
    )
    .or("EIO"),
    prop("delay-ns", Kind::Uint { min: 0, max: 1 << 40 }, "time of action=delay").or("0"),
    prop("torn-bytes", ANY_SIZE, "bytes that action=torn writes; default: by chance"),
    prop("silent", Kind::Bool, "action=torn reports success").or("off"),
];
