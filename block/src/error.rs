//! The one error of the data path, and how errors are told.

use std::error::Error;

/// An error and its causes in one line.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Why a request failed, in terms that every controller can turn into its own protocol's status.
///
/// The list is closed on purpose: a controller matches it without a wildcard arm, so that a new
/// reason is a decision in each of them. `errno` values are mapped once, in [`from_errno`].
///
/// [`from_errno`]: BlockError::from_errno
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BlockError {
    /// The range does not lie inside the disk.
    #[error("range beyond the end of the disk")]
    OutOfRange,
    /// Offset, length or memory is not a multiple of what the node needs.
    #[error("misaligned request")]
    Misaligned,
    /// A write, discard or flush of something opened read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// No space is left where the image lives (`ENOSPC`, `EDQUOT`, `EFBIG`).
    #[error("no space left")]
    NoSpace,
    /// The medium could not be read or written at that place (`EIO` and its kin).
    #[error("medium error")]
    Medium,
    /// The operation is not supported by this node or file system.
    #[error("operation not supported")]
    Unsupported,
    /// The image's own metadata contradicts itself; nothing was changed.
    #[error("image metadata is corrupt")]
    Corrupt,
    /// The request was given up because of a drain, a reset or a shutdown.
    #[error("request aborted")]
    Aborted,
    /// No answer came in time.
    #[error("request timed out")]
    TimedOut,
    /// Memory for the request could not be had.
    #[error("out of memory")]
    NoMemory,
    /// The file may not be used that way (`EACCES`, `EPERM`).
    #[error("permission denied")]
    Permission,
    /// The file or device behind the node is gone (`ENODEV`, `ENXIO`, `EBADF`).
    #[error("the device is gone")]
    Gone,
}

impl BlockError {
    /// Every variant, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::OutOfRange,
        Self::Misaligned,
        Self::ReadOnly,
        Self::NoSpace,
        Self::Medium,
        Self::Unsupported,
        Self::Corrupt,
        Self::Aborted,
        Self::TimedOut,
        Self::NoMemory,
        Self::Permission,
        Self::Gone,
    ];

    /// The error that a (positive) `errno` stands for. Unknown values are [`BlockError::Medium`].
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::NoSpace,
            libc::EINVAL => Self::Misaligned,
            libc::EROFS => Self::ReadOnly,
            libc::EOPNOTSUPP | libc::ENOSYS => Self::Unsupported,
            libc::ECANCELED => Self::Aborted,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::ENOMEM => Self::NoMemory,
            libc::EACCES | libc::EPERM => Self::Permission,
            libc::ENODEV | libc::ENXIO | libc::EBADF => Self::Gone,
            _ => Self::Medium,
        }
    }

    /// A short stable name, as the monitor and fault rules spell it (`no-space`, `medium`, …).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfRange => "out-of-range",
            Self::Misaligned => "misaligned",
            Self::ReadOnly => "read-only",
            Self::NoSpace => "no-space",
            Self::Medium => "medium",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Aborted => "aborted",
            Self::TimedOut => "timed-out",
            Self::NoMemory => "no-memory",
            Self::Permission => "permission",
            Self::Gone => "gone",
        }
    }
}

impl From<std::io::Error> for BlockError {
    fn from(e: std::io::Error) -> Self {
        e.raw_os_error().map_or(Self::Medium, Self::from_errno)
    }
}
