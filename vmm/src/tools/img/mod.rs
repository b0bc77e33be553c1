//! `spindle img`, with the options, output and exit statuses of `qemu-img`, so that scripts need
//! change nothing but the name.
pub mod amend;
mod announce;
mod aside;
pub mod bench;
pub mod bitmap;
mod carry;
pub mod check;
pub mod commit;
pub mod compact;
pub mod compare;
pub mod convert;
mod copy;
pub(super) mod cor;
pub mod create;
pub mod dd;
pub mod doctor;
pub(super) mod encrypt;
pub mod error;
pub(crate) mod files;
pub mod formats;
#[cfg(test)]
mod formats_tests;
pub mod image;
pub mod info;
pub mod map;
pub mod measure;
mod nbd_source;
mod option_help;
mod pool;
pub mod progress;
mod readers;
pub mod rebase;
pub mod resize;
pub mod snapshot;
pub mod source;
pub mod status;
mod stream;
mod tasks;
#[cfg(test)]
mod tests;
pub(crate) mod text;
pub(crate) mod words;

pub use error::ImgError;

use crate::spec::format::Format;

/// How an image is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Its format; `None`: what it begins like, as with qemu-img.
    pub format: Option<Format>,
    /// Even while somebody else writes to it.
    pub force_share: bool,
    /// The page cache.
    pub cache: image::Cache,
}
