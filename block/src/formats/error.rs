//! Why an image cannot be opened or made.

use crate::BlockError;

/// Why an image cannot be opened or made. The caller adds the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is no image of this format at all.
    #[error("the file does not begin like a {0} image")]
    Magic(&'static str),
    /// A field of the header cannot be right.
    #[error("the image is damaged or hostile: its {field} {what}")]
    Field {
        /// The field, by the specification's name.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// It is right, but not for this driver.
    #[error("{0}")]
    Unsupported(String),
    /// An option that cannot be.
    #[error("{0}")]
    Option(String),
    /// Another file of the image.
    #[error("{0}")]
    Beside(String),
    /// The format has nothing to check.
    #[error("this image format does not support checks")]
    NoCheck,
    /// The file could not be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: BlockError,
    },
}

/// For `map_err`.
pub(crate) fn io(doing: &'static str) -> impl Fn(BlockError) -> FormatError {
    move |source| FormatError::Io { doing, source }
}

/// A field that cannot be right.
pub(crate) fn refuse(field: &'static str, what: impl Into<String>) -> FormatError {
    FormatError::Field { field, what: what.into() }
}
