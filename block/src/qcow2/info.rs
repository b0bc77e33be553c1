//! What an image says about itself.

use std::sync::Arc;

use super::{
    bitmap::{self, BITMAPS_MAX, BitmapInfo, DIRECTORY_MAX},
    header::Compression,
    host::Host,
    open::{OpenError, read_header},
    snapshot::{Snapshot, read_snapshots},
};
use crate::{Cx, Node};

/// An image as `spindle img info` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Cluster size in bytes.
    pub cluster_size: u64,
    /// `0.10` for version 2, `1.1` for version 3.
    pub compat: &'static str,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Refcount updates are postponed.
    pub lazy_refcounts: bool,
    /// Width of a refcount in bits.
    pub refcount_bits: u32,
    /// The image is marked as damaged.
    pub corrupt: bool,
    /// The image was not closed; its refcounts may be wrong.
    pub dirty: bool,
    /// L2 entries have 128 bits.
    pub extended_l2: bool,
    /// The file that guest data is in, where that is another one, as the image names it.
    pub data_file: Option<String>,
    /// Whether that file is the disk, to be read without the image, where there is one.
    pub data_file_raw: Option<bool>,
    /// How the image is encrypted, with QEMU's names, if it is.
    pub encrypt: Option<serde_json::Value>,
    /// The backing file's name, as it is written in the image.
    pub backing_file: Option<String>,
    /// The backing file's format, where the image names it.
    pub backing_format: Option<String>,
    /// Snapshots in their order.
    pub snapshots: Vec<Snapshot>,
    /// Bitmaps in their order.
    pub bitmaps: Vec<BitmapInfo>,
}

/// Describes the image in `file`, supported or not.
///
/// # Errors
/// When it cannot be read, or is no qcow2 image.
pub async fn info(cx: &Cx, file: &Arc<dyn Node>) -> Result<ImageInfo, OpenError> {
    let header = read_header(cx, file).await?;
    let host = Host::new(Arc::clone(file));
    let snapshots = read_snapshots(cx, &host, &header)
        .await
        .map_err(|source| OpenError::Io { doing: "reading the snapshot table", source })?
        .0;
    let bitmaps = match header.bitmaps() {
        Some((count, bytes, offset)) if count <= BITMAPS_MAX && bytes <= DIRECTORY_MAX => {
            let directory = host.read(cx, offset, bytes as usize).await;
            let directory = directory.map_err(|source| OpenError::Io {
                doing: "reading the bitmap directory",
                source,
            })?;
            bitmap::describe(&directory, count)
        }
        _ => Vec::new(),
    };
    Ok(ImageInfo {
        virtual_size: header.size,
        cluster_size: 1 << header.cluster_bits,
        compat: if header.version == 2 { "0.10" } else { "1.1" },
        compression: header.compression,
        lazy_refcounts: header.lazy_refcounts(),
        refcount_bits: 1 << header.refcount_order,
        corrupt: header.is_corrupt(),
        dirty: header.is_dirty(),
        extended_l2: header.has_extended_l2(),
        data_file: header.data_file(),
        data_file_raw: header.has_data_file().then(|| header.has_raw_data_file()),
        encrypt: super::crypt::report(cx, &host, &header).await?,
        backing_format: header.backing_format(),
        backing_file: header.backing_file,
        snapshots,
        bitmaps,
    })
}
