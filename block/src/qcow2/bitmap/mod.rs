//! Persistent dirty bitmaps: which parts of the disk have changed since somebody asked.
//!
//! Bitmaps are added, removed and changed by writing what is new to new places and switching the
//! header to it in one sector (`store`); a crash leaves the old ones or the new ones. Those that
//! record have their bits durable before the data (`record`; docs/adr/0011). One that somebody left
//! marked as in use stays as it is, and is neither used nor recorded in.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Bitmaps extension".

mod bits;
mod dir;
mod record;
mod store;

use std::sync::{Mutex, OnceLock, atomic::Ordering::SeqCst};

pub use bits::DirtyBits;
use dir::Entry;
pub(super) use dir::{BITMAPS_MAX, DIRECTORY_MAX};
use record::Recorder;

use super::{
    Qcow2,
    alloc::Run,
    layout::OFFSET,
    mutation::{Rule, holds},
    open::{OpenError, read_first_cluster},
};
use crate::{BlockError, Cx, Range};

/// The default granularity: the cluster size, within these bounds in bytes.
const GRANULARITY_MIN: u64 = 4096;
const GRANULARITY_MAX: u64 = 65536;

/// A bitmap as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that a bit stands for.
    pub granularity: u64,
    /// Writes are recorded in it.
    pub enabled: bool,
    /// Somebody changed it and was interrupted: it says nothing.
    pub inconsistent: bool,
}

impl From<Entry> for BitmapInfo {
    fn from(one: Entry) -> Self {
        Self {
            name: one.name,
            granularity: 1 << one.granularity_bits,
            enabled: one.auto,
            inconsistent: one.in_use,
        }
    }
}

/// Why a bitmap stays as it is, in the words of qemu-img.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// There is none of this name.
    #[error("Dirty bitmap '{0}' not found")]
    Missing(String),
    /// There is one of this name.
    #[error("Bitmap already exists: {0}")]
    Exists(String),
    /// It was left in use.
    #[error(
        "Bitmap '{0}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to delete this bitmap from disk"
    )]
    Inconsistent(String),
    /// A granularity that there is not.
    #[error("Granularity must be power of 2 and at least 512")]
    Granularity,
    /// A name that is too long, or none.
    #[error("Name length exceeds maximum (1023 characters)")]
    Name,
    /// Version 2 has no bitmaps.
    #[error("Cannot store dirty bitmaps in qcow2 v2 files")]
    Version,
    /// The image has as many as it can have.
    #[error("Maximum number of persistent bitmaps is already reached")]
    TooMany,
    /// Bitmaps of disks that are not alike.
    #[error(
        "Bitmaps are of different sizes (destination size is {to}, source size is {from}) and can't be merged"
    )]
    Sizes {
        /// Bytes of the disk of the target.
        to: u64,
        /// Bytes of the disk of the source.
        from: u64,
    },
    /// The header cannot be read or written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] BlockError),
}

/// A bitmap that records.
#[derive(Debug)]
struct Active {
    /// The bits that are durable.
    bits: DirtyBits,
    /// Where its table is in the file, and what it says.
    table_at: u64,
    table: Mutex<Vec<u64>>,
}

/// The bitmaps that record, until the next change of them. Changes are rare and happen while
/// everything is drained; old lists stay, so that readers need no lock.
#[derive(Debug, Default)]
struct List {
    active: Vec<Active>,
    next: OnceLock<Box<List>>,
}

/// What an open image knows of its bitmaps.
#[derive(Debug, Default)]
pub(super) struct Bitmaps {
    first: List,
    recorder: Recorder,
}

impl Bitmaps {
    fn last(&self) -> &List {
        let mut at = &self.first;
        while let Some(next) = at.next.get() {
            at = next;
        }
        at
    }

    fn active(&self) -> &[Active] {
        &self.last().active
    }

    fn replace(&self, active: Vec<Active>) {
        let list = Box::new(List { active, next: OnceLock::new() });
        // Only ever one at a time.
        let _ = self.last().next.set(list);
    }
}

/// What becomes of one bitmap.
enum Change {
    Keep(Entry),
    Store(Entry, DirtyBits),
}

impl Qcow2 {
    /// The bitmaps of the image, in their order.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn bitmaps(&self, cx: &Cx) -> Result<Vec<BitmapInfo>, BitmapError> {
        Ok(self.bitmap_entries(cx).await?.into_iter().map(Into::into).collect())
    }

    async fn bitmap_entries(&self, cx: &Cx) -> Result<Vec<Entry>, BitmapError> {
        let (header, _) = read_first_cluster(cx, &self.host).await?;
        Ok(store::read_directory(cx, self, &header).await?.unwrap_or_default())
    }

    /// Finds the bitmaps of an image that is being opened for writing, and begins to record. `false`
    /// where they cannot be kept up.
    pub(super) async fn start_bitmaps(&self, cx: &Cx) -> Result<bool, OpenError> {
        let io = |source: BlockError| OpenError::Io { doing: "reading bitmaps", source };
        let (header, _) = read_first_cluster(cx, &self.host).await?;
        if header.bitmaps().is_none() {
            return Ok(true);
        }
        let Some(list) = store::read_directory(cx, self, &header).await.map_err(io)? else {
            return Ok(false);
        };
        self.protect(cx, &list).await.map_err(io)?;
        match self.activate(cx, &list).await {
            Ok(()) => Ok(true),
            Err(BlockError::Corrupt) => Ok(false),
            Err(error) => Err(io(error)),
        }
    }

    /// Nothing is written over bitmaps.
    async fn protect(&self, cx: &Cx, list: &[Entry]) -> Result<(), BlockError> {
        let bits = self.layout.cluster_bits;
        for one in list {
            let Ok(table) = self.bitmap_table(cx, one).await else { continue };
            let at = self.layout.clusters_of(Range::new(one.table, table.len() as u64 * 8));
            self.alloc.mark_clusters(at);
            let data = table.iter().map(|e| e & OFFSET).filter(|host| *host != 0);
            self.alloc.mark_clusters(data.map(|host| host >> bits));
        }
        Ok(())
    }

    /// Records in those of `list` that are to record.
    async fn activate(&self, cx: &Cx, list: &[Entry]) -> Result<(), BlockError> {
        let size = self.size.load(SeqCst);
        let mut active = Vec::new();
        for one in list.iter().filter(|one| one.auto && !one.in_use) {
            let (bits, table) = self.load_bits(cx, one, size).await?;
            active.push(Active { bits, table_at: one.table, table: Mutex::new(table) });
        }
        self.bitmaps.replace(active);
        Ok(())
    }

    /// The bits of a bitmap.
    ///
    /// # Errors
    /// When there is none, or none that says something.
    pub async fn bitmap_bits(&self, cx: &Cx, name: &str) -> Result<DirtyBits, BitmapError> {
        let list = self.bitmap_entries(cx).await?;
        let one = usable(&list, name)?;
        Ok(self.load_bits(cx, one, self.size.load(SeqCst)).await?.0)
    }

    /// Adds a bitmap. Every request is drained.
    ///
    /// # Errors
    /// See [`BitmapError`]; nothing is changed then. So with the other changes.
    pub async fn add_bitmap(
        &self,
        cx: &Cx,
        name: &str,
        granularity: Option<u64>,
        enabled: bool,
    ) -> Result<(), BitmapError> {
        if name.is_empty() || name.len() > dir::NAME_MAX {
            return Err(BitmapError::Name);
        }
        let granularity = granularity
            .unwrap_or_else(|| self.layout.cluster().clamp(GRANULARITY_MIN, GRANULARITY_MAX));
        let bits = granularity.trailing_zeros() as u8;
        if !granularity.is_power_of_two() || !dir::GRANULARITY_BITS.contains(&bits) {
            return Err(BitmapError::Granularity);
        }
        if self.layout.version < 3 {
            return Err(BitmapError::Version);
        }
        let name = name.to_owned();
        self.change_bitmaps(cx, async move |list| {
            if list.iter().any(|one| one.name == name) {
                return Err(BitmapError::Exists(name));
            }
            if list.len() as u64 >= u64::from(BITMAPS_MAX) {
                return Err(BitmapError::TooMany);
            }
            let new = Entry {
                table: 0,
                entries: 0,
                in_use: false,
                auto: enabled,
                granularity_bits: bits,
                name,
            };
            let clean = DirtyBits::new(bits, self.size.load(SeqCst));
            let mut changes: Vec<Change> = list.into_iter().map(Change::Keep).collect();
            changes.push(Change::Store(new, clean));
            Ok(changes)
        })
        .await
    }

    /// Removes a bitmap, an inconsistent one too. Every request is drained.
    ///
    /// # Errors
    /// See [`BitmapError`].
    pub async fn remove_bitmap(&self, cx: &Cx, name: &str) -> Result<(), BitmapError> {
        self.change_bitmaps(cx, async move |list| {
            if !list.iter().any(|one| one.name == name) {
                return Err(BitmapError::Missing(name.to_owned()));
            }
            Ok(list.into_iter().filter(|one| one.name != name).map(Change::Keep).collect())
        })
        .await
    }

    /// Records in a bitmap from now on, or no more. Every request is drained.
    ///
    /// # Errors
    /// See [`BitmapError`].
    pub async fn enable_bitmap(
        &self,
        cx: &Cx,
        name: &str,
        enabled: bool,
    ) -> Result<(), BitmapError> {
        self.change_one(cx, name, async move |one| Ok(Change::Keep(Entry { auto: enabled, ..one })))
            .await
    }

    /// Cleans a bitmap. Every request is drained.
    ///
    /// # Errors
    /// See [`BitmapError`].
    pub async fn clear_bitmap(&self, cx: &Cx, name: &str) -> Result<(), BitmapError> {
        self.change_one(cx, name, async move |one| {
            let clean = DirtyBits::new(one.granularity_bits, self.size.load(SeqCst));
            Ok(Change::Store(one, clean))
        })
        .await
    }

    /// Makes dirty in a bitmap what is dirty in another. Every request is drained.
    ///
    /// # Errors
    /// See [`BitmapError`].
    pub async fn merge_bitmap(
        &self,
        cx: &Cx,
        name: &str,
        other: &DirtyBits,
    ) -> Result<(), BitmapError> {
        let size = self.size.load(SeqCst);
        self.change_one(cx, name, async move |one| {
            if other.size() != size {
                return Err(BitmapError::Sizes { to: size, from: other.size() });
            }
            let (bits, _) = self.load_bits(cx, &one, size).await?;
            bits.merge(other);
            Ok(Change::Store(one, bits))
        })
        .await
    }

    async fn change_one(
        &self,
        cx: &Cx,
        name: &str,
        change: impl AsyncFnOnce(Entry) -> Result<Change, BitmapError>,
    ) -> Result<(), BitmapError> {
        self.change_bitmaps(cx, async move |list| {
            let chosen = usable(&list, name)?.clone();
            let mut changed = Some(change(chosen).await?);
            let keep = |one: Entry| {
                if one.name == name
                    && let Some(change) = changed.take()
                {
                    return change;
                }
                Change::Keep(one)
            };
            Ok(list.into_iter().map(keep).collect())
        })
        .await
    }

    async fn change_bitmaps(
        &self,
        cx: &Cx,
        change: impl AsyncFnOnce(Vec<Entry>) -> Result<Vec<Change>, BitmapError>,
    ) -> Result<(), BitmapError> {
        self.check_writable()?;
        let _alone = self.tables.lock(u64::MAX, u64::MAX).await;
        self.flush(cx).await?;
        let _order = self.order.take(1).await;
        let old = self.bitmap_entries(cx).await?;
        let changes = change(old).await?;
        self.switch_bitmaps(cx, changes, self.size.load(SeqCst)).await
    }

    /// Bitmaps of a disk that gets another size, and the size in the header. The caller holds
    /// `tables`.
    pub(super) async fn resize_bitmaps(&self, cx: &Cx, size: u64) -> Result<(), BitmapError> {
        let _order = self.order.take(1).await;
        let list = self.bitmap_entries(cx).await?;
        let old_size = self.size.load(SeqCst);
        let mut changes = Vec::new();
        for one in list {
            changes.push(if one.in_use {
                Change::Keep(one)
            } else {
                let (bits, _) = self.load_bits(cx, &one, old_size).await?;
                Change::Store(one, bits.resized(size))
            });
        }
        self.size.store(size, SeqCst);
        let switched = self.switch_bitmaps(cx, changes, size).await;
        if switched.is_err() {
            self.size.store(old_size, SeqCst);
        }
        switched
    }

    /// Whether the header of the open image names bitmaps.
    pub(super) async fn has_bitmaps(&self, cx: &Cx) -> Result<bool, BlockError> {
        match self.bitmap_entries(cx).await {
            Ok(list) => Ok(!list.is_empty()),
            Err(BitmapError::Io(error)) => Err(error),
            Err(_) => Err(BlockError::Corrupt),
        }
    }

    /// Order: everything new, with its refcounts, is durable before the header names it, and the
    /// old loses its references afterwards.
    async fn switch_bitmaps(
        &self,
        cx: &Cx,
        changes: Vec<Change>,
        size: u64,
    ) -> Result<(), BitmapError> {
        let (header, _) = read_first_cluster(cx, &self.host).await?;
        let old = store::read_directory(cx, self, &header).await?.unwrap_or_default();
        let mut taken = Vec::new();
        let made = self.make_bitmaps(cx, changes, &mut taken).await;
        let list = match made {
            Ok(list) => list,
            Err(error) => {
                self.drop_runs(cx, taken).await;
                return Err(error);
            }
        };
        let mut gone: Vec<(u64, u64)> = Vec::new();
        for one in old.iter().filter(|one| !list.iter().any(|new| new.table == one.table)) {
            gone.extend(self.clusters_of_bitmap(cx, one).await);
        }
        if let Some((_, bytes, offset)) = header.bitmaps() {
            let clusters = bytes.div_ceil(self.layout.cluster());
            gone.push((offset >> self.layout.cluster_bits, clusters));
        }
        if !holds(Rule::BitmapGoneFirst) {
            self.free(cx, &gone).await;
        }
        // An error leaves the new as a leak: the header may name it or not.
        self.name_bitmaps(cx, &list, size, &mut taken).await?;
        if holds(Rule::BitmapGoneFirst) {
            self.free(cx, &gone).await;
        }
        self.write_all_refcounts(cx).await?;
        self.activate(cx, &list).await?;
        Ok(())
    }

    async fn make_bitmaps(
        &self,
        cx: &Cx,
        changes: Vec<Change>,
        taken: &mut Vec<Run>,
    ) -> Result<Vec<Entry>, BitmapError> {
        let mut list = Vec::new();
        for change in changes {
            list.push(match change {
                Change::Keep(one) => one,
                Change::Store(one, bits) => {
                    let (table, entries) = self.store_bits(cx, &bits, taken).await?;
                    Entry { table, entries, ..one }
                }
            });
        }
        Ok(list)
    }

    /// What a bitmap has in the file.
    async fn clusters_of_bitmap(&self, cx: &Cx, one: &Entry) -> Vec<(u64, u64)> {
        let bits = self.layout.cluster_bits;
        let Ok(table) = self.bitmap_table(cx, one).await else { return Vec::new() };
        let data = table.iter().map(|e| e & OFFSET).filter(|host| *host != 0);
        let mut runs: Vec<(u64, u64)> = data.map(|host| (host >> bits, 1)).collect();
        let bytes = table.len() as u64 * 8;
        if bytes > 0 {
            runs.push((one.table >> bits, bytes.div_ceil(self.layout.cluster())));
        }
        runs
    }

    async fn drop_runs(&self, cx: &Cx, runs: Vec<Run>) {
        for run in runs {
            self.alloc.give_back(cx, &self.host, run).await;
        }
    }
}

fn usable<'a>(list: &'a [Entry], name: &str) -> Result<&'a Entry, BitmapError> {
    let found = list.iter().find(|one| one.name == name);
    match found {
        None => Err(BitmapError::Missing(name.to_owned())),
        Some(one) if one.in_use => Err(BitmapError::Inconsistent(name.to_owned())),
        Some(one) => Ok(one),
    }
}

/// The bitmaps of an image that is only looked at.
pub(super) fn describe(bytes: &[u8], count: u32) -> Vec<BitmapInfo> {
    dir::parse(bytes, count).unwrap_or_default().into_iter().map(Into::into).collect()
}
