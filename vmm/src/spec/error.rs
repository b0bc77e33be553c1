//! What can be wrong with a description of a machine.
use super::names::did_you_mean;
use std::io;
use std::path::PathBuf;

/// An error in a machine description: an option, a property or a file it names.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A name that nothing answers to.
    #[error("{of}: unknown {what} '{name}'{}", did_you_mean(.near))]
    Unknown {
        /// Whose name it is: `device 'virtio-blk-pci'`, `--disk`.
        of: String,
        /// What kind of name: `property`, `driver`, `key`.
        what: &'static str,
        /// The name as typed.
        name: String,
        /// Known names close to it.
        near: Vec<String>,
    },
    /// A value that does not fit its property.
    #[error("{of}: {name}: {reason}")]
    BadValue {
        /// Whose property.
        of: String,
        /// The property.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A property that must be given is not.
    #[error("{of}: '{name}' is missing: {help}")]
    Missing {
        /// Whose property.
        of: String,
        /// The property.
        name: String,
        /// What it is for.
        help: String,
    },
    /// An option without a value.
    #[error("{of}: '{name}' has no value; type '{name}=…' (a comma inside a value is typed twice)")]
    NoValue {
        /// The option that it is a part of.
        of: String,
        /// The part.
        name: String,
    },
    /// `key=value` or JSON text that cannot be split into options.
    #[error("{of}: {reason}")]
    Syntax {
        /// The option.
        of: String,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// Options that contradict each other or name something that is not there.
    #[error("{0}")]
    Conflict(String),
    /// A file that cannot be used.
    #[error("cannot open '{}'", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file whose content cannot be used as it is.
    #[error("'{}': {reason}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was seen and what to do.
        reason: String,
    },
}

impl SpecError {
    /// Whether the command line is at fault (exit status 2) rather than a file (exit status 1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::File { .. } | Self::Content { .. })
    }

    pub(crate) fn bad(of: &str, name: &str, reason: impl Into<String>) -> Self {
        Self::BadValue { of: of.to_owned(), name: name.to_owned(), reason: reason.into() }
    }

    pub(crate) fn syntax(of: &str, reason: impl Into<String>) -> Self {
        Self::Syntax { of: of.to_owned(), reason: reason.into() }
    }
}
