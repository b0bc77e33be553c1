//! Changing what an image is, while nobody has it open: its version, its lazy refcounts, the width
//! of its refcounts.
//!
//! Each change is one write of the header's first sector, before which everything that the new
//! header leads to is durable.

use std::sync::Arc;

use super::{
    Qcow2, be,
    check::{self, CheckError},
    counts::Width,
    header::{Header, LAZY_REFCOUNTS, V2_LENGTH, V3_LENGTH, incompatible},
    host::Host,
    layout::{Entry, Layout},
    open::{OpenError, read_header},
    replace::replace_header,
    snapshot::read_snapshots,
};
use crate::{BlockError, Cx, IoBuf, Node, Range};

/// What is to change. `None`: it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amend {
    /// 2 or 3. To become version 2, an image must not say "zeros" anywhere:
    /// [`Qcow2::expand_zeroes`].
    pub version: Option<u32>,
    /// Whether refcount updates are postponed.
    pub lazy_refcounts: Option<bool>,
    /// Width of a refcount in bits.
    pub refcount_bits: Option<u64>,
}

/// Why an image stays as it is, in the words of qemu-img where it has some. What was changed before
/// stays changed: versions rise first and fall last.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmendError {
    /// A feature that version 2 does not have.
    #[error("{0}")]
    Impossible(&'static str),
    /// Version 2 has none of these.
    #[error("Cannot downgrade an image with incompatible features {0:#x} set")]
    Incompatible(u64),
    /// A width that refcounts cannot have.
    #[error("Refcount width must be a power of two and may not exceed 64 bits")]
    RefcountBits(u64),
    /// Some cluster has more references than fit.
    #[error(
        "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {offset:#x} has a refcount of {count}"
    )]
    TooNarrow {
        /// The width asked for.
        bits: u64,
        /// Where the cluster is in the file, in bytes.
        offset: u64,
        /// Its refcount.
        count: u32,
    },
    /// The image is damaged.
    #[error("the image is damaged; repair it with 'spindle img check -r all' first")]
    Damaged,
    /// It cannot be opened, or its header not be written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be looked at.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The file could not be read or written.
    #[error("writing the image")]
    Io(#[from] BlockError),
}

/// Changes the image in `file`, which nobody else uses.
///
/// # Errors
/// See [`AmendError`].
pub async fn amend(cx: &Cx, file: &Arc<dyn Node>, wanted: &Amend) -> Result<(), AmendError> {
    let host = Host::new(Arc::clone(file));
    let mut header = read_header(cx, file).await?;
    header.supported().map_err(OpenError::from)?;
    let bits = wanted.refcount_bits.unwrap_or(1 << header.refcount_order);
    if !bits.is_power_of_two() || bits > 64 {
        return Err(AmendError::RefcountBits(bits));
    }
    let version = wanted.version.unwrap_or(header.version);
    if version == 2 && bits != 16 {
        return Err(AmendError::Impossible("compat=0.10 requires refcount_bits=16"));
    }
    if version > header.version {
        header.version = version;
        header.header_length = V3_LENGTH as u32;
        replace_header(cx, &host, &header).await?;
    }
    if bits != 1 << header.refcount_order {
        change_width(cx, &host, &header, Width::of(bits.trailing_zeros())).await?;
        header = read_header(cx, file).await?;
    }
    if let Some(lazy) = wanted.lazy_refcounts
        && lazy != header.lazy_refcounts()
    {
        if header.version < 3 {
            return Err(AmendError::Impossible(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 compat=1.1 or greater)",
            ));
        }
        make_clean(cx, file, &header).await?;
        header = read_header(cx, file).await?;
        header.compatible ^= LAZY_REFCOUNTS;
        replace_header(cx, &host, &header).await?;
    }
    if version < header.version {
        make_clean(cx, file, &header).await?;
        downgrade(cx, &host, read_header(cx, file).await?).await?;
    }
    Ok(())
}

/// Refcounts are right, and the image does not say that they may be wrong.
async fn make_clean(cx: &Cx, file: &Arc<dyn Node>, header: &Header) -> Result<(), AmendError> {
    if header.is_dirty() {
        check::put_right(cx, file).await?;
    }
    Ok(())
}

/// Counts all references, writes new refcounts behind the end of the file, and names them in the
/// sector that says how wide they are. The old ones are free then.
async fn change_width(
    cx: &Cx,
    host: &Host,
    header: &Header,
    refs: Width,
) -> Result<(), AmendError> {
    let mut walk = check::Walk::new(cx, host, header).await?;
    if walk.report.corruptions > 0 || walk.report.check_errors > 0 {
        return Err(AmendError::Damaged);
    }
    let too_many = walk.counted.iter().position(|count| u64::from(*count) > refs.max());
    if let Some(cluster) = too_many {
        return Err(AmendError::TooNarrow {
            bits: refs.bits().into(),
            offset: (cluster as u64) << header.cluster_bits,
            count: walk.counted[cluster],
        });
    }
    check::rebuild(cx, host, &mut walk, refs).await?;
    Ok(())
}

async fn downgrade(cx: &Cx, host: &Host, mut header: Header) -> Result<(), AmendError> {
    let kept = Err(AmendError::Impossible("Internal snapshots prevent downgrade of image"));
    let (snapshots, _) = read_snapshots(cx, host, &header).await?;
    let other = |size: Option<u64>| size.is_some_and(|size| size != header.size);
    if snapshots.iter().any(|s| s.vm_state_size >> 32 != 0 || other(s.disk_size)) {
        return kept;
    }
    let others = header.incompatible & !incompatible::DIRTY;
    if others != 0 {
        return Err(AmendError::Incompatible(others));
    }
    let layout = header.layout();
    let mut l1s = vec![(header.l1_offset, header.l1_size)];
    l1s.extend(snapshots.iter().map(|s| (s.l1_offset, s.l1_size)));
    for (at, size) in l1s {
        if says_zeros(cx, host, layout, at, size).await? {
            return kept;
        }
    }
    header.version = 2;
    header.header_length = V2_LENGTH as u32;
    header.incompatible = 0;
    header.compatible = 0;
    header.autoclear = 0;
    header.clear_feature_names();
    replace_header(cx, host, &header).await?;
    Ok(())
}

/// Whether an entry below this L1 table means something only in version 3.
async fn says_zeros(
    cx: &Cx,
    host: &Host,
    layout: Layout,
    at: u64,
    size: u32,
) -> Result<bool, BlockError> {
    let l1 = be::table(&host.read(cx, at, size as usize * 8).await?);
    for entry in l1 {
        let table = layout.table_of(entry).map_err(|()| BlockError::Corrupt)?;
        if table == 0 {
            continue;
        }
        let l2 = be::table(&host.read(cx, table, layout.cluster() as usize).await?);
        if l2.iter().any(|raw| matches!(layout.entry(*raw), Entry::Zero { .. })) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Qcow2 {
    /// Does without entries that say "zeros", which version 2 does not know: what they cover is
    /// written as zeros over a backing file, and without one has no entry. Every request is drained.
    ///
    /// # Errors
    /// As for any write.
    pub async fn expand_zeroes(&self, cx: &Cx) -> Result<(), BlockError> {
        self.check_writable()?;
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let cluster = self.layout.cluster();
        let mut at = 0;
        while at < size {
            let part = self.within_slice(Range::new(at, size - at));
            let first = self.layout.guest_cluster(at);
            let last = self.layout.guest_cluster(part.end() - 1);
            let entries = self.entries(cx, first, last).await?;
            for (number, raw) in (first..).zip(entries) {
                if !matches!(self.whole(raw), Entry::Zero { .. }) {
                    continue;
                }
                let range = Range::new(number * cluster, cluster);
                if self.backing.is_some() {
                    self.write(cx, range, &IoBuf::zeroed(cluster as usize)).await?;
                } else {
                    self.forget(cx, range).await?;
                }
            }
            at = part.end();
        }
        self.flush(cx).await
    }
}
