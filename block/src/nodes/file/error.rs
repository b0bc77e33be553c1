//! Why an image file could not be opened or made.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{file::TooManyFiles, lock::LockError};

/// A path as it is shown: control characters and the like escaped, so that a hostile name cannot
/// play with a terminal or a log.
#[must_use]
pub fn shown(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(|c| {
            let escape =
                c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let plain = (!escape).then_some(c);
            plain.into_iter().chain(escape.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

/// One clear sentence: what was being done, to which file, what went wrong, what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {} '{}': {reason}", if *create { "create" } else { "open" }, shown(path))]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// Whether it was to be made.
    pub create: bool,
    /// What went wrong.
    pub reason: Reason,
}

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// No such file.
    #[error("it does not exist; check the name, or make it with 'spindle img create'")]
    Missing,
    /// A directory on the way does not exist, or is none.
    #[error("its directory does not exist")]
    NoDirectory,
    /// A name no file can have.
    #[error("that is not a file name")]
    BadName,
    /// The permissions forbid it.
    #[error("permission denied; {}",
        if *writing { "allow writing to it, or open it with read-only=on" }
        else { "allow reading it" })]
    Permission {
        /// It was to be written to.
        writing: bool,
    },
    /// The file system or the device is read-only.
    #[error("it is on a read-only medium; open it with read-only=on")]
    ReadOnlyMedium,
    /// It is neither a file nor a block device.
    #[error("it is {0}, not an image file")]
    NotAnImage(&'static str),
    /// A block device where a file was expected.
    #[error("it is a block device; use the driver 'host_device'")]
    IsBlockDevice,
    /// A file where a block device was expected.
    #[error("it is a regular file; use the driver 'file'")]
    IsRegularFile,
    /// Another program uses it.
    #[error("{error}; {}", lock_advice(error))]
    Locked {
        /// Who is in the way.
        error: LockError,
    },
    /// A write permission was wanted together with `force-share`.
    #[error("force-share=on reads what others write; use it with read-only=on")]
    ForceShareWrites,
    /// Too many files.
    #[error(transparent)]
    TooMany(#[from] TooManyFiles),
    /// It is already there and may not be overwritten.
    #[error("it already exists; remove it first or choose another name")]
    Exists,
    /// There is no room for it.
    #[error("no space left on its file system")]
    NoSpace,
    /// Anything else.
    #[error("{0}")]
    Io(io::Error),
}

fn lock_advice(error: &LockError) -> &'static str {
    match error {
        LockError::InUse { .. } => {
            "stop that program, or (if stale data will do) open it with read-only=on,force-share=on"
        }
        LockError::Denied { .. } => "stop that program, or open it with read-only=on",
        LockError::Unsupported(_) | LockError::Failed(_) => {
            "use locking=off if no other program uses it"
        }
    }
}

impl Reason {
    /// What an `errno` from opening means.
    pub(super) fn of_open(error: io::Error, writing: bool, exists: bool) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) if exists => Self::NoDirectory,
            Some(libc::ENOENT) => Self::Missing,
            Some(libc::ENOTDIR) => Self::NoDirectory,
            Some(libc::EACCES | libc::EPERM) => Self::Permission { writing },
            Some(libc::EROFS) => Self::ReadOnlyMedium,
            Some(libc::EISDIR) => Self::NotAnImage("a directory"),
            Some(libc::ENXIO) => Self::NotAnImage("a pipe, a socket or a device that is gone"),
            Some(libc::EEXIST) => Self::Exists,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::NoSpace,
            Some(libc::ENAMETOOLONG | libc::EILSEQ) => Self::BadName,
            None if error.kind() == io::ErrorKind::InvalidInput => Self::BadName,
            _ => Self::Io(error),
        }
    }
}
