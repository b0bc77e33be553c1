//! Header copies: formats that keep what is most important twice can be mended when one is lost,
//! also where the format has nothing that is called a check.

use std::sync::Arc;

use super::{FormatError, ImageFormat};
use crate::{Cx, Node, luks, vpc};

/// Something about an image's headers that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ailment {
    /// What, in words.
    pub what: String,
    /// What [`cure`] does about it; `None`: nothing.
    pub cure: Option<String>,
}

impl Ailment {
    pub(crate) fn new(what: impl Into<String>, cure: Option<&str>) -> Self {
        Self { what: what.into(), cure: cure.map(str::to_owned) }
    }
}

/// Whether [`ailments`] looks at anything.
#[must_use]
pub fn has_ailments(format: ImageFormat) -> bool {
    matches!(format, ImageFormat::Vpc | ImageFormat::Luks)
}

/// Looks at the headers of an image and their copies. No passphrase is needed.
///
/// # Errors
/// The file cannot be read.
pub async fn ailments(
    cx: &Cx,
    format: ImageFormat,
    file: &Arc<dyn Node>,
) -> Result<Vec<Ailment>, FormatError> {
    match format {
        ImageFormat::Vpc => vpc::health::ailments(cx, file).await,
        ImageFormat::Luks => luks::health::ailments(cx, file).await,
        _ => Ok(Vec::new()),
    }
}

/// Mends what [`ailments`] found, as far as it said so.
///
/// # Errors
/// The file cannot be read or written.
pub async fn cure(cx: &Cx, format: ImageFormat, file: &Arc<dyn Node>) -> Result<(), FormatError> {
    match format {
        ImageFormat::Vpc => vpc::health::cure(cx, file).await,
        ImageFormat::Luks => luks::health::cure(cx, file).await,
        _ => Ok(()),
    }
}
