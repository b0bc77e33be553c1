//! What an image says about itself.

use std::sync::Arc;

use super::{
    be,
    header::{Compression, Header},
    host::Host,
    open::{OpenError, read_header},
};
use crate::{BlockError, Cx, Node};

/// Bytes of the snapshot table that are looked at, at most; the limit that QEMU has.
pub(super) const SNAPSHOT_TABLE_MAX: u64 = 64 << 20;
/// The fixed part of an entry.
const SNAPSHOT_FIXED: usize = 40;
/// The largest extra data of an entry.
const SNAPSHOT_EXTRA_MAX: usize = 1024;

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
    /// The image is encrypted.
    pub encrypted: bool,
    /// The backing file's name, as it is written in the image.
    pub backing_file: Option<String>,
    /// The backing file's format, where the image names it.
    pub backing_format: Option<String>,
    /// Snapshots in their order.
    pub snapshots: Vec<Snapshot>,
}

/// A snapshot inside an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken: seconds since 1970.
    pub date_s: u64,
    /// The guest's clock then, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
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
    Ok(ImageInfo {
        virtual_size: header.size,
        cluster_size: 1 << header.cluster_bits,
        compat: if header.version == 2 { "0.10" } else { "1.1" },
        compression: header.compression,
        lazy_refcounts: header.lazy_refcounts(),
        refcount_bits: 1 << header.refcount_order,
        corrupt: header.is_corrupt(),
        dirty: header.is_dirty(),
        extended_l2: header.incompatible & super::header::incompatible::EXTENDED_L2 != 0,
        encrypted: header.crypt_method != 0,
        backing_format: header.backing_format(),
        backing_file: header.backing_file,
        snapshots,
    })
}

/// The snapshots, and the length of their table in bytes.
pub(super) async fn read_snapshots(
    cx: &Cx,
    host: &Host,
    header: &Header,
) -> Result<(Vec<Snapshot>, u64), BlockError> {
    let mut snapshots = Vec::new();
    let mut at = header.snapshots_offset;
    for _ in 0..header.snapshots {
        if at - header.snapshots_offset > SNAPSHOT_TABLE_MAX {
            return Err(BlockError::Corrupt);
        }
        let fixed = host.read(cx, at, SNAPSHOT_FIXED).await?;
        let id_len = usize::from(be::u16_at(&fixed, 12));
        let name_len = usize::from(be::u16_at(&fixed, 14));
        let extra = be::u32_at(&fixed, 36) as usize;
        if extra > SNAPSHOT_EXTRA_MAX {
            return Err(BlockError::Corrupt);
        }
        let rest = host.read(cx, at + SNAPSHOT_FIXED as u64, extra + id_len + name_len).await?;
        let text = |from: usize, len: usize| {
            String::from_utf8_lossy(rest.get(from..from + len).unwrap_or_default()).into_owned()
        };
        let vm_state_32 = u64::from(be::u32_at(&fixed, 32));
        snapshots.push(Snapshot {
            id: text(extra, id_len),
            name: text(extra + id_len, name_len),
            date_s: u64::from(be::u32_at(&fixed, 16)),
            vm_clock_ns: be::u64_at(&fixed, 24),
            vm_state_size: if extra >= 8 { be::u64_at(&rest, 0) } else { vm_state_32 },
            l1_offset: be::u64_at(&fixed, 0),
            l1_size: be::u32_at(&fixed, 8),
        });
        at += (SNAPSHOT_FIXED + rest.len()).next_multiple_of(8) as u64;
    }
    Ok((snapshots, at - header.snapshots_offset))
}
