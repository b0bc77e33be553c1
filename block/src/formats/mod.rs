//! The image formats other than raw and qcow2: their names, and what can be done with each.
//!
//! Every header is hostile: lengths are bounded, sums are checked, and what cannot be right is
//! refused with a sentence that names the field.

mod base64;
mod create;
mod error;
pub(crate) mod extents;
mod health;
mod probe;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

pub(crate) use base64::{base64, to_base64};
pub use create::{CreateOptions, Subformat, create};
pub(crate) use create::{begin, new_uuid};
pub use error::FormatError;
pub(crate) use error::{io, refuse};
pub use health::{Ailment, ailments, cure, has_ailments};
pub use probe::{PROBE_LEN, probe};

use crate::{Cx, Node, bochs, cloop, dmg, luks, parallels, qcow, qed, vdi, vhdx, vmdk, vpc};

/// Blocks of a disk that a table of ours holds: beyond this a header is refused.
pub(crate) const BLOCKS_MAX: u64 = 1 << 27;

/// A format of image files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageFormat {
    /// VMware's VMDK.
    Vmdk,
    /// VirtualBox's VDI.
    Vdi,
    /// Connectix' and Microsoft's VHD, which QEMU calls `vpc`.
    Vpc,
    /// Microsoft's VHDX.
    Vhdx,
    /// Parallels' HDD.
    Parallels,
    /// QEMU's QED.
    Qed,
    /// Version 1 of qcow, to be read.
    Qcow,
    /// Apple's DMG, to be read.
    Dmg,
    /// The compressed loop device's images, to be read.
    Cloop,
    /// Bochs' growing images, to be read.
    Bochs,
    /// LUKS, versions 1 and 2.
    Luks,
}

impl ImageFormat {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Vmdk,
        Self::Vdi,
        Self::Vpc,
        Self::Vhdx,
        Self::Parallels,
        Self::Qed,
        Self::Qcow,
        Self::Dmg,
        Self::Cloop,
        Self::Bochs,
        Self::Luks,
    ];

    /// QEMU's name of the driver.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
            Self::Parallels => "parallels",
            Self::Qed => "qed",
            Self::Qcow => "qcow",
            Self::Dmg => "dmg",
            Self::Cloop => "cloop",
            Self::Bochs => "bochs",
            Self::Luks => "luks",
        }
    }

    /// The format of this name.
    #[must_use]
    pub fn called(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }

    /// Whether images can be written to, and made.
    #[must_use]
    pub fn is_writable(self) -> bool {
        match self {
            Self::Vmdk
            | Self::Vdi
            | Self::Vpc
            | Self::Vhdx
            | Self::Parallels
            | Self::Qed
            | Self::Luks => true,
            Self::Qcow | Self::Dmg | Self::Cloop | Self::Bochs => false,
        }
    }

    /// Whether there is something to check.
    #[must_use]
    pub fn has_check(self) -> bool {
        match self {
            Self::Vmdk | Self::Vdi | Self::Vhdx | Self::Parallels | Self::Qed => true,
            Self::Vpc | Self::Qcow | Self::Dmg | Self::Cloop | Self::Bochs | Self::Luks => false,
        }
    }

    /// Whether images can have a backing file.
    #[must_use]
    pub fn has_backing(self) -> bool {
        match self {
            Self::Vmdk | Self::Vpc | Self::Vhdx | Self::Qed | Self::Qcow => true,
            Self::Vdi | Self::Parallels | Self::Dmg | Self::Cloop | Self::Bochs | Self::Luks => {
                false
            }
        }
    }
}

/// Opens files that an image consists of beside the one that names them.
pub trait Beside {
    /// Opens the file `name` of the image's directory.
    ///
    /// # Errors
    /// A sentence about why not.
    fn open(&self, name: &str, read_only: bool) -> Result<Arc<dyn Node>, String>;
}

/// No other files can be opened.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Beside for Alone {
    fn open(&self, name: &str, _: bool) -> Result<Arc<dyn Node>, String> {
        Err(format!(
            "the image needs the file '{}', and is used without others",
            name.escape_debug()
        ))
    }
}

/// Files of one directory. A header is hostile: it may name a file of this directory, nothing else.
pub struct Directory<F>(pub F);

impl<F: Fn(&std::path::Path, bool) -> Result<Arc<dyn Node>, String>> Beside for Directory<F> {
    fn open(&self, name: &str, read_only: bool) -> Result<Arc<dyn Node>, String> {
        let plain =
            !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0', '\\']);
        if !plain {
            return Err(format!(
                "the image names the file '{}', which is not in its own directory",
                name.escape_debug()
            ));
        }
        (self.0)(std::path::Path::new(name), read_only)
    }
}

/// What an image says of its backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// Its name, as it is written.
    pub file: String,
    /// Its format; `None`: the image does not say.
    pub format: Option<&'static str>,
}

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cluster, where the format has some.
    pub cluster: Option<u64>,
    /// The backing file.
    pub backing: Option<BackingName>,
    /// Whether it was not closed properly, where that can be told.
    pub dirty: Option<bool>,
    /// What an image above this one calls it by, where the format has that (VHD's unique id, VHDX's
    /// data write GUID, VMDK's content id).
    pub id: Option<[u8; 16]>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// What only this format has, with QEMU's names.
    pub specific: Option<serde_json::Value>,
}

/// How an image is opened.
pub struct Request<'a> {
    /// The file.
    pub file: Arc<dyn Node>,
    /// What is read where the image has nothing of its own.
    pub backing: Option<Arc<dyn Node>>,
    /// The backing file's [`Facts::id`]: where the image says which it needs, it must be that one.
    pub backing_id: Option<[u8; 16]>,
    /// Never written to.
    pub read_only: bool,
    /// The caller writes to an empty image and closes it; what it holds counts only then. Formats
    /// that are written in one go can be written to at all.
    pub once: bool,
    /// The passphrase, where the image is encrypted.
    pub secret: Option<Secret>,
    /// The file that holds the header, where that is not the image's own (LUKS).
    pub header: Option<Arc<dyn Node>>,
    /// Further files.
    pub beside: &'a dyn Beside,
}

/// A passphrase. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// These bytes, as they are.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'a> Request<'a> {
    /// A request to read the image in `file`, without a backing file.
    #[must_use]
    pub fn read(file: Arc<dyn Node>, beside: &'a dyn Beside) -> Self {
        Self {
            file,
            backing: None,
            backing_id: None,
            read_only: true,
            once: false,
            secret: None,
            header: None,
            beside,
        }
    }
}

impl Request<'_> {
    /// Whether nothing may be written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only || self.file.info().read_only
    }
}

/// Images of this format are only read.
pub(crate) fn read_only_only(name: &str, request: &Request<'_>) -> Result<(), FormatError> {
    if request.is_read_only() {
        return Ok(());
    }
    Err(FormatError::Unsupported(format!("{name} images are only read; open it read-only")))
}

/// Opens an image.
///
/// # Errors
/// A sentence about what is wrong with it, without its name.
pub async fn open(
    cx: &Cx,
    format: ImageFormat,
    request: Request<'_>,
) -> Result<Arc<dyn Node>, FormatError> {
    match format {
        ImageFormat::Vmdk => vmdk::open(cx, request).await,
        ImageFormat::Vdi => vdi::open(cx, request).await,
        ImageFormat::Vpc => vpc::open(cx, request).await,
        ImageFormat::Vhdx => vhdx::open(cx, request).await,
        ImageFormat::Parallels => parallels::open(cx, request).await,
        ImageFormat::Qed => qed::open(cx, request).await,
        ImageFormat::Qcow => qcow::open(cx, request).await,
        ImageFormat::Dmg => dmg::open(cx, request).await,
        ImageFormat::Cloop => cloop::open(cx, request).await,
        ImageFormat::Bochs => bochs::open(cx, request).await,
        ImageFormat::Luks => luks::open(cx, request).await,
    }
}

/// Reads what an image says of itself.
///
/// # Errors
/// As [`open`].
pub async fn facts(
    cx: &Cx,
    format: ImageFormat,
    file: &Arc<dyn Node>,
    beside: &dyn Beside,
) -> Result<Facts, FormatError> {
    match format {
        ImageFormat::Vmdk => vmdk::facts(cx, file, beside).await,
        ImageFormat::Vdi => vdi::facts(cx, file).await,
        ImageFormat::Vpc => vpc::facts(cx, file).await,
        ImageFormat::Vhdx => vhdx::facts(cx, file).await,
        ImageFormat::Parallels => parallels::facts(cx, file).await,
        ImageFormat::Qed => qed::facts(cx, file).await,
        ImageFormat::Qcow => qcow::facts(cx, file).await,
        ImageFormat::Dmg => dmg::facts(cx, file).await,
        ImageFormat::Cloop => cloop::facts(cx, file).await,
        ImageFormat::Bochs => bochs::facts(cx, file).await,
        ImageFormat::Luks => luks::facts(cx, file).await,
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks of the disk.
    pub total: u64,
    /// Blocks with a place of their own.
    pub allocated: u64,
    /// Contradictions that may cost data.
    pub corruptions: u64,
    /// Blocks of the file that nothing uses.
    pub leaks: u64,
    /// The first byte behind everything in use.
    pub end: u64,
    /// Each finding, in words.
    pub messages: Vec<String>,
}

/// Checks an image. Nothing is changed.
///
/// # Errors
/// As [`open`]; [`FormatError::NoCheck`] where the format has nothing to check.
pub async fn check(
    cx: &Cx,
    format: ImageFormat,
    file: &Arc<dyn Node>,
    beside: &dyn Beside,
) -> Result<Report, FormatError> {
    if !format.has_check() {
        return Err(FormatError::NoCheck);
    }
    let request = || Request::read(Arc::clone(file), beside);
    match format {
        ImageFormat::Vmdk => vmdk::check(cx, request()).await,
        ImageFormat::Vdi => vdi::check(cx, request()).await,
        ImageFormat::Vhdx => vhdx::check(cx, request()).await,
        ImageFormat::Parallels => parallels::check(cx, request()).await,
        ImageFormat::Qed => qed::check(cx, request()).await,
        ImageFormat::Vpc
        | ImageFormat::Qcow
        | ImageFormat::Dmg
        | ImageFormat::Cloop
        | ImageFormat::Bochs
        | ImageFormat::Luks => Err(FormatError::NoCheck),
    }
}

/// Mends what a crash has left, as far as that can be done without a loss: replays a log, clears
/// entries that point nowhere, gives lost space back. The image is marked as closed then.
///
/// # Errors
/// As [`open`].
pub async fn repair(
    cx: &Cx,
    format: ImageFormat,
    file: &Arc<dyn Node>,
    beside: &dyn Beside,
) -> Result<(), FormatError> {
    match format {
        ImageFormat::Parallels => parallels::repair(cx, file).await,
        ImageFormat::Vhdx | ImageFormat::Qed => {
            let request = Request { read_only: false, ..Request::read(Arc::clone(file), beside) };
            let image = open(cx, format, request).await?;
            image.close(Cx::clone(cx)).await.map_err(io("closing the image"))
        }
        ImageFormat::Vmdk
        | ImageFormat::Vdi
        | ImageFormat::Vpc
        | ImageFormat::Qcow
        | ImageFormat::Dmg
        | ImageFormat::Cloop
        | ImageFormat::Bochs
        | ImageFormat::Luks => Ok(()),
    }
}
