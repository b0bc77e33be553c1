//! What can go wrong with images.
use crate::spec::SpecError;
use spindle_block::nodes::file::FileError;
use spindle_block::qcow2::{OpenError, check::CheckError, create::CreateError};
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The names under which the program is one of its tools.
pub const NAMES: [&str; 3] = ["qemu-img", "qemu-io", "qemu-nbd"];

/// How messages of the image tools begin: by the name the program was started under.
#[must_use]
pub fn prefix() -> &'static str {
    static PREFIX: OnceLock<&str> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let mut args = std::env::args_os();
        let started = args.next().map(PathBuf::from).unwrap_or_default();
        let name = started.file_name().unwrap_or_default();
        match (NAMES.iter().find(|known| name == **known), args.next()) {
            (Some(name), _) => name,
            (None, Some(command)) if command == "io" => "spindle io",
            (None, Some(command)) if command == "nbd" => "spindle nbd",
            (None, _) => "spindle img",
        }
    })
}

/// The sentence about a number that is none.
#[must_use]
pub fn not_a_size(name: &str, text: &str) -> ImgError {
    ImgError::said(format!("Invalid {name} specified: '{text}'."))
}

/// The sentence about a number that is too small or too large.
#[must_use]
pub fn not_between(name: &str, min: u64, max: u64) -> ImgError {
    ImgError::said(format!("Invalid {name} specified. Must be between {min} and {max}."))
}

/// A byte count from `min` to `max`, which is below 2^63.
///
/// # Errors
///
/// qemu-img's sentence about any other text (qemu-img.c, cvtnum_full).
pub fn number_between(name: &str, text: &str, min: u64, max: u64) -> Result<u64, ImgError> {
    match crate::spec::size::parse(text, 1) {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        Ok(_) => Err(not_between(name, min, max)),
        // More than 64 bits is a number all the same.
        Err(error) if error.contains("64 bits") => Err(not_between(name, min, max)),
        // And so is one below zero.
        Err(_)
            if text
                .strip_prefix('-')
                .is_some_and(|text| crate::spec::size::parse(text, 1).is_ok()) =>
        {
            Err(not_between(name, min, max))
        }
        Err(_) => Err(not_a_size(name, text)),
    }
}

/// The largest number of bytes.
pub const BYTES_MAX: u64 = i64::MAX as u64;

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
    /// It was not made, in qemu-img's words.
    #[error("{}: {reason}", .path.display())]
    NotMade {
        /// The image.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Anything that is said in qemu-img's words.
    #[error("{0}")]
    Said(String),
    /// Space could not be set aside.
    #[error("cannot allocate '{}' beforehand", .path.display())]
    Allocate {
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses the sandbox.
    #[error("cannot enter the sandbox (--sandbox off does without)")]
    Sandbox(#[source] io::Error),
    /// The host has no ring for the work.
    #[error("cannot start the block layer")]
    Start(#[source] io::Error),
}

impl ImgError {
    pub(crate) fn said(sentence: impl Into<String>) -> Self {
        Self::Said(sentence.into())
    }

    pub(super) fn not_made(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::NotMade { path: path.into(), reason: reason.into() }
    }

    pub(super) fn refused(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Refused { path: path.into(), reason: reason.into() }
    }
}
