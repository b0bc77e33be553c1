//! `spindle img`: create, info and check, with the options, output and exit statuses of
//! `qemu-img`, so that scripts need change nothing but the name.
pub mod check;
pub mod create;
mod error;
mod files;
pub mod info;
#[cfg(test)]
mod tests;
mod text;

pub use error::ImgError;

use crate::spec::format::Format;

/// How an image is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Its format; `None`: what it begins like, as with qemu-img.
    pub format: Option<Format>,
    /// Even while somebody else writes to it.
    pub force_share: bool,
}
