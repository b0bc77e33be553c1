//! Making images.

use std::sync::Arc;

use super::{FormatError, ImageFormat};
use crate::{Cx, Node, parallels, qed, vdi, vhdx, vpc};

/// How a format lays a disk out, where it has several ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// It grows with what is written.
    #[default]
    Dynamic,
    /// All of it is there from the beginning.
    Fixed,
}

/// What an image is to be like. `None` and zeros: the format's own default.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Bytes of the disk; a multiple of 512.
    pub size: u64,
    /// Bytes of a cluster or block.
    pub cluster_size: Option<u64>,
    /// Clusters in a table (QED).
    pub table_size: Option<u64>,
    /// VHD: the disk has exactly the size asked for, not the next that has a geometry.
    pub force_size: bool,
    /// VHDX: bytes of the log.
    pub log_size: Option<u64>,
    /// See [`Subformat`].
    pub subformat: Subformat,
    /// Backing file: name and format.
    pub backing: Option<(String, String)>,
    /// The backing file's [`Facts::id`](super::Facts::id).
    pub backing_id: Option<[u8; 16]>,
}

/// Makes an image in `file`, whose old contents are lost. VMDK has a function of its own, because an
/// image may be several files: [`crate::vmdk::create`].
///
/// # Errors
/// Options that cannot be, or a file that cannot be written.
pub async fn create(
    cx: &Cx,
    format: ImageFormat,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), FormatError> {
    if options.backing.is_some() && !format.has_backing() {
        return Err(FormatError::Option(format!("a {} image has no backing file", format.name())));
    }
    match format {
        ImageFormat::Vdi => vdi::create(cx, file, options).await,
        ImageFormat::Vpc => vpc::create(cx, file, options).await,
        ImageFormat::Vhdx => vhdx::create(cx, file, options).await,
        ImageFormat::Parallels => parallels::create(cx, file, options).await,
        ImageFormat::Qed => qed::create(cx, file, options).await,
        ImageFormat::Qcow | ImageFormat::Dmg | ImageFormat::Cloop | ImageFormat::Bochs => {
            Err(FormatError::Option(format!(
                "Format driver '{}' does not support image creation",
                format.name()
            )))
        }
        ImageFormat::Luks => {
            Err(FormatError::Option("luks disks are made with a passphrase".to_owned()))
        }
        ImageFormat::Vmdk => {
            Err(FormatError::Option("vmdk images are made file by file".to_owned()))
        }
    }
}

/// Empties a file, or takes a device that is long enough as it is, and makes it `len` bytes long.
pub(crate) async fn begin(
    cx: &Cx,
    host: &crate::qcow2::host::Host,
    len: u64,
) -> Result<(), crate::BlockError> {
    match host.set_len(cx, 0).await {
        Ok(()) => host.set_len(cx, len).await,
        Err(_) if host.node().info().size >= len => Ok(()),
        Err(error) => Err(error),
    }
}

/// A random UUID (RFC 9562, version 4), in the order of its text.
pub(crate) fn new_uuid() -> [u8; 16] {
    let mut uuid = fastrand::u128(..).to_be_bytes();
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
