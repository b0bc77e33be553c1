//! What a node is asked to be: plain data, with QEMU's names.

use std::path::PathBuf;

pub use crate::nodes::{
    fault::{Blkdebug, FaultRule},
    file::Locking,
    null::NullOptions,
};
use crate::{
    formats::{ImageFormat, Secret},
    root::{DetectZeroes, Policy},
};

/// A node of the graph. Children are named: a graph is opened from the files up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// Its name; one is made up (`#block000`) where it has none.
    pub node_name: Option<String>,
    /// What it is.
    pub driver: DriverOptions,
    /// No writes.
    pub read_only: bool,
    /// No writes if what is below takes none.
    pub auto_read_only: bool,
    /// Whether discards do something.
    pub discard: Discard,
    /// What becomes of writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// How the host's page cache is used.
    pub cache: Cache,
    /// Others may write to the files while they are read.
    pub force_share: bool,
    /// It is part of this node, and closed with it.
    pub owner: Option<String>,
}

impl NodeOptions {
    /// A node with QEMU's defaults.
    #[must_use]
    pub fn new(node_name: &str, driver: DriverOptions) -> Self {
        Self {
            node_name: Some(node_name.to_owned()),
            driver,
            read_only: false,
            auto_read_only: false,
            discard: Discard::Unmap,
            detect_zeroes: DetectZeroes::Off,
            cache: Cache::default(),
            force_share: false,
            owner: None,
        }
    }

    /// The policy of a root on top of this node.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            read_only: self.read_only,
            write_through: false,
            ignore_flush: self.cache.no_flush,
            ignore_discard: self.discard == Discard::Ignore,
            detect_zeroes: self.detect_zeroes,
        }
    }
}

/// `discard=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// Discards do nothing.
    Ignore,
    /// Discards give space back.
    #[default]
    Unmap,
}

/// `cache.direct` and `cache.no-flush`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub no_flush: bool,
}

/// A driver and its own options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverOptions {
    /// `file`
    File(HostFile),
    /// `host_device`
    HostDevice(HostFile),
    /// `raw`
    Raw {
        /// The node below.
        file: String,
        /// Where the disk starts in it, in bytes.
        offset: u64,
        /// Its length in bytes; `None`: to the end.
        size: Option<u64>,
    },
    /// `qcow2`
    Qcow2(Qcow2Options),
    /// `vmdk`, `vdi`, and the other formats of [`ImageFormat`].
    Image(ImageOptions),
    /// `null-co`
    Null(NullOptions),
    /// `fault`
    Fault {
        /// The node below.
        file: String,
        /// The rules it starts with.
        rules: Vec<FaultRule>,
    },
    /// `blkdebug`
    Blkdebug {
        /// The node below.
        image: String,
        /// A file with further rules.
        config: Option<PathBuf>,
        /// Rules and limits.
        rules: Blkdebug,
    },
}

impl DriverOptions {
    /// The driver's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::HostDevice(_) => "host_device",
            Self::Raw { .. } => "raw",
            Self::Qcow2(_) => "qcow2",
            Self::Image(image) => image.format.name(),
            Self::Null(_) => "null-co",
            Self::Fault { .. } => "fault",
            Self::Blkdebug { .. } => "blkdebug",
        }
    }
}

/// Options of `file` and `host_device`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFile {
    /// The file.
    pub filename: PathBuf,
    /// Whether it is locked.
    pub locking: Locking,
}

/// Options of the formats of [`ImageFormat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Which.
    pub format: ImageFormat,
    /// The node that holds the image.
    pub file: String,
    /// Where is read from what the image does not have.
    pub backing: Backing,
    /// The passphrase, where the image is encrypted.
    pub secret: Option<Secret>,
    /// The node that holds the header, where that is not the image's own (LUKS).
    pub header: Option<String>,
}

/// Options of `qcow2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Options {
    /// The node that holds the image.
    pub file: String,
    /// Where unallocated clusters are read from.
    pub backing: Backing,
    /// The node that guest data is in, where the image says that it is in a file of its own; `None`:
    /// the file that the image names.
    pub data_file: Option<String>,
    /// Put off refcount updates; `None`: as the image says.
    pub lazy_refcounts: Option<bool>,
    /// Memory for L2 tables in bytes; `None`: enough for the whole disk, up to a limit.
    pub l2_cache_size: Option<u64>,
    /// The passphrase, where the image is encrypted.
    pub secret: Option<Secret>,
    /// How it is encrypted, if that is to be as expected.
    pub encrypt_format: Option<String>,
}

/// Where a qcow2 node's unallocated clusters are read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// From the file that the image names, if any.
    #[default]
    FromHeader,
    /// From nowhere: they read as zeros.
    None,
    /// From this node.
    Node(String),
}
