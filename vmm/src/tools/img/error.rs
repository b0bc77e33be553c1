//! What can go wrong with images.
use crate::spec::SpecError;
use spindle_block::nodes::file::FileError;
use spindle_block::qcow2::{OpenError, check::CheckError, create::CreateError};
use std::io;
use std::path::PathBuf;

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImgError {
    /// Its file cannot be opened or made.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its file cannot be looked at.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It is no image of its format, or a damaged one.
    #[error("cannot open '{}'", .path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: OpenError,
    },
    /// It could not be made.
    #[error("cannot create '{}'", .path.display())]
    Create {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CreateError,
    },
    /// It could not be checked.
    #[error("cannot check '{}'", .path.display())]
    Check {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CheckError,
    },
    /// Its content or its header asks for something that is not done.
    #[error("'{}': {reason}", .path.display())]
    Refused {
        /// The image.
        path: PathBuf,
        /// What, and what to do.
        reason: String,
    },
    /// Space could not be set aside.
    #[error("cannot allocate '{}' beforehand", .path.display())]
    Allocate {
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host has no ring for the work.
    #[error("cannot start the block layer")]
    Start(#[source] io::Error),
}

impl ImgError {
    pub(super) fn refused(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Refused { path: path.into(), reason: reason.into() }
    }
}
