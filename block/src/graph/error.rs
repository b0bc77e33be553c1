//! What can go wrong with a graph: one sentence each.

use std::path::PathBuf;

use crate::{
    BlockError,
    nodes::{
        fault::{FaultError, config::ReadError},
        file::{FileError, error::shown},
        raw::WindowError,
    },
};

/// Why something could not be done to the graph. Nothing has changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// A name that nodes cannot have.
    #[error("'{0}' is no name for a node: use letters, digits, '-', '.' and '_', a letter first, at most {max}", max = super::names::MAX)]
    BadName(String),
    /// A name that is taken.
    #[error("there is a node '{0}' already; choose another node-name")]
    Taken(String),
    /// There are too many nodes.
    #[error("there are {0} nodes already; delete some")]
    TooMany(usize),
    /// No node has this name.
    #[error("there is no node '{0}'")]
    NoNode(String),
    /// No disk has this name.
    #[error("there is no disk '{0}'")]
    NoRoot(String),
    /// A disk of this name is there.
    #[error("there is a disk '{0}' already")]
    RootTaken(String),
    /// It is not that kind of node.
    #[error("node '{name}' is a '{driver}' node, not '{wanted}'")]
    WrongDriver {
        /// The node.
        name: String,
        /// What it is.
        driver: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The node is part of something.
    #[error("node '{name}' is used by {by}; {}", if *root { "remove that first" } else { "delete that first" })]
    InUse {
        /// The node.
        name: String,
        /// Who uses it.
        by: String,
        /// Whether that is a disk.
        root: bool,
    },
    /// Two users would write, or one would read what the other writes.
    #[error("node '{name}' cannot be used by {wanted}: {by} {}", if *writes { "writes to it" } else { "needs it unchanged; open one of them read-only" })]
    Conflict {
        /// The node.
        name: String,
        /// Who wants it.
        wanted: String,
        /// Who has it.
        by: String,
        /// Whether the one who has it is the one who writes.
        writes: bool,
    },
    /// A writable node above one that is not.
    #[error(
        "node '{child}' is read-only, and '{name}' would write to it; add read-only=on to '{name}'"
    )]
    ReadOnlyChild {
        /// The node to be opened.
        name: String,
        /// The one below.
        child: String,
    },
    /// The file is in use by this very process.
    #[error(
        "cannot open '{}': node '{node}' uses it already; use that node, or open both read-only",
        shown(path)
    )]
    InUseHere {
        /// The file.
        path: PathBuf,
        /// The node that has it.
        node: String,
    },
    /// A file could not be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The window of a raw node.
    #[error("cannot open node '{name}': {error}")]
    Window {
        /// The node.
        name: String,
        /// What is wrong with it.
        error: WindowError,
    },
    /// The image is not what it should be.
    #[error("cannot open '{}' as a {format} image: {reason}", shown(path))]
    Image {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The backing file that an image names cannot be used.
    #[error("'{}' names the backing file '{}', {reason}", shown(image), shown(backing.as_ref()))]
    Backing {
        /// The image.
        image: PathBuf,
        /// What its header says.
        backing: String,
        /// Why not.
        reason: BackingReason,
    },
    /// A backing file could not be opened.
    #[error("the backing file of '{}' is missing or unusable: {error}", shown(image))]
    BackingFile {
        /// The image.
        image: PathBuf,
        /// What is wrong with its backing file.
        error: Box<GraphError>,
    },
    /// A rule of a fault node.
    #[error("node '{name}': {error}")]
    Fault {
        /// The node.
        name: String,
        /// What is wrong.
        error: FaultError,
    },
    /// A file with rules for a fault node.
    #[error("node '{name}': config '{}'", shown(path))]
    FaultConfig {
        /// The node.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: ReadError,
    },
    /// The size could not be changed.
    #[error("cannot resize node '{name}' to {size} bytes: {error}")]
    Resize {
        /// The node.
        name: String,
        /// The size asked for.
        size: u64,
        /// What went wrong.
        error: BlockError,
    },
    /// Closing went wrong: the node is gone, its last writes may be lost.
    #[error("node '{name}' could not be written back when it was closed: {error}; check the image")]
    Close {
        /// The node.
        name: String,
        /// What went wrong.
        error: BlockError,
    },
}

/// Why a backing file is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackingReason {
    /// The header does not say what format it has.
    #[error(
        "but not its format, and guessing is not safe; say it with 'qemu-img rebase -u -b BACKING -F FORMAT IMAGE'"
    )]
    NoFormat,
    /// The header names a format that is not known.
    #[error("whose format '{0}' is not supported; known are qcow2 and raw")]
    Format(String),
    /// `json:` or a protocol.
    #[error(
        "which is not a plain file name; such names are not followed from an image (if it is a file, name it './…' with 'qemu-img rebase -u')"
    )]
    Protocol,
    /// A relative name in an image that is in no directory.
    #[error(
        "which is relative, but the image is no file of its own; give the backing node by name"
    )]
    Relative,
    /// The chain comes back to itself.
    #[error("which is part of the same chain already: the chain never ends")]
    Cycle,
    /// The chain is too long.
    #[error("more than {0} images deep; commit some of them first")]
    TooDeep(usize),
}
